"""What a list of charges adds up to."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Mapping
from typing import TypeAlias

from qres_dp.accounting import epsilon

Kind: TypeAlias = tuple[float, float]
"""Noise multiplier and sampling rate: charges of one kind compose as one."""

_DOWN = 1.0 - 2.0**-40


@functools.lru_cache(maxsize=256)
def _epsilon(z: float, rounds: int, delta: float, rate: float = 1.0) -> float:
    return epsilon(z, rounds, delta, sampling_rate=rate)


def spent(kinds: Mapping[Kind, int], delta: float) -> float:
    """The epsilon of so many releases of each kind, at one delta.

    Releases without sampling are Gaussian mechanisms whatever their noise, and compose exactly to
    one with ``1/z**2 = sum 1/z_i**2``. Releases with sampling compose exactly with those of the
    same kind. Several such groups are added up, each at an equal part of ``delta`` (basic
    composition): sound, not tight. Returns an upper bound; 0 for nothing. Raises
    CompatibilityError: QRES-E314 where the accounting has no bound.
    """
    plain = Counter({z: n for (z, rate), n in kinds.items() if n and rate == 1.0})
    sampled = [(z, rate, n) for (z, rate), n in kinds.items() if n and rate < 1.0]
    groups = len(sampled) + bool(plain)
    if not groups:
        return 0.0
    part = delta if groups == 1 else delta / groups * _DOWN
    total = 0.0
    if len(plain) == 1:
        ((z, n),) = plain.items()
        total += _epsilon(z, n, part)
    elif plain:
        together = 1.0 / math.sqrt(math.fsum(n / (z * z) for z, n in plain.items()))
        total += _epsilon(together * _DOWN, 1, part)
    for z, rate, n in sampled:
        total += _epsilon(z, n, part, rate)
    return total
