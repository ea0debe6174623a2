"""Weights that bring a mean of updates as near as possible to a trusted one."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from qres_core import FULL_STANDING

ITERATIONS: Final = 400
_BLOCK: Final = 8208  # columns at a time; not a power of two, so rows do not share cache sets


def mixing_weights(
    rows: NDArray[np.generic], reference: NDArray[np.generic], fewest: int
) -> NDArray[np.float64]:
    """Find weights ``w`` on the capped simplex for which ``|sum w[i] x[i] - r|`` is least.

    The simplex is ``sum w = 1`` and ``0 <= w[i] <= 1 / fewest``: no sender counts more than in the
    plain mean of ``fewest``. The problem is convex. It is solved by exact line searches that move
    weight from one row to another, the pair that promises most each time (the SMO step of Platt,
    1998, with the pair of Keerthi et al., 2001).

    Args:
        rows: real, shape ``(n, d)``, ``n >= fewest``.
        reference: real, shape ``(d,)``.
        fewest: 1 or more.

    Returns:
        float64, shape ``(n,)``.

    Complexity: O(n**2 d) for the products, O(n) for each of at most 400 steps.
    """
    n, cap = len(rows), 1.0 / fewest
    gram, products = _products(rows, reference)
    weights = np.full(n, 1.0 / n)
    slope = gram @ weights - products
    enough = 1e-9 * float(np.trace(gram)) / n
    for _step in range(ITERATIONS):
        rising = np.where(weights < cap - 1e-12, slope, np.inf)
        falling = np.where(weights > 1e-12, slope, -np.inf)
        up, down = int(np.argmin(rising)), int(np.argmax(falling))
        gain = float(falling[down] - rising[up])
        if not gain > enough:
            break
        curvature = float(gram[up, up] + gram[down, down] - 2.0 * gram[up, down])
        step = min(cap - weights[up], weights[down])
        if curvature > 0:
            step = min(step, gain / curvature)
        weights[up] += step
        weights[down] -= step
        slope += step * (gram[:, up] - gram[:, down])
    return weights


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


def shares(weights: NDArray[np.float64], fewest: int) -> list[int]:
    """Weights as shares of the full weight, in units of 2**-16, rounded down.

    Args:
        weights: float64, shape ``(n,)``, each at most ``1 / fewest``.
        fewest: as above.

    Returns:
        ``n`` integers from 0 to 65536. At least ``fewest`` of them are above 0 where the weights
        sum to 1.
    """
    whole = np.floor(weights * fewest * FULL_STANDING + 1e-6).astype(np.int64)
    return [min(FULL_STANDING, max(0, int(one))) for one in whole]
