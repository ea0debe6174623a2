"""Sum of rounds of several kinds: exact.

Rounds are Gaussian mechanisms whatever their noise, and compose to one with ``1/z**2 = sum
1/z_i**2`` (:mod:`.gaussian`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Final

from qres_dp.accounting import gaussian
from qres_dp.accounting.limits import LEAST_DELTA, NOISE, Kind, check_noise

_UP: Final = 1.0 + 1e-12


def spent(kinds: Mapping[Kind, int], delta: float) -> float:
    """The epsilon of so many rounds of each kind, never below the true value.

    Args:
        kinds: how many rounds of each kind; kinds with none are left out.
        delta: of the guarantee, in ``[1e-100, 1)``.

    Returns:
        an upper bound; 0 for no rounds.

    Raises:
        CompatibilityError: QRES-E314 for a kind that is not accounted for.

    Complexity: linear in the kinds. Results are remembered.
    """
    mu = together(_checked(kinds))
    return _epsilon(mu, delta) if mu else 0.0


@functools.lru_cache(maxsize=4096)
def _epsilon(mu: float, delta: float) -> float:
    return gaussian.epsilon(mu, delta)


def delta_of(kinds: Mapping[Kind, int], epsilon: float) -> float:
    """Delta of so many rounds of each kind at an epsilon, never below the true value; at most 1.

    Deltas below 1e-100 are reported as 1e-100. Arguments, errors and complexity as :func:`spent`.
    """
    mu = together(_checked(kinds))
    return max(LEAST_DELTA, gaussian.delta(mu, epsilon)) if mu else LEAST_DELTA


def _checked(kinds: Mapping[Kind, int]) -> Mapping[Kind, int]:
    """The kinds of which there are rounds. Raises CompatibilityError: QRES-E314."""
    for noise in kinds:
        check_noise(min(noise, NOISE[1]))  # there is no such thing as too much noise
    return {noise: n for noise, n in kinds.items() if n}


def together(kinds: Mapping[Kind, int]) -> float:
    """The mu of all rounds, rounded up; 0 for none. O(kinds)."""
    return math.sqrt(math.fsum(n / (noise * noise) for noise, n in kinds.items())) * _UP
