"""What the members of committees said: who holds which shards, and what shards merge to."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping

from qres_core.contract.types import NodeId
from qres_core.swarm.shard_messages import ShardResult, held_name
from qres_core.swarm.shards import ShardPlan


class Holders:
    """Who says that it holds which shards of which contributions, at one head.

    What a member said once it has said: to take it back would only help liars. But who repeats it
    no more may have fallen silent, so that others had better hold the shards too.

    For each contribution there is one integer. Its bit ``s c + p`` tells that the member at place
    ``p`` of the ``c`` of shard ``s`` holds the shard. So what 1,000 members say of 1,000
    contributions takes less than a megabyte.

    Args:
        plan: the committees.
        away: members that were away at the head before.

    Attributes:
        away: members that were not heard for too long.
    """

    def __init__(self, plan: ShardPlan, away: Collection[NodeId] = ()) -> None:
        self._plan, self._size = plan, len(plan.committees[0])
        self._all = (1 << len(plan)) - 1
        self._said: dict[bytes, int] = {}  # by name
        self._full: dict[bytes, int] = {}  # bit s: enough hold shard s; by name
        self._heard: dict[NodeId, float] = {}  # when who said something last, seconds
        self._look_at = -math.inf
        self.away: set[NodeId] = set(away)
        self._gone = self._bits(self.away)
        self._at_hand: set[bytes] = set()  # names that were found so since somebody went away
        self._is_new = False  # whether a round was opened, and nobody looked since

    def __len__(self) -> int:
        """Contributions of which somebody said something."""
        return len(self._said)

    def _places(self, member: NodeId) -> list[int]:
        """Which bits tell of a member's seats."""
        plan = self._plan
        return [s * self._size + plan.committees[s].index(member) for s in plan.seats(member)]

    def take(self, member: NodeId, held: Mapping[bytes, int]) -> None:
        """Note what a member says. ``held``: as it was decoded for that member's seats."""
        places, seats = self._places(member), self._plan.seats(member)
        spread: dict[int, int] = {}  # most masks are alike
        for name, mask in held.items():
            if mask not in spread:
                said = (1 << bit for place, bit in enumerate(places) if mask >> place & 1)
                spread[mask] = sum(said)
            before = self._said.get(name, 0)
            now = before | spread[mask]
            if now == before:
                continue
            self._said[name], full = now, self._full.get(name, 0)
            for index in seats:
                if not full >> index & 1 and self._suffices(now, index):
                    full |= 1 << index
            self._full[name] = full

    def _suffices(self, said: int, index: int) -> bool:
        """Whether one of those that say that they hold a shard is honest."""
        them = said >> index * self._size & (1 << self._size) - 1
        first = (1 << self._plan.first) - 1
        return them.bit_count() >= self._plan.enough or them & first == first

    def hear(self, member: NodeId, now: float) -> None:
        """A member says what it holds, whatever that is."""
        self._heard[member] = now
        if member in self.away:
            self.away.discard(member)
            self._gone &= ~self._bits([member])

    def _bits(self, members: Iterable[NodeId]) -> int:
        return sum(1 << bit for member in members for bit in self._places(member))

    def look(self, now: float, patience: float) -> bool:
        """Look who was not heard for so many seconds; whether somebody else is away now.

        Complexity: O(n), four times in that time.
        """
        if now < self._look_at:
            return False
        self._look_at = now + patience / 4
        if self._is_new:  # who was heard before has as long from now
            self._is_new, self._heard = False, dict.fromkeys(self._heard, now)
        late = {who for who, at in self._heard.items() if now > at + patience} - self.away
        self.away |= late
        self._gone |= self._bits(late)
        if late:
            self._at_hand.clear()
        return bool(late)

    def available(self, contribution: bytes) -> bool:
        """Whether ``f + 1`` of each committee say that they hold its shard: one is honest."""
        return self._full.get(held_name(contribution)) == self._all

    def at_hand(self, contribution: bytes) -> bool:
        """Whether it is available without those that are away."""
        if not self._gone or not self.available(contribution):
            return self.available(contribution)
        name = held_name(contribution)
        if name not in self._at_hand and not self.short(contribution):
            self._at_hand.add(name)
        return name in self._at_hand

    def short(self, contribution: bytes) -> list[int]:
        """The shards that fewer than ``f + 1`` of their committee hold and are not away."""
        said = self._said.get(held_name(contribution), 0) & ~self._gone
        return [index for index in range(len(self._plan)) if not self._suffices(said, index)]

    def of(self, contribution: bytes, index: int) -> list[NodeId]:
        """Those of a shard's committee that hold it of a contribution, in the order they serve."""
        said = self._said.get(held_name(contribution), 0) >> index * self._size
        them = enumerate(self._plan.committees[index])
        return [member for place, member in them if said >> place & 1]

    def open_round(self, named: Collection[bytes]) -> None:
        """A round begins: forget all but some contributions, named by digest.

        Who was away still is, until it is heard, and the others have to be heard again.
        """
        self._look_at, self._is_new = -math.inf, True
        self._at_hand.clear()
        names = {held_name(digest) for digest in named}
        self._said = {name: it for name, it in self._said.items() if name in names}
        self._full = {name: it for name, it in self._full.items() if name in names}


