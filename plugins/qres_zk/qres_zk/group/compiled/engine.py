"""The engine compiled with numba, see :class:`qres_zk.group.backend.Engine`."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qres_zk.arrays import Words
from qres_zk.group.compiled import curve, lane_decoding, lane_sums, lanes, multiples, ristretto
from qres_zk.group.compiled.lanes import LANES
from qres_zk.group.compiled.roots import sqrt_ratios
from qres_zk.group.parameters import PRIME
from qres_zk.group.reference.limbs import field_limbs
from qres_zk.group.reference.multiples import best_width

_WIDTH: Final = 8
_VALUE_DIGITS: Final = 4
_FIXED_WIDTH: Final = 4  # for very few generators there is more work in buckets than in digits
_FIXED_DIGITS: Final = 64
_DIGITS_AT_ONCE: Final = 2**20  # rows are cut into digits a piece at a time: 2 MiB


def plain(array: NDArray[Any]) -> NDArray[Any]:
    """The array, or a copy, such that a kernel is compiled for one layout only."""
    return np.require(array, requirements=["C", "W", "A"])


def bit_length(scalars: Words) -> int:
    """The length of the longest scalar."""
    words = np.bitwise_or.reduce(scalars, axis=0) if len(scalars) else np.zeros(4, np.uint64)
    return sum(int(word) << (64 * k) for k, word in enumerate(words)).bit_length()


def decode(words: Words) -> tuple[Words, int]:
    words = plain(words)
    out = np.empty((len(words), 20), np.uint64)
    if len(words) > 1 and lanes.available():
        return out, int(lane_decoding.decode(words, out))
    roots = _roots(ristretto.decode_ratios, words)
    return out, int(ristretto.decode(words, roots, out))


def decode_edwards(words: Words) -> tuple[Words, int]:
    words = plain(words)
    roots = _roots(ristretto.edwards_ratios, words)
    out = np.empty((len(words), 20), np.uint64)
    return out, int(ristretto.decode_edwards(words, roots, out))


def encode(points: Words) -> Words:
    points = plain(points)
    roots = _roots(ristretto.encode_ratios, points)
    out = np.empty((len(points), 4), np.uint64)
    ristretto.encode(points, roots, out)
    return out


def from_uniform(words: Words) -> Words:
    halves = plain(words).reshape(-1, 4)
    roots = _roots(ristretto.map_ratios, halves)
    out = np.empty((len(halves), 20), np.uint64)
    ristretto.map_to_curve(halves, roots, out)
    return add(out[::2], out[1::2])


def add(left: Words, right: Words) -> Words:
    out = np.array(left, order="C")
    multiples.add_points(out, plain(right))
    return out


def total(points: Words) -> Words:
    if points.shape[1] >= LANES and lanes.available():
        out = np.empty(points.shape[1:], np.uint64)
        lane_sums.sum_points(plain(points), out)
        return out
    return reduce(add, points[1:], points[0])


def negate(points: Words) -> Words:
    out = np.array(points, order="C")
    ristretto.negate(out)
    return out


def is_identity(points: Words) -> NDArray[np.bool_]:
    out = np.empty(len(points), np.bool_)
    ristretto.is_identity(plain(points), out)
    return out


def msm(scalars: Words, points: Words) -> Words:
    bits = bit_length(scalars) + 1
    width = _best_width(len(scalars), bits)
    digits = np.empty((-(-bits // width), len(scalars)), np.int16)
    multiples.scalar_digits(plain(scalars), width, digits)
    return _combined(_normalised(points), digits, width)


def row_table(points: Words) -> Words:
    return _table(points, _VALUE_DIGITS, _WIDTH)


def commit_rows(table: Words, values: NDArray[np.int32]) -> Words:
    rows, columns = values.shape
    out = np.empty((rows, 20), np.uint64)
    step = max(LANES, _DIGITS_AT_ONCE // max(1, len(table)))
    for first in range(0, rows, step):
        some = plain(values[first : first + step])
        digits = np.empty((len(some), _VALUE_DIGITS * columns), np.int16)
        multiples.row_digits(some, digits)
        out[first : first + step] = _row_sums(table, digits)
    return out


def fixed_table(points: Words) -> Words:
    return _table(points, _FIXED_DIGITS, _FIXED_WIDTH)


def fixed_msm(table: Words, scalars: Words) -> Words:
    digits = np.empty((_FIXED_DIGITS, len(scalars)), np.int16)
    multiples.scalar_digits(plain(scalars), _FIXED_WIDTH, digits)
    return _row_sums(table, digits.reshape(1, -1))


def _combined(niels: Words, digits: NDArray[np.int16], width: int) -> Words:
    out = np.empty((1, 20), np.uint64)
    multiples.join_windows(_row_sums(niels, digits), width, out)
    return out


def _row_sums(niels: Words, digits: NDArray[np.int16]) -> Words:
    """For each row of digits the sum of the multiples, ``(rows, 20)``."""
    rows, n = digits.shape
    size = max(int(digits.max(initial=0)), -int(digits.min(initial=0)))
    if rows == 1 or not lanes.available():
        out = np.empty((rows, 20), np.uint64)
        multiples.sum_rows(niels, digits, size, out)
        return out
    groups = -(-rows // LANES)
    padded = np.zeros((groups, n, LANES), np.int16)
    for row in range(rows):
        padded[row // LANES, :, row % LANES] = digits[row]
    out = np.empty((LANES * groups, 20), np.uint64)
    lane_sums.sum_rows(niels, padded, size, out)
    return out[:rows]


def _best_width(n: int, bits: int) -> int:
    """The width of digits that costs the fewest additions."""
    if not lanes.available():
        return best_width(n, bits)
    # As there, with eight rows for one; buckets of more than 8 bits would not stay in the cache.
    costs = {w: -(-bits // (LANES * w)) * (n + 2.6 * 2 ** (w - 1)) for w in range(2, 9)}
    return min(costs, key=costs.__getitem__)


def _normalised(points: Words) -> Words:
    points = plain(points)
    products = np.empty((len(points) + 1, 5), np.uint64)
    affine = bool(curve.multiply_up(points, products))
    last = sum(int(limb) << (51 * k) for k, limb in enumerate(products[-1]))
    inverse = np.array(field_limbs(pow(last, -1, PRIME)), np.uint64)
    out = np.empty((len(points), 15), np.uint64)
    curve.divide_down(points, products, inverse, affine, out)
    return out


def _roots(write: Callable[[Words, Words], None], of: Words) -> Words:
    ratios = np.empty((len(of), 10), np.uint64)
    write(of, ratios)
    sqrt_ratios(ratios)
    return ratios


def _table(points: Words, levels: int, width: int) -> Words:
    out = np.empty((levels * len(points), 20), np.uint64)
    multiples.multiply_levels(plain(points), levels, width, out)
    return _normalised(out)
