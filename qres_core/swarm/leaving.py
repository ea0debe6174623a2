"""A node that is no member any more: when it hears of that, and until when it helps the others."""

from __future__ import annotations

from qres_core.contract.wire import Envelope
from qres_core.swarm.chain import Head
from qres_core.swarm.effects import Removed
from qres_core.swarm.machine_state import MachineState


class Leaving(MachineState):
    """What a machine does about its own removal.

    Arguments and errors as for :class:`~qres_core.swarm.rounds.RoundMachine`.
    """

    def _expect_removal(self, after: Head, now: float) -> None:
        """Whether this node is no member of a head whose model it lacks, or is one again."""
        if self.node_id in after.roster:
            self._left = None
        elif self._context.is_member:
            self._is_out(after.height, now)

    def _is_out(self, height: int, now: float) -> None:
        """The node is no member from a height on, as far as it knows: it asks whether it is again.

        Others may have said so long ago, and somebody may have kept their words until now.
        """
        if self._left is None:
            self._left, self._needed, self._beyond = height, now, set()
            doubts = self._context.byzantine + 2  # more than f others are asked, one is honest
            self._sure_at = now + doubts * self.swarm.vote_timeout / 2
            self._catching_up.doubt(now, self._sure_at)

    def _hear_of_removal(self, envelope: Envelope, now: float) -> None:
        """Note what a message shows of its sender, if this node is no member any more.

        Who speaks of a head that this node does not know says nothing about it: a node that was
        removed and added again while it was away must not be stopped by one that shows it the
        first half of that.
        """
        here, left = self._context.head.digest, not self._context.is_member
        if envelope.head in self._catching_up.recent or (envelope.head == here and not left):
            self._needed = now
        elif envelope.head == here and self._left is not None:
            self._beyond.add(envelope.sender)
        self._leave_if_due(now)

    def _leave_if_due(self, now: float) -> None:
        """Stop, if this node is no member any more, and is of no more use.

        That is if more than f others know of it: one of them is honest and helps the rest. Until
        then this node does: its own vote may be one of those that decided the height, and it may
        be lost. Or if nobody asks it for long: who is still at the last height repeats its votes,
        and the transports of all others may be closed to this node by now.
        """
        if self._left is not None and now >= self._leaves_at:
            self._leave(self._left)

    def _leave(self, height: int) -> None:
        """From this height on the node is no member any more."""
        self._parts.outlet.put(Removed(height))
        self._stopped = True
