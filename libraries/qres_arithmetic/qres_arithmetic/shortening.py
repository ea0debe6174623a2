"""Vectors made shorter without a change of direction; exact on the grid."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qres_arithmetic.distances import squared_norms
from qres_arithmetic.rows import Rows
from qres_core import ValueRefusedError

_FACTOR_BITS: Final = 30
_BLOCK: Final = 8208  # columns at a time; not a power of two, so rows do not share cache sets


def squared_lengths(vectors: Rows) -> list[int] | list[float]:
    """Compute the squared Euclidean length of every vector.

    Args:
        vectors: int32, float32 or float64, shape ``(n, d)``.

    Returns:
        ``n`` Python numbers; exact integers for int32.

    Raises:
        ValueRefusedError: QRES-E501 for a vector that is not finite, or so long that the square of
            its length is not; QRES-E502, QRES-E503.
    """
    squares: list[int] | list[float] = squared_norms(vectors).tolist()
    endless = [row for row, square in enumerate(squares) if square == math.inf]
    if endless:
        what = f"the length of row {endless[0]} is beyond what float64 holds"
        raise ValueRefusedError.of("QRES-E501", "vectors", what)
    return squares


def shortened(
    vectors: Rows, squares: list[int] | list[float], rows: list[int], squared_bound: Fraction
) -> NDArray[Any]:
    """Copy the vectors, with those at ``rows`` shortened to a squared length.

    Args:
        vectors: int32, float32 or float64, shape ``(n, d)``. Not changed.
        squares: the squared lengths of all ``n`` vectors.
        rows: indices of vectors that are longer than the bound.
        squared_bound: the squared length they are given.

    Returns:
        shape ``(n, d)``, the same dtype, new memory.
    """
    result: NDArray[Any] = vectors.copy()
    for row in rows:
        target = result[row]
        if target.dtype == np.int32:
            _multiply(target, _factor(squares[row], squared_bound))
        else:
            target *= math.sqrt(squared_bound / Fraction(squares[row]))
    return result


def _factor(square: float, squared_bound: Fraction) -> int:
    """Compute ``floor(2**30 sqrt(squared_bound / square))`` in integers.

    The floor of a square root is the integer square root of the floor.
    """
    ratio = squared_bound / Fraction(square)
    return math.isqrt((ratio.numerator << 2 * _FACTOR_BITS) // ratio.denominator)


def _multiply(vector: NDArray[np.int32], factor: int) -> None:
    """Multiply an int32 vector in place by ``factor / 2**30``, truncating towards zero."""
    for start in range(0, vector.size, _BLOCK):
        part = vector[start : start + _BLOCK]
        # |x| <= 2**31 and factor < 2**30: the product fits int64.
        product = part.astype(np.int64) * factor
        product[product < 0] += (1 << _FACTOR_BITS) - 1
        part[...] = product >> _FACTOR_BITS
