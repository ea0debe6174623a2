"""Cost of a number of noisy rounds, as an upper bound, and the noise that a budget asks for.

The *noise multiplier* z is the standard deviation of the noise over the sensitivity of what it is
added to, in one round. The account is exact (:mod:`.gaussian`).
"""

from __future__ import annotations

import math

from qres_core.errors import CompatibilityError
from qres_dp.accounting import gaussian
from qres_dp.accounting.composition import delta_of, spent
from qres_dp.accounting.limits import (
    NOISE,
    ROUNDS,
    check_delta,
    check_epsilon,
    check_noise,
    check_rounds,
)

__all__ = ["calibrate", "delta", "epsilon", "most_rounds"]


def _epsilon(noise: float, rounds: int, delta_: float) -> float:
    return spent({noise: rounds}, delta_)


def epsilon(noise_multiplier: float, rounds: int, delta: float) -> float:
    """Epsilon after so many rounds, never below the true value.

    Args:
        noise_multiplier: standard deviation over sensitivity, of one round.
        rounds: how many rounds of it.
        delta: of the guarantee, in ``[1e-100, 1)``.

    Raises:
        CompatibilityError: QRES-E314 outside the limits in :mod:`qres_dp.accounting.limits`.
        ConfigError: QRES-E104 for what is no number.

    Complexity: microseconds; results are remembered.

    Example:
        >>> round(epsilon(10.0, 100, 1e-5), 4)
        4.3772
    """
    return _epsilon(check_noise(noise_multiplier), check_rounds(rounds), check_delta(delta))


def delta(noise_multiplier: float, rounds: int, epsilon: float) -> float:
    """Delta after so many rounds at the given epsilon, never below the true value; at most 1.

    Deltas below 1e-100 are reported as 1e-100. Arguments and errors as :func:`epsilon`.
    """
    noise, number = check_noise(noise_multiplier), check_rounds(rounds)
    return delta_of({noise: number}, check_epsilon(epsilon))


def _plain(epsilon_: float, delta_: float, rounds: int) -> float:
    """The noise multiplier, rounded up."""
    mu = gaussian.mu(epsilon_, delta_)
    return math.sqrt(rounds) / mu * (1.0 + 4e-12) if mu > 0.0 else math.inf


def calibrate(epsilon: float, delta: float, rounds: int) -> float:
    """The noise multiplier that a budget asks for, rounded up.

    :func:`epsilon` at the returned multiplier is at most ``epsilon``: this is checked before it is
    returned. It is the least one to 1e-10 of itself.

    Raises:
        QresError: as :func:`epsilon`; QRES-E314 too where the multiplier itself is out of limits.

    Complexity: a few evaluations of :func:`epsilon`.

    Example:
        >>> round(calibrate(4.377179, 1e-5, 100), 4)
        10.0
    """
    target, level = check_epsilon(epsilon), check_delta(delta)
    number = check_rounds(rounds)
    noise = max(_plain(target, level, number), NOISE[0])
    for _ in range(8):
        if noise > NOISE[1]:
            break
        if _epsilon(noise, number, level) <= target:
            return noise
        noise *= 1.0 + 1e-11
    raise CompatibilityError.of(
        "QRES-E314",
        "epsilon",
        f"({target:g}, {level:g}) over {number} rounds needs noise of over {NOISE[1]:g} times the "
        "sensitivity",
        "raise epsilon or delta, or take fewer rounds",
    )


def most_rounds(noise_multiplier: float, epsilon: float, delta: float) -> int:
    """The most rounds that a budget lasts for: 0 if not for one, and at most 1e9.

    Arguments and errors as :func:`epsilon`. Complexity: a few dozen evaluations of :func:`epsilon`.
    """
    noise, level = check_noise(noise_multiplier), check_delta(delta)
    target = check_epsilon(epsilon)

    def fits(rounds: int) -> bool:
        return _epsilon(noise, rounds, level) <= target

    if not fits(1):
        return 0
    low = 1
    while low < ROUNDS[1] and fits(min(2 * low, ROUNDS[1])):
        low = min(2 * low, ROUNDS[1])
    high = min(2 * low, ROUNDS[1] + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
