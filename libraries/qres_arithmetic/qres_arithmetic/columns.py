"""One number of every column: what all coordinate-wise rules have in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Protocol, cast, runtime_checkable

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_arithmetic.backend import accelerated, run_columns, threads
from qres_arithmetic.details import NO_MIXING, Mixing, Statistic
from qres_arithmetic.mixture import Mixture
from qres_arithmetic.network import merges, selection
from qres_arithmetic.rounding import round_half_even
from qres_arithmetic.rows import Rows, check_finite, check_rows
from qres_arithmetic.tiles import KERNEL_ROWS, run_kernel, tile_width
from qres_core.errors import ValueRefusedError

_BLOCK_ENTRIES: Final = 2**15
_MADE_ENTRIES: Final = 2**17, 2**19
"""Entries of a block that is made for the kernels, at least and at most, on each thread."""
_MADE_SHARE: Final = 40
"""Between them, all blocks together take a fortieth of the memory of the input. Longer blocks are
faster: to gather short pieces of rows costs more."""
# numpy sorts a column faster than it exchanges so many rows.
_NETWORK_ROWS: Final = 40


@runtime_checkable
class Blocks(Protocol):
    """Rows that are computed as they are needed, a block of columns at a time."""

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of rows and columns."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """int32, float32 or float64."""
        ...

    def block(self, start: int, stop: int) -> Rows:
        """Return columns ``start .. stop - 1`` of all rows; may be called from many threads."""
        ...


@attrs.frozen(eq=False)
class _Array:
    """An array as Blocks."""

    rows: Rows

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.shape[0], self.rows.shape[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.rows.dtype

    def block(self, start: int, stop: int) -> Rows:
        part: Any = self.rows[:, start:stop]
        return cast("Rows", part)


def summarise(rows: Rows | Blocks, low: int, high: int, taken: int) -> NDArray[Any]:
    """Return the mean of some order statistics of every column: those nearest to the median.

    Args:
        rows: shape ``(n, d)``; not changed.
        low: first order statistic that may take part.
        high: one past the last one.
        taken: how many do; ``high - low`` for all.

    Returns:
        shape ``(d,)``, new memory.

    Raises:
        ValueRefusedError: as :func:`~qres_arithmetic.rows.check_rows`; QRES-E501 for rows that are
            not finite, or float64 rows whose sum is not.
    """
    source: Blocks = rows if isinstance(rows, Blocks) else _Array(check_rows(rows))
    n, d = source.shape
    statistic = Statistic(low, high, (n - 1) // 2, n // 2, taken)
    out: NDArray[Any] = np.empty(d, dtype=source.dtype)
    if accelerated() and n <= KERNEL_ROWS:
        _by_kernel(source, statistic, out)
    else:
        _by_numpy(source, statistic, out)
    if out.dtype == np.float64 and not np.isfinite(out).all():
        raise ValueRefusedError.of("QRES-E501", "vectors", "the sum of the rows is not finite")
    return out


def _by_kernel(source: Blocks, statistic: Statistic, out: NDArray[Any]) -> None:
    n, d = source.shape
    network = merges(n, statistic.low, statistic.high)

    def summarise_block(block: Rows, start: int, stop: int, shift: int, mixing: Mixing) -> None:
        details = (network, statistic, mixing)
        if not run_kernel("order_tiles", block, start, stop, out, shift, *details):
            _refuse(source, block)

    def work(start: int, stop: int) -> None:
        if isinstance(source, _Array):
            summarise_block(source.rows, start, stop, 0, NO_MIXING)
        elif isinstance(source, Mixture) and len(source.rows) <= KERNEL_ROWS:
            summarise_block(source.rows, start, stop, 0, source.mixing)
        else:
            least, most = _MADE_ENTRIES
            entries = min(most, max(least, n * d // (_MADE_SHARE * threads())))
            for left, right in _pieces(start, stop, n, entries):
                summarise_block(source.block(left, right), 0, right - left, -left, NO_MIXING)

    run_columns(work, d, tile_width(source.dtype), n)


def _by_numpy(source: Blocks, statistic: Statistic, out: NDArray[Any]) -> None:
    n, d = source.shape
    few = n <= _NETWORK_ROWS

    def work(start: int, stop: int) -> None:
        for left, right in _pieces(start, stop, n, _BLOCK_ENTRIES):
            block = source.block(left, right)
            ordered = _exchange(block, statistic) if few else np.sort(block, axis=0)
            # numpy sorts NaN last.
            suspects = block if few else ordered[:: n - 1]
            if block.dtype != np.int32 and not np.isfinite(suspects).all():
                _refuse(source, block)
            with np.errstate(over="ignore"):
                out[left:right] = _mean(ordered, statistic)

    run_columns(work, d, _width(n), n)


def _refuse(source: Blocks, block: Rows) -> None:
    """Refuse, naming all rows that are not finite, or those of one block if there is no more."""
    check_finite(source.rows if isinstance(source, _Array | Mixture) else block)


def _pieces(start: int, stop: int, n: int, entries: int) -> Iterator[tuple[int, int]]:
    width = _width(n, entries)
    for left in range(start, stop, width):
        yield left, min(left + width, stop)


def _width(n: int, entries: int = _BLOCK_ENTRIES) -> int:
    """Return the columns of a block: never a power of two, so that rows share no cache set."""
    return max(1, entries // n) // 32 * 32 + 16


def _exchange(block: Rows, statistic: Statistic) -> NDArray[Any]:
    """Sort the columns of a block as far as the statistic needs it."""
    copy = np.array(block, order="C")
    ordered, spare = list(copy), np.empty_like(copy[0])
    for a, b, lesser, greater in selection(len(copy), statistic.low, statistic.high):
        if lesser and greater:
            np.minimum(ordered[a], ordered[b], out=spare)
            np.maximum(ordered[a], ordered[b], out=ordered[b])
            ordered[a], spare = spare, ordered[a]
        elif lesser:
            np.minimum(ordered[a], ordered[b], out=ordered[a])
        else:
            np.maximum(ordered[a], ordered[b], out=ordered[b])
    return np.stack(ordered)


def _mean(ordered: NDArray[Any], statistic: Statistic) -> NDArray[Any]:
    """Average sorted rows, in the same order as the kernels do; may overwrite them."""
    low, high, left, right, taken = statistic
    part = ordered[low:high]
    exact = ordered.dtype == np.int32
    wide: Any = np.int64 if exact else np.float64
    spare = high - low - taken
    if spare:
        middle = ordered[left].astype(wide) + ordered[right]
        # Whether a value is out because the one a window above is nearer: a prefix of each column.
        out = np.add(part[:spare], part[taken:], dtype=wide) < middle
        np.copyto(part[:spare], 0, where=out)
        np.copyto(part[taken:], 0, where=~out)
    total = _sum(part, wide)
    mean: NDArray[Any] = round_half_even(total, taken) if exact else total / taken
    return mean


def _sum(part: NDArray[Any], wide: Any) -> NDArray[Any]:
    """Add rows one after the other, from zero."""
    total: NDArray[Any]
    if part.shape[1] == 1:
        # numpy adds up a single column in another order.
        total = np.add.accumulate(part, axis=0, dtype=wide)[-1] + wide(0)
    else:
        total = np.add.reduce(part, axis=0, dtype=wide, initial=0)
    return total
