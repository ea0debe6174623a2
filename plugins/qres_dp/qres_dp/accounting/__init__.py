"""What a number of noisy rounds costs, as an upper bound, and how much noise a budget asks for.

The *noise multiplier* z is the standard deviation of the noise over the sensitivity of what it is
added to, in one round. Without sampling the account is exact (:mod:`.gaussian`). With Poisson
sampling, the least of three bounds is reported (:mod:`.composition`).
"""

from __future__ import annotations

import math
from typing import Final

from qres_core import CompatibilityError
from qres_dp.accounting import gaussian, rdp
from qres_dp.accounting.composition import delta_of, spent
from qres_dp.accounting.limits import (
    NOISE,
    ROUNDS,
    check_delta,
    check_epsilon,
    check_noise,
    check_rate,
    check_rounds,
)

__all__ = ["calibrate", "delta", "epsilon", "most_rounds"]

_CLOSE: Final = 1e-4  # of epsilon, where every trial costs a convolution


def _epsilon(noise: float, rounds: int, delta_: float, rate: float) -> float:
    return spent({(noise, rate): rounds}, delta_)


def epsilon(
    noise_multiplier: float, rounds: int, delta: float, *, sampling_rate: float = 1.0
) -> float:
    """Epsilon after so many rounds, never below the true value.

    Args:
        noise_multiplier: standard deviation over sensitivity, of one round.
        rounds: how many rounds of it.
        delta: of the guarantee, in ``[1e-100, 1)``.
        sampling_rate: probability of each member to take part. Below 1 only for Poisson sampling
            under the add-or-remove relation, and only where participation is secret.

    Raises:
        CompatibilityError: QRES-E314 outside the limits in :mod:`qres_dp.accounting.limits`.
        ConfigError: QRES-E104 for what is no number.

    Complexity: microseconds without sampling, else tenths of a second; results are remembered.

    Example:
        >>> round(epsilon(1.0, 1000, 1e-5, sampling_rate=0.01), 3)
        1.828
    """
    return _epsilon(
        check_noise(noise_multiplier),
        check_rounds(rounds),
        check_delta(delta),
        check_rate(sampling_rate),
    )


def delta(
    noise_multiplier: float, rounds: int, epsilon: float, *, sampling_rate: float = 1.0
) -> float:
    """Delta after so many rounds at the given epsilon, never below the true value; at most 1.

    Deltas below 1e-100 are reported as 1e-100. Arguments and errors as :func:`epsilon`.
    """
    noise, number = check_noise(noise_multiplier), check_rounds(rounds)
    target, rate = check_epsilon(epsilon), check_rate(sampling_rate)
    return delta_of({(noise, rate): number}, target)


def _plain(epsilon_: float, delta_: float, rounds: int) -> float:
    """The noise multiplier without sampling, rounded up."""
    mu = gaussian.mu(epsilon_, delta_)
    return math.sqrt(rounds) / mu * (1.0 + 4e-12) if mu > 0.0 else math.inf


def _renyi(epsilon_: float, delta_: float, rounds: int, rate: float, high: float) -> float:
    """As :func:`_plain`, with sampling, by Renyi DP alone: quick, and little more than needed."""
    low = NOISE[0]
    if rdp.epsilon({(high, rate): rounds}, delta_) > epsilon_:
        return high
    while high > low * 1.001:
        middle = math.sqrt(low * high)
        if rdp.epsilon({(middle, rate): rounds}, delta_) <= epsilon_:
            high = middle
        else:
            low = middle
    return high


def _sampled(epsilon_: float, delta_: float, rounds: int, rate: float, high: float) -> float:
    """As :func:`_plain`, with sampling; ``high`` is known to be enough.

    False position on the logarithms: epsilon is close to a power of the noise. Each guess aims a
    little below the target, so that it ends on the safe side.
    """
    goal = math.log(epsilon_) - 0.5 * _CLOSE

    def excess(noise: float) -> float:
        return math.log(max(_epsilon(noise, rounds, delta_, rate), 1e-300)) - goal

    high = _renyi(epsilon_, delta_, rounds, rate, high)
    low, lower, upper = NOISE[0], math.inf, excess(high)
    pace = 0.93
    for _ in range(100):
        if upper >= -0.5 * _CLOSE or high <= low * (1.0 + 1e-9):
            break
        if math.isfinite(lower):
            share = min(0.99, max(0.01, upper / (upper - lower)))
            point = high * (low / high) ** share
        else:
            point, pace = max(low, high * pace), pace * pace
        value = excess(point)
        if value <= 0.5 * _CLOSE:
            high, upper = point, value
        else:
            low, lower = point, value
    return high


def calibrate(epsilon: float, delta: float, rounds: int, *, sampling_rate: float = 1.0) -> float:
    """The noise multiplier that a budget asks for, rounded up.

    :func:`epsilon` at the returned multiplier is at most ``epsilon``: this is checked before it is
    returned. Without sampling it is the least one to 1e-10 of itself; with it,
    its epsilon is within 1e-4 of the target.

    Raises:
        QresError: as :func:`epsilon`; QRES-E314 too where the multiplier itself is out of limits.

    Complexity: a few evaluations of :func:`epsilon` without sampling, about ten with it.

    Example:
        >>> round(calibrate(4.377179, 1e-5, 100), 4)
        10.0
    """
    target, level = check_epsilon(epsilon), check_delta(delta)
    number, rate = check_rounds(rounds), check_rate(sampling_rate)
    noise = max(_plain(target, level, number), NOISE[0])
    if rate < 1.0:
        noise = _sampled(target, level, number, rate, min(noise, NOISE[1]))
    for _ in range(8):
        if noise > NOISE[1]:
            break
        if _epsilon(noise, number, level, rate) <= target:
            return noise
        noise *= 1.0 + 1e-11
    raise CompatibilityError.of(
        "QRES-E314",
        "epsilon",
        f"({target:g}, {level:g}) over {number} rounds needs noise of over {NOISE[1]:g} times the "
        "sensitivity",
        "raise epsilon or delta, or take fewer rounds",
    )


def most_rounds(
    noise_multiplier: float, epsilon: float, delta: float, *, sampling_rate: float = 1.0
) -> int:
    """The most rounds that a budget lasts for: 0 if not for one, and at most 1e9.

    With sampling it is within 1e-4 of the most, and never more. Arguments and errors as
    :func:`epsilon`. Complexity: a few dozen evaluations of :func:`epsilon`.
    """
    noise, level = check_noise(noise_multiplier), check_delta(delta)
    target, rate = check_epsilon(epsilon), check_rate(sampling_rate)

    def fits(rounds: int) -> bool:
        return _epsilon(noise, rounds, level, rate) <= target

    if not fits(1):
        return 0
    low = 1
    while low < ROUNDS[1] and fits(min(2 * low, ROUNDS[1])):
        low = min(2 * low, ROUNDS[1])
    high = min(2 * low, ROUNDS[1] + 1)
    while high - low > max(1, low // 10_000 if rate < 1.0 else 1):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
