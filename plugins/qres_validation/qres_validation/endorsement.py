"""A node's vote for what a proposed set would make of the model."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from qres_core import ACCEPT, Vector, Verdict, reject
from qres_core.training import HeldOut
from qres_validation.promise import exact_square


def highest(loss: float, tolerance: float) -> float:
    """The highest loss that is not too much beside the present one.

    ``tolerance``: share of the size of the present loss. A loss may be below 0: so is that of a
    density where it is above 1.

    Example:
        >>> highest(2.0, 0.5), highest(-2.0, 0.5)
        (3.0, -1.0)
    """
    return loss + tolerance * abs(loss)


def too_far(merged: Vector, reference: Vector, most: float) -> bool:
    """True if an update is farther from a reference than so many lengths of the reference.

    Exact: ``|F - u|**2 > most**2 |u|**2`` in integers. A reference that is no longer than a step of
    the grid in each coordinate, ``|u|**2 <= d``, is what rounding left of it: nothing is too far
    from that.

    Args:
        merged: ``F``, int32, shape ``(d,)``.
        reference: ``u``, int32, shape ``(d,)``.
        most: above 0.

    Complexity: O(d).

    Example:
        >>> u = np.array([30, 40], dtype=np.int32)
        >>> too_far(-u // 4, u, 1.25), too_far(-u, u, 1.25)
        (False, True)
    """
    length = exact_square(reference.astype(np.int64))
    away = exact_square(merged.astype(np.int64) - reference)
    return length > reference.size and away > Fraction(most) ** 2 * length


def vote(merged: Vector, held_out: HeldOut, tolerance: float) -> Verdict:
    """Accept what does not raise the node's held-out loss beyond the tolerance.

    Args:
        merged: the merged update, int32, shape ``(d,)``.
        held_out: the node's own examples.
        tolerance: share of the size of the present loss by which it may rise.

    Returns:
        the vote. A loss that is not finite is never accepted.

    Complexity: two evaluations of a model.
    """
    if -math.inf < held_out.loss_with(merged) <= highest(held_out.loss(), tolerance) < math.inf:
        return ACCEPT
    return reject("worse-on-held-out-examples")
