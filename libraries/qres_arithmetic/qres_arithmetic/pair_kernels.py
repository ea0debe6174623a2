"""Numba kernels for squared distances and norms. Import only where numba is in use.

Every kernel takes the columns ``start .. stop - 1`` of read-only rows in C order and adds to sums
that the caller made. It works through blocks of columns narrow enough for all rows of a block to
stay in cache. Within a block, a tile takes four rows against four others, so that eight loads
serve sixteen pairs and all sums stay in registers.

A tile slices its rows first and then counts from zero. An index that numba had to wrap around, or
rows of unknown stride, would keep the compiler from vectorising the loop.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qres_arithmetic.backend import compiled

Block: TypeAlias = NDArray[Any]
"""Rows of one dtype; where columns are cut out of it, ``left .. right - 1`` of them."""

Halves: TypeAlias = NDArray[np.uint64]
"""Shape ``(2, ...)``: sums of the low 32 bits of integers, and of their other bits."""

WIDTH: Final = 1024
"""Columns of a block of floats: short enough for rounding, long enough to hide the tile's ends."""

EXACT_WIDTH: Final = 512
"""Columns of a block of integers, which are converted to float64 on the way."""

REACH: Final = 2**22
"""How far apart coordinates may be for ``EXACT_WIDTH`` squares to sum to at most ``2**53``."""

_HALF = np.uint64(32)
_NONE = np.uint64(0)
_LOW_HALF = np.uint64(2**32 - 1)
_ROOM = np.uint64(2**31)
_SMALL = np.uint64(53)

_extending: Any = importlib.import_module("numba.extending")
_types: Any = importlib.import_module("numba.types")


def _gap(a: Any, b: Any) -> Any:
    """Return ``a - b`` in the type of the operands; numba would widen int32 to int64."""
    raise NotImplementedError


@_extending.overload(_gap)  # type: ignore[untyped-decorator]
def _gap_of_types(a: Any, b: Any) -> Callable[[Any, Any], Any]:  # noqa: ARG001 - as _gap
    if isinstance(a, _types.Integer):

        def integers(a: Any, b: Any) -> Any:
            return np.int32(a - b)

        return integers

    def floats(a: Any, b: Any) -> Any:
        return a - b

    return floats


@compiled(reassociate=True)
def _square_tile(x: Block, i: int, j: int, left: int, right: int, sums: Block) -> None:
    """Sum the squared differences of rows ``i .. i + 3`` with rows ``j .. j + 3``."""
    x0, x1 = x[i, left:right], x[i + 1, left:right]
    x2, x3 = x[i + 2, left:right], x[i + 3, left:right]
    y0, y1 = x[j, left:right], x[j + 1, left:right]
    y2, y3 = x[j + 2, left:right], x[j + 3, left:right]
    s00 = s01 = s02 = s03 = sums.dtype.type(0)
    s10 = s11 = s12 = s13 = sums.dtype.type(0)
    s20 = s21 = s22 = s23 = sums.dtype.type(0)
    s30 = s31 = s32 = s33 = sums.dtype.type(0)
    for k in range(x0.size):
        a0, a1, a2, a3 = x0[k], x1[k], x2[k], x3[k]
        b0, b1, b2, b3 = y0[k], y1[k], y2[k], y3[k]
        z = sums.dtype.type(_gap(a0, b0))
        s00 += z * z
        z = sums.dtype.type(_gap(a0, b1))
        s01 += z * z
        z = sums.dtype.type(_gap(a0, b2))
        s02 += z * z
        z = sums.dtype.type(_gap(a0, b3))
        s03 += z * z
        z = sums.dtype.type(_gap(a1, b0))
        s10 += z * z
        z = sums.dtype.type(_gap(a1, b1))
        s11 += z * z
        z = sums.dtype.type(_gap(a1, b2))
        s12 += z * z
        z = sums.dtype.type(_gap(a1, b3))
        s13 += z * z
        z = sums.dtype.type(_gap(a2, b0))
        s20 += z * z
        z = sums.dtype.type(_gap(a2, b1))
        s21 += z * z
        z = sums.dtype.type(_gap(a2, b2))
        s22 += z * z
        z = sums.dtype.type(_gap(a2, b3))
        s23 += z * z
        z = sums.dtype.type(_gap(a3, b0))
        s30 += z * z
        z = sums.dtype.type(_gap(a3, b1))
        s31 += z * z
        z = sums.dtype.type(_gap(a3, b2))
        s32 += z * z
        z = sums.dtype.type(_gap(a3, b3))
        s33 += z * z
    sums[0, 0], sums[0, 1], sums[0, 2], sums[0, 3] = s00, s01, s02, s03
    sums[1, 0], sums[1, 1], sums[1, 2], sums[1, 3] = s10, s11, s12, s13
    sums[2, 0], sums[2, 1], sums[2, 2], sums[2, 3] = s20, s21, s22, s23
    sums[3, 0], sums[3, 1], sums[3, 2], sums[3, 3] = s30, s31, s32, s33


