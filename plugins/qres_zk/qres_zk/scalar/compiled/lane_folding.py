"""The prover's folding with eight integers at once, see :mod:`qres_zk.scalar.compiled.lanes`."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qres_zk.group.backend import Words
from qres_zk.group.compiled.jit import compiled, part
from qres_zk.group.compiled.lanes import LANES
from qres_zk.group.parameters import ORDER
from qres_zk.scalar.backend import Values
from qres_zk.scalar.compiled import lanes
from qres_zk.scalar.compiled.modular import R2, R3, add, mul

_AT_ONCE: Final = 256
_ZERO: Final = np.uint64(0)
_BITS: Final = np.uint64(lanes.BITS)
_PLAIN: Final = (np.uint64(1), _ZERO, _ZERO, _ZERO)


class LaneHalves:
    """The state of a folding of two rows or more.

    Rows are padded to eights. Before the first fold arrays are as they were given; after it they
    are of limbs, ``(5, n)``.
    """

    def __init__(self, values: Values, weights: Words) -> None:
        self.rows, self._m = values.shape
        self._width = -(-self._m // LANES) * LANES
        shape = (self.rows, self._width)
        self._values: NDArray[Any] = np.zeros(shape, np.int64)
        self._values[:, : self._m] = values
        self._weights = np.zeros((*shape, 2), np.uint64)
        self._weights[:, : self._m] = weights
        self._folded = False

    @property
    def _half(self) -> int:
        half: int = self.rows // 2 * self._width
        return half

    def cross(self) -> tuple[int, int]:
        """See :meth:`qres_zk.scalar.Folding.cross`."""
        if self._folded:
            sums = np.zeros((2, lanes.LONG_COLUMNS, 2), np.uint64)
            cross_long(self._weights, self._values, self._half, sums)
            return _integer(sums[0]) % ORDER, _integer(sums[1]) % ORDER
        signed = np.zeros((4, lanes.PAIR_COLUMNS, 2), np.uint64)
        cross_short(self._weights, self._values, self._half, signed)
        high_low, less, low_high, less_too = (_integer(one) for one in signed)
        return (high_low - less) % ORDER, (low_high - less_too) % ORDER

    def fold(self, x: int) -> None:
        """See :meth:`qres_zk.scalar.Folding.fold`."""
        h = self._half
        factor = np.array(lanes.limbs(x), np.uint64)
        if self._folded:
            # In place: nobody else holds what the first fold made.
            fold_long(factor, self._values, self._weights, h)
        else:
            values, weights = (np.empty((5, h), np.uint64) for _ in range(2))
            fold_short(factor, self._values, self._weights, values, weights)
            self._values, self._weights, self._folded = values, weights, True
        self.rows //= 2

    def result(self) -> tuple[Words, Words]:
        """See :meth:`qres_zk.scalar.Folding.result`."""
        values, weights = (np.empty((self._m, 4), np.uint64) for _ in range(2))
        reduce(self._values, values)
        reduce(self._weights, weights)
        return values, weights


def _integer(columns: Words) -> int:
    words = (int(low) + (int(high) << 32) for low, high in columns)
    return sum(one << (lanes.BITS * k) for k, one in enumerate(words))


@part
def _collect(sums: Any, totals: Any) -> None:
    """Add the lanes of every column to two words that do not overflow, of 32 bits and more."""
    for k in range(totals.shape[0]):
        for lane in range(LANES):
            word = sums[LANES * k + lane]
            totals[k, 0] += word & np.uint64(2**32 - 1)
            totals[k, 1] += word >> np.uint64(32)


@compiled
def cross_short(weights: Any, values: Any, half: Any, totals: Any) -> None:
    """The sums of products over positive and negative values of both cross terms, ``(4, 4, 2)``."""
    of, by = weights.reshape(-1), values.reshape(-1)
    sums = np.empty(LANES * lanes.PAIR_COLUMNS, np.uint64)
    for k in range(2):
        left, right = (half, 0) if k == 0 else (0, half)
        for first in range(0, half, LANES * _AT_ONCE):
            one, two = np.uint64(left + first), np.uint64(right + first)
            blocks = np.uint64(min(_AT_ONCE, (half - first) // LANES))
            lanes.dot_positive(of, one, by, two, _ZERO, blocks, sums)
            _collect(sums, totals[2 * k])
            lanes.dot_negative(of, one, by, two, _ZERO, blocks, sums)
            _collect(sums, totals[2 * k + 1])


@compiled
def cross_long(weights: Any, values: Any, half: Any, totals: Any) -> None:
    """The sums of products of both cross terms, ``(2, 10, 2)``."""
    of, by = weights.reshape(-1), values.reshape(-1)
    apart = np.uint64(values.shape[1])
    sums = np.empty(LANES * lanes.LONG_COLUMNS, np.uint64)
    for k in range(2):
        left, right = (half, 0) if k == 0 else (0, half)
        for first in range(0, half, LANES * _AT_ONCE):
            one, two = np.uint64(left + first), np.uint64(right + first)
            blocks = np.uint64(min(_AT_ONCE, (half - first) // LANES))
            lanes.dot_long(of, one, by, two, apart, blocks, sums)
            _collect(sums, totals[k])


@compiled
def fold_short(factor: Any, values: Any, weights: Any, to: Any, to_weights: Any) -> None:
    """Fold values ``(b, n)`` and weights ``(b, n, 2)`` to limbs ``(5, b n / 2)`` each."""
    of, by = values.reshape(-1), weights.reshape(-1)
    out, out_by = to.reshape(-1), to_weights.reshape(-1)
    half = np.uint64(to.shape[1])
    for first in range(0, to.shape[1], LANES):
        low, high = np.uint64(first), np.uint64(first) + half
        lanes.fold_short(factor, of, _ZERO, low, high, out, half, low)
        lanes.fold_pair(factor, by, _ZERO, high, low, out_by, half, low)


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
