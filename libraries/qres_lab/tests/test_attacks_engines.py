"""Every attack, whole, in both engines."""

from __future__ import annotations

import attrs
import pytest

from qres_core.attacks import DataAttack, catalogue, make_attack
from qres_core.attacks.scenario import Scenario
from qres_core.errors import LabError
from qres_core.kernel.config import Config, parse
from qres_core.lab.simulator import simulate
from qres_core.training.tasks import TaskConfig

QUADRATIC = TaskConfig(name="quadratic", dimension=30, local_epochs=1, learning_rate=0.3)
DIGITS = TaskConfig(local_epochs=1)
BY_ARRIVAL = {"noise", "gaussian", "mimic", "duplicate"}
"""Attacks whose result depends on the order of attackers or messages, which differs by engine."""


def config() -> Config:
    swarm = {"name": "e", "nodes": 7, "byzantine": 2, "quorum": 5, "insecure": True}
    plugins = {"memory": {}, "mean": {"unprotected": True}}
    return parse({"swarm": swarm, "plugins": plugins}, source="test")


@pytest.mark.claim("C-attack-4")
@pytest.mark.parametrize("task", [QUADRATIC, DIGITS], ids=lambda task: task.name)
@pytest.mark.parametrize("name", sorted(catalogue()))
def test_two_rounds_of_every_attack_in_both_engines(name: str, task: TaskConfig) -> None:
    scenario = Scenario(rounds=2, seed=4, attack=name, attackers=2)
    vectorised = attrs.evolve(scenario, engine="vectorised")
    if isinstance(make_attack(name), DataAttack) and task is QUADRATIC:
        for item in (scenario, vectorised):
            with pytest.raises(LabError, match="QRES-E105"):
                simulate(config(), item, task=task)
        return
    events, fast = (simulate(config(), item, task=task) for item in (scenario, vectorised))
    assert events.unanimous
    assert len(events.closed) == len(fast.closed) == 2
    if name not in BY_ARRIVAL:
        assert [record.model_digest for record in events.closed] == [
            record.model_digest for record in fast.closed
        ]


@pytest.mark.control("C-attack-4", "C-ray-1")
def test_control_another_attack_makes_other_models() -> None:
    digests = {
        simulate(config(), Scenario(rounds=2, seed=4, attack=name, attackers=2), task=QUADRATIC)
        .closed[-1]
        .model_digest
        for name in ("sign_flip", "scaled", "silent")
    }
    assert len(digests) == 3
