"""The messages of the protocol and their one encoding.

The round carries every message as an envelope that its sender signed and that binds swarm, round
and model; so a body holds no signature. It begins with the session id. Nodes are named by rank.

| kind | from | body |
|---|---|---|
| advertise | each node | channel key, mask key |
| share | each node | commitments, shares sealed for the holders, the proof that they fit |
| ack | each node | dealers whose shares for it fit |
| complaint | a holder | a dealer whose shares for it do not fit, and what shows that |
| skip | each node | how many leaders it takes no list of |
| list | a leader | who advertised and shared, with the hashes of both messages |
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
from functools import cached_property
from typing import Final, Self

import attrs
import numpy as np

from qres_core.errors import WireError
from qres_secagg.keys import KEY_BYTES
from qres_secagg.parameters import MAX_NODES
from qres_secagg.shamir import ORDER, SCALAR_BYTES, decode
from qres_secagg.sharing import COMMITMENT_BYTES, KEY_TAG_BYTES, SEALED_BYTES, Secret

SID_BYTES: Final = 32
HASH_BYTES: Final = 32
_COUNT: Final = struct.Struct("<H")
MAX_LEADERS: Final = 16
"""Leaders whose turn may come in a session."""
ACK_TAG_BYTES: Final = 16
"""Bytes of a hash by which an ack names a dealing: two of one dealer with the same ones cost 2**64
hashes within a round, and give it a dealing that nobody has checked."""
_DEAL: Final = struct.Struct(
    f"<H{COMMITMENT_BYTES}s{COMMITMENT_BYTES}s{KEY_TAG_BYTES}s{SEALED_BYTES}s"
)
_ACKED: Final = struct.Struct(f"<H{ACK_TAG_BYTES}s")
ACKED: Final = np.dtype([("dealer", "<u2"), ("tag", f"V{ACK_TAG_BYTES}")])
"""A record of :attr:`Ack.records`."""
_ENTRY: Final = struct.Struct(f"<H{HASH_BYTES}s{HASH_BYTES}s")
_OPENED: Final = struct.Struct(f"<H{SCALAR_BYTES}s")


_TOP: Final = ORDER >> 248
MAX_VARIANTS: Final = 64
"""Different messages of one kind and sender that are kept: all that a node may say in a round.

