"""For the attack gallery: is one node's update in a sum that somebody sees?

The auditor knows all other updates and everything but the noise: the worst case that a privacy
budget is made for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from qres_dp import accounting
from qres_dp_audit.mutants import loaded

from qres_core import NodeId, NodeInfo, OwnContributions, RoundInfo, Update, Vector
from qres_lab.exhibit import AttackFamily, GalleryEntry, GalleryOutcome, GallerySetting

_DIMENSION: Final = 64
_DELTA: Final = 1e-5
_MEASURE: Final = "advantage of a membership guess (1 is certainty)"
_NORMAL: Final = NormalDist()
Sums = Callable[[Vector, Vector], NDArray[np.int64]]
"""Of a canary and somebody else's update: int64, shape ``(runs, d)``."""


def _runs(setting: GallerySetting) -> int:
    return 200 if setting.quick else 1000


_BOUND: Final = 2**16
"""Steps of the grid: the clip is 1."""
_ROSTER: Final = tuple(NodeId(bytes([number]) * 32) for number in range(3))


def _noised(z: float, runs: int, fault: str) -> Sums:
    """Sums of two nodes' updates, whose noise only they know, by the plugin's hooks."""
    options = {"mode": "distributed", "honest": 2, "noise_multiplier": z, "rounds": runs}

    def sums(vector: Vector, other: Vector) -> NDArray[np.int64]:
        with loaded(fault) as package:
            plugins = [package.Dp(clip=1.0, delta=1e-6, **options) for _ in range(2)]
            for plugin, node in zip(plugins, _ROSTER, strict=False):
                plugin.setup(NodeInfo(node, "gallery", _ROSTER))
            return np.stack([_sum(plugins, (other, vector), n) for n in range(1, runs + 1)])

    return sums


def _sum(plugins: Sequence[Any], vectors: Sequence[Vector], number: int) -> NDArray[np.int64]:
    info = RoundInfo("gallery", number, bytes(32), _DIMENSION, 0, _ROSTER, 3, step=number - 1)
    total = np.zeros(_DIMENSION, dtype=np.int64)
    for plugin, vector in zip(plugins, vectors, strict=True):
        plugin.round_opened(info, OwnContributions())
        total += plugin.privatize(Update(vector), info).vector
    return total


def _exact(runs: int) -> Sums:
    """Sums of two nodes' updates as they are."""
    return lambda vector, other: np.tile(vector.astype(np.int64) + other, (runs, 1))


def _advantage(sums: Sums) -> float:
    """True positives less false ones, of a threshold that is chosen before the sums are seen."""
    canary, other = np.zeros(_DIMENSION, dtype=np.int32), np.full(_DIMENSION, 3, dtype=np.int32)
    canary[0] = _BOUND
    without, with_ = (sums(item, other)[:, 0] for item in (np.zeros_like(canary), canary))
    threshold = 3.0 + _BOUND / 2
    return float((with_ > threshold).mean() - (without > threshold).mean())


def _allowed(mu: float, runs: int) -> float:
    """The largest advantage the claim leaves, and four deviations of the estimate."""
    return min(1.0, 2.0 * _NORMAL.cdf(mu / 2.0) - 1.0 + 4.0 * math.sqrt(0.5 / runs))


def _under(
    epsilon: float, setting: GallerySetting, defence: str, fault_: str = ""
) -> GalleryOutcome:
    """A whole budget spent on one sum: as much is told as in all rounds together."""
    z = accounting.calibrate(epsilon, _DELTA, 1)
    runs = _runs(setting)
    found = _advantage(_noised(z, runs, fault_))
    limit = _allowed(1.0 / z, runs)
    right = 50.0 * (1.0 + found)
    return GalleryOutcome.judged(
        defence,
        _MEASURE,
        found,
        limit,
        control=bool(fault_),
        detected=("the audit",) if found > limit else (),
        reason=f"a guess is right in {right:.0f} % of cases, where chance gives 50 and "
        f"epsilon {epsilon:g} allows {50.0 * (2.0 * _NORMAL.cdf(0.5 / z)):.0f}",
    )


def _bare(setting: GallerySetting, defence: str, reason: str, *, control: bool) -> GalleryOutcome:
    found = _advantage(_exact(_runs(setting)))
    return GalleryOutcome.judged(defence, _MEASURE, found, 0.5, control=control, reason=reason)


def _nothing(setting: GallerySetting) -> GalleryOutcome:
    return _bare(
        setting,
        "nothing",
        "the sum is exact, and whoever knows the rest subtracts it",
        control=True,
    )


def _secagg(setting: GallerySetting) -> GalleryOutcome:
    return _bare(
        setting,
        "secure aggregation",
        "it hides how a sum came about, not what it says of a member",
        control=False,
    )


def _loose(setting: GallerySetting) -> GalleryOutcome:
    return _under(8.0, setting, "dp, epsilon 8")


def _tight(setting: GallerySetting) -> GalleryOutcome:
    return _under(1.0, setting, "dp, epsilon 1")


def _full(setting: GallerySetting) -> GalleryOutcome:
    return _under(8.0, setting, "full, one sum, dp")


def _faulty(setting: GallerySetting) -> GalleryOutcome:
    return _under(8.0, setting, "dp with a fault: half the noise", "half the noise")


ENTRIES: Final = (
    GalleryEntry(
        name="membership",
        family=AttackFamily.PRIVACY,
        summary="guess from a sum whether a node's update is in it, knowing all the others",
        aim="the guess is better than the budget allows, or than 75 % without a budget",
        plays={
            "nothing": _nothing,
            "secure aggregation": _secagg,
            "dp, epsilon 8": _loose,
            "dp, epsilon 1": _tight,
            "dp with a fault: half the noise": _faulty,
            "full, one sum, dp": _full,
        },
    ),
)
