"""Rows that are means of other rows, without ever holding all of them."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qres_arithmetic.backend import accelerated, run_columns
from qres_arithmetic.details import Mixing
from qres_arithmetic.rows import Rows, check_finite, check_rows
from qres_arithmetic.tiles import KERNEL_ROWS, run_kernel
from qres_core.errors import ValueRefusedError

MOST_ROWS: Final = 2**20
"""A sum of so many int32 values and its quotient by their number are safe in float64."""

_BLOCK_ENTRIES: Final = 2**14
_NARROWEST: Final = 64
# A multiple of the columns of a kernel's tile, which are a power of two.
_PIECE: Final = 2**12
# What is subtracted may be larger than what stays by this factor. A float32 result then errs by
# less than `n * 2**-36` of the largest value averaged beside its own rounding to 24 bits; float64
# rows have no digits to spare.
_RATIOS: Final = {
    np.dtype(np.int32): 0.0,
    np.dtype(np.float32): 2.0**16,
    np.dtype(np.float64): 4.0,
}


class Mixture:
    """The means of some rows each, computed block by block: what nearest-neighbour mixing needs.

    Row ``i`` is the mean of ``rows[neighbours[i]]``. It is a
    :class:`~qres_arithmetic.order.Blocks`, so the rules of this package take it in place of an
    array and never see more than a block of it.

    A block is not mixed by summing ``k`` rows for each of ``m`` results. The rows that at least
    half of the neighbourhoods contain are summed once, the core, and each result adds the
    neighbours outside the core and subtracts what of the core are no neighbours. The core by
    majority makes these differences fewest, at most ``2 (n - k)`` a row on average.

    int32 rows: the sums are integers below ``2**53`` in float64, so subtracting is exact and the
    result is that of the definition, rounded half to even. Float rows: a subtracted row leaves
    ``2**-53`` of its size behind, and a huge one would spoil the result. In nearest-neighbour
    mixing with ``k = n - f`` and fewer liars than half, a row of the core is in an honest row's
    neighbourhood, hence no farther from it than the farthest honest row, so it cannot be huge. The
    code does not rely on that: in each tile of columns, a row from which something much larger
    than its neighbours would be subtracted is summed from its neighbours alone.

    Attributes:
        rows: int32, float32 or float64, shape ``(n, d)``; not changed.
        neighbours: int64, shape ``(m, k)``, ascending in each row.

    Args:
        rows: the rows to mix, at most ``2**20``.
        neighbours: integers, shape ``(m, k)`` with ``m, k >= 1``, no row twice in a neighbourhood.

    Raises:
        ValueRefusedError: QRES-E502 or QRES-E503 for rows that are no rows.
        ValueError: the neighbours are not as stated.

    Complexity:
        ``O(m n)`` to set up. All of it takes at most ``m k d`` additions, ``2 m (n - k) d`` if
        neighbourhoods are large.

    Source:
        Allouah, Farhadkhani, Guerraoui, Gupta, Pinot, Stephan, "Fixing by Mixing: A Recipe for
        Optimal Byzantine ML under Heterogeneity", AISTATS 2023, section 4 (NNM).

    Example:
        >>> rows = np.array([[0, 10], [1, 20], [5, 60]], dtype=np.int32)
        >>> Mixture(rows, np.array([[0, 1], [1, 0], [2, 1]])).materialise().tolist()
        [[0, 15], [0, 15], [3, 40]]
    """

    def __init__(self, rows: Rows, neighbours: NDArray[np.integer[Any]]) -> None:
        self.rows = check_rows(rows, where="rows")
        n = len(self.rows)
        if n > MOST_ROWS:
            raise ValueRefusedError.of("QRES-E502", "rows", f"{n} rows, at most 2**20 are mixed")
        if neighbours.ndim != 2 or neighbours.size == 0 or neighbours.dtype.kind not in "iu":
            raise ValueError(f"neighbours must be integers of shape (m, k), got {neighbours!r}")
        self.neighbours: NDArray[np.int64] = np.sort(neighbours.astype(np.int64), axis=1)
        if self.neighbours.min() < 0 or self.neighbours.max() >= n:
            raise ValueError(f"neighbours must be from 0 to {n - 1}")
        if (np.diff(self.neighbours, axis=1) == 0).any():
            raise ValueError("no row may be twice in a neighbourhood")

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of mixed rows and columns."""
        return len(self.neighbours), self.rows.shape[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of the rows."""
        return self.rows.dtype

    def block(self, start: int, stop: int) -> Rows:
        """Return columns ``start .. stop - 1`` of all mixed rows, new memory.

        Raises:
            ValueRefusedError: QRES-E501 if a row is not finite in these columns, naming all rows
                that are not finite anywhere.
        """
        out: NDArray[Any] = np.empty((len(self.neighbours), stop - start), dtype=self.dtype)
        self._write(start, stop, out, start)
        return out

    def materialise(self) -> Rows:
        """Return all mixed rows, shape ``(m, d)``, new memory.

        Raises:
            ValueRefusedError: QRES-E501 if a row is not finite, naming them.
        """
        out: NDArray[Any] = np.empty(self.shape, dtype=self.dtype)

        def work(start: int, stop: int) -> None:
            self._write(start, stop, out, 0)

        run_columns(work, self.shape[1], _PIECE, len(self.rows))
        return out

    @cached_property
    def mixing(self) -> Mixing:
        """Facts that the kernels have to know."""
        m, k = self.neighbours.shape
        member = self._incidence
        core = 2 * member.sum(axis=0) >= m
        extra, lacking = member & ~core, core & ~member
        # One of the two lists after the other for each mixed row.
        both = np.stack([extra, lacking], axis=1).reshape(2 * m, -1)
        bounds = np.concatenate([[0], np.cumsum(both.sum(axis=1))]).astype(np.int64)
        return Mixing(
            self.neighbours,
            np.flatnonzero(core).astype(np.int64),
            np.nonzero(both)[1].astype(np.int64),
            bounds,
            both.reshape(m, -1).sum(axis=1) >= k,
            _RATIOS[self.dtype],
        )

    def _write(self, start: int, stop: int, out: NDArray[Any], shift: int) -> None:
        """Write mixed columns to ``out``, ``shift`` to the left."""
        if accelerated() and max(self.rows.shape[0], len(out)) <= KERNEL_ROWS:
            finite = run_kernel("mix_tiles", self.rows, start, stop, out, shift, self.mixing)
        else:
            finite = self._multiply(start, stop, out, shift)
        if not finite:
            check_finite(self.rows, where="rows")

    def _multiply(self, start: int, stop: int, out: NDArray[Any], shift: int) -> bool:
        """Mix with a matrix product: every sum is over the neighbours and zeros."""
        incidence = self._incidence.astype(np.float64)
        width = max(_NARROWEST, _BLOCK_ENTRIES // len(self.rows)) // 32 * 32 + 16
        for left in range(start, stop, width):
            right = min(left + width, stop)
            block = self.rows[:, left:right].astype(np.float64)
            if self.dtype != np.int32 and not np.isfinite(block).all():
                return False
            # The operands are finite; a few BLAS builds leave stray exception flags all the same.
            with np.errstate(all="ignore"):
                mean = incidence @ block
            mean /= self.neighbours.shape[1]
            if self.dtype == np.int32:
                np.rint(mean, out=mean)
            out[:, left - shift : right - shift] = mean
        return True

    @cached_property
    def _incidence(self) -> NDArray[np.bool_]:
        """Shape ``(m, n)``, true for a neighbour."""
        matrix = np.zeros((len(self.neighbours), len(self.rows)), dtype=np.bool_)
        np.put_along_axis(matrix, self.neighbours, values=True, axis=1)
        return matrix
