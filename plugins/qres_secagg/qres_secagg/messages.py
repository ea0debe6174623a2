"""The messages of the protocol and their one encoding.

The round carries every message as an envelope that its sender signed and that binds swarm, round
and model; so a body holds no signature. It begins with the session id. Nodes are named by rank.

| kind | from | body |
|---|---|---|
| advertise | each node | channel key, mask key |
| share | each node | commitments, shares sealed for the holders |
| list | the leader | who advertised and shared, with the hashes of both messages |
| masked input | each node | a contribution of the round, not a body of this module |
| statement | each node | what it takes for the survivor set, as a digest |
| unmask | each node | one opened share per node it holds shares of |

All numbers are little-endian and of fixed size, lists ascend strictly, and nothing follows the end:
a body has one reading and a value has one body. Decoders give a value or QRES-E401, QRES-E402 or
QRES-E404, whatever the bytes.
"""

from __future__ import annotations

import enum
import hashlib
import struct
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Self

import attrs
import numpy as np

from qres_core import WireError
from qres_secagg.graph import MAX_LEVEL
from qres_secagg.keys import KEY_BYTES
from qres_secagg.parameters import MAX_NODES
from qres_secagg.shamir import PRIME, SHARE_BYTES
from qres_secagg.sharing import COMMITMENT_BYTES, SEALED_BYTES, Secret

SID_BYTES: Final = 32
HASH_BYTES: Final = 32
_COUNT: Final = struct.Struct("<H")
_DEAL: Final = struct.Struct(f"<H{COMMITMENT_BYTES}s{COMMITMENT_BYTES}s{SEALED_BYTES}s")
_PROMISE: Final = {
    # Of a deal, the holder and one commitment.
    Secret.SEED: struct.Struct(f"<H{COMMITMENT_BYTES}s{COMMITMENT_BYTES + SEALED_BYTES}x"),
    Secret.MASK_KEY: struct.Struct(f"<H{COMMITMENT_BYTES}x{COMMITMENT_BYTES}s{SEALED_BYTES}x"),
}
_ENTRY: Final = struct.Struct(f"<H{HASH_BYTES}s{HASH_BYTES}s")
_OPENED: Final = struct.Struct(f"<H{SHARE_BYTES}s")


class Kind(enum.IntEnum):
    """Message kinds; the numbers are the steps of the dialogue."""

    ADVERTISE = 0
    SHARE = 1
    LIST = 2
    STATEMENT = 3
    UNMASK = 4


MAX_BYTES: Final = {
    Kind.ADVERTISE: SID_BYTES + 2 * KEY_BYTES,
    Kind.SHARE: SID_BYTES + 3 * COMMITMENT_BYTES + _COUNT.size + MAX_NODES * _DEAL.size,
    Kind.LIST: SID_BYTES + 1 + _COUNT.size + MAX_NODES * _ENTRY.size,
    Kind.STATEMENT: SID_BYTES + HASH_BYTES,
    Kind.UNMASK: SID_BYTES + HASH_BYTES + _COUNT.size + MAX_NODES * _OPENED.size,
}
"""Longest body of each kind, in the largest swarm."""


def body_hash(kind: Kind, body: bytes) -> bytes:
    """How a list names a message; SHA-256, 32 bytes."""
    return hashlib.sha256(b"qres-secagg/1 body" + bytes([kind]) + body).digest()


@attrs.frozen
class Advert:
    """Advertise: the public keys of a node for one session."""

    channel: bytes  # X25519 key under which shares are sealed for the node
    mask: bytes  # X25519 key from which its masks against others come

    @property
    def keys(self) -> tuple[bytes, bytes]:
        """Both."""
        return self.channel, self.mask


@attrs.frozen
class Deal:
    """What a dealer has for one holder."""

    seed: bytes  # commitment to the share of the seed
    mask: bytes  # commitment to the share of the mask key
    sealed: bytes  # both shares, sealed


@attrs.frozen
class Shares:
    """Share: what a dealer deals."""

    seed: bytes  # commitment to its seed
    # commitments to the two shares it keeps itself, of the seed and of the mask key
    own: tuple[bytes, bytes]
    holders: tuple[int, ...]  # their ranks, ascending
    records: bytes  # one record for each of them, encoded; a node reads only those it needs

    @classmethod
    def of(cls, seed: bytes, own: tuple[bytes, bytes], deals: Mapping[int, Deal]) -> Self:
        """From the deal of each holder, by rank."""
        ranks = tuple(sorted(deals))
        records = (_DEAL.pack(rank, *attrs.astuple(deals[rank])) for rank in ranks)
        return cls(seed, own, ranks, b"".join(records))

    def deal(self, holder: int) -> Deal | None:
        """What it has for a holder, by rank; ``None`` for nothing. O(log k)."""
        place = bisect_left(self.holders, holder)
        if place == len(self.holders) or self.holders[place] != holder:
            return None
        _, seed, mask, sealed = _DEAL.unpack_from(self.records, place * _DEAL.size)
        return Deal(seed, mask, sealed)

    def promises(self, dealer: int, kind: Secret) -> dict[int, bytes]:
        """Its commitments to the shares of a secret, by rank of the holder. O(k)."""
        found: dict[int, bytes] = dict(_PROMISE[kind].iter_unpack(self.records))
        found[dealer] = self.own[kind]
        return found


@attrs.frozen
class Listing:
    """List: whom the leader of a round found complete."""

    level: int  # how often groups were halved, 0..16
    # by rank, ascending, the hashes of the advertise and the share message
    members: dict[int, tuple[bytes, bytes]]


