"""Numba kernels of whole iterations on few int32 numbers. Import only where numba is in use.

Every step is the same IEEE 754 operation, or exact sum, as in
:mod:`qres_robust_stats.coefficients` and the rules, in the same order where the order matters: the
same bits. Whatever a kernel cannot do so it leaves to the general way, and returns False.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from qres_arithmetic import WEIGHT_UNIT, compiled

from qres_robust_stats.pass_kernels import exact_halves
from qres_robust_stats.sum_kernels import TO_WHOLE, Floats, fsum

_UNIT: Final = WEIGHT_UNIT
_BITS: Final = 30
_TOLERANCE: Final = 1e-6
_ROOM = np.uint64(2**30)
_HALF = np.uint64(32)


@compiled()
def clipped_exact(
    rows: NDArray[np.int32],
    start: NDArray[np.int32],
    squares: Floats,
    radius: float,
    iterations: int,
    result: NDArray[np.int32],
) -> bool:
    """Centred clipping.

    ``rows``: shape ``(n, d)``; ``start``: shape ``(d,)``, or empty for zero; ``squares``: squared
    distances of every two rows, shape ``(n, n)``, not read in the first iteration; ``result``:
    shape ``(d,)``. Returns False if it is of no use.
    """
    n = rows.shape[0]
    weights = np.zeros(n + 1)
    weights[n] = 1.0
    away = np.empty(n)
    if not _from_start(rows, start, away):
        return False
    factors = np.empty(n)
    for step in range(iterations):
        distances = _distances(squares, away, weights) if step else away
        for i in range(n):
            factors[i] = radius / max(math.sqrt(distances[i]), radius)
        weights *= fsum(1.0 - factors) / n
        for i in range(n):
            weights[i] += factors[i] / n
    return _mixed(rows, start, weights, result)


@compiled()
def weiszfeld_exact(
    rows: NDArray[np.int32],
    squares: Floats,
    shares: Floats,
    weights: Floats,
    smoothing: float,
    iterations: int,
    result: NDArray[np.int32],
) -> bool:
    """Weiszfeld's steps.

    ``rows``, ``squares``, ``result``: as for :func:`clipped_exact`; ``shares``: what every row
    counts, shape ``(n,)``; ``weights``: those of the point to begin at, shape ``(n + 1,)``, the
    last that of the zero vector; written over. Returns False if the result is of no use.
    """
    n = rows.shape[0]
    nothing = np.empty(0, np.int32)
    away = np.empty(n)
    if weights[n] and not _from_start(rows, nothing, away):
        return False
    pulls = np.empty(n)
    for step in range(iterations):
        distances = away if step == 0 and weights[n] else _distances(squares, away, weights)
        for i in range(n):
            pulls[i] = shares[i] / max(math.sqrt(distances[i]), smoothing)
            if not math.isfinite(pulls[i]):
                return False
        total = fsum(pulls)
        if total == 0.0 or not math.isfinite(total):
            return False
        for i in range(n):
            weights[i] = pulls[i] / total
        weights[n] = 0.0
    return _mixed(rows, nothing, weights, result)


@compiled()
def _from_start(rows: NDArray[np.int32], start: NDArray[np.int32], away: Floats) -> bool:
    """Write squared distances from the start vector; False if one is no int64."""
    n, d = rows.shape
    point = start if start.size else np.zeros(d, np.int32)
    halves = exact_halves(rows, point, 0, d, d)
    for i in range(n):
        high, low = halves[0, i], halves[1, i]
        if high >= _ROOM or low >> _HALF >= _ROOM:
            return False
        away[i] = float(np.int64((high << _HALF) + low))
    return True


@compiled()
def _distances(squares: Floats, away: Floats, weights: Floats) -> Floats:
    """Squared distances of the rows from a mixture, as ``Pairwise.distances`` has them."""
    n = away.size
    some, last = weights[:n], weights[n]
    mixed = _product(squares, some)
    terms = np.zeros(n + 1)
    if last:
        for i in range(n):
            mixed[i] += away[i] * last
        terms[n] = last * fsum(some * away)
    for i in range(n):
        terms[i] = some[i] * mixed[i]
    half = 0.5 * fsum(terms)
    for i in range(n):
        mixed[i] = max(mixed[i] - half, 0.0)
    return mixed


@compiled()
def _product(squares: Floats, some: Floats) -> Floats:
    """Multiply as :func:`qres_arithmetic.sweep` does; of a symmetric matrix a row is a column."""
    total = np.zeros(some.size)
    for j in range(some.size):
        factor, column = some[j], squares[j]
        for i in range(total.size):
            total[i] += column[i] * factor
    return total


@compiled()
def _mixed(
    rows: NDArray[np.int32], start: NDArray[np.int32], weights: Floats, result: NDArray[np.int32]
) -> bool:
    """Write the mixture, as :func:`~qres_robust_stats.coefficients.combination` has it."""
    n = rows.shape[0]
    whole = np.empty(n + 1, np.int64)
    total, largest = np.int64(0), 0
    for i in range(n + 1):
        if not 0.0 <= weights[i] < 2.0:
            return False
        whole[i] = np.int64((weights[i] * _UNIT + TO_WHOLE) - TO_WHOLE)
        total += whole[i]
        if whole[i] > whole[largest]:
            largest = i
    if abs(fsum(weights) - 1.0) > _TOLERANCE:
        return False
    whole[largest] += _UNIT - total
    if whole[largest] < 0:
        return False
    sums = np.zeros(result.size, np.int64)
    for i in range(n):
        if whole[i]:
            _add(rows[i], np.int32(whole[i]), sums)
    if start.size and whole[n]:
        _add(start, np.int32(whole[n]), sums)
    for k in range(result.size):
        quotient = sums[k] >> _BITS
        rest = sums[k] - (quotient << _BITS)
        if rest > _UNIT // 2 or (rest == _UNIT // 2 and quotient & 1):
            quotient += 1
        result[k] = quotient
    return True


@compiled()
def _add(row: NDArray[Any], weight: Any, sums: NDArray[np.int64]) -> None:
    for k in range(sums.size):
        sums[k] += np.int64(weight) * np.int64(row[k])
