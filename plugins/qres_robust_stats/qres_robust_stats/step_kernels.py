"""Numba kernels of whole iterations on few floats. Import only where numba is in use.

With little data the time goes into calls: here all iterations are one.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qres_arithmetic import compiled

from qres_robust_stats.pass_kernels import add, distance


@compiled()
def clipped(
    rows: NDArray[Any], start: NDArray[Any], radius: float, iterations: int, result: NDArray[Any]
) -> bool:
    """Centred clipping; an empty start is zero. False if anything overflowed or is not finite."""
    n, d = rows.shape
    point = np.zeros(d)
    if start.size:
        point[:] = start
    moved = np.empty(d)
    for _ in range(iterations):
        moved[:] = 0.0
        left_over = 0.0
        for i in range(n):
            square = distance(rows[i], point)
            if not math.isfinite(square):
                return False
            factor = radius / max(math.sqrt(square), radius)
            left_over += 1.0 - factor
            add(rows[i], factor / n, moved)
        left_over /= n
        for k in range(d):
            point[k] = point[k] * left_over + moved[k]
    return _written(point, result)


@compiled()
def weiszfeld(
    rows: NDArray[Any],
    shares: NDArray[np.float64],
    smoothing: float,
    iterations: int,
    result: NDArray[Any],
) -> bool:
    """Weiszfeld's steps from the zero vector. False if anything overflowed or is not finite."""
    n, d = rows.shape
    point = np.zeros(d)
    pulls = np.empty(n)
    for _ in range(iterations):
        total = 0.0
        for i in range(n):
            square = distance(rows[i], point)
            if not math.isfinite(square):
                return False
            pulls[i] = shares[i] / max(math.sqrt(square), smoothing)
            total += pulls[i]
        if total == 0.0:
            return False
        point[:] = 0.0
        for i in range(n):
            add(rows[i], pulls[i] / total, point)
    return _written(point, result)


@compiled()
def _written(point: NDArray[np.float64], result: NDArray[Any]) -> bool:
    for k in range(point.size):
        result[k] = point[k]
        if not math.isfinite(result[k]):
            return False
    return True
