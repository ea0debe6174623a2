"""The prover's folding with eight integers at once, see :mod:`qres_zk.scalar.compiled.lanes`."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qres_zk.arrays import Values, Words
from qres_zk.group.compiled.engine import plain
from qres_zk.group.compiled.jit import compiled, part
from qres_zk.group.compiled.lanes import LANES
from qres_zk.group.parameters import ORDER
from qres_zk.scalar.compiled import lanes
from qres_zk.scalar.compiled.modular import R2, R3, add, mul

_AT_ONCE: Final = 256
_ZERO: Final = np.uint64(0)
_BITS: Final = np.uint64(lanes.BITS)
_PLAIN: Final = (np.uint64(1), _ZERO, _ZERO, _ZERO)


class LaneHalves:
    """The state of a folding of two rows or more, of eight columns or more.

    Before the first fold arrays are as they were given; after it they are of limbs, ``(5, n)``,
    and rows are padded to eights with zeros.
    """

    def __init__(self, values: Values, weights: Words) -> None:
        self.rows, self._m = values.shape
        self._width = -(-self._m // LANES) * LANES
        self._values: NDArray[Any] = plain(values)
        self._weights = plain(weights)
        self._folded = False

    def cross(self) -> tuple[int, int]:
        h = self.rows // 2
        if self._folded:
            sums = np.zeros((2, lanes.LONG_COLUMNS, 2), np.uint64)
            cross_long(self._weights, self._values, h * self._width, sums)
            return _integer(sums[0]) % ORDER, _integer(sums[1]) % ORDER
        signed = np.zeros((2, 2, lanes.PAIR_COLUMNS, 2), np.uint64)
        cross_short(self._weights, self._values, signed)
        high_low, low_high = (_integer(plus) - _integer(minus) for plus, minus in signed)
        return high_low % ORDER, low_high % ORDER

    def fold(self, x: int) -> None:
        h = self.rows // 2 * self._width
        factor = np.array(lanes.limbs(x), np.uint64)
        if self._folded:
            # In place: nobody else holds what the first fold made.
            fold_long(factor, self._values, self._weights, h)
        else:
            values, weights = (np.zeros((5, h), np.uint64) for _ in range(2))
            fold_short(factor, self._values, self._weights, values, weights)
            self._values, self._weights, self._folded = values, weights, True
        self.rows //= 2

    def result(self) -> tuple[Words, Words]:
        values, weights = (np.empty((self._m, 4), np.uint64) for _ in range(2))
        reduce(self._values, values)
        reduce(self._weights, weights)
        return values, weights


def _integer(columns: Words) -> int:
    words = (int(low) + (int(high) << 32) for low, high in columns)
    return sum(word << (lanes.BITS * k) for k, word in enumerate(words))


@part
def _collect(sums: Any, totals: Any) -> None:
    """Add the lanes of every column to two words that do not overflow, of 32 bits and more."""
    for k in range(totals.shape[0]):
        for lane in range(LANES):
            word = sums[LANES * k + lane]
            totals[k, 0] += word & np.uint64(2**32 - 1)
            totals[k, 1] += word >> np.uint64(32)


@part
def _add_short(of: Any, item: Any, by: Any, two: Any, blocks: Any, totals: Any) -> None:
    """Add products with positive and with negative values to the totals, ``(2, 4, 2)``."""
    sums = np.empty(LANES * lanes.PAIR_COLUMNS, np.uint64)
    item, two, blocks = np.uint64(item), np.uint64(two), np.uint64(blocks)
    lanes.dot_positive(of, item, by, two, _ZERO, blocks, sums)
    _collect(sums, totals[0])
    lanes.dot_negative(of, item, by, two, _ZERO, blocks, sums)
    _collect(sums, totals[1])


@compiled
def cross_short(weights: Any, values: Any, totals: Any) -> None:
    """The sums of products over positive and negative values of both cross terms."""
    b, m = values.shape
    whole = m - m % LANES
    of, by = weights.reshape(-1), values.reshape(-1)
    last_of, last_by = np.zeros(2 * LANES, np.uint64), np.zeros(LANES, np.int64)
    for c in range(b):
        item, two = m * c, m * ((c + b // 2) % b)
        term = totals[0] if item > two else totals[1]
        for first in range(0, whole, LANES * _AT_ONCE):
            blocks = min(_AT_ONCE, (whole - first) // LANES)
            _add_short(of, item + first, by, two + first, blocks, term)
        if whole < m:
            for j in range(m - whole):
                last_of[2 * j] = of[2 * (item + whole + j)]
                last_of[2 * j + 1] = of[2 * (item + whole + j) + 1]
                last_by[j] = by[two + whole + j]
            _add_short(last_of, 0, last_by, 0, 1, term)


@compiled
def cross_long(weights: Any, values: Any, half: Any, totals: Any) -> None:
    """The sums of products of both cross terms, ``(2, 10, 2)``."""
    of, by = weights.reshape(-1), values.reshape(-1)
    apart = np.uint64(values.shape[1])
    sums = np.empty(LANES * lanes.LONG_COLUMNS, np.uint64)
    for k in range(2):
        left, right = (half, 0) if k == 0 else (0, half)
        for first in range(0, half, LANES * _AT_ONCE):
            item, two = np.uint64(left + first), np.uint64(right + first)
            blocks = np.uint64(min(_AT_ONCE, (half - first) // LANES))
            lanes.dot_long(of, item, by, two, apart, blocks, sums)
            _collect(sums, totals[k])


@compiled
def fold_short(factor: Any, values: Any, weights: Any, to: Any, to_weights: Any) -> None:
    """Fold values ``(b, m)`` and weights ``(b, m, 2)`` to limbs ``(5, b n / 2)`` each."""
    b, m = values.shape
    of, by = values.reshape(-1), weights.reshape(-1)
    out, out_by = to.reshape(-1), to_weights.reshape(-1)
    apart, width = np.uint64(to.shape[1]), to.shape[1] // (b // 2)
    for c in range(b // 2):
        for first in range(0, m, LANES):
            start = min(first, m - LANES)  # the last eight may overlap with those before
            low, high = np.uint64(m * c + start), np.uint64(m * (c + b // 2) + start)
            at = np.uint64(width * c + start)
            lanes.fold_short(factor, of, _ZERO, low, high, out, apart, at)
            lanes.fold_pair(factor, by, _ZERO, high, low, out_by, apart, at)


@compiled
def fold_long(factor: Any, values: Any, weights: Any, size: Any) -> None:
    """Fold the first ``2 * size`` columns of limbs ``(5, n)`` in place, both."""
    of, by = values.reshape(-1), weights.reshape(-1)
    apart, half = np.uint64(values.shape[1]), np.uint64(size)
    for first in range(0, size, LANES):
        low, high = np.uint64(first), np.uint64(first) + half
        lanes.fold_long(factor, of, apart, low, high, of, apart, low)
        lanes.fold_long(factor, by, apart, high, low, by, apart, low)


@compiled
def reduce(limbs: Any, out: Any) -> None:
    """Write the residues of the first ``m`` columns of limbs to ``(m, 4)``."""
    for j in range(out.shape[0]):
        a0, a1, a2 = limbs[0, j], limbs[1, j], limbs[2, j]
        a3, a4 = limbs[3, j], limbs[4, j]
        low = (
            a0 | (a1 << _BITS),
            (a1 >> np.uint64(12)) | (a2 << np.uint64(40)),
            (a2 >> np.uint64(24)) | (a3 << np.uint64(28)),
            (a3 >> np.uint64(36)) | (a4 << np.uint64(16)),
        )
        # What four words do not hold.
        top = (a4 >> np.uint64(48), _ZERO, _ZERO, _ZERO)
        total = add(mul(low, R2), mul(top, R3))
        out[j, 0], out[j, 1], out[j, 2], out[j, 3] = mul(total, _PLAIN)
