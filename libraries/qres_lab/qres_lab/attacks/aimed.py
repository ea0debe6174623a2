"""Attacks on rules that weight or judge updates by held-out examples."""

from __future__ import annotations

import math
from typing import ClassVar, Final

import attrs
import numpy as np

from qres_core.attacks.context import AttackContext, Forgery, on_grid, send
from qres_core.attacks.registry import EVERYTHING, register
from qres_core.contract.fixed import LIMIT
from qres_core.contract.types import Vector
from qres_lab.attacks.moments import Real, Rows, mean
from qres_lab.attacks.optimised import harm_of

DRAWS: Final = 12
"""Sets of rows that ``cancel`` tries in a round."""
_STEPS: Final = 6
"""How often ``drift`` halves the gap between what is refused and what is not."""


@register(
    "cancel",
    summary="huge rows that cancel each other at the exact weights alone, the worst of twelve",
    knowledge=EVERYTHING,
)
@attrs.frozen
class Cancel:
    """Pairs of rows ``h + B b`` and ``h - r B b``, up to the limit of the grid.

    Weights for which a pair cancels look as good as those of honest rows. Whoever then rounds a
    weight by ``e`` merges ``e B`` of the liars' choice. Lengths ``B`` and ratios ``r`` are drawn,
    and the rows that do the most harm are sent. Where all are refused the first are sent: they may
    keep the round from closing.
    """

    probes: ClassVar[bool] = True

    def forge(self, context: AttackContext) -> tuple[Forgery, ...]:
        """Swamp the digits that a rounded weight has not."""

        def plan() -> Rows:
            centre, harm = mean(context.crowd), harm_of(context)
            usual = max(1.0, float(np.abs(centre).max()))
            most, worst = -math.inf, np.empty((0, centre.size), dtype=np.int32)
            for draw in range(DRAWS):
                # Half of the lengths are near the limit, half anywhere above the honest ones.
                octaves = 3.0 if draw % 2 == 0 else max(3.0, math.log2(LIMIT / usual))
                size = LIMIT * 2.0 ** -(octaves * context.rng.random())
                size *= 1.0 if draw % 4 < 2 else -1.0  # how a weight is rounded nobody knows
                rows = self._rows(centre, size, 0.9 * context.rng.random(), context.attackers)
                merged = context.probe(rows)
                damage = -math.inf if merged is None else harm(merged)
                if draw == 0 or damage > most:
                    most, worst = damage, rows
            return worst

        return send(context, context.agreed(plan)[context.index])

    @staticmethod
    def _rows(centre: Real, size: float, ratio: float, attackers: int) -> Rows:
        """Of all attackers, int32, shape ``(m, d)``; without a partner the last stands alone."""
        against = np.where(centre > 0.0, -1.0, 1.0)
        lengths: list[float] = []
        for pair in range(attackers // 2):
            # No two pairs alike, or equal weights on all of them would cancel too.
            left = ratio * (1.0 + 0.37 * pair) % 0.9
            lengths += [size, -(1.0 - left) * size]
        if attackers % 2:
            lengths.append(0.5 * size)
        return np.stack([on_grid(centre + length * against) for length in lengths])


def largest_share(context: AttackContext) -> float:
    """The largest share that the attackers can have of a mean with capped weights."""
    info = context.round_info
    least = max(1, info.quorum, len(info.roster) - info.byzantine)
    return min(1.0, context.attackers / least)


@register(
    "mirror",
    summary="the row that turns the mean into training on the proposer's held-out examples alone",
    knowledge=EVERYTHING,
)
@attrs.frozen
class Mirror:
    """``(u - (1 - s) h) / s``, so that a mean with a share ``s`` of liars is ``u``.

    ``h`` is the honest mean and ``u`` what the held-out examples alone would give: to a rule that
    looks for the mean nearest to ``u`` nothing looks better, and what the honest nodes know is
    lost. ``s`` is the largest share that liars can have: with ``m`` of them ``m / max(quorum,
    n - f)``. Where nobody holds examples out ``u`` is 0, and the mean stands still.
    """

    def forge(self, context: AttackContext) -> tuple[Forgery, ...]:
        """Give the proposer just what it looks for."""

        def plan() -> Real:
            honest, share = mean(context.crowd), largest_share(context)
            made = context.reference()
            aim = np.zeros_like(honest) if made is None else made.astype(np.float64)
            return (aim - (1.0 - share) * honest) / share

        return send(context, context.agreed(plan))


@register(
    "drift",
    summary="the longest way against the honest mean that the vote just lets pass",
    knowledge=EVERYTHING,
)
@attrs.frozen
class Drift:
    """``h - s h`` with ``s`` at the edge of what is refused, in every round anew.

    A vote that lets the loss rise by a share of it in one round lets it rise without end in many.
    ``s`` is doubled from 1/4 to 1024. Then the gap between the greatest that passes and what is
    refused above it is halved. Of all that passes, what does the most harm is sent.
    """

    probes: ClassVar[bool] = True

    def forge(self, context: AttackContext) -> tuple[Forgery, ...]:
        """Stay below the tolerance, and use all of it."""
        return send(context, context.agreed(lambda: self._row(context)))

    @staticmethod
    def _row(context: AttackContext) -> Vector:
        centre, harm = mean(context.crowd), harm_of(context)
        passed: list[tuple[float, float, Vector]] = []  # harm, strength, row

        def passes(strength: float) -> bool:
            row = on_grid(centre - strength * centre)
            merged = context.probe(np.tile(row, (context.attackers, 1)))
            if merged is not None:
                passed.append((harm(merged), strength, row))
            return merged is not None

        tried = [2.0**power for power in range(-2, 11)]
        refused = [strength for strength in tried if not passes(strength)]
        good = max((strength for _, strength, _ in passed), default=0.0)
        bad = min((strength for strength in refused if strength > good), default=0.0)
        for _ in range(_STEPS if bad else 0):
            middle = 0.5 * (good + bad)
            good, bad = (middle, bad) if passes(middle) else (good, middle)
        worst = max(passed, key=lambda item: item[0], default=None)
        return on_grid(centre) if worst is None else worst[2]
