"""Eight integers modulo the group's order at once, by AVX-512's IFMA.

Here an integer is five limbs of 52 bits, less than ``2**260`` and not reduced; in arrays of shape
``(5, n)`` limb by limb. Where limbs are ``None`` they are known to be zero.

Source: P. Montgomery, "Modular multiplication without trial division", Mathematics of
Computation 44, 1985, limb by limb.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

from qres_zk.group.compiled.field import I64
from qres_zk.group.compiled.jit import intrinsic, ir, numba
from qres_zk.group.compiled.lanes import (
    LANES,
    VECTOR,
    array_data,
    broadcast,
    load_vector,
    multiplier,
    shuffle,
    splat,
    store_vector,
)
from qres_zk.group.parameters import ORDER

BITS: Final = 52
Limbs: TypeAlias = list[Any]
Loader: TypeAlias = Callable[[Any, Any, Any, Any], Limbs]
"""Of a builder, an array's words, an offset and, where limbs are apart, how far."""

_WORD: Final[Any] = numba.types.uint64
_MASK: Final = 2**BITS - 1
_ORDER: Final = [ORDER >> (BITS * k) & _MASK for k in range(5)]
_NEGATED_INVERSE: Final = -pow(ORDER, -1, 2**BITS) % 2**BITS


def limbs(value: int) -> list[int]:
    """Five limbs of a factor in Montgomery form, ``value * 2**260`` modulo the order."""
    form = value * 2 ** (5 * BITS) % ORDER
    return [form >> (BITS * k) & _MASK for k in range(5)]


def _short(build: Any, data: Any, offset: Any, _apart: Any) -> Limbs:
    """Of int64 less than ``2**40`` either way; the order's lowest limb is greater than that."""
    value = load_vector(build, data, offset)
    minus = build.icmp_signed("<", value, splat(0))
    added = [build.select(minus, splat(item), splat(0)) for item in _ORDER]
    return [build.add(added[0], value), *added[1:]]


def _positive(build: Any, data: Any, offset: Any, _apart: Any) -> Limbs:
    value = load_vector(build, data, offset)
    return [build.select(build.icmp_signed(">", value, splat(0)), value, splat(0))]


def _negative(build: Any, data: Any, offset: Any, _apart: Any) -> Limbs:
    value = build.sub(splat(0), load_vector(build, data, offset))
    return [build.select(build.icmp_signed(">", value, splat(0)), value, splat(0))]


def _pair(build: Any, data: Any, offset: Any, _apart: Any) -> Limbs:
    """Of integers of two words, one after the other."""
    start = build.shl(offset, ir.Constant(I64, 1))
    halves = [load_vector(build, data, build.add(start, ir.Constant(I64, k))) for k in (0, LANES)]
    low, high = (
        build.shuffle_vector(*halves, shuffle(list(range(k, 2 * LANES, 2)))) for k in (0, 1)
    )
    middle = build.or_(build.lshr(low, splat(BITS)), build.shl(high, splat(64 - BITS)))
    mask = splat(_MASK)
    return [build.and_(low, mask), build.and_(middle, mask), build.lshr(high, splat(2 * BITS - 64))]


def _long(build: Any, data: Any, offset: Any, apart: Any) -> Limbs:
    steps = (build.mul(apart, ir.Constant(I64, k)) for k in range(5))
    return [load_vector(build, data, build.add(offset, step)) for step in steps]


def _products(build: Any, left: Limbs, right: Limbs, sums: Limbs) -> Limbs:
    """Sums with the products of limbs added, column by column; a zero of ``right`` is left out."""
    sums = list(sums)
    for half in (0, 1):
        times = multiplier(build, "lh"[half])
        for i, remaining in enumerate(left):
            for j, two in enumerate(right):
                if two is not None:
                    sums[i + j + half] = build.call(times, [sums[i + j + half], remaining, two])
    return sums


