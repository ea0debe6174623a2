"""Renyi differential privacy of the Poisson-sampled Gaussian mechanism, at integer orders.

Mironov, Talwar, Zhang 2019, section 3.3: for an integer order a the Renyi divergence of one round
is ``log(A) / (a - 1)`` with

    A = sum over k of C(a, k) (1-q)^(a-k) q^k exp((k^2 - k) / (2 z^2))

and it bounds both directions of the add-or-remove relation (Theorem 5 there). The binomial weights
sum to 1 and the terms k = 0, 1 have factor 1, hence ``A - 1`` is the same sum over k >= 2 with
``expm1`` in place of ``exp``: all terms positive, so tiny rates lose no digits.

Conversion to (epsilon, delta): Canonne, Kamath, Steinke 2020, Proposition 12.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qres_dp.accounting.limits import Kind

_MORE: Final = (72, 80, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096)
ORDERS: Final = (*range(2, 65), *_MORE)
"""The Renyi orders tried. Any of them gives a bound; the least is reported."""

_SLACK: Final = 1e-9  # logarithms of factorials are good to 3e-11 here


@functools.cache
def _log_factorials() -> NDArray[np.float64]:
    return np.array([math.lgamma(k + 1.0) for k in range(ORDERS[-1] + 1)])


def _log_moment(order: int, noise: float, rate: float) -> float:
    """``log A``, rounded up."""
    if rate == 1.0:
        return (order - 1) * order / (2.0 * noise * noise) * (1.0 + _SLACK)
    k = np.arange(2, order + 1)
    table = _log_factorials()
    binomial = table[order] - table[k] - table[order - k]
    weight = binomial + k * math.log(rate) + (order - k) * math.log1p(-rate)
    exponent = k * (k - 1.0) / (2.0 * noise * noise)
    # log(expm1(x)) without overflow: x + log(1 - exp(-x)).
    terms = weight + exponent + np.log(-np.expm1(-exponent))
    top = float(terms.max())
    log_excess = top + math.log(float(np.exp(terms - top).sum()))
    # log(1 + exp(y)).
    if log_excess > 0.0:
        return (log_excess + math.log1p(math.exp(-log_excess))) * (1.0 + _SLACK) + _SLACK
    return math.log1p(math.exp(log_excess)) * (1.0 + _SLACK)


@functools.lru_cache(maxsize=512)
def curve(noise: float, rate: float) -> tuple[float, ...]:
    """The Renyi divergence of one round at each of :data:`ORDERS`, rounded up.

    Complexity: the sum of the orders, once for each pair.
    """
    return tuple(_log_moment(order, noise, rate) / (order - 1) for order in ORDERS)


def _convert(order: int, divergence: float, delta_: float) -> float:
    gap = math.log1p(-1.0 / order) - (math.log(delta_) + math.log(order)) / (order - 1)
    return divergence + gap


def _total(kinds: Mapping[Kind, int]) -> list[float]:
    """The Renyi divergence of all rounds at each of :data:`ORDERS`, rounded up."""
    curves = [(curve(*kind), times) for kind, times in kinds.items()]
    return [math.fsum(times * values[i] for values, times in curves) for i in range(len(ORDERS))]


def epsilon(kinds: Mapping[Kind, int], delta_: float) -> float:
    """Epsilon after so many rounds of each kind, rounded up; ``delta_`` is in (0, 1)."""
    found = (
        _convert(order, value, delta_) for order, value in zip(ORDERS, _total(kinds), strict=True)
    )
    return max(0.0, min(found) * (1.0 + 1e-12) + 1e-12)


def delta(kinds: Mapping[Kind, int], epsilon_: float) -> float:
    """Delta after so many rounds of each kind, rounded up; at most 1."""
    best = 0.0
    for order, value in zip(ORDERS, _total(kinds), strict=True):
        exponent = (order - 1) * (math.log1p(-1.0 / order) - (epsilon_ - value)) - math.log(order)
        best = min(best, exponent)
    return min(1.0, math.exp(best) * (1.0 + 1e-9))
