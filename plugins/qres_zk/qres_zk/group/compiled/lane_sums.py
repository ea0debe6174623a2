"""Sums of multiples of points in numba, for eight rows of digits at once, see :mod:`lanes`.

Each lane is a row of digits with buckets of its own; all add the same affine point. Buckets are
points of 20 words on 24, three lines of a cache, in the order lane, bucket; a digit's absolute
value is the number of its bucket, and bucket 0 takes what counts for nothing.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import numpy as np

from qres_zk.group.compiled import lanes
from qres_zk.group.compiled.field import I64, I128
from qres_zk.group.compiled.jit import compiled, intrinsic, ir, numba, part
from qres_zk.group.compiled.lanes import (
    INDEX,
    LANES,
    VECTOR,
    Element,
    add,
    array_data,
    broadcast,
    constant,
    load_vector,
    mul,
    select,
    shuffle,
    splat,
    store_vector,
    sub,
)
from qres_zk.group.parameters import D

BUCKET: Final = 24
_types: Any = numba.types
_WORD: Final[Any] = _types.uint64
_DIGITS: Final[Any] = ir.VectorType(ir.IntType(16), LANES)
Point: TypeAlias = list[Element]
"""Of eight points a coordinate each."""


def _transposed(build: Any, rows: list[Any]) -> list[Any]:
    """Eight vectors of eight words with rows and columns exchanged: blocks of 1, 2 and 4."""
    rows = list(rows)
    for step in (1, 2, 4):
        left = [j if not j & step else LANES + j - step for j in range(LANES)]
        right = [j + step if not j & step else LANES + j for j in range(LANES)]
        for i in (i for i in range(LANES) if not i & step):
            pair = rows[i], rows[i + step]
            rows[i] = build.shuffle_vector(*pair, shuffle(left))
            rows[i + step] = build.shuffle_vector(*pair, shuffle(right))
    return rows


def _gathered(build: Any, data: Any, offsets: list[Any], last: int = 16) -> Point:
    """Eight points that begin at these offsets; ``last`` is where the last eight words are read."""
    words: list[Any] = []
    for block in (0, LANES, last):
        step = ir.Constant(I64, block)
        rows = [load_vector(build, data, build.add(offset, step)) for offset in offsets]
        words += _transposed(build, rows)[len(words) - block :]
    return [words[k : k + 5] for k in range(0, 20, 5)]


def _scatter(build: Any, data: Any, offsets: list[Any], point: Point) -> None:
    words = [limb for item in point for limb in item] + [splat(0)] * (BUCKET - 20)
    for block in range(0, BUCKET, LANES):
        step = ir.Constant(I64, block)
        rows = _transposed(build, words[block : block + LANES])
        for offset, row in zip(offsets, rows, strict=True):
            store_vector(build, data, build.add(offset, step), row)


def _products(build: Any, e: Element, f: Element, g: Element, h: Element) -> Point:
    return [mul(build, *pair) for pair in ((e, f), (g, h), (f, g), (e, h))]


def _added(build: Any, left: Point, right: Point) -> Point:
    """As :func:`qres_zk.group.compiled.curve.add_point`."""
    x1, y1, z1, t1 = left
    x2, y2, z2, t2 = right
    a = mul(build, sub(build, y1, x1), sub(build, y2, x2))
    b = mul(build, add(build, y1, x1), add(build, y2, x2))
    c = mul(build, mul(build, t1, constant(2 * D)), t2)
    d = mul(build, add(build, z1, z1), z2)
    pairs = (sub(build, b, a), sub(build, d, c), add(build, d, c), add(build, b, a))
    return _products(build, *pairs)


def _added_niels(build: Any, point: Point, niels: Point, minus: Any) -> Point:
    """As :func:`qres_zk.group.compiled.curve.add_niels`; ``minus`` is a mask."""
    x, y, z, t = point
    plus, less, product = niels
    a = mul(build, sub(build, y, x), select(build, minus, plus, less))
    b = mul(build, add(build, y, x), select(build, minus, less, plus))
    c = mul(build, t, product)
    d = add(build, z, z)
    lower, upper = sub(build, d, c), add(build, d, c)
    f, g = select(build, minus, upper, lower), select(build, minus, lower, upper)
    return _products(build, sub(build, b, a), f, g, add(build, b, a))


def _lane_offsets(build: Any, size: Any) -> list[Any]:
    return [build.mul(size, ir.Constant(I64, lane)) for lane in range(LANES)]


def _places(which: int) -> list[Any]:
    return [ir.Constant(I64, 5 * LANES * k) for k in range(4 * which, 4 * which + 4)]


def _loaded(build: Any, sums: Any, which: int) -> Point:
    """One of several sums that are kept coordinate by coordinate."""
    return [lanes.load(build, sums, place) for place in _places(which)]


def _stored(build: Any, sums: Any, which: int, point: Point) -> None:
    for place, limb in zip(_places(which), point, strict=True):
        lanes.store(build, sums, place, limb)


@intrinsic
def add_to_buckets(
    _typing: Any, _buckets: Any, _size: Any, _niels: Any, _other: Any, _digits: Any, _at: Any
) -> Any:
    """Add an affine point to each lane's bucket of its digit, or subtract it.

    ``size`` is the number of words of a lane's buckets; the eight digits begin at ``at``.
    """

    def code(context: Any, build: Any, signature: Any, args: Any) -> Any:
        buckets, niels, digits = (
            array_data(context, build, signature.args[k], args[k]) for k in (0, 2, 4)
        )
        at = build.bitcast(build.gep(digits, [args[5]]), _DIGITS.as_pointer())
        short = build.load(at, align=2)
        together = build.bitcast(short, I128)
        with build.if_then(build.icmp_unsigned("!=", together, ir.Constant(I128, 0))):
            digit = build.sext(short, VECTOR)
            minus = build.icmp_signed("<", digit, splat(0))
            bucket = build.select(minus, build.sub(splat(0), digit), digit)
            places = build.mul(bucket, splat(BUCKET))
            offsets = [
                build.add(lane_offset, build.extract_element(places, ir.Constant(INDEX, lane)))
                for lane, lane_offset in enumerate(_lane_offsets(build, args[1]))
            ]
            start = build.gep(niels, [args[3]])
            words = [
                broadcast(build, build.load(build.gep(start, [ir.Constant(I64, k)])))
                for k in range(15)
            ]
            other = [words[k : k + 5] for k in range(0, 15, 5)]
            point = _gathered(build, buckets, offsets)
            _scatter(build, buckets, offsets, _added_niels(build, point, other, minus))
        return context.get_dummy_value()

    return _types.void(_buckets, _WORD, _niels, _WORD, _digits, _WORD), code


@intrinsic
def add_buckets(_typing: Any, _buckets: Any, _size: Any, _bucket: Any, _sums: Any) -> Any:
    """Add each lane's bucket of a number to the first of two sums, and that to the second."""

    def code(context: Any, build: Any, signature: Any, args: Any) -> Any:
        buckets = array_data(context, build, signature.args[0], args[0])
        sums = array_data(context, build, signature.args[3], args[3])
        at = build.mul(args[2], ir.Constant(I64, BUCKET))
        offsets = [build.add(at, lane_offset) for lane_offset in _lane_offsets(build, args[1])]
        running = _added(build, _loaded(build, sums, 0), _gathered(build, buckets, offsets))
        total = _added(build, _loaded(build, sums, 1), running)
        _stored(build, sums, 0, running)
        _stored(build, sums, 1, total)
        return context.get_dummy_value()

    return _types.void(_buckets, _WORD, _WORD, _sums), code