@attrs.frozen
class Unmask:
    """Unmask: one opened share of each node the sender holds shares of.

    Of which secret is not said: it follows from the survivor set the message names. So no message
    can say that a node is both in the sum and not.
    """

    statement: bytes  # digest of the survivor set it is for
    shares: dict[int, bytes]  # encoded share by rank of its dealer, ascending


def _refused(kind: Kind, what: str) -> WireError:
    return WireError.of("QRES-E404", f"secagg.{kind.name.lower()}", what)


def _split(kind: Kind, body: bytes, least: int) -> tuple[bytes, bytes]:
    """Session id and rest, after the checks of length."""
    if len(body) > MAX_BYTES[kind]:
        what = f"{len(body)} bytes, limit {MAX_BYTES[kind]}"
        raise WireError.of("QRES-E401", f"secagg.{kind.name.lower()}", what)
    if len(body) < SID_BYTES + least:
        raise WireError.of("QRES-E402", f"secagg.{kind.name.lower()}", "truncated")
    return body[:SID_BYTES], body[SID_BYTES:]


def _ranks(kind: Kind, form: struct.Struct, octets: bytes) -> tuple[int, ...]:
    """The ranks at the heads of a counted list of records; they ascend strictly."""
    (count,) = _COUNT.unpack_from(octets)
    if len(octets) != _COUNT.size + count * form.size:
        raise WireError.of("QRES-E402", f"secagg.{kind.name.lower()}", "length is not its count's")
    heads = np.ndarray((count,), "<u2", octets, _COUNT.size, (form.size,))
    if not (heads[:-1] < heads[1:]).all():
        raise _refused(kind, "ranks do not ascend")
    return tuple(heads.tolist())


def _counted(form: struct.Struct, records: Iterable[tuple[object, ...]]) -> bytes:
    packed = [form.pack(*record) for record in records]
    return _COUNT.pack(len(packed)) + b"".join(packed)


def encode_advert(sid: bytes, advert: Advert) -> bytes:
    """The body, 96 bytes."""
    return sid + advert.channel + advert.mask


def decode_advert(body: bytes) -> tuple[bytes, Advert]:
    """Session id and value; the keys are not checked yet. Raises ``WireError``."""
    sid, rest = _split(Kind.ADVERTISE, body, 2 * KEY_BYTES)
    return sid, Advert(rest[:KEY_BYTES], rest[KEY_BYTES:])


def encode_shares(sid: bytes, shares: Shares) -> bytes:
    """The body, 130 bytes and 148 for each holder."""
    count = _COUNT.pack(len(shares.holders))
    return sid + shares.seed + b"".join(shares.own) + count + shares.records


def decode_shares(body: bytes) -> tuple[bytes, Shares]:
    """Session id and value. Raises ``WireError``."""
    size = COMMITMENT_BYTES
    sid, rest = _split(Kind.SHARE, body, 3 * size + _COUNT.size)
    ranks = _ranks(Kind.SHARE, _DEAL, rest[3 * size :])
    own = (rest[size : 2 * size], rest[2 * size : 3 * size])
    return sid, Shares(rest[:size], own, ranks, rest[3 * size + _COUNT.size :])


def encode_listing(sid: bytes, listing: Listing) -> bytes:
    """The body, 35 bytes and 66 for each member."""
    records = ((rank, *hashes) for rank, hashes in sorted(listing.members.items()))
    return sid + bytes([listing.level]) + _counted(_ENTRY, records)


def decode_listing(body: bytes) -> tuple[bytes, Listing]:
    """Session id and value. Raises ``WireError``."""
    sid, rest = _split(Kind.LIST, body, 1 + _COUNT.size)
    if rest[0] > MAX_LEVEL:
        raise _refused(Kind.LIST, f"level {rest[0]} above {MAX_LEVEL}")
    _ranks(Kind.LIST, _ENTRY, rest[1:])
    records = _ENTRY.iter_unpack(rest[1 + _COUNT.size :])
    members: dict[int, tuple[bytes, bytes]] = {rank: (a, b) for rank, a, b in records}
    return sid, Listing(rest[0], members)


def encode_statement(sid: bytes, statement: bytes) -> bytes:
    """The body, 64 bytes."""
    return sid + statement


def decode_statement(body: bytes) -> tuple[bytes, bytes]:
    """Session id and digest of the survivor set. Raises ``WireError``."""
    return _split(Kind.STATEMENT, body, HASH_BYTES)


def encode_unmask(sid: bytes, unmask: Unmask) -> bytes:
    """The body, 66 bytes and 35 for each dealer."""
    return sid + unmask.statement + _counted(_OPENED, sorted(unmask.shares.items()))


def decode_unmask(body: bytes) -> tuple[bytes, Unmask]:
    """Session id and value. Raises ``WireError``."""
    sid, rest = _split(Kind.UNMASK, body, HASH_BYTES + _COUNT.size)
    _ranks(Kind.UNMASK, _OPENED, rest[HASH_BYTES:])
    records = rest[HASH_BYTES + _COUNT.size :]
    shares: dict[int, bytes] = dict(_OPENED.iter_unpack(records))
    # Hardly any share has its top byte set, and only those can be outside the field.
    if any(records[_OPENED.size - 1 :: _OPENED.size]) and any(
        int.from_bytes(share, "little") >= PRIME for share in shares.values()
    ):
        raise _refused(Kind.UNMASK, "a share is outside the field")
    return sid, Unmask(rest[:HASH_BYTES], shares)


Message = Advert | Shares | Listing | bytes | Unmask
DECODERS: Final[dict[Kind, Callable[[bytes], tuple[bytes, Message]]]] = {
    Kind.ADVERTISE: decode_advert,
    Kind.SHARE: decode_shares,
    Kind.LIST: decode_listing,
    Kind.STATEMENT: decode_statement,
    Kind.UNMASK: decode_unmask,
}
"""The decoder of each kind."""
