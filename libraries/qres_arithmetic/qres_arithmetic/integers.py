"""Exact non-negative integers in arrays: int64 while they fit, Python's own beyond."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Integers: TypeAlias = NDArray[np.int64] | NDArray[np.object_]
"""int64 if every entry of the array fits, else an object array of Python integers."""

_INT64_END: Final = 2**63
_HALF: Final = 32
_LOW_HALF: Final = np.uint64(2**_HALF - 1)


def from_halves(low: NDArray[np.uint64], high: NDArray[np.uint64]) -> Integers:
    """Return ``low + 2**32 high``.

    Args:
        low: any shape.
        high: the same shape.

    Returns:
        the same shape; the dtype depends on the values alone.

    Example:
        >>> from_halves(np.array([5], dtype=np.uint64), np.array([1], dtype=np.uint64)).tolist()
        [4294967301]
    """
    carry = low >> np.uint64(_HALF)
    room = np.uint64(2**31) - carry.clip(max=np.uint64(2**31))
    if bool((high < room).all()):
        upper = (high + carry) << np.uint64(_HALF)
        return (upper | (low & _LOW_HALF)).view(np.int64)
    wide: NDArray[Any] = high.astype(np.object_)
    wide *= 2**_HALF
    wide += low.astype(np.object_)
    return wide


def narrowed(values: NDArray[Any]) -> Integers:
    """Return integers as int64 if all of them fit.

    Args:
        values: int64 or an object array of Python integers, any shape.

    Returns:
        the same shape; the dtype depends on the values alone.

    Example:
        >>> narrowed(np.array([1, 2], dtype=object)).dtype
        dtype('int64')
    """
    if values.dtype == np.int64 or all(-_INT64_END <= value < _INT64_END for value in values.flat):
        return values.astype(np.int64, copy=False)
    return values
