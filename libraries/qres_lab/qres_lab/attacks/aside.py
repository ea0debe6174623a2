"""Attacks that move a mean to where held-out examples do not look."""

from __future__ import annotations

from typing import ClassVar

import attrs
import numpy as np

from qres_core.attacks.context import AttackContext, Forgery, send
from qres_core.attacks.registry import EVERYTHING, register
from qres_core.contract.types import Vector
from qres_lab.attacks.aimed import largest_share
from qres_lab.attacks.data import HiddenBackdoor
from qres_lab.attacks.moments import Real, mean
from qres_lab.attacks.optimised import worst_row
from qres_lab.attacks.searched import Searched


def aim_of(context: AttackContext) -> Real:
    """Aim of the proposer's held-out examples; 0 where there are none. Shape ``(d,)``."""
    made = context.reference()
    if made is None:
        return np.zeros(context.round_info.dimension)
    return made.astype(np.float64)


def unseen(way: Real, *seen: Real) -> Real:
    """Part of a direction at right angles to others, which may depend on each other.

    Example:
        >>> unseen(np.array([1.0, 2.0, 3.0]), np.array([0.0, 0.0, 5.0])).tolist()
        [1.0, 2.0, 0.0]
    """
    left, found = way, list[Real]()
    for item in seen:
        rest = item - sum(((item @ unit) * unit for unit in found), np.zeros_like(item))
        size = float(np.linalg.norm(rest))
        if size > 1e-9 * float(np.linalg.norm(item)):
            found.append(rest / size)
            left = left - (left @ found[-1]) * found[-1]
    if np.linalg.norm(left) < 1e-6 * np.linalg.norm(way):  # rounding errors have no direction
        return np.zeros_like(left)
    return left


def row_for(context: AttackContext, centre: Real, aim: Real) -> Real:
    """The row with which a mean has the aim, if the attackers get all the weight they can."""
    share = largest_share(context)
    return (aim - (1.0 - share) * centre) / share


@register(
    "aside",
    summary="the proposer's reference, moved where its examples do not look, the worst of a dozen",
    knowledge=EVERYTHING,
)
@attrs.define(eq=False)
class Aside(Searched):
    """A mean ``u + s |h - u| w``, with ``w`` at right angles to ``u`` and to the honest mean ``h``.

    A rule that looks for the mean nearest to ``u`` prefers it to ``h`` as long as ``s`` is below 1:
    this is all that its bound allows. Directions and strengths are searched for as by
    ``searched``.
    """

    strengths: ClassVar[tuple[float, ...]] = (0.5, 0.95)

    def _reach(self, context: AttackContext, centre: Real) -> float:
        return float(np.linalg.norm(centre - aim_of(context)))

    def _turned(self, context: AttackContext, centre: Real, way: Real) -> Real:
        return unseen(way, centre, aim_of(context))

    def _row(self, context: AttackContext, centre: Real, moved: Real) -> Real:
        return row_for(context, centre, aim_of(context) + moved)


@register(
    "backdoor_aside",
    summary="the proposer's reference, moved towards a backdoor as far as the swarm lets it",
    knowledge=EVERYTHING,
)
@attrs.frozen
class BackdoorAside(HiddenBackdoor):
    """:class:`HiddenBackdoor` that gives the rule what it looks for, and a backdoor beside.

    The mean is to be ``u + s |h - u| w``. ``w`` is what training on stamped examples gives, at
    right angles to the honest mean ``h`` and to the reference ``u``. The ``s`` that moves what is
    merged farthest along ``w`` is searched for, from 1/8 to 8 times ``strength``.
    """

    probes: ClassVar[bool] = True

    def forge(self, context: AttackContext) -> tuple[Forgery, ...]:
        """Agree with the examples, and lean where they do not look."""

        def plan() -> Vector | Real:
            centre, aim = mean(context.crowd), aim_of(context)
            way = unseen(context.own.vector - centre, centre, aim)
            size = float(np.linalg.norm(way))
            if not size:
                return row_for(context, centre, aim)
            step = self.strength * float(np.linalg.norm(centre - aim)) / size * way

            def gained(merged: Vector) -> float:
                return float(merged.astype(np.float64) @ way)

            def row_of(strength: float) -> Real:
                return row_for(context, centre, aim + strength * step)

            return worst_row(context, row_of, gained, [2.0**power for power in range(-3, 4)])

        return send(context, context.agreed(plan))
