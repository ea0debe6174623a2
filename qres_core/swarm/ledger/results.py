"""Fates of a decided set: a new model, or an agreement that there is none."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Any, Final, TypeAlias

import attrs

from qres_core.contract import canonical
from qres_core.contract.errors import ERRORS, WireError
from qres_core.contract.types import DIGEST_BYTES

UNFINISHED: Final = "QRES-E604"
"""Code of a height without a model because its dialogues did not finish at enough nodes."""
CANNOT_MERGE: Final = "QRES-E608"
"""Code with which a plugin says that this node alone cannot merge. It is no finding about the set,
so the node claims what others found."""
RAISED: Final = "QRES-E701"
"""Code of a hook that raised what no plugin raises on purpose. It may be one node's own trouble."""
MAY_BE_OWN: Final = frozenset((UNFINISHED, RAISED))
"""Codes that may be true of one node alone: its dialogue did not finish, its hook raised."""
NOT_STORED: Final = "QRES-E602"
"""Code of a node whose own store is lost or damaged."""
_MAX_CODE: Final = 32


def _bad(what: str) -> WireError:
    return WireError.of("QRES-E404", "payload.result", what)


@attrs.frozen
class Merged:
    """The set merges to a new model."""

    model: bytes  # its digest, 32 bytes

    def raw(self) -> list[Any]:
        """Plain data for the codecs."""
        return ["merged", self.model]


@attrs.frozen
class Void:
    """There is no new model: a plugin refused the set, or a dialogue did not finish."""

    code: str  # id of the error, for example ``QRES-E508``

    @property
    def reason(self) -> str:
        """Reason, for people: the name of the error, and its id."""
        known = ERRORS.get(self.code)
        return self.code if known is None else f"{known[0]} ({self.code})"

    def raw(self) -> list[Any]:
        """Plain data for the codecs."""
        return ["void", self.code]


Result: TypeAlias = Merged | Void


@attrs.frozen(slots=False)
class Conclusion:
    """The value of the second instance of a height: the set, and what becomes of it."""

    chosen: bytes  # digest of the set, 32 bytes; it fixes the head
    result: Result

    @cached_property
    def digest(self) -> bytes:
        """Digest that votes are about; 32 bytes."""
        return hashlib.sha256(b"qres/decision/v1\0" + canonical.dumps(self.raw())).digest()

    def raw(self) -> list[Any]:
        """Plain data for the codecs."""
        return [self.chosen, self.result.raw()]

    @classmethod
    def from_raw(cls, value: object) -> Conclusion:
        """From plain data. Raises WireError: QRES-E404."""
        if not canonical.is_list(value) or len(value) != 2:
            raise _bad("expected a set and a result")
        chosen, result = value
        if type(chosen) is not bytes or len(chosen) != DIGEST_BYTES:
            raise _bad(f"expected the digest of a set, {DIGEST_BYTES} bytes")
        return cls(chosen, _result(result))


def _result(value: object) -> Result:
    if not canonical.is_list(value) or len(value) != 2:
        raise _bad("expected a kind and what belongs to it")
    kind, body = value
    if kind == "merged" and type(body) is bytes and len(body) == DIGEST_BYTES:
        return Merged(body)
    if kind == "void" and type(body) is str and body.isascii() and len(body) <= _MAX_CODE:
        return Void(body)
    raise _bad("expected the digest of a model, or the code of an error")