Two prove equivocation. A list may yet name any, and a node that has dropped it could not adopt it.
"""


class Kind(enum.IntEnum):
    """Message kinds; the numbers are the steps of the dialogue."""

    ADVERTISE = 0
    SHARE = 1
    LIST = 2
    STATEMENT = 3
    UNMASK = 4
    ACK = 5
    COMPLAINT = 6
    SKIP = 7


_COMPLAINT: Final = struct.Struct(f"<H{HASH_BYTES}s{HASH_BYTES}s{HASH_BYTES}s{KEY_BYTES}s32s32s")
_OWNERSHIP_BYTES: Final = 64
_FIXED: Final = 3 * COMMITMENT_BYTES + KEY_BYTES + _OWNERSHIP_BYTES

MAX_BYTES: Final = {
    Kind.ADVERTISE: SID_BYTES + 2 * KEY_BYTES,
    Kind.SHARE: SID_BYTES + _FIXED + 2 * _COUNT.size + MAX_NODES * (2 * SCALAR_BYTES + _DEAL.size),
    Kind.LIST: SID_BYTES + 1 + _COUNT.size + MAX_NODES * _ENTRY.size,
    Kind.STATEMENT: SID_BYTES + HASH_BYTES,
    Kind.UNMASK: SID_BYTES + HASH_BYTES + _COUNT.size + MAX_NODES * _OPENED.size,
    Kind.ACK: SID_BYTES + _COUNT.size + MAX_NODES * _ACKED.size,
    Kind.COMPLAINT: SID_BYTES + _COMPLAINT.size,
    Kind.SKIP: SID_BYTES + _COUNT.size,
}
"""Longest body of each kind, in the largest swarm."""


def body_hash(kind: Kind, body: bytes) -> bytes:
    """Name of an advert or a list; SHA-256, 32 bytes."""
    return hashlib.sha256(b"qres-secagg/1 body" + bytes([kind]) + body).digest()


def shares_hash(sid: bytes, shares: Shares) -> bytes:
    """Name of a message of shares in a list and acks; SHA-256, 32 bytes. O(k)."""
    proof = shares.nonce + shares.ownership + shares.seed_response + shares.mask_response
    return hashlib.sha256(b"qres-secagg/1 shares" + sid + shares.promised + proof).digest()


def ack_tag(advert: bytes, shares: bytes) -> bytes:
    """Name of a dealing in an ack; :data:`ACK_TAG_BYTES` bytes.

    ``advert``, ``shares``: hashes of its two messages. Shares that fit under one advert do not
    under another.
    """
    digest = hashlib.sha256(b"qres-secagg/1 ack" + advert + shares).digest()
    return digest[:ACK_TAG_BYTES]


@attrs.frozen
class Advert:
    """Advertise: the public keys of a node for one session."""

    channel: bytes  # key under which shares are sealed for the node
    mask: bytes  # key from which its masks against others come

    @property
    def keys(self) -> tuple[bytes, bytes]:
        """Both."""
        return self.channel, self.mask


@attrs.frozen
class Deal:
    """Shares of a dealer for one holder."""

    seed: bytes  # commitment to the share of the seed
    mask: bytes  # commitment to the share of the mask key
    key: bytes  # names the key of the holder under which they are sealed
    sealed: bytes  # both shares, sealed


@attrs.frozen(slots=False)
class Shares:
    """Share: what a dealer deals."""

    seed: bytes  # commitment to its seed
    # commitments to the two shares it keeps itself, of the seed and of the mask key
    own: tuple[bytes, bytes]
    holders: tuple[int, ...]  # their ranks, ascending
    records: bytes  # one record for each of them, encoded; a node reads only those it needs
    nonce: bytes  # the blind of the mask key, as a point
    # coefficients of the two published polynomials, encoded, see :mod:`qres_secagg.dealing`
    seed_response: bytes = b""
    mask_response: bytes = b""
    ownership: bytes = bytes(64)  # signature under the channel key, see :mod:`qres_secagg.dealing`

    @classmethod
    def of(
        cls, seed: bytes, own: tuple[bytes, bytes], deals: Mapping[int, Deal], *, nonce: bytes
    ) -> Self:
        """From the deal of each holder, by rank; not proved yet."""
        ranks = tuple(sorted(deals))
        records = (_DEAL.pack(rank, *attrs.astuple(deals[rank])) for rank in ranks)
        return cls(seed, own, ranks, b"".join(records), nonce)

    @property
    def threshold(self) -> int:
        """Number of shares that give a secret."""
        return len(self.seed_response) // SCALAR_BYTES

    @cached_property
    def promised(self) -> bytes:
        """Hash of all that is in it before its challenges are known; SHA-256, 32 bytes. O(k)."""
        digest = hashlib.sha256(b"qres-secagg/1 promised" + self.seed + b"".join(self.own))
        digest.update(self.records)  # their number follows from the length
        return digest.digest()

    def deal(self, holder: int) -> Deal | None:
        """Shares for a holder, by rank; ``None`` for none. O(log k)."""
        place = bisect_left(self.holders, holder)
        if place == len(self.holders) or self.holders[place] != holder:
            return None
        return Deal(*_DEAL.unpack_from(self.records, place * _DEAL.size)[1:])

    def promise(self, dealer: int, kind: Secret, holder: int) -> bytes | None:
        """Its commitment to a holder's share, by rank; ``None`` for no share. O(log k)."""
        if holder == dealer:
            return self.own[kind]
        found = self.deal(holder)
        if found is None:
            return None
        return found.seed if kind is Secret.SEED else found.mask


@attrs.frozen
class Ack:
    """Ack: dealers whose shares for the sender fit."""

    dealers: tuple[int, ...]  # their ranks, ascending
    # one record for each of them, encoded: the rank and the name of its dealing, see ack_tag
    records: bytes

    @classmethod
    def of(cls, tags: Mapping[int, bytes]) -> Self:
        """From the :func:`ack_tag` of each dealer, by rank."""
        ranks = tuple(sorted(tags))
        return cls(ranks, b"".join(_ACKED.pack(rank, tags[rank]) for rank in ranks))


@attrs.frozen
class Complaint:
    """Complaint: a dealer's shares for the sender do not fit.

    It lays open what sender and dealer have in common, so that anybody can open the seal.
    """

    dealer: int  # its rank
    shares: bytes  # hash of its message of shares
    advert: bytes  # hash of its advert
    own_advert: bytes  # hash of the sender's advert
    secret: bytes  # the point that their channel keys have in common
    challenge: bytes  # of the proof that it is that point
    response: bytes


@attrs.frozen
class Listing:
    """List: whom the leader of a round found complete."""

    # by rank, ascending, the hashes of the advertise and the share message
    members: dict[int, tuple[bytes, bytes]]


@attrs.frozen
class Skip:
    """Skip: the sender takes no list of the first leaders any more, and has taken none."""

    leaders: int  # how many, from the first; 1 or more, below :data:`MAX_LEADERS`


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
    """The body: 228 bytes, 64 for each of the threshold and 162 for each holder."""
    head = shares.seed, *shares.own, shares.nonce, shares.ownership
    proof = _COUNT.pack(shares.threshold), shares.seed_response, shares.mask_response
    count = _COUNT.pack(len(shares.holders))
    return b"".join((sid, *head, *proof, count, shares.records))


