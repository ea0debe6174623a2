"""From contributions to one update: the data path of a round, in its one order.

::

    choose    contributions to propose: by standing, without those that ``screen`` leaves out, or
              that are not ``revealable`` with the others
    admits    whether a proposed set is ``revealable`` as a whole, before the vote
    judge     what a proposed set merges to, and whether plugins ``endorse`` it, before the vote
    merge     what the decided set merges to: ``reveal``, then ``aggregate`` in its wrappers
    merge_shards
              the same in a sharded round, once committees have merged the shards

A set that was merged to judge it is not revealed and aggregated again: the solver lets no plugin
both judge before the vote and reveal after it (QRES-E312).

This module does no I/O, and nothing else in the swarm or the lab calls these hooks. A node makes a
:class:`Merger` for each round, chooses when it proposes, judges before it votes and merges once a
set is decided. A coordinator and the vectorised engine call all three in a row, see
:mod:`qres_core.swarm.contributions.lone_round`, and end the dialogues before they merge. An
attacker's look-ahead does the same with copies of the plugins.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_core.contract.evidence import Evidence
from qres_core.contract.held_out import HeldOut, Screening
from qres_core.contract.rounds import RoundInfo
from qres_core.contract.types import FULL_STANDING, NodeId, Updates, Vector
from qres_core.contract.verdict import ACCEPT, Verdict
from qres_core.kernel.kernel import Kernel
from qres_core.swarm.context.position import round_info
from qres_core.swarm.ledger.chain import Head
from qres_core.swarm.ledger.messages import Member
from qres_core.swarm.storage.kept_contributions import Gathering

Members = tuple[Member, ...]
_OF_A_ROW: Final = 24
"""Bytes of memory for each number of a row while it is merged: itself, sorted, and as int64."""
_MERGING: Final = 2**25
"""Bytes for merging at once where a node has no budget, and its plugins need no whole updates."""


@attrs.frozen
class Screened:
    """Contributions that may be proposed."""

    members: Members  # with their standings, ascending by sender; they may be fewer than a quorum
    # evidence that screening brought to light just now, for the caller to tell ``observe``; the
    # plugins were told of none
    against: tuple[Evidence, ...] = ()


@attrs.define(eq=False)
class Merger:
    """The data path of one round at one node. Each hook that judges is asked once."""

    kernel: Kernel  # the plugins; only ``reveal`` tells their ``observe`` anything
    gathering: Gathering  # the contributions
    info: RoundInfo  # the round
    # examples to judge by; ``None`` where there are none: then nothing is judged
    held_out: HeldOut | None = None
    _screening: Screening | None = attrs.field(default=None, init=False)
    _judged: tuple[Members, Vector] | None = attrs.field(default=None, init=False)
    # a set that was asked about last, and whether it can be merged
    _merges: tuple[Members, bool] | None = attrs.field(default=None, init=False)

    def candidates(self) -> Members:
        """The round's contributions that count for something, with their standings."""
        members: list[Member] = []
        for sender, held in self.gathering.of_round(self.info.number).items():
            standing = self.kernel.standing(sender)
            if not standing.banned and standing.weight:
                members.append(Member(sender, held.contribution.digest, standing.weight))
        return tuple(members)

    def choose(self) -> Screened:
        """The candidates that may be proposed.

        Fewer than a quorum are not screened. Whoever waits for more has the first screening apply
        to all that come. What they merge to is shown to the plugins that screened. Raises
        QresError: what the rule or a screening plugin refused. Raises HookError: QRES-E701 or
        QRES-E702.
        """
        members = self.candidates()
        if self.held_out is None or not self.kernel.has("screen"):
            return Screened(self._revealable(members))
        if len(members) < self.info.quorum:
            return Screened(members)
        against: tuple[Evidence, ...] = ()
        if self._screening is None:
            updates = self._stack(members)
            self._screening, against = self.kernel.screen(updates, self.held_out, self.info)
        chosen = self._revealable(_screened(members, self._screening))
        if self._screening.check is not None and len(chosen) >= self.info.quorum:
            self._screening.check(self._merged(chosen))
        return Screened(chosen, against)

    def _revealable(self, members: Members) -> Members:
        """Those of the members that plugins would have revealed together."""
        if not self.kernel.has("revealable"):
            return members
        made = self.gathering.contributions(members)
        kept = {item.sender for item in self.kernel.revealable(made, self.info)}
        return tuple(member for member in members if member.sender in kept)

    def admits(self, members: Members) -> bool:
        """True if plugins would have all of a set revealed that is proposed afresh.

        Raises QresError: what a plugin refused. Raises HookError: QRES-E701 or QRES-E702.
        """
        return self._revealable(members) == members

    def remain(
        self, members: Members, head: Head, names: Mapping[NodeId, NodeId | None]
    ) -> tuple[NodeId, ...]:
        """Those of a set whose updates could be revealed together at another head, as called there.

        And merged, unless the set cannot be merged now: then no change is to blame for that.

        Args:
            members: the set.
            head: the other one, for example that which follows if the set makes no model.
            names: how its members are called there; ``None`` for whoever is no member there.

        Raises QresError: what a plugin refused. Raises HookError: QRES-E701 or QRES-E702.
        """
        made = self.gathering.contributions(members)
        if self._merges is None or self._merges[0] is not members:
            now = self.kernel.revealable(made, attrs.evolve(self.info, ahead=True))
            self._merges = members, len(now) == len(made)
        there = tuple(
            attrs.evolve(item, sender=name)
            for item in made
            if (name := names.get(item.sender)) is not None and name not in head.bans
        )
        whole = self.info.dimension
        info = round_info(self.kernel.swarm, head, whole, self.info.number + 1)
        ahead = attrs.evolve(info, ahead=self._merges[1])
        return tuple(item.sender for item in self.kernel.revealable(there, ahead))

    def judge(self, members: Members) -> tuple[Verdict, str]:
        """The first refusing verdict on a proposed set, and its author; an acceptance otherwise.

        Accepted without a look where no plugin endorses, or there are no examples. Raises
        QresError: what the rule or a wrapper refused. Raises HookError: QRES-E701 or QRES-E702.
        """
        if self.held_out is None or not self.kernel.has("endorse"):
            return ACCEPT, ""
        merged = self._merged(members)
        return self.kernel.endorse(self._stack(members), merged, self.held_out, self.info)

    def seen_by(self, held_out: HeldOut | None) -> Merger:
        """The round as a node with other held-out examples judges it.

        What a set merges to is the same for both, and is not computed again.
        """
        other = copy.copy(self)
        other.held_out = held_out
        return other

    def _merged(self, members: Members) -> Vector:
        """Merge a set before it is decided; computed once for each set in a row."""
        if self._judged is None or self._judged[0] != members:
            merged = self.kernel.aggregate(self._stack(members), self.info, self.held_out)
            self._judged = members, merged
        return self._judged[1]

    def merge(self, members: Members, made_in: RoundInfo | None = None) -> Vector:
        """Merge a decided set.

        ``made_in``: the round its contributions were made in, this one if not given. Returns int32,
        shape ``(d,)``. Raises QresError: what a revealing plugin, the rule or a wrapper refused.
        Raises HookError: QRES-E701 or QRES-E702.
        """
        if self._judged is not None and self._judged[0] == members:
            return self._judged[1]
        info = self.info if made_in is None else made_in
        width = self._width(len(members), info.dimension)
        if width < info.dimension:
            return self._in_ranges(members, info, width)
        made = self.gathering.contributions(members)
        revealed = self.kernel.reveal(self._stack(members), made, info)
        return self.kernel.aggregate(revealed, info, self.held_out)

    def merge_shards(self, members: Members, found: NDArray[Any], made_in: RoundInfo) -> Vector:
        """Merge a decided set of a sharded round.

        ``found``: what its shards merge to, int32, shape ``(d,)``; or the exact sums that were
        opened of them, int64, shape ``(rows, d)``. The rest is as for :meth:`merge`.
        """
        unseen = self.gathering.unseen(members, self.kernel.swarm.weight_cap)
        made = self.gathering.contributions(members)
        if self.kernel.opens_shards:
            unseen = attrs.evolve(unseen, opened=found)
            revealed = self.kernel.reveal(unseen, made, made_in)
            return self.kernel.aggregate(revealed, made_in, self.held_out)
        self.kernel.check_unseen(unseen, made, made_in)
        return self.kernel.wrap_merged(found, unseen, made_in, self.held_out)

    def _width(self, count: int, dimension: int) -> int:
        """Number of coordinates of so many updates that are merged at once.

        All where a plugin needs whole updates; with a budget the solver lets none (QRES-E321).
        """
        if not self.kernel.merges_in_ranges:
            return dimension
        return max(1, (self.kernel.swarm.memory // 2 or _MERGING) // (_OF_A_ROW * count))

    def _in_ranges(self, members: Members, info: RoundInfo, width: int) -> Vector:
        """As :meth:`merge`, so many coordinates at a time; the bits are the same."""
        swarm = self.kernel.swarm
        weights = self.gathering.weights(members, swarm.weight_cap)
        senders = tuple(member.sender for member in members)
        merged = np.empty(info.dimension, dtype=np.int32)
        for start in range(0, info.dimension, width):
            stop = min(start + width, info.dimension)
            rows = self.gathering.rows(members, start, stop)
            here = attrs.evolve(info, dimension=stop - start)
            updates = Updates(rows, senders, weights)
            merged[start:stop] = self.kernel.aggregate(updates, here, self.held_out)
        merged.flags.writeable = False
        return merged

    def _stack(self, members: Sequence[Member]) -> Updates:
        return self.gathering.stack(members, self.kernel.swarm.weight_cap)


def _screened(members: Sequence[Member], screening: Screening) -> Members:
    """The members with their standings as a screening would have them, without those left out."""
    kept: list[Member] = []
    for member in members:
        standing = member.standing * screening.of(member.sender) // FULL_STANDING
        if standing:
            kept.append(attrs.evolve(member, standing=standing))
    return tuple(kept)
