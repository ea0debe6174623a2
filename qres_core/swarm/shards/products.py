"""The bytes of exact inner products, and their sum over shards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qres_core.contract.errors import ValueRefusedError
from qres_core.contract.products import from_words, product_words

_WIDEST: Final = 12
"""Bytes of the largest inner product, of vectors of less than 2**32 coordinates."""


def encode_products(rows: NDArray[np.int32]) -> bytes:
    """The inner products of some rows: how many bytes each takes, then the lower triangle.

    It goes row by row, each number little-endian and in two's complement.

    Args:
        rows: int32, shape ``(n, d)``, ``d < 2**32``.

    Complexity: O(n**2 d).
    """
    upper, lower = product_words(rows)
    # By Cauchy and Schwarz none is larger than the largest square.
    square = max(from_words(upper.diagonal(), lower.diagonal()).tolist())
    width = square.bit_length() // 8 + 1
    at = np.tril_indices(len(rows))
    octets = np.empty((len(at[0]), _WIDEST), dtype=np.uint8)
    octets[:, :4] = lower[at].astype("<u4").view(np.uint8).reshape(-1, 4)
    octets[:, 4:] = upper[at].astype("<i8").view(np.uint8).reshape(-1, 8)
    return bytes([width]) + octets[:, :width].tobytes()


def summed_products(encoded: Sequence[bytes | memoryview]) -> NDArray[Any]:
    """The sum of encoded inner products, of as many rows each.

    Args:
        encoded: what :func:`encode_products` makes of ranges of the rows' coordinates.

    Returns:
        Python integers, shape ``(n, n)``: the inner products of the rows.

    Raises:
        ValueRefusedError: QRES-E502 for bytes that are no triangle of numbers, or not of as many
            rows as others.

    Complexity: O(n**2) for each of them.
    """
    counts = {_count(octets) for octets in encoded}
    count = max(counts, default=0)
    n = (math.isqrt(8 * count + 1) - 1) // 2
    if len(counts) != 1 or count < 1 or n * (n + 1) // 2 != count:
        what = f"{sorted(counts)} numbers are no lower triangles of matrices of one size"
        raise ValueRefusedError.of("QRES-E502", "products", what)
    upper, lower = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    for octets in encoded:
        width = octets[0]
        given = np.frombuffer(octets, dtype=np.uint8, offset=1).reshape(count, width)
        wide = np.empty((count, _WIDEST), dtype=np.uint8)
        wide[:, :width] = given
        wide[:, width:] = np.where(given[:, -1:] >= 2**7, 2**8 - 1, 0)  # the sign
        lower += wide[:, :4].copy().view("<u4")[:, 0]
        upper += wide[:, 4:].copy().view("<i8")[:, 0]
    upper += lower >> 32
    lower &= 2**32 - 1
    total = np.zeros((n, n), dtype=np.object_)
    rows, columns = np.tril_indices(n)
    total[rows, columns] = total[columns, rows] = from_words(upper, lower)
    return total


def _count(octets: bytes | memoryview) -> int:
    """Number of its numbers; 0 if that is not clear."""
    width = octets[0] if len(octets) else 0
    if not 1 <= width <= _WIDEST or (len(octets) - 1) % width:
        return 0
    return (len(octets) - 1) // width


def products_bytes(n: int) -> int:
    """Most bytes of encoded inner products of ``n`` rows, of less than 2**32 columns."""
    return 1 + _WIDEST * (n * (n + 1) // 2)
