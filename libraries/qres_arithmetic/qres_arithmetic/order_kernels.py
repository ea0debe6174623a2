"""Numba kernels for order statistics of columns. Import only where numba is in use.

The columns go through in tiles. A tile is read row by row, each row's piece from adjacent memory,
and laid out so that the lanes of all rows at the same columns are neighbours: a chunk. Then chunk
by chunk is, if asked for, mixed, then sorted and summed up, all in the first-level cache, while the
next tile is already on its way. Nothing of size ``(n, d)`` is ever built.

Sums are float64. Of ``n <= MOST_ROWS`` int32 values they are exact, and so is the rounded mean: a
quotient whose exact value is half-way between two integers is a float64, and any other is at least
``1 / (2 n)`` away from there, more than the division's error of ``2**-22`` can bridge.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qres_arithmetic.backend import compiled
from qres_arithmetic.details import Mixing, Statistic
from qres_arithmetic.lanes import (
    LANE_BYTES,
    add,
    divide,
    greatest,
    lane_count,
    load,
    load_wide,
    lower,
    magnitude,
    narrow,
    nothing,
    prefetch,
    store,
    subtract,
    upper,
    widen,
    zero_if_less,
    zero_unless_less,
)

TILE_CHUNKS: Final = 512 // LANE_BYTES
"""Chunks of a tile: long enough pieces of a row to be read fast, few enough to stay in cache."""

_PREFETCH_EVERY: Final = max(1, 64 // LANE_BYTES)


@compiled()
def order_tiles(
    rows: NDArray[Any],
    start: int,
    stop: int,
    out: NDArray[Any],
    shift: int,
    merges: NDArray[np.int64],
    statistic: Statistic,
    mixing: Mixing,
) -> bool:
    """Write a statistic of the columns ``start .. stop - 1`` to ``out``, ``shift`` to the left.

    The columns must be a multiple of the lanes. Returns whether all values are finite; if not, the
    output means nothing.
    """
    lanes = lane_count(rows)
    m = mixing.neighbours.shape[0]
    n = rows.shape[0]
    height = -(-(m if m > 0 else n) // 4) * 4
    tile, flaws, peaks, wide, mixed = _buffers(rows, n, m, height, lanes)
    direct = mixing.direct.copy()
    tile_rows = n if m > 0 else height
    for left in range(start, stop, TILE_CHUNKS * lanes):
        chunks = min(TILE_CHUNKS, (stop - left) // lanes)
        _read(rows, left, chunks, tile, tile_rows, flaws)
        if _flawed(flaws):
            return False
        if m > 0 and mixing.ratio > 0.0:
            _judge(tile, tile_rows, chunks, mixing, peaks, direct)
        for chunk in range(chunks):
            if chunk % _PREFETCH_EVERY == 0:
                _prefetch(rows, left + (TILE_CHUNKS + chunk) * lanes)
            base = chunk * tile_rows * lanes
            at = left - shift + chunk * lanes
            if m > 0:
                _mix(tile, base, n, mixing, direct, wide, mixed, 0)
                _sort(mixed, 0, height, merges)
                _summarise(mixed, 0, statistic, out, at)
            else:
                _sort(tile, base, height, merges)
                _summarise(tile, base, statistic, out, at)
    return True


@compiled()
def mix_tiles(
    rows: NDArray[Any], start: int, stop: int, out: NDArray[Any], shift: int, mixing: Mixing
) -> bool:
    """Write the mixed columns ``start .. stop - 1`` to ``out``, ``shift`` to the left."""
    lanes = lane_count(rows)
    n = rows.shape[0]
    m = mixing.neighbours.shape[0]
    tile, flaws, peaks, wide, mixed = _buffers(rows, n, m, m * TILE_CHUNKS, lanes)
    direct = mixing.direct.copy()
    for left in range(start, stop, TILE_CHUNKS * lanes):
        chunks = min(TILE_CHUNKS, (stop - left) // lanes)
        _read(rows, left, chunks, tile, n, flaws)
        if _flawed(flaws):
            return False
        if mixing.ratio > 0.0:
            _judge(tile, n, chunks, mixing, peaks, direct)
        for chunk in range(chunks):
            if chunk % _PREFETCH_EVERY == 0:
                _prefetch(rows, left + (TILE_CHUNKS + chunk) * lanes)
            _mix(tile, chunk * n * lanes, n, mixing, direct, wide, mixed, chunk * m * lanes)
        # A line of each row at a time would open as many pages at once as there are rows.
        for i in range(m):
            for chunk in range(chunks):
                at = left - shift + chunk * lanes
                store(out[i], at, load(mixed, (chunk * m + i) * lanes))
    return True


@compiled()
def _buffers(
    rows: NDArray[Any], n: int, m: int, height: int, lanes: int
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return memory for a tile, flaws, the largest magnitudes, a wide and a mixed chunk.

    Rows that fill up the last block of four are greater than all others, or as great.
    """
    last = np.inf if rows.dtype.type(0.5) != 0 else 2.0**31 - 1
    tile = np.full(TILE_CHUNKS * (n if m > 0 else height) * lanes, last).astype(rows.dtype)
    flaws = np.zeros(lanes, rows.dtype)
    peaks = np.zeros(n)
    wide = np.zeros((n if m > 0 else 0) * lanes)
    mixed = np.full((height if m > 0 else 0) * lanes, last).astype(rows.dtype)
    return tile, flaws, peaks, wide, mixed


