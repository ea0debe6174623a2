"""Weights that bring a mean of updates as near as possible to a trusted one."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

ITERATIONS: Final = 1000
ENOUGH: Final = 1e-13
"""A step that lessens the squared distance by a smaller part of it is not worth taking."""
_BLOCK: Final = 8208  # columns at a time; not a power of two, so rows do not share cache sets


def mixing_weights(
    rows: NDArray[np.generic], reference: NDArray[np.generic], most: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Find weights ``w`` on a capped simplex for which ``|sum w[i] x[i] - r|`` is least.

    The simplex is ``sum w = 1`` and ``0 <= w[i] <= most[i]``. The problem is convex. It is solved
    by exact line searches that move weight from one row to another, each time between the two rows
    for which that saves most (the step of SMO, Platt 1998), and by Newton's step on the rows that
    are at no bound.

    Args:
        rows: real, shape ``(n, d)``.
        reference: real, shape ``(d,)``.
        most: float64, shape ``(n,)``, positive; they sum to 1 or more.

    Returns:
        float64, shape ``(n,)``.

    Complexity: O(n**2 d) for the products, O(n**3) for each of at most 1000 steps, mostly n / 2.
    """
    n = len(rows)
    gram = _products(rows, reference)
    squares = gram.diagonal()
    curvature = squares[:, None] + squares[None, :] - 2.0 * gram
    weights: NDArray[np.float64] = most / most.sum()
    for _step in range(ITERATIONS):
        # Afresh each time: a long row would otherwise leave its rounding errors behind.
        slope = gram @ weights
        missed = float(weights @ slope)
        # Of moving weight from row j to row i: the gain per unit, how much pays, what it saves.
        gain = np.maximum(slope[None, :] - slope[:, None], 0.0)
        room = np.minimum((most - weights)[:, None], weights[None, :])
        best = np.divide(gain, curvature, out=room.copy(), where=curvature > 0.0)
        moved = np.minimum(best, room)
        saved = moved * (2.0 * gain - moved * curvature)
        up, down = divmod(int(np.argmax(saved)), n)
        # The measure is what is missed, not the size of the rows: that is for liars to choose.
        if not saved[up, down] > ENOUGH * missed:
            break
        step = float(moved[up, down])
        weights[up] = most[up] if step == most[up] - weights[up] else weights[up] + step
        weights[down] = 0.0 if step == weights[down] else weights[down] - step
        weights = _leapt(gram, weights, most)
    return weights


def _leapt(
    gram: NDArray[np.float64], weights: NDArray[np.float64], most: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Go towards the best weights of the rows that are at no bound, as far as the bounds allow.

    Moves between two rows alone creep where rows are nearly opposite, which liars may see to.
    """
    free = np.flatnonzero((weights > 0.0) & (weights < most))
    if free.size < 2:
        return weights
    slope = gram @ weights
    # Newton's step for a quadratic with the sum of weights kept: zero slope but for a constant.
    system = np.ones((free.size + 1, free.size + 1))
    system[:-1, :-1] = gram[np.ix_(free, free)]
    system[-1, -1] = 0.0
    scale = max(1.0, float(np.abs(system).max()))
    system[:-1, -1] = system[-1, :-1] = scale
    wanted = np.append(-slope[free], 0.0)
    direction = np.linalg.lstsq(system, wanted, rcond=None)[0][:-1]
    direction -= direction.mean()
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):  # room without end
        room = np.where(direction > 0.0, (most - weights)[free], weights[free]) / np.abs(direction)
    length = min(1.0, float(np.nanmin(np.where(direction == 0.0, np.inf, room))))
    leapt = weights.copy()
    leapt[free] += length * direction
    if length < 1.0:
        at = free[int(np.nanargmin(np.where(direction == 0.0, np.inf, room)))]
        leapt[at] = 0.0 if leapt[at] < most[at] / 2 else most[at]
    np.clip(leapt, 0.0, most, out=leapt)
    return leapt if leapt @ gram @ leapt <= weights @ slope else weights


def _products(rows: NDArray[np.generic], reference: NDArray[np.generic]) -> NDArray[np.float64]:
    """All products of two rows as seen from the reference, without a copy of the rows."""
    n, d = rows.shape
    gram = np.zeros((n, n))
    for start in range(0, d, _BLOCK):
        block = rows[:, start : start + _BLOCK].astype(np.float64)
        block -= reference[start : start + _BLOCK].astype(np.float64)
        gram += block @ block.T
    return gram


def whole_parts(weights: NDArray[np.float64], total: int, limits: list[int]) -> list[int]:
    """Integers that sum to ``total`` and are nearest to so many parts of it.

    ``weights``: float64, shape ``(n,)``, with the sum 1; ``limits``: of each integer the greatest,
    they sum to ``total`` or more. Those whose fractions are greatest are rounded up. O(n log n).
    """
    wanted = [
        min(max(0.0, float(weight) * total), float(limit))
        for weight, limit in zip(weights, limits, strict=True)
    ]
    parts = [int(value) for value in wanted]
    order = sorted(range(len(parts)), key=lambda i: (parts[i] - wanted[i], i))
    missing = total - sum(parts)
    while missing:
        for i in order:
            step = 1 if missing > 0 and parts[i] < limits[i] else 0
            step = -1 if missing < 0 and parts[i] > 0 else step
            parts[i] += step
            missing -= step
    return parts
