"""The scalar kernels with numba, see :class:`qres_zk.scalar.backend.ScalarEngine`."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

import numpy as np

from qres_zk.arrays import Bits, Values, Words
from qres_zk.group.compiled import lanes
from qres_zk.group.compiled.engine import bit_length, plain
from qres_zk.group.compiled.lanes import LANES
from qres_zk.group.parameters import ORDER
from qres_zk.group.scalars import scalars
from qres_zk.scalar.compiled import kernels
from qres_zk.scalar.compiled.lane_folding import LaneHalves
from qres_zk.scalar.compiled.modular import montgomery

_ROWS_AT_ONCE = 8  # their bits are still in the cache when they are used
_BYTE_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")


def project(values: Values, rows: Iterable[Bits], k: int) -> list[int]:
    sums = np.zeros((k // 8, 256), np.int64)
    for row, bits in zip(plain(values), rows, strict=True):
        kernels.count(bits, row, sums.reshape(-1))
    return [int(item) for item in (sums @ _BYTE_BITS.astype(np.int64)).reshape(-1)]


def weights(rows: Iterable[Bits], shape: tuple[int, int], gammas: list[int]) -> Words:
    table, last = _subset_sums(gammas)
    out = np.empty((*shape, 2), np.uint64)
    for bits, row in zip(rows, out, strict=True):
        kernels.weigh(bits, table, last, row)
    return out


def folded_weights(rows: Iterable[Bits], m: int, gammas: list[int], factors: list[int]) -> Words:
    table, last = _subset_sums(gammas)
    totals = np.zeros((m, 7), np.uint64)
    of_rows, source = scalars(factors), iter(rows)
    for first in range(0, len(factors), _ROWS_AT_ONCE):
        some = of_rows[first : first + _ROWS_AT_ONCE]
        bits = np.stack(list(islice(source, len(some))))
        kernels.weigh_and_add(bits, table, last, some, totals)
    out = np.empty((m, 4), np.uint64)
    kernels.reduce(totals, out)
    return out


class Halves:
    """The state of a folding."""

    def __init__(self, values: Values, weights: Words) -> None:
        self.rows = len(values)
        self._m = values.shape[1]
        # Integers until the first fold, scalars after it; flat over rows and columns.
        self._small = True
        self._values: Any = plain(values).reshape(-1)
        self._weights = plain(weights).reshape(-1, 2)

    def cross(self) -> tuple[int, int]:
        h = self.rows // 2 * self._m
        item = _dot_small if self._small else dot
        return (
            item(self._weights[h:], self._values[:h]),
            item(self._weights[:h], self._values[h:]),
        )

    def fold(self, x: int) -> None:
        h = self.rows // 2 * self._m
        factor = montgomery(x)
        low, high = self._values[:h], self._values[h:]
        if self._small:
            values, weights = (np.empty((h, 4), np.uint64) for _ in range(2))
            kernels.fold_small(low, high, factor, self._weights, values, weights)
        else:
            # In place: nobody else holds what the first fold made.
            values, weights = low, self._weights[:h]
            kernels.multiply_add(low, factor, high, values)
            kernels.multiply_add(self._weights[h:], factor, weights, weights)
        self._values, self._weights, self._small = values, weights, False
        self.rows //= 2

    def result(self) -> tuple[Words, Words]:
        if not self._small:
            return self._values.copy(), self._weights.copy()  # not the whole of what was folded
        wide = np.zeros((self._m, 4), np.uint64)
        wide[:, :2] = self._weights
        return scalars(self._values.tolist()), wide


def folding(values: Values, weights: Words) -> Halves | LaneHalves:
    if len(values) > 1 and values.shape[1] >= LANES and lanes.available():
        return LaneHalves(values, weights)
    return Halves(values, weights)


def multiply_add(left: Words, factor: int, right: Words) -> Words:
    out = np.empty((len(left), 4), np.uint64)
    kernels.multiply_add(plain(left), montgomery(factor), plain(right), out)
    return out


def dot(left: Words, right: Words) -> int:
    return _integer(kernels.dot(plain(left), plain(right)))


def combine_rows(factors: list[int], values: Values) -> Words:
    values, of_rows = plain(values), scalars(factors)
    # Digits as long as sums of their products with all rows stay within int64.
    longest = int(kernels.bits_used(values)).bit_length()
    width = 63 - max(1, longest) - len(factors).bit_length()
    count = -(-bit_length(of_rows) // width)
    sums = np.zeros((count, values.shape[1]), np.int64)
    kernels.combine(of_rows, width, values, sums)
    totals = np.zeros((values.shape[1], 4), np.uint64)
    for k, row in enumerate(sums):
        kernels.add_multiple(totals, montgomery(2 ** (width * k)), row)
    return totals


def _dot_small(weights: Words, values: Values) -> int:
    positive, negative = kernels.cross_small(weights, values)
    return (_integer(positive) - _integer(negative)) % ORDER


def _integer(parts: tuple[int, ...]) -> int:
    return sum(int(part) << (64 * k) for k, part in enumerate(parts))


def _subset_sums(gammas: list[int]) -> tuple[Words, Words]:
    pairs = np.array([[gamma & (2**64 - 1), gamma >> 64] for gamma in gammas], np.uint64)
    table = np.empty(((len(gammas) - 1) // 8, 256, 2), np.uint64)
    kernels.subset_sums(pairs, table)
    return table.reshape(-1), pairs[-1].copy()
