"""Numba kernel of the specified matrix-vector product. Import only where numba is in use."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qres_arithmetic.backend import compiled


@compiled()
def swept(matrix: NDArray[np.float64], vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``matrix @ vector``, each row summed from the left; see :mod:`qres_arithmetic.sweep`.

    Sums of one row wait for one another, so eight rows are summed side by side.
    """
    n, m = matrix.shape
    total = np.zeros(n)
    whole = n // 8 * 8
    for i in range(0, whole, 8):
        a, b, c, d, e, f, g, h = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for j in range(m):
            factor = vector[j]
            a += matrix[i, j] * factor
            b += matrix[i + 1, j] * factor
            c += matrix[i + 2, j] * factor
            d += matrix[i + 3, j] * factor
            e += matrix[i + 4, j] * factor
            f += matrix[i + 5, j] * factor
            g += matrix[i + 6, j] * factor
            h += matrix[i + 7, j] * factor
        total[i], total[i + 1], total[i + 2], total[i + 3] = a, b, c, d
        total[i + 4], total[i + 5], total[i + 6], total[i + 7] = e, f, g, h
    for i in range(whole, n):
        some = 0.0
        for j in range(m):
            some += matrix[i, j] * vector[j]
        total[i] = some
    return total
