"""What is left of a release once the known updates are taken off: size, and independence."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qres_dp.audit.claim import DIMENSION, Claim
from qres_dp.audit.finding import Finding
from qres_dp.audit.statistics import mean_score, scale_score, tail_score
from qres_dp.audit.system import System

ROUNDS: Final = 4
BLOCKS: Final = 16
MANY: Final = 1600
_SHORT: Final = 8
"""Coordinates, each of which is one of some ten thousand numbers: all agree by a key alone."""
LIMIT: Final = 6.0
"""Deviations. An audit has fewer than 1,000 scores: a correct plugin exceeds it once in 500,000."""
LAGS_LIMIT: Final = 8.0
"""Deviations. A product of normals has a heavier tail: by Chernoff's bound a correct plugin exceeds
it in one of the two million lags of an audit once in 10**8 audits."""
_MEDIAN: Final = 0.6744897501960817
"""Half of all standard normal numbers are larger, without their sign."""

Residuals = NDArray[np.float64]


def residuals(package: ModuleType, claim: Claim, size: int, rounds: int) -> Residuals:
    """Noise, in steps of the grid: float64, shape ``(inputs, rounds, size)``."""
    setting = claim.setting
    known = np.full(size, 0 if setting.streams else 3, dtype=np.int32)
    system = System(package, setting)
    sent = np.stack([system.release([known] * system.inputs) for _ in range(rounds)], axis=1)
    return np.stack([(rows - known).astype(np.float64) for rows in sent])


def examine(package: ModuleType, claim: Claim) -> tuple[Finding, Finding]:
    """The largest scores of size and mean; of correlation at every lag of every pair."""
    each = residuals(package, claim, DIMENSION, ROUNDS)
    share = float(claim.share)
    sums = each.sum(axis=0) / math.sqrt(share * claim.setting.honest)
    each = each / math.sqrt(share)
    rows = each.reshape(-1, DIMENSION)
    scores = [scale_score(each.ravel()), scale_score(sums.ravel()), mean_score(each.ravel())]
    scores += [tail_score(each.ravel(), beyond) for beyond in (1.0, 2.0, 3.0)]
    scores += [scale_score(row) for row in rows]
    scores += [scale_score(block) for row in rows for block in np.array_split(row, BLOCKS)]
    size = Finding("noise", claim.setting.name, max(scores), LIMIT)
    return size, Finding("independence", claim.setting.name, correlation(rows), LAGS_LIMIT)


def repeats(package: ModuleType, claim: Claim) -> Finding:
    """How many of many releases have the noise of another: keys of 20 bits would have some."""
    each = residuals(package, claim, _SHORT, MANY // claim.setting.honest)
    rows = each.reshape(-1, _SHORT)
    found = len(rows) - len(np.unique(rows, axis=0))
    return Finding("repeats", claim.setting.name, float(found), 0.0)


def correlation(rows: Residuals) -> float:
    """The largest score of correlation, of values and of sizes, at every lag of every pair.

    ``rows``: standard normal, float64, shape ``(v, d)``. O(v^2 d log d).
    """
    return max(_lags(rows), _lags(_sizes(rows)))


def _lags(rows: Residuals) -> float:
    count, size = rows.shape
    spectra, worst = np.fft.rfft(rows, axis=1), 0.0
    for i in range(count):
        found = np.abs(np.fft.irfft(spectra[i:] * spectra[i].conj(), size, axis=1))
        found[0, 0] = 0.0  # itself
        found[0, size // 2] /= math.sqrt(2.0)  # the lag that has every pair twice
        worst = max(worst, float(found.max()) / math.sqrt(size))
    return worst


def alike(left: Residuals, right: Residuals) -> float:
    """The score of correlation of two runs, of values and of sizes; float64, shape ``(m,)``."""
    sizes = [_sizes(part) for part in (left, right)]
    products = float(left @ right), float(sizes[0] @ sizes[1])
    return max(abs(product) for product in products) / math.sqrt(left.size)


def _sizes(values: Residuals) -> Residuals:
    """1 for the larger half of standard normal numbers, -1 for the others, whatever their sign."""
    return np.where(np.abs(values) > _MEDIAN, 1.0, -1.0)
