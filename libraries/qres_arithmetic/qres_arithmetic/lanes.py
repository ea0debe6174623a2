"""Short vectors of the processor as values inside numba kernels. Import only where numba is in use.

A kernel that wants several rows in registers at once cannot leave vectorisation to the compiler: it
would have to prove that no two of the rows overlap. Here a kernel loads ``LANE_BYTES`` of a row as
one value, works on it with the functions below and stores it. Each function is one or two machine
instructions, IEEE 754 without any reordering; the compiler splits what the processor cannot do in
one piece.

``Lanes`` hold the items of an array; wide lanes are the same number of float64 that each item of
``Lanes`` converts to exactly.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Final

_binding: Any = importlib.import_module("llvmlite.binding")
_extending: Any = importlib.import_module("numba.extending")
_ir: Any = importlib.import_module("llvmlite.ir")
_types: Any = importlib.import_module("numba.core.types")

LANE_BYTES: Final = 64 if _binding.get_host_cpu_features().get("avx512f") else 32
"""Bytes of a row that one value holds: a whole register where there are thirty-two of 64 bytes."""


def _intrinsic(define: Callable[..., Any]) -> Any:
    """Make a function of kernels from one that returns its types and writes its instructions."""
    return _extending.intrinsic(define)


class Lanes(_types.Type):  # type: ignore[misc]
    """The type of ``count`` numbers of type ``dtype`` in a register."""

    def __init__(self, dtype: Any, count: int) -> None:
        self.dtype = dtype
        self.count = count
        _types.Type.__init__(self, name=f"Lanes({dtype}, {count})")


@_extending.register_model(Lanes)
class _LanesModel(_extending.models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, lanes: Any) -> None:
        item = manager.lookup(lanes.dtype).get_value_type()
        _extending.models.PrimitiveModel.__init__(
            self, manager, lanes, _ir.VectorType(item, lanes.count)
        )


@_intrinsic
def lane_count(_context: Any, array: Any) -> Any:
    """Return how many items of ``array`` make up ``LANE_BYTES``."""

    def generate(_context: Any, _builder: Any, signature: Any, _arguments: Any) -> Any:
        return _ir.Constant(_ir.IntType(64), _count(signature.args[0].dtype))

    return _types.int64(array), generate


@_intrinsic
def load(_context: Any, array: Any, _at: Any) -> Any:
    """Return the items of a one-dimensional array in C order, from an index on."""
    lanes = Lanes(array.dtype, _count(array.dtype))

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _pointer(context, builder, signature, arguments)
        target = context.get_value_type(lanes).as_pointer()
        return builder.load(builder.bitcast(pointer, target), align=_item_bytes(lanes.dtype))

    return lanes(array, _types.int64), generate


@_intrinsic
def load_wide(_context: Any, array: Any, _at: Any, like: Any) -> Any:
    """Return wide lanes of a float64 array, as many as lanes of the array ``like`` are."""
    lanes = Lanes(array.dtype, _count(like.dtype))

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _pointer(context, builder, signature, arguments)
        target = context.get_value_type(lanes).as_pointer()
        return builder.load(builder.bitcast(pointer, target), align=_item_bytes(lanes.dtype))

    return lanes(array, _types.int64, like), generate


@_intrinsic
def store(_context: Any, array: Any, _at: Any, lanes: Any) -> Any:
    """Write lanes to a one-dimensional array in C order, from an index on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _pointer(context, builder, signature, arguments)
        target = arguments[2].type.as_pointer()
        align = _item_bytes(signature.args[2].dtype)
        builder.store(arguments[2], builder.bitcast(pointer, target), align=align)
        return context.get_dummy_value()

    return _types.none(array, _types.int64, lanes), generate


@_intrinsic
def prefetch(_context: Any, array: Any, _at: Any) -> Any:
    """Ask for the cache line of an index; any index is harmless."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte_pointer = _ir.IntType(8).as_pointer()
        flag = _ir.IntType(32)
        function = builder.module.declare_intrinsic(
            "llvm.prefetch",
            [byte_pointer],
            _ir.FunctionType(_ir.VoidType(), [byte_pointer, flag, flag, flag]),
        )
        pointer = builder.bitcast(_pointer(context, builder, signature, arguments), byte_pointer)
        read, level_2, data = flag(0), flag(2), flag(1)
        builder.call(function, [pointer, read, level_2, data])
        return context.get_dummy_value()

    return _types.none(array, _types.int64), generate


@_intrinsic
def nothing(_context: Any, like: Any) -> Any:
    """Return wide lanes of ``+0.0`` for lanes of the array ``like``."""
    lanes = Lanes(_types.float64, _count(like.dtype))

    def generate(context: Any, _builder: Any, _signature: Any, _arguments: Any) -> Any:
        return _ir.Constant(context.get_value_type(lanes), None)

    return lanes(like), generate


@_intrinsic
def widen(_context: Any, lanes: Any) -> Any:
    """Convert lanes to wide lanes, exactly."""
    wide = Lanes(_types.float64, lanes.count)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target = context.get_value_type(wide)
        item = signature.args[0].dtype
        if isinstance(item, _types.Integer):
            return builder.sitofp(arguments[0], target)
        return arguments[0] if item == _types.float64 else builder.fpext(arguments[0], target)

    return wide(lanes), generate


@_intrinsic
def narrow(_context: Any, wide: Any, like: Any) -> Any:
    """Round wide lanes to lanes of the array ``like``: to nearest, halves to even."""
    lanes = Lanes(like.dtype, wide.count)

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        target = context.get_value_type(lanes)
        value = arguments[0]
        if isinstance(lanes.dtype, _types.Integer):
            # `rint` rounds as the processor is set to, and Python sets it to halves to even.
            return builder.fptosi(_rounded(builder, value), target)
        return value if lanes.dtype == _types.float64 else builder.fptrunc(value, target)

    return lanes(wide, like), generate


@_intrinsic
def divide(_context: Any, wide: Any, _divisor: Any) -> Any:
    """Divide wide lanes by one float64."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        value, scalar = arguments
        vector = _ir.Constant(value.type, _ir.Undefined)
        for lane in range(value.type.count):
            vector = builder.insert_element(vector, scalar, _ir.IntType(32)(lane))
        return builder.fdiv(value, vector)

    return wide(wide, _types.float64), generate


