"""Robustness of a result, measured exactly: the coefficient of (f, kappa)-robustness.

A rule ``F`` is (f, kappa)-robust if for all inputs ``x_1..x_n`` and every set ``S`` of ``n - f``
of them ``|F - mean_S|**2 <= kappa * (1/|S|) * sum of |x_i - mean_S|**2 over S`` (Allouah,
Farhadkhani, Guerraoui, Gupta, Pinot, Stephan, AISTATS 2023, definition 2). Whichever ``n - f``
inputs are the honest ones, the result is as near their mean as their own spread allows. No rule
has a ``kappa`` below ``f / (n - 2 f)``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from fractions import Fraction
from typing import Final

import attrs
import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]

MAX_SUBSETS: Final = 2048
"""Above this many sets ``S`` a sample of them is looked at; 11 inputs have at most 462."""
_LIMB: Final = 17
_FINE: Final = 40


def lower_bound(count: int, liars: int) -> Fraction:
    """``f / (n - 2 f)``: no rule has a smaller kappa (Allouah et al. 2023, proposition 6)."""
    return Fraction(liars, count - 2 * liars)


def published_bound(count: int, liars: int) -> float:
    """The larger of the bounds proven for Krum, and for the coordinate-wise and geometric medians.

    ``6 (1 + r)`` and ``4 (1 + r)**2`` with ``r = f / (n - 2 f)`` (Allouah et al. 2023, table 1).
    """
    ratio = 1.0 + float(lower_bound(count, liars))
    return max(6.0 * ratio, 4.0 * ratio**2)


@attrs.frozen
class Worst:
    """The largest kappa some inputs ask for.

    Attributes:
        kappa: exact, less what rounding to the grid may have added; ``math.inf`` where the inputs
            of ``S`` are equal and the result is another.
        liars: rows outside the set ``S`` that asks for it.
        sets: how many sets were looked at.
    """

    kappa: Fraction | float
    liars: tuple[int, ...]
    sets: int

    @property
    def finite(self) -> bool:
        """True if any kappa is enough."""
        return self.kappa != math.inf


def subsets(count: int, size: int) -> NDArray[np.int64]:
    """Indicator rows of the sets of ``size`` out of ``count``.

    Returns:
        int64 of zeros and ones, shape ``(sets, count)``: all sets if there are at most
        :data:`MAX_SUBSETS`; else the first ``size``, the last ``size``, and a sample that is the
        same every time.
    """
    chosen: Iterable[Iterable[int]]
    if math.comb(count, size) <= MAX_SUBSETS:
        chosen = itertools.combinations(range(count), size)
    else:
        rng = np.random.default_rng(count * 1000 + size)
        drawn = (rng.permutation(count)[:size].tolist() for _ in range(MAX_SUBSETS - 2))
        chosen = itertools.chain((range(size), range(count - size, count)), drawn)
    members = [list(item) for item in chosen]
    indicators = np.zeros((len(members), count), dtype=np.int64)
    for row, member in enumerate(members):
        indicators[row, member] = 1
    return indicators


def _limbs(differences: Rows) -> tuple[Rows, Rows, Rows]:
    """The Gram matrix of rows below 2**34 as ``high * 2**34 + middle * 2**17 + low``, in int64."""
    high, low = differences >> _LIMB, differences & (2**_LIMB - 1)
    cross = high @ low.T
    return high @ high.T, cross + cross.T, low @ low.T


def _sums(indicators: NDArray[np.int64], parts: tuple[Rows, Rows, Rows]) -> list[int]:
    """``s' G s`` for every indicator ``s``: the squared length of the sum of its rows; exact."""
    folded = [((indicators @ part) * indicators).sum(axis=1).tolist() for part in parts]
    return [(a << 2 * _LIMB) + (b << _LIMB) + c for a, b, c in zip(*folded, strict=True)]


def _squares(indicators: NDArray[np.int64], parts: tuple[Rows, Rows, Rows]) -> list[int]:
    """The summed squared lengths of the rows of every indicator; exact."""
    folded = [(indicators @ part.diagonal()).tolist() for part in parts]
    return [(a << 2 * _LIMB) + (b << _LIMB) + c for a, b, c in zip(*folded, strict=True)]


def worst_kappa(rows: Rows, result: Rows, indicators: NDArray[np.int64], rounding: int) -> Worst:
    """The largest kappa that a result asks for, over all sets ``S``.

    With ``m = |S|``, ``T`` the sum and ``Q`` the summed squared lengths of the rows of ``S``, all
    seen from the result, it is ``|T|**2 / (m Q - |T|**2)``: integers. The result is rounded to the
    grid, and so are the inputs: half a step a coordinate for each, and ``rounding`` steps more, are
    taken off ``|T| / m``.

    Args:
        rows: the inputs, within int32, shape ``(n, d)``.
        result: what the rule made of them, within int32, shape ``(d,)``.
        indicators: the sets, from :func:`subsets`.
        rounding: grid steps by which the rule may miss what it means, a coordinate.

    Complexity: O(sets * n**2 + n**2 * d).
    """
    size, dimension = int(indicators[0].sum()), rows.shape[1]
    parts = _limbs(rows - result)
    pulls = _sums(indicators, parts)
    spreads = [
        size * square - pull
        for square, pull in zip(_squares(indicators, parts), pulls, strict=True)
    ]
    half_steps = size * (2 + 2 * rounding)
    grace = math.isqrt(dimension * half_steps**2 << (2 * _FINE - 2)) + 1  # in 2**-40 steps
    rough = [
        _rough(pull, spread, grace * 2.0**-_FINE)
        for pull, spread in zip(pulls, spreads, strict=True)
    ]
    chosen = rough.index(max(rough))
    pull, spread = pulls[chosen], spreads[chosen]
    left = max(0, math.isqrt(pull << 2 * _FINE) - grace)
    kappa: Fraction | float = Fraction(0)
    if left:
        kappa = Fraction(left**2, spread << 2 * _FINE) if spread else math.inf
    liars = tuple(int(row) for row in np.flatnonzero(indicators[chosen] == 0))
    return Worst(kappa, liars, len(indicators))


def _rough(pull: int, spread: int, grace: float) -> float:
    left = max(0.0, math.sqrt(pull) - grace)
    if not spread:
        return math.inf if left else 0.0
    return left * left / spread


def as_text(kappa: Fraction | float) -> str:
    """``1.73``, or ``unbounded``."""
    return "unbounded" if kappa == math.inf else f"{float(kappa):.4g}"
