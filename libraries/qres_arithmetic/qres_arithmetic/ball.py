"""The Euclidean norm of an integer vector, exactly, and shortening that never leaves a ball.

Norms are Python integers, so nothing wraps: not at ten million coordinates, not when every one of
them is ``-2**31``. Shortening rounds towards zero, which never makes a coordinate larger, so that
the result lies in the ball exactly: the sensitivity of a sum needs no term for rounding, and a
proof of the norm never fails by it.
"""

from __future__ import annotations

import math
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from qres_core.errors import ValueRefusedError

Signed = TypeVar("Signed", bound="np.signedinteger[Any]")

LARGEST: Final = 2**32
"""Greatest size of a coordinate that can be shortened: the difference of two int32 fits."""

_BLOCK: Final = 2**13
"""Longer products OpenBLAS spreads over threads, which takes more time than it saves."""
_EXACT: Final = 2**53
_SPLIT: Final = 2**34
_FACTOR_BITS: Final = 31
_MOST_SHIFT: Final = 62


def squared_norm(values: NDArray[np.signedinteger[Any]]) -> int:
    """The sum of squares, exact for every vector of signed integers.

    Args:
        values: signed integers of at most 64 bits, any shape.

    Returns:
        a Python integer.

    Raises:
        ValueRefusedError: QRES-E503 for another dtype.

    Complexity:
        ``O(d)``: one or three float64 dot products over blocks of ``2**13``. A block with an entry
        of ``2**34`` or more takes Python's integers instead.

    Example:
        >>> squared_norm(np.array([3, -4], dtype=np.int32))
        25
    """
    if values.dtype.kind != "i":
        what = f"expected signed integers, got {values.dtype}"
        raise ValueRefusedError.of(
            "QRES-E503", "vector", what, "encode with qres_core.fixed.encode"
        )
    flat = values.reshape(-1)
    return sum(_squares(flat[start : start + _BLOCK]) for start in range(0, flat.size, _BLOCK))


def clipped(values: NDArray[Signed], bound: int) -> NDArray[Signed]:
    """The vector, shrunk into the Euclidean ball of radius ``bound`` if it is outside.

    A vector outside becomes ``trunc(x * f / 2**s)`` with the largest ``f < 2**31`` for which
    ``f / 2**s <= bound / |x|``. A coordinate is at most one step, and ``2**-29`` of itself, short
    of the scaled one. The dtype has no part in it.

    Args:
        values: signed integers of at most 64 bits, shape ``(d,)``, none larger than ``2**32``.
        bound: the radius, 1 or more.

    Returns:
        the same dtype, read-only, norm at most ``bound``; the input itself where it was inside.

    Raises:
        ValueRefusedError: QRES-E503 for another dtype or a larger coordinate, QRES-E506 for a bound
            below 1.

    Complexity: ``O(d)``.

    Example:
        >>> clipped(np.array([30, -40], dtype=np.int32), 5).tolist()
        [2, -3]
    """
    if type(bound) is not int or bound < 1:
        raise ValueRefusedError.of("QRES-E506", "bound", f"{bound!r} is not an integer >= 1")
    norm, limit = squared_norm(values), bound * bound
    if norm <= limit:
        return values
    if _largest(values) > LARGEST:
        what = f"a coordinate of {_largest(values)}, they may have {LARGEST} at most"
        raise ValueRefusedError.of("QRES-E503", "vector", what)
    factor, shift = _ratio(limit, norm)
    shrunk = np.zeros(values.shape, dtype=values.dtype)
    if shift <= _MOST_SHIFT:  # else every |x| * factor is below 2**shift
        # Adding 2**shift - 1 to what is negative makes the arithmetic shift round towards zero.
        nudge = np.int64((1 << shift) - 1)
        for start in range(0, values.size, _BLOCK):
            product = values[start : start + _BLOCK].astype(np.int64)
            product *= factor  # |product| < 2**63
            product += (product >> 63) & nudge
            product >>= shift
            shrunk[start : start + _BLOCK] = product
    shrunk.flags.writeable = False
    return shrunk


def _ratio(limit: int, norm: int) -> tuple[int, int]:
    """``f`` and ``s`` with ``f / 2**s <= sqrt(limit / norm) < 1`` and the largest ``f < 2**31``."""
    shift = _FACTOR_BITS + (norm // limit).bit_length() // 2 + 1
    factor = math.isqrt((limit << (2 * shift)) // norm)
    excess = max(0, factor.bit_length() - _FACTOR_BITS)
    return factor >> excess, shift - excess


def _largest(values: NDArray[np.signedinteger[Any]]) -> int:
    return max(int(values.max()), -int(values.min()))


def _squares(block: NDArray[np.signedinteger[Any]]) -> int:
    largest = _largest(block)
    if largest * largest * block.size < _EXACT:
        # Every partial sum is an integer below 2**53: exact in any order.
        real = block.astype(np.float64)
        return int(real @ real)
    if largest >= _SPLIT:
        return sum(int(number) ** 2 for number in block)
    # x = high * 2**16 + low; the three sums stay at or below 2**15 * 2**36.
    high = (block >> 16).astype(np.float64)
    low = (block & 0xFFFF).astype(np.float64)
    return (int(high @ high) << 32) + (int(high @ low) << 17) + int(low @ low)