@intrinsic
def add_eight(_typing: Any, _points: Any, _at: Any, _sums: Any) -> Any:
    """Add eight points, one after the other in an array, to sums."""

    def code(context: Any, build: Any, signature: Any, args: Any) -> Any:
        points = array_data(context, build, signature.args[0], args[0])
        sums = array_data(context, build, signature.args[2], args[2])
        offsets = [
            build.add(args[1], lane_offset)
            for lane_offset in _lane_offsets(build, ir.Constant(I64, 20))
        ]
        others = _gathered(build, points, offsets, 12)
        _stored(build, sums, 0, _added(build, _loaded(build, sums, 0), others))
        return context.get_dummy_value()

    return _types.void(_points, _WORD, _sums), code


@part
def _set_neutral(points: Any, words: Any, apart: Any) -> None:
    """Write the neutral element everywhere: a point has so many words, so far apart."""
    points[:] = np.uint64(0)
    for start in range(0, points.shape[0], words * apart):
        for place in (5, 10):
            first = start + place * apart
            points[first : first + apart] = np.uint64(1)


@compiled
def sum_rows(niels: Any, digits: Any, size: Any, out: Any) -> None:
    """Write for each row of digits the sum of the multiples.

    ``niels``: affine points, ``(n, 15)``; ``digits``: int16, shape ``(groups, n, 8)``: eight rows a
    group; ``out``: points, ``(8 * groups, 20)``.
    """
    flat, cut = niels.reshape(-1), digits.reshape(-1)
    n = niels.shape[0]
    lane = np.uint64(BUCKET * (size + 1))
    buckets = np.empty(LANES * lane, np.uint64)
    sums = np.empty(2 * 20 * LANES, np.uint64)
    for group in range(digits.shape[0]):
        _set_neutral(buckets, BUCKET, 1)
        for i in range(n):
            at = np.uint64(LANES * (n * group + i))
            add_to_buckets(buckets, lane, flat, np.uint64(15 * i), cut, at)
        _set_neutral(sums, 20, LANES)
        for bucket in range(size, 0, -1):
            add_buckets(buckets, lane, np.uint64(bucket), sums)
        for row in range(LANES):
            for word in range(20):
                out[LANES * group + row, word] = sums[LANES * (20 + word) + row]


@compiled
def sum_points(points: Any, out: Any) -> None:
    """Write the sums over the first axis of ``(k, n, 20)`` to ``(n, 20)``; ``n`` is at least 8."""
    flat = points.reshape(-1)
    n = points.shape[1]
    sums = np.empty(20 * LANES, np.uint64)
    for first in range(0, n, LANES):
        start = min(first, n - LANES)  # the last eight may overlap with those before
        _set_neutral(sums, 20, LANES)
        for k in range(points.shape[0]):
            add_eight(flat, np.uint64(20 * (k * n + start)), sums)
        for row in range(LANES):
            for word in range(20):
                out[start + row, word] = sums[LANES * word + row]
