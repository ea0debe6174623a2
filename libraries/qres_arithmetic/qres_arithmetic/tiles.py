"""From any rows to the compiled kernels, which take C order and whole lanes only."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qres_arithmetic.rows import Rows, is_packed, packed

KERNEL_ROWS: Final = 4096
"""More rows are left to numpy: a network, unlike a sort, grows with the square of the logarithm."""

_PACKED_ENTRIES: Final = 2**17


def tile_width(dtype: np.dtype[Any]) -> int:
    """Return how many columns a kernel works on at a time."""
    return int(_kernels().TILE_CHUNKS) * _lanes(dtype)


def run_kernel(
    name: str, rows: Rows, start: int, stop: int, out: NDArray[Any], shift: int, *details: Any
) -> bool:
    """Run a kernel of :mod:`qres_arithmetic.order_kernels` on some columns.

    Rows in another order than C are copied by blocks of columns. Columns that do not fill the lanes
    are copied to zeros that do.

    Args:
        name: of the kernel.
        rows: shape ``(n, d)``; not changed.
        start: first column.
        stop: one past the last column.
        out: the result for column ``c`` goes to ``out[..., c - shift]``; in C order.
        shift: see ``out``.
        details: what else the kernel takes.

    Returns:
        whether all values read were finite; if not, ``out`` means nothing.
    """
    if not is_packed(rows):
        # Cut where tiles begin, so that the memory order leaves no trace in a float result.
        tile = tile_width(rows.dtype)
        width = -(-_PACKED_ENTRIES // (len(rows) * tile)) * tile
        pieces = ((left, min(left + width, stop)) for left in range(start, stop, width))
        return all(
            run_kernel(
                name, _copied(rows[:, left:right]), 0, right - left, out, shift - left, *details
            )
            for left, right in pieces
        )
    kernel = getattr(_kernels(), name)
    lanes = _lanes(rows.dtype)
    whole = start + (stop - start) // lanes * lanes
    finite = bool(kernel(packed(rows), start, whole, out, shift, *details))
    rest = stop - whole
    if finite and rest:
        padded = np.zeros((len(rows), lanes), dtype=rows.dtype)
        padded[:, :rest] = rows[:, whole:stop]
        last = np.empty((*out.shape[:-1], lanes), dtype=out.dtype)
        finite = bool(kernel(packed(padded), 0, lanes, last, 0, *details))
        out[..., whole - shift : stop - shift] = last[..., :rest]
    return finite


def _copied(block: NDArray[Any]) -> Rows:
    return packed(block)


def _lanes(dtype: np.dtype[Any]) -> int:
    return int(_kernels().LANE_BYTES) // dtype.itemsize


@cache
def _kernels() -> Any:
    return importlib.import_module("qres_arithmetic.order_kernels")