class ShardTally:
    """What members say that they found of the shards of the decided set, at one head.

    The first thing that a member says of a shard counts, and of a shard only its committee is
    heard.

    Args:
        plan: the committees.
        phases: how many things committees find of one set. A height decides one, so an honest
            member speaks of no more.
    """

    def __init__(self, plan: ShardPlan, phases: int) -> None:
        self._plan, self._phases = plan, phases
        self._names: dict[NodeId, set[bytes]] = {}
        self._said: dict[tuple[bytes, int], dict[NodeId, ShardResult]] = {}
        self._settled: dict[tuple[bytes, int], ShardResult] = {}

    def take(self, member: NodeId, chosen: bytes, results: Mapping[int, ShardResult]) -> None:
        """Note what a member says of a phase of a set, by its name."""
        names = self._names.setdefault(member, set())
        if chosen not in names and len(names) >= self._phases:
            return
        names.add(chosen)
        seats = set(self._plan.seats(member))
        for index, result in results.items():
            if index not in seats:
                continue
            key = chosen, index
            said = self._said.setdefault(key, {})
            said.setdefault(member, result)
            alike = [other for other, word in said.items() if word == result]
            if self._plan.suffices(index, alike):
                self._settled.setdefault(key, result)

    def settled(self, chosen: bytes, index: int) -> ShardResult | None:
        """What ``f + 1`` of a shard's committee say alike: one of them is honest.

        At most ``f`` members lie, so there is one such result at most.
        """
        return self._settled.get((chosen, index))

    def disputed(self, chosen: bytes, index: int) -> bool:
        """Whether members say different things of a shard."""
        return len(set(self._said.get((chosen, index), {}).values())) > 1

    def saying(self, chosen: bytes, index: int, result: ShardResult) -> list[NodeId]:
        """Who says that a shard merges to this, in the order they serve."""
        said = self._said.get((chosen, index), {})
        return [member for member in self._plan.committees[index] if said.get(member) == result]

    def silent(self, chosen: bytes, index: int) -> list[NodeId]:
        """Those of a shard's committee that said nothing of it."""
        said = self._said.get((chosen, index), {})
        return [member for member in self._plan.committees[index] if member not in said]

    def said(self, chosen: bytes, index: int, member: NodeId) -> ShardResult | None:
        """What a member says that a shard merges to; ``None`` if it said nothing."""
        return self._said.get((chosen, index), {}).get(member)

    def against(self, chosen: bytes, index: int, result: ShardResult) -> list[NodeId]:
        """Who says otherwise."""
        said = self._said.get((chosen, index), {})
        return [member for member, other in said.items() if other != result]
