"""Payloads of a sharded round's own messages.

Every decoder maps any bytes to a value or to a :class:`WireError` that names the field.

=============  ==================================================================================
kind           payload
=============  ==================================================================================
contribution   weight, Merkle root over the digests of the vector's shards, proofs by plugin,
               companions by plugin
shard/part     a shard of a contribution, with what proves it; to members of its committee
shard/held     names of contributions, and for each of them which shards the sender holds; and the
               same of the contributions of members in a row, by bits, with a digest of theirs
shard/ask      contributions by digest, each with a shard that the sender lacks; or, after a digest
               of zeros, one of which it does not hear that enough hold it
shard/merged   a set, and for shards of it the digest of what they merge to, or the code of the
               error with which the rule refused the set
shard/pull     a set, and merged shards of it that the sender lacks
shard/result   a merged shard of a set
=============  ==================================================================================

How a shard is packed: :mod:`qres_core.swarm.shards.committees`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Final, TypeAlias

import attrs

from qres_core.contract import canonical
from qres_core.contract.companion import Companion
from qres_core.contract.types import DIGEST_BYTES
from qres_core.swarm.ledger.fields import Fields
from qres_core.swarm.ledger.merkle import leaf_hash
from qres_core.swarm.ledger.messages import decode_contribution, encode_contribution

SHARD: Final = "shard/"
PART: Final = "shard/part"
HELD: Final = "shard/held"
ASK: Final = "shard/ask"
SHARD_MERGED: Final = "shard/merged"
PULL: Final = "shard/pull"
RESULT: Final = "shard/result"

HELD_NAME_BYTES: Final = 16
"""Of a contribution's digest, which name it in statements. Two contributions with one name take
2**64 tries to find, and would only let their sender's own be counted for each other."""
HELD_BLOCK: Final = 64
"""Members in a row of whose contributions one digest and bits speak in statements. More would be
fewer bytes, and a member that signs two contributions spoils the words about all in its row."""
ASKS_WHO: Final = bytes(DIGEST_BYTES), 0
"""The first of what a member asks for who does not lack the shards: it hears of too few holders."""
_MAX_CODE: Final = 32
_MAX_PATH: Final = 32
_BESIDE: Final = 256
"""Bytes of a payload beside a shard's octets and its path."""
_FIELDS: Final = Fields("payload.")
ShardResult: TypeAlias = bytes | str
"""The digest of a merged shard, or the code of the error with which the rule refused the set."""


@attrs.frozen
class ContributionHeader:
    """The payload of a contribution to a sharded round."""

    weight: int  # claimed number of examples, 1..2**30
    root: bytes  # Merkle root over the digests of the vector's shards, 32 bytes
    # as in :class:`~qres_core.swarm.ledger.messages.ContributionBody`
    proofs: Mapping[str, bytes] = attrs.field(factory=dict[str, bytes])
    companions: Mapping[str, Companion] = attrs.field(factory=dict[str, Companion])

    def to_bytes(self) -> bytes:
        """Encode."""
        return encode_contribution(self.weight, self.root, self.proofs, self.companions)

    @classmethod
    def from_bytes(cls, payload: bytes) -> ContributionHeader:
        """Decode. Raises WireError: QRES-E401 to QRES-E404."""
        weight, root, proofs, companions = decode_contribution(payload, DIGEST_BYTES)
        return cls(weight, _digest(root, "root"), proofs, companions)


class Shard:
    """Some octets, packed, and their digest."""

    octets: bytes | memoryview

    @cached_property
    def leaf(self) -> bytes:
        """The digest of the octets, 32 bytes."""
        return leaf_hash(self.octets)


@attrs.frozen(eq=False, slots=False)
class ShardPart(Shard):
    """A shard of a contribution."""

    contribution: bytes  # its digest, 32 bytes
    index: int  # which shard
    octets: bytes | memoryview  # packed
    path: tuple[bytes, ...]  # proves the shard to whoever knows the root

    def to_bytes(self) -> bytes:
        """Encode."""
        path = b"".join(self.path)
        return canonical.dumps([self.contribution, self.index, bytes(self.octets), path])

    @classmethod
    def from_bytes(cls, payload: bytes, shards: int, most: int) -> ShardPart:
        """Decode a shard of at most so many bytes. Raises WireError: QRES-E401 to QRES-E404."""
        limit = most + _MAX_PATH * DIGEST_BYTES + _BESIDE
        value = canonical.loads(payload, max_bytes=limit, views=True)
        digest, index, octets, path = _FIELDS.listed(value, 4, "part")
        _FIELDS.number(index, 0, shards - 1, "part.index")
        proof = _view(path, _MAX_PATH * DIGEST_BYTES, "part.path")
        if len(proof) % DIGEST_BYTES:
            raise _FIELDS.bad("part.path", f"expected digests of {DIGEST_BYTES} bytes")
        starts = range(0, len(proof), DIGEST_BYTES)
        return cls(
            _digest(digest, "part.contribution"),
            index,
            _view(octets, most, "part.octets"),
            tuple(bytes(proof[start : start + DIGEST_BYTES]) for start in starts),
        )


