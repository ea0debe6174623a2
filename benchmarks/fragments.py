"""Rounds that cover fragments of the model: what is learned, by rounds and by bytes.

python benchmarks/fragments.py [--quick] [--json]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final
from unittest.mock import patch

import attrs
import numpy as np
from harness import Record, main

from qres_core import RoundInfo, Update, Vector, fixed
from qres_core.attacks.scenario import Scenario
from qres_core.kernel.config import parse
from qres_core.lab.simulator import simulate
from qres_core.swarm.ledger.messages import ContributionBody
from qres_core.training import Trainer
from qres_core.training.tasks import TaskConfig, make_task

NODES: Final = 10
FRAGMENTS: Final = 4
SEED: Final = 1
TASKS: Final = {
    "alike": TaskConfig(name="digits", model="mlp", local_epochs=1, learning_rate=0.1),
    "uneven": TaskConfig(
        name="digits", model="mlp", local_epochs=5, learning_rate=0.1, partition="dirichlet"
    ),
}


@attrs.define(eq=False)
class _Keeps:
    """What does not travel is kept, and added to later updates; or trained on top of, too."""

    inner: Any
    on_top: bool
    _kept: Vector | None = None

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update:
        """An update with all that is kept; of which the fragment is taken, and the rest kept."""
        kept = np.zeros_like(vector) if self._kept is None else self._kept
        start = fixed.add_saturating(vector, kept).vector if self.on_top else vector
        made: Update = self.inner.fit(start, round_info)
        whole = fixed.add_saturating(made.vector, kept).vector
        self._kept = whole
        if round_info.fragment is not None:
            covered = round_info.fragment.cut(np.zeros_like(whole))
            self._kept = round_info.fragment.placed(covered, whole)
        return attrs.evolve(made, vector=whole)

    def evaluate(self, vector: Vector, round_info: RoundInfo) -> Any:
        """The trainer's figures."""
        return self.inner.evaluate(vector, round_info)


def _kept(trainer: Trainer) -> Trainer:
    return _Keeps(trainer, on_top=False)


def _on_top(trainer: Trainer) -> Trainer:
    return _Keeps(trainer, on_top=True)


def _same(trainer: Trainer) -> Trainer:
    return trainer


WAYS: Final[dict[str, Callable[[Trainer], Trainer]]] = {
    "left out": _same,
    "kept": _kept,
    "kept, trained on top": _on_top,
}


def _learned(
    config: TaskConfig, fragments: int, rounds: int, way: Callable[[Trainer], Trainer]
) -> tuple[float, float, float]:
    """Loss and accuracy at the end, and bytes of a contribution."""
    swarm = {"name": "parts", "nodes": NODES, "byzantine": 0, "quorum": NODES, "insecure": True}
    raw = {
        "swarm": {**swarm, "fragments": fragments},
        "plugins": {"memory": {}, "mean": {"unprotected": True}},
    }
    task = make_task(config, nodes=NODES, seed=SEED)
    task = attrs.evolve(task, trainers=tuple(map(way, task.trainers)), evaluate=task.evaluate)
    sizes: list[int] = []
    encode = ContributionBody.to_bytes

    def measured(body: ContributionBody) -> bytes:
        octets = encode(body)
        sizes.append(len(octets))
        return octets

    with patch.object(ContributionBody, "to_bytes", measured):
        scene = Scenario(rounds=rounds, seed=SEED, engine="vectorised")
        result = simulate(parse(raw, source=""), scene, task=task)
    return result.final("loss"), result.final("accuracy"), float(np.mean(sizes))


def measure(quick: bool) -> Sequence[Record]:  # noqa: FBT001 - as the harness calls it
    """With F fragments against without: as many rounds, and as many bytes."""
    rounds = 8 if quick else 30
    records: list[Record] = []
    for name, config in TASKS.items():
        loss, accuracy, size = _learned(config, 1, rounds, _same)
        records.append(Record(f"{name}: 1 fragment, {rounds} rounds: loss", loss, ""))
        records.append(Record(f"{name}: 1 fragment, {rounds} rounds: accuracy", accuracy, ""))
        records.append(Record(f"{name}: 1 fragment: bytes of a contribution", size, "B"))
        for way, wrapped in WAYS.items():
            for times in (1, FRAGMENTS):
                there, right, part = _learned(config, FRAGMENTS, times * rounds, wrapped)
                what = f"{name}: {FRAGMENTS} fragments, {way}, {times * rounds} rounds"
                aim = loss if wrapped is _on_top and times > 1 else None  # as many bytes
                records.append(Record(f"{what}: loss", there, "", aim))
                records.append(Record(f"{what}: accuracy", right, ""))
                if way == "left out" and times == 1:
                    what = f"{name}: {FRAGMENTS} fragments: bytes of a contribution"
                    records.append(Record(what, part, "B", 1.1 * size / FRAGMENTS))
    return records


if __name__ == "__main__":
    main(__doc__ or "", measure, dists=("qres-core", "numpy"))
