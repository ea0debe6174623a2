"""Correlated noise in mode local: one stream of releases of one node, charged step by step.

The whole stream is one Gaussian release, and so is every beginning of it. After ``t`` steps it has
the noise multiplier ``sigma / (Delta sqrt(S_t))``, where ``S_t`` is the squared sensitivity of the
first ``t`` steps. The ledger composes Gaussian releases by ``1/z**2``, so a step is charged as one
with ``1/z_t**2 = Delta**2 (S_t - S_(t-1)) / sigma**2``: the charges of the first ``t`` steps add up
to exactly what these cost.

A step is taken once its key is on the disk. Killed before the release, the step is spent: the next
one charges for it too, and no key is used twice.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np

from qres_core import (
    CompatibilityError,
    NodeId,
    RoundError,
    Surroundings,
    Vector,
    canonical,
    fixed,
)
from qres_dp.accounting.limits import NOISE
from qres_dp.clip import clip
from qres_dp.correlated import CorrelatedNoise, Factor, KeyHistory, Participation, variance_for
from qres_dp.ledger import PrivacyBudget, PrivacyLedger
from qres_dp.ledger.record import Charge
from qres_dp.modes import Mechanism, steps
from qres_dp.randomness import fresh_key
from qres_dp.terms import Correlation, ReleaseTerms

SLACK: Final = 1.0 + 2.0**-30
"""More noise than was calibrated for. Steps are charged with half of the excess, so that rounding
neither charges too little nor refuses the last step."""
_STREAM: Final = b"qres/dp/stream/v2\0"
FREE: Final = NOISE[1]
"""Noise multiplier of a step that costs nothing beyond those before it: the greatest there is."""


@attrs.frozen
class StreamShape:
    """What a stream is, apart from its keys.

    Raises:
        CompatibilityError: QRES-E314 where independent noise would serve better.
    """

    steps: int  # releases in all
    band: int  # coefficients of the matrix
    separation: int  # the node's data are in one of so many steps; in the others, zeros
    multiplier: float  # noise multiplier of the whole stream
    offset: int  # the first step with data, below ``separation``
    bound: int  # clipping bound in steps of the grid
    dimension: int  # coordinates
    # bounds that neighbours' steps are apart: 2 where an update is replaced by another
    apart: int = 2
    units: int = 1  # most units of the node: its update is at most as many bounds long
    grain: int = 0  # how much farther a row moves that is rounded, in units of ``2**-16``

    def __attrs_post_init__(self) -> None:
        if self.gain <= 1.0:
            what = (
                f"with data in every {self.separation}. of {self.steps} rounds its error is "
                f"{1 / self.gain:.3g} times that of independent noise"
            )
            fix = 'a larger separation, or noise = "independent"'
            raise CompatibilityError.of("QRES-E314", "plugins.dp.noise", what, fix)

    @property
    def gain(self) -> float:
        """Error of independent noise over that of this, in sums of rounds, at equal privacy."""
        times = -(-self.steps // self.separation)
        mine = self.factor.prefix_error(self.steps) * math.sqrt(self.squared(self.steps)) / 2**16
        return math.sqrt((self.steps + 1) / 2 * times) / mine

    @property
    def sensitivity(self) -> int:
        """Of a single step."""
        return self.apart * self.bound

    @property
    def factor(self) -> Factor:
        """The matrix."""
        return Factor(self.band)

    def squared(self, steps: int) -> int:
        """Squared sensitivity of the first so many steps, in units of ``2**-32``."""
        if steps == 0:
            return 0
        return _squared(self.band, steps, self.separation, self.grain)

    @property
    def variance(self) -> Fraction:
        """Of the independent noise, in squared steps of the grid."""
        multiplier = self.multiplier * SLACK
        return variance_for(multiplier, self.sensitivity, self.squared(self.steps))

    def price(self, step: int) -> float:
        """The noise multiplier a step is charged with, from 0."""
        return self._price(self.squared(step + 1) - self.squared(step))

    def price_of(self, reach: int) -> float:
        """The noise multiplier that a row is charged with, by its reach in units of ``2**-16``.

        See :mod:`qres_dp.correlated.encoding`.
        """
        return self._price((reach + self.grain) ** 2 if reach else 0)

    def _price(self, square: int) -> float:
        """Of a release that moves by so much, squared, in units of ``2**-32``."""
        if square == 0:
            return FREE
        ratio = Fraction(self.squared(self.steps), square)
        return self.multiplier * (1.0 + 2.0**-31) * math.sqrt(ratio)

    @property
    def deviation(self) -> float:
        """Noise multiplier of a release by itself, as the grid has to hold it."""
        return self.multiplier * SLACK * math.sqrt(self.squared(self.steps)) / 2**16

    def carries(self, step: int) -> bool:
        """Whether the node's data are in a step."""
        return step % self.separation == self.offset


