"""How long a quiet round takes over links of 20 Mbit/s, sharded and where everyone takes in all.

Run ``python benchmarks/latency.py [--quick] [--json]``. The simulator plays every node and message
on a virtual clock, and links carry one message after the other (``simulation.bandwidth``). Nodes
compute in no time, so the figures do not depend on the machine: they are what the links alone
cost. Updates do not pack. "Pays from" is the size of a model with which both take as long, between
two sizes that were measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import attrs
import numpy as np
from harness import Record, main
from one_node import config

from qres_core import RoundInfo, Update, Vector
from qres_core.attacks.scenario import Scenario
from qres_core.kernel.discovery import scan
from qres_core.lab.clock import EPOCH
from qres_core.lab.events import EventEngine
from qres_core.lab.experiment import Experiment
from qres_core.training.tasks import Task

MBITS, DELAY, JITTER = 20.0, 0.02, 0.01
CASES = ((10, 2), (20, 2), (50, 5))
SIZES = (1_000, 10_000, 100_000, 300_000)


@attrs.frozen
class _Spread:
    """Updates over all of the grid."""

    index: int

    def fit(self, vector: Vector, _info: RoundInfo) -> Update:
        """Random numbers."""
        rng = np.random.default_rng(self.index)
        return Update(rng.integers(-(2**31) + 1, 2**31, vector.size, dtype=np.int32))

    def evaluate(self, _vector: Vector, _info: RoundInfo) -> Mapping[str, float]:
        """Nothing."""
        return {}


def seconds(n: int, f: int, d: int, aggregation: str) -> float:
    """Virtual seconds until the last node has the model of the first round."""
    task = Task("spread", np.zeros(d, dtype=np.int32), tuple(_Spread(index) for index in range(n)))
    scene = Scenario(rounds=1, bandwidth=MBITS, delay=DELAY, jitter=JITTER)
    patient: dict[str, Any] = {"quorum": n, "deadline": 600.0, "vote_timeout": 300.0}
    swarm = config(n, f, aggregation=aggregation, **patient)
    engine = EventEngine(Experiment(swarm, scene, task, scan()))
    engine.run()
    if not engine.step:
        raise RuntimeError("the round made no model")
    return engine.clock.now - EPOCH


def crossing(times: Mapping[int, float]) -> float:
    """The size from which sharded rounds are faster; 0 for all, infinite for none.

    ``times``: how many times less they take, by size.
    """
    sizes = sorted(times)
    if times[sizes[0]] >= 1:
        return 0.0
    for below, above in pairwise(sizes):
        if times[above] >= 1:
            share = -math.log(times[below]) / math.log(times[above] / times[below])
            return float(below * (above / below) ** share)
    return math.inf


def measure(quick: bool) -> Sequence[Record]:  # noqa: FBT001 - the harness calls it
    """Seconds of a round by size and way, and from which size on it pays."""
    records: list[Record] = []
    for n, f in CASES[:1] if quick else CASES:
        times: dict[int, float] = {}
        for d in SIZES[:-1] if quick else SIZES:
            name = f"n = {n}, f = {f}, d = {d:,}"
            everyone, sharded = (seconds(n, f, d, how) for how in ("everyone", "sharded"))
            times[d] = everyone / sharded
            records += [
                Record(f"{name}: everyone", everyone, "s"),
                Record(f"{name}: sharded", sharded, "s"),
            ]
        name = f"n = {n}, f = {f}: sharded pays from"
        records.append(Record(name, crossing(times) / 1000, "thousand parameters", 300.0))
    return records


if __name__ == "__main__":
    main(__doc__ or "", measure, dists=("qres-core", "numpy", "qres-robust-stats"))
