"""GF(2**255 - 19) in numba: five limbs of 51 bits in 64-bit words.

A product of two limbs has up to 128 bits, for which numba has no type. The intrinsics here write
LLVM's ``i128`` instead, which is one widening multiplication on x86-64 and two instructions on
64-bit ARM.

Bounds, for limbs: a product or a square is below ``2**51 + 2**13``, a *carried* element below
``2**51 + 2**8``. Factors must be below ``2**54``. The subtrahend of :func:`sub` must be below
``2**53 - 76``; its result is then below the minuend plus ``2**53``. Nothing reduces the result of
:func:`add` and :func:`sub`.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from qres_zk.group.compiled.jit import intrinsic, ir, numba, part
from qres_zk.group.parameters import SQRT_M1
from qres_zk.group.reference.limbs import field_limbs

_types: Any = numba.types
WORD: Final[Any] = _types.uint64
ELEMENT: Final[Any] = _types.UniTuple(WORD, 5)
I64: Final[Any] = ir.IntType(64)
I128: Final[Any] = ir.IntType(128)

_BITS: Final = 51
_MASK: Final = 2**_BITS - 1
_FOUR_P: Final = [4 * (2**51 - 19)] + 4 * [4 * (2**51 - 1)]


def constant(value: int) -> tuple[np.uint64, ...]:
    """A field element for use in kernels."""
    return tuple(np.uint64(limb) for limb in field_limbs(value))


ZERO: Final = constant(0)
ONE: Final = constant(1)
MINUS_ONE: Final = constant(-1)
ROOT: Final = constant(SQRT_M1)


def _limbs(build: Any, element: Any) -> list[Any]:
    return [build.extract_value(element, k) for k in range(5)]


def _wide(build: Any, word: Any) -> Any:
    return build.zext(word, I128)


def _carried(build: Any, sums: list[Any]) -> list[Any]:
    """Five sums of products, below 2**115, as limbs below 2**51 + 2**13."""
    mask, shift = ir.Constant(I64, _MASK), ir.Constant(I128, _BITS)
    out: list[Any] = []
    carry: Any = None
    for item in sums:
        full = item if carry is None else build.add(item, _wide(build, carry))
        out.append(build.and_(build.trunc(full, I64), mask))
        carry = build.trunc(build.lshr(full, shift), I64)
    # 19 times the last carry may not fit in 64 bits.
    back = build.mul(_wide(build, carry), ir.Constant(I128, 19))
    low = build.add(_wide(build, out[0]), back)
    out[0] = build.and_(build.trunc(low, I64), mask)
    out[1] = build.add(out[1], build.trunc(build.lshr(low, shift), I64))
    return out


@intrinsic
def mul(_typing: Any, _left: Any, _right: Any) -> Any:
    """Multiply; the code is inlined, see :func:`mul_far`."""

    def code(context: Any, build: Any, _signature: Any, args: Any) -> Any:
        left, right = _limbs(build, args[0]), _limbs(build, args[1])
        nineteen = ir.Constant(I64, 19)
        folded = [_wide(build, build.mul(limb, nineteen)) for limb in right]
        left = [_wide(build, limb) for limb in left]
        right = [_wide(build, limb) for limb in right]
        sums: list[Any] = []
        for k in range(5):
            total: Any = None
            for i in range(5):
                factor = right[k - i] if k >= i else folded[k - i + 5]
                product = build.mul(left[i], factor)
                total = product if total is None else build.add(total, product)
            sums.append(total)
        return context.make_tuple(build, ELEMENT, _carried(build, sums))

    return ELEMENT(ELEMENT, ELEMENT), code


@intrinsic
def square(_typing: Any, _value: Any) -> Any:
    """Square; the code is inlined."""

    def code(context: Any, build: Any, _signature: Any, args: Any) -> Any:
        limbs = _limbs(build, args[0])
        z = [_wide(build, limb) for limb in limbs]
        d = [_wide(build, build.shl(limb, ir.Constant(I64, 1))) for limb in limbs]
        f = [_wide(build, build.mul(limb, ir.Constant(I64, 19))) for limb in limbs]
        terms = (
            ((z[0], z[0]), (d[1], f[4]), (d[2], f[3])),
            ((d[0], z[1]), (d[2], f[4]), (z[3], f[3])),
            ((d[0], z[2]), (z[1], z[1]), (d[3], f[4])),
            ((d[0], z[3]), (d[1], z[2]), (z[4], f[4])),
            ((d[0], z[4]), (d[1], z[3]), (z[2], z[2])),
        )
        sums: list[Any] = []
        for row in terms:
            a, b, c = (build.mul(*pair) for pair in row)
            sums.append(build.add(build.add(a, b), c))
        return context.make_tuple(build, ELEMENT, _carried(build, sums))

    return ELEMENT(ELEMENT), code


@intrinsic
def add(_typing: Any, _left: Any, _right: Any) -> Any:
    """Add limb by limb."""

    def code(context: Any, build: Any, _signature: Any, args: Any) -> Any:
        pairs = zip(_limbs(build, args[0]), _limbs(build, args[1]), strict=True)
        return context.make_tuple(build, ELEMENT, [build.add(a, b) for a, b in pairs])

    return ELEMENT(ELEMENT, ELEMENT), code


@intrinsic
def sub(_typing: Any, _left: Any, _right: Any) -> Any:
    """Subtract limb by limb, four times the prime added to keep limbs positive."""

    def code(context: Any, build: Any, _signature: Any, args: Any) -> Any:
        triples = zip(_limbs(build, args[0]), _limbs(build, args[1]), _FOUR_P, strict=True)
        out = [build.sub(build.add(a, ir.Constant(I64, p)), b) for a, b, p in triples]
        return context.make_tuple(build, ELEMENT, out)

    return ELEMENT(ELEMENT, ELEMENT), code


@intrinsic
def load(_typing: Any, _array: Any, _offset: Any) -> Any:
    """Read five limbs of a flat array, unchecked."""

    def code(context: Any, build: Any, signature: Any, args: Any) -> Any:
        array = context.make_array(signature.args[0])(context, build, args[0])
        start = build.gep(array.data, [args[1]])
        out = [build.load(build.gep(start, [ir.Constant(I64, k)])) for k in range(5)]
        return context.make_tuple(build, ELEMENT, out)

    return ELEMENT(_array, WORD), code


@intrinsic
def store(_typing: Any, _array: Any, _offset: Any, _value: Any) -> Any:
    """Write five limbs of a flat array, unchecked."""

    def code(context: Any, build: Any, signature: Any, args: Any) -> Any:
        array = context.make_array(signature.args[0])(context, build, args[0])
        start = build.gep(array.data, [args[1]])
        for k, limb in enumerate(_limbs(build, args[2])):
            build.store(limb, build.gep(start, [ir.Constant(I64, k)]))
        return context.get_dummy_value()

    return _types.void(_array, WORD, ELEMENT), code


@intrinsic
def stay_out_of_line(_typing: Any) -> Any:
    """Keep LLVM from inlining the function this is called in."""

    def code(context: Any, build: Any, _signature: Any, _args: Any) -> Any:
        build.function.attributes.add("noinline")
        return context.get_dummy_value()

    return _types.void(), code


@part
def mul_far(left: Any, right: Any) -> Any:
    """Multiply by a call: kernels that are not hot compile much faster with it."""
    stay_out_of_line()
    return mul(left, right)


@part
def square_times(value: Any, times: Any) -> Any:
    """Square so many times."""
    stay_out_of_line()
    for _ in range(times):
        value = square(value)
    return value


@part
def carried(value: Any) -> Any:
    """Shorten limbs below 2**59 to 51 bits and a little."""
    mask, bits = np.uint64(_MASK), np.uint64(_BITS)
    a0, a1, a2, a3, a4 = value
    a1 += a0 >> bits
    a2 += a1 >> bits
    a3 += a2 >> bits
    a4 += a3 >> bits
    a0 = (a0 & mask) + np.uint64(19) * (a4 >> bits)
    a1 = (a1 & mask) + (a0 >> bits)
    return a0 & mask, a1, a2 & mask, a3 & mask, a4 & mask


@part
def canonical(value: Any) -> Any:
    """The limbs of the residue in ``0 .. p - 1``."""
    stay_out_of_line()
    mask, bits = np.uint64(_MASK), np.uint64(_BITS)
    a0, a1, a2, a3, a4 = carried(carried(value))
    # q = 1 if the value is p or more: then value + 19 reaches 2**255.
    q = (a0 + np.uint64(19)) >> bits
    q = (a1 + q) >> bits
    q = (a2 + q) >> bits
    q = (a3 + q) >> bits
    q = (a4 + q) >> bits
    a0 += np.uint64(19) * q
    a1 += a0 >> bits
    a2 += a1 >> bits
    a3 += a2 >> bits
    a4 += a3 >> bits
    return a0 & mask, a1 & mask, a2 & mask, a3 & mask, a4 & mask


@part
def negated(value: Any) -> Any:
    """The carried inverse of a product or carried element."""
    return carried(sub(ZERO, value))


@part
def packed(value: Any) -> Any:
    """Four words, little-endian, of the canonical residue."""
    a0, a1, a2, a3, a4 = canonical(value)
    return (
        a0 | (a1 << np.uint64(51)),
        (a1 >> np.uint64(13)) | (a2 << np.uint64(38)),
        (a2 >> np.uint64(26)) | (a3 << np.uint64(25)),
        (a3 >> np.uint64(39)) | (a4 << np.uint64(12)),
    )


@part
def unpacked(w0: Any, w1: Any, w2: Any, w3: Any) -> Any:
    """The element of the low 255 bits of four words."""
    mask = np.uint64(_MASK)
    return (
        w0 & mask,
        ((w0 >> np.uint64(51)) | (w1 << np.uint64(13))) & mask,
        ((w1 >> np.uint64(38)) | (w2 << np.uint64(26))) & mask,
        ((w2 >> np.uint64(25)) | (w3 << np.uint64(39))) & mask,
        (w3 >> np.uint64(12)) & mask,
    )


@part
def is_negative(value: Any) -> Any:
    """True where the residue is odd."""
    return (canonical(value)[0] & np.uint64(1)) != np.uint64(0)


@part
def same(left: Any, right: Any) -> Any:
    """True where two carried elements are equal."""
    a0, a1, a2, a3, a4 = canonical(sub(left, right))
    return (a0 | a1 | a2 | a3 | a4) == np.uint64(0)


@part
def absolute(value: Any) -> Any:
    """The even one of ``value`` and its inverse."""
    if is_negative(value):
        return negated(value)
    return value
