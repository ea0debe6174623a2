"""Integers modulo the group's order in numba: four 64-bit words, and LLVM's wide integers.

Factors may be in Montgomery form, ``x * 2**256``: :func:`mul` of one in that form and one that is
not gives a product that is not.

Source: P. Montgomery, "Modular multiplication without trial division", Mathematics of
Computation 44, 1985; word by word as the CIOS method of C. Koc, T. Acar, B. Kaliski, "Analyzing and
Comparing Montgomery Multiplication Algorithms", IEEE Micro 16, 1996.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from qres_zk.group.compiled.field import I64, I128, WORD
from qres_zk.group.compiled.jit import intrinsic, ir, numba
from qres_zk.group.parameters import ORDER

_types: Any = numba.types
SCALAR: Final[Any] = _types.UniTuple(WORD, 4)
WIDE: Final[Any] = _types.UniTuple(WORD, 7)
FULL: Final[Any] = _types.UniTuple(WORD, 9)
PAIR: Final[Any] = _types.UniTuple(WORD, 2)
_I256: Final[Any] = ir.IntType(256)
_I448: Final[Any] = ir.IntType(448)
_I576: Final[Any] = ir.IntType(576)

_ORDER_WORDS: Final = [ORDER >> (64 * k) & (2**64 - 1) for k in range(4)]
_NEGATED_INVERSE: Final = -pow(ORDER, -1, 2**64) % 2**64


def words(value: int) -> tuple[np.uint64, ...]:
    """A scalar for use in kernels."""
    return tuple(np.uint64(value >> (64 * k) & (2**64 - 1)) for k in range(4))


def montgomery(value: int) -> tuple[np.uint64, ...]:
    """A scalar in Montgomery form."""
    return words(value * 2**256 % ORDER)


NOTHING: Final = words(0)
R2: Final = words(2**512 % ORDER)
"""Multiplying by it removes the form that a product of two plain scalars is left in."""
R3: Final = words(2**768 % ORDER)
R4: Final = words(2**1024 % ORDER)


def _parts(build: Any, value: Any) -> list[Any]:
    return [build.extract_value(value, k) for k in range(len(value.type.elements))]


def _joined(build: Any, parts: list[Any], kind: Any) -> Any:
    total: Any = build.zext(parts[0], kind)
    for k, part in enumerate(parts[1:], start=1):
        total = build.or_(total, build.shl(build.zext(part, kind), ir.Constant(kind, 64 * k)))
    return total


def _cut(build: Any, value: Any, count: int) -> list[Any]:
    kind = value.type
    shifts = (ir.Constant(kind, 64 * k) for k in range(count))
    return [build.trunc(build.lshr(value, shift), I64) for shift in shifts]


def _reduced_once(build: Any, value: Any) -> Any:
    order = ir.Constant(_I256, ORDER)
    too_large = build.icmp_unsigned(">=", value, order)
    return build.select(too_large, build.sub(value, order), value)


@intrinsic
def mul(_typing: Any, _left: Any, _right: Any) -> Any:
    """``left * right / 2**256`` modulo the order, reduced; the product is below order * 2**256."""

    def code(context: Any, build: Any, _signature: Any, args: Any) -> Any:
        left = [build.zext(part, I128) for part in _parts(build, args[0])]
        right = [build.zext(part, I128) for part in _parts(build, args[1])]
        order = [ir.Constant(I128, part) for part in _ORDER_WORDS]
        inverse, word = ir.Constant(I64, _NEGATED_INVERSE), ir.Constant(I128, 64)

        def low(value: Any) -> Any:
            return build.zext(build.trunc(value, I64), I128)

        total = [ir.Constant(I128, 0)] * 5
        for i in range(4):
            carry: Any = ir.Constant(I128, 0)
            for j in range(4):
                item = build.add(build.add(total[j], build.mul(left[j], right[i])), carry)
                total[j], carry = low(item), build.lshr(item, word)
            total[4] = build.add(total[4], carry)
            quotient = build.zext(build.mul(build.trunc(total[0], I64), inverse), I128)
            carry = build.lshr(build.add(total[0], build.mul(quotient, order[0])), word)
            for j in range(1, 4):
                item = build.add(build.add(total[j], build.mul(quotient, order[j])), carry)
                total[j - 1], carry = low(item), build.lshr(item, word)
            item = build.add(total[4], carry)
            total[3], total[4] = low(item), build.lshr(item, word)
        value = _joined(build, [build.trunc(part, I64) for part in total[:4]], _I256)
        out = _cut(build, _reduced_once(build, value), 4)
        return context.make_tuple(build, SCALAR, out)

    return SCALAR(SCALAR, SCALAR), code


@intrinsic
def add(_typing: Any, _left: Any, _right: Any) -> Any:
    """Add reduced scalars."""

    def code(context: Any, build: Any, _signature: Any, args: Any) -> Any:
        left, right = (_joined(build, _parts(build, argument), _I256) for argument in args)
        out = _cut(build, _reduced_once(build, build.add(left, right)), 4)
        return context.make_tuple(build, SCALAR, out)

    return SCALAR(SCALAR, SCALAR), code


@intrinsic
def negated(_typing: Any, _value: Any) -> Any:
    """The inverse of a reduced scalar."""

    def code(context: Any, build: Any, _signature: Any, args: Any) -> Any:
        value = _joined(build, _parts(build, args[0]), _I256)
        zero = ir.Constant(_I256, 0)
        opposite = build.sub(ir.Constant(_I256, ORDER), value)
        is_zero = build.icmp_unsigned("==", value, zero)
        out = _cut(build, build.select(is_zero, zero, opposite), 4)
        return context.make_tuple(build, SCALAR, out)

    return SCALAR(SCALAR), code


@intrinsic
def add_pairs(_typing: Any, _low: Any, _high: Any, _other_low: Any, _other_high: Any) -> Any:
    """Add integers of two words, modulo ``2**128``."""

    def code(context: Any, build: Any, _signature: Any, args: Any) -> Any:
        left, right = _joined(build, args[:2], I128), _joined(build, args[2:], I128)
        return context.make_tuple(build, PAIR, _cut(build, build.add(left, right), 2))

    return PAIR(WORD, WORD, WORD, WORD), code


def _add_rows(build: Any, total: Any, factor: list[Any], by: list[Any], kind: Any) -> Any:
    """A sum plus the product of integers given as words, word by word of the second."""
    wide = [build.zext(part, I128) for part in factor]
    for k, word in enumerate(by):
        carry: Any = ir.Constant(I128, 0)
        parts: list[Any] = []
        for part in wide:
            item = build.add(build.mul(part, build.zext(word, I128)), carry)
            parts.append(build.trunc(item, I64))
            carry = build.lshr(item, ir.Constant(I128, 64))
        parts.append(build.trunc(carry, I64))
        product = build.shl(_joined(build, parts, kind), ir.Constant(kind, 64 * k))
        total = build.add(total, product)
    return total


@intrinsic
def add_product(_typing: Any, _total: Any, _factor: Any, _low: Any, _high: Any) -> Any:
    """Add a scalar times an integer of two words to a sum of seven words, unreduced."""

    def code(context: Any, build: Any, _signature: Any, args: Any) -> Any:
        total = _joined(build, _parts(build, args[0]), _I448)
        total = _add_rows(build, total, _parts(build, args[1]), args[2:], _I448)
        return context.make_tuple(build, WIDE, _cut(build, total, 7))

    return WIDE(WIDE, SCALAR, WORD, WORD), code


@intrinsic
def add_full_product(_typing: Any, _total: Any, _left: Any, _right: Any) -> Any:
    """Add a product of scalars to a sum of nine words, unreduced."""

    def code(context: Any, build: Any, _signature: Any, args: Any) -> Any:
        total = _joined(build, _parts(build, args[0]), _I576)
        left, right = (_parts(build, argument) for argument in args[1:])
        total = _add_rows(build, total, left, right, _I576)
        return context.make_tuple(build, FULL, _cut(build, total, 9))

    return FULL(FULL, SCALAR, SCALAR), code


@intrinsic
def add_small_product(_typing: Any, _total: Any, _low: Any, _high: Any, _by: Any) -> Any:
    """Add an integer of two words times one of one word to a sum of four words, unreduced."""

    def code(context: Any, build: Any, _signature: Any, args: Any) -> Any:
        total = _joined(build, _parts(build, args[0]), _I256)
        by = build.zext(args[3], I128)
        for k in (0, 1):
            product = build.zext(build.mul(build.zext(args[1 + k], I128), by), _I256)
            total = build.add(total, build.shl(product, ir.Constant(_I256, 64 * k)))
        return context.make_tuple(build, SCALAR, _cut(build, total, 4))

    return SCALAR(SCALAR, WORD, WORD, WORD), code
