"""Whole swarms: all nodes and the simulator come to the same model, under attack too."""

from __future__ import annotations

import tomllib

import pytest

from qres_core.kernel.config import Config, parse
from qres_core.lab.scenario import Scenario
from qres_core.lab.simulator import simulate
from qres_core.lab.tasks import TaskConfig

TASK = TaskConfig(name="quadratic", dimension=24, local_epochs=1, learning_rate=0.3)
OPTIMISERS = {
    "fedavgm": "learning_rate = 0.5\nmomentum = 0.5",
    "fedadam": "learning_rate = 0.1\nrestart = 4",
    "fedyogi": "learning_rate = 0.1\nrestart = 4",
}


def configured(name: str, rule: str) -> Config:
    text = f"""
        [swarm]
        name = "stepping"
        nodes = 9
        byzantine = 2
        quorum = 7
        insecure = true
        [plugins.memory]
        [plugins.{name}]
        {OPTIMISERS[name]}
        [plugins.{rule}]
        f = 2
        """
    return parse(tomllib.loads(text), source="test")


@pytest.mark.parametrize("rule", ["median", "krum"])
@pytest.mark.parametrize("name", ["fedavgm", "fedadam"])
def test_all_nodes_and_the_simulator_agree_under_attack(name: str, rule: str) -> None:
    config = configured(name, rule)
    results = [
        simulate(
            config,
            Scenario(rounds=6, seed=5, attack="sign_flip", attackers=2, engine=engine),
            task=TASK,
        )
        for engine in ("events", "vectorised")
    ]
    nodes, observer = results
    assert len(nodes.model_digests) == 7
    assert {*nodes.model_digests, *observer.model_digests} == {nodes.model_digests[0]}
    for result in results:
        assert all(record.closed for record in result.rounds)
        assert result.rounds[-1].metrics["loss"] < result.rounds[0].metrics["loss"] / 2


@pytest.mark.parametrize("name", sorted(OPTIMISERS))
def test_nodes_that_were_away_do_not_part_from_the_others(name: str) -> None:
    scenario = Scenario(rounds=12, seed=2, churn=0.15)
    result = simulate(configured(name, "median"), scenario, task=TASK)
    assert result.rounds[-1].metrics["loss"] < result.rounds[0].metrics["loss"] / 2
    assert sum(record.closed for record in result.rounds) >= 10
