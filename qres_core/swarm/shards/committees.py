"""Shards of coordinates, and the committees that merge them.

In a sharded round no node takes in all updates whole. The coordinates are cut into shards, and a
committee of ``2 f + 1`` members merges each. The plan is a function of the head, the members and
the dimension alone, so that all nodes have the same and nobody chooses it:

1. The members that are not banned are ordered by the SHA-256 of the tag ``qres/committee/v1``, a
   zero byte, the head and their identity. The head is decided by the height before, and the order
   is as good as random to whoever cannot choose among very many heads. Safety does not rest on
   that: wherever the liars sit, a committee has at most ``f`` of them.
2. There are ``⌊n / (f + 1)⌋`` shards of ``n`` such members, or as many as coordinates if these are
   fewer. Shard ``s`` of ``S`` has the coordinates from ``⌊s d / S⌋`` to ``⌊(s + 1) d / S⌋``.
   A plugin that checks shards may want runs of ``r`` coordinates kept together. Then runs are dealt
   out so, and not coordinates.
3. The committee of shard ``s`` is the ``2 f + 1`` members in a row from place ``⌊s n / S⌋`` of that
   order, which is a ring. The first ``f + 1`` serve, the others step in for them.
4. A swarm whose quorum is below ``n - f`` goes on while more than ``f`` members are silent. Then
   more than ``f`` of one committee can be. So the members after it in the ring are its reserves: as
   many as it takes for ``f + 1`` to be left of both, whoever is silent. They step in last, twice as
   many each time. Their word counts like any other: whatever ``f + 1`` members say alike is right.

``swarm.shard_committee`` gives committees another size ``c``, where that is safe for the members at
the head (:mod:`qres_core.kernel.committees`). Then more than half of ``c`` take the place of
``f + 1``, and there are no reserves: more than half of a drawn committee must be there, because of
more members liars could be as many. Fewer serve first, if it is as good as certain that not all of
them are liars. What these hold, or say alike, all of them, is right as well.

So a member serves first for one shard at most, and at most ``f`` members for none. More and smaller
shards would be the same vectors in more messages, and each needs a digest, a path and a word.

A shard travels, lies in memory and is hashed packed (:mod:`qres_core.contract.packing`). Its blocks
are those of the whole update, because plugins round by these: its numbers up to the first multiple
of 256 are packed by themselves, and the rest follows. One shard has one encoding, so its digest is
as good as one of its numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from functools import cached_property
from typing import Final

import attrs
import numpy as np

from qres_core.contract import packing
from qres_core.contract.types import NodeId, Vector
from qres_core.kernel.committees import is_safe, serving_first
from qres_core.swarm.ledger.chain import Head
from qres_core.swarm.ledger.merkle import leaf_hash, merkle_path, merkle_root

_ORDER: Final = b"qres/committee/v1\0"


@attrs.frozen(slots=False)
class ShardPlan:
    """Plan of the coordinates that each member merges at one head."""

    dimension: int  # coordinates of the model
    # for each shard its committee and then its reserves, in the order in which they serve
    committees: tuple[tuple[NodeId, ...], ...]
    needed: int  # members of which at least one is honest
    run: int = 1  # coordinates in a row that lie in one shard; the last may be fewer
    # those that serve a shard first: one of them is honest, too
    first: int = attrs.field(
        default=attrs.Factory(lambda self: self.needed, takes_self=True), kw_only=True
    )

    @classmethod
    def of(  # noqa: PLR0913 - all that the plan is a function of
        cls,
        head: bytes,
        members: Sequence[NodeId],
        byzantine: int,
        dimension: int,
        *,
        banned: Collection[NodeId] = (),
        shards: int | None = None,
        committee: int = 0,
        first: int = 0,
        run: int = 1,
        silent: int = 0,
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
            committee: members of each, odd; ``2 f + 1`` if left out.
            first: those of a committee that serve first; more than half if left out.
            run: coordinates in a row that no shard parts.
            silent: how many members the swarm goes on without; at least ``byzantine`` counts.

        Complexity: O(n log n + S c), for committees and reserves of ``c``.
        """
        size = min(committee or 2 * byzantine + 1, len(members))
        needed = size // 2 + 1
        heard = [member for member in members if member not in banned]
        ring = heard if len(heard) >= size else list(members)
        ring.sort(key=lambda member: (hashlib.sha256(_ORDER + head + member).digest(), member))
        n = len(ring)
        first = first or needed
        count = min(max(1, n // first) if shards is None else shards, -(-dimension // run))
        if not committee:
            size = min(max(size, silent + needed), n)
        starts = (index * n // count for index in range(count))
        committees = (tuple(ring[(start + place) % n] for place in range(size)) for start in starts)
        return cls(dimension, tuple(committees), needed, run, first=first)

    @classmethod
    def at(cls, head: Head, dimension: int, committee: int = 0, run: int = 1) -> ShardPlan:
        """The plan that the nodes at a head follow.

        ``committee``: ``swarm.shard_committee``. It was safe for the first members. Where it is not
        for those of now, committees have ``2 f + 1``. ``run``: coordinates in a row that no shard
        parts.
        """
        roster, bans = head.roster, frozenset(head.bans)
        size = committee if is_safe(len(roster), roster.byzantine, committee) else 0
        members, f = roster.members, roster.byzantine
        first = serving_first(len(roster), f, size) if size else 0
        return cls.of(
            head.digest,
            members,
            f,
            dimension,
            banned=bans,
            committee=size,
            first=first,
            run=run,
            silent=len(roster) - max(roster.quorum, roster.threshold),
        )

    def __len__(self) -> int:
        """Number of shards."""
        return len(self.committees)

    def bounds(self, index: int) -> tuple[int, int]:
        """The first coordinate of a shard, and the first after it."""
        count, runs = len(self.committees), -(-self.dimension // self.run)
        first, after = (self.run * (place * runs // count) for place in (index, index + 1))
        return first, min(after, self.dimension)

    def width(self, index: int) -> int:
        """Coordinates of a shard."""
        start, stop = self.bounds(index)
        return stop - start

    @property
    def most_bytes(self) -> int:
        """The most bytes of a shard of a vector."""
        widest = max(self.width(index) for index in range(len(self)))
        return packing.most_bytes(widest) + packing.most_bytes(1)  # it may have a block more

    @property
    def enough(self) -> int:
        """Members of a shard's of which at least one is honest: more than half of a committee."""
        return self.needed

    def serving(self, index: int, turn: int = 0) -> tuple[NodeId, ...]:
        """Those that serve a shard: first, then the committee, then twice as many each turn."""
        count = self.first if turn < 1 else (2 * self.needed - 1) << min(turn - 1, 16)
        return self.committees[index][:count]

    def suffices(self, index: int, members: Collection[NodeId]) -> bool:
        """True if one of some members of a shard's is honest: enough of them, or all the first."""
        first = self.serving(index)
        return len(members) >= self.enough or all(member in members for member in first)

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

    def cut(self, vector: Vector) -> CutVector:
        """A vector's shards. ``vector``: int32, shape ``(d,)``."""
        spans = (self.bounds(index) for index in range(len(self)))
        return CutVector(tuple(pack_shard(vector[start:stop], start) for start, stop in spans))

    def unpack(self, index: int, octets: bytes | memoryview) -> Vector:
        """The numbers of a shard: int32, read-only. Raises WireError: QRES-E401 to QRES-E404."""
        start, stop = self.bounds(index)
        return unpack_shard(octets, stop - start, start)

    def joined(self, shards: Sequence[bytes | memoryview]) -> Vector:
        """The vector of all shards, in their order: int32, shape ``(d,)``, read-only.

        Raises WireError: QRES-E401 to QRES-E404, for bytes that are no shards.
        """
        parts = [self.unpack(index, octets) for index, octets in enumerate(shards)]
        vector = np.concatenate(parts)
        vector.flags.writeable = False
        return vector


@attrs.frozen(slots=False, eq=False)
class CutVector:
    """The shards of a vector, packed, and the tree over them."""

    shards: tuple[bytes, ...]

    @cached_property
    def leaves(self) -> tuple[bytes, ...]:
        """The digests of the shards."""
        return tuple(leaf_hash(shard) for shard in self.shards)

    @cached_property
    def root(self) -> bytes:
        """Root of all shards, 32 bytes."""
        return merkle_root(self.leaves)

    def path(self, index: int) -> tuple[bytes, ...]:
        """Proof of a shard to anybody that knows the root."""
        return merkle_path(self.leaves, index)


def pack_shard(numbers: Vector, start: int) -> bytes:
    """The one encoding of a shard.

    Args:
        numbers: int32, any values.
        start: its first coordinate in the update.
    """
    cut = -start % packing.BLOCK
    return packing.pack(numbers[:cut]) + packing.pack(numbers[cut:])


def unpack_shard(octets: bytes | memoryview, width: int, start: int) -> Vector:
    """The numbers of a shard of so many coordinates: int32, read-only.

    ``start``: its first coordinate in the update. Raises WireError: QRES-E401 to QRES-E404. No more
    memory is taken than for so many numbers, whatever the bytes.
    """
    where, cut = "payload.shard", min(-start % packing.BLOCK, width)
    if not cut:
        return packing.unpack(octets, width, where)
    at = packing.block_bytes(octets, cut, where)
    first = packing.unpack(octets[:at], cut, where)
    if cut == width and at == len(octets):
        return first
    numbers = np.concatenate([first, packing.unpack(octets[at:], width - cut, where)])
    numbers.flags.writeable = False
    return numbers
