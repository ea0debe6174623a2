"""A weighted mean in which neither length nor weight buys influence; exact on the grid."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray
from qres_arithmetic import round_half_even, squared_norms

from qres_core import Vector

_UNIT_BITS: Final = 30
_BLOCK: Final = 8208  # columns at a time; not a power of two, so rows do not share cache sets


def capped_mean(vectors: NDArray[np.int32], weights: NDArray[np.int64], fewest: int) -> Vector:
    """Return the mean of the rows, each shortened to the lower median length and weighted.

    Row ``i`` counts with the coefficient ``floor(w[i] q[i] / W)`` in units of 2**-30, with the
    weights held by :func:`held` and summing to ``W``, and ``q[i] = floor(2**30 m / |x[i]|)``, at
    most 2**30, for the lower median ``m`` of the lengths. The sum of coefficient times row is
    exact and divided by 2**30, half to even: the same bits on every machine.

    Args:
        vectors: int32, shape ``(n, d)``; not changed.
        weights: int64, shape ``(n,)``, each 1..2**30.
        fewest: no row counts more than in the plain mean of so many; at most ``n``.

    Returns:
        int32, shape ``(d,)``, no longer than the lower median of the lengths and half a grid step
        in every coordinate.

    Complexity: O(n d), and O(d) memory.
    """
    norms = [int(one) for one in squared_norms(vectors)]
    median = sorted(norms)[(len(norms) - 1) // 2]
    counts = held([int(one) for one in weights], fewest)
    total = sum(counts)
    coefficients = [
        count * _factor(norm, median) // total for count, norm in zip(counts, norms, strict=True)
    ]
    result = np.empty(vectors.shape[1], dtype=np.int32)
    for start in range(0, vectors.shape[1], _BLOCK):
        columns = vectors[:, start : start + _BLOCK]
        # The coefficients sum to at most 2**30 and |x| <= 2**31: every partial sum fits int64.
        block = np.zeros(columns.shape[1], dtype=np.int64)
        for coefficient, row in zip(coefficients, columns, strict=True):
            if coefficient:
                block += row * np.int64(coefficient)
        result[start : start + _BLOCK] = round_half_even(block, 1 << _UNIT_BITS)
    return result


def _factor(square: int, limit: int) -> int:
    """``floor(2**30 sqrt(limit / square))``, at most 2**30: the floor of a root is exact."""
    if square <= limit:
        return 1 << _UNIT_BITS
    return math.isqrt((limit << 2 * _UNIT_BITS) // square)


def held(weights: list[int], fewest: int) -> list[int]:
    """Lower the greatest weights until none is more than one part in ``fewest`` of their sum.

    Args:
        weights: 1 or more each; at least ``fewest`` of them.
        fewest: 1 or more.

    Returns:
        the weights, none above ``c``, the greatest integer with ``fewest * c <= sum(min(w, c))``,
        or all 1 where even 1 is too much for integers.

    Complexity: O(n log n).

    Example:
        >>> held([100, 1, 1, 1], 2)
        [3, 1, 1, 1]
    """
    descending = sorted(weights, reverse=True)
    rest = sum(descending)
    for cut, weight in enumerate(descending):
        if cut >= fewest:
            break
        # With the `cut` greatest held at c: fewest * c <= cut * c + rest.
        cap = rest // (fewest - cut)
        if weight <= cap:
            return [min(one, max(1, cap)) for one in weights] if cut else list(weights)
        rest -= weight
    return [min(one, max(1, descending[fewest - 1])) for one in weights]
