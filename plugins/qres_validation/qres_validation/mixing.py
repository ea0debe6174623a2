"""Weights that bring a mean of updates as near as possible to a trusted one."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from qres_core import FULL_STANDING

ITERATIONS: Final = 400
ENOUGH: Final = 1e-7
"""A step that lessens the squared distance by a smaller part of it is not worth taking."""
_BLOCK: Final = 8208  # columns at a time; not a power of two, so rows do not share cache sets


def mixing_weights(
    rows: NDArray[np.generic], reference: NDArray[np.generic], fewest: int
) -> NDArray[np.float64]:
    """Find weights ``w`` on the capped simplex for which ``|sum w[i] x[i] - r|`` is least.

    The simplex is ``sum w = 1`` and ``0 <= w[i] <= 1 / fewest``: no sender counts more than in the
    plain mean of ``fewest``. The problem is convex. It is solved by exact line searches that move
    weight from one row to another, each time between the two rows for which that saves most
    (the step of SMO, Platt 1998), and by Newton's step on the rows that are at no bound.

    Args:
        rows: real, shape ``(n, d)``, ``n >= fewest``.
        reference: real, shape ``(d,)``.
        fewest: 1 or more.

    Returns:
        float64, shape ``(n,)``.

    Complexity: O(n**2 d) for the products, O(n**2) for each of at most 400 steps.
    """
    n, cap = len(rows), 1.0 / fewest
    gram, products = _products(rows, reference)
    constant = float(np.sum(reference.astype(np.float64) ** 2))
    squares = gram.diagonal()
    curvature = squares[:, None] + squares[None, :] - 2.0 * gram
    weights = np.full(n, 1.0 / n)
    for _step in range(ITERATIONS):
        # Afresh each time: a liar's huge rows would otherwise leave their rounding errors behind.
        pulled = gram @ weights
        slope = pulled - products
        missed = float(weights @ pulled - 2.0 * (weights @ products)) + constant
        # Of moving weight from row j to row i: the gain per unit, how much pays, what it saves.
        gain = np.maximum(slope[None, :] - slope[:, None], 0.0)
        room = np.minimum((cap - weights)[:, None], weights[None, :])
        best = np.divide(gain, curvature, out=room.copy(), where=curvature > 0.0)
        moved = np.minimum(best, room)
        saved = moved * (2.0 * gain - moved * curvature)
        up, down = divmod(int(np.argmax(saved)), n)
        # The measure is what is missed, not the size of the rows: that is for liars to choose.
        if not saved[up, down] > ENOUGH * missed:
            break
        step = float(moved[up, down])
        weights[up] += step
        weights[down] = 0.0 if step == weights[down] else weights[down] - step
        weights = _leapt(gram, products, weights, cap)
    return weights


def _leapt(
    gram: NDArray[np.float64],
    products: NDArray[np.float64],
    weights: NDArray[np.float64],
    cap: float,
) -> NDArray[np.float64]:
    """Go towards the best weights of the rows that are at no bound, as far as the bounds allow.

    Moves between two rows alone creep where rows are nearly opposite, which liars may see to.
    """
    free = np.flatnonzero((weights > 0.0) & (weights < cap))
    if free.size < 2:
        return weights
    slope = gram @ weights - products
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
        room = np.where(direction > 0.0, cap - weights[free], weights[free]) / np.abs(direction)
    length = min(1.0, float(np.nanmin(np.where(direction == 0.0, np.inf, room))))
    leapt = weights.copy()
    leapt[free] += length * direction
    if length < 1.0:
        at = free[int(np.nanargmin(np.where(direction == 0.0, np.inf, room)))]
        leapt[at] = 0.0 if leapt[at] < cap / 2 else cap
    np.clip(leapt, 0.0, cap, out=leapt)

    def cost(array: NDArray[np.float64]) -> float:
        return float(array @ gram @ array - 2.0 * (array @ products))

    return leapt if cost(leapt) <= cost(weights) else weights


def _products(
    rows: NDArray[np.generic], reference: NDArray[np.generic]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """All products of two rows, and of each with the reference, without a copy of the rows."""
    n, d = rows.shape
    gram, products = np.zeros((n, n)), np.zeros(n)
    for start in range(0, d, _BLOCK):
        block = rows[:, start : start + _BLOCK].astype(np.float64)
        gram += block @ block.T
        products += block @ reference[start : start + _BLOCK].astype(np.float64)
    return gram, products


def shares(weights: NDArray[np.float64], claims: NDArray[np.int64], fewest: int) -> list[int]:
    """Shares of the weights that senders have, such that what is left is as was fitted.

    A sender's share is its fitted weight over the weight it has, in units of the lower median of
    these and of 2**-16. With fewer than half of the senders false that median lies among the honest
    ones' weights. Nobody's share is above 1: who has little weight cannot be given more.
    ``weights``: float64, shape ``(n,)``, as fitted, each at most ``1 / fewest``; ``claims``: int64,
    shape ``(n,)``, the weights the updates have now, each 1 or more. Returns ``n`` integers from 0
    to 65536, rounded down; at least 1 where the fitted weight is 2**-16 of the greatest possible or
    more, so that ``fewest`` are above 0 where the weights sum to 1.
    """
    usual = int(np.sort(claims)[(len(claims) - 1) // 2])
    wanted = weights * fewest * FULL_STANDING + 1e-6
    whole = np.floor(wanted * (usual / claims)).astype(np.int64)
    least = (wanted >= 1.0).astype(np.int64)
    return [int(item) for item in np.clip(whole, least, FULL_STANDING)]