def _multiplied(build: Any, left: Limbs, right: Limbs) -> Limbs:
    """``left * right / 2**260`` modulo the order, below twice the order; limbs of 57 bits."""
    order = [splat(item) if item else None for item in _ORDER]
    sums = [splat(0)] * 6
    for remaining in left:
        sums = _products(build, [remaining], right, sums)
        lower = [splat(0), sums[0], splat(_NEGATED_INVERSE)]
        quotient = build.call(multiplier(build, "l"), lower)
        sums = _products(build, [quotient], order, sums)
        carry = build.lshr(sums[0], splat(BITS))
        sums = [build.add(sums[1], carry), *sums[2:], splat(0)]
    return sums[:5]


def _carried(build: Any, value: Limbs) -> Limbs:
    value = list(value)
    for k in range(4):
        value[k + 1] = build.add(value[k + 1], build.lshr(value[k], splat(BITS)))
        value[k] = build.and_(value[k], splat(_MASK))
    return value


def _fold(load: Loader) -> Any:
    @intrinsic
    def fold(
        _typing: Any,
        _factor: Any,
        _of: Any,
        _apart: Any,
        _plain: Any,
        _times: Any,
        _out: Any,
        _far: Any,
        _to: Any,
    ) -> Any:
        """Write ``plain + factor * times`` of eight integers, given by their offsets."""

        def code(context: Any, build: Any, signature: Any, args: Any) -> Any:
            factors, of, out = (
                array_data(context, build, signature.args[k], args[k]) for k in (0, 1, 5)
            )
            parts = (build.load(build.gep(factors, [ir.Constant(I64, k)])) for k in range(5))
            factor = [broadcast(build, part) for part in parts]
            value = _multiplied(build, factor, load(build, of, args[4], args[2]))
            for k, limb in enumerate(load(build, of, args[3], args[2])):
                value[k] = build.add(value[k], limb)
            for k, limb in enumerate(_carried(build, value)):
                at = build.add(args[7], build.mul(args[6], ir.Constant(I64, k)))
                store_vector(build, out, at, limb)
            return context.get_dummy_value()

        arguments = (_factor, _of, _WORD, _WORD, _WORD, _out, _WORD, _WORD)
        return numba.types.void(*arguments), code

    return fold


def _dot(load_left: Loader, load_right: Loader, columns: int) -> Any:
    @intrinsic
    def dot(
        _typing: Any,
        _left: Any,
        _first: Any,
        _right: Any,
        _second: Any,
        _apart: Any,
        _blocks: Any,
        _sums: Any,
    ) -> Any:
        """Write column by column what products of ``8 * blocks`` integers add up to in each lane.

        At most 256 blocks and at least one; integers begin at the offsets first and second.
        """

        def code(context: Any, build: Any, signature: Any, args: Any) -> Any:
            left, right, out = (
                array_data(context, build, signature.args[k], args[k]) for k in (0, 2, 6)
            )
            before, loop = build.block, build.append_basic_block("products")
            after = build.append_basic_block("summed")
            build.branch(loop)
            build.position_at_end(loop)
            block = build.phi(I64)
            sums = [build.phi(VECTOR) for _ in range(columns)]
            step = build.mul(block, ir.Constant(I64, LANES))
            load_remaining = load_left(build, left, build.add(args[1], step), args[4])
            two = load_right(build, right, build.add(args[3], step), args[4])
            added = _products(build, load_remaining, two, sums)
            following = build.add(block, ir.Constant(I64, 1))
            starts = [ir.Constant(I64, 0), *[splat(0)] * columns]
            for phi, start, end in zip([block, *sums], starts, [following, *added], strict=True):
                phi.add_incoming(start, before)
                phi.add_incoming(end, loop)
            build.cbranch(build.icmp_unsigned("<", following, args[5]), loop, after)
            build.position_at_end(after)
            for k, vector in enumerate(added):
                store_vector(build, out, ir.Constant(I64, LANES * k), vector)
            return context.get_dummy_value()

        arguments = (_left, _WORD, _right, _WORD, _WORD, _WORD, _sums)
        return numba.types.void(*arguments), code

    return dot


PAIR_COLUMNS: Final = 4
LONG_COLUMNS: Final = 10
fold_short = _fold(_short)
fold_pair = _fold(_pair)
fold_long = _fold(_long)
dot_positive = _dot(_pair, _positive, PAIR_COLUMNS)
dot_negative = _dot(_pair, _negative, PAIR_COLUMNS)
dot_long = _dot(_long, _long, LONG_COLUMNS)
