"""The attack that searches for its direction too."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar, Final

import attrs
import numpy as np

from qres_core.attacks.context import AttackContext, Forgery, on_grid, send
from qres_core.attacks.registry import EVERYTHING, register
from qres_core.contract.types import Vector
from qres_lab.attacks.moments import Real, Rows, deviation, mean
from qres_lab.attacks.optimised import harm_of

STRENGTHS: Final = (1.0, 8.0)
"""Lengths of the honest mean that every direction is tried in."""
_FACTORS: Final = (4.0, 2.0, math.sqrt(2.0))
_TURNS: Final = 4
"""How often the best direction is turned at random."""


def _along_most(rows: Rows, centre: Real) -> Real:
    """The direction in which the honest updates differ most, by four power iterations."""
    way: Real = rows[-1] - centre
    for _ in range(4):
        size = float(np.linalg.norm(way))
        if not size:
            break
        along = np.asarray(rows @ (way / size)) - float(centre @ way) / size
        way = np.asarray(along @ rows) - float(along.sum()) * centre
    return way


@register(
    "searched",
    summary="the honest mean, moved in the worst of a dozen directions and lengths",
    knowledge=EVERYTHING,
)
@attrs.define(eq=False)
class Searched:
    """``h + s |h| w`` with the unit direction ``w`` and the length ``s`` that do the most harm.

    Tried are: against the honest mean, its signs and the model; along and against the deviation;
    along and against what the honest updates differ in most; the update of the proposer's held-out
    examples less the mean; towards and away from the farthest honest node; at random; and what was
    worst in the round before. The best is refined in length, and turned at random. Everything is
    tried on the whole composition: screening, standings and votes included.

    Reference:
        V. Shejwalkar, A. Houmansadr, Manipulating the Byzantine, NDSS 2021, section IV-C, for the
        search of a length; the set of directions is this attack's own.
    """

    probes: ClassVar[bool] = True
    strengths: ClassVar[tuple[float, ...]] = STRENGTHS
    _last: Real = attrs.field(factory=lambda: np.zeros(0), init=False)

    def forge(self, context: AttackContext) -> tuple[Forgery, ...]:
        """Find out what would do the most harm, and send it."""
        return send(context, context.agreed(lambda: self._worst(context)))

    def _directions(self, context: AttackContext, centre: Real) -> Iterator[Real]:
        rows = context.crowd
        yield -centre
        yield -np.sign(centre)
        spread, most = deviation(rows, centre), _along_most(rows, centre)
        farthest = rows[int(np.argmax(np.linalg.norm(rows - centre, axis=1)))] - centre
        for way in (spread, most, farthest):
            yield way
            yield -way
        yield -context.model.astype(np.float64)
        made = context.reference()
        if made is not None:
            yield made - centre
        yield context.rng.normal(size=centre.size)
        if self._last.size == centre.size:
            yield self._last

    def _reach(self, context: AttackContext, centre: Real) -> float:
        """The unit of strengths."""
        del context
        return float(np.linalg.norm(centre))

    def _turned(self, context: AttackContext, centre: Real, way: Real) -> Real:
        """A direction as it is tried, float64, shape ``(d,)``."""
        del context, centre
        return way

    def _row(self, context: AttackContext, centre: Real, moved: Real) -> Real:
        """Row that moves the mean so far; float64, shape ``(d,)``."""
        del context
        return centre + moved

    def _worst(self, context: AttackContext) -> Vector:
        centre, harm = mean(context.crowd), harm_of(context)
        reach = self._reach(context, centre)
        most, best, length = -math.inf, -centre, self.strengths[0]
        sent = on_grid(-centre)

        def tries(way: Real, strength: float) -> None:
            nonlocal most, best, length, sent
            way = self._turned(context, centre, way)
            size = float(np.linalg.norm(way))
            if not size:
                return
            row = on_grid(self._row(context, centre, strength * reach / size * way))
            merged = context.probe(np.tile(row, (context.attackers, 1)))
            damage = -math.inf if merged is None else harm(merged)
            if damage > most:
                most, best, length, sent = damage, way / size, strength, row

        for way in self._directions(context, centre):
            for strength in self.strengths:
                tries(way, strength)
        for factor in _FACTORS:
            for strength in (length * factor, length / factor):
                tries(best, strength)
        for _ in range(_TURNS):
            turned = context.rng.normal(size=centre.size) / math.sqrt(centre.size)
            tries(best + 0.5 * turned, length)
        self._last = best
        return sent
