"""Passes of a kernel over all columns of some rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from numpy.typing import NDArray

from qres_arithmetic.backend import run_columns
from qres_arithmetic.rows import Rows, is_packed, packed

_COPIED_BLOCKS: Final = 4


def feed(
    rows: Rows,
    width: int,
    start: int,
    stop: int,
    kernel: Callable[[Any, int, int, int], object],
) -> None:
    """Hand the columns ``start .. stop - 1`` to a kernel in the layout that it takes.

    Args:
        rows: shape ``(n, d)``.
        width: columns of one of the kernel's blocks.
        start: the first column.
        stop: the column after the last.
        kernel: called as ``kernel(block, first, last, at)``: the columns ``first .. last - 1`` of
            the packed ``block`` are those from ``at`` on of ``rows``.

    Complexity: one call, or one for every 4 blocks where the rows have to be copied.
    """
    if is_packed(rows):
        kernel(packed(rows), start, stop, start)
        return
    step = _COPIED_BLOCKS * width
    for left in range(start, stop, step):
        block: NDArray[Any] = packed(rows[:, left : min(left + step, stop)])
        kernel(block, 0, block.shape[1], left)


def sums_over_columns(
    rows: Rows,
    width: int,
    zeros: Callable[[], NDArray[Any]],
    add: Callable[[Any, int, int, NDArray[Any]], object],
) -> NDArray[Any]:
    """Add up what a kernel finds in each block of columns.

    Args:
        rows: shape ``(n, d)``, any layout.
        width: columns of one of the kernel's blocks. They begin at its multiples whatever the
            layout of the rows and the number of threads, so that float sums depend on neither.
        zeros: makes what a kernel adds to.
        add: called with packed rows, the first column, the column after the last, and the sums.

    Returns:
        the sums over all columns.
    """

    def work(start: int, stop: int) -> NDArray[Any]:
        sums = zeros()
        feed(rows, width, start, stop, lambda block, first, last, _: add(block, first, last, sums))
        return sums

    first, *rest = run_columns(work, rows.shape[1], width, len(rows))
    for part in rest:
        first += part
    return first
