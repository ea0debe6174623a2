"""Fixed point: the I16F16 grid on which every vector travels and every defence computes.

A coordinate is an ``int32`` ``v`` that means ``v * 2**(scale - 16)``; with ``scale = 0`` this is
Q16.16 (range about ±32768, step 2**-16). Integers make masks and noise exact and every node's
aggregate bit-identical.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qres_core.contract.errors import ValueRefusedError
from qres_core.contract.types import Encoded as Encoded  # noqa: PLC0414 - a public name
from qres_core.contract.types import Rounding, Vector

FRACTION_BITS: Final = 16
LIMIT: Final = 2**31 - 1
"""Largest magnitude on the grid. Symmetric: negating a vector never overflows."""
MAX_SCALE: Final = 32
_KEPT_BITS: Final = 4
"""Of a middling value, on a grid that is proposed for it."""
_BLOCK: Final = 2**18
"""Coordinates that are computed at once. What lies between is float64 or int64, and would take
several times the memory of what comes out."""


def check_scale(scale: int) -> int:
    """Return ``scale`` if it is an integer in -32..32.

    Raises:
        ValueRefusedError: QRES-E504.
    """
    if type(scale) is not int or not -MAX_SCALE <= scale <= MAX_SCALE:
        raise ValueRefusedError.of("QRES-E504", "scale", f"{scale!r} is not in -32..32")
    return scale


def encode(values: ArrayLike, *, scale: int = 0) -> Encoded:
    """Round real values to the grid, half to even.

    Args:
        values: real, shape ``(d,)``; float64 or anything that converts to it exactly.
        scale: power-of-two exponent; a step is ``2**(scale - 16)``.

    Returns:
        the vector and the number of saturated coordinates.

    Raises:
        ValueRefusedError: QRES-E501 for NaN or an infinity, QRES-E502 for another shape,
            QRES-E503 for values that are not real numbers of at most 64 bits, QRES-E504 for the
            scale.

    Complexity: O(d).

    Example:
        >>> encode([1.0, -0.5]).vector.tolist()
        [65536, -32768]
        >>> encode([40000.0]).saturated
        1
    """
    check_scale(scale)
    try:
        raw = np.asarray(values)
    except ValueError as error:
        raise ValueRefusedError.of("QRES-E502", "values", f"not an array: {error}") from error
    # A longdouble would be rounded twice. A 64-bit integer is exact wherever it does not saturate.
    if raw.dtype.kind not in "fiu" or raw.dtype.itemsize > np.dtype(np.float64).itemsize:
        raise ValueRefusedError.of("QRES-E503", "values", f"{raw.dtype} is not a real number")
    if raw.ndim != 1 or raw.size == 0:
        raise ValueRefusedError.of("QRES-E502", "values", f"expected shape (d,), got {raw.shape}")
    vector = np.empty(raw.size, dtype=np.int32)
    outside = moved = 0
    for block in _blocks(raw.size):
        real: NDArray[np.float64] = raw[block].astype(np.float64)
        finite = np.isfinite(real)
        if not finite.all():
            first = int(np.flatnonzero(~finite)[0])
            raise ValueRefusedError.of(
                "QRES-E501",
                f"values[{block.start + first}]",
                f"{real[first]} is not finite",
                "the local training diverged; lower its learning rate",
            )
        moved += int(np.count_nonzero(real))
        with np.errstate(over="ignore", under="ignore"):
            grid = np.rint(np.ldexp(real, FRACTION_BITS - scale))
        outside += int(np.count_nonzero(np.abs(grid) > LIMIT))
        vector[block] = np.clip(grid, -LIMIT, LIMIT)
    vector.flags.writeable = False
    return Encoded(vector, outside, _rounding(raw, vector, moved))


def _blocks(size: int) -> Iterator[slice]:
    """Parts of a vector of so many coordinates, in order."""
    return (slice(start, start + _BLOCK) for start in range(0, size, _BLOCK))


def _rounding(raw: NDArray[Any], vector: Vector, count: int) -> Rounding:
    vanished = count - int(np.count_nonzero(vector))
    if 2 * vanished <= count:
        return Rounding(moved=count, vanished=vanished)
    middling = float(np.median(np.abs(raw[raw != 0].astype(np.float64))))
    _mantissa, exponent = math.frexp(middling)  # middling is 2**(exponent - 1) or more
    steps = exponent - 1 - _KEPT_BITS
    return Rounding(moved=count, vanished=vanished, scale=FRACTION_BITS + steps)


def decode(vector: Vector, *, scale: int = 0) -> NDArray[np.float64]:
    """The real values of a grid vector; exact.

    Args:
        vector: int32, shape ``(d,)``.
        scale: power-of-two exponent.

    Returns:
        float64, shape ``(d,)``.

    Raises:
        ValueRefusedError: QRES-E503, QRES-E504.

    Example:
        >>> decode(np.array([65536, -32768], dtype=np.int32)).tolist()
        [1.0, -0.5]
    """
    check_scale(scale)
    if vector.dtype != np.int32:
        raise ValueRefusedError.of("QRES-E503", "vector", f"expected int32, got {vector.dtype}")
    real = vector.astype(np.float64)
    return np.ldexp(real, scale - FRACTION_BITS, out=real)


def add_saturating(left: Vector, right: Vector) -> Encoded:
    """``left + right`` on the grid, held within ``±LIMIT`` and counted where it was held.

    Args:
        left: int32, shape ``(d,)``.
        right: int32, shape ``(d,)``.

    Returns:
        the sum and the number of coordinates that saturated.

    Raises:
        ValueRefusedError: QRES-E502 for unequal shapes, QRES-E503 for another dtype.
    """
    for name, vector in (("left", left), ("right", right)):
        if vector.dtype != np.int32:
            raise ValueRefusedError.of("QRES-E503", name, f"expected int32, got {vector.dtype}")
    if left.shape != right.shape or left.ndim != 1:
        raise ValueRefusedError.of(
            "QRES-E502", "right", f"expected shape {left.shape}, got {right.shape}"
        )
    result, saturated = np.empty(left.size, dtype=np.int32), 0
    for block in _blocks(left.size):
        total = left[block].astype(np.int64) + right[block]
        held = np.clip(total, -LIMIT, LIMIT)
        saturated += int(np.count_nonzero(held != total))
        result[block] = held
    result.flags.writeable = False
    return Encoded(result, saturated)


def difference(after: Vector, before: Vector) -> Vector:
    """``after - before`` on the grid, held within ``±LIMIT``.

    ``after``, ``before``: int32, shape ``(d,)``. Returns int32, shape ``(d,)``, read-only.
    """
    held = np.empty(after.size, dtype=np.int32)
    for block in _blocks(after.size):
        held[block] = np.clip(after[block].astype(np.int64) - before[block], -LIMIT, LIMIT)
    held.flags.writeable = False
    return held
