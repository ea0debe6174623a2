"""Measuring a rule: worst kappa, what each attack does to it, how many liars break it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_core.contract.abilities import abilities
from qres_core.contract.fixed import LIMIT
from qres_lab.testing.attacking import registered_lies
from qres_lab.testing.robustness import Worst, published_bound, subsets, worst_kappa
from qres_lab.testing.trial import AggregatorTrial, Rows, cluster, far_lies

_SMALL: Final = 11
"""Up to here all sets of honest rows are looked at, unless the rule needs more updates."""
_MAGNITUDES: Final = (2**10, 2**18, LIMIT)


@attrs.frozen
class KappaFound:
    """The kappa that one set of inputs asks for.

    Attributes:
        inputs: what they are.
        attack: the attack of the registry that forged some of them, else empty.
        count: ``n``.
        worst: the largest kappa over all sets of ``n - f``.
    """

    inputs: str
    attack: str
    count: int
    worst: Worst


@attrs.frozen
class AttackFound:
    """Effect of an attack of the registry on the rule.

    Attributes:
        attack: its name.
        deviation: distance of the result from the honest mean, in units of the honest spread (root
            of the mean squared distance from their mean); the worst of several rounds. ``None`` if
            nothing of the attack reaches a rule.
        withstood: whether the square of that is within the kappa that is claimed, or if none is
            claimed within :func:`~qres_lab.testing.robustness.published_bound`; of a rule that
            claims to have no kappa, whether the result stayed in the range of the honest vectors,
            give or take ``stretch`` times their diameter. ``None`` likewise.
        why: why nothing reaches a rule, else empty.
    """

    attack: str
    deviation: float | None = None
    withstood: bool | None = None
    why: str = ""


class AggregatorMeasurement(AggregatorTrial):
    """The measurements of :class:`~qres_lab.testing.AggregatorContract`."""

    def measure_kappa(self) -> list[KappaFound]:
        """The kappa that each of many inputs asks for, with ``n`` at most 11 if the rule permits.

        Returns:
            one entry for each set of inputs; none if ``claims.tolerates`` declares no liars.

        Raises:
            ContractViolationError: the rule refuses or breaks on an input.

        Complexity: some 150 calls of the rule and what the attacks that search add.
        """
        plugin = self.make()
        liars = self._seat(plugin).claims.liars
        if not liars:
            return []
        count = self._small_count(plugin)
        merged = self._rule("QRES-AGG-12")
        sets = subsets(count, count - liars)
        found: list[KappaFound] = []
        for name, attack, rows in self._robustness_inputs(count, liars):
            worst = worst_kappa(rows, merged(rows), sets, self.rounding)
            found.append(KappaFound(name, attack, count, worst))
        return found

    def kappa_declared(self, count: int, liars: int) -> float | None:
        """The bound that is claimed, of the suite or the plugin; ``None`` for some finite one.

        Args:
            count: ``n``.
            liars: ``f``.
        """
        stated = type(self).kappa  # a function of the class, not bound to the instance
        if callable(stated):
            return float(stated(count, liars))
        if stated is not None:
            return float(stated)
        plugin: Any = self.make()
        bound = plugin.kappa_bound(count) if "kappa_bound" in abilities(plugin) else None
        return None if bound is None else float(bound)

    def measure_attacks(self) -> list[AttackFound]:
        """Effects of every attack of the registry with ``claims.tolerates`` liars.

        Returns:
            one entry for each attack; none if ``claims.tolerates`` declares no liars.

        Raises:
            ContractViolationError: the rule refuses or breaks on an input.
        """
        plugin = self.make()
        liars = self._seat(plugin).claims.liars
        count = self._count(plugin)
        merged = self._rule("QRES-AGG-13")
        found: dict[str, AttackFound] = {}
        for honest in self._honest_rounds(count - liars) if liars else ():
            mean = honest.mean(axis=0)
            spread = math.sqrt(float(((honest - mean) ** 2).sum(axis=1).mean()))
            for lies in registered_lies(honest, liars, merged, seed=self.seed):
                if lies.rows is None:
                    found[lies.attack] = AttackFound(lies.attack, why=lies.why)
                    continue
                result = merged(np.concatenate([honest, lies.rows]))
                deviation = float(np.linalg.norm(result - mean)) / spread
                before = found.get(lies.attack, AttackFound(lies.attack, 0.0, withstood=True))
                found[lies.attack] = AttackFound(
                    lies.attack,
                    max(deviation, before.deviation or 0.0),
                    bool(before.withstood) and self._near(deviation, result, honest, liars),
                )
        return list(found.values())

    def measure_breakdown(self) -> tuple[int, int]:
        """The largest number of far liars withstood, whatever the rule says of itself.

        Returns:
            the number, and of how many updates.

        Raises:
            ContractViolationError: the rule refuses or breaks on an input.
        """
        plugin = self.make()
        count = self._count(plugin)
        merged = self._rule("QRES-AGG-13")
        for liars in range(1, count):
            honest = cluster(self._rng(count), count - liars, self.dimension, self.spread)
            for magnitude in (2**24, LIMIT):
                for lies in far_lies(liars, self.dimension, magnitude).values():
                    if not self._inside(merged(np.concatenate([honest, lies])), honest):
                        return liars - 1, count
        return count - 1, count

    def _near(self, deviation: float, result: Rows, honest: Rows, liars: int) -> bool:
        count = len(honest) + liars
        kappa = self.kappa_declared(count, liars)
        if kappa == math.inf:
            return self._inside(result, honest)
        return deviation**2 <= (published_bound(count, liars) if kappa is None else kappa)

    # ── inputs ────────────────────────────────────────────────────────────────────────────────

    def _small_count(self, plugin: object) -> int:
        claims = self._seat(plugin).claims
        fewest = max(claims.needs.min_updates, 2 * claims.liars + 1)
        return max(fewest, min(self._count(plugin), _SMALL))

    def _honest_rounds(self, count: int) -> Iterator[Rows]:
        """Honest vectors of rounds: much alike, little alike, each in coordinates of its own."""
        rng = self._rng(13)
        shared = cluster(rng, 1, self.dimension, 4 * self.spread)
        yield shared + cluster(rng, count, self.dimension, self.spread)
        yield shared // 4 + cluster(rng, count, self.dimension, self.spread)
        sparse = cluster(rng, count, self.dimension, self.spread)
        sparse[np.arange(count)[:, None] % 3 != np.arange(self.dimension) % 3] //= 16
        yield shared // 8 + sparse

    def _robustness_inputs(self, count: int, liars: int) -> Iterator[tuple[str, str, Rows]]:
        for dimension in sorted({1, 2, self.dimension}):
            for name, rows in self._structured(count, liars, dimension):
                yield f"{name}, d = {dimension}", "", rows
            for name, rows in self._random(count, liars, dimension):
                yield f"{name}, d = {dimension}", "", rows
        merged = self._rule("QRES-AGG-12")
        for number, honest in enumerate(self._honest_rounds(count - liars)):
            for lies in registered_lies(honest, liars, merged, seed=self.seed):
                if lies.rows is not None:
                    rows = np.concatenate([honest, lies.rows])
                    yield f"attack {lies.attack}, round {number}", lies.attack, rows

    def _structured(self, count: int, liars: int, dimension: int) -> Iterator[tuple[str, Rows]]:
        place = np.arange(count)
        agreed = cluster(self._rng(dimension), 1, dimension, self.spread)
        for far in _MAGNITUDES:
            apart = np.zeros((count, dimension), dtype=np.int64)
            apart[count - liars :] = far
            yield f"f of them {far} steps from the rest, who agree on zero", apart
            single = np.where(np.arange(dimension) == 0, apart, 0)
            yield f"f of them {far} steps away in one coordinate", single
            yield f"f of them {far} steps from the rest, who agree", _held(agreed + single)
            both = apart.copy()
            both[:liars] = -far
            yield f"f of them {far} steps away on either side", both
            yield f"half of them {far} steps away", np.where(place[:, None] % 2, apart[-1], 0)
        yield "evenly spaced", np.repeat((place * self.spread)[:, None], dimension, axis=1)
        doubling = 2.0 ** (place * 30.0 / count)
        yield "each twice as far", np.rint(np.outer(doubling, np.ones(dimension))).astype(np.int64)
        simplex = np.zeros((count, dimension), dtype=np.int64)
        simplex[place, place % dimension] = self.spread
        yield "corners of a simplex", simplex

    def _random(self, count: int, liars: int, dimension: int) -> Iterator[tuple[str, Rows]]:
        rng = self._rng(100 + dimension)
        for number in range(3):
            yield f"random {number}", cluster(rng, count, dimension, self.spread)
            tails = np.rint(self.spread * rng.standard_cauchy((count, dimension)))
            yield f"heavy tails {number}", _held(tails)
            corners = rng.choice(np.array([-self.spread, self.spread]), (count, dimension))
            yield f"random corners {number}", corners
            two = cluster(rng, count, dimension, self.spread)
            two[count // 2 :] += 8 * self.spread
            yield f"two camps {number}", two
        for factor in (0.5, 1.0, 2.0, 4.0, 16.0, 256.0):
            honest = cluster(rng, count - liars, dimension, self.spread)
            lie = np.rint(honest.mean(axis=0) - factor * honest.std(axis=0))
            rows = np.concatenate([honest, np.tile(_held(lie), (liars, 1))])
            yield f"f of them {factor:g} standard deviations below the mean", rows


def _held(values: NDArray[np.int64 | np.float64]) -> Rows:
    held: Rows = np.clip(values, -LIMIT, LIMIT).astype(np.int64)
    return held


def worst_of(found: Sequence[KappaFound]) -> KappaFound:
    """The entry with the largest kappa."""
    return max(found, key=lambda item: item.worst.kappa)
