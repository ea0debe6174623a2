"""Eight field elements at once, by AVX-512's multiplication of 52-bit words (IFMA).

A vector holds one limb of each of eight elements. Eight elements are a list of five vectors while
LLVM code is written, and 40 words where they are stored: limb ``k`` of lane ``i`` at ``8 k + i``.

Bounds, for limbs: factors must be below ``2**51 + 2**16``; a product or a square is below
``2**51 + 2**13``, as in :mod:`qres_zk.group.compiled.field`. :func:`sub` adds twice the prime, so
its subtrahend must be a product or carried; :func:`carried` takes limbs below ``2**54``.

Source: S. Gueron, V. Krasnov, "Accelerating big integer arithmetic using Intel IFMA extensions",
ARITH 2016. The upper half of a product of limbs is cut at ``2**52``, and limbs have 51 bits: it
counts twice.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import chain
from typing import Any, Final, TypeAlias

from qres_zk.group.compiled.field import I64
from qres_zk.group.compiled.jit import intrinsic, ir, numba
from qres_zk.group.reference.limbs import field_limbs

LANES: Final = 8
VECTOR: Final[Any] = ir.VectorType(I64, LANES)
INDEX: Final[Any] = ir.IntType(32)
TOGETHER: Final = 2
"""Elements that are squared in turns: one alone waits for its own products."""
Element: TypeAlias = list[Any]
"""Five LLVM values."""

_types: Any = numba.types
_BITS: Final = 51
_MASK: Final = 2**_BITS - 1
_TWO_P: Final = [2 * (2**51 - 19)] + 4 * [2 * (2**51 - 1)]
_STEPS: Final = [ir.Constant(I64, 5 * LANES * k) for k in range(TOGETHER)]
_NEEDED: Final = ("+avx512f", "+avx512dq", "+avx512ifma")


@cache
def available() -> bool:
    """True if numba compiles for a processor that has the instructions."""
    target = numba.core.registry.cpu_target.target_context.codegen()
    features = str(target.magic_tuple()[2]).split(",")
    return all(feature in features for feature in _NEEDED)


def splat(value: int) -> Any:
    """The same word in all lanes."""
    return ir.Constant(VECTOR, [value] * LANES)


def broadcast(build: Any, word: Any) -> Any:
    """The same word in all lanes, of one that is not known before."""
    nothing = ir.Constant(VECTOR, ir.Undefined)
    insert_element = build.insert_element(nothing, word, ir.Constant(INDEX, 0))
    return build.shuffle_vector(insert_element, nothing, shuffle([0] * LANES))


def shuffle(places: list[int]) -> Any:
    """Words of two vectors to take."""
    return ir.Constant(ir.VectorType(INDEX, LANES), places)


def constant(value: int) -> Element:
    """The same field element in all lanes."""
    return [splat(limb) for limb in field_limbs(value)]


def multiplier(build: Any, half: str) -> Any:
    """Instruction that adds the lower (``l``) or higher (``h``) 52 bits of a product to a word."""
    name = f"llvm.x86.avx512.vpmadd52{half}.uq.512"
    kind = ir.FunctionType(VECTOR, [VECTOR] * 3)
    return numba.core.cgutils.get_or_insert_function(build.module, kind, name)


def _reduced(build: Any, low: list[Any], high: list[Any]) -> Element:
    """Columns 0..8 of lower and 1..9 of upper halves, below ``2**54.4`` and ``2**52.4``."""
    zero = splat(0)
    columns = [
        build.add(item, build.add(two, two))
        for item, two in zip([*low, zero], [zero, *high], strict=True)
    ]
    nineteen = splat(19)
    folded = [build.add(columns[k], build.mul(columns[k + 5], nineteen)) for k in range(5)]
    return carried(build, folded)


def carried(build: Any, value: Element) -> Element:
    """Limbs of 51 bits and a little, each carry moved one limb up."""
    carries = [build.lshr(limb, splat(_BITS)) for limb in value]
    rests = [build.and_(limb, splat(_MASK)) for limb in value]
    carries = [build.mul(carries[4], splat(19)), *carries[:4]]
    return [build.add(rest, carry) for rest, carry in zip(rests, carries, strict=True)]


def mul(build: Any, left: Element, right: Element) -> Element:
    """The product."""
    lower, upper = multiplier(build, "l"), multiplier(build, "h")
    low, high = [splat(0)] * 9, [splat(0)] * 9
    for i in range(5):
        for j in range(5):
            low[i + j] = build.call(lower, [low[i + j], left[i], right[j]])
            high[i + j] = build.call(upper, [high[i + j], left[i], right[j]])
    return _reduced(build, low, high)


def square(build: Any, value: Element) -> Element:
    """The square; what is not on the diagonal is added up once and doubled."""
    halves: list[list[Any]] = []
    for half in "lh":
        times = multiplier(build, half)
        columns = [splat(0)] * 9
        for i in range(5):
            for j in range(i + 1, 5):
                columns[i + j] = build.call(times, [columns[i + j], value[i], value[j]])
        columns = [build.add(column, column) for column in columns]
        for i in range(5):
            columns[2 * i] = build.call(times, [columns[2 * i], value[i], value[i]])
        halves.append(columns)
    return _reduced(build, *halves)


def add(build: Any, left: Element, right: Element) -> Element:
    """The sum, carried."""
    return carried(build, [build.add(a, b) for a, b in zip(left, right, strict=True)])


def sub(build: Any, left: Element, right: Element) -> Element:
    """The difference, carried."""
    triples = zip(left, right, _TWO_P, strict=True)
    return carried(build, [build.sub(build.add(a, splat(p)), b) for a, b, p in triples])


def select(build: Any, mask: Any, chosen: Element, other: Element) -> Element:
    """``chosen`` in lanes where the mask is set, ``other`` in the rest."""
    return [build.select(mask, a, b) for a, b in zip(chosen, other, strict=True)]


def load_vector(build: Any, data: Any, offset: Any) -> Any:
    """Read eight words of an array."""
    at = build.bitcast(build.gep(data, [offset]), VECTOR.as_pointer())
    return build.load(at, align=8)


def store_vector(build: Any, data: Any, offset: Any, vector: Any) -> None:
    """Write eight words of an array."""
    at = build.bitcast(build.gep(data, [offset]), VECTOR.as_pointer())
    build.store(vector, at, align=8)


def load(build: Any, data: Any, offset: Any) -> Element:
    """Read 40 words."""
    steps = [ir.Constant(I64, LANES * k) for k in range(5)]
    return [load_vector(build, data, build.add(offset, step)) for step in steps]


def store(build: Any, data: Any, offset: Any, value: Element) -> None:
    """Write 40 words."""
    for k, limb in enumerate(value):
        store_vector(build, data, build.add(offset, ir.Constant(I64, LANES * k)), limb)


def array_data(context: Any, build: Any, kind: Any, array: Any) -> Any:
    """Place at which an array's words begin."""
    return context.make_array(kind)(context, build, array).data