@compiled()
def _read(
    rows: NDArray[Any],
    left: int,
    chunks: int,
    tile: NDArray[Any],
    tile_rows: int,
    flaws: NDArray[Any],
) -> None:
    """Copy columns into a tile; leave NaN in ``flaws`` if a value is not finite, else zeros."""
    lanes = lane_count(rows)
    found = load(flaws, 0)
    for i in range(rows.shape[0]):
        row = rows[i]
        for chunk in range(chunks):
            value = load(row, left + chunk * lanes)
            found = add(found, subtract(value, value))
            store(tile, (chunk * tile_rows + i) * lanes, value)
    store(flaws, 0, found)


@compiled()
def _flawed(flaws: NDArray[Any]) -> bool:
    bad = False
    for k in range(flaws.size):
        bad |= flaws[k] != 0  # NaN, too, is not zero
    return bad


@compiled()
def _prefetch(rows: NDArray[Any], at: int) -> None:
    for i in range(rows.shape[0]):
        prefetch(rows[i], at)


@compiled()
def _sort(tile: NDArray[Any], base: int, height: int, merges: NDArray[np.int64]) -> None:
    """Sort the rows of a chunk, as far as ``merges`` goes."""
    lanes = lane_count(tile)
    for first in range(base, base + height * lanes, 4 * lanes):
        a0, a1 = load(tile, first), load(tile, first + lanes)
        a2, a3 = load(tile, first + 2 * lanes), load(tile, first + 3 * lanes)
        a0, a1 = lower(a0, a1), upper(a0, a1)
        a2, a3 = lower(a2, a3), upper(a2, a3)
        a0, a2 = lower(a0, a2), upper(a0, a2)
        a1, a3 = lower(a1, a3), upper(a1, a3)
        a1, a2 = lower(a1, a2), upper(a1, a2)
        store(tile, first, a0)
        store(tile, first + lanes, a1)
        store(tile, first + 2 * lanes, a2)
        store(tile, first + 3 * lanes, a3)
    for step in range(merges.shape[0]):
        first = base + merges[step, 0] * 4 * lanes
        second = base + merges[step, 1] * 4 * lanes
        a0, a1 = load(tile, first), load(tile, first + lanes)
        a2, a3 = load(tile, first + 2 * lanes), load(tile, first + 3 * lanes)
        b0, b1 = load(tile, second), load(tile, second + lanes)
        b2, b3 = load(tile, second + 2 * lanes), load(tile, second + 3 * lanes)
        a0, b0 = lower(a0, b0), upper(a0, b0)
        a1, b1 = lower(a1, b1), upper(a1, b1)
        a2, b2 = lower(a2, b2), upper(a2, b2)
        a3, b3 = lower(a3, b3), upper(a3, b3)
        a2, b0 = lower(a2, b0), upper(a2, b0)
        a3, b1 = lower(a3, b1), upper(a3, b1)
        a1, a2 = lower(a1, a2), upper(a1, a2)
        a3, b0 = lower(a3, b0), upper(a3, b0)
        b1, b2 = lower(b1, b2), upper(b1, b2)
        store(tile, first, a0)
        store(tile, first + lanes, a1)
        store(tile, first + 2 * lanes, a2)
        store(tile, first + 3 * lanes, a3)
        store(tile, second, b0)
        store(tile, second + lanes, b1)
        store(tile, second + 2 * lanes, b2)
        store(tile, second + 3 * lanes, b3)


