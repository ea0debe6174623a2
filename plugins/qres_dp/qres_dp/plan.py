"""From a budget to noise: everything that has to fit, checked before anything is started.

A plan is what the plugin does with the same options, in numbers: the clipping bound and the noise
in steps of the grid, what they are in the model's units, and the epsilon that the whole comes to.
What cannot be done is refused by name; there is no plan with a warning in its place.
"""

from __future__ import annotations

import math
from typing import TypeVar

import attrs

from qres_core import ConfigError, Surroundings, Visibility, fixed
from qres_dp import accounting, combination, grid, ranges
from qres_dp.accounting.limits import check_delta, check_epsilon, check_rounds, check_sampling
from qres_dp.fitting import refuse
from qres_dp.modes import LEMMA, Mechanism, Mode, Relation, Unit, relation_of
from qres_dp.releases import release_of
from qres_dp.terms import ReleaseTerms, settle

_Name = TypeVar("_Name", Mode, Relation, Unit)


@attrs.frozen
class Request:
    """What is asked for: options of the plugin, in its ranges, and the swarm they are for."""

    mode: str  # ``local`` or ``distributed``
    epsilon: float  # budget of all rounds together
    delta: float  # likewise; below ``1 / nodes``
    clip: float  # greatest L2 norm of what one unit adds to an update, in the model's units
    rounds: int  # how many rounds the budget is for
    nodes: int  # how many nodes the swarm has
    dimension: int  # coordinates of an update
    # mode distributed: noise shares of every sum that nobody who sees it knows; else 0
    honest: int = 0
    scale: int = 0  # exponent of the grid; a step is ``2**(scale - 16)``
    relation: str = ""  # ``add-remove`` or ``replace-one``; empty for the mode's own
    sampling: str = "none"  # ``none`` or ``poisson``; see :func:`qres_dp.accounting.check_sampling`
    sampling_rate: float = 1.0  # of ``poisson``
    unit: str = "node"  # ``node`` or ``record``
    records: int = 0  # most records of a node; 0 with unit node


@attrs.frozen
class PrivacyPlan:
    """What it comes to."""

    request: Request  # what was asked for
    mechanism: Mechanism  # clipping and noise of one round, in steps of the grid
    epsilon: float  # of all rounds together, an upper bound; at most the request's

    @property
    def unit(self) -> float:
        """One step of the grid in the model's units."""
        return math.ldexp(1.0, self.request.scale - fixed.FRACTION_BITS)

    @property
    def noise_of_share(self) -> float:
        """Standard deviation of the noise drawn at once, per coordinate, in the model's units."""
        return math.sqrt(self.mechanism.share) * self.unit

    @property
    def noise_of_sum(self) -> float:
        """Standard deviation of the noise in a sum of all nodes, per coordinate."""
        return self.noise_of_share * math.sqrt(self.request.nodes)

    @property
    def longest(self) -> float:
        """Greatest L2 norm of an update, and so of the mean of all, in the model's units."""
        return self.request.clip * self.mechanism.units

    @property
    def noise_of_mean(self) -> float:
        """Standard deviation of the noise in the mean of all nodes, per coordinate."""
        return self.noise_of_sum / self.request.nodes

    @property
    def room(self) -> float:
        """The part of the grid's range that clipped updates and the noise beside them take."""
        return grid.room(self.mechanism, self.request.nodes) / fixed.LIMIT

    @property
    def effective_multiplier(self) -> float:
        """What may be accounted for: noise of a sum over sensitivity, rounded down.

        The variance counts without the 9 squared steps of the lemma of :mod:`qres_dp.modes`.
        """
        total = self.mechanism.share * self.mechanism.honest - LEMMA
        return math.sqrt(total) / self.mechanism.sensitivity * (1.0 - 2.0**-50)


def _named(kind: type[_Name], where: str, name: object) -> _Name:
    try:
        return kind(name)
    except ValueError:
        known = ", ".join(item.value for item in kind)
        raise ConfigError.of("QRES-E105", where, f"{name!r} is not one of {known}") from None


def _real(where: str, value: object, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError.of("QRES-E104", where, f"{value!r} is not a number")
    if not low <= value <= high:  # NaN fails as well
        raise ConfigError.of("QRES-E105", where, f"{value!r} is not in {low:g}..{high:g}")
    return float(value)


def _whole(where: str, value: object, low: int, high: int) -> int:
    if type(value) is not int:
        raise ConfigError.of("QRES-E104", where, f"{value!r} is not an integer")
    if not low <= value <= high:
        raise ConfigError.of("QRES-E105", where, f"{value} is not in {low}..{high}")
    return value


def _terms(request: Request) -> ReleaseTerms:
    """What the plugin makes of the same options, by the same ranges and rules."""
    mode = _named(Mode, "mode", request.mode)
    if request.relation:
        _named(Relation, "relation", request.relation)
    epsilon = check_epsilon(request.epsilon, ranges.EPSILON)
    delta = check_delta(request.delta, ranges.DELTA)
    rounds = check_rounds(request.rounds, ranges.ROUNDS)
    clip = _real("clip", request.clip, *ranges.CLIP)
    honest = _whole("honest", request.honest, 0, ranges.HONEST[1])
    rate = check_sampling(request.sampling, request.sampling_rate, ranges.SAMPLING_RATE)
    sampled = request.sampling == "poisson"
    unit = _named(Unit, "unit", request.unit)
    units = combination.units_of(unit, _whole("records", request.records, 0, ranges.RECORDS[1]))
    combination.check_sampling(mode, rate, sampled=sampled, unit=unit)
    relation = relation_of(mode, request.relation, sampled=sampled, unit=unit)
    combination.check_honest(mode, honest)
    multiplier, budget = settle(
        epsilon=epsilon, delta=delta, rounds=rounds, noise_multiplier=0.0, rate=rate
    )
    return ReleaseTerms(
        mode, relation, clip, multiplier, budget, honest, rate, unit=unit, units=units
    )


def plan(request: Request) -> PrivacyPlan:
    """The least noise that keeps a budget, with every check of precision and headroom.

    Args:
        request: what is asked for.

    Returns:
        a plan whose epsilon is at most the request's.

    Raises:
        ConfigError: QRES-E104, QRES-E105 for a value of the wrong type or range.
        CompatibilityError: QRES-E314 for parameters that keep no such promise; QRES-E313 for a grid
            that does not hold them, with the scale that would.

    Complexity: O(1) without sampling; a few convolutions with it.
    """
    nodes = _whole("nodes", request.nodes, *ranges.NODES)
    around = Surroundings(
        nodes=nodes,
        byzantine=0,
        quorum=nodes,
        scale=_whole("scale", request.scale, *ranges.SCALE),
        dimension=_whole("dimension", request.dimension, *ranges.COORDINATES),
        visibility=Visibility.SUM,
        members=nodes,
    )
    terms = _terms(request)
    release = release_of(terms)
    refuse(release.miscounts(around))
    mechanism = release.mechanism(around)
    spent = accounting.epsilon(
        terms.multiplier, request.rounds, request.delta, sampling_rate=terms.sampling_rate
    )
    return PrivacyPlan(request, mechanism, spent)
