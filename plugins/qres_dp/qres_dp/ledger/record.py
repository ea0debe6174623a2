"""What a ledger writes down of a release."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any, Final

import attrs

from qres_core import DIGEST_BYTES, WireError, canonical

MAX_BODY: Final = 2048
_DOMAIN: Final = b"qres/dp/ledger/v1\0"
_INTEGER: Final = 2**62
_KINDS: Final[Mapping[str, type]] = {
    "release": bytes,
    **dict.fromkeys(("round", "bound", "scale", "nodes", "honest"), int),
}
"""Types of the fields of a charge on disk; the others are text, and numbers are in it."""


@attrs.frozen
class Charge:
    """A release of noised data, as the accounting sees it."""

    round: int  # number of the round
    release: bytes  # names the release, 32 bytes; the same release is charged once
    mode: str  # ``local`` or ``distributed``
    relation: str  # the neighbouring relation, ``add-remove`` or ``replace-one``
    noise_multiplier: float  # z, deviation of the noise over the sensitivity
    sampling_rate: float  # q, the probability that the node's data are in it; 1 without sampling
    bound: int  # clipping bound C in steps of the grid
    scale: int  # exponent of the grid
    nodes: int  # n, nodes of the swarm
    honest: int  # h, shares the noise is counted on
    unit: str = "node"  # what is protected as a whole: ``node`` or ``record``


@attrs.frozen
class LedgerEntry:
    """A charge in its place in the chain."""

    index: int  # from 1
    charge: Charge  # what was charged
    epsilon: float  # spent after it, for ``delta``
    delta: float  # the delta of the budget
    budget: float  # the epsilon of the budget
    # digest of the record before, 32 bytes; of the first, what the chain begins with
    previous: bytes

    def to_bytes(self) -> bytes:
        """Canonical CBOR of all fields, floats as hexadecimal text."""
        charge = [
            value.hex() if type(value) is float else value for value in attrs.astuple(self.charge)
        ]
        spent = [self.epsilon.hex(), self.delta.hex(), self.budget.hex()]
        return canonical.dumps([self.index, charge, spent, self.previous])

    @property
    def digest(self) -> bytes:
        """SHA-256 over all fields, and through ``previous`` over all records before."""
        return hashlib.sha256(_DOMAIN + self.to_bytes()).digest()

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
            raise _wrong("the digest of the previous record is not 32 bytes")
        if record.to_bytes() != body:
            raise _wrong("another encoding of a record")
        return record


def genesis(swarm: str, node: bytes, relation: str) -> bytes:
    """What the first record's ``previous`` is: binds a chain to its node and relation."""
    return hashlib.sha256(_DOMAIN + canonical.dumps([swarm, node, relation])).digest()


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
    parts = list(value)
    for name, part in zip(attrs.fields_dict(Charge), parts, strict=True):
        if type(part) is not _KINDS.get(name, str):
            raise _wrong(f"{name} is a {type(part).__name__}")
    release = parts[1]
    if len(release) != DIGEST_BYTES:
        raise _wrong("release is not 32 bytes")
    parts[4], parts[5] = _real(parts[4]), _real(parts[5])
    charge = Charge(*parts)
    if charge.noise_multiplier == 0.0 or not 0.0 < charge.sampling_rate <= 1.0:
        raise _wrong("noise or sampling rate out of range")
    return charge
