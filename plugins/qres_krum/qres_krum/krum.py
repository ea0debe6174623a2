"""Krum and Multi-Krum as functions of stacked rows."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray
from qres_arithmetic import Rows, check_rows, mean_of

from qres_core import options
from qres_core.errors import ValueRefusedError
from qres_krum.selection import best_rows


def krum(vectors: Rows, f: int) -> NDArray[Any]:
    """Return the row nearest to its ``n - f - 2`` nearest others, bit for bit.

    Args:
        vectors: shape ``(n, d)``, int32, float32 or float64; not changed.
        f: rows that may be anything, 0 or more.

    Returns:
        shape ``(d,)``, the dtype of the rows, new memory. For int32 rows scores are exact and the
        same row is returned on every machine; of equal scores the lower row.

    Raises:
        ValueRefusedError: QRES-E505 if ``n < 2 f + 3``, QRES-E501 if a float row holds NaN or an
            infinity, QRES-E502 for another shape, QRES-E503 for another dtype.
        OptionError: QRES-E105, ``f`` is negative or no integer.

    Complexity:
        one pass of pairwise distances, ``n**2 d / 2`` multiply-adds; see
        :func:`~qres_krum.selection.best_rows`.

    Guarantee:
        ``(f, kappa)``-robust with ``kappa`` of order ``6 (1 + f / (n - 2 f))`` (Allouah et al.,
        AISTATS 2023, who score by ``n - f - 1`` neighbours).

    Source:
        Blanchard, El Mhamdi, Guerraoui, Stainer, "Machine Learning with Adversaries: Byzantine
        Tolerant Gradient Descent", NeurIPS 2017, section 4.

    Example:
        >>> import numpy as np
        >>> krum(np.array([[0.0], [0.5], [1.5], [2.0], [90.0]]), f=1)
        array([0.5])
    """
    return multi_krum(vectors, f, 1)


def multi_krum(vectors: Rows, f: int, m: int) -> NDArray[Any]:
    """Return the mean of the ``m`` rows of least Krum score, each counted once.

    Args:
        vectors: shape ``(n, d)``, int32, float32 or float64; not changed.
        f: rows that may be anything, 0 or more.
        m: how many to average, from 1 (Krum) to ``n - f``.

    Returns:
        shape ``(d,)``, the dtype of the rows, new memory. For int32 rows the exact mean rounded
        half to even; of equal scores the lower row is taken first.

    Raises:
        ValueRefusedError: QRES-E505 if ``n < 2 f + 3`` or ``n < f + m``, QRES-E501 if a float row
            holds NaN or an infinity, QRES-E502 for another shape, QRES-E503 for another dtype.
        OptionError: QRES-E105, ``f`` is negative, ``m`` less than 1, or one of them no integer.

    Complexity: that of :func:`krum` and ``O(m d)``.

    Source: as :func:`krum`; Multi-Krum is in the paper's experiments.

    Example:
        >>> import numpy as np
        >>> multi_krum(np.array([[0.0], [0.5], [1.5], [2.0], [90.0]]), f=1, m=2)
        array([1.])
    """
    options.whole(0).check("f", f)
    options.whole(1).check("m", m)
    rows = check_rows(vectors, fewest=2 * f + 3)
    n = len(rows)
    if n < f + m:
        raise ValueRefusedError.of(
            "QRES-E505",
            "vectors",
            f"m = {m} is more than n - f = {n} - {f} = {n - f}",
            "average fewer rows or collect more",
        )
    chosen = best_rows(rows, f, m)
    return rows[chosen[0]].copy() if m == 1 else mean_of(rows, chosen)
