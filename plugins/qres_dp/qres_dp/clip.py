"""Clipping to an L2 ball in exact integer arithmetic.

Norms are Python integers, so nothing wraps: not at ten million coordinates, not when every one of
them is -2**31. Scaling rounds toward zero, which never makes a coordinate larger, so that the
result lies in the ball exactly and the sensitivity of a sum needs no term for rounding.
"""

from __future__ import annotations

import math
from typing import Final

import attrs
import numpy as np

from qres_core import ValueRefusedError, Vector

_BLOCK: Final = 2**15
_EXACT: Final = 2**53
_FACTOR_BITS: Final = 31


@attrs.frozen(eq=False)
class Clipped:
    """A vector inside the ball.

    Attributes:
        vector: int32, shape ``(d,)``, read-only; Euclidean norm at most the bound.
        was_outside: whether the input's norm was larger than the bound. Private: it is a fact
            about the data.
    """

    vector: Vector
    was_outside: bool


def squared_norm(vector: Vector) -> int:
    """The sum of squares, exact for every int32 vector.

    Args:
        vector: int32, shape ``(d,)``.

    Returns:
        a Python integer.

    Raises:
        ValueRefusedError: QRES-E503 for another dtype.

    Complexity: O(d), one or three passes of float64 dot products over blocks of 2**15.
    """
    if vector.dtype != np.int32:
        raise ValueRefusedError.of("QRES-E503", "vector", f"expected int32, got {vector.dtype}")
    total = 0
    for start in range(0, vector.size, _BLOCK):
        block = vector[start : start + _BLOCK]
        largest = max(int(block.max()), -int(block.min()))
        if largest * largest * block.size < _EXACT:
            # Every partial sum is an integer below 2**53: exact in any order.
            real = block.astype(np.float64)
            total += int(real @ real)
        else:
            # x = high * 2**16 + low; the three sums stay below 2**15 * 2**32.
            high = (block >> 16).astype(np.float64)
            low = (block & 0xFFFF).astype(np.float64)
            total += (int(high @ high) << 32) + (int(high @ low) << 17) + int(low @ low)
    return total


def clip(vector: Vector, bound: int) -> Clipped:
    """The vector, shrunk into the L2 ball of radius ``bound`` if it is outside.

    A vector outside becomes ``trunc(x * f / 2**s)`` with the largest ``f < 2**31`` for which
    ``f / 2**s <= bound / ||x||``.

    Args:
        vector: int32, shape ``(d,)``.
        bound: radius in steps of the grid, 1 or more.

    Returns:
        the clipped vector; the input itself where it was inside.

    Raises:
        ValueRefusedError: QRES-E503 for another dtype, QRES-E506 for a bound below 1.

    Complexity: O(d).
    """
    if type(bound) is not int or bound < 1:
        raise ValueRefusedError.of("QRES-E506", "bound", f"{bound!r} is not an integer >= 1")
    norm, limit = squared_norm(vector), bound * bound
    if norm <= limit:
        return Clipped(vector, was_outside=False)
    shift = _FACTOR_BITS + (norm // limit).bit_length() // 2 + 1
    factor = math.isqrt((limit << (2 * shift)) // norm)
    excess = max(0, factor.bit_length() - _FACTOR_BITS)
    factor, shift = factor >> excess, shift - excess
    shrunk = np.zeros(vector.shape, dtype=np.int32)
    if shift <= 2 * _FACTOR_BITS:  # else every |x| * factor is below 2**shift
        # Adding 2**shift - 1 to what is negative makes the arithmetic shift round toward zero.
        nudge = np.int64((1 << shift) - 1)
        for start in range(0, vector.size, _BLOCK):
            product = vector[start : start + _BLOCK].astype(np.int64)
            product *= factor  # |product| <= 2**62
            product += (product >> 63) & nudge
            product >>= shift
            shrunk[start : start + _BLOCK] = product
    shrunk.flags.writeable = False
    return Clipped(shrunk, was_outside=True)
