"""Fiat-Shamir: every challenge is a hash of all that was said before it.

The transcript is one SHAKE256 input. :meth:`Transcript.absorb` appends

    le32(len(label)) || le32(len(data)) || label || data

and :meth:`Transcript.challenge` absorbs ``label || le32(size)`` under the label ``challenge`` and
returns the first ``size`` bytes of the output for everything absorbed so far. Lengths come first,
so two different lists of items never give the same input. Leaving out a single item of what the
proof is about has broken many deployed proof systems: J. Miller, "Coordinated disclosure of
vulnerabilities affecting Girault, Bulletproofs, and PlonK", 2022 ("frozen heart"); D. Bernhard,
O. Pereira, B. Warinschi, "How not to prove yourself", ASIACRYPT 2012.
"""

from __future__ import annotations

import hashlib
from typing import Final

from qres_zk.group import ORDER

_WIDE: Final = 64
"""Bytes of a challenge modulo the order: uniform to within ``2**-259``."""


class Transcript:
    """Record that both sides feed with the same items in the same order."""

    def __init__(self) -> None:
        self._hash = hashlib.shake_256()

    def absorb(self, label: str, data: bytes) -> None:
        """Append an item.

        Args:
            label: names the item; ASCII.
            data: less than 4 GiB.
        """
        name = label.encode("ascii")
        lengths = len(name).to_bytes(4, "little") + len(data).to_bytes(4, "little")
        self._hash.update(lengths + name)
        self._hash.update(data)

    def challenge(self, label: str, size: int) -> bytes:
        """Return ``size`` bytes that depend on everything absorbed so far, and on the label."""
        self.absorb("challenge", label.encode("ascii") + size.to_bytes(4, "little"))
        return self._hash.copy().digest(size)

    def scalar(self, label: str) -> int:
        """Return a challenge in ``0..ORDER - 1``."""
        return int.from_bytes(self.challenge(label, _WIDE), "little") % ORDER

    def integers(self, label: str, count: int, bits: int) -> list[int]:
        """Return ``count`` challenges of ``bits <= 128`` bits: the top bits of 16 bytes each."""
        raw = self.challenge(label, 16 * count)
        return [
            int.from_bytes(raw[start : start + 16], "little") >> (128 - bits)
            for start in range(0, 16 * count, 16)
        ]
