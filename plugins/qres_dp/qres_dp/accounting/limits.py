"""Inputs that the accountants take, and their refusals.

Inside these limits every value is an upper bound; outside them there is a refusal, never a guess.
"""

from __future__ import annotations

import math
from typing import Final, TypeAlias

from qres_core.errors import CompatibilityError, ConfigError

Kind: TypeAlias = float
"""What rounds of a kind have in common: the noise multiplier."""

LEAST_DELTA: Final = 1e-100
DELTA: Final = (LEAST_DELTA, math.nextafter(1.0, 0.0))
EPSILON: Final = (1e-9, 1e6)
NOISE: Final = (1e-3, 1e9)
ROUNDS: Final = (1, 10**9)


def _refuse(where: str, what: str) -> CompatibilityError:
    return CompatibilityError.of("QRES-E314", where, what)


def _number(where: str, value: object, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError.of("QRES-E104", where, f"{value!r} is not a number")
    if not low <= value <= high:  # NaN fails as well
        raise _refuse(where, f"{value!r} is outside {low:g} to {high:g}, which is accounted for")
    return float(value)


def check_delta(value: object) -> float:
    """A delta, in ``[1e-100, 1)``.

    Raises ConfigError: QRES-E104 for what is no number. Raises CompatibilityError: QRES-E314 out of
    range.
    """
    return _number("delta", value, *DELTA)


def check_epsilon(value: object) -> float:
    """An epsilon, in ``[1e-9, 1e6]``. Errors as :func:`check_delta`."""
    return _number("epsilon", value, *EPSILON)


def check_noise(value: object) -> float:
    """A noise multiplier in ``[1e-3, 1e9]``. Errors as :func:`check_delta`."""
    return _number("noise_multiplier", value, *NOISE)


def check_rounds(value: object) -> int:
    """A number of rounds, in ``[1, 1e9]``. Errors as :func:`check_delta`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError.of("QRES-E104", "rounds", f"{value!r} is not an integer")
    if not ROUNDS[0] <= value <= ROUNDS[1]:
        raise _refuse("rounds", f"{value} is outside {ROUNDS[0]} to {ROUNDS[1]}")
    return value
