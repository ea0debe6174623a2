"""A node that is no member any more: when it hears of that, and until when it helps the others."""

from __future__ import annotations

import math
from typing import Final

from qres_core.contract.types import NodeId
from qres_core.contract.wire import Envelope
from qres_core.swarm.context.effects import Removed
from qres_core.swarm.context.outbox import Speaker
from qres_core.swarm.ledger.chain import Head, NodeHistory
from qres_core.swarm.sync.catching_up import CatchingUp

QUIET: Final = 8
"""Vote timeouts without a word of its last height after which a removed member stops: twice what
passes at most before a node repeats its votes."""


class Departure:
    """Conduct of a node about its own removal."""

    def __init__(self, speaker: Speaker, history: NodeHistory, catching_up: CatchingUp) -> None:
        self._context, self._outlet = speaker.context, speaker.outlet
        self._history, self._catching_up = history, catching_up
        self.since: int | None = None  # from which height on it is no member, as far as it knows
        self.over = False  # whether it has stopped
        self._aware: set[NodeId] = set()  # who knows of that
        self._needed = 0.0  # when a node was last heard that does not, seconds
        self._sure_at = 0.0  # when it has asked enough others whether that is still so, seconds

    def expect(self, after: Head, now: float) -> None:
        """Note if this node is no member of a head whose model it lacks, or is one again."""
        if self._context.node_id in after.roster:
            self.since = None
        elif self._context.is_member:
            self.begin(after.height, now)

    def moved_on(self, now: float, *, was_member: bool) -> None:
        """The node is at another head: it is a member there, or it is no member any more."""
        if self._context.is_member:
            self.since = None
        elif was_member:
            self.begin(self._context.head.height, now)

    def begin(self, height: int, now: float) -> None:
        """The node is no member from a height on, as far as it knows: it asks whether it is again.

        Others may have said so long ago, and somebody may have kept their words until now.
        """
        if self.since is None:
            self.since, self._needed, self._aware = height, now, set()
            doubts = self._context.byzantine + 2  # more than f others are asked, one is honest
            self._sure_at = now + doubts * self._context.swarm.vote_timeout / 2
            self._catching_up.doubt(now, self._sure_at)

    def hear(self, envelope: Envelope, now: float) -> None:
        """Note what a message shows of its sender, if this node is no member any more.

        Who speaks of a head that this node does not know says nothing about it: a node that was
        removed and added again while it was away must not be stopped by one that shows it the
        first half of that.
        """
        here, left = self._context.head.digest, not self._context.is_member
        if envelope.head in self._history.recent or (envelope.head == here and not left):
            self._needed = now
        elif envelope.head == here and self.since is not None:
            self._aware.add(envelope.sender)
        self.stop_if_due(now)

    def due(self) -> float:
        """Time at which a node that is no member any more has helped long enough, seconds."""
        if self.since is None:
            return math.inf
        quiet_at = self._needed + QUIET * self._context.swarm.vote_timeout
        aware = self._aware.union(self._catching_up.told_removed_by)
        known = len(aware.intersection(self._context.roster)) > self._context.byzantine
        return min(quiet_at, self._sure_at) if known else quiet_at

    def stop_if_due(self, now: float) -> None:
        """Stop, if this node is no member any more, and is of no more use.

        That is if more than f others know of it: one of them is honest and helps the rest. Until
        then this node does: its own vote may be one of those that decided the height, and it may
        be lost. Or if nobody asks it for long: who is still at the last height repeats its votes,
        and the transports of all others may be closed to this node by now.
        """
        if self.since is not None and now >= self.due():
            self.stop(self.since)

    def stop(self, height: int) -> None:
        """From this height on the node is no member any more."""
        self._outlet.put(Removed(height))
        self.over = True
