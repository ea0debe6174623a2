"""The statistics of the audits: bounds that hold for finite samples, no asymptotics."""

from __future__ import annotations

import functools
import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

_NORMAL = NormalDist()


def _binomial_below(k: int, n: int, p: float) -> float:
    """P(Bin(n, p) <= k)."""
    i = np.arange(k, dtype=np.float64)
    steps = np.log(n - i) - np.log(i + 1.0)
    choose = np.concatenate([np.zeros(1), np.cumsum(steps)])
    j = np.arange(k + 1, dtype=np.float64)
    return float(np.exp(choose + j * math.log(p) + (n - j) * math.log1p(-p)).sum())


@functools.lru_cache(maxsize=4096)
def rate_above(k: int, n: int, alpha: float) -> float:
    """Upper bound of a rate after ``k`` of ``n``, wrong with probability at most ``alpha``.

    Source: Clopper and Pearson 1934.
    """
    if k >= n:
        return 1.0
    low, high = k / n, 1.0
    for _ in range(50):
        middle = 0.5 * (low + high)
        if _binomial_below(k, n, middle) > alpha:
            low = middle
        else:
            high = middle
    return high


def loss_below(
    without: NDArray[np.float64], with_: NDArray[np.float64], threshold: float, alpha: float
) -> float:
    """Lower bound of mu, wrong with probability at most ``alpha``, from scores of both sides.

    A mechanism that is mu-GDP lets no test reach error rates ``a`` and ``b`` with
    ``Phi^-1(1 - a) - Phi^-1(b) > mu``. The test here is score above threshold; the threshold must
    not depend on the scores.

    Args:
        without: scores of runs without the canary, float64, shape (n,).
        with_: scores of runs with it, float64, shape (m,).
        threshold: of the test.
        alpha: chance of a false alarm.

    Source: Nasr, Hayes, Steinke et al. 2023, section 4; Dong, Roth, Su 2022, definition 2.6.
    """
    false_positive = rate_above(int((without > threshold).sum()), without.size, alpha / 2)
    false_negative = rate_above(int((with_ <= threshold).sum()), with_.size, alpha / 2)
    if false_positive >= 1.0 or false_negative >= 1.0:
        return -math.inf
    return -_NORMAL.inv_cdf(false_positive) - _NORMAL.inv_cdf(false_negative)


def scale_score(residuals: NDArray[np.float64]) -> float:
    """By how many deviations the mean square of standard normal residuals is off.

    The sum of squares is chi-square; its cube root is close to normal, in both tails.

    Source: Wilson and Hilferty 1931.
    """
    variance = 2.0 / (9.0 * residuals.size)
    root = math.cbrt(float(np.mean(residuals**2)))
    return abs(root - (1.0 - variance)) / math.sqrt(variance)


def mean_score(values: NDArray[np.float64]) -> float:
    """By how many deviations the mean of values of mean 0 and variance 1 is off."""
    return abs(float(np.mean(values))) * math.sqrt(values.size)


def tail_score(values: NDArray[np.float64], beyond: float) -> float:
    """By how many deviations the number of standard normal values beyond a point is off.

    Exact binomial tails, on both sides. ``values``: float64, shape ``(m,)``. O(m).
    """
    rate, size = math.erfc(beyond / math.sqrt(2.0)), values.size
    count = int((np.abs(values) > beyond).sum())
    few = _binomial_below(count, size, rate)
    many = _binomial_below(size - count, size, 1.0 - rate)
    return -_NORMAL.inv_cdf(min(max(few, 1e-300), max(many, 1e-300), 0.5))
