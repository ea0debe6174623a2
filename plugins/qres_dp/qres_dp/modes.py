"""Modes and relations: the nodes that add noise, and the inputs between which it hides.

====================  ==========================  =================================================
mode                  who adds noise              what is protected against
====================  ==========================  =================================================
``local``             each node, enough alone     everybody who sees the node's contribution
``distributed``       each node, a share          everybody who sees only sums
====================  ==========================  =================================================
"""

from __future__ import annotations

import enum
import math
from fractions import Fraction
from typing import Final

import attrs

from qres_core import fixed, options
from qres_core.errors import CompatibilityError, OptionError

LEMMA: Final = 9
"""Variance that is added and not accounted for, in squared steps of the grid.

Discrete Gaussian noise of variance ``s**2 + 9`` on integers is a post-processing of a continuous
Gaussian of variance ``s**2``, up to a factor of 1 ± 2**-253 (Peikert, CRYPTO 2010, theorem 3.1): so
every accountant for the Gaussian mechanism holds for it.
"""

_FRACTION: Final = 2**16  # variances are rounded up to this fraction of a squared step


class Mode(enum.Enum):
    """Mode: the nodes that add the noise."""

    LOCAL = "local"
    DISTRIBUTED = "distributed"


@attrs.frozen
class ModeOption(options.Option):
    """The name of a mode. Of a mode that went, the message says what to use instead."""

    @classmethod
    def of_modes(cls) -> ModeOption:
        """The validator of the option ``mode``."""
        usual = options.one_of(*(mode.value for mode in Mode))
        return cls(usual.allowed, usual.fits, words=usual.words)

    def check(self, name: str, value: object) -> None:
        """As of every option. Raises OptionError: QRES-E105."""
        if value == "central":
            what = 'mode "central" is gone: members saw single updates and could compute the noise'
            fix = 'mode = "distributed" with a plugin that hides updates, such as secagg'
            raise OptionError.of("QRES-E105", name, what, fix)
        super().check(name, value)


class Unit(enum.Enum):
    """Unit whose presence must not be told: all data of a node, or a single record of one.

    What counts for a ``NODE`` is its update, clipped to C. What counts for a ``RECORD`` is its part
    of the update, which the trainer's steps are clipped to: C as well. So a sum differs by at most
    C when either is taken away, and everything that follows from C holds for both.
    """

    NODE = "node"
    RECORD = "record"


class Relation(enum.Enum):
    """Inputs that count as neighbours: no observer must tell them apart.

    ``ADD_REMOVE``: with and without one unit, in whose place there is then nothing; which nodes
    take part is public. A sum differs by at most C. ``REPLACE_ONE``: one unit against any other
    that might be in its place; a sum differs by at most 2 C.
    """

    ADD_REMOVE = "add-remove"
    REPLACE_ONE = "replace-one"

    @property
    def apart(self) -> int:
        """Number of bounds of an update between neighbours, in L2."""
        return 1 if self is Relation.ADD_REMOVE else 2


def _round_up(variance: Fraction) -> Fraction:
    return Fraction(-((-variance * _FRACTION) // 1), _FRACTION)


@attrs.frozen
class Mechanism:
    """Clipping and noise of one round, in steps of the grid."""

    mode: Mode  # who adds the noise
    relation: Relation  # what it hides
    bound: int  # C: how long, in L2, what one unit adds to a sum is at most
    # z; the noise of a sum has a deviation of at least z times the sensitivity
    noise_multiplier: float
    # how many nodes' shares the noise of a sum is counted on; 1 where nothing is shared
    honest: int = 1
    units: int = 1  # most units of a node; 1 where the node is the unit
    stretch: Fraction = Fraction(1)  # how many updates long what leaves is at most, noise aside

    @property
    def sensitivity(self) -> int:
        """By how much, in L2, a sum of clipped updates differs between neighbours."""
        return self.relation.apart * self.bound

    @property
    def length(self) -> int:
        """Length of an update at most: all units of a node at once."""
        return self.units * self.bound

    @property
    def longest(self) -> int:
        """Length at most of a vector that leaves a node, noise aside."""
        return math.ceil(self.length * self.stretch)

    @property
    def variance(self) -> Fraction:
        """Variance of the noise of one release, exact."""
        deviation = Fraction(self.noise_multiplier) * self.sensitivity
        return _round_up(deviation * deviation + LEMMA)

    @property
    def share(self) -> Fraction:
        """Variance of the noise that is drawn at once: a node's share, or all of it."""
        return _round_up(self.variance / self.honest)


def steps(length: float, scale: int) -> int:
    """A length in real units as whole steps of the grid, rounded down.

    Args:
        length: finite, 0 or more.
        scale: exponent of the grid; a step is ``2**(scale - 16)``.
    """
    return int(Fraction(length) * Fraction(2) ** (fixed.FRACTION_BITS - scale))


def relation_of(mode: Mode, name: str, *, unit: Unit = Unit.NODE) -> Relation:
    """The neighbouring relation of a mode: the one named, or the mode's own for an empty name.

    A local release shows that the node took part, and not which records it has. Raises
    CompatibilityError: QRES-E314 for one the mode does not have.
    """
    where = "plugins.dp.relation"
    seen = mode is Mode.LOCAL and unit is Unit.NODE
    own = Relation.REPLACE_ONE if seen else Relation.ADD_REMOVE
    relation = Relation(name) if name else own
    if seen and relation is not Relation.REPLACE_ONE:
        what = "a local release shows that the node took part: only its data can be hidden"
        raise CompatibilityError.of("QRES-E314", where, what, 'relation = "replace-one"')
    return relation
