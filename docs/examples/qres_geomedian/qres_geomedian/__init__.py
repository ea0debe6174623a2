"""The geometric median as an aggregation rule for QRES."""

import math
from collections.abc import Sequence
from operator import mul
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray
from qres_core import Claims, Needs, Reads, Updates, Vector, Visibility, hookimpl, options

__all__ = ["Geomedian", "mean", "weiszfeld"]


def weiszfeld(products: NDArray[Any], *, iterations: int, smoothing: float) -> list[float]:
    """The shares of points in the point whose summed distance to them is least, nearly.

    The smoothed Weiszfeld algorithm (Weiszfeld 1937; Pillutla, Kakade and Harchaoui 2022): every
    point weighs the inverse of its distance from the last guess, again and again. The first guess
    is the mean of the more than half of the points that are nearest to the most central one.

    Args:
        products: inner products of every two points, shape ``(n, n)``.
        iterations: steps.
        smoothing: distances below this count as this, so that nothing is divided by zero.

    Returns:
        ``n`` numbers that sum to one.

    Complexity: O(iterations n**2).
    """
    lengths = products.diagonal()
    squares: list[list[float]] = (lengths[:, None] + lengths - 2 * products).tolist()
    away = [math.fsum(map(math.sqrt, row)) for row in squares]
    central = squares[away.index(min(away))]
    most = sorted(range(len(squares)), key=central.__getitem__)[: len(squares) // 2 + 1]
    shares = [(point in most) / len(most) for point in range(len(squares))]
    for _step in range(iterations):
        # The squared distance of a point from the guess is what it has here, less the spread.
        mixed = [math.fsum(map(mul, shares, row)) for row in squares]
        spread = math.fsum(map(mul, shares, mixed)) / 2
        pulls = [1.0 / max(smoothing, math.sqrt(max(0.0, it - spread))) for it in mixed]
        total = math.fsum(pulls)
        shares = [pull / total for pull in pulls]
    return shares


def mean(points: NDArray[Any], shares: Sequence[float]) -> NDArray[np.float64]:
    """The mean of points in some shares; each coordinate by itself, in a fixed order."""
    total = np.zeros(points.shape[1])
    for share, point in zip(shares, points, strict=True):
        total += share * point
    return total


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
        return Claims(tolerates=self.f, needs=needs, reads=Reads.PRODUCTS)

    @hookimpl
    def aggregate(self, updates: Updates) -> Vector:
        """The geometric median. Weights are claims, so they do not count."""
        shares = weiszfeld(
            updates.inner_products(), iterations=self.iterations, smoothing=self.smoothing
        )
        return np.rint(mean(updates.vectors, shares)).astype(np.int32)
