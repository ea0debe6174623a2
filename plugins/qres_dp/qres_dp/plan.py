"""From a budget to noise: everything that has to fit, checked before anything is started.

A plan is what the plugin does with the same options, in numbers: the clipping bound and the noise
in steps of the grid, what they are in the model's units, and the epsilon that the whole comes to.
What cannot be done is refused by name; there is no plan with a warning in its place.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Final, TypeVar

import attrs

from qres_core import CompatibilityError, ConfigError, fixed
from qres_dp import accounting, grid
from qres_dp.accounting.limits import check_delta, check_epsilon, check_rounds
from qres_dp.modes import LEMMA, Mechanism, Mode, Relation, relation_of, steps

CLIP: Final = (2.0**-40, 2.0**40)
MOST_NODES: Final = 2**16
MOST_COORDINATES: Final = 2**31 - 1

_Name = TypeVar("_Name", Mode, Relation)


@attrs.frozen
class Request:
    """What is asked for.

    Attributes:
        mode: ``local``, ``distributed`` or ``central``.
        epsilon: budget of all rounds together.
        delta: likewise; below ``1 / nodes``.
        clip: greatest L2 norm of an update, in the model's units.
        rounds: how many rounds the budget is for.
        nodes: how many nodes the swarm has.
        dimension: coordinates of an update.
        honest: mode distributed: noise shares of every sum that nobody who sees it knows; else 0.
        scale: exponent of the grid; a step is ``2**(scale - 16)``.
        relation: ``add-remove`` or ``replace-one``; empty for the mode's own.
        sampling: ``none`` or ``poisson``; see :func:`qres_dp.accounting.check_sampling`.
        sampling_rate: of ``poisson``.
    """

    mode: str
    epsilon: float
    delta: float
    clip: float
    rounds: int
    nodes: int
    dimension: int
    honest: int = 0
    scale: int = 0
    relation: str = ""
    sampling: str = "none"
    sampling_rate: float = 1.0


@attrs.frozen
class Plan:
    """What it comes to.

    Attributes:
        request: what was asked for.
        mechanism: clipping and noise of one round, in steps of the grid.
        epsilon: of all rounds together, an upper bound; at most the request's.
    """

    request: Request
    mechanism: Mechanism
    epsilon: float

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
        drawn = 1 if self.mechanism.mode is Mode.CENTRAL else self.request.nodes
        return self.noise_of_share * math.sqrt(drawn)

    @property
    def noise_of_mean(self) -> float:
        """Standard deviation of the noise in the mean of all nodes, per coordinate."""
        return self.noise_of_sum / self.request.nodes

    @property
    def room(self) -> float:
        """The part of the grid's range that clipped updates and 12 deviations of noise take."""
        drawn = self.request.nodes if self.mechanism.mode is Mode.DISTRIBUTED else 1
        deviation = math.sqrt(drawn * self.mechanism.share)
        return (drawn * self.mechanism.bound + grid.HEADROOM * deviation) / fixed.LIMIT

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
        known = ", ".join(one.value for one in kind)
        raise ConfigError.of("QRES-E105", where, f"{name!r} is not one of {known}") from None


def _whole(where: str, value: object, low: int, high: int) -> int:
    if type(value) is not int:
        raise ConfigError.of("QRES-E104", where, f"{value!r} is not an integer")
    if not low <= value <= high:
        raise ConfigError.of("QRES-E105", where, f"{value} is not in {low}..{high}")
    return value


def _clip(value: object) -> float:
    if type(value) not in (int, float):
        raise ConfigError.of("QRES-E104", "clip", f"{value!r} is not a number")
    number = float(value) if isinstance(value, int | float) else math.nan
    if not CLIP[0] <= number <= CLIP[1]:
        raise ConfigError.of("QRES-E105", "clip", f"{number!r} is not in 2**-40..2**40")
    return number


def _honest(request: Request, mode: Mode) -> int:
    nodes = _whole("nodes", request.nodes, 1, MOST_NODES)
    honest = _whole("honest", request.honest, 0, MOST_NODES)
    if (mode is Mode.DISTRIBUTED) != (honest > 0):
        what = "honest is to be set in mode distributed, to 1 or more, and in no other"
        raise CompatibilityError.of("QRES-E314", "honest", what)
    if honest >= nodes and mode is Mode.DISTRIBUTED:
        what = f"{honest} of {nodes} shares that nobody who sees the sum knows"
        fix = "whoever sees the sum knows its own share: honest <= nodes - 1"
        raise CompatibilityError.of("QRES-E314", "honest", what, fix)
    return honest


def _relation(request: Request, mode: Mode, rate: float) -> Relation:
    if mode is Mode.LOCAL and rate < 1.0:
        what = "in mode local everybody sees who takes part: sampling amplifies nothing"
        raise CompatibilityError.of("QRES-E314", "sampling", what, 'sampling = "none"')
    if request.relation:
        _named(Relation, "relation", request.relation)
    return relation_of(mode, request.relation, sampled=rate < 1.0)


def plan(request: Request) -> Plan:
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
    mode = _named(Mode, "mode", request.mode)
    budget, delta = check_epsilon(request.epsilon), check_delta(request.delta)
    rounds, clip = check_rounds(request.rounds), _clip(request.clip)
    dimension = _whole("dimension", request.dimension, 1, MOST_COORDINATES)
    scale = _whole("scale", request.scale, -fixed.MAX_SCALE, fixed.MAX_SCALE)
    honest = _honest(request, mode)
    rate = accounting.check_sampling(request.sampling, request.sampling_rate)
    relation = _relation(request, mode, rate)
    if Fraction(delta) * request.nodes >= 1:
        what = (
            f"delta {delta:g} is not below 1 / {request.nodes}: it would allow giving a node away"
        )
        raise CompatibilityError.of("QRES-E314", "delta", what, "a smaller delta")
    noise = accounting.calibrate(budget, delta, rounds, sampling_rate=rate)
    bound = max(1, steps(clip, scale))
    mechanism = Mechanism(mode, relation, bound, noise, max(1, honest))
    grid.check(mechanism, clip, dimension=dimension, nodes=request.nodes)
    spent = accounting.epsilon(noise, rounds, delta, sampling_rate=rate)
    return Plan(request, mechanism, spent)