@compiled(reassociate=True)
def _corner_tile(x: Block, i: int, left: int, right: int, sums: Block) -> None:
    """Sum the squared differences among rows ``i .. i + 3``; on the diagonal their squares."""
    x0, x1 = x[i, left:right], x[i + 1, left:right]
    x2, x3 = x[i + 2, left:right], x[i + 3, left:right]
    s01 = s02 = s03 = s12 = s13 = s23 = sums.dtype.type(0)
    s00 = s11 = s22 = s33 = sums.dtype.type(0)
    for k in range(x0.size):
        a0, a1, a2, a3 = x0[k], x1[k], x2[k], x3[k]
        z = sums.dtype.type(a0)
        s00 += z * z
        z = sums.dtype.type(a1)
        s11 += z * z
        z = sums.dtype.type(a2)
        s22 += z * z
        z = sums.dtype.type(a3)
        s33 += z * z
        z = sums.dtype.type(_gap(a0, a1))
        s01 += z * z
        z = sums.dtype.type(_gap(a0, a2))
        s02 += z * z
        z = sums.dtype.type(_gap(a0, a3))
        s03 += z * z
        z = sums.dtype.type(_gap(a1, a2))
        s12 += z * z
        z = sums.dtype.type(_gap(a1, a3))
        s13 += z * z
        z = sums.dtype.type(_gap(a2, a3))
        s23 += z * z
    sums[0, 0], sums[0, 1], sums[0, 2], sums[0, 3] = s00, s01, s02, s03
    sums[1, 1], sums[1, 2], sums[1, 3] = s11, s12, s13
    sums[2, 2], sums[2, 3], sums[3, 3] = s22, s23, s33


@compiled(reassociate=True)
def _strip_tile(x: Block, i: int, j: int, left: int, right: int, sums: Block) -> None:
    """Sum the squared differences of rows ``i .. i + 3`` with row ``j``, in column 0."""
    x0, x1 = x[i, left:right], x[i + 1, left:right]
    x2, x3 = x[i + 2, left:right], x[i + 3, left:right]
    y = x[j, left:right]
    s0 = s1 = s2 = s3 = sums.dtype.type(0)
    for k in range(x0.size):
        b = y[k]
        z = sums.dtype.type(_gap(x0[k], b))
        s0 += z * z
        z = sums.dtype.type(_gap(x1[k], b))
        s1 += z * z
        z = sums.dtype.type(_gap(x2[k], b))
        s2 += z * z
        z = sums.dtype.type(_gap(x3[k], b))
        s3 += z * z
    sums[0, 0], sums[1, 0], sums[2, 0], sums[3, 0] = s0, s1, s2, s3


@compiled(reassociate=True)
def _pair(x: Block, i: int, j: int, left: int, right: int, sums: Block) -> Any:
    x0, y0 = x[i, left:right], x[j, left:right]
    total = sums.dtype.type(0)
    for k in range(x0.size):
        z = sums.dtype.type(_gap(x0[k], y0[k]))
        total += z * z
    return total


@compiled(reassociate=True)
def _square(x: Block, i: int, left: int, right: int, sums: Block) -> Any:
    x0 = x[i, left:right]
    total = sums.dtype.type(0)
    for k in range(x0.size):
        z = sums.dtype.type(x0[k])
        total += z * z
    return total


