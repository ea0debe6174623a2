"""From releases alone: can a canary be told from no canary better than the claim allows?

At z = 0.5 the claim is mu = 2, where a few hundred runs tell half the noise from all of it. An
audit of (epsilon, delta) in place of mu would need a hundred times as many.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qres_core import QresError, Vector, fixed
from qres_dp.audit import oracle
from qres_dp.audit.claim import CLIP, SCALE, Claim
from qres_dp.audit.finding import Finding
from qres_dp.audit.statistics import loss_below
from qres_dp.audit.system import System

DIMENSION: Final = 64
RUNS: Final = 320
"""Of each side, of which an eighth only sets the threshold."""
ALPHA: Final = 1e-7
"""Chance of a false alarm."""


def canaries(bound: int) -> tuple[Vector, ...]:
    """Updates that faulty clipping lets through, int32, shape (64,)."""
    far = min(1000 * bound, fixed.LIMIT)
    first = np.zeros(DIMENSION, dtype=np.int32)
    first[0] = far
    dense = np.full(DIMENSION, 10 * bound // math.isqrt(DIMENSION), dtype=np.int32)
    wrapping = np.full(DIMENSION, -(2**31), dtype=np.int32)
    return first, dense, wrapping


def _opposite(canary: Vector) -> Vector:
    return np.minimum(-canary.astype(np.int64), fixed.LIMIT).astype(np.int32)


def examine(package: ModuleType, claim: Claim, runs: int = RUNS) -> Finding:
    """The largest lower bound of mu over the canaries, against what a round is charged with."""
    found, refused = -math.inf, ""
    system, other = System(package, claim.setting), np.full(DIMENSION, 3, dtype=np.int32)

    def seen(vector: Vector) -> NDArray[np.float64]:
        return system.sums(vector, other, runs).astype(np.float64)

    chosen = canaries(oracle.bound_steps(CLIP, SCALE))
    nothing = None if claim.setting.apart == 2 else seen(np.zeros(DIMENSION, np.int32))
    for canary in chosen:
        direction = canary / np.linalg.norm(canary.astype(np.float64))
        try:
            outside = seen(_opposite(canary)) if nothing is None else nothing
            inside = seen(canary)
        except QresError as error:
            refused = str(error)
            continue
        without, with_ = outside @ direction, inside @ direction
        held = runs // 8
        threshold = 0.5 * float(np.median(without[:held]) + np.median(with_[:held]))
        alpha = ALPHA / len(chosen)
        found = max(found, loss_below(without[held:], with_[held:], threshold, alpha))
    return Finding("black box", claim.setting.name, found, 1.0 / claim.multiplier, refused)
