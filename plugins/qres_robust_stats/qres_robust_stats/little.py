"""Iterative rules on few numbers, in one compiled call each."""

from __future__ import annotations

from typing import Any, Final, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from qres_arithmetic import Rows, accelerated, is_packed, packed, squared_distances

from qres_robust_stats.coefficients import as_floats

Exact: TypeAlias = NDArray[np.int32]

_LITTLE: Final = 2**16
"""Entries; of more the time goes into arithmetic, and blocks of columns are faster."""
_LITTLE_EXACT: Final = 2**18
_FEW: Final = 128
"""Rows; of more, distances cost more than all calls."""


def is_little(rows: Rows) -> bool:
    """True if the functions here may be asked: compiled kernels and few numbers."""
    if rows.dtype == np.int32:
        few = rows.size <= _LITTLE_EXACT and len(rows) <= _FEW
    else:
        few = rows.size <= _LITTLE
    return few and is_packed(rows) and accelerated()


def clipped_little(
    rows: Rows, start: Rows | None, radius: float, iterations: int
) -> NDArray[Any] | None:
    """Centred clipping.

    Args:
        rows: shape ``(n, d)``, packed.
        start: shape ``(d,)``; the zero vector if left out.
        radius: above 0.
        iterations: 1 or more.

    Returns:
        shape ``(d,)``, dtype of ``rows``, the bits of the general way for int32; ``None`` if
        something overflowed or was not finite: the general way finds out what.

    Complexity: of floats two reads for each iteration; as the general way for int32.
    """
    result = np.empty(rows.shape[1], rows.dtype)
    origin = np.empty(0, rows.dtype) if start is None else start
    if rows.dtype == np.int32:
        from qres_robust_stats.exact_kernels import clipped_exact  # noqa: PLC0415 - as below

        squares = _squares(rows) if iterations > 1 else np.empty((0, 0))
        few, begin = packed(cast("Exact", rows)), packed(cast("Exact", origin))
        whole = np.empty(rows.shape[1], np.int32)
        done = clipped_exact(few, begin, squares, float(radius), iterations, whole)
        return whole if done else None
    from qres_robust_stats.step_kernels import clipped  # noqa: PLC0415 - numba takes time

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


def weiszfeld_exact_little(
    rows: Rows,
    squares: NDArray[np.float64] | None,
    shares: NDArray[np.float64],
    weights: NDArray[np.float64],
    smoothing: float,
    iterations: int,
) -> NDArray[Any] | None:
    """Weiszfeld's steps on int32 rows from a mixture of them or from the zero vector.

    Args:
        rows: int32, shape ``(n, d)``, packed.
        squares: squared distances of every two rows, float64, shape ``(n, n)``; computed if left
            out.
        shares: float64, shape ``(n,)``, above 0.
        weights: those of the point to begin at, float64, shape ``(n + 1,)``; not changed.
        smoothing: above 0.
        iterations: 1 or more.

    Returns:
        int32, shape ``(d,)``, the bits of the general way; ``None`` as :func:`clipped_little`.

    Complexity: as the general way.
    """
    from qres_robust_stats.exact_kernels import weiszfeld_exact  # noqa: PLC0415 - numba takes time

    result = np.empty(rows.shape[1], np.int32)
    between = _squares(rows) if squares is None else packed(squares)
    point = weights.copy()
    few, counts = packed(cast("Exact", rows)), packed(shares)
    done = weiszfeld_exact(few, between, counts, point, float(smoothing), iterations, result)
    return result if done else None


def _squares(rows: Rows) -> NDArray[np.float64]:
    return packed(as_floats(squared_distances(rows)))
