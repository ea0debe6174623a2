"""A weighted mean in which no row counts more than its part; exact on the grid."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from qres_arithmetic import round_half_even

from qres_core import Vector

_UNIT: Final = 2**30
_BLOCK: Final = 8208  # columns at a time; not a power of two, so rows do not share cache sets


def capped_mean(vectors: NDArray[np.int32], weights: NDArray[np.int64], fewest: int) -> Vector:
    """Return the weighted mean of the rows, no row above one part in ``fewest``.

    The weights are held by :func:`held` and sum to ``W``. Row ``i`` counts with the coefficient
    ``floor(2**30 w[i] / W)`` in units of 2**-30, and what is missing to 2**30 is added to the
    greatest, of several the first. The sum of coefficient times row is exact and divided by 2**30,
    half to even: the same bits on every machine.

    Args:
        vectors: int32, shape ``(n, d)``; not changed.
        weights: int64, shape ``(n,)``, each 1..2**30.
        fewest: no row counts more than in the plain mean of so many; at most ``n``.

    Returns:
        int32, shape ``(d,)``, new memory.

    Complexity: O(n d), and O(d) memory.

    Example:
        >>> rows = np.array([[0, 10], [20, 10], [900, 10]], dtype=np.int32)
        >>> capped_mean(rows, np.array([1, 1, 1000]), 2).tolist()
        [455, 10]
    """
    counts = held([int(weight) for weight in weights], fewest)
    total = sum(counts)
    coefficients = [_UNIT * count // total for count in counts]
    coefficients[coefficients.index(max(coefficients))] += _UNIT - sum(coefficients)
    result = np.empty(vectors.shape[1], dtype=np.int32)
    for start in range(0, vectors.shape[1], _BLOCK):
        columns = vectors[:, start : start + _BLOCK]
        # The coefficients sum to 2**30 and |x| <= 2**31: every partial sum fits int64.
        block = np.zeros(columns.shape[1], dtype=np.int64)
        for coefficient, row in zip(coefficients, columns, strict=True):
            block += row * np.int64(coefficient)
        result[start : start + _BLOCK] = round_half_even(block, _UNIT)
    return result


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
    rest, cut = sum(descending), 0
    # With the `cut` greatest held at c: fewest * c <= cut * c + rest. It ends with fewest - 1 of
    # them at the latest, where the cap is the sum of all others.
    while descending[cut] > (cap := rest // (fewest - cut)):
        rest -= descending[cut]
        cut += 1
    return [min(weight, max(1, cap)) for weight in weights]
