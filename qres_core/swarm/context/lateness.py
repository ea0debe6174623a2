"""For whom a node waits before it proposes, and for how long.

A member is quick if it is here within twice the time that a quorum took. Quick members are always
waited for. Who is not quick is late, and stays late for a while. A sixth of the time may go by with
waiting for late members, half of it for those whose turn costs much. So a member that is silent,
or slow on purpose, costs the others no more than that, and whoever is honestly slow gets its turn.

When to propose is a node's own affair. So all of this is its own view, and nothing here decides
what it accepts. No wait is longer than ``swarm.deadline``.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Final

import attrs

from qres_core.contract.types import NodeId

MULTIPLE: Final = 2.0
"""How many times as long as a quorum a quick member takes at most."""
SHARE: Final = 1 / 6
"""Of the time, what may go by with waiting for late members."""
LEAST: Final = 1 / 100
"""Of ``swarm.deadline``, what any member that is waited for may take after the others."""
MARGIN: Final = 1.25
"""How many times as long as last time a late member may take."""
PROBATION: Final = 64
"""Rounds in a row in which a late member was here in time, after which it is quick again."""
MOST_VAIN: Final = 6
"""How often the pause between two long waits for the same member doubles, if it does not come."""
REMEMBERED: Final = 16
"""Heads of which a contribution that comes too late still tells how late its sender is."""


@attrs.define(eq=False)
class LateMember:
    """Knowledge of a member that is late."""

    need: float  # seconds after the quick ones that it takes: as it took last, or to be tried next
    again: float = -math.inf  # it is not waited for before, seconds on the node's clock
    vain: int = 0  # long waits in a row in which it did not come
    good: int = 0  # rounds in a row in which it was here as soon as the quick ones


@attrs.define(eq=False)
class Lateness:
    """One for a node; the round machine tells it what comes, and when."""

    most: float  # seconds that a round waits at most, ``swarm.deadline``
    # seconds that may go by with waiting, now: for small waits, and for long ones
    small: float = attrs.field(init=False)
    large: float = attrs.field(init=False)
    came: float = attrs.field(default=0.0, init=False)  # seconds that the last quorum took
    late: dict[NodeId, LateMember] = attrs.field(factory=dict[NodeId, LateMember], init=False)
    mute: set[NodeId] = attrs.field(factory=set[NodeId], init=False)
    """Of whom no proposal came at its last turn, though all that it needs was here."""
    given_up: set[NodeId] = attrs.field(factory=set[NodeId], init=False)
    """Who is not waited for any more in this round."""
    until: float = attrs.field(default=math.inf, init=False)
    """When this node waits for nobody any more; never, until all quick members are here."""
    _absent: set[NodeId] = attrs.field(factory=set[NodeId], init=False)  # from this round
    _begun: float = attrs.field(default=-math.inf, init=False)  # when the round began
    _quorum_at: float = attrs.field(default=math.inf, init=False)
    _base: float = attrs.field(default=math.inf, init=False)  # when all quick ones were here
    _proposed: float = attrs.field(default=math.inf, init=False)
    _waited: set[NodeId] = attrs.field(factory=set[NodeId], init=False)
    _held: set[NodeId] = attrs.field(factory=set[NodeId], init=False)
    _is_long: bool = attrs.field(default=False, init=False)
    _bases: dict[bytes, float] = attrs.field(factory=dict[bytes, float], init=False)

    def __attrs_post_init__(self) -> None:
        self.small = self.large = self.most / 2

    @property
    def patience(self) -> float:
        """Seconds that a proposer may take beyond the time at which this node would propose.

        Another node saves as this one does, but may not have spent the same.
        """
        return self.small + self.large

    @property
    def fast(self) -> float:
        """Until when this node waits for quick members; never, until a quorum is here."""
        took = max(self._quorum_at - self._begun, self.came)
        return max(self._begun + MULTIPLE * took, self._quorum_at + LEAST * self.most)

    @property
    def due(self) -> float:
        """Moment at which this node next waits for fewer members, seconds."""
        return self.fast if self._base == math.inf else self.until

    def open(self, now: float, members: Collection[NodeId]) -> None:
        """A round begins."""
        if self._begun > -math.inf:
            saved = SHARE / 2 * max(0.0, now - self._begun)
            self.small = min(self.most / 2, self.small + saved)
            self.large = min(self.most, self.large + saved)
        self._begun, self._quorum_at, self._base, self._proposed = now, *(math.inf,) * 3
        self.until, self.given_up, self._is_long = math.inf, set(), False
        self._waited, self._held, self._absent = set(), set(), set()
        for gone in self.late.keys() - set(members):
            del self.late[gone]
        self.mute &= set(members)

    def look(
        self, now: float, here: Collection[NodeId], missing: Collection[NodeId], quorum: int
    ) -> bool:
        """Take note of what is here. Returns whether it is decided just now for whom it waits.

        ``here``: whose contributions to this round are here; ``missing``: who may still contribute.
        """
        missing = [member for member in missing if member not in self._absent]
        fresh = set(here) - self._held
        self._held |= fresh
        if self._base < math.inf:
            for member in fresh & self.late.keys():
                self._came(member, now - self._base, in_time=now <= self.fast)
            self._give_up(now, missing)
            return False
        if len(self._held) < quorum:
            return False
        self._quorum_at = min(self._quorum_at, now)
        quick = [member for member in missing if member not in self.late]
        if quick and now < self.fast:
            return False
        self._base = now
        for member in quick:
            self.late[member] = LateMember(max(now - self._begun, self.came, LEAST * self.most))
        self._choose(now, missing)
        self._give_up(now, missing)
        return True

    def absent(self, member: NodeId) -> None:
        """A member will not contribute to this round."""
        self._absent.add(member)

    def proposed(self, now: float) -> None:
        """A proposal is here."""
        self._proposed = min(self._proposed, now)

    def close(self, now: float, head: bytes) -> None:
        """The round is over, or its set is decided.

        ``head``: digest of the head that it was at.
        """
        if self._base == math.inf:
            return
        self.came = self._quorum_at - self._begun
        end = min(now, self._proposed)
        spent = max(0.0, end - self._base)
        if self._is_long:
            self.large, spent = max(0.0, self.large - spent), max(0.0, spent - self.large)
            self.small = max(0.0, self.small - spent)
        else:
            self.small, spent = max(0.0, self.small - spent), max(0.0, spent - self.small)
            self.large = max(0.0, self.large - spent)
        for member in self._waited - self._held if end >= self.until else ():
            self._missed(self.late[member], now)
        for member in self.late.keys() & self._held:
            known = self.late[member]
            known.good += member not in self._waited
            if known.good >= PROBATION:
                del self.late[member]
        self._bases[head] = self._base
        for old in list(self._bases)[:-REMEMBERED]:
            del self._bases[old]
        self._base = self.until = math.inf

    def too_late(self, member: NodeId, head: bytes, now: float) -> None:
        """A contribution came that was made at a head which this node has left."""
        base = self._bases.get(head)
        if base is not None and member in self.late:
            self._came(member, now - base, in_time=False)

    def _came(self, member: NodeId, after: float, *, in_time: bool) -> None:
        known = self.late[member]
        known.need = min(self.most, max(LEAST * self.most, MARGIN * after))
        known.good = known.good + 1 if in_time and member in self._waited else 0
        known.vain, known.again = 0, -math.inf

    def _missed(self, known: LateMember, now: float) -> None:
        """It was waited for, and did not come: it is given more time, or waited for less often."""
        known.good = 0
        if known.need < self.most:
            known.need = min(self.most, 2 * known.need)
        else:
            known.again = now + self.most / SHARE * 2.0**known.vain
            known.vain = min(MOST_VAIN, known.vain + 1)

    def _choose(self, now: float, missing: Collection[NodeId]) -> None:
        """Decide for whom to wait, of those that are late and missing."""
        wait = 0.0
        for member in missing:
            known = self.late[member]
            if now < known.again or known.need > max(self.small, self.large):
                continue
            self._waited.add(member)
            wait = max(wait, known.need)
        self._is_long = wait > self.small
        self.until = min(now + wait, max(now, self._begun + self.most))

    def _give_up(self, now: float, missing: Collection[NodeId]) -> None:
        late = (member for member in missing if member not in self._waited or now >= self.until)
        self.given_up = self._absent.union(late)
