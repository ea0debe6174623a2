"""From releases alone: can a canary be told from no canary better than the claim allows?

At z = 0.5 the claim is mu = 2, where a few hundred runs tell half the noise from all of it. An
audit of (epsilon, delta) in place of mu would need a hundred times as many.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qres_core import QresError, Vector, fixed
from qres_dp.audit.finding import Finding
from qres_dp.audit.statistics import loss_below
from qres_dp.audit.system import System

DIMENSION: Final = 64
RUNS: Final = 320
"""Of each side, of which an eighth only sets the threshold."""
ALPHA: Final = 1e-6
"""Chance of a false alarm."""


def canaries(bound: int) -> tuple[Vector, ...]:
    """Updates that faulty clipping lets through, int32, shape (64,)."""
    far = min(1000 * bound, fixed.LIMIT)
    first, last = (np.zeros(DIMENSION, dtype=np.int32) for _ in range(2))
    first[0], last[-1] = far, -far
    dense = np.full(DIMENSION, 10 * bound // math.isqrt(DIMENSION), dtype=np.int32)
    wrapping = np.full(DIMENSION, -(2**31), dtype=np.int32)
    return first, last, dense, wrapping


def _opposite(canary: Vector) -> Vector:
    return np.minimum(-canary.astype(np.int64), fixed.LIMIT).astype(np.int32)


def _runs(system: System, vector: Vector, runs: int) -> NDArray[np.float64]:
    others = [np.full(DIMENSION, 3, dtype=np.int32)] * (system.inputs - 1)
    return np.array([system.release([*others, vector]) for _ in range(runs)], dtype=np.float64)


def examine(system: System, runs: int = RUNS) -> Finding:
    """The largest lower bound of mu over the canaries."""
    found, refused = -math.inf, ""
    chosen = canaries(system.bound)
    nothing = None if system.replaces else _runs(system, np.zeros(DIMENSION, np.int32), runs)
    for canary in chosen:
        direction = canary / np.linalg.norm(canary.astype(np.float64))
        try:
            outside = _runs(system, _opposite(canary), runs) if nothing is None else nothing
            inside = _runs(system, canary, runs)
        except QresError as error:
            refused = str(error)
            continue
        without, with_ = outside @ direction, inside @ direction
        held = runs // 8
        threshold = 0.5 * float(np.median(without[:held]) + np.median(with_[:held]))
        alpha = ALPHA / len(chosen)
        found = max(found, loss_below(without[held:], with_[held:], threshold, alpha))
    return Finding("black box", system.mode.value, found, 1.0 / system.noise_multiplier, refused)