@compiled()
def _summarise(
    tile: NDArray[Any], base: int, statistic: Statistic, out: NDArray[Any], at: int
) -> None:
    """Average the order statistics of a chunk, or those nearest to the median.

    The rows are added in ascending order, so the order of the senders leaves no trace even in
    float sums. Of the nearest, no difference of sums is taken: a huge value that is left out has
    never been added.
    """
    lanes = lane_count(tile)
    first = base + statistic.low * lanes
    total = nothing(tile)
    members = statistic.high - statistic.low
    spare = members - statistic.taken
    if spare == 0:
        for i in range(members):
            total = add(total, widen(load(tile, first + i * lanes)))
    else:
        middle = add(
            widen(load(tile, base + statistic.left * lanes)),
            widen(load(tile, base + statistic.right * lanes)),
        )
        window = statistic.taken * lanes
        for i in range(members):
            here = first + i * lanes
            value = widen(load(tile, here))
            part = value
            if i < spare:  # out if the value one window above is nearer
                part = zero_if_less(part, add(value, widen(load(tile, here + window))), middle)
            if i >= statistic.taken:  # in if nearer than the value one window below
                below = widen(load(tile, here - window))
                part = zero_unless_less(part, add(below, value), middle)
            total = add(total, part)
    store(out, at, narrow(divide(total, float(statistic.taken)), tile))


@compiled()
def _judge(
    tile: NDArray[Any],
    tile_rows: int,
    chunks: int,
    mixing: Mixing,
    peaks: NDArray[np.float64],
    direct: NDArray[np.bool_],
) -> None:
    """Find the mixed rows of a tile from which something out of proportion would be subtracted."""
    lanes = lane_count(tile)
    n = peaks.size
    for i in range(n):
        peak = magnitude(load(tile, i * lanes))
        for chunk in range(1, chunks):
            peak = upper(peak, magnitude(load(tile, (chunk * tile_rows + i) * lanes)))
        peaks[i] = greatest(peak)
    for i in range(direct.size):
        direct[i] = mixing.direct[i]
    most = 0.0
    for j in mixing.core:
        most = max(most, peaks[j])
    large = 0
    for j in range(n):
        large += peaks[j] * mixing.ratio >= most
    if large > n - mixing.neighbours.shape[1]:
        return  # one of them is in every neighbourhood
    for i in range(direct.size):
        kept = 0.0
        for j in mixing.neighbours[i]:
            kept = max(kept, peaks[j])
        for position in range(mixing.bounds[2 * i + 1], mixing.bounds[2 * i + 2]):
            if peaks[mixing.members[position]] > mixing.ratio * kept:
                direct[i] = True


@compiled()
def _mix(
    tile: NDArray[Any],
    base: int,
    n: int,
    mixing: Mixing,
    direct: NDArray[np.bool_],
    wide: NDArray[np.float64],
    mixed: NDArray[Any],
    first: int,
) -> None:
    """Write the mean of each mixed row's neighbours to ``mixed``, from ``first``, for one chunk."""
    lanes = lane_count(tile)
    for i in range(n):
        store(wide, i * lanes, widen(load(tile, base + i * lanes)))
    core = nothing(tile)
    for j in mixing.core:
        core = add(core, load_wide(wide, j * lanes, tile))
    count = float(mixing.neighbours.shape[1])
    for i in range(direct.size):
        if direct[i]:
            total = nothing(tile)
            for j in mixing.neighbours[i]:
                total = add(total, load_wide(wide, j * lanes, tile))
        else:
            total = core
            for position in range(mixing.bounds[2 * i], mixing.bounds[2 * i + 1]):
                j = mixing.members[position]
                total = add(total, load_wide(wide, j * lanes, tile))
            for position in range(mixing.bounds[2 * i + 1], mixing.bounds[2 * i + 2]):
                j = mixing.members[position]
                total = subtract(total, load_wide(wide, j * lanes, tile))
        store(mixed, first + i * lanes, narrow(divide(total, count), tile))
