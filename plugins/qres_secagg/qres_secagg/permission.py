"""Sums that may be opened further for a model: those that tell no few members apart.

Several sums may be opened for one model: one at each height that made no new model. Whoever sees
them can add and subtract them. What counts is which members they tell apart: two members are of one
*class* if every sum has both or neither. All sums together are a function of the sums of the
classes, and every linear combination of them has one coefficient for a whole class. So if each
class has ``corrupt + 2`` members, then a combination that is about anybody is about two honest
members at least, with one coefficient: their sum is hidden like any other sum.

A further set is therefore permitted if each class that its sums divide falls into parts of so many.
The same set again divides nothing. Members that were in no sum yet are of no class: they may come
in so many at once.

Sets, rosters and levels are those on record in the round's head
(:attr:`qres_core.RoundInfo.void_sets`). So all nodes judge alike.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import chain, count
from typing import Final

import attrs

from qres_core import NodeId, RoundInfo
from qres_core.dialogues import MAX_VOID_SETS, VoidSet
from qres_secagg.graph import Topology, topology
from qres_secagg.parameters import HONEST_LEAST, Parameters
from qres_secagg.session import DOMAIN, Session, joined, roster_root
from qres_secagg.survivors import cut, exposed

Sums = Iterable[Collection[NodeId]]
"""Whose inputs each of some sums is of."""
MAX_UNOPENED: Final = MAX_VOID_SETS // 2
"""Sets of which nothing is opened that one model has on record. Where such sets fill the record,
no class could be divided any more, and everybody is in no sum yet: nothing could ever be opened."""


@attrs.frozen
class Classes:
    """Members that the sums opened for a model do not tell apart."""

    of: Mapping[NodeId, int]  # by member; who was in no sum is missing
    least: float  # members of a part, at least; infinite if nothing may be divided any more

    @classmethod
    def told_apart(cls, sums: Sums, least: float) -> Classes:
        """The classes of some sums. O(n) for each sum of ``n``."""
        found: dict[NodeId, int] = {}
        fresh = count()
        for members in sums:
            # Who is in the sum gets another class, the same for all of one class before.
            names: dict[int, int] = {}
            found |= {m: names.setdefault(found.get(m, -1), next(fresh)) for m in members}
        return cls(found, least)

    def permitted(
        self, present: Collection[NodeId], groups: Sequence[Sequence[NodeId]], least: int
    ) -> frozenset[NodeId]:
        """The members of a set that stay in it, so that its sums are permitted.

        All of them, if they are as it is. Else few leave: so many that the rest of their class and
        those who were away before are a part by themselves, or that their group is not opened.

        Args:
            present: the set.
            groups: the members of each group; of each open one there is a sum.
            least: fewest members of the set with which a group is opened.

        Complexity: O(n) for each class that is divided.
        """
        left = frozenset(present)
        while True:
            sum_of: dict[NodeId, int] = {}
            for index, group in enumerate(groups):
                inside = [member for member in group if member in left]
                if len(inside) >= least:
                    sum_of.update(dict.fromkeys(inside, index))
            out = self._too_many(sum_of)
            if not out:
                return left
            left = left.difference(_enough(out, sum_of, least))

    def _too_many(self, sum_of: Mapping[NodeId, int]) -> Sequence[NodeId]:
        """Members that must leave first; none if no class is divided into parts too small."""
        parts: dict[int, dict[int, list[NodeId]]] = {}
        for member in sorted({*self.of, *sum_of}):
            mine = parts.setdefault(self.of.get(member, -1), {})
            mine.setdefault(sum_of.get(member, -1), []).append(member)
        for name, by_sum in parts.items():
            if len(by_sum) == 1 and name >= 0:
                continue  # not divided
            rest = by_sum.pop(-1, [])
            for members in by_sum.values():
                if len(members) < self.least:
                    return members
            if rest and len(rest) < self.least:
                return self._joining(by_sum.values(), int(self.least) - len(rest))
        return ()

    def _joining(self, parts: Iterable[list[NodeId]], missing: int) -> Sequence[NodeId]:
        """Members of a class that leave its sums, so that those who are in none are enough."""
        ordered = sorted(parts, key=len, reverse=True)
        found: list[NodeId] = []
        for members in ordered:
            spare = min(len(members) - int(self.least), missing - len(found))
            found += members[len(members) - spare :]
        return found if len(found) == missing else ordered[-1]


def _enough(out: Sequence[NodeId], sum_of: Mapping[NodeId, int], least: int) -> Sequence[NodeId]:
    """Of members that would leave, so many that the sum of their group is not opened without them.

    All, if it is opened. The others of that group are in no sum then, and may stay in the set.
    """
    index = sum_of[out[0]]
    if any(sum_of[member] != index for member in out):
        return out
    inside = sum(place == index for place in sum_of.values())
    return out if inside - len(out) >= least else out[: inside - least + 1]


def _named(item: VoidSet) -> bytes:
    """Mark of a set on record that stays at all later heights, unlike its members' names."""
    mismatches = struct.pack("<Q", item.mismatches)
    parts = roster_root(item.roster), mismatches, *item.senders
    return hashlib.sha256(joined(DOMAIN, b"on record", *parts)).digest()


