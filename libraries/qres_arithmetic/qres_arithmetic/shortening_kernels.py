"""Numba kernels of vectors made shorter. Import only where numba is in use."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qres_arithmetic.backend import compiled

_SIGN = np.int64(63)
_BITS = np.int64(30)
_ROUND_UP = np.int64(2**30 - 1)


@compiled()
def multiply(
    rows: NDArray[np.int32],
    factors: NDArray[np.int64],
    start: int,
    stop: int,
    at: int,
    out: NDArray[np.int32],
) -> None:
    """Write ``trunc(factors[i] rows[i] / 2**30)``, towards zero, for the columns from ``start``.

    Args:
        rows: shape ``(n, d)``.
        factors: ``0 .. 2**30``, shape ``(n,)``.
        start: the first column.
        stop: the column after the last.
        at: the column of the result that the first one is written to.
        out: the result, with adjacent entries in each row.
    """
    for i in range(rows.shape[0]):
        factor = factors[i]
        source = rows[i, start:stop]
        target = out[i, at : at + stop - start]
        for k in range(source.size):
            product = np.int64(source[k]) * factor
            # A shift rounds down: what is negative is moved up first.
            product += (product >> _SIGN) & _ROUND_UP
            target[k] = product >> _BITS


@compiled()
def scale(
    rows: NDArray[Any], factors: NDArray[Any], start: int, stop: int, at: int, out: NDArray[Any]
) -> None:
    """Write floating ``factors[i] rows[i]``, of one dtype; arguments as for :func:`multiply`."""
    for i in range(rows.shape[0]):
        factor = factors[i]
        source = rows[i, start:stop]
        target = out[i, at : at + stop - start]
        for k in range(source.size):
            target[k] = source[k] * factor
