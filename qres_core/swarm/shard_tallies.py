"""What the members of committees said: who holds which shards, and what shards merge to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Final

from qres_core.contract.types import NodeId
from qres_core.swarm.shard_messages import ShardResult, held_name
from qres_core.swarm.shards import ShardPlan

PHASES: Final = 2
"""What committees may have to find of one set: inner products, and what it merges to."""


class Holders:
    """Who says that it holds which shards of which contributions, at one head.

    What a member said once it has said: to take it back would only help liars.

    Args:
        plan: the committees.
        most: contributions of which a member may speak; the rest is not kept.
    """

    def __init__(self, plan: ShardPlan, most: int) -> None:
        self._plan, self._most = plan, most
        self._said: dict[NodeId, dict[bytes, int]] = {}  # masks by name
        self._counts: dict[bytes, Counter[int]] = {}  # members by shard, by name
        self._full: Counter[bytes] = Counter()  # shards that f + 1 hold, by name

    def take(self, member: NodeId, held: Mapping[bytes, int]) -> None:
        """Note what a member says. ``held``: as it was decoded for that member's seats."""
        seats = self._plan.seats(member)
        known = self._said.setdefault(member, {})
        for name, mask in held.items():
            if name not in known and len(known) >= self._most:
                continue
            fresh = mask & ~known.get(name, 0)
            known[name] = known.get(name, 0) | mask
            counts = self._counts.setdefault(name, Counter())
            while fresh:
                lowest = fresh & -fresh
                index = seats[lowest.bit_length() - 1]
                counts[index] += 1
                self._full[name] += counts[index] == self._plan.enough
                fresh ^= lowest

    def available(self, contribution: bytes) -> bool:
        """Whether ``f + 1`` of each committee say that they hold its shard: one is honest."""
        return self._full[held_name(contribution)] == len(self._plan)

    def short(self, contribution: bytes) -> list[int]:
        """The shards that fewer than ``f + 1`` of their committee hold."""
        counts = self._counts.get(held_name(contribution), Counter[int]())
        return [index for index in range(len(self._plan)) if counts[index] < self._plan.enough]

    def of(self, contribution: bytes, index: int) -> list[NodeId]:
        """Those of a shard's committee that hold it of a contribution, in the order they serve."""
        name = held_name(contribution)
        return [
            member
            for member in self._plan.committees[index]
            if self._said.get(member, {}).get(name, 0)
            >> self._plan.seats(member).index(index) & 1
        ]  # fmt: skip

    def keep_only(self, contributions: Collection[bytes]) -> None:
        """Forget all but some contributions, by their digests."""
        names = {held_name(digest) for digest in contributions}
        for known in self._said.values():
            for name in known.keys() - names:
                del known[name]
        self._counts = {name: it for name, it in self._counts.items() if name in names}
        self._full = Counter({name: n for name, n in self._full.items() if name in names})


class ShardTally:
    """What members say that they found of the shards of the decided set, at one head.

    A height decides one set, and it has :data:`PHASES` at most: an honest member speaks of no more.
    The first thing that a member says of a shard counts, and of a shard only its committee is
    heard.
    """

    def __init__(self, plan: ShardPlan) -> None:
        self._plan = plan
        self._names: dict[NodeId, set[bytes]] = {}
        self._said: dict[tuple[bytes, int], dict[NodeId, ShardResult]] = {}
        self._settled: dict[tuple[bytes, int], ShardResult] = {}

    def take(self, member: NodeId, chosen: bytes, results: Mapping[int, ShardResult]) -> None:
        """Note what a member says of a phase of a set, by its name."""
        names = self._names.setdefault(member, set())
        if chosen not in names and len(names) >= PHASES:
            return
        names.add(chosen)
        seats = set(self._plan.seats(member))
        for index, result in results.items():
            if index not in seats:
                continue
            key = chosen, index
            said = self._said.setdefault(key, {})
            said.setdefault(member, result)
            if sum(other == result for other in said.values()) >= self._plan.enough:
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

    def against(self, chosen: bytes, index: int, result: ShardResult) -> list[NodeId]:
        """Who says otherwise."""
        said = self._said.get((chosen, index), {})
        return [member for member, other in said.items() if other != result]
