"""Attacks that hide in the statistics of the honest updates.

All colluders send the same row, so that they support each other.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import ClassVar

import attrs
import numpy as np

from qres_core.attacks.context import AttackContext, Forgery, on_grid, send
from qres_core.attacks.registry import HONEST_UPDATES, register
from qres_core.contract.types import Vector
from qres_lab.attacks.moments import (
    Real,
    Rows,
    Spread,
    deviation,
    mean,
    squared_distances,
)


@register("ipm", summary="the honest mean, negated and doubled", knowledge=HONEST_UPDATES)
@attrs.frozen
class InnerProduct:
    """Inner-product manipulation: ``-strength`` times the mean of the honest updates.

    A small strength stays near the honest updates and passes rules that look at distances; a large
    one overpowers rules that average.

    Reference:
        C. Xie, O. Koyejo, I. Gupta, Fall of Empires: Breaking Byzantine-tolerant SGD by Inner
        Product Manipulation, UAI 2019, section 4.
    """

    strength: float = 2.0

    def forge(self, context: AttackContext) -> tuple[Forgery, ...]:
        """Make the merged update point away from the honest one."""
        return send(context, context.agreed(lambda: -self.strength * mean(context.crowd)))


@register("foe", summary="the honest mean, negated and tenfold", knowledge=HONEST_UPDATES)
@attrs.frozen
class FallOfEmpires(InnerProduct):
    """:class:`InnerProduct` in the strength that overpowers averages."""

    strength: float = 10.0


def supporters_quantile(honest: int, attackers: int) -> float:
    """Deviations off the mean at which attackers still find the supporters they need.

    Of ``n`` nodes ``m`` attack. For a majority they need ``s = floor(n / 2 + 1) - m`` honest nodes
    farther out than themselves, and find them up to ``z`` with ``Phi(z) = (n - m - s) / (n - m)``.

    Returns:
        ``z``, at least 0; attackers in the majority are counted as if they needed one supporter.

    Reference:
        G. Baruch, M. Baruch, Y. Goldberg, A Little Is Enough, NeurIPS 2019, algorithm 3.
    """
    needed = max(1, (honest + attackers) // 2 + 1 - attackers)
    share = (honest - needed) / honest if honest else 0.0
    return NormalDist().inv_cdf(share) if share > 0.5 else 0.0


@register(
    "alie",
    summary="the honest mean, less a little of the standard deviation",
    knowledge=HONEST_UPDATES,
)
@attrs.frozen
class LittleIsEnough:
    """``mean - z * deviation`` of the honest updates, coordinate by coordinate.

    Attributes:
        strength: ``z``; left out, :func:`supporters_quantile`.

    Reference:
        G. Baruch, M. Baruch, Y. Goldberg, A Little Is Enough, NeurIPS 2019, algorithm 3.
    """

    strength: float | None = None

    def forge(self, context: AttackContext) -> tuple[Forgery, ...]:
        """Stay within the honest spread, all on one side."""

        def plan() -> Real:
            rows = context.crowd
            z = self.strength
            if z is None:
                z = supporters_quantile(len(context.honest), context.attackers)
            centre = mean(rows)
            return centre - z * deviation(rows, centre)

        return send(context, context.agreed(plan))


def perturbation(kind: str, rows: Rows, centre: Real) -> Real:
    """A direction to move off the mean (Shejwalkar and Houmansadr, NDSS 2021, section IV-B).

    ``kind``: ``"std"``: against each coordinate's deviation; ``"unit"``: against the mean;
    ``"sign"``: against the mean's signs. Returns float64, shape ``(d,)``; zero where the honest
    updates give no direction.
    """
    if kind == "std":
        return -deviation(rows, centre)
    if kind == "sign":
        return -np.sign(centre)
    size = float(np.linalg.norm(centre))
    return -centre / size if size else np.zeros_like(centre)


@attrs.frozen
class _Stealthy:
    """``mean + gamma * perturbation`` with the largest ``gamma`` that a bound on distances allows.

    The paper bisects for ``gamma``. The bound is a quadratic in it, so its root is computed; where
    rounding to the grid then breaks the bound, ``gamma`` gives way by a step or two.
    """

    direction: ClassVar[str] = "std"

    @staticmethod
    def budget(spread: Spread) -> float:
        """Sum that the bound allows."""
        raise NotImplementedError

    @staticmethod
    def spent(distances: Real) -> float:
        """Part of it that a row at these squared distances from the honest ones takes."""
        raise NotImplementedError

    @staticmethod
    def largest(spread: Spread, size: float, budget: float) -> float:
        """The largest ``gamma``, for a direction of squared norm ``size``."""
        raise NotImplementedError

    def row(self, rows: Rows) -> Vector:
        """Row to send, int32, shape ``(d,)``."""
        centre = mean(rows)
        way = perturbation(self.direction, rows, centre)
        size = float(way @ way)
        if not size:
            return on_grid(centre)
        spread = Spread.of(rows, centre, way)
        budget = self.budget(spread)
        gamma = self.largest(spread, size, budget)
        step = math.sqrt(centre.size / size) / 2.0  # how far rounding can move a row
        while gamma > 0.0:
            row = on_grid(centre + gamma * way)
            if self.spent(squared_distances(rows, row.astype(np.float64))) <= budget:
                return row
            gamma, step = gamma - step, 2.0 * step
        return on_grid(centre)

    def forge(self, context: AttackContext) -> tuple[Forgery, ...]:
        """Stay as near to the honest updates as they are to each other."""
        return send(context, context.agreed(lambda: self.row(context.crowd)))


@register(
    "min_max",
    summary="as far against the deviation as the farthest honest pair",
    knowledge=HONEST_UPDATES,
)
@attrs.frozen
class MinMax(_Stealthy):
    """No honest update is farther from the forged one than the farthest two from each other.

    Reference:
        V. Shejwalkar, A. Houmansadr, Manipulating the Byzantine, NDSS 2021, section IV-D.
    """

    @staticmethod
    def budget(spread: Spread) -> float:
        """The largest squared distance of a pair."""
        return float(spread.pairs.max())

    @staticmethod
    def spent(distances: Real) -> float:
        """The largest squared distance."""
        return float(distances.max())

    @staticmethod
    def largest(spread: Spread, size: float, budget: float) -> float:
        """The least, over the rows, of the roots of ``|mean + gamma p - x|² = budget``."""
        room = np.maximum(budget - spread.to_mean, 0.0)
        roots = (spread.along + np.sqrt(spread.along**2 + size * room)) / size
        return float(roots.min())


@register(
    "min_max_unit",
    summary="as far against the honest mean as the farthest honest pair",
    knowledge=HONEST_UPDATES,
)
@attrs.frozen
class MinMaxUnit(MinMax):
    """:class:`MinMax` along the negated mean."""

    direction: ClassVar[str] = "unit"


@register(
    "min_max_sign",
    summary="as far against the mean's signs as the farthest honest pair",
    knowledge=HONEST_UPDATES,
)
@attrs.frozen
class MinMaxSign(MinMax):
    """:class:`MinMax` along the negated signs of the mean."""

    direction: ClassVar[str] = "sign"


@register(
    "min_sum",
    summary="as far against the deviation as the loneliest honest node is from all",
    knowledge=HONEST_UPDATES,
)
@attrs.frozen
class MinSum(_Stealthy):
    """The squared distances to all honest updates sum to no more than those of any honest one.

    Reference:
        V. Shejwalkar, A. Houmansadr, Manipulating the Byzantine, NDSS 2021, section IV-D.
    """

    @staticmethod
    def budget(spread: Spread) -> float:
        """The largest sum of squared distances from one row to all."""
        return float(spread.pairs.sum(axis=1).max())

    @staticmethod
    def spent(distances: Real) -> float:
        """The sum of the squared distances."""
        return math.fsum(distances)

    @staticmethod
    def largest(spread: Spread, size: float, budget: float) -> float:
        """The root of ``sum |mean + gamma p - x|² = budget``; its linear term is 0."""
        count = len(spread.to_mean)
        return math.sqrt(max(budget - math.fsum(spread.to_mean), 0.0) / (count * size))


@register(
    "min_sum_unit",
    summary="as far against the honest mean as the loneliest honest node is from all",
    knowledge=HONEST_UPDATES,
)
@attrs.frozen
class MinSumUnit(MinSum):
    """:class:`MinSum` along the negated mean."""

    direction: ClassVar[str] = "unit"


@register(
    "min_sum_sign",
    summary="as far against the mean's signs as the loneliest honest node is from all",
    knowledge=HONEST_UPDATES,
)
@attrs.frozen
class MinSumSign(MinSum):
    """:class:`MinSum` along the negated signs of the mean."""

    direction: ClassVar[str] = "sign"
