"""The mean of the values nearest to the median: MeaMed, and the last step of Bulyan."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from qres_arithmetic.columns import Blocks, summarise
from qres_arithmetic.rows import Rows


def nearest_mean(rows: Rows | Blocks, count: int) -> NDArray[Any]:
    """Return, for each column, the mean of the ``count`` values nearest to its median.

    With the column sorted and ``a``, ``b`` its middle values (one and the same for odd ``n``), the
    median is ``(a + b) / 2``, not rounded. The nearest values are ``count`` adjacent ones of the
    sorted column; of equally near ones the lowest are taken: the window moves up from the bottom
    as long as ``x[i] + x[i + count] < a + b``, which says that the next value is nearer than the
    one it replaces.

    Args:
        rows: shape ``(n, d)``; not changed.
        count: how many values, ``1 .. n``.

    Returns:
        shape ``(d,)``, the dtype of ``rows``, new memory. int32: exact, rounded half to even.
        Floats: sums in float64, in ascending order.

    Raises:
        ValueRefusedError: QRES-E501 for rows that are not finite, naming them; QRES-E502 or
            QRES-E503 if the rows are no rows.
        ValueError: ``count`` is not from 1 to ``n``.

    Complexity: as :func:`~qres_arithmetic.order.order_mean`.

    Source:
        Xie, Koyejo, Gupta, "Generalized Byzantine-tolerant SGD", 2018, section 4.3 (mean around
        median); El Mhamdi, Guerraoui, Rouault, "The Hidden Vulnerability of Distributed Learning in
        Byzantium", ICML 2018, section 4.

    Example:
        >>> import numpy as np
        >>> nearest_mean(np.array([[1], [2], [4], [90]], dtype=np.int32), 2).tolist()
        [3]
    """
    n = rows.shape[0]
    if not 1 <= count <= n:
        raise ValueError(f"expected a count from 1 to {n}, got {count}")
    # A value more than `count` places from the middle is not among the nearest, or equals one.
    middle = (n - 1) // 2
    return summarise(rows, max(0, middle - count + 1), min(n, middle + count + 1), count)
