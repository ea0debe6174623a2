"""Streams of correlated noise, and the price of each row.

The whole stream is one Gaussian release, and so is every beginning of it. The ledger composes
Gaussian releases by ``1/z**2``, so a row is charged by how far it may move, squared: the charges of
a stream add up to at most what all of it costs.
"""

from __future__ import annotations

import functools
import hashlib
import math
from fractions import Fraction
from typing import Any, Final

import attrs

from qres_core import NodeId, Surroundings
from qres_core.errors import CompatibilityError
from qres_dp.accounting.limits import NOISE
from qres_dp.correlated import Factor, Participation
from qres_dp.modes import steps
from qres_dp.terms import Correlation, ReleaseTerms

SLACK: Final = 1.0 + 2.0**-30
"""More noise than was calibrated for. Rows are charged with half of the excess, so that rounding
neither charges too little nor refuses the last row."""
FREE: Final = NOISE[1]
"""Noise multiplier of a row that costs nothing beyond those before it: the greatest there is."""


@attrs.frozen
class StreamShape:
    """Shape of a stream, apart from its keys.

    Raises:
        CompatibilityError: QRES-E314 where independent noise would serve better.
    """

    steps: int  # releases in all
    band: int  # coefficients of the matrix
    separation: int  # the node's data are in one of so many steps; in the others, zeros
    multiplier: float  # noise multiplier of the whole stream
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
        mine = self.factor.prefix_error(self.steps) * math.sqrt(self.squared) / 2**16
        return math.sqrt((self.steps + 1) / 2 * times) / mine

    @property
    def factor(self) -> Factor:
        """The matrix."""
        return Factor(self.band)

    @property
    def squared(self) -> int:
        """Squared sensitivity of all steps, in units of ``2**-32``."""
        return _squared(self.band, self.steps, self.separation, self.grain)

    def price_of(self, reach: int) -> float:
        """The noise multiplier that a row is charged with, by its reach in units of ``2**-16``.

        See :mod:`qres_dp.correlated.encoding`.
        """
        if not reach:
            return FREE
        ratio = Fraction(self.squared, (reach + self.grain) ** 2)
        return self.multiplier * (1.0 + 2.0**-31) * math.sqrt(ratio)

    @property
    def deviation(self) -> float:
        """Noise multiplier of a release by itself, as the grid has to hold it."""
        return self.multiplier * SLACK * math.sqrt(self.squared) / 2**16


@functools.lru_cache(maxsize=4096)
def _squared(band: int, steps: int, separation: int, grain: int) -> int:
    rule = Participation(-(-steps // separation), separation)
    return Factor(band).squared_sensitivity(steps, rule, grain)


@functools.lru_cache(maxsize=64)
def _shaped(*numbers: Any) -> StreamShape:
    return StreamShape(*numbers)


def shape_of(
    terms: ReleaseTerms, correlation: Correlation, around: Surroundings, *, grain: int = 0
) -> StreamShape:
    """Shape of a stream in a swarm.

    ``correlation``: of ``terms``; ``around``: the swarm, for its grid and the dimension of its
    model; ``grain``: see :class:`StreamShape`, whose QRES-E314 it raises.
    """
    return _shaped(
        correlation.rounds,
        correlation.band,
        correlation.separation,
        terms.multiplier,
        max(1, steps(terms.clip, around.scale)),
        around.dimension or 1,
        terms.relation.apart,
        terms.units,
        grain,
    )


def turn_of(node: NodeId, separation: int) -> int:
    """The first step with a node's data: nodes take turns, by their identities."""
    return int.from_bytes(hashlib.sha256(node).digest()) % separation
