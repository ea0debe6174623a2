"""Exact inner products of integer rows, and their bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_BLOCK: Final = 2**20
"""Most numbers of all rows at once: they take megabytes as float64. Sums of so many products of
16-bit halves are below 2**53."""
_HALF: Final = 16


def inner_products(rows: NDArray[np.int32]) -> NDArray[Any]:
    """The inner product of every two rows, exactly.

    Args:
        rows: int32, shape ``(n, d)``.

    Returns:
        Python integers, shape ``(n, n)``, symmetric.

    Complexity: O(n**2 d), by four products of float64 matrices, each exact.
    """
    n, d = rows.shape
    total = np.zeros((n, n), dtype=np.object_)
    width = max(1, _BLOCK // n)
    for start in range(0, d, width):
        block = rows[:, start : start + width]
        high = (block >> _HALF).astype(np.float64)
        low = (block & 0xFFFF).astype(np.float64)
        mixed = (high @ low.T).astype(np.int64)
        parts = (high @ high.T, mixed + mixed.T, low @ low.T)
        for shift, part in zip((2 * _HALF, _HALF, 0), parts, strict=True):
            total += part.astype(np.int64).astype(np.object_) << shift
    return total


def encode_products(products: NDArray[Any]) -> bytes:
    """The bytes of inner products: how many each takes, then the lower triangle, row by row."""
    rows, columns = np.tril_indices(len(products))
    values: list[int] = products[rows, columns].tolist()
    width = max(value.bit_length() // 8 + 1 for value in values)
    body = b"".join(value.to_bytes(width, "little", signed=True) for value in values)
    return bytes([width]) + body


def summed_products(encoded: Sequence[bytes | memoryview], n: int) -> NDArray[Any]:
    """The sum of encoded inner products of ``n`` rows: Python integers, shape ``(n, n)``."""
    count = n * (n + 1) // 2
    sums = [0] * count
    for octets in encoded:
        width = octets[0]
        for place in range(count):
            start = 1 + place * width
            value = int.from_bytes(octets[start : start + width], "little", signed=True)
            sums[place] += value
    total = np.zeros((n, n), dtype=np.object_)
    rows, columns = np.tril_indices(n)
    total[rows, columns] = sums
    total[columns, rows] = sums
    return total


def products_bytes(n: int) -> int:
    """Most bytes of encoded inner products of ``n`` rows, of less than 2**32 columns."""
    return 1 + 13 * (n * (n + 1) // 2)
