"""Clipping to an L2 ball in exact integer arithmetic, and whether there was something to clip."""

from __future__ import annotations

import attrs
from qres_arithmetic import clipped

from qres_core import Vector


@attrs.frozen(eq=False)
class Clipped:
    """A vector inside the ball."""

    vector: Vector  # int32, shape ``(d,)``; Euclidean norm at most the bound
    # whether the input's norm was larger than the bound. Private: it is a fact about the data.
    was_outside: bool


def clip(vector: Vector, bound: int) -> Clipped:
    """The vector, shrunk into the L2 ball of radius ``bound`` if it is outside.

    See :func:`qres_arithmetic.clipped`: the result is in the ball exactly, so that a sum of clipped
    vectors has the sensitivity ``bound``.

    Args:
        vector: int32, shape ``(d,)``.
        bound: radius in steps of the grid, 1 or more.

    Returns:
        the clipped vector; the input itself where it was inside.

    Raises:
        ValueRefusedError: QRES-E503 for another dtype, QRES-E506 for a bound below 1.

    Complexity: O(d).
    """
    short = clipped(vector, bound)
    return Clipped(short, was_outside=short is not vector)
