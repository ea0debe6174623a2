"""Squared distances of integers within a proven error, and the exact ones of a few rows.

A rule that only needs to know which score is least can compute all distances fast and roughly,
and exactly those alone that the error leaves in doubt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qres_arithmetic.backend import accelerated
from qres_arithmetic.distances import squared_distances
from qres_arithmetic.integers import Integers, from_halves, narrowed
from qres_arithmetic.passes import sums_over_columns
from qres_arithmetic.rows import check_rows
from qres_core.errors import ValueRefusedError

INTERVAL_LIMIT: Final = 2**30
"""Coordinates are of smaller magnitude, so that their differences fit int32."""


def interval_distances(rows: NDArray[np.int32]) -> tuple[NDArray[np.float64], float] | None:
    """Return squared distances in float32 precision, and how far off they can be.

    Proof of the bound. Let ``u = 2**-24``, so that an operation that float32 rounds to nearest is
    off by a factor ``1 + t`` with ``|t| <= u``. Nothing under- or overflows: squares are 0 or lie
    between 1 and ``2**62``. A difference of two coordinates fits int32 and is converted with one
    rounding; its square carries that twice, and one more for the product unless it is fused into
    the sum. A block adds ``w = 1024`` squares, all non-negative, in an order the compiler chooses.
    Whatever the order and the number of lanes, a sum in which an operand is the initial zero is
    exact, and every other one takes a further square into the partial sum: so a square passes at
    most ``w - 1`` roundings. The block sums are added in float64, fewer than ``2**24`` of them,
    which is off by less than ``2**-28``. A square thus enters with a factor between
    ``(1 - u)**(w + 2) (1 - 2**-28)`` and ``(1 + u)**(w + 2) (1 + 2**-28)``, which for this ``w``
    is within ``1 +- (w + 3) u``. As no square is negative, the whole sum is too. The bound
    returned, ``(w + 8) u``, leaves room for that.

    Args:
        rows: int32, shape ``(n, d)``, any strides; not changed.

    Returns:
        float64, shape ``(n, n)``, symmetric, zero diagonal, and ``e`` such that the exact ``D``
        and the returned ``A`` satisfy ``|A - D| <= e D``; so ``A / (1 + e) <= D <= A / (1 - e)``.
        None if the kernels are not in use, or if a coordinate is of magnitude ``2**30`` or more:
        compute exactly then.

    Raises:
        ValueRefusedError: QRES-E502 and QRES-E503 as :func:`~qres_arithmetic.rows.check_rows`;
            QRES-E503 for floats too.

    Complexity:
        ``n**2 d / 2`` subtractions, conversions and multiply-adds in float32 lanes, in the same
        pass as the check of the range. Memory ``O(n**2)``.
    """
    _check_integers(rows)
    if not accelerated():
        return None
    from qres_arithmetic import pair_kernels as kernels  # noqa: PLC0415 - loads numba

    n = len(rows)
    ranges_fit: list[bool] = []

    def add(block: Any, start: int, stop: int, total: Any) -> None:
        if all(ranges_fit):
            ranges_fit.append(kernels.interval_pairs(block, start, stop, INTERVAL_LIMIT, total))

    total = sums_over_columns(rows, kernels.WIDTH, lambda: np.zeros((n, n)), add)
    if not all(ranges_fit):
        return None
    above = np.triu(total, 1)
    return above + above.T, (kernels.WIDTH + 8) * 2.0**-24


def exact_rows(rows: NDArray[np.int32], which: Sequence[int]) -> Integers:
    """Return the exact squared distances of some rows to all.

    Args:
        rows: int32, shape ``(n, d)``, any values and strides; not changed.
        which: indices of rows.

    Returns:
        shape ``(len(which), n)``, those rows of
        :func:`~qres_arithmetic.distances.squared_distances`: int64 if every entry fits, else
        Python integers in an object array.

    Raises:
        ValueRefusedError: QRES-E502 and QRES-E503 as :func:`~qres_arithmetic.rows.check_rows`;
            QRES-E503 for floats too.
        IndexError: an index is out of range.

    Complexity: ``len(which) n d`` subtractions and multiply-adds in float64 lanes, or all pairs
    if that is less; all pairs without numba.

    Example:
        >>> exact_rows(np.array([[0], [3], [5]], dtype=np.int32), [1]).tolist()
        [[9, 0, 4]]
    """
    _check_integers(rows)
    chosen = np.array(which, dtype=np.int64)
    n = len(rows)
    if len(chosen) and not (-n <= chosen.min() and chosen.max() < n):
        raise IndexError(f"which must be indices of {n} rows, got {list(which)}")
    if not accelerated() or 2 * len(chosen) >= n:
        return narrowed(squared_distances(rows)[chosen])
    from qres_arithmetic import pair_kernels as kernels  # noqa: PLC0415 - loads numba

    chosen %= n

    def add(block: Any, start: int, stop: int, halves: Any) -> None:
        kernels.exact_strips(block, chosen, start, stop, halves)

    low, high = sums_over_columns(
        rows,
        kernels.EXACT_WIDTH,
        lambda: np.zeros((2, n, len(chosen)), dtype=np.uint64),
        add,
    )
    return from_halves(low.T, high.T)


def _check_integers(rows: NDArray[Any]) -> None:
    if check_rows(rows).dtype != np.int32:
        raise ValueRefusedError.of("QRES-E503", "vectors", f"expected int32, got {rows.dtype}")
