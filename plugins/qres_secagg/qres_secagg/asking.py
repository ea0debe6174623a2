"""How nodes ask each other for messages that were lost.

Who is to mask must have every listed key from its owner itself: it asks the owner, who sends the
same messages again under its own signature. Who only wants to open the sum may take them from
anybody, as *quotes*: the list, which a quorum's statements bind, names the hash of each.

| step | body |
|---|---|
| want | session id, what (0 own messages, 1 the list, 2 quotes), count, ranks |
| quote | session id, kind, rank of the author, the body as it was |
"""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import Final

import attrs

from qres_core import WireError
from qres_secagg.messages import MAX_BYTES, SID_BYTES, Kind
from qres_secagg.parameters import MAX_NODES

WANT: Final = 5
QUOTE: Final = 6
MAX_RANKS: Final = 64
"""Most authors asked for at once."""
OWN, LISTING, QUOTES = 0, 1, 2
_COUNT: Final = struct.Struct("<BH")
_HEAD: Final = struct.Struct("<BH")


@attrs.frozen
class Want:
    """A request.

    Attributes:
        what: 0 for the peer's own advert and shares, 1 for the leader's list, 2 for quotes.
        ranks: with 2, whose messages, ascending; else empty.
    """

    what: int
    ranks: tuple[int, ...] = ()


@attrs.frozen
class Quote:
    """A message of another node, unsigned.

    Attributes:
        kind: advertise, share or list.
        rank: its author.
        body: as it was.
    """

    kind: Kind
    rank: int
    body: bytes


def _bad(what: str) -> WireError:
    return WireError.of("QRES-E404", "secagg.asking", what)


def encode_want(sid: bytes, want: Want) -> bytes:
    """The body."""
    ranks = want.ranks
    return sid + _COUNT.pack(want.what, len(ranks)) + struct.pack(f"<{len(ranks)}H", *ranks)


def decode_want(body: bytes) -> tuple[bytes, Want]:
    """Session id and request. Raises ``WireError`` QRES-E402, QRES-E404."""
    rest = body[SID_BYTES:]
    if len(rest) < _COUNT.size or len(rest) > _COUNT.size + 2 * MAX_RANKS:
        raise WireError.of("QRES-E402", "secagg.want", f"{len(body)} bytes")
    what, count = _COUNT.unpack_from(rest)
    if what not in (OWN, LISTING, QUOTES) or len(rest) != _COUNT.size + 2 * count:
        raise _bad("not a request")
    ranks = struct.unpack_from(f"<{count}H", rest, _COUNT.size)
    if (what == QUOTES) != bool(ranks) or any(a >= b for a, b in pairwise(ranks)):
        raise _bad("ranks do not ascend, or do not belong there")
    return body[:SID_BYTES], Want(what, ranks)


def encode_quote(sid: bytes, quote: Quote) -> bytes:
    """The body."""
    return sid + _HEAD.pack(quote.kind, quote.rank) + quote.body


def decode_quote(body: bytes) -> tuple[bytes, Quote]:
    """Session id and quote; its body is not looked into. Raises ``WireError``."""
    rest = body[SID_BYTES:]
    if len(rest) < _HEAD.size:
        raise WireError.of("QRES-E402", "secagg.quote", "truncated")
    kind, rank = _HEAD.unpack_from(rest)
    if kind not in (Kind.ADVERTISE, Kind.SHARE, Kind.LIST) or rank >= MAX_NODES:
        raise _bad("not a message that is quoted")
    inner = rest[_HEAD.size :]
    if len(inner) > MAX_BYTES[Kind(kind)]:
        raise WireError.of("QRES-E401", "secagg.quote", f"{len(inner)} bytes")
    return body[:SID_BYTES], Quote(Kind(kind), rank, inner)
