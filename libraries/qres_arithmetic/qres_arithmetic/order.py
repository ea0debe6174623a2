"""Means of order statistics: the median, the trimmed mean."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from qres_arithmetic.columns import Blocks, summarise
from qres_arithmetic.rows import Rows


def order_mean(rows: Rows | Blocks, low: int, high: int) -> NDArray[Any]:
    """Return, for each column, the mean of its sorted values number ``low .. high - 1``.

    The median of ``n`` rows is ``low = (n - 1) // 2, high = n // 2 + 1``; the trimmed mean is
    ``low = f, high = n - f``.

    Args:
        rows: shape ``(n, d)``; not changed.
        low: the first that takes part, counted from 0.
        high: one past the last one, at most ``n``.

    Returns:
        shape ``(d,)``, the dtype of ``rows``, new memory. int32: exact, rounded half to even.
        Floats: added in ascending order in float64, so that the order of the rows leaves no trace;
        a zero is ``+0.0``.

    Raises:
        ValueRefusedError: QRES-E501 for rows that are not finite, naming them; QRES-E502 or
            QRES-E503 if the rows are no rows.
        ValueError: not ``0 <= low < high <= n``.

    Complexity:
        ``O(n (log n)**2 d)`` comparisons, which are vector instructions with the compiled kernels;
        ``O(n log n d)`` for numpy above 40 rows. The rows are read once; memory beside the result
        is one small block of columns.

    Example:
        >>> import numpy as np
        >>> order_mean(np.array([[1, 9], [2, 8], [90, 1]], dtype=np.int32), 1, 2).tolist()
        [2, 8]
    """
    n = rows.shape[0]
    if not 0 <= low < high <= n:
        raise ValueError(f"expected 0 <= low < high <= {n}, got low = {low}, high = {high}")
    return summarise(rows, low, high, high - low)
