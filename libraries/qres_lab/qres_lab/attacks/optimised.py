"""Attacks that search for their strength against the very aggregation in use."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar, Final

import attrs
import numpy as np

from qres_core.attacks.context import AttackContext, Forgery, on_grid, send
from qres_core.attacks.registry import EVERYTHING, register
from qres_core.contract.types import Vector
from qres_lab.attacks.moments import Real, deviation, mean
from qres_lab.attacks.statistical import FallOfEmpires, InnerProduct, supporters_quantile

HALVINGS: Final = 4
"""How often the search narrows down around the best strength: to a factor of 2 ** (1 / 16)."""


def harm_of(context: AttackContext) -> Callable[[Vector], float]:
    """Harm of a merged update: the loss after it, or how far it turns the honest mean back."""
    centre = mean(context.crowd)

    def harm(merged: Vector) -> float:
        loss = context.loss(merged)
        if loss is None:
            return -float(merged.astype(np.float64) @ centre)
        return math.inf if math.isnan(loss) else loss

    return harm


def worst_row(
    context: AttackContext,
    row_of: Callable[[float], Real],
    harm: Callable[[Vector], float],
    strengths: Sequence[float],
) -> Vector:
    """The row that does the most harm if all attackers send it.

    Every one of ``strengths`` is tried, then the best is refined by factors: its square root of 2
    up and down, the fourth root, and so on. Strengths that the aggregation refuses do no harm.

    Args:
        context: the round; its probe is asked at most ``len(strengths) + 2 * HALVINGS`` times.
        row_of: the row of a strength, float64, shape ``(d,)``.
        harm: how bad a merged update is.
        strengths: where to look, not 0; among equally harmful ones the first wins.

    Returns:
        int32, shape ``(d,)``; that of the first strength if all are refused.
    """

    def tried(strength: float) -> tuple[float, Vector]:
        row = on_grid(row_of(strength))
        merged = context.probe(np.tile(row, (context.attackers, 1)))
        return (-math.inf if merged is None else harm(merged)), row

    best = strengths[0]
    most, worst = tried(best)
    for strength in strengths[1:]:
        damage, row = tried(strength)
        if damage > most:
            best, most, worst = strength, damage, row
    factor = math.sqrt(2.0)
    for _ in range(HALVINGS):
        for strength in (best * factor, best / factor):
            damage, row = tried(strength)
            if damage > most:
                best, most, worst = strength, damage, row
        factor = math.sqrt(factor)
    return worst


@register(
    "optimised_ipm",
    summary="ipm in the strength that turns the merged update back the most",
    knowledge=EVERYTHING,
)
@attrs.frozen
class OptimisedInnerProduct:
    """``-s`` times the honest mean, with the ``s`` that makes ``-<merged, mean>`` largest.

    ``s`` is searched for from 1/16 to 256, the fixed strengths of ``ipm`` and ``foe`` included.

    Reference:
        C. Xie, O. Koyejo, I. Gupta, Fall of Empires, UAI 2019, section 4: the harm is the inner
        product that the paper is about, and the strength its free parameter.
    """

    probes: ClassVar[bool] = True
    fixed: ClassVar[tuple[float, ...]] = (InnerProduct().strength, FallOfEmpires().strength)

    def forge(self, context: AttackContext) -> tuple[Forgery, ...]:
        """Find out what the swarm would let through, and send the worst of it."""

        def plan() -> Vector:
            centre = mean(context.crowd)

            def harm(merged: Vector) -> float:
                return -float(merged.astype(np.float64) @ centre)

            strengths = [*self.fixed, *(2.0**power for power in range(-4, 9))]
            return worst_row(context, lambda strength: -strength * centre, harm, strengths)

        return send(context, context.agreed(plan))


@register(
    "optimised_alie",
    summary="alie in the strength and sign that move the merged update the most",
    knowledge=EVERYTHING,
)
@attrs.frozen
class OptimisedLittleIsEnough:
    """``mean - z * deviation``, with the ``z`` that moves the merged update farthest off the mean.

    ``z`` is searched for from 1/16 to 16 and with both signs, the ``z`` of ``alie`` included.

    Reference:
        G. Baruch, M. Baruch, Y. Goldberg, A Little Is Enough, NeurIPS 2019; the search as in
        V. Shejwalkar, A. Houmansadr, Manipulating the Byzantine, NDSS 2021, section IV-C (the rule
        is known to the attacker).
    """

    probes: ClassVar[bool] = True

    def forge(self, context: AttackContext) -> tuple[Forgery, ...]:
        """Find out what the swarm would let through, and send the worst of it."""

        def plan() -> Vector:
            rows = context.crowd
            centre = mean(rows)
            spread = deviation(rows, centre)

            def harm(merged: Vector) -> float:
                off = merged - centre
                return float(off @ off)

            fixed = supporters_quantile(len(context.honest), context.attackers)
            strengths = [sign * 2.0**power for power in range(-4, 5) for sign in (1.0, -1.0)]
            if fixed:
                strengths.insert(0, fixed)
            return worst_row(context, lambda z: centre - z * spread, harm, strengths)

        return send(context, context.agreed(plan))
