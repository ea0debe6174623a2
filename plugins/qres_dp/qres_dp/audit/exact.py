"""Without noise, no update moves a released sum by more than the clipping bound. In integers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qres_core import QresError, Vector, fixed
from qres_dp.audit.faults import silent
from qres_dp.audit.finding import Finding
from qres_dp.audit.system import System
from qres_dp.discrete_gaussian import discrete_gaussian
from qres_dp.randomness import Keystream

TRIALS: Final = 60
_KEY: Final = b"adversarial vectors of the audit"


def _held(values: NDArray[np.int64]) -> Vector:
    return np.clip(values, -(2**31), fixed.LIMIT).astype(np.int32)


def adversarial(bound: int) -> Iterator[tuple[Vector, Vector]]:
    """Pairs of updates that faulty clipping gets wrong; the same on every run.

    Yields the update of somebody else, and the one whose influence is measured; int32, shape (d,).
    """
    stream = Keystream(_KEY)
    for trial in range(TRIALS):
        size = 2 + int(stream.words(1)[0] % np.uint64(200))
        if trial % 4 == 0:  # squares that wrap
            full = np.full(size, -fixed.LIMIT if trial % 8 else -(2**31), dtype=np.int64)
        elif trial % 4 == 1:  # anything
            full = stream.words(size).view(np.int64) >> 32
        elif trial % 4 == 2:  # a little outside the ball, in no special direction
            shape = discrete_gaussian(Fraction(bound * bound, 16)).sample(size, _key(trial))
            full = shape.astype(np.int64)
        else:  # all coordinates alike: the worst for clipping by parts or by coordinate
            full = np.full(size, 10 * bound // math.isqrt(size), dtype=np.int64)
        other = -full // 3 if trial % 2 else full  # opposed, and more than one ball away
        yield _held(other), _held(full)


def _key(trial: int) -> bytes:
    return trial.to_bytes(32, "little")


def examine(system: System) -> Finding:
    """The largest influence of an update, over the bound; exactly 1.0 at most."""
    worst, limit, refused = 0.0, system.bound * system.bound, ""
    with silent():
        for other, item in adversarial(system.bound):
            others = [other] * (system.inputs - 1)
            try:
                moved = system.release([*others, item])
                moved -= system.release([*others, np.zeros_like(item)])
            except QresError as error:
                refused = str(error)
                continue
            square = sum(int(value) ** 2 for value in moved)
            ratio = math.sqrt(square / limit)
            # The comparison is of integers; the ratio is only what is shown of it.
            ratio = max(ratio, math.nextafter(1.0, 2.0)) if square > limit else min(ratio, 1.0)
            worst = max(worst, ratio)
    return Finding("exact clip", system.mode.value, worst, 1.0, refused)
