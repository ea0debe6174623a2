"""Words of committees' members: which shards they hold, and what shards merge to."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import reduce

from qres_core.contract.types import NodeId
from qres_core.swarm.shards.committees import ShardPlan
from qres_core.swarm.shards.messages import ShardResult, held_name


class Holders:
    """Holders of shards of contributions, by their own word, at one head.

    What a member said once it has said: to take it back would only help liars. But who repeats it
    no more may have fallen silent, so that others had better hold the shards too.

    For each seat there is one integer. Its bit ``i`` tells that the member there holds the shard of
    the contribution with number ``i``. So a statement about many contributions is noted at once.
    What 1,000 members say of 1,000 contributions takes less than a megabyte.

    Args:
        plan: the committees.
        away: members that were away at the head before.

    Attributes:
        away: members that were not heard for too long.
    """

    def __init__(self, plan: ShardPlan, away: Collection[NodeId] = ()) -> None:
        self._plan = plan
        self._numbers: dict[bytes, int] = {}  # of contributions, by name
        self._free: list[int] = []  # numbers of those that were forgotten
        # for each shard what its members hold, in the order in which they serve
        self._said = [[0] * len(committee) for committee in plan.committees]
        # for each shard the contributions of which enough hold it, and enough that are not away
        self._full, self._there = [0] * len(plan), [0] * len(plan)
        self._available = self._at_hand = 0  # and of all shards
        self._changed: set[int] = set()  # shards for which these are to be found anew
        self._heard: dict[NodeId, float] = {}  # when who said something last, seconds
        self._look_at = -math.inf
        self.away: set[NodeId] = set(away)
        self._is_new = False  # whether a round was opened, and nobody looked since

    def __len__(self) -> int:
        """Contributions of which somebody said something."""
        return len(self._numbers)

    def bits(self, names: Iterable[bytes]) -> list[int]:
        """Bits of contributions, by name, until a round is opened: one each."""
        found: list[int] = []
        for name in names:
            number = self._numbers.get(name)
            if number is None:
                number = self._free.pop() if self._free else len(self._numbers)
                self._numbers[name] = number
            found.append(1 << number)
        return found

    def take(self, member: NodeId, held: Mapping[bytes, int]) -> None:
        """Note what a member says. ``held``: as it was decoded for that member's seats."""
        said = {name: mask for name, mask in held.items() if mask}
        bits = list(zip(self.bits(said), said.values(), strict=True))
        seats = range(len(self._plan.seats(member)))
        self.note(member, [sum(bit for bit, mask in bits if mask >> seat & 1) for seat in seats])

    def note(self, member: NodeId, seats: Iterable[int]) -> None:
        """Note what a member holds. ``seats``: for each of its seats the :meth:`bits`, added up."""
        for index, held in zip(self._plan.seats(member), seats, strict=True):
            said, place = self._said[index], self._plan.committees[index].index(member)
            if held & ~said[place]:
                said[place] |= held
                self._changed.add(index)

    def _look_at_changes(self) -> None:
        if not self._changed:
            return
        for index in self._changed:
            said = self._said[index]
            self._full[index] = self._there[index] = self._enough(said)
            if self.away:
                them = zip(self._plan.committees[index], said, strict=True)
                here = [0 if member in self.away else held for member, held in them]
                self._there[index] = self._enough(here)
        self._changed.clear()
        self._available, self._at_hand = (
            reduce(int.__and__, self._full),
            reduce(int.__and__, self._there),
        )

    def _enough(self, said: Sequence[int]) -> int:
        """The contributions of which one that says that it holds a shard is honest.

        The members are counted for all contributions at once. Bit ``i`` of ``counts[j]`` is bit
        ``j`` of the count for contribution ``i``, which overflows when enough said so.
        """
        needed = self._plan.enough
        first = (1 << needed.bit_length()) - needed
        counts = [-(first >> place & 1) for place in range(needed.bit_length())]
        found = reduce(int.__and__, said[: self._plan.first])
        for held in said:
            carry = held
            for place, count in enumerate(counts):
                if not carry:
                    break
                counts[place], carry = count ^ carry, count & carry
            found |= carry
        return found

    def hear(self, member: NodeId, now: float) -> None:
        """A member says what it holds, whatever that is."""
        self._heard[member] = now
        if member in self.away:
            self.away.discard(member)
            self._changed.update(self._plan.seats(member))

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
        self._changed.update(index for member in late for index in self._plan.seats(member))
        return bool(late)

    def available(self, contribution: bytes) -> bool:
        """True if ``f + 1`` of each committee say that they hold its shard: one is honest."""
        self._look_at_changes()
        number = self._numbers.get(held_name(contribution))
        return number is not None and bool(self._available >> number & 1)

    def at_hand(self, contribution: bytes) -> bool:
        """True if it is available without those that are away."""
        self._look_at_changes()
        number = self._numbers.get(held_name(contribution))
        return number is not None and bool(self._at_hand >> number & 1)

    def short(self, contribution: bytes) -> list[int]:
        """The shards that fewer than ``f + 1`` of their committee hold and are not away."""
        self._look_at_changes()
        number = self._numbers.get(held_name(contribution))
        shards = enumerate(self._there)
        return [index for index, them in shards if number is None or not them >> number & 1]

    def of(self, contribution: bytes, index: int) -> list[NodeId]:
        """Those of a shard's committee that hold it of a contribution, in the order they serve."""
        number = self._numbers.get(held_name(contribution))
        them = zip(self._plan.committees[index], self._said[index], strict=True)
        return [member for member, held in them if number is not None and held >> number & 1]

    def open_round(self, named: Collection[bytes]) -> None:
        """A round begins: forget all but some contributions, named by digest.

        Who was away still is, until it is heard, and the others have to be heard again.
        """
        self._look_at, self._is_new = -math.inf, True
        names = {held_name(digest) for digest in named}
        gone = [name for name in self._numbers if name not in names]
        self._free += [self._numbers.pop(name) for name in gone]
        kept = sum(1 << number for number in self._numbers.values())
        self._said = [[held & kept for held in said] for said in self._said]
        self._changed.update(range(len(self._plan)))


class ShardTally:
    """Findings on shards of the decided set, as members state them, at one head.

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
        """Finding that ``f + 1`` of a shard's committee state alike: one of them is honest.

        At most ``f`` members lie, so there is one such result at most.
        """
        return self._settled.get((chosen, index))

    def disputed(self, chosen: bytes, index: int) -> bool:
        """True if members say different things of a shard."""
        return len(set(self._said.get((chosen, index), {}).values())) > 1

    def saying(self, chosen: bytes, index: int, result: ShardResult) -> list[NodeId]:
        """Members that say that a shard merges to this, in the order they serve."""
        said = self._said.get((chosen, index), {})
        return [member for member in self._plan.committees[index] if said.get(member) == result]

    def silent(self, chosen: bytes, index: int) -> list[NodeId]:
        """Those of a shard's committee that said nothing of it."""
        said = self._said.get((chosen, index), {})
        return [member for member in self._plan.committees[index] if member not in said]

    def said(self, chosen: bytes, index: int, member: NodeId) -> ShardResult | None:
        """Finding of a member on a shard; ``None`` if it stated none."""
        return self._said.get((chosen, index), {}).get(member)

    def against(self, chosen: bytes, index: int, result: ShardResult) -> list[NodeId]:
        """Members that say otherwise."""
        said = self._said.get((chosen, index), {})
        return [member for member, other in said.items() if other != result]
