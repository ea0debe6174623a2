"""Companions: what a plugin sends beside an update's vector, under its own name.

A companion is either open, bytes that everybody may read, or a list of residues: integers below a
modulus that are meant to be added up with those of the other nodes, as the vectors are. A plugin
that hides single updates hides residues too, and what it reveals is their sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Self

import attrs

from qres_core.contract.errors import ValueRefusedError

MAX_COMPANION_BYTES: Final = 2**20
"""Most bytes of one companion."""
MAX_MODULUS_BITS: Final = 512


def _refuse(what: str) -> ValueRefusedError:
    return ValueRefusedError.of("QRES-E511", "companion", what)


def _check_modulus(_instance: object, _attribute: object, value: Any) -> None:
    if type(value) is not int or value == 1 or not 0 <= value < 2**MAX_MODULUS_BITS:
        raise _refuse(f"modulus {value!r} is neither 0 nor in 2..2**{MAX_MODULUS_BITS} - 1")


@attrs.frozen
class Companion:
    """Bytes beside an update.

    Attributes:
        body: at most 1 MiB. With a modulus: residues one after the other, each in
            :attr:`width` bytes, little-endian, below the modulus.
        modulus: 0 for open bytes; else the modulus the residues are added up in.

    Raises:
        ValueRefusedError: QRES-E511 for a body that is too long or not made of residues.

    Complexity: O(len(body)).
    """

    body: bytes
    modulus: int = attrs.field(default=0, validator=_check_modulus)

    def __attrs_post_init__(self) -> None:
        if type(self.body) is not bytes or len(self.body) > MAX_COMPANION_BYTES:
            raise _refuse(f"expected at most {MAX_COMPANION_BYTES} bytes")
        if not self.modulus:
            return
        if len(self.body) % self.width:
            raise _refuse(f"{len(self.body)} bytes are no residues of {self.width} bytes")
        if not self._below():
            raise _refuse("a residue is not below the modulus")

    @property
    def width(self) -> int:
        """Bytes of one residue; 1 for open bytes."""
        return max(1, (self.modulus.bit_length() + 7) // 8)

    @classmethod
    def of(cls, values: Sequence[int], modulus: int) -> Self:
        """A companion of residues.

        Args:
            values: integers in ``0..modulus - 1``.
            modulus: 2..2**512 - 1.

        Raises:
            ValueRefusedError: QRES-E511.
        """
        if modulus < 2 or any(not 0 <= value < modulus for value in values):
            raise _refuse("residues must be in 0..modulus - 1")
        width = (modulus.bit_length() + 7) // 8
        return cls(b"".join(value.to_bytes(width, "little") for value in values), modulus)

    def residues(self) -> tuple[int, ...]:
        """The integers.

        Raises:
            ValueRefusedError: QRES-E511 for open bytes.
        """
        if not self.modulus:
            raise _refuse("open bytes are no residues")
        return tuple(self._integers())

    def _below(self) -> bool:
        """True if all residues are below the modulus; their highest bytes almost always tell."""
        highest = self.body[self.width - 1 :: self.width]
        if max(highest, default=0) < self.modulus >> 8 * (self.width - 1):
            return True
        return max(self._integers()) < self.modulus

    def _integers(self) -> list[int]:
        width, body = self.width, self.body
        return [
            int.from_bytes(body[start : start + width], "little")
            for start in range(0, len(body), width)
        ]
