"""Attacks that follow the gradient of the harm they want, and search around it.

They know everything, as ``searched`` does, and the test examples too: what they reach is what a
swarm must expect to lose, and not what an outsider can do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, Final

import attrs
import numpy as np

from qres_core.attacks.context import AttackContext, Forgery, on_grid, send
from qres_core.attacks.registry import EVERYTHING, register
from qres_core.contract.types import Vector
from qres_lab.attacks.aside import aim_of, row_for
from qres_lab.attacks.moments import Real, mean
from qres_lab.attacks.optimised import harm_of

TRIES: Final = 60
"""Lies that are tried out in a round."""
AHEAD: Final = 8
"""Rounds for which ``steady`` expects to go on as in this one."""
_LENGTHS: Final = (0.9, 3.0)
_FIRST: Final = 0.7
"""Length of the first random step, in distances of the honest mean from the reference."""
_LONGER: Final = 1.4
_SHORTER: Final = 0.9
_ANYWHERE: Final = 0.15
"""Share of a random step that leaves the span of the directions."""
_DIFFERENCES: Final = 6
"""Most differences of honest nodes' references among the directions."""
_FADING: Final = 0.9


def _unit(way: Real) -> Real:
    size = float(np.linalg.norm(way))
    return way / size if size else way


@register(
    "ascent",
    summary="the merged update up the gradient of the test loss, by a search of sixty tries",
    knowledge=EVERYTHING,
)
@attrs.define(eq=False)
class Ascent:
    """The merged update ``F`` that raises the test loss most, of those that the swarm lets pass.

    The search is for ``F``, and the row that all attackers send follows from it: with ``h`` the
    honest mean and ``s`` the largest share that liars can have it is ``(F - (1 - s) h) / s``. First
    ``F`` stands off the proposer's reference ``u``, off ``h``, and off the mean of the honest
    nodes' references, by 0.9 and 3 times ``|h - u|`` along a few directions. From the worst of
    these a (1 + 1) evolution strategy goes on: a random step in the span of all directions, and a
    little beside it; longer by 1.4 after each success, and shorter by 0.9 after each failure. The
    directions are the gradient of the test loss and its signs, ``-h``, ``h - u``, what honest
    references differ by, and what was worst in the round before. Where the task shows no gradient
    the search goes without. Sixty tries in all, each on the whole composition.

    Source:
        I. Rechenberg, Evolutionsstrategie, 1973: the (1 + 1) strategy, whose factors balance at one
        success in four or five; here 1.4 and 0.9 balance at about one in four. The knowledge of
        rule and loss is that of V. Shejwalkar, A. Houmansadr, Manipulating the Byzantine, NDSS
        2021. The directions are ours.
    """

    probes: ClassVar[bool] = True

    _last: Real = attrs.field(factory=lambda: np.empty(0), init=False)

    def forge(self, context: AttackContext) -> tuple[Forgery, ...]:
        """Climb as far as the swarm lets it."""
        return send(context, context.agreed(lambda: self._worst(context)))

    def _label(self, context: AttackContext) -> int | None:
        """The class whose loss is to rise; ``None`` for all."""
        del context
        return None

    def _harm(self, context: AttackContext, aim: Real) -> Callable[[Vector], float]:
        """Harm of a merged update."""
        del aim
        label, otherwise = self._label(context), harm_of(context)

        def harm(merged: Vector) -> float:
            found = context.examined(merged, label)
            if found is None:
                return otherwise(merged)
            return math.inf if math.isnan(found[0]) else found[0]

        return harm

    def _slope(self, context: AttackContext) -> Real:
        """The gradient of the harm at the present model; zeros where there is none."""
        size = context.round_info.dimension
        found = context.examined(np.zeros(size, dtype=np.int32), self._label(context))
        if found is None or not np.isfinite(found[1]).all():
            return np.zeros(size)
        return found[1]

    def _held(self, context: AttackContext) -> Iterator[Real]:
        """Directions of earlier rounds."""
        if self._last.size == context.round_info.dimension:
            yield self._last

    def _learn(self, moved: Real) -> None:
        """Remember how the worst merged update lay to the reference."""
        self._last = moved

    def _ways(self, context: AttackContext, honest: Real, aim: Real) -> tuple[Real, int]:
        """Unit directions, shape ``(k, d)``, and how many of them are tried by themselves."""
        slope = self._slope(context)
        references = context.references()
        middle = _middle(references, aim)
        first = [slope, np.sign(slope), -honest, *self._held(context)]
        rest = [honest - aim, aim - middle, middle]
        rest += [middle - item for item in references[:_DIFFERENCES]]
        kept = [[way for way in map(_unit, ways) if way.any()] for ways in (first, rest)]
        return np.array(kept[0] + kept[1]).reshape(-1, honest.size), len(kept[0])

    def _worst(self, context: AttackContext) -> Vector:
        honest, aim, rng = mean(context.crowd), aim_of(context), context.rng
        harm, (ways, few) = self._harm(context, aim), self._ways(context, honest, aim)
        middle = _middle(context.references(), aim)
        reach = max(1.0, float(np.linalg.norm(honest - aim)))
        most, target, sent = -math.inf, aim, on_grid(row_for(context, honest, aim))
        left = TRIES

        def worse(tried: Real) -> bool:
            nonlocal most, target, sent, left
            left -= 1
            row = on_grid(row_for(context, honest, tried))
            merged = context.probe(np.tile(row, (context.attackers, 1)))
            damage = -math.inf if merged is None else harm(merged)
            if damage <= most:
                return False
            most, target, sent = damage, tried, row
            return True

        for centre in (aim, honest, middle):
            for way in ways[:few]:
                for length in _LENGTHS:
                    worse(centre + length * reach * way)
        step = _FIRST * reach
        while left > 0:
            turned = rng.normal(size=len(ways)) @ ways / math.sqrt(max(1, len(ways)))
            beside = rng.normal(size=honest.size) / math.sqrt(honest.size)
            better = worse(target + step * (turned + _ANYWHERE * beside))
            step *= _LONGER if better else _SHORTER
        self._learn(target - aim)
        return sent


