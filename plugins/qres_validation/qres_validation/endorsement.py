"""A node's vote for what a proposed set would make of the model."""

from __future__ import annotations

import math

from qres_core import ACCEPT, HeldOut, Vector, Verdict, reject


def highest(loss: float, tolerance: float) -> float:
    """The highest loss that is not too much beside the present one.

    ``tolerance``: share of the size of the present loss. A loss may be below 0: so is that of a
    density where it is above 1.

    Example:
        >>> highest(2.0, 0.5), highest(-2.0, 0.5)
        (3.0, -1.0)
    """
    return loss + tolerance * abs(loss)


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