@_intrinsic
def magnitude(_context: Any, lanes: Any) -> Any:
    """Return the absolute values of lanes; of the least int32, itself."""

    def generate(_context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value = arguments[0]
        is_float = isinstance(signature.args[0].dtype, _types.Float)
        zero = _ir.Constant(value.type, None)
        negated = _subtract(builder, is_float, zero, value)
        return builder.select(_less(builder, is_float, value, zero), negated, value)

    return lanes(lanes), generate


@_intrinsic
def greatest(_context: Any, lanes: Any) -> Any:
    """Return the greatest of the lanes."""

    def generate(_context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value = arguments[0]
        is_float = isinstance(signature.args[0].dtype, _types.Float)
        index = _ir.IntType(32)
        half = value.type.count // 2
        while half:
            order = _ir.Constant(_ir.VectorType(index, half), list(range(half)))
            upper_order = _ir.Constant(_ir.VectorType(index, half), list(range(half, 2 * half)))
            rest = builder.shuffle_vector(value, value, upper_order)
            value = _upper(builder, is_float, builder.shuffle_vector(value, value, order), rest)
            half //= 2
        return builder.extract_element(value, index(0))

    return lanes.dtype(lanes), generate


@_intrinsic
def zero_if_less(_context: Any, wide: Any, left: Any, right: Any) -> Any:
    """Return wide lanes with ``+0.0`` where ``left < right``."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        value, left, right = arguments
        zero = _ir.Constant(value.type, None)
        return builder.select(builder.fcmp_ordered("<", left, right), zero, value)

    return wide(wide, left, right), generate


@_intrinsic
def zero_unless_less(_context: Any, wide: Any, left: Any, right: Any) -> Any:
    """Return wide lanes with ``+0.0`` where not ``left < right``."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        value, left, right = arguments
        zero = _ir.Constant(value.type, None)
        return builder.select(builder.fcmp_ordered("<", left, right), value, zero)

    return wide(wide, left, right), generate


def _binary(build: Callable[[Any, bool, Any, Any], Any]) -> Any:
    """Return the kernel function that ``build(builder, is_float, left, right)`` writes."""

    def operation(_context: Any, left: Any, right: Any) -> Any:
        def generate(_context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            is_float = isinstance(signature.args[0].dtype, _types.Float)
            return build(builder, is_float, *arguments)

        return left(left, right), generate

    return _intrinsic(operation)


def _less(builder: Any, is_float: bool, left: Any, right: Any) -> Any:  # noqa: FBT001
    compare = builder.fcmp_ordered if is_float else builder.icmp_signed
    return compare("<", left, right)


def _lower(builder: Any, is_float: bool, left: Any, right: Any) -> Any:  # noqa: FBT001
    return builder.select(_less(builder, is_float, left, right), left, right)


def _upper(builder: Any, is_float: bool, left: Any, right: Any) -> Any:  # noqa: FBT001
    return builder.select(_less(builder, is_float, left, right), right, left)


def _add(builder: Any, is_float: bool, left: Any, right: Any) -> Any:  # noqa: FBT001
    return builder.fadd(left, right) if is_float else builder.add(left, right)


def _subtract(builder: Any, is_float: bool, left: Any, right: Any) -> Any:  # noqa: FBT001
    return builder.fsub(left, right) if is_float else builder.sub(left, right)


lower = _binary(_lower)
upper = _binary(_upper)
add = _binary(_add)
subtract = _binary(_subtract)


def _item_bytes(dtype: Any) -> int:
    return int(dtype.bitwidth) // 8


def _count(dtype: Any) -> int:
    return LANE_BYTES // _item_bytes(dtype)


def _pointer(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    array = context.make_array(signature.args[0])(context, builder, arguments[0])
    return builder.gep(array.data, [arguments[1]])


def _rounded(builder: Any, value: Any) -> Any:
    kind = value.type
    function = builder.module.declare_intrinsic(
        f"llvm.rint.v{kind.count}f64", (), _ir.FunctionType(kind, [kind])
    )
    return builder.call(function, [value])
