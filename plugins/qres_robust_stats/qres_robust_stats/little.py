"""Iterative rules on few floats, in one compiled call each."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from qres_arithmetic import Rows, accelerated, is_packed, packed

_LITTLE: Final = 2**16
"""Entries; of more the time goes into arithmetic, and blocks of columns are faster."""


def is_little(rows: Rows) -> bool:
    """Whether the functions here may be asked: compiled kernels and few floats."""
    return rows.size <= _LITTLE and rows.dtype != np.int32 and is_packed(rows) and accelerated()


def clipped_little(
    rows: Rows, start: Rows | None, radius: float, iterations: int
) -> NDArray[Any] | None:
    """Centred clipping of floats.

    Args:
        rows: floating, shape ``(n, d)``, packed.
        start: shape ``(d,)``; the zero vector if left out.
        radius: above 0.
        iterations: 1 or more.

    Returns:
        shape ``(d,)``, dtype of ``rows``; ``None`` if something overflowed or was not finite: the
        general way finds out what.

    Complexity: two reads of the rows for each iteration.
    """
    from qres_robust_stats.step_kernels import clipped  # noqa: PLC0415 - numba takes time

    result = np.empty(rows.shape[1], rows.dtype)
    origin = np.empty(0, rows.dtype) if start is None else start
    done = clipped(packed(rows), packed(origin), float(radius), iterations, result)
    return result if done else None


def weiszfeld_little(
    rows: Rows, shares: NDArray[np.float64], smoothing: float, iterations: int
) -> NDArray[Any] | None:
    """Weiszfeld's steps on floats from the zero vector.

    Args:
        rows: floating, shape ``(n, d)``, packed.
        shares: float64, shape ``(n,)``, above 0.
        smoothing: above 0.
        iterations: 1 or more.

    Returns:
        as :func:`clipped_little`.

    Complexity: two reads of the rows for each iteration.
    """
    from qres_robust_stats.step_kernels import weiszfeld  # noqa: PLC0415 - numba takes time

    result = np.empty(rows.shape[1], rows.dtype)
    done = weiszfeld(packed(rows), packed(shares), float(smoothing), iterations, result)
    return result if done else None
