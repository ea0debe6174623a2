"""The geometric median as an aggregation rule for QRES."""

from __future__ import annotations

import math

import attrs
import numpy as np
from numpy.typing import NDArray
from qres_core import (
    Claims,
    Needs,
    Updates,
    ValueRefusedError,
    Vector,
    Visibility,
    hookimpl,
    options,
)

__all__ = ["Geomedian", "weiszfeld"]


def distance(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """Euclidean distance; ``fsum`` rounds once, so that every machine gets the same bits."""
    return math.sqrt(math.fsum(np.square(left - right).tolist()))


def weiszfeld(
    points: NDArray[np.float64], *, iterations: int, smoothing: float
) -> NDArray[np.float64]:
    """The point whose summed distance to ``points`` is least, nearly.

    The smoothed Weiszfeld algorithm (Weiszfeld 1937; Pillutla, Kakade and Harchaoui 2022), started
    at the coordinate-wise median: a mean in which every point weighs the inverse of its distance
    from the last guess, again and again.

    Args:
        points: float64, shape ``(n, d)``.
        iterations: steps.
        smoothing: distances below this count as this, so that nothing is divided by zero.

    Returns:
        float64, shape ``(d,)``.

    Complexity: O(iterations n d).
    """
    centre: NDArray[np.float64] = np.median(points, axis=0)
    for _step in range(iterations):
        weights = [1.0 / max(smoothing, distance(point, centre)) for point in points]
        total = np.zeros_like(centre)
        for weight, point in zip(weights, points, strict=True):  # a fixed order of additions
            total += weight * point
        centre = total / math.fsum(weights)
    return centre


@attrs.frozen(kw_only=True)
class Geomedian:
    """Geometric median.

    Attributes:
        f: liars among the updates to withstand.
        iterations: steps of the Weiszfeld algorithm.
        smoothing: in grid steps.
    """

    f: int = attrs.field(**options.liars("2 f + 1 updates"))
    iterations: int = attrs.field(default=32, validator=options.whole(1))
    smoothing: float = attrs.field(
        default=1.0, validator=options.real(1e-6, 1e6, unit="grid steps")
    )

    @property
    def claims(self) -> Claims:
        """It withstands ``f`` liars if it sees single updates, most of them honest."""
        needs = Needs(visibility=Visibility.INDIVIDUAL, min_updates=2 * self.f + 1)
        return Claims(tolerates=self.f, needs=needs)

    @hookimpl
    def aggregate(self, updates: Updates) -> Vector:
        """The geometric median. Weights are claims, so they do not count.

        Raises QRES-E505 for fewer than ``2 f + 1`` updates.
        """
        fewest = self.claims.needs.min_updates
        if len(updates) < fewest:
            what = f"{len(updates)} came, {fewest} are needed"
            raise ValueRefusedError.of("QRES-E505", "updates", what)
        centre = weiszfeld(
            updates.vectors.astype(np.float64),
            iterations=self.iterations,
            smoothing=self.smoothing,
        )
        return np.rint(centre).astype(np.int32)