def decode_shares(body: bytes) -> tuple[bytes, Shares]:
    """Session id and value. Raises ``WireError``."""
    size = COMMITMENT_BYTES
    sid, rest = _split(Kind.SHARE, body, _FIXED + 2 * _COUNT.size)
    (threshold,) = _COUNT.unpack_from(rest, _FIXED)
    start = _FIXED + _COUNT.size
    middle, end = start + threshold * SCALAR_BYTES, start + 2 * threshold * SCALAR_BYTES
    if len(rest) < end + _COUNT.size:
        raise WireError.of("QRES-E402", "secagg.share", "truncated")
    ranks = _ranks(Kind.SHARE, _DEAL, rest[end:])
    own = (rest[size : 2 * size], rest[2 * size : 3 * size])
    owned = _FIXED - _OWNERSHIP_BYTES
    nonce, records = rest[3 * size : owned], rest[end + _COUNT.size :]
    proof = rest[start:middle], rest[middle:end], rest[owned:_FIXED]
    return sid, Shares(rest[:size], own, ranks, records, nonce, *proof)


def encode_ack(sid: bytes, ack: Ack) -> bytes:
    """The body, 34 bytes and 18 for each dealer."""
    return sid + _COUNT.pack(len(ack.dealers)) + ack.records


def decode_ack(body: bytes) -> tuple[bytes, Ack]:
    """Session id and value. Raises ``WireError``."""
    sid, rest = _split(Kind.ACK, body, _COUNT.size)
    return sid, Ack(_ranks(Kind.ACK, _ACKED, rest), rest[_COUNT.size :])


def encode_complaint(sid: bytes, complaint: Complaint) -> bytes:
    """The body, 226 bytes."""
    return sid + _COMPLAINT.pack(*attrs.astuple(complaint))


def decode_complaint(body: bytes) -> tuple[bytes, Complaint]:
    """Session id and value; nothing of it is checked yet. Raises ``WireError``."""
    sid, rest = _split(Kind.COMPLAINT, body, _COMPLAINT.size)
    return sid, Complaint(*_COMPLAINT.unpack(rest))


def encode_listing(sid: bytes, listing: Listing) -> bytes:
    """The body, 34 bytes and 66 for each member."""
    records = ((rank, *hashes) for rank, hashes in sorted(listing.members.items()))
    return sid + _counted(_ENTRY, records)


def decode_listing(body: bytes) -> tuple[bytes, Listing]:
    """Session id and value. Raises ``WireError``."""
    sid, rest = _split(Kind.LIST, body, _COUNT.size)
    _ranks(Kind.LIST, _ENTRY, rest)
    records = _ENTRY.iter_unpack(rest[_COUNT.size :])
    members: dict[int, tuple[bytes, bytes]] = {rank: (a, b) for rank, a, b in records}
    return sid, Listing(members)


def encode_statement(sid: bytes, statement: bytes) -> bytes:
    """The body, 64 bytes."""
    return sid + statement


def decode_statement(body: bytes) -> tuple[bytes, bytes]:
    """Session id and digest of the survivor set. Raises ``WireError``."""
    return _split(Kind.STATEMENT, body, HASH_BYTES)


def encode_skip(sid: bytes, skip: Skip) -> bytes:
    """The body, 34 bytes."""
    return sid + _COUNT.pack(skip.leaders)


def decode_skip(body: bytes) -> tuple[bytes, Skip]:
    """Session id and value. Raises ``WireError``."""
    sid, rest = _split(Kind.SKIP, body, _COUNT.size)
    (leaders,) = _COUNT.unpack(rest)
    if not 1 <= leaders < MAX_LEADERS:
        raise _refused(Kind.SKIP, f"{leaders} leaders, 1 to {MAX_LEADERS - 1} may be skipped")
    return sid, Skip(leaders)


def encode_unmask(sid: bytes, unmask: Unmask) -> bytes:
    """The body, 66 bytes and 34 for each dealer."""
    return sid + unmask.statement + _counted(_OPENED, sorted(unmask.shares.items()))


def decode_unmask(body: bytes) -> tuple[bytes, Unmask]:
    """Session id and value. Raises ``WireError``."""
    sid, rest = _split(Kind.UNMASK, body, HASH_BYTES + _COUNT.size)
    _ranks(Kind.UNMASK, _OPENED, rest[HASH_BYTES:])
    records = rest[HASH_BYTES + _COUNT.size :]
    shares: dict[int, bytes] = dict(_OPENED.iter_unpack(records))
    # Hardly any share has a top byte as large as the order's, and only those can be outside.
    tops = records[_OPENED.size - 1 :: _OPENED.size]
    if max(tops, default=0) >= _TOP and any(decode(share) >= ORDER for share in shares.values()):
        raise _refused(Kind.UNMASK, "a share is outside the field")
    return sid, Unmask(rest[:HASH_BYTES], shares)


Message = Advert | Shares | Listing | bytes | Unmask | Ack | Complaint | Skip
DECODERS: Final[dict[Kind, Callable[[bytes], tuple[bytes, Message]]]] = {
    Kind.ADVERTISE: decode_advert,
    Kind.SHARE: decode_shares,
    Kind.LIST: decode_listing,
    Kind.STATEMENT: decode_statement,
    Kind.UNMASK: decode_unmask,
    Kind.ACK: decode_ack,
    Kind.COMPLAINT: decode_complaint,
    Kind.SKIP: decode_skip,
}
"""The decoder of each kind."""
