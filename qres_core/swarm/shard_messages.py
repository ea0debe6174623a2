"""What the payloads of a sharded round's own messages hold.

Every decoder maps any bytes to a value or to a :class:`WireError` that names the field.

=============  ==================================================================================
kind           payload
=============  ==================================================================================
contribution   weight, Merkle root over the digests of the vector's shards
shard/part     a shard of a contribution, with what proves it; to members of its committee
shard/held     names of contributions, and for each of them which shards the sender holds
shard/ask      contributions by digest, each with a shard that the sender lacks
shard/merged   a set, and for shards of it the digest of what they merge to, or the code of the
               error with which the rule refused the set
shard/pull     a set, and merged shards of it that the sender lacks
shard/result   a merged shard of a set
=============  ==================================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Final, TypeAlias

import attrs

from qres_core.contract import canonical
from qres_core.contract.types import DIGEST_BYTES, MAX_WEIGHT
from qres_core.swarm.fields import Fields

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

    def to_bytes(self) -> bytes:
        """Encode."""
        return canonical.dumps([self.weight, self.root])

    @classmethod
    def from_bytes(cls, payload: bytes) -> ContributionHeader:
        """Decode. Raises WireError: QRES-E401 to QRES-E404."""
        weight, root = _FIELDS.listed(canonical.loads(payload, max_bytes=64), 2, "contribution")
        return cls(
            _FIELDS.number(weight, 1, MAX_WEIGHT, "weight"),
            _FIELDS.octets(root, DIGEST_BYTES, "root"),
        )


@attrs.frozen(eq=False)
class ShardPart:
    """A shard of a contribution."""

    contribution: bytes  # its digest, 32 bytes
    index: int  # which shard
    octets: bytes | memoryview  # little-endian int32
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
    """What names a contribution in statements. ``contribution``: its digest, 32 bytes."""
    return contribution[:HELD_NAME_BYTES]


def encode_held(held: Mapping[bytes, int]) -> bytes:
    """What a node holds: by :func:`held_name`, bit ``i`` for the ``i``-th of its seats."""
    masks = ((name, mask.to_bytes((mask.bit_length() + 7) // 8, "little")) for name, mask in
             sorted(held.items()))  # fmt: skip
    return canonical.dumps([[name, mask] for name, mask in masks])


def decode_held(payload: bytes, seats: int, most: int) -> dict[bytes, int]:
    """What a node of so many seats holds of at most so many contributions.

    Raises WireError: QRES-E401 to QRES-E404.
    """
    limit = most * (HELD_NAME_BYTES + seats // 8 + 8) + 16
    value = canonical.loads(payload, max_bytes=limit, max_items=3 * most + 1)
    held: dict[bytes, int] = {}
    for item in _FIELDS.items(value, 0, most, "held"):
        name, mask = _FIELDS.listed(item, 2, "held")
        if type(mask) is not bytes or mask[-1:] == b"\0" or len(mask) > (seats + 7) // 8:
            raise _FIELDS.bad("held", "expected which of the sender's shards it holds")
        held[_FIELDS.octets(name, HELD_NAME_BYTES, "held")] = int.from_bytes(mask, "little")
    if any(mask >> seats for mask in held.values()) or len(held) != len(value):
        raise _FIELDS.bad("held", "expected distinct contributions, and the sender's own shards")
    return held


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
    """What shards of a set merge to. ``chosen``: digest of the set."""
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


@attrs.frozen(eq=False)
class MergedShard:
    """What a shard of a set merges to."""

    chosen: bytes  # digest of the set, 32 bytes
    index: int  # which shard
    octets: bytes | memoryview  # little-endian int32

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
