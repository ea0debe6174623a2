"""Noise that is correlated by encoding: nodes send ``C x``, everybody decodes the sum.

In mode distributed nobody may know the noise, so nobody can take back part of it later. Instead
each node applies the matrix ``C`` of :mod:`qres_dp.correlated.factor` to its *own* updates. In step
t it sends the row

    row_t = trunc((c_0 x_t + c_1 x_(t-1) + … + c_(b-1) x_(t-b+1)) / 2**16)

and a fresh share of white noise. Everybody takes the matrix off the mean ``y_t`` of what was sent,
with the changes ``d`` that the model had in the last ``b - 1`` steps:

    d_t = y_t - round((c_1 d_(t-1) + … + c_(b-1) d_(t-b+1)) / 2**16)

So the noise of ``d`` is that of ``C⁻¹ z``. Decoding uses what everybody knows, and costs no
privacy. What does is a row:

    |row_t| <= bound * reach / 2**16,   reach = the sum of the coefficients of the steps in the row

exactly, in integers: rounding towards zero makes no coordinate larger, and the rest is the triangle
inequality. It holds for all updates within the bound, also if they are not those sent before, or if
some are missing. So a row is charged by its reach alone. The squared reaches of a stream add up to
at most :meth:`~qres_dp.correlated.factor.Factor.squared_sensitivity`.

That is for a whole node, whose row is compared with zeros. Two rows that differ by one record are
rounded each, so that a coordinate may differ by one step more: see :func:`grain_of`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qres_core import Vector, fixed
from qres_dp.correlated.factor import ONE, Factor

_BLOCK: Final = 1 << 12
_SHIFT: Final = 16


def reach(factor: Factor, taken: Iterable[int], step: int) -> int:
    """Most that the row of a step can move for a bound of 1, in units of ``2**-16``.

    ``taken``: the steps with an update of the node, in any order; those that are not in the row do
    not count. 0 for a row of noise alone.
    """
    coefficients = factor.coefficients
    return sum(coefficients[step - item] for item in taken if 0 <= step - item < factor.band)


def grain_of(bound: int, dimension: int) -> int:
    """Further move by rounding of a row that one record is taken from, as a part of its reach.

    In each of ``d`` coordinates ``|trunc(a) - trunc(b)| <= |a - b| + 1``, so rows are up to
    ``sqrt(d)`` steps farther apart. Returns that over the bound, in units of ``2**-16``, rounded
    up; at most one, which no grid that is accepted comes near. ``bound``: of a record, in steps.
    """
    return min(ONE, -(-ONE * (math.isqrt(dimension - 1) + 1) // bound))


def longest_reach(factor: Factor, separation: int) -> int:
    """The largest reach of a row, if a node's data are in one of ``separation`` steps."""
    return sum(factor.coefficients[::separation])


def encode(
    factor: Factor, updates: Mapping[int, Vector], step: int, size: int
) -> NDArray[np.int64]:
    """The row of a step, without noise.

    Args:
        factor: the matrix.
        updates: the node's own, by step; int32, shape ``(d,)``. Those that are not in the row do
            not count.
        step: of the row.
        size: ``d``.

    Returns:
        int64, shape ``(d,)``, in steps of the grid, rounded towards zero.

    Complexity: O(band * d).
    """
    inside = [item for item in updates if 0 <= step - item < factor.band]
    if not inside:
        return np.zeros(size, dtype=np.int64)
    total = _combined(factor, [step - item for item in inside], [updates[i] for i in inside])
    # Adding 2**16 - 1 to what is negative makes the arithmetic shift round towards zero.
    total += (total >> 63) & (ONE - 1)
    total >>= _SHIFT
    return total


def decode(factor: Factor, mean: Vector, changes: Sequence[Vector]) -> Vector:
    """The change of the model that the mean of a step's rows stands for.

    Args:
        factor: the matrix.
        mean: of what was sent, int32, shape ``(d,)``.
        changes: of the model in the steps before, the newest first: ``band - 1`` of them, or fewer
            where the stream is not that old. int32, shape ``(d,)``.

    Returns:
        int32, shape ``(d,)``, the same bits on every machine.

    Complexity: O(band * d).
    """
    if not changes:
        return mean
    taken_off = _combined(factor, range(1, len(changes) + 1), changes)
    taken_off += ONE // 2
    taken_off >>= _SHIFT
    held: Vector = np.clip(mean - taken_off, -fixed.LIMIT, fixed.LIMIT).astype(np.int32)
    return held


def _combined(factor: Factor, lags: Sequence[int], vectors: Sequence[Vector]) -> NDArray[np.int64]:
    """The sum of vectors times the coefficients of their lags, int64, exact."""
    weights = np.asarray(factor.coefficients, dtype=np.float64)[list(lags)]
    total = np.empty(vectors[0].size, dtype=np.int64)
    for start in range(0, total.size, _BLOCK):
        part = slice(start, start + _BLOCK)
        block = np.stack([vector[part] for vector in vectors]).astype(np.float64)
        # Coefficients of the longest band add up to less than 2**20, and a coordinate is below
        # 2**31: float64 adds the products exactly.
        total[part] = (weights @ block).astype(np.int64)
    return total
