"""Masks: keystreams added to vectors modulo 2**32 or 2**64, or to residues modulo any number.

AES-256 in counter mode, or ChaCha20. The vector is worked through in blocks of 256 KiB, all masks
for a block before the next, so that block and keystream stay in the processor's second cache. The
time is that of the cipher plus one addition; both leave the interpreter's lock, so that threads
help and an event loop in another thread goes on.

A keystream can be entered at any coordinate: whoever sums a range of the vector expands that range.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import attrs
import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from numpy.typing import NDArray

from qres_secagg.keys import stream_key
from qres_secagg.session import joined

BLOCK: Final = 1 << 18
"""Bytes worked on at a time."""
GUARD_BYTES: Final = 32
"""Keystream bytes per residue beyond the modulus: reduction is uniform up to 2**-256."""
_ZEROS: Final = memoryview(bytes(BLOCK))
_UNIT: Final = {"aes256ctr": 16, "chacha20": 64}

Signed = tuple[bytes, int]
"""A key of 32 bytes, and +1 or -1 for adding or subtracting its keystream."""


def _context(key: bytes, offset: int, prg: str) -> CipherContext:
    """A keystream from byte ``offset`` on. Keys are never used twice, so counters begin at 0."""
    unit, skip = divmod(offset, _UNIT[prg])
    if prg == "aes256ctr":
        cipher = Cipher(algorithms.AES(key), modes.CTR(unit.to_bytes(16, "big")))
        context = cipher.encryptor()
    else:
        context = Cipher(algorithms.ChaCha20(key, struct.pack("<QQ", unit, 0)), None).encryptor()
    if skip:
        context.update(bytes(skip))
    return context


def keystream(key: bytes, size: int, *, offset: int = 0, prg: str = "aes256ctr") -> bytes:
    """``size`` bytes of the keystream of ``key`` from byte ``offset`` on."""
    return _context(key, offset, prg).update(bytes(size))


Step = tuple[Callable[[Any, Any], int], Callable[..., Any]]


def _apply_range(
    values: NDArray[Any], keys: Sequence[Signed], prg: str, start: int, blocks: range
) -> None:
    per_block = BLOCK // values.itemsize
    first = start * values.itemsize + blocks.start * BLOCK
    steps: list[Step] = [
        (_context(key, first, prg).update_into, np.add if sign > 0 else np.subtract)
        for key, sign in keys
    ]
    buffer = bytearray(BLOCK)
    window = memoryview(buffer)
    words = np.frombuffer(buffer, values.dtype)
    for block in blocks:
        part = values[block * per_block : (block + 1) * per_block]
        zeros, out, mask = _ZEROS[: part.nbytes], window[: part.nbytes], words[: part.size]
        for update, operation in steps:
            update(zeros, out)
            operation(part, mask, out=part)


def apply(
    values: NDArray[Any],
    keys: Iterable[Signed],
    *,
    prg: str = "aes256ctr",
    threads: int = 1,
    start: int = 0,
) -> None:
    """Add or subtract masks, in place.

    Args:
        values: uint32 or uint64, little-endian, C-contiguous, shape ``(m,)``; arithmetic is modulo
            2**32 or 2**64.
        keys: keys with their signs.
        prg: ``"aes256ctr"`` or ``"chacha20"``.
        threads: how many to use; the result does not depend on it.
        start: the coordinate that ``values`` begin with, where they are a range of a vector.

    Complexity: O(m) per key, with 512 KiB of memory per thread beside ``values``.
    """
    chosen = list(keys)
    count = -(-values.nbytes // BLOCK)
    if threads <= 1 or count < 2 * threads:
        return _apply_range(values, chosen, prg, start, range(count))
    step = -(-count // threads)
    parts = [range(i, min(count, i + step)) for i in range(0, count, step)]
    with ThreadPoolExecutor(threads) as pool:
        running = [pool.submit(_apply_range, values, chosen, prg, start, part) for part in parts]
        for future in running:
            future.result()
    return None


@attrs.frozen
class Residues:
    """Numbers that are masked, and summed, modulo a number of their own."""

    values: tuple[int, ...]  # each in ``0..modulus-1``
    modulus: int = attrs.field(validator=attrs.validators.ge(2))  # at least 2

    def __attrs_post_init__(self) -> None:
        if self.values and not (min(self.values) >= 0 and max(self.values) < self.modulus):
            raise ValueError("a residue is outside its modulus")

    def packed(self) -> bytes:
        """The values one after the other, little-endian, each in the bytes the modulus takes."""
        width = (self.modulus.bit_length() + 7) // 8
        return b"".join(value.to_bytes(width, "little") for value in self.values)


def apply_residues(
    residues: Residues, keys: Iterable[Signed], name: str, *, prg: str = "aes256ctr"
) -> Residues:
    """Residues with masks added, modulo their modulus.

    Args:
        residues: what to mask.
        keys: keys with their signs; each gives a keystream of its own for ``name``.
        name: whose residues these are.
        prg: generator.

    Returns:
        as many, modulo the same number. A mask is a number of 32 bytes more than the modulus,
        reduced: its distance from uniform is below 2**-256.

    Complexity: O(len(values)) per key.
    """
    count, modulus = len(residues.values), residues.modulus
    width = (modulus.bit_length() + 7) // 8 + GUARD_BYTES
    label = joined(b"residues", name.encode(), str(modulus).encode(), str(count).encode())
    totals = list(residues.values)
    for key, sign in keys:
        stream = keystream(stream_key(key, label), count * width, prg=prg)
        for i in range(count):
            totals[i] += sign * int.from_bytes(stream[i * width : (i + 1) * width], "little")
    return Residues(tuple(total % modulus for total in totals), modulus)


def add_residues(residues: Residues, two: Residues) -> Residues:
    """The sum; ``ValueError`` for another modulus or number of them."""
    if residues.modulus != two.modulus or len(residues.values) != len(two.values):
        raise ValueError("residues of different kinds")
    pairs = zip(residues.values, two.values, strict=True)
    return Residues(tuple((a + b) % residues.modulus for a, b in pairs), residues.modulus)
