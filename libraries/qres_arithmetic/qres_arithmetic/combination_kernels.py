"""Numba kernels for weighted sums of rows. Import only where numba is in use.

Four rows are added at a time, so that the sums of a block of columns are read and written a
quarter as often.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qres_arithmetic.backend import compiled

WIDTH: Final = 2048
"""Columns of a block, whose sums stay in the innermost cache."""


@compiled()
def exact_combination(
    rows: NDArray[np.int32],
    chosen: NDArray[np.int64],
    weights: NDArray[np.int32],
    divisor: int,
    start: int,
    stop: int,
    out: NDArray[np.int32],
) -> None:
    """Divide a weighted sum of rows by an integer and round half to even.

    Args:
        rows: shape ``(n, d)``.
        chosen: indices of rows, shape ``(m,)``.
        weights: their weights, shape ``(m,)``; the sum stays within ``2**62``.
        divisor: what to divide by, 1 or more; at least the sum of the weights.
        start: the first column.
        stop: the column after the last.
        out: the result, shape ``(stop - start,)``.
    """
    block = np.empty(WIDTH, np.int64)
    for left in range(start, stop, WIDTH):
        right = min(left + WIDTH, stop)
        sums = block[: right - left]
        sums[:] = 0
        fours = chosen.size // 4 * 4
        for c in range(0, fours, 4):
            _add_four(rows, chosen[c : c + 4], weights[c : c + 4], left, right, sums)
        for c in range(fours, chosen.size):
            _add_one(rows[chosen[c], left:right], weights[c], sums)
        _divide(sums, divisor, out[left - start : right - start])


@compiled(reassociate=True)
def float_combination(
    rows: NDArray[Any],
    chosen: NDArray[np.int64],
    weights: NDArray[np.float64],
    divisor: float,
    start: int,
    stop: int,
    out: NDArray[Any],
) -> None:
    """Divide a weighted sum of rows, formed in float64, by a number.

    ``rows``: float32 or float64, shape ``(n, d)``; ``chosen``: indices of rows, shape ``(m,)``;
    ``weights``: their weights, shape ``(m,)``; ``out``: the result in the dtype of ``rows``, shape
    ``(stop - start,)``.
    """
    block = np.empty(WIDTH, np.float64)
    for left in range(start, stop, WIDTH):
        right = min(left + WIDTH, stop)
        sums = block[: right - left]
        sums[:] = 0.0
        fours = chosen.size // 4 * 4
        for c in range(0, fours, 4):
            _add_four(rows, chosen[c : c + 4], weights[c : c + 4], left, right, sums)
        for c in range(fours, chosen.size):
            _add_one(rows[chosen[c], left:right], weights[c], sums)
        piece = out[left - start : right - start]
        for k in range(piece.size):
            piece[k] = sums[k] / divisor


@compiled()
def _add_four(
    rows: NDArray[Any],
    chosen: NDArray[np.int64],
    weights: NDArray[Any],
    left: int,
    right: int,
    sums: NDArray[Any],
) -> None:
    x0, x1 = rows[chosen[0], left:right], rows[chosen[1], left:right]
    x2, x3 = rows[chosen[2], left:right], rows[chosen[3], left:right]
    w0, w1, w2, w3 = weights[0], weights[1], weights[2], weights[3]
    for k in range(sums.size):
        sums[k] += (w0 * x0[k] + w1 * x1[k]) + (w2 * x2[k] + w3 * x3[k])


@compiled()
def _add_one(x: NDArray[Any], weight: Any, sums: NDArray[Any]) -> None:
    for k in range(sums.size):
        sums[k] += weight * x[k]


@compiled()
def _divide(sums: NDArray[np.int64], divisor: int, out: NDArray[np.int32]) -> None:
    for k in range(out.size):
        quotient = sums[k] // divisor
        twice = 2 * (sums[k] - quotient * divisor)
        if twice > divisor or (twice == divisor and quotient % 2 != 0):
            quotient += 1
        out[k] = quotient
