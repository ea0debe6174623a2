"""The scalar kernels in numpy and Python, see :class:`qres_zk.scalar.backend.ScalarEngine`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qres_zk.arrays import Bits, Values, Words
from qres_zk.group.parameters import ORDER
from qres_zk.group.scalars import integers, scalars

_HALF: Final = np.uint64(32)
_MASK: Final = np.uint64(2**32 - 1)


def project(values: Values, rows: Iterable[Bits], k: int) -> list[int]:
    sums = np.zeros(k, np.int64)
    for row, packed in zip(values, rows, strict=True):
        sums += row @ _unpacked(packed)
    return [int(item) for item in sums]


def weights(rows: Iterable[Bits], shape: tuple[int, int], gammas: list[int]) -> Words:
    out = np.empty((*shape, 2), np.uint64)
    for packed, row in zip(rows, out, strict=True):
        row[:] = _weights_of_row(packed, gammas)
    return out


def folded_weights(rows: Iterable[Bits], m: int, gammas: list[int], factors: list[int]) -> Words:
    total = _objects(m)
    for packed, factor in zip(rows, factors, strict=True):
        total += factor % ORDER * _joined(_weights_of_row(packed, gammas))
    return scalars(total.tolist())


class Halves:
    """The state of a folding."""

    def __init__(self, values: Values, weights: Words) -> None:
        self.rows = len(values)
        self._values: NDArray[Any] = values.astype(object)
        self._weights = _joined(weights)

    def cross(self) -> tuple[int, int]:
        h = self.rows // 2
        high_low = (self._weights[h:] * self._values[:h]).sum()
        low_high = (self._weights[:h] * self._values[h:]).sum()
        return int(high_low) % ORDER, int(low_high) % ORDER

    def fold(self, x: int) -> None:
        h = self.rows // 2
        x %= ORDER
        self._values = (self._values[:h] + x * self._values[h:]) % ORDER
        self._weights = (x * self._weights[:h] + self._weights[h:]) % ORDER
        self.rows = h

    def result(self) -> tuple[Words, Words]:
        return scalars(self._values[0].tolist()), scalars(self._weights[0].tolist())


def folding(values: Values, weights: Words) -> Halves:
    return Halves(values, weights)


def multiply_add(left: Words, factor: int, right: Words) -> Words:
    factor %= ORDER
    pairs = zip(integers(left), integers(right), strict=True)
    return scalars(a + factor * b for a, b in pairs)


def dot(left: Words, right: Words) -> int:
    return sum(a * b for a, b in zip(integers(left), integers(right), strict=True)) % ORDER


def combine_rows(factors: list[int], values: Values) -> Words:
    total = _objects(values.shape[1])
    for factor, row in zip(factors, values, strict=True):
        total += factor % ORDER * row.astype(object)
    return scalars(total.tolist())


def _objects(m: int) -> NDArray[Any]:
    return np.zeros(m, np.int64).astype(object)


def _unpacked(packed: Bits) -> NDArray[np.int64]:
    return np.unpackbits(packed, axis=1, bitorder="little").astype(np.int64)


def _weights_of_row(packed: Bits, gammas: list[int]) -> Words:
    """Shape ``(m, 2)``: sums of 32-bit pieces, with the carries between them."""
    pieces = np.array([[gamma >> (32 * k) & (2**32 - 1) for k in range(4)] for gamma in gammas])
    sums = (_unpacked(packed) @ pieces[:-1] + pieces[-1]).astype(np.uint64)
    for k in range(3):
        sums[:, k + 1] += sums[:, k] >> _HALF
    sums &= _MASK
    return np.stack([sums[:, k] | sums[:, k + 1] << _HALF for k in (0, 2)], axis=1)


def _joined(words: Words) -> NDArray[Any]:
    low, high = (words[..., k].astype(object) for k in (0, 1))
    joined: NDArray[Any] = low + high * 2**64
    return joined
