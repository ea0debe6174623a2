"""Norms and products of integer vectors, exactly, and clipping that never leaves a ball."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

_CHUNK: Final = 2**14


def squared_norm(values: NDArray[np.integer]) -> int:
    """Exact sum of squares.

    Args:
        values: any shape, any integers of at most 64 bits.

    Complexity: O(d) word operations for entries up to ``2**31``, else O(d) Python integers.
    """
    wide = values.astype(np.int64)
    if wide.size and max(int(wide.max()), -int(wide.min())) > 2**31:
        return sum(int(one) ** 2 for one in wide.reshape(-1))
    squares = wide * wide
    return (int((squares >> 32).sum()) << 32) + int((squares & 0xFFFFFFFF).sum())


def inner(direction: NDArray[np.int16], vector: NDArray[np.integer]) -> int:
    """Exact ``<direction, vector>``.

    Args:
        direction: int16, shape ``(d,)``.
        vector: shape ``(d,)``, entries up to ``2**32``.
    """
    products = direction.astype(np.int64) * vector.astype(np.int64)
    starts = range(0, products.size, _CHUNK)  # 2**14 products below 2**48 fit 64 bits
    return sum(int(products[start : start + _CHUNK].sum()) for start in starts)


def clipped(vector: NDArray[np.int64], bound: int) -> NDArray[np.int64]:
    """The vector shortened to a norm of at most ``bound``; itself if it is short enough.

    Each entry becomes ``u_j bound / ceil(|u|)``, rounded towards zero in integers, so that the norm
    never exceeds the bound, and is the same on every machine.

    Args:
        vector: shape ``(d,)``, entries up to ``2**32``.
        bound: 1..2**31 - 1.
    """
    squared = squared_norm(vector)
    if squared <= bound * bound:
        return vector
    norm = math.isqrt(squared - 1) + 1
    if norm >= 2**62:  # pragma: no cover - 2**60 coordinates
        raise OverflowError(norm)
    # |u_j| bound < 2**32 * 2**31 fits 64 bits without a sign.
    sizes = np.abs(vector).astype(np.uint64) * np.uint64(bound) // np.uint64(norm)
    return np.sign(vector) * sizes.astype(np.int64)
