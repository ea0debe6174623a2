"""Numba kernels of single passes over the rows. Import only where numba is in use.

A row's columns are cut out with one index, ``rows[i, left:right]``: of a cut-out of a cut-out numba
would not know that its entries are adjacent, and would not vectorise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from qres_arithmetic import compiled

_HALF = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)


@compiled(reassociate=True)
def _accumulate(
    x0: NDArray[Any],
    x1: NDArray[Any],
    x2: NDArray[Any],
    x3: NDArray[Any],
    weights: NDArray[np.float64],
    point: NDArray[np.float64],
) -> None:
    """Add four weighted rows to the point, so that it is read and written once for all four."""
    w0, w1, w2, w3 = weights[0], weights[1], weights[2], weights[3]
    for k in range(point.size):
        point[k] += w0 * x0[k] + w1 * x1[k] + w2 * x2[k] + w3 * x3[k]


@compiled(reassociate=True)
def distance(row: NDArray[Any], point: NDArray[np.float64]) -> float:
    """The squared distance of a row from a point."""
    total = 0.0
    for k in range(row.size):
        difference = row[k] - point[k]
        total += difference * difference
    return total


@compiled(reassociate=True)
def add(row: NDArray[Any], weight: float, point: NDArray[np.float64]) -> None:
    """Add a weighted row to a point."""
    for k in range(point.size):
        point[k] += weight * row[k]


@compiled()
def _mix(
    rows: NDArray[Any],
    weights: NDArray[np.float64],
    used: NDArray[np.intp],
    origin: NDArray[np.float64],
    point: NDArray[np.float64],
    left: int,
    right: int,
) -> None:
    """Set the point to columns of ``origin + sum(weights[u] * rows[used[u]])``; no origin is 0."""
    if origin.size:
        point[:] = origin[left:right]
    else:
        point[:] = 0.0
    whole = used.size // 4 * 4
    for u in range(0, whole, 4):
        _accumulate(
            rows[used[u], left:right],
            rows[used[u + 1], left:right],
            rows[used[u + 2], left:right],
            rows[used[u + 3], left:right],
            weights[u : u + 4],
            point,
        )
    for u in range(whole, used.size):
        add(rows[used[u], left:right], weights[u], point)


@compiled()
def distances_from_mixture(
    rows: NDArray[Any],
    weights: NDArray[np.float64],
    used: NDArray[np.intp],
    origin: NDArray[np.float64],
    start: int,
    stop: int,
    width: int,
) -> NDArray[np.float64]:
    """Squared distances of every row from ``origin + sum(weights[u] * rows[used[u]])``.

    A block of columns is mixed and compared while it is in cache: one read of the rows in all.
    """
    n = rows.shape[0]
    total = np.zeros(n)
    mixed = np.empty(min(width, stop - start))
    for left in range(start, stop, width):
        right = min(left + width, stop)
        point = mixed[: right - left]
        _mix(rows, weights, used, origin, point, left, right)
        for i in range(n):
            total[i] += distance(rows[i, left:right], point)
    return total


@compiled()
def mixture(
    rows: NDArray[Any],
    weights: NDArray[np.float64],
    used: NDArray[np.intp],
    origin: NDArray[np.float64],
    result: NDArray[Any],
    start: int,
    stop: int,
    width: int,
) -> None:
    """Write ``origin + sum(weights[u] * rows[used[u]])`` into the result's columns."""
    mixed = np.empty(min(width, stop - start))
    for left in range(start, stop, width):
        right = min(left + width, stop)
        point = mixed[: right - left]
        _mix(rows, weights, used, origin, point, left, right)
        result[left:right] = point


@compiled()
def exact_halves(
    rows: NDArray[np.int32], point: NDArray[np.int32], start: int, stop: int, width: int
) -> NDArray[np.uint64]:
    """Squared distances of int32 rows from a point, as sums of high and of low 32-bit halves.

    ``|x - y| < 2**32``, so a square fits uint64, and fewer than ``2**32`` halves add up within it.
    """
    n = rows.shape[0]
    total = np.zeros((2, n), np.uint64)
    for left in range(start, stop, width):
        right = min(left + width, stop)
        part = point[left:right]
        for i in range(n):
            row = rows[i, left:right]
            high, low = np.uint64(0), np.uint64(0)
            for k in range(row.size):
                difference = np.int64(row[k]) - np.int64(part[k])
                size = np.uint64(np.uint32(difference if difference >= 0 else -difference))
                square = size * size
                high += square >> _HALF
                low += square & _LOW
            total[0, i] += high
            total[1, i] += low
    return total
