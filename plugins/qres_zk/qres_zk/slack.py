"""Slack: how far above the honest bound an accepted vector can be.

An honest vector has ``|u| <= B`` and is accepted if its ``k`` random signed sums satisfy
``sum p_t**2 <= tau k B**2``. ``tau`` is such that it fails with probability at most ``2**-10``, and
the prover tries again with a fresh blind. A vector that is accepted has ``|u| <= sigma B``, with
``sigma**2 = tau / beta``, except with probability ``2**-security`` for each try of a cheater, where

- upper tail (D. Achlioptas, "Database-friendly random projections", JCSS 2003):
  ``Pr[sum p_t**2 >= tau k |u|**2] <= (tau exp(1 - tau)) ** (k / 2)``;
- lower tail, for every vector: ``Pr[sum p_t**2 <= beta k |u|**2] <= min_h (exp(h beta) Phi(h))**k``
  with ``Phi(h) = sup over N >= 1 of E_g |cos(sqrt(2 h / N) g)|**N``, ``g`` normal, by the weighted
  inequality of arithmetic and geometric means.

``scripts/zk_slack.py`` bounds the supremum and the integral from above by interval arithmetic and
checks every ``beta`` of the table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from types import MappingProxyType
from typing import Final

PROJECTIONS: Final = (256, 512, 1024)
SECURITY: Final = (40, 80, 128)

RETRY_BITS: Final = 10
"""An honest vector at the bound fails with probability at most ``2**-10`` a try."""

TAU: Final[Mapping[int, Fraction]] = MappingProxyType(
    {256: Fraction(1366, 1000), 512: Fraction(1251, 1000), 1024: Fraction(1174, 1000)}
)
"""By the number of projections."""

BETA: Final[Mapping[tuple[int, int], Fraction]] = MappingProxyType(
    {
        (256, 128): Fraction(970, 10000),
        (256, 80): Fraction(2925, 10000),
        (256, 40): Fraction(4750, 10000),
        (512, 128): Fraction(3645, 10000),
        (512, 80): Fraction(4750, 10000),
        (512, 40): Fraction(6000, 10000),
        (1024, 128): Fraction(5180, 10000),
        (1024, 80): Fraction(6000, 10000),
        (1024, 40): Fraction(7015, 10000),
    }
)
"""By the number of projections and the security in bits."""


def budget(bound: int, k: int) -> int:
    """Return what the squared projections may sum up to: ``floor(tau k B**2)``."""
    return math.floor(TAU[k] * k * bound * bound)


def factor(k: int, security: int) -> float:
    """Return ``sigma``, for people to read.

    Example:
        >>> round(factor(256, 128), 2)
        3.75
    """
    return math.sqrt(TAU[k] / BETA[k, security])


def honest_bound(policy: int, k: int, security: int) -> int:
    """Return the greatest ``B`` with ``sigma B <= policy``, exactly.

    Args:
        policy: what no accepted vector may exceed, in steps of the grid.
        k: 256, 512 or 1024.
        security: 40, 80 or 128.

    Example:
        >>> honest_bound(375, 256, 128)
        99
    """
    return math.isqrt(math.floor(policy * policy * BETA[k, security] / TAU[k]))
