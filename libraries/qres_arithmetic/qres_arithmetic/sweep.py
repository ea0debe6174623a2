"""A matrix-vector product whose every bit is specified."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qres_arithmetic.backend import accelerated


def sweep(matrix: NDArray[np.float64], vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``matrix @ vector``, summed column by column from the left.

    A library's product orders and fuses the sums as the machine likes. Here each step is one IEEE
    754 product and one IEEE 754 sum per row, both rounded, in a fixed order: the same bits
    everywhere.

    Args:
        matrix: float64, shape ``(n, m)``.
        vector: float64, shape ``(m,)``.

    Returns:
        float64, shape ``(n,)``, new memory.

    Raises:
        ValueError: the shapes do not fit.

    Complexity: ``O(n m)``; without numba in ``m`` numpy calls.

    Example:
        >>> sweep(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([1.0, 10.0])).tolist()
        [21.0, 43.0]
    """
    if matrix.ndim != 2 or vector.shape != matrix.shape[1:]:
        raise ValueError(f"shapes {matrix.shape} and {vector.shape} do not fit")
    if accelerated():
        from qres_arithmetic.sweep_kernels import swept  # noqa: PLC0415 - loads numba

        return swept(np.ascontiguousarray(matrix), np.ascontiguousarray(vector))
    total = np.zeros(matrix.shape[0])
    for column, factor in zip(matrix.T, vector, strict=True):
        total += column * factor
    return total