@compiled()
def _add_block(x: Block, left: int, right: int, sums: Block, total: NDArray[np.float64]) -> None:
    """Add the squared distances of a block's rows above the diagonal, squared norms on it."""
    n = total.shape[0]
    whole = n // 4 * 4
    for i in range(0, whole, 4):
        _corner_tile(x, i, left, right, sums)
        for a in range(4):
            for b in range(a, 4):
                total[i + a, i + b] += sums[a, b]
        for j in range(i + 4, whole, 4):
            _square_tile(x, i, j, left, right, sums)
            for a in range(4):
                for b in range(4):
                    total[i + a, j + b] += sums[a, b]
        for j in range(whole, n):
            _strip_tile(x, i, j, left, right, sums)
            for a in range(4):
                total[i + a, j] += sums[a, 0]
    for i in range(whole, n):
        total[i, i] += _square(x, i, left, right, sums)
        for j in range(i + 1, n):
            total[i, j] += _pair(x, i, j, left, right, sums)


@compiled()
def float_pairs(
    rows: Block, start: int, stop: int, sums: Block, total: NDArray[np.float64]
) -> None:
    """Add squared distances above the diagonal and squared norms on it.

    ``rows``: float32 or float64, shape ``(n, d)``; ``sums``: scratch in the dtype of ``rows``,
    shape ``(4, 4)``; ``total``: shape ``(n, n)``.
    """
    for left in range(start, stop, WIDTH):
        _add_block(rows, left, min(left + WIDTH, stop), sums, total)


@compiled()
def float64_pairs(
    rows: NDArray[np.float32], start: int, stop: int, total: NDArray[np.float64]
) -> None:
    """Do as :func:`float_pairs` in float64 throughout, where the squares do not overflow."""
    block = np.empty((rows.shape[0], WIDTH))
    sums = np.empty((4, 4))
    for left in range(start, stop, WIDTH):
        width = min(WIDTH, stop - left)
        for i in range(rows.shape[0]):
            _convert(rows[i, left : left + width], block[i, :width])
        _add_block(block, 0, width, sums, total)


@compiled()
def interval_pairs(
    rows: NDArray[np.int32], start: int, stop: int, limit: int, total: NDArray[np.float64]
) -> bool:
    """Add approximate squared distances and norms of integers, and check their range on the way.

    ``rows``: int32, shape ``(n, d)``; ``limit``: coordinates have to be above ``-limit`` and below
    ``limit``, at most ``2**30``; ``total``: shape ``(n, n)``. Returns False if a coordinate is out
    of range; ``total`` is of no use then.
    """
    sums = np.empty((4, 4), np.float32)
    for left in range(start, stop, WIDTH):
        right = min(left + WIDTH, stop)
        for i in range(rows.shape[0]):
            least, most = _extremes(rows[i, left:right])
            if least <= -limit or most >= limit:
                return False
        _add_block(rows, left, right, sums, total)
    return True


@compiled()
def exact_pairs(rows: NDArray[np.int32], start: int, stop: int, halves: Halves) -> None:
    """Add exact squared distances above the diagonal, in halves.

    Rows whose coordinates in a block lie within ``REACH`` of one another go through the float64
    tiles. There every partial sum is an integer that float64 holds, so that neither the order of
    the sums nor a fused product changes it. Other pairs, and only those, take 64-bit integer
    products: a sender of huge coordinates slows its own pairs down and no others. ``rows``: int32,
    shape ``(n, d)``, any values; ``halves``: shape ``(2, n, n)``.
    """
    n = rows.shape[0]
    whole = n // 4 * 4
    block = np.empty((n, EXACT_WIDTH))
    ranges = np.empty((2, n), np.int64)
    sums = np.empty((4, 4))
    for left in range(start, stop, EXACT_WIDTH):
        right = min(left + EXACT_WIDTH, stop)
        _load(rows, left, right, block, ranges)
        for i in range(0, whole, 4):
            _add_corner(rows, block, ranges, sums, halves, i, left, right)
            for j in range(i + 4, whole, 4):
                _add_square(rows, block, ranges, sums, halves, i, j, left, right)
            for j in range(whole, n):
                _add_strip(rows, block, ranges, sums, halves, i, j, j, left, right)
        for i in range(whole, n):
            for j in range(i + 1, n):
                _add_pair(rows, block, ranges, sums, halves, i, j, (i, j), left, right)


