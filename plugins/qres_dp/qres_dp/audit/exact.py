"""Without noise, no unit moves what is released by more than the plan says. In integers.

Noise is taken off from outside: both runs get the same random bytes from the operating system.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qres_core import QresError, RoundInfo, Vector, by_record, fixed
from qres_dp.audit import oracle
from qres_dp.audit.claim import CLIP, SCALE, Claim
from qres_dp.audit.finding import Finding
from qres_dp.audit.system import Rows, System, moved, same_randomness

TRIALS: Final = 60
_STREAM_TRIALS: Final = 8


def _held(values: NDArray[Any]) -> Vector:
    held: Vector = np.clip(values, -(2**31), fixed.LIMIT).astype(np.int32)
    return held


def adversarial(bound: int, trials: int = TRIALS) -> Iterator[tuple[Vector, Vector]]:
    """Pairs of updates that faulty clipping gets wrong; the same on every run.

    Yields the update of somebody else, and the one whose influence is measured; int32, shape (d,).
    """
    stream = np.random.default_rng(1789)
    for trial in range(trials):
        size = int(stream.integers(2, 202))
        if trial % 4 == 0:  # squares that wrap
            full = np.full(size, -fixed.LIMIT if trial % 8 else -(2**31), dtype=np.int64)
        elif trial % 4 == 1:  # anything
            full = stream.integers(-(2**31), 2**31, size)
        elif trial % 4 == 2:  # a little outside the ball, in no special direction
            full = np.rint(stream.normal(0.0, bound / 4, size)).astype(np.int64)
        else:  # all coordinates alike: the worst for clipping by parts or by coordinate
            full = np.full(size, 10 * bound // math.isqrt(size), dtype=np.int64)
        other = -full // 3 if trial % 2 else full  # opposed, and more than one ball away
        yield _held(other), _held(full)


def _square(rows: Rows) -> int:
    return sum(int(value) ** 2 for value in rows.ravel())


def _ratio(square: int, limit: int) -> float:
    """The comparison is of integers; the ratio is only what is shown of it."""
    ratio = math.sqrt(square / limit)
    return max(ratio, math.nextafter(1.0, 2.0)) if square > limit else min(ratio, 1.0)


def _mu(claim: Claim, rows: Rows) -> float:
    """What a stream that moved by so much costs, with the noise that its plan prints."""
    variance = float(claim.share * claim.setting.honest - oracle.least_variance(0.0, 0))
    return math.sqrt(_square(rows) / variance)


def examine(package: ModuleType, claim: Claim) -> Finding:
    """The largest influence of a unit over what the plan allows; 1.0 at most."""
    setting, worst, refused = claim.setting, 0.0, ""
    bound = oracle.bound_steps(CLIP, SCALE)
    trials = _STREAM_TRIALS if setting.streams else TRIALS
    rounds = setting.rounds if setting.streams else 1
    for other, item in adversarial(bound, trials):
        opposed = _held(-item.astype(np.int64)) if setting.apart == 2 else np.zeros_like(item)
        try:
            rows = moved(package, setting, (item, opposed), other, rounds)
        except QresError as error:
            refused = str(error)
            continue
        if setting.streams:
            worst = max(worst, _mu(claim, rows) / (claim.mu * (1.0 + 1e-9)))
        else:
            most = max(1, setting.records) * setting.apart * bound
            worst = max(worst, *(_ratio(_square(row), most * most) for row in rows))
    if setting.records:
        worst = max(worst, _records(package, claim))
    return Finding("exact distance", setting.name, worst, 1.0, refused)


class _Examples:
    """A trainer whose examples ask for the steps that they are."""

    def __init__(self, rows: NDArray[np.float64]) -> None:
        self.rows = rows

    def records(self) -> int:
        return len(self.rows)

    def record_steps(self, vector: Vector, round_info: RoundInfo) -> Iterator[NDArray[np.float64]]:
        del vector, round_info
        yield self.rows

    def fit(self, vector: Vector, round_info: RoundInfo) -> Any:
        raise NotImplementedError

    def evaluate(self, vector: Vector, round_info: RoundInfo) -> dict[str, float]:
        del vector, round_info
        return {}


def _records(package: ModuleType, claim: Claim) -> float:
    """By how much one example moves a sum: two data sets that differ in it, through the trainer."""
    worst, limit = 0.0, claim.sensitivity**2
    generator = np.random.default_rng(5)
    for length in (0.5, 1.0, 1.0001, 1e3, 1e8):
        rows = generator.normal(size=(claim.setting.records, 40))
        rows *= length / np.linalg.norm(rows, axis=1, keepdims=True)
        rows[1:] = rows[1:] * (0.1 / length)  # the plugin's own clip must not help
        sums: list[Rows] = []
        for data in (rows, rows[1:]):
            with same_randomness(11):
                system = System(package, claim.setting)
                asked = system.plugins[0].claims.needs.records  # as the kernel asks
                trainer = by_record(_Examples(data), asked)
                system.number = 1
                update = trainer.fit(np.zeros(40, np.int32), system.info(40))
                system.number = 0
                assert update is not None  # noqa: S101 - it always has one
                sums.append(system.sums(update.vector, np.zeros(40, np.int32)))
        worst = max(worst, _ratio(_square(sums[0] - sums[1]), limit))
    return worst