def held_name(contribution: bytes) -> bytes:
    """Name of a contribution in statements. ``contribution``: its digest, 32 bytes."""
    return contribution[:HELD_NAME_BYTES]


@attrs.frozen
class HeldBlock:
    """Holdings of a node, of the contributions to a round by members in a row of the roster."""

    number: int  # members 64 i to 64 i + 63 of the roster
    digest: bytes  # :func:`block_digest` of the contributions that it speaks of, 16 bytes
    members: int  # bit j: it speaks of that of the j-th of these members; at least one
    seats: tuple[int, ...]  # for each of the node's seats, whose shards it holds


def block_digest(contributions: Iterable[bytes]) -> bytes:
    """Digest of contributions, by their digests in the order of their senders: 16 bytes."""
    digest = hashlib.sha256(b"qres/held/v1\0")
    for contribution in contributions:
        digest.update(contribution)
    return digest.digest()[:HELD_NAME_BYTES]


def encode_held(held: Mapping[bytes, int], blocks: Iterable[HeldBlock] = ()) -> bytes:
    """Encode a node's holdings, by :func:`held_name`: bit ``i`` for the ``i``-th of its seats."""
    named = [[name, _bits(mask)] for name, mask in sorted(held.items())]
    rows = [
        [block.number, block.digest, _bits(block.members), [_bits(seat) for seat in block.seats]]
        for block in blocks
    ]
    return canonical.dumps([named, rows])


