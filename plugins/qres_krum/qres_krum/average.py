"""The plain mean on the integer grid."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qres_core import Vector


def mean_of_rows(vectors: NDArray[np.int32], rows: list[int]) -> Vector:
    """Return the equally weighted mean of some rows, rounded half to even.

    Rounding down instead would pull the model towards minus infinity by up to a step each round.

    Args:
        vectors: int32, shape ``(n, d)``; not changed.
        rows: one or more indices.

    Returns:
        int32, shape ``(d,)``, new memory; always in range, as a mean lies among its inputs.

    Complexity: ``O(len(rows) d)``; ``O(d)`` memory.

    Example:
        >>> mean_of_rows(np.array([[1, 2, -1], [2, 3, -2]], dtype=np.int32), [0, 1]).tolist()
        [2, 2, -2]
    """
    count = len(rows)
    total = np.zeros(vectors.shape[1], dtype=np.int64)
    for row in rows:
        total += vectors[row]
    quotient, remainder = np.divmod(total, count)
    twice = 2 * remainder
    quotient += (twice > count) | ((twice == count) & (quotient % 2 == 1))
    return quotient.astype(np.int32)
