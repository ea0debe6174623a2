"""Exact inner products of integer rows: of whole updates, or of ranges of their coordinates."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_BLOCK: Final = 2**20
"""Most numbers of all rows at once: they take megabytes as float64. Sums of so many products of
16-bit halves are below 2**53."""
_EXACT: Final = 2**53
_HALF: Final = 16
_WORD: Final = 32
_LOW_WORD: Final = 2**_WORD - 1


def inner_products(rows: NDArray[np.int32]) -> NDArray[Any]:
    """The inner product of every two rows, exactly.

    Args:
        rows: int32, shape ``(n, d)``.

    Returns:
        Python integers, shape ``(n, n)``, symmetric.

    Complexity: O(n**2 d), by one product of float64 matrices where numbers are small, or three.
    """
    return from_words(*product_words(rows))


def product_words(rows: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Inner products in two words, ``upper * 2**32 + lower`` with ``0 <= lower < 2**32``.

    ``rows``: as for :func:`inner_products`, with less than ``2**32`` columns. Returns int64, both
    of shape ``(n, n)``.
    """
    n, d = rows.shape
    upper, lower = np.zeros((n, n), dtype=np.int64), np.zeros((n, n), dtype=np.int64)
    width = max(1, _BLOCK // n)
    for start in range(0, d, width):
        block = rows[:, start : start + width]
        largest = max(int(block.max()), -int(block.min()))
        if block.shape[1] * largest**2 <= _EXACT:
            whole = block.astype(np.float64)
            lower += (whole @ whole.T).astype(np.int64)
        else:
            high = (block >> _HALF).astype(np.float64)
            low = (block & 0xFFFF).astype(np.float64)
            mixed = (high @ low.T).astype(np.int64)
            mixed = mixed + mixed.T
            upper += (high @ high.T).astype(np.int64) + (mixed >> _HALF)
            lower += (low @ low.T).astype(np.int64) + ((mixed & 0xFFFF) << _HALF)
        upper += lower >> _WORD
        lower &= _LOW_WORD
    return upper, lower


def from_words(upper: NDArray[np.int64], lower: NDArray[np.int64]) -> NDArray[Any]:
    """Python integers of two words each, in the same shape."""
    whole: NDArray[Any] = upper.astype(np.object_)
    whole <<= _WORD
    whole += lower.astype(np.object_)
    return whole
