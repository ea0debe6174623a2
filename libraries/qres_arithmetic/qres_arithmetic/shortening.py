"""Vectors made shorter without a change of direction; exact on the grid."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from qres_arithmetic.backend import accelerated, run_columns
from qres_arithmetic.distances import squared_norms
from qres_arithmetic.passes import feed
from qres_arithmetic.rows import Rows
from qres_core.errors import ValueRefusedError

_FACTOR_BITS: Final = 30
_PLAIN: Final = 2**500
"""Sizes up to this, and down to its inverse, are divided in float64."""
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
    vectors: Rows,
    squares: list[int] | list[float],
    rows: list[int],
    squared_bound: Fraction,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Copy the vectors, with those at ``rows`` shortened to a squared length.

    Args:
        vectors: int32, float32 or float64, shape ``(n, d)``. Not changed.
        squares: the squared lengths of all ``n`` vectors.
        rows: indices of vectors that are longer than the bound.
        squared_bound: the squared length they are given.
        out: where to write, shape and dtype of ``vectors``, entries of a row adjacent; new memory
            if left out.

    Returns:
        shape ``(n, d)``, the same dtype: ``out`` or new memory.

    Complexity: one read and one write.
    """
    dtype = cast("Any", vectors.dtype)
    result: NDArray[Any] = np.empty(vectors.shape, dtype) if out is None else out
    if not rows:
        result[...] = vectors
        return result
    exact = vectors.dtype == np.int32
    # A factor of 1 copies to the bit.
    factors: NDArray[Any] = np.full(len(vectors), 1 << _FACTOR_BITS, np.int64)
    if not exact:
        factors = np.ones(len(vectors), dtype)
    for row in rows:
        square = squares[row]
        factors[row] = (
            _factor(int(square), squared_bound) if exact else _share(square, squared_bound)
        )
    if accelerated():
        from qres_arithmetic import shortening_kernels as kernels  # noqa: PLC0415 - loads numba

        kernel = kernels.multiply if exact else kernels.scale

        def work(start: int, stop: int) -> None:
            def item(block: Any, first: int, last: int, at: int) -> None:
                kernel(block, factors, first, last, at, result)

            feed(vectors, _BLOCK, start, stop, item)

        run_columns(work, vectors.shape[1], _BLOCK, len(vectors))
    elif exact:
        _multiply(cast("NDArray[np.int32]", vectors), factors, result)
    else:
        np.multiply(vectors, factors[:, None], out=result)
    return result


def longer_than(squares: list[int] | list[float], squared_bound: Fraction) -> list[int]:
    """Indices of vectors that are longer than a bound.

    Args:
        squares: their squared lengths.
        squared_bound: the square of the bound.

    Example:
        >>> longer_than([4, 5, 6], Fraction(5))
        [2]
    """
    above, below = squared_bound.numerator, squared_bound.denominator
    if isinstance(squares[0], float):
        limit = above / below if above < _PLAIN * below else math.inf
        return [row for row, square in enumerate(squares) if square > limit]
    # The same comparison in integers, without a common divisor for each.
    return [row for row, square in enumerate(squares) if square * below > above]


def _factor(square: int, squared_bound: Fraction) -> int:
    """Compute ``floor(2**30 sqrt(squared_bound / square))`` in integers.

    The floor of a square root is the integer square root of the floor.
    """
    above, below = squared_bound.numerator, squared_bound.denominator
    return math.isqrt((above << 2 * _FACTOR_BITS) // (below * square))


def _share(square: float, squared_bound: Fraction) -> float:
    """Compute ``sqrt(squared_bound / square)``, also where the quotient leaves float64."""
    above, below = squared_bound.numerator, squared_bound.denominator
    if below < _PLAIN * above and above < _PLAIN * below and square > 1 / _PLAIN:
        return math.sqrt(above / below / square)
    return math.sqrt(squared_bound / Fraction(square))


def _multiply(
    vectors: NDArray[np.int32], factors: NDArray[np.int64], result: NDArray[np.int32]
) -> None:
    """Write the vectors times ``factors / 2**30`` each, truncated towards zero.

    ``factors`` are in ``0 .. 2**30``, so that ``|x| <= 2**31`` times one of them fits int64.
    """
    for row, factor in enumerate(factors.tolist()):
        for start in range(0, vectors.shape[1], _BLOCK):
            product = vectors[row, start : start + _BLOCK].astype(np.int64) * factor
            product[product < 0] += (1 << _FACTOR_BITS) - 1
            result[row, start : start + _BLOCK] = product >> _FACTOR_BITS
