"""A node's vote for what a proposed set would make of the model."""

from __future__ import annotations

from qres_core import ACCEPT, HeldOut, Vector, Verdict, reject


def vote(merged: Vector, held_out: HeldOut, tolerance: float) -> Verdict:
    """Accept what does not raise the node's held-out loss beyond the tolerance.

    Args:
        merged: the merged update, int32, shape ``(d,)``.
        held_out: the node's own examples.
        tolerance: share of the present loss by which it may rise.

    Returns:
        the vote. A loss that is not finite is never accepted.

    Complexity: two evaluations of a model.
    """
    if held_out.loss_with(merged) <= held_out.loss() * (1.0 + tolerance) < float("inf"):
        return ACCEPT
    return reject("worse-on-held-out-examples")