@functools.lru_cache(maxsize=4096)
def _squared(band: int, steps: int, separation: int, grain: int) -> int:
    rule = Participation(-(-steps // separation), separation)
    return Factor(band).squared_sensitivity(steps, rule, grain)


@functools.lru_cache(maxsize=64)
def _shaped(*numbers: Any) -> StreamShape:
    return StreamShape(*numbers)


@functools.lru_cache(maxsize=64)
def _check_noise(shape: StreamShape) -> None:
    """Raise QRES-E313 where the grid does not hold the noise; for one coordinate."""
    CorrelatedNoise(shape.factor, shape.variance, 1, shape.steps)


def shape_of(
    terms: ReleaseTerms,
    correlation: Correlation,
    around: Surroundings,
    *,
    offset: int = 0,
    grain: int = 0,
) -> StreamShape:
    """What a stream is in a swarm.

    ``correlation``: of ``terms``; ``around``: the swarm, for its grid and the dimension of its
    model; ``offset``, ``grain``: see :class:`StreamShape`, whose QRES-E314 it raises.
    """
    return _shaped(
        correlation.rounds,
        correlation.band,
        correlation.separation,
        terms.multiplier,
        offset,
        max(1, steps(terms.clip, around.scale)),
        around.dimension or 1,
        terms.relation.apart,
        terms.units,
        grain,
    )


def turn_of(node: NodeId, separation: int) -> int:
    """The first step with a node's data: nodes take turns, by their identities."""
    return int.from_bytes(hashlib.sha256(node).digest()) % separation


def widened(mechanism: Mechanism, shape: StreamShape) -> Mechanism:
    """A round's mechanism with the noise that a release of the stream has by itself.

    Raises ValueRefusedError: QRES-E313 where the grid does not hold the noise.
    """
    _check_noise(shape)
    return attrs.evolve(mechanism, noise_multiplier=shape.deviation)


def check_same(running: StreamShape, asked: StreamShape) -> None:
    """Refuse to go on with a stream that the swarm is no longer made for.

    Raises RoundError: QRES-E602.
    """
    if running != asked:
        what = "the grid or the dimension changed in the middle of a stream of noise"
        raise RoundError.of("QRES-E602", "plugins.dp.noise", what)


class Stream:
    """The releases of one node, in order.

    Args:
        swarm: the swarm's name.
        node: the node's identity.
        ledger: charged before every release; must know of no more steps than there are keys.
        shape: what the stream is.
        folder: where the keys are kept, or ``None``.

    Raises:
        RoundError: QRES-E602 for keys that are missing or another stream's.
        ValueRefusedError: QRES-E313 where the grid does not hold the noise.
    """

    def __init__(
        self,
        swarm: str,
        node: NodeId,
        ledger: PrivacyLedger,
        shape: StreamShape,
        folder: Path | None,
    ) -> None:
        self.shape = shape
        self._ledger = ledger
        owner = ledger.owner
        parts = [swarm, node, owner.relation, owner.unit, *attrs.astuple(shape)]
        named = [part.hex() if type(part) is float else part for part in parts]
        self._name = hashlib.sha256(_STREAM + canonical.dumps(named)).digest()
        self._noise = CorrelatedNoise(shape.factor, shape.variance, shape.dimension, shape.steps)
        mine = [record.charge for record in ledger.records if record.charge.stream == self._name]
        self._charged = 1 + max((charge.row for charge in mine), default=-1)
        self._history = KeyHistory(folder, self._name, released=self._charged)
        try:
            self._noise.replay(self._history.keys)
        except BaseException:
            self._history.close()
            raise

    def release(
        self,
        update: Vector,
        budget: PrivacyBudget,
        charge: Callable[[float, Vector | None], Charge],
    ) -> Vector:
        """The next release.

        Args:
            update: int32, shape ``(d,)``, as it is; used only in the steps that carry data.
            budget: what may be spent.
            charge: makes the charge of a release, from its noise multiplier and what leaves.

        Returns:
            int32, shape ``(d,)``.

        Raises:
            ValueRefusedError: QRES-E509 after the last step, or when the ledger refuses.
            RoundError: QRES-E602 when the key cannot be kept.

        Complexity: O(band d).
        """
        step = self._noise.taken
        key = fresh_key()
        noise = self._noise.draw(key)  # refuses after the last step
        self._ledger.after(charge(self.shape.price(step), None), budget)
        self._history.append(key)
        self._noise.advance(noise)
        total = noise.astype(np.int64)
        if self.shape.carries(step):
            total += clip(update, self.shape.units * self.shape.bound).vector
        held: Vector = np.clip(total, -fixed.LIMIT, fixed.LIMIT).astype(np.int32)
        while self._charged <= step:  # and for steps that a kill left without a release
            row = self._charged
            made = charge(self.shape.price(row), held if row == step else None)
            self._ledger.charge(attrs.evolve(made, stream=self._name, row=row), budget)
            self._charged += 1
        return held

    def close(self) -> None:
        """Let go of the keys; idempotent."""
        self._history.close()