def _on_arrays(operation: Callable[[Any, Element, Element], Element]) -> Any:
    @intrinsic
    def run(_typing: Any, _array: Any, _to: Any, _left: Any, _right: Any) -> Any:
        """Combine ``TOGETHER`` elements of a flat array, one after the other, into others."""

        def code(context: Any, build: Any, signature: Any, args: Any) -> Any:
            data = array_data(context, build, signature.args[0], args[0])
            for step in _STEPS:
                to, left, right = (build.add(argument, step) for argument in args[1:])
                found = operation(build, load(build, data, left), load(build, data, right))
                store(build, data, to, found)
            return context.get_dummy_value()

        return _types.void(_array, _types.uint64, _types.uint64, _types.uint64), code

    return run


mul_at = _on_arrays(mul)
add_at = _on_arrays(add)
sub_at = _on_arrays(sub)


@intrinsic
def square_at(_typing: Any, _array: Any, _to: Any, _of: Any, _times: Any) -> Any:
    """Square as many elements of a flat array so many times, at least once, into others."""

    def code(context: Any, build: Any, signature: Any, args: Any) -> Any:
        data = array_data(context, build, signature.args[0], args[0])
        first = [load(build, data, build.add(args[2], step)) for step in _STEPS]
        before, loop = build.block, build.append_basic_block("square")
        after = build.append_basic_block("squared")
        build.branch(loop)
        build.position_at_end(loop)
        left = build.phi(I64)
        value = [[build.phi(VECTOR) for _ in value] for value in first]
        squared = [square(build, item) for item in value]
        rest = build.sub(left, ir.Constant(I64, 1))
        for phi, start, end in zip(
            [left, *chain(*value)],
            [args[3], *chain(*first)],
            [rest, *chain(*squared)],
            strict=True,
        ):
            phi.add_incoming(start, before)
            phi.add_incoming(end, loop)
        build.cbranch(build.icmp_unsigned("!=", rest, ir.Constant(I64, 0)), loop, after)
        build.position_at_end(after)
        for item, step in zip(squared, _STEPS, strict=True):
            store(build, data, build.add(args[1], step), item)
        return context.get_dummy_value()

    return _types.void(_array, _types.uint64, _types.uint64, _types.uint64), code
