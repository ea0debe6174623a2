"""Every plugin, in each of its modes, works with the updates that torch trains."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")
from compatibility.matrix import answer
from compatibility.modes import MODES, SEED
from compatibility.playing import faults
from small import a_round, adam, loader, net, trainer

from qres_core.attacks.scenario import Scenario
from qres_core.kernel.config import Config
from qres_core.lab.record import SimulationResult
from qres_core.lab.simulator import simulate
from qres_core.training.tasks import Task

ROUNDS = 3
MERGING = [label for label, mode in MODES.items() if mode.family in {"rule", "wrapper"}]
OTHERS = [label for label in MODES if label not in MERGING]
ELSEWHERE = "the merged update points elsewhere"
"""What the table's own task, whose nodes agree on the way, would be told of."""


def task(config: Config) -> Task:
    """Nodes that share a module with batch norm, and examples of a common pool to judge by."""
    shared, scale = net(norm=True), config.swarm.scale

    def node(index: int) -> object:
        batches = loader(40, seed=10 + index)
        options = {"optimizer": adam, "buffers": "average", "pooled": True, "test": loader(80, 2)}
        return trainer(shared, batches, **options, seed=SEED, index=index)

    trainers = tuple(node(index) for index in range(config.swarm.nodes))
    return Task("torch", trainers[0].vector(scale), trainers, scale=scale)


def played(label: str) -> tuple[Task, SimulationResult]:
    config = answer((label,)).config
    made = task(config)
    engine = "events" if label.endswith("votes") else "vectorised"  # all nodes see those sums
    result = simulate(config, Scenario(rounds=ROUNDS, seed=SEED, engine=engine), task=made)
    wrong = faults(config, result, ROUNDS)
    assert [fault for fault in wrong if not fault.startswith(ELSEWHERE)] == []
    return made, result


@pytest.mark.parametrize("label", MERGING)
def test_every_rule_and_wrapper_learns_from_what_torch_trains(label: str) -> None:
    made, result = played(label)
    info = a_round(made.initial, scale=made.scale)
    before = made.trainers[0].evaluate(made.initial, info)["loss"]
    assert result.final("loss") < before


@pytest.mark.long
@pytest.mark.parametrize("label", OTHERS)
def test_every_other_plugin_runs_around_it(label: str) -> None:
    played(label)
