"""Pairwise squared distances and norms of rows.

One pass over the rows feeds every rule that compares senders. The kernels subtract first and
square then, so nothing cancels however large the vectors are against their differences; what
remains of rounding is stated at :func:`squared_distances`. Without numba, see
:mod:`qres_arithmetic.gram`.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias, cast, overload

import numpy as np
from numpy.typing import NDArray

from qres_arithmetic.backend import accelerated
from qres_arithmetic.gram import exact_gram, float_gram
from qres_arithmetic.integers import Integers, from_halves, narrowed
from qres_arithmetic.passes import sums_over_columns
from qres_arithmetic.rows import Rows, check_rows, refuse_non_finite

Distances: TypeAlias = Integers | NDArray[np.float64]
"""Squared distances or norms: integers of int32 rows, float64 of float rows."""

_Floats: TypeAlias = NDArray[np.float32] | NDArray[np.float64]

# Beyond, the matrix product of a BLAS overtakes the tiles; the integers are the same.
_MOST_FOR_TILES: Final = 128
_NUMPY_WIDTH: Final = 16_400


@overload
def squared_distances(rows: NDArray[np.int32]) -> Integers: ...
@overload
def squared_distances(rows: _Floats) -> NDArray[np.float64]: ...
def squared_distances(rows: Rows) -> Distances:
    """Return the squared Euclidean distance of every two rows.

    Args:
        rows: int32, float32 or float64, shape ``(n, d)``, any strides; not changed.

    Returns:
        shape ``(n, n)``, symmetric, zero diagonal. For int32, exact in squared grid steps: int64
        if every entry fits, else Python integers in an object array. For floats, float64: within
        ``(1024 + 8) * 2**-24`` of the exact value, relatively, for float32 rows and much nearer
        in practice, plus ``d * 2**-149`` where squares underflow; infinite where float64 rows
        overflow. Without numba the error is about ``2**-52 (|x|**2 + |y|**2)`` instead.

    Raises:
        ValueRefusedError: QRES-E501 for float rows that hold a NaN or an infinity; QRES-E502 and
            QRES-E503 as :func:`~qres_arithmetic.rows.check_rows`.

    Complexity:
        ``n**2 d / 2`` subtractions and multiply-adds in float32 lanes for float32 rows, in float64
        lanes otherwise; about five times as many for pairs of int32 rows that lie more than
        ``2**22`` apart within a block of columns. Memory ``O(n**2)`` and one block of columns for
        each thread.

    Example:
        >>> squared_distances(np.array([[0, 0], [3, 4]], dtype=np.int32)).tolist()
        [[0, 25], [25, 0]]
    """
    check_rows(rows)
    if rows.dtype != np.int32:
        return _float_distances(cast("_Floats", rows))[0]
    if accelerated() and len(rows) <= _MOST_FOR_TILES:
        return _exact_distances(cast("NDArray[np.int32]", rows))
    return _gram_distances(cast("NDArray[np.int32]", rows))[0]


def distances_of_products(products: NDArray[Any]) -> Integers:
    """Return what :func:`squared_distances` does for int32 rows with these inner products.

    Args:
        products: of every two rows, exact: Python integers in an object array, shape ``(n, n)``.

    Returns:
        as there, with the same dtype.

    Complexity: ``O(n**2)`` on Python integers.

    Example:
        >>> distances_of_products(np.array([[0, 0], [0, 25]], dtype=object)).tolist()
        [[0, 25], [25, 0]]
    """
    squares = products.diagonal()
    return narrowed(squares[:, None] + squares[None, :] - 2 * products)


@overload
def distances_with_norms(rows: NDArray[np.int32]) -> tuple[Integers, Integers]: ...
@overload
def distances_with_norms(rows: _Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]: ...
def distances_with_norms(rows: Rows) -> tuple[Distances, Distances]:
    """Return what :func:`squared_distances` and :func:`squared_norms` do.

    Args:
        rows: as there.

    Returns:
        shapes ``(n, n)`` and ``(n,)``; of float32 rows the norms have the error of the distances.

    Raises:
        ValueRefusedError: as there.

    Complexity: that of :func:`squared_distances`; float rows are read once.

    Example:
        >>> [part.tolist() for part in distances_with_norms(np.array([[0, 0], [3.0, 4.0]]))]
        [[[0.0, 25.0], [25.0, 0.0]], [0.0, 25.0]]
    """
    check_rows(rows)
    if rows.dtype != np.int32:
        return _float_distances(cast("_Floats", rows))
    exact = cast("NDArray[np.int32]", rows)
    if accelerated() and len(rows) <= _MOST_FOR_TILES:
        return _exact_distances(exact), squared_norms(exact)
    return _gram_distances(exact)


@overload
def squared_norms(rows: NDArray[np.int32]) -> Integers: ...
@overload
def squared_norms(rows: _Floats) -> NDArray[np.float64]: ...
def squared_norms(rows: Rows) -> Distances:
    """Return the squared Euclidean norm of every row.

    Args:
        rows: int32, float32 or float64, shape ``(n, d)``, any strides; not changed.

    Returns:
        shape ``(n,)``. For int32, exact in squared grid steps: int64 if every entry fits, else
        Python integers in an object array. For floats, float64, summed in float64.

    Raises:
        ValueRefusedError: as :func:`squared_distances`.

    Complexity: ``O(n d)``; memory beside the result is one block of columns.

    Example:
        >>> squared_norms(np.array([[3, 4]], dtype=np.int32)).tolist()
        [25]
    """
    check_rows(rows)
    if rows.dtype == np.int32:
        return _exact_norms(cast("NDArray[np.int32]", rows))
    floats = cast("_Floats", rows)
    norms = _fast_norms(floats) if accelerated() else _numpy_norms(floats)
    refuse_non_finite(rows, np.flatnonzero(~np.isfinite(norms)).tolist())
    return norms


def _exact_distances(rows: NDArray[np.int32]) -> Integers:
    from qres_arithmetic import pair_kernels as kernels  # noqa: PLC0415 - loads numba

    n = len(rows)
    halves = sums_over_columns(
        rows,
        kernels.EXACT_WIDTH,
        lambda: np.zeros((2, n, n), dtype=np.uint64),
        kernels.exact_pairs,
    )
    squares = np.empty((n, n), dtype=np.int64)
    if kernels.joined(halves, squares):
        return squares
    return from_halves(_mirrored(halves[0]), _mirrored(halves[1]))


def _gram_distances(rows: NDArray[np.int32]) -> tuple[Integers, Integers]:
    gram = exact_gram(rows)
    squares = gram.diagonal().copy()
    # |x.y| <= max(x.x), so no step leaves int64 where exact_gram found that 4 max(x.x) fits.
    distances: NDArray[Any] = -2 * gram
    distances += squares[:, None]
    distances += squares[None, :]
    return narrowed(distances), narrowed(squares)


def _float_distances(rows: _Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if not accelerated():
        return _float_gram_distances(rows)
    from qres_arithmetic import pair_kernels as kernels  # noqa: PLC0415 - loads numba

    n = len(rows)
    dtype = rows.dtype

    def add(block: Any, start: int, stop: int, total: Any) -> None:
        kernels.float_pairs(block, start, stop, np.empty((4, 4), dtype=dtype), total)

    total = sums_over_columns(rows, kernels.WIDTH, lambda: np.zeros((n, n)), add)
    refuse_non_finite(rows, np.flatnonzero(~np.isfinite(total.diagonal())).tolist())
    if dtype == np.float32 and not np.isfinite(total).all():
        # The rows are finite: a square overflowed, which in float64 none does.
        total = sums_over_columns(
            rows, kernels.WIDTH, lambda: np.zeros((n, n)), kernels.float64_pairs
        )
    return _mirrored(total), total.diagonal().copy()


def _float_gram_distances(rows: _Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    gram = float_gram(rows)
    norms = gram.diagonal().copy()
    endless = ~np.isfinite(norms)
    refuse_non_finite(rows, np.flatnonzero(endless).tolist())
    with np.errstate(all="ignore"):
        distances = np.maximum(norms[:, None] + norms[None, :] - 2 * gram, 0)
    distances[endless] = np.inf
    distances[:, endless] = np.inf
    np.fill_diagonal(distances, 0)
    return distances, norms


def _exact_norms(rows: NDArray[np.int32]) -> Integers:
    n = len(rows)
    if accelerated():
        from qres_arithmetic import pair_kernels as kernels  # noqa: PLC0415 - loads numba

        halves = sums_over_columns(
            rows,
            kernels.WIDTH,
            lambda: np.zeros((2, n), dtype=np.uint64),
            kernels.exact_norms,
        )
    else:
        halves = np.zeros((2, n), dtype=np.uint64)
        for start in range(0, rows.shape[1], _NUMPY_WIDTH):
            block = rows[:, start : start + _NUMPY_WIDTH].astype(np.int64)
            squares = np.square(block, out=block).view(np.uint64)
            halves[0] += (squares & np.uint64(2**32 - 1)).sum(axis=1)
            halves[1] += (squares >> np.uint64(32)).sum(axis=1)
    return from_halves(halves[0], halves[1])


def _fast_norms(rows: _Floats) -> NDArray[np.float64]:
    from qres_arithmetic import pair_kernels as kernels  # noqa: PLC0415 - loads numba

    n = len(rows)
    return sums_over_columns(rows, kernels.WIDTH, lambda: np.zeros(n), kernels.float_norms)


def _numpy_norms(rows: _Floats) -> NDArray[np.float64]:
    norms = np.zeros(len(rows))
    with np.errstate(all="ignore"):
        for start in range(0, rows.shape[1], _NUMPY_WIDTH):
            block = rows[:, start : start + _NUMPY_WIDTH].astype(np.float64)
            norms += np.square(block, out=block).sum(axis=1)
    return norms


def _mirrored(upper: NDArray[Any]) -> NDArray[Any]:
    """Return a symmetric matrix with a zero diagonal from what is above the diagonal."""
    above = np.triu(upper, 1)
    above += above.T.copy()
    return above