@attrs.frozen(slots=False, eq=False)
class Permission:
    """Permission to open sums at a height: the same on every node.

    Sizes and groups follow from the members, the model and the mismatches. So those of earlier
    heights can be found again.
    """

    info: RoundInfo  # a round of the height
    parameters: Callable[[int], Parameters]  # the numbers of a session of so many members
    # of so many members: the level after which groups stay as they are
    finest: Callable[[int], int]
    rows: int = 1  # sums that the rule needs, at least
    # whether updates are weighted: with a new key a member may count otherwise than before
    weighted: bool = False

    def session(self, number: int) -> Session:
        """The session of a round of the height."""
        return self._session(number, self.info.roster, self.info.mismatches)

    def _session(self, number: int, roster: tuple[NodeId, ...], mismatches: int) -> Session:
        info, numbers = self.info, self.parameters(len(roster))
        level = min(mismatches, self.finest(len(roster)))
        return Session(info.swarm, number, info.model_digest, roster, numbers, info.head, level)

    @property
    def level(self) -> int:
        """Number of times that groups are halved at the height."""
        return self.session(0).level

    @cached_property
    def _called(self) -> list[tuple[NodeId, ...]]:
        """By which names the members of each set on record count as the same at the height."""
        return [item.roster if self.weighted else item.names for item in self.info.void_sets]

    @cached_property
    def _sums(self) -> list[list[list[NodeId]]]:
        """The sums that may have been opened for the model, of each set on record.

        O(n) for each set, and the graph's for each roster and level.
        """
        sums: list[list[list[NodeId]]] = []
        drawn: dict[tuple[tuple[NodeId, ...], int], Sequence[Sequence[int]]] = {}
        for item, names in zip(self.info.void_sets, self._called, strict=True):
            least, senders = self.parameters(len(item.roster)).min_survivors, set(item.senders)
            draw = item.roster, item.mismatches
            if draw not in drawn:
                drawn[draw] = topology(self._session(0, *draw)).groups
            inside = [
                [names[rank] for rank in group if item.roster[rank] in senders]
                for group in drawn[draw]
            ]
            sums.append(self._opened(inside, least))
        return sums

    @cached_property
    def classes(self) -> Classes:
        """The classes of the sums that may have been opened for the model. O(n) for each."""
        info, sums = self.info, list(chain.from_iterable(self._sums))
        rosters = [*(item.roster for item in info.void_sets), info.roster]
        everybody = {*info.roster}.union(*self._called)
        if len(info.void_sets) >= MAX_VOID_SETS:
            return Classes.told_apart(sums, math.inf)
        # Of each roster so many may be corrupt, and who came may have taken another's place.
        came = len(everybody) - len(rosters[0])
        corrupt = max(self.parameters(size).corrupt for size in {len(item) for item in rosters})
        return Classes.told_apart(sums, corrupt + came + HONEST_LEAST)

    @cached_property
    def record(self) -> bytes:
        """The sets on record, 32 bytes each, in their order. O(n) for each."""
        return b"".join(map(_named, self.info.void_sets))

    def entry(self, senders: Collection[NodeId]) -> bytes:
        """A set as it is on record if the height makes no model; 32 bytes. O(n)."""
        roster = self.info.roster
        return _named(VoidSet(roster, roster, tuple(sorted(senders)), self.info.mismatches))

    def _opened(self, inside: Sequence[list[NodeId]], least: int) -> list[list[NodeId]]:
        """The sums of a set that are opened, by what is there of each group.

        None, if the rule needs more of them than there are. They would make no model. But they
        would be on record, and a liar could propose such sets to have few others be permitted.
        """
        found = [members for members in inside if len(members) >= least]
        return found if len(found) >= min(self.rows, len(inside)) else []

    def opens(self, senders: Collection[NodeId]) -> bool:
        """True if a set of these members lets as many sums be opened as the rule needs. O(n)."""
        return self._opens(senders, self._groups(topology(self.session(0))))

    def _opens(self, senders: Collection[NodeId], groups: Sequence[Sequence[NodeId]]) -> bool:
        there = frozenset(senders)
        inside = [[member for member in group if member in there] for group in groups]
        return bool(self._opened(inside, self.parameters(len(self.info.roster)).min_survivors))

    def _groups(self, graph: Topology) -> list[list[NodeId]]:
        roster = self.info.roster
        return [[roster[rank] for rank in group] for group in graph.groups]

    def permits(self, senders: Collection[NodeId]) -> bool:
        """True if sums of just these members may be opened."""
        return self.permitted(senders) == frozenset(senders)

    def permitted(self, senders: Collection[NodeId]) -> frozenset[NodeId]:
        """Those of some members whose sums may be opened together, at the round's level.

        As few leave as are needed; all, if no sum can be opened. If too few can be for the rule,
        none leave because of that, or all where the record has :data:`MAX_UNOPENED` such sets. A
        set of all that are left is permitted as it is. Complexity: O(n) for each class that is
        divided, and the graph's.
        """
        roster, numbers = self.info.roster, self.parameters(len(self.info.roster))
        graph = topology(self.session(0))
        groups = self._groups(graph)
        left = frozenset(senders)
        few = frozenset[NodeId]() if self._sums.count([]) >= MAX_UNOPENED else left
        if self.rows > 1 and len(groups) > 1 and not self._opens(left, groups):
            return few
        while True:
            left = self.classes.permitted(left, groups, numbers.min_survivors)
            if all(len(left.intersection(group)) < numbers.min_survivors for group in groups):
                return frozenset()
            if len(groups) > 1:
                return left if few or self._opens(left, groups) else few
            ranks = {rank for rank, member in enumerate(roster) if member in left}
            near_few = exposed(graph.peers, ranks, numbers.t)
            if not near_few:
                return frozenset() if cut(self.session(0), graph, ranks) else left
            left = left.difference(roster[rank] for rank in near_few)
