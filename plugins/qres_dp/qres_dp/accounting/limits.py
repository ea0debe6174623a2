"""What the accountants take, and how they say no.

Inside these limits every value is an upper bound; outside them there is a refusal, never a guess.
"""

from __future__ import annotations

import math
from typing import Final, TypeAlias

from qres_core import CompatibilityError, ConfigError

Range: TypeAlias = tuple[float, float]

Kind: TypeAlias = tuple[float, float]
"""Noise multiplier and sampling rate of a round; 1 is the rate without sampling."""

LEAST_DELTA: Final = 1e-100
DELTA: Final = (LEAST_DELTA, math.nextafter(1.0, 0.0))
EPSILON: Final = (1e-9, 1e6)
NOISE: Final = (1e-3, 1e9)
RATE: Final = (1e-9, 1.0)
ROUNDS: Final = (1, 10**9)

_SAMPLINGS: Final = {
    "fixed": "a fixed number of members drawn without replacement costs about twice as much and "
    "holds for the replace-one relation",
    "shuffle": "shuffling has an accountant of its own, for noise added by the members",
    "cyclic": "members that take turns are not drawn at random",
    "importance": "members drawn with unequal probabilities have no common sampling rate",
}


def _refuse(where: str, what: str, fix: str = "") -> CompatibilityError:
    return CompatibilityError.of("QRES-E314", where, what, fix)


def _number(where: str, value: object, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError.of("QRES-E104", where, f"{value!r} is not a number")
    if not low <= value <= high:  # NaN fails as well
        raise _refuse(where, f"{value!r} is outside {low:g} to {high:g}, which is accounted for")
    return float(value)


def check_delta(value: object, within: Range = DELTA) -> float:
    """A delta, in ``[1e-100, 1)`` or a narrower range.

    Raises ConfigError: QRES-E104 for what is no number. Raises CompatibilityError: QRES-E314 out of
    range.
    """
    return _number("delta", value, *within)


def check_epsilon(value: object, within: Range = EPSILON) -> float:
    """An epsilon, in ``[1e-9, 1e6]`` or a narrower range. Errors as :func:`check_delta`."""
    return _number("epsilon", value, *within)


def check_noise(value: object) -> float:
    """A noise multiplier in ``[1e-3, 1e9]``. Errors as :func:`check_delta`."""
    return _number("noise_multiplier", value, *NOISE)


def check_rounds(value: object, within: tuple[int, int] = ROUNDS) -> int:
    """A number of rounds, in ``[1, 1e9]`` or a narrower range. Errors as :func:`check_delta`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError.of("QRES-E104", "rounds", f"{value!r} is not an integer")
    if not within[0] <= value <= within[1]:
        raise _refuse("rounds", f"{value} is outside {within[0]} to {within[1]}")
    return value


def check_rate(value: object, within: Range = RATE) -> float:
    """A sampling rate, in ``[1e-9, 1]`` or a narrower range. Errors as :func:`check_delta`."""
    return _number("sampling_rate", value, *within)


def check_sampling(name: object, rate: object = 1.0, within: Range = RATE) -> float:
    """The sampling rate that may be charged for a way to choose a round's members.

    Args:
        name: ``none`` (everybody who is there: rate 1) or ``poisson`` (each member by a coin of its
            own with probability ``rate``, and nobody else learns who took part).
        rate: of ``poisson``; with ``none`` it must be 1.
        within: the range of rates.

    Raises:
        CompatibilityError: QRES-E314 for every other way, with the reason, and for a rate without
            Poisson sampling.
    """
    if name == "poisson":
        return check_rate(rate, within)
    if name == "none":
        if rate != 1.0:
            raise _refuse(
                "sampling_rate",
                f"{rate!r} without Poisson sampling",
                'say sampling = "poisson", and only where participation is random and secret',
            )
        return 1.0
    why = _SAMPLINGS.get(str(name), "it is not known here")
    raise _refuse(
        "sampling",
        f"amplification by {name!r} sampling is refused: {why}",
        'use "none", or "poisson" where participation is random and secret',
    )
