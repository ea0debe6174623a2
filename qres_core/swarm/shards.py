"""Shards of coordinates, and the committees that merge them.

In a sharded round no node takes in all updates whole. The coordinates are cut into shards, and a
committee of ``2 f + 1`` members merges each. The plan is a function of the head, the members and
the dimension alone, so that all nodes have the same and nobody chooses it:

1. The members that are not banned are ordered by the SHA-256 of the tag ``qres/committee/v1``, a
   zero byte, the head and their identity. The head is decided by the height before, and the order
   is as good as random to whoever cannot choose among very many heads. Safety does not rest on
   that: wherever the liars sit, a committee has at most ``f`` of them.
2. There are as many shards as such members, or as coordinates if these are fewer. Shard ``s`` of
   ``S`` has the coordinates from ``⌊s d / S⌋`` to ``⌊(s + 1) d / S⌋``.
3. The committee of shard ``s`` is the ``2 f + 1`` members in a row from place ``⌊s n / S⌋`` of that
   order, which is a ring. The first ``f + 1`` serve, the others step in for them.

So with as many shards as members everybody has ``2 f + 1`` seats, and serves in ``f + 1`` of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from functools import cached_property
from typing import Final

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_core.contract.types import NodeId
from qres_core.swarm.merkle import leaf_hash, merkle_path, merkle_root

_ORDER: Final = b"qres/committee/v1\0"


@attrs.frozen(slots=False)
class ShardPlan:
    """Who merges which coordinates at one head."""

    dimension: int  # coordinates of the model
    byzantine: int  # members that may lie, f
    # for each shard its committee, in the order in which its members serve
    committees: tuple[tuple[NodeId, ...], ...]

    @classmethod
    def of(
        cls,
        head: bytes,
        members: Sequence[NodeId],
        byzantine: int,
        dimension: int,
        *,
        banned: Collection[NodeId] = (),
        shards: int | None = None,
    ) -> ShardPlan:
        """The plan at a head.

        Args:
            head: digest of the head, 32 bytes.
            members: all of them, in any order.
            byzantine: how many may lie, f.
            dimension: coordinates, 1 or more.
            banned: members that the swarm does not hear. They have seats only if too few others are
                left, which takes more than ``f`` liars.
            shards: how many, 1 or more; what the module says if left out.

        Complexity: O(n log n + S f).
        """
        size = min(2 * byzantine + 1, len(members))
        heard = [member for member in members if member not in banned]
        ring = heard if len(heard) >= size else list(members)
        ring.sort(key=lambda member: (hashlib.sha256(_ORDER + head + member).digest(), member))
        n = len(ring)
        count = min(n if shards is None else shards, dimension)
        starts = (index * n // count for index in range(count))
        committees = (tuple(ring[(start + place) % n] for place in range(size)) for start in starts)
        return cls(dimension, byzantine, tuple(committees))

    def __len__(self) -> int:
        """How many shards there are."""
        return len(self.committees)

    def bounds(self, index: int) -> tuple[int, int]:
        """The first coordinate of a shard, and the first after it."""
        count = len(self.committees)
        return index * self.dimension // count, (index + 1) * self.dimension // count

    def octets(self, index: int) -> int:
        """Bytes of a shard of a vector."""
        start, stop = self.bounds(index)
        return 4 * (stop - start)

    @property
    def enough(self) -> int:
        """Members of a committee of which at least one is honest: ``f + 1``."""
        return self.byzantine + 1

    def serving(self, index: int) -> tuple[NodeId, ...]:
        """Those of a committee that serve first."""
        return self.committees[index][: self.enough]

    @cached_property
    def _seats(self) -> dict[NodeId, tuple[int, ...]]:
        found: dict[NodeId, list[int]] = {}
        for index, committee in enumerate(self.committees):
            for member in committee:
                found.setdefault(member, []).append(index)
        return {member: tuple(places) for member, places in found.items()}

    def seats(self, member: NodeId) -> tuple[int, ...]:
        """The shards in whose committees a member is, ascending."""
        return self._seats.get(member, ())

    def cut(self, vector: NDArray[np.int32]) -> CutVector:
        """A vector's shards. ``vector``: int32, shape ``(d,)``."""
        octets = memoryview(np.ascontiguousarray(vector, dtype="<i4").tobytes())
        spans = (self.bounds(index) for index in range(len(self)))
        return CutVector(tuple(octets[4 * start : 4 * stop] for start, stop in spans))


@attrs.frozen(slots=False, eq=False)
class CutVector:
    """The shards of a vector, little-endian int32, and the tree over them."""

    shards: tuple[memoryview, ...]

    @cached_property
    def leaves(self) -> tuple[bytes, ...]:
        """The digests of the shards."""
        return tuple(leaf_hash(shard) for shard in self.shards)

    @cached_property
    def root(self) -> bytes:
        """What fixes all shards, 32 bytes."""
        return merkle_root(self.leaves)

    def path(self, index: int) -> tuple[bytes, ...]:
        """What proves a shard to whoever knows the root."""
        return merkle_path(self.leaves, index)


def joined(shards: Sequence[bytes | memoryview]) -> NDArray[np.int32]:
    """The vector of all shards, in their order: int32, shape ``(d,)``, read-only."""
    return np.frombuffer(b"".join(shards), dtype="<i4").astype(np.int32, copy=False)
