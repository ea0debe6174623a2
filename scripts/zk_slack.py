"""Check every ``beta`` of ``qres_zk.slack`` with bounds that hold for every vector.

    python scripts/zk_slack.py

For a vector of norm 1 and random signs, ``Q`` its signed sum, the probability that ``k`` squares
add up to at most ``beta k`` is at most ``(exp(h beta) Phi(h)) ** k`` for every ``h > 0``, where

    Phi(h) = sup over N >= 1 of E |cos(a / sqrt(N))| ** N,   a = sqrt(2 h) g,  g standard normal.

Here the supremum and the expectation are bounded from above, not sampled: ``N`` and ``a`` run over
intervals that cover their range, and the integrand is replaced by an upper bound over each pair of
intervals. With ``x = a / sqrt(N)``, ``N log|cos x| = a**2 log|cos x| / x**2``: over an interval of
``x``, ``log|cos x|`` is at most 0 if it has a multiple of pi and else largest at an end, and
``1 / x**2`` of a non-positive numerator is best at the largest ``x``. For ``N`` beyond the last
interval, ``|cos x| ** N <= exp(-a**2 / 2)`` where ``x <= pi / 2``; the rest has a bounded tail.
"""

from __future__ import annotations

import math
import sys
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from qres_zk.slack import BETA

FARTHEST = 9.0
CELLS = 9 * 2000
LARGEST = 400.0
"""Numbers of equal entries beyond this are handled together."""


def tail(x: float) -> float:
    """Upper bound of the two-sided normal tail beyond ``x``."""
    return 2 * math.exp(-x * x / 2) / (x * math.sqrt(2 * math.pi))


def upper(h: float, low: float, high: float) -> float:
    """Upper bound of ``E |cos(a / sqrt(N))| ** N`` over ``low <= N <= high``."""
    edges = np.linspace(0.0, FARTHEST, CELLS + 1)
    left, right = edges[:-1], edges[1:]
    scale = math.sqrt(2 * h)
    x_low, x_high = scale * left / math.sqrt(high), scale * right / math.sqrt(low)
    crosses = np.floor(x_high / np.pi) > np.floor(x_low / np.pi)
    with np.errstate(divide="ignore"):
        ends = np.maximum(np.log(np.abs(np.cos(x_low))), np.log(np.abs(np.cos(x_high))))
    logs: NDArray[np.float64] = np.where(crosses, 0.0, np.minimum(ends, 0.0))
    # N log|cos x| <= N_low * logs as well: both bounds hold, the smaller counts.
    first = low * logs
    second = (scale * left) ** 2 * logs / np.maximum(x_high, 1e-300) ** 2
    values = np.exp(np.minimum(first, second))
    # The density falls on both cells' sides of zero: its value at the left end is its largest.
    density = np.exp(-(left**2) / 2) / math.sqrt(2 * math.pi)
    return float(2 * np.sum(values * density) * (FARTHEST / CELLS)) * (1 + 1e-9) + tail(FARTHEST)


def beyond(h: float) -> float:
    """Upper bound for all ``N >= LARGEST``."""
    reach = math.pi / 2 * math.sqrt(LARGEST / (2 * h))
    return 1 / math.sqrt(1 + 2 * h) + tail(reach)


def phi(h: float) -> float:
    """Upper bound of ``Phi(h)``."""
    edges = [1.0]  # where the supremum is for large h: there the intervals are shorter
    while edges[-1] < LARGEST:
        edges.append(edges[-1] * (1.0003 if edges[-1] < 1.02 else 1.004))
    return max(beyond(h), *(upper(h, low, high) for low, high in pairwise(edges)))


def promising(k: int, beta: float) -> list[float]:
    """A few values of ``h`` to try: where the bound is best for one entry and for very many."""

    def bits(h: float) -> float:
        g = np.linspace(-FARTHEST, FARTHEST, 4001)
        weight = np.exp(-(g**2) / 2) / math.sqrt(2 * math.pi) * (g[1] - g[0])
        single = float((weight * np.abs(np.cos(math.sqrt(2 * h) * g))).sum())
        return -k * (h * beta * math.log2(math.e) + math.log2(max(single, (1 + 2 * h) ** -0.5)))

    tried = sorted(np.geomspace(0.05, 30.0, 400).tolist(), key=bits)
    return [tried[-1], tried[-6]]


def main() -> int:
    """Print for each entry the bits that hold; exit 1 if one has fewer than it says."""
    good = True
    for (k, security), beta in sorted(BETA.items()):
        bits, at = max(
            (-k * (h * float(beta) * math.log2(math.e) + math.log2(phi(h))), h)
            for h in promising(k, float(beta))
        )
        good &= bits >= security
        says = f"{bits:7.2f} bits, says {security} (h = {at:.2f})"
        print(f"k = {k:4d}  beta = {float(beta):.4f}  {says}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