def decode_held(
    payload: bytes, seats: int, most: int, members: int = 0
) -> tuple[dict[bytes, int], list[HeldBlock]]:
    """Read a node's holdings: of so many seats, at most so many contributions, of a roster.

    ``members``: of the roster. Raises WireError: QRES-E401 to QRES-E404.
    """
    rows = -(-members // HELD_BLOCK)
    limit = most * (HELD_NAME_BYTES + seats // 8 + 8) + rows * (48 + 10 * seats) + 16
    items = 3 * most + rows * (5 + seats) + 3
    value = canonical.loads(payload, max_bytes=limit, max_items=items)
    named, listed = _FIELDS.listed(value, 2, "held")
    held: dict[bytes, int] = {}
    for item in _FIELDS.items(named, 0, most, "held"):
        name, mask = _FIELDS.listed(item, 2, "held")
        held[_FIELDS.octets(name, HELD_NAME_BYTES, "held")] = _mask(mask, seats)
    if len(held) != len(named):
        raise _FIELDS.bad("held", "expected distinct contributions")
    blocks = [
        _block(item, seats, members) for item in _FIELDS.items(listed, 0, rows, "held.blocks")
    ]
    if len({block.number for block in blocks}) != len(blocks):
        raise _FIELDS.bad("held.blocks", "expected distinct blocks")
    return held, blocks


def _block(item: object, seats: int, members: int) -> HeldBlock:
    number, digest, of, held = _FIELDS.listed(item, 4, "held.blocks")
    _FIELDS.number(number, 0, (members - 1) // HELD_BLOCK, "held.blocks")
    speaks_of = _mask(of, min(HELD_BLOCK, members - number * HELD_BLOCK))
    masks = tuple(_mask(mask, HELD_BLOCK) for mask in _FIELDS.listed(held, seats, "held.blocks"))
    if not speaks_of or any(mask & ~speaks_of for mask in masks):
        raise _FIELDS.bad("held.blocks", "expected shards of the contributions it speaks of")
    named = _FIELDS.octets(digest, HELD_NAME_BYTES, "held.blocks")
    return HeldBlock(number, named, speaks_of, masks)


def _bits(mask: int) -> bytes:
    return mask.to_bytes((mask.bit_length() + 7) // 8, "little")


def _mask(octets: object, most: int) -> int:
    """Of at most so many bits, in the one encoding that it has."""
    if type(octets) is not bytes or octets[-1:] == b"\0" or len(octets) > (most + 7) // 8:
        raise _FIELDS.bad("held", f"expected a mask of at most {most} bits")
    mask = int.from_bytes(octets, "little")
    if mask >> most:
        raise _FIELDS.bad("held", f"expected a mask of at most {most} bits")
    return mask


def encode_ask(wanted: Iterable[tuple[bytes, int]]) -> bytes:
    """Shards that a node lacks: digest of the contribution, and index."""
    return canonical.dumps([[digest, index] for digest, index in wanted])


def decode_ask(payload: bytes, shards: int, most: int) -> list[tuple[bytes, int]]:
    """At most so many shards. Raises WireError: QRES-E401 to QRES-E404."""
    value = canonical.loads(payload, max_bytes=48 * most + 16, max_items=3 * most + 1)
    pairs = (_FIELDS.listed(item, 2, "ask") for item in _FIELDS.items(value, 1, most, "ask"))
    return [
        (
            _FIELDS.octets(digest, DIGEST_BYTES, "ask.contribution"),
            _FIELDS.number(index, 0, shards - 1, "ask.index"),
        )
        for digest, index in pairs
    ]


def encode_shard_results(chosen: bytes, results: Mapping[int, ShardResult]) -> bytes:
    """Encode results of shards of a set. ``chosen``: digest of the set."""
    return canonical.dumps([chosen, [[index, results[index]] for index in sorted(results)]])


def decode_shard_results(payload: bytes, shards: int) -> tuple[bytes, dict[int, ShardResult]]:
    """Digest of the set, and results by shard. Raises WireError: QRES-E401 to QRES-E404."""
    value = canonical.loads(payload, max_bytes=48 * shards + 64, max_items=3 * shards + 4)
    chosen, items = _FIELDS.listed(value, 2, "merged")
    found: dict[int, ShardResult] = {}
    for item in _FIELDS.items(items, 1, shards, "merged.results"):
        index, result = _FIELDS.listed(item, 2, "merged.results")
        _FIELDS.number(index, 0, shards - 1, "merged.results.index")
        is_digest = type(result) is bytes and len(result) == DIGEST_BYTES
        is_code = type(result) is str and result.isascii() and len(result) <= _MAX_CODE
        if not (is_digest or is_code):
            raise _FIELDS.bad("merged.results", "expected a digest, or the code of an error")
        found[index] = result
    if len(found) != len(items):
        raise _FIELDS.bad("merged.results", "expected distinct shards")
    return _FIELDS.octets(chosen, DIGEST_BYTES, "merged.set"), found


def encode_pull(chosen: bytes, indices: Sequence[int]) -> bytes:
    """Merged shards that a node lacks. ``chosen``: digest of the set."""
    return canonical.dumps([chosen, sorted(indices)])


def decode_pull(payload: bytes, shards: int) -> tuple[bytes, list[int]]:
    """Digest of the set, and shards of it. Raises WireError: QRES-E401 to QRES-E404."""
    value = canonical.loads(payload, max_bytes=10 * shards + 64, max_items=shards + 4)
    chosen, items = _FIELDS.listed(value, 2, "pull")
    indices = _FIELDS.items(items, 1, shards, "pull.shards")
    for index in indices:
        _FIELDS.number(index, 0, shards - 1, "pull.shards")
    if any(a >= b for a, b in pairwise(indices)):
        raise _FIELDS.bad("pull.shards", "expected distinct shards, ascending")
    return _FIELDS.octets(chosen, DIGEST_BYTES, "pull.set"), indices


def named_set(payload: bytes) -> bytes:
    """Name of the set in a message about its shards; empty if there is none.

    It is the first of a list: no more than that is looked at.
    """
    return payload[3:35] if payload[1:3] == b"\x58\x20" else b""


@attrs.frozen(eq=False, slots=False)
class MergedShard(Shard):
    """Result of merging a shard of a set."""

    chosen: bytes  # digest of the set, 32 bytes
    index: int  # which shard
    octets: bytes | memoryview  # packed, or what else a phase finds

    def to_bytes(self) -> bytes:
        """Encode."""
        return canonical.dumps([self.chosen, self.index, bytes(self.octets)])

    @classmethod
    def from_bytes(cls, payload: bytes, shards: int, most: int) -> MergedShard:
        """Decode a shard of at most so many bytes. Raises WireError: QRES-E401 to QRES-E404."""
        value = canonical.loads(payload, max_bytes=most + _BESIDE, views=True)
        chosen, index, octets = _FIELDS.listed(value, 3, "result")
        _FIELDS.number(index, 0, shards - 1, "result.index")
        return cls(_digest(chosen, "result.set"), index, _view(octets, most, "result.octets"))


def _view(value: object, most: int, field: str) -> memoryview:
    if type(value) is not memoryview or len(value) > most:
        raise _FIELDS.bad(field, f"expected at most {most} bytes")
    return value


def _digest(value: object, field: str) -> bytes:
    return _FIELDS.octets(bytes(_view(value, DIGEST_BYTES, field)), DIGEST_BYTES, field)
