"""Integers modulo the order of the group, as arrays of four 64-bit words."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qres_core.errors import ValueRefusedError, WireError
from qres_zk.group.parameters import ORDER

Scalars: TypeAlias = NDArray[np.uint64]
"""Shape ``(n, 4)``: little-endian words of integers less than the order."""

SCALAR_BYTES: Final = 32
_WORDS: Final = 4
_SPARE: Final = 16  # 128 bits more than the order has: the remainder is uniform to within 2**-128


def scalars(values: Iterable[int]) -> Scalars:
    """Reduce integers of any size and sign modulo the order.

    Example:
        >>> scalars([1, -1, ORDER + 2]).tolist()[0]
        [1, 0, 0, 0]
    """
    return _words(b"".join((value % ORDER).to_bytes(SCALAR_BYTES, "little") for value in values))


def integers(array: Scalars) -> list[int]:
    """Return scalars as Python integers.

    Example:
        >>> integers(scalars([5, -1])) == [5, ORDER - 1]
        True
    """
    raw = scalars_to_bytes(array)
    step = SCALAR_BYTES
    return [int.from_bytes(raw[n : n + step], "little") for n in range(0, len(raw), step)]


def random_scalars(n: int) -> Scalars:
    """Draw ``n`` uniform scalars from the operating system's generator."""
    size = SCALAR_BYTES + _SPARE
    raw = secrets.token_bytes(n * size)
    return scalars(int.from_bytes(raw[k : k + size], "little") for k in range(0, len(raw), size))


def scalars_to_bytes(array: Scalars) -> bytes:
    """Return the scalars one after the other, 32 bytes little-endian each."""
    return checked_scalars(array).astype("<u8", copy=False).tobytes()


def scalars_from_bytes(data: bytes, where: str = "scalar") -> Scalars:
    """Read what :func:`scalars_to_bytes` writes.

    ``data``: a multiple of 32 bytes; the caller limits how many. Raises WireError: QRES-E404 if the
    length is none, or a scalar is not less than the order.
    """
    if len(data) % SCALAR_BYTES:
        what = f"{len(data)} bytes, expected a multiple of {SCALAR_BYTES}"
        raise WireError.of("QRES-E404", where, what)
    array = _words(data)
    too_large = np.flatnonzero(~_canonical(array))
    if too_large.size:
        what = f"scalar {too_large[0]} is not less than the order of the group"
        raise WireError.of("QRES-E404", where, what)
    return array


def checked_scalars(array: Scalars) -> Scalars:
    """Return the array, if it has the shape and dtype of scalars.

    Raises ValueRefusedError: QRES-E502 or QRES-E503 if not.
    """
    if array.dtype != np.uint64:
        raise ValueRefusedError.of("QRES-E503", "scalars", f"expected uint64, got {array.dtype}")
    if array.ndim != 2 or array.shape[1] != _WORDS:
        what = f"expected shape (n, {_WORDS}), got {array.shape}"
        raise ValueRefusedError.of("QRES-E502", "scalars", what)
    return array


def _words(data: bytes) -> Scalars:
    return np.frombuffer(data, dtype="<u8").astype(np.uint64).reshape(-1, _WORDS)


def _canonical(array: Scalars) -> NDArray[np.bool_]:
    """Rows that are less than the order: compared from the highest word down."""
    less = np.zeros(len(array), dtype=np.bool_)
    same = np.ones(len(array), dtype=np.bool_)
    for word in reversed(range(_WORDS)):
        limit = np.uint64(ORDER >> (64 * word) & (2**64 - 1))
        less |= same & (array[:, word] < limit)
        same &= array[:, word] == limit
    return less
