"""Numba kernels of the specified sums of few float64 numbers. Import only where numba is in use.

They give the bits of :func:`qres_arithmetic.sweep` and :func:`math.fsum`, without a call of Python.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from qres_arithmetic import compiled

Floats = NDArray[np.float64]

TO_WHOLE: Final = 1.5 * 2.0**52
"""Adding it and taking it away rounds a small float64 to an integer, halves to even."""

_MOST_PARTIALS: Final = 64
"""A float64 sum has fewer partials than that: their bits do not overlap."""


@compiled()
def swept(matrix: Floats, vector: Floats) -> Floats:
    """Multiply as :func:`qres_arithmetic.sweep` does."""
    total = np.zeros(matrix.shape[0])
    for i in range(total.size):
        some = 0.0
        for j in range(vector.size):
            some += matrix[i, j] * vector[j]
        total[i] = some
    return total


@compiled()
def fsum(values: Floats) -> float:
    """Sum finite numbers as :func:`math.fsum` does: rounded once.

    Source: Shewchuk, "Adaptive Precision Floating-Point Arithmetic and Fast Robust Geometric
    Predicates", 1997.
    """
    partials = np.empty(_MOST_PARTIALS)
    count = 0
    for x in values:
        kept = 0
        for j in range(count):
            y = partials[j]
            if abs(x) < abs(y):
                x, y = y, x  # noqa: PLW2901 - the algorithm's own variable
            some = x + y
            rest = y - (some - x)
            if rest != 0.0:
                partials[kept] = rest
                kept += 1
            x = some  # noqa: PLW2901 - as above
        partials[kept] = x
        count = kept + 1
    if count == 0:
        return 0.0
    count -= 1
    high: float = partials[count]
    low = 0.0
    while count > 0:
        x = high
        count -= 1
        y = partials[count]
        high = x + y
        low = y - (high - x)
        if low != 0.0:
            break
    if count > 0 and low * partials[count - 1] > 0.0:
        # Half a step is left over, and something beyond it: round away from the half.
        y = low * 2.0
        x = high + y
        if y == x - high:
            high = x
    return high
