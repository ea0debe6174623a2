"""Fixed point: the I16F16 grid on which every vector travels and every defence computes.

A coordinate is an ``int32`` ``v`` that means ``v * 2**(scale - 16)``; with ``scale = 0`` this is
Q16.16 (range about ±32768, step 2**-16). Integers make masks and noise exact and every node's
aggregate bit-identical.
"""

from __future__ import annotations

import math
from typing import Final

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
    real: NDArray[np.float64] = raw.astype(np.float64)
    if not np.isfinite(real).all():
        first = int(np.flatnonzero(~np.isfinite(real))[0])
        raise ValueRefusedError.of(
            "QRES-E501",
            f"values[{first}]",
            f"{real[first]} is not finite",
            "the local training diverged; lower its learning rate",
        )
    with np.errstate(over="ignore", under="ignore"):
        grid = np.rint(np.ldexp(real, FRACTION_BITS - scale))
    outside = np.abs(grid) > LIMIT
    vector = np.clip(grid, -LIMIT, LIMIT).astype(np.int32)
    vector.flags.writeable = False
    return Encoded(vector, int(np.count_nonzero(outside)), _rounding(real, vector))


def _rounding(real: NDArray[np.float64], vector: Vector) -> Rounding:
    moved = real != 0.0
    count = int(np.count_nonzero(moved))
    vanished = count - int(np.count_nonzero(vector))
    if 2 * vanished <= count:
        return Rounding(moved=count, vanished=vanished)
    middling = float(np.median(np.abs(real[moved])))
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
    return np.ldexp(vector.astype(np.float64), scale - FRACTION_BITS)


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
    total = left.astype(np.int64) + right
    held = np.clip(total, -LIMIT, LIMIT)
    result = held.astype(np.int32)
    result.flags.writeable = False
    return Encoded(result, int(np.count_nonzero(held != total)))


def difference(after: Vector, before: Vector) -> Vector:
    """``after - before`` on the grid, held within ``±LIMIT``.

    ``after``, ``before``: int32, shape ``(d,)``. Returns int32, shape ``(d,)``, read-only.
    """
    held: Vector = np.clip(after.astype(np.int64) - before, -LIMIT, LIMIT).astype(np.int32)
    held.flags.writeable = False
    return held