def _middle(references: Sequence[Vector], aim: Real) -> Real:
    if not references:
        return aim
    return mean(np.stack(references))


@register(
    "one_class",
    summary="as ascent, to have one class alone called wrong",
    knowledge=EVERYTHING,
)
@attrs.define(eq=False)
class OneClass(Ascent):
    """:class:`Ascent` on the test examples of one class.

    A mean over all classes hides that one of them is lost, and so do held-out examples among which
    it is rare.

    Attributes:
        strength: the class; left out, the one that the honest mean of the first round serves worst.
    """

    strength: float | None = None
    _chosen: int | None = attrs.field(default=None, init=False)

    def _label(self, context: AttackContext) -> int | None:
        if self.strength is not None:
            return int(self.strength)
        if self._chosen is None:
            honest, losses = on_grid(mean(context.crowd)), list[float]()
            while (found := context.examined(honest, len(losses))) is not None:
                losses.append(found[0])
            self._chosen = int(np.argmax(losses)) if losses else None
        return self._chosen


@register(
    "steady",
    summary="as ascent, by the harm if eight more rounds go the same way",
    knowledge=EVERYTHING,
)
@attrs.define(eq=False)
class Steady(Ascent):
    """:class:`Ascent` that plans for rounds to come, and first goes on as it went before.

    The harm of a merged update ``F`` is the loss if the next eight rounds, too, end as far from
    their references as this one: after ``F + 8 (F - u)``. So a small step whose like can be
    repeated counts more than one that the next rounds mend. Two directions are tried first: a
    fading sum of what it won, and fixed signs, those of the gradient in the first round, with the
    sizes of that sum.

    Source:
        Y. Xie, M. Fang, N. Z. Gong, Model Poisoning Attacks to Federated Learning via Multi-Round
        Consistency (PoisonedFL), CVPR 2025, arXiv 2404.15611: fixed signs, so that rounds do not
        cancel each other. That attack knows no honest update and no gradient; this one does.
    """

    _sum: Real = attrs.field(factory=lambda: np.empty(0), init=False)
    _signs: Real = attrs.field(factory=lambda: np.empty(0), init=False)

    def _harm(self, context: AttackContext, aim: Real) -> Callable[[Vector], float]:
        now = super()._harm(context, aim)

        def harm(merged: Vector) -> float:
            return now(on_grid(merged + AHEAD * (merged - aim)))

        return harm

    def _held(self, context: AttackContext) -> Iterator[Real]:
        size = context.round_info.dimension
        if self._signs.size != size:
            self._signs, self._sum = np.sign(self._slope(context)), np.zeros(size)
        yield self._sum
        yield self._signs * np.abs(self._sum) if self._sum.any() else self._signs

    def _learn(self, moved: Real) -> None:
        self._sum = _FADING * self._sum + moved