@compiled()
def joined(halves: Halves, squares: NDArray[np.int64]) -> bool:
    """Write the symmetric matrix whose halves above the diagonal are given; the diagonal is 0.

    ``halves``: shape ``(2, n, n)``; ``squares``: shape ``(n, n)``. Returns False if an entry does
    not fit; ``squares`` is of no use then.
    """
    n = squares.shape[0]
    for i in range(n):
        squares[i, i] = 0
        for j in range(i + 1, n):
            low, high = halves[0, i, j], halves[1, i, j]
            carry = low >> _HALF
            if high >= _ROOM or high + carry >= _ROOM:
                return False
            squares[i, j] = np.int64(((high + carry) << _HALF) | (low & _LOW_HALF))
            squares[j, i] = squares[i, j]
    return True


@compiled()
def exact_strips(
    rows: NDArray[np.int32], which: NDArray[np.int64], start: int, stop: int, halves: Halves
) -> None:
    """Add the exact squared distances of every row to some rows, in halves.

    ``rows``: int32, shape ``(n, d)``, any values; ``which``: the rows, shape ``(m,)``; ``halves``:
    shape ``(2, n, m)``.
    """
    n = rows.shape[0]
    whole = n // 4 * 4
    block = np.empty((n, EXACT_WIDTH))
    ranges = np.empty((2, n), np.int64)
    sums = np.empty((4, 4))
    for left in range(start, stop, EXACT_WIDTH):
        right = min(left + EXACT_WIDTH, stop)
        _load(rows, left, right, block, ranges)
        for c in range(which.size):
            for i in range(0, whole, 4):
                _add_strip(rows, block, ranges, sums, halves, i, which[c], c, left, right)
            for i in range(whole, n):
                _add_pair(rows, block, ranges, sums, halves, i, which[c], (i, c), left, right)


@compiled()
def exact_norms(rows: NDArray[np.int32], start: int, stop: int, halves: Halves) -> None:
    """Add the exact squared norms, in halves of shape ``(2, n)``."""
    for left in range(start, stop, WIDTH):
        for i in range(rows.shape[0]):
            low, high = _wide_square(rows[i, left : min(left + WIDTH, stop)])
            halves[0, i] += low
            halves[1, i] += high


@compiled()
def float_norms(rows: Block, start: int, stop: int, total: NDArray[np.float64]) -> None:
    """Add the squared norms, in float64 throughout, to sums of shape ``(n,)``."""
    for left in range(start, stop, WIDTH):
        for i in range(rows.shape[0]):
            total[i] += _square(rows, i, left, min(left + WIDTH, stop), total)


@compiled()
def _add_corner(
    rows: NDArray[np.int32],
    block: NDArray[np.float64],
    ranges: NDArray[np.int64],
    sums: NDArray[np.float64],
    halves: Halves,
    i: int,
    left: int,
    right: int,
) -> None:
    if _span(ranges, i, 4, i, 4) <= REACH:
        _corner_tile(block, i, 0, right - left, sums)
        for a in range(4):
            for b in range(a + 1, 4):
                _add_sum(sums[a, b], halves, i + a, i + b)
    else:
        for a in range(i, i + 4):
            for b in range(a + 1, i + 4):
                _add_pair(rows, block, ranges, sums, halves, a, b, (a, b), left, right)


@compiled()
def _add_square(  # noqa: PLR0913, PLR0917 - a tuple of arrays costs a quarter of the speed
    rows: NDArray[np.int32],
    block: NDArray[np.float64],
    ranges: NDArray[np.int64],
    sums: NDArray[np.float64],
    halves: Halves,
    i: int,
    j: int,
    left: int,
    right: int,
) -> None:
    if _span(ranges, i, 4, j, 4) <= REACH:
        _square_tile(block, i, j, 0, right - left, sums)
        for a in range(4):
            for b in range(4):
                _add_sum(sums[a, b], halves, i + a, j + b)
    else:
        for a in range(i, i + 4):
            for b in range(j, j + 4):
                _add_pair(rows, block, ranges, sums, halves, a, b, (a, b), left, right)


