"""With known updates, what is left of a release is noise: is it the noise that was promised?"""

from __future__ import annotations

from typing import Final

import numpy as np

from qres_dp.audit.finding import Finding
from qres_dp.audit.statistics import mean_score, scale_score
from qres_dp.audit.system import System

DIMENSION: Final = 4096
BLOCKS: Final = 64
LIMIT: Final = 5.5
"""Deviations. All 68 scores of a correct plugin stay below it but once in 400,000 audits."""


def examine(system: System) -> Finding:
    """The largest of the scores of two rounds: scale, scale of blocks, mean, correlation."""
    known = np.full(DIMENSION, 3, dtype=np.int32)
    inputs = [known] * system.inputs
    total = 3 * system.inputs
    first, second = (
        (system.release(inputs) - total).astype(np.float64) / system.deviation for _ in range(2)
    )
    scores = [
        scale_score(first),
        scale_score(second),
        mean_score(first),
        mean_score(first * second),
        *(scale_score(block) for block in np.array_split(first, BLOCKS)),
    ]
    return Finding("white box", system.mode.value, max(scores), LIMIT)
