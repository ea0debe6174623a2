"""What a promise needs, by formulas of the audit's own: it imports nothing of what it audits.

Sources: Balle, Wang 2018, theorem 8 (a Gaussian release); Dong, Roth, Su 2022 (releases together).
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Final

_LEMMA: Final = 9
"""Squared steps of the grid that are added for the step from real numbers to integers."""


def _above(x: float) -> float:
    """P(N(0, 1) > x)."""
    return 0.5 * math.erfc(x / math.sqrt(2.0))


def delta_of(mu: float, epsilon: float) -> float:
    """Delta of a mu-Gaussian release at an epsilon."""
    far, near = epsilon / mu + mu / 2.0, epsilon / mu - mu / 2.0
    return _above(near) - math.exp(epsilon) * _above(far)


def epsilon_of(mu: float, delta: float) -> float:
    """Epsilon of a mu-Gaussian release at a delta."""
    low, high = 0.0, 1.0
    while high < 600.0 and delta_of(mu, high) > delta:
        high *= 2.0
    for _ in range(80):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if delta_of(mu, middle) > delta else (low, middle)
    return high


def mu_of(epsilon: float, delta: float) -> float:
    """The mu of Gaussian releases that come to this epsilon at this delta."""
    low, high = 1e-6, 100.0
    for _ in range(80):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if delta_of(middle, epsilon) < delta else (low, middle)
    return low


def bound_steps(clip: float, scale: int) -> int:
    """The clip in whole steps of the grid."""
    return int(Fraction(clip) * Fraction(2) ** (16 - scale))


def least_variance(multiplier: float, sensitivity: int) -> Fraction:
    """Of the noise of a sum, in squared steps of the grid."""
    return (Fraction(multiplier) * sensitivity) ** 2 + _LEMMA


def coefficients(band: int) -> list[int]:
    """Of the square root of a sum's matrix, in units of ``2**-16``, rounded down."""
    return [math.comb(2 * k, k) * 2**16 >> (2 * k) for k in range(band)]


def squared_sensitivity(band: int, steps: int, separation: int) -> int:
    """Of a stream with data in its first step and every ``separation`` after it; ``2**-32``."""
    row, total = coefficients(band), 0
    for step in range(steps):
        taken = range(0, step + 1, separation)
        total += sum(row[step - item] for item in taken if step - item < band) ** 2
    return total
