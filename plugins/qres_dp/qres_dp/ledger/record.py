"""Record of a ledger about a release."""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Mapping
from typing import Any, Final

import attrs

from qres_core import DIGEST_BYTES, NODE_ID_BYTES, NodeId, canonical
from qres_core.errors import WireError

MAX_BODY: Final = 2048
NOTHING_LEFT: Final = bytes(DIGEST_BYTES)
"""The content of a release that a kill came before."""
_DOMAIN: Final = b"qres/dp/ledger/v2\0"
_INTEGER: Final = 2**62
_BYTES: Final = ("node", "journal", "head", "stream", "content")
_NUMBERS: Final = (
    "height",
    "round",
    "bound",
    "scale",
    "dimension",
    "nodes",
    "honest",
    "units",
    "row",
)
_KINDS: Final[Mapping[str, type]] = {
    **dict.fromkeys(_BYTES, bytes),
    **dict.fromkeys(_NUMBERS, int),
}
"""Types of the fields of a charge on disk; the others are text, and numbers are in it."""


@attrs.frozen(kw_only=True)
class Charge:
    """A release of noised data, as the accounting sees it: all that it was made by.

    Two releases are two charges, also where they are equal in every field.
    """

    swarm: str  # the swarm's name
    node: NodeId  # whose contribution it was for
    journal: bytes  # names the node's journal, 16 bytes; empty where it keeps none
    height: int  # of the round
    round: int  # number of the round; each attempt has another
    head: bytes  # digest of the head of the round, 32 bytes, or empty where there is none
    mode: str  # ``local`` or ``distributed``
    relation: str  # the neighbouring relation, ``add-remove`` or ``replace-one``
    unit: str  # what is protected as a whole: ``node`` or ``record``
    noise_multiplier: float  # z, deviation of the noise over the sensitivity
    sampling_rate: float = 1.0  # below 1 only in ledgers of version 0.2, which had sampled rounds
    bound: int  # clipping bound C in steps of the grid
    scale: int  # exponent of the grid
    dimension: int  # coordinates
    nodes: int  # n, nodes of the swarm
    honest: int  # h, shares the noise is counted on
    units: int = 1  # most units of the node; 1 where the node is the unit
    stream: bytes = b""  # names the stream of correlated noise, 32 bytes; empty for none
    row: int = 0  # step of the stream, from 0
    content: bytes = NOTHING_LEFT  # digest of what leaves, 32 bytes
    # only in ledgers of version 0.2: noise multiplier of a vote that left with the update, both
    # together as ``noise_multiplier`` says. 0 for none
    votes: float = 0.0


@attrs.frozen
class LedgerEntry:
    """A charge in its place in the chain."""

    index: int  # from 1
    charge: Charge  # what was charged
    epsilon: float  # spent after it, for ``delta``
    delta: float  # the delta of the budget
    budget: float  # the epsilon of the budget
    # the tag of the record before, 32 bytes; of the first, what the chain begins with
    previous: bytes

    def to_bytes(self) -> bytes:
        """Canonical CBOR of all fields, floats as hexadecimal text; without votes if none."""
        values = attrs.astuple(self.charge)
        if not self.charge.votes:
            values = values[:-1]
        charge = [value.hex() if type(value) is float else value for value in values]
        spent = [self.epsilon.hex(), self.delta.hex(), self.budget.hex()]
        return canonical.dumps([self.index, charge, spent, self.previous])

    def tag(self, key: bytes) -> bytes:
        """HMAC-SHA256 over all fields, and through ``previous`` over all records before.

        ``key``: of the ledger, 32 bytes. Source: RFC 2104.
        """
        return tag_of(key, self.to_bytes())

    @classmethod
    def from_bytes(cls, body: bytes) -> LedgerEntry:
        """Read what :meth:`to_bytes` made.

        Raises WireError: QRES-E401 for more than 2048 bytes, QRES-E402 to QRES-E404 for anything
        that is no record.
        """
        value = canonical.loads(body, max_bytes=MAX_BODY)
        try:
            index, charge, (epsilon, delta, budget), previous = value
            record = cls(
                index, _charge(charge), _real(epsilon), _real(delta), _real(budget), previous
            )
        except (TypeError, ValueError, OverflowError) as error:
            raise _wrong(f"not a record: {error}") from error
        if type(index) is not int or not 0 < index < _INTEGER:
            raise _wrong("index out of range")
        if type(previous) is not bytes or len(previous) != DIGEST_BYTES:
            raise _wrong("the tag of the previous record is not 32 bytes")
        if record.to_bytes() != body:
            raise _wrong("another encoding of a record")
        return record


def genesis(key: bytes, owner: tuple[str, bytes, str, str]) -> bytes:
    """Beginning of the chain of records: binds it to its owner, relation and unit."""
    return tag_of(key, canonical.dumps(list(owner)))


def tag_of(key: bytes, body: bytes) -> bytes:
    """The tag of an encoded record: see :meth:`LedgerEntry.tag`."""
    return hmac.digest(key, _DOMAIN + body, hashlib.sha256)


def _wrong(what: str) -> WireError:
    return WireError.of("QRES-E404", "record", what)


def _real(text: Any) -> float:
    if type(text) is not str:
        raise _wrong("a number is not text")
    number = float.fromhex(text)
    if not (math.isfinite(number) and number >= 0.0):
        raise _wrong(f"{number} is not a number of a record")
    return number


def _charge(value: Any) -> Charge:
    fields: dict[str, Any] = {}
    names = list(attrs.fields_dict(Charge))
    named = names if len(value) == len(names) else names[:-1]
    for name, part in zip(named, value, strict=True):
        if type(part) is not _KINDS.get(name, str):
            raise _wrong(f"{name} is a {type(part).__name__}")
        fields[name] = part
    if len(fields["node"]) != NODE_ID_BYTES or len(fields["content"]) != DIGEST_BYTES:
        raise _wrong("node or content is not 32 bytes")
    for name in ("noise_multiplier", "sampling_rate", "votes"):
        if name in fields:
            fields[name] = _real(fields[name])
    charge = Charge(**fields)
    if charge.noise_multiplier == 0.0 or not 0.0 < charge.sampling_rate <= 1.0:
        raise _wrong("noise or sampling rate out of range")
    return charge