@compiled()
def _add_strip(  # noqa: PLR0913, PLR0917 - a tuple of arrays costs a quarter of the speed
    rows: NDArray[np.int32],
    block: NDArray[np.float64],
    ranges: NDArray[np.int64],
    sums: NDArray[np.float64],
    halves: Halves,
    i: int,
    j: int,
    column: int,
    left: int,
    right: int,
) -> None:
    """Add the distances of rows ``i .. i + 3`` to row ``j`` in a column of the result."""
    if _span(ranges, i, 4, j, 1) <= REACH:
        _strip_tile(block, i, j, 0, right - left, sums)
        for a in range(4):
            _add_sum(sums[a, 0], halves, i + a, column)
    else:
        for a in range(i, i + 4):
            _add_pair(rows, block, ranges, sums, halves, a, j, (a, column), left, right)


@compiled()
def _add_pair(  # noqa: PLR0913, PLR0917 - a tuple of arrays costs a quarter of the speed
    rows: NDArray[np.int32],
    block: NDArray[np.float64],
    ranges: NDArray[np.int64],
    sums: NDArray[np.float64],
    halves: Halves,
    i: int,
    j: int,
    at: tuple[int, int],
    left: int,
    right: int,
) -> None:
    if _span(ranges, i, 1, j, 1) <= REACH:
        _add_sum(_pair(block, i, j, 0, right - left, sums), halves, at[0], at[1])
    else:
        low, high = _wide_pair(rows[i, left:right], rows[j, left:right])
        halves[0, at[0], at[1]] += low
        halves[1, at[0], at[1]] += high


@compiled()
def _add_sum(value: float, halves: Halves, i: int, j: int) -> None:
    """Add an integer of at most ``2**53`` that is held in float64."""
    whole = np.uint64(np.int64(value))
    halves[0, i, j] += whole & _LOW_HALF
    halves[1, i, j] += whole >> _HALF


@compiled()
def _load(
    rows: NDArray[np.int32],
    left: int,
    right: int,
    block: NDArray[np.float64],
    ranges: NDArray[np.int64],
) -> None:
    """Convert a block to float64 and find each row's least and greatest coordinate."""
    for i in range(rows.shape[0]):
        _convert(rows[i, left:right], block[i, : right - left])
        ranges[0, i], ranges[1, i] = _extremes(rows[i, left:right])


@compiled()
def _span(ranges: NDArray[np.int64], i: int, rows: int, j: int, others: int) -> Any:
    """Distance between the coordinates of ``rows`` rows from ``i`` and ``others`` from ``j``."""
    least, most = ranges[0, i], ranges[1, i]
    for a in range(i, i + rows):
        least, most = min(least, ranges[0, a]), max(most, ranges[1, a])
    for b in range(j, j + others):
        least, most = min(least, ranges[0, b]), max(most, ranges[1, b])
    return most - least


@compiled()
def _extremes(x: NDArray[np.int32]) -> tuple[Any, Any]:
    least = most = x[0]
    for k in range(x.size):
        least = min(least, x[k])
        most = max(most, x[k])
    return np.int64(least), np.int64(most)


@compiled()
def _convert(x: Block, out: NDArray[np.float64]) -> None:
    for k in range(x.size):
        out[k] = x[k]


@compiled()
def _wide_pair(x: NDArray[np.int32], y: NDArray[np.int32]) -> tuple[Any, Any]:
    """Sum the halves of the 64-bit squared differences, for any int32.

    The low halves' sum is the squares' sum modulo ``2**64`` less that of the high halves.
    """
    squares = high = _NONE
    for k in range(x.size):
        u = np.uint64(np.uint32(abs(np.int64(x[k]) - np.int64(y[k]))))
        square = u * u
        squares += square
        high += square >> _HALF
    return squares - (high << _HALF), high


@compiled()
def _wide_square(x: NDArray[np.int32]) -> tuple[Any, Any]:
    """Sum the halves of the 64-bit squares of at most ``WIDTH`` numbers."""
    squares = seen = high = _NONE
    for k in range(x.size):
        wide = np.int64(x[k])
        square = np.uint64(wide * wide)
        squares += square
        seen |= square
    if seen >> _SMALL == _NONE:  # then 2**10 of them stay below 2**63
        return squares & _LOW_HALF, squares >> _HALF
    for k in range(x.size):
        wide = np.int64(x[k])
        high += np.uint64(wide * wide) >> _HALF
    return squares - (high << _HALF), high
