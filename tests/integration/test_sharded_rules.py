"""Sharded rounds in the simulator, with the project's rules: the models of unsharded rounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import pytest

from qres_core import LabError
from qres_core.kernel.config import Config, parse
from qres_core.lab.record import SimulationResult
from qres_core.lab.scenario import Scenario
from qres_core.lab.simulator import simulate
from qres_core.lab.tasks import TaskConfig

QUADRATIC: Final = TaskConfig(name="quadratic", dimension=50)
ROUNDS: Final = 2
RULES: Final[Mapping[str, Mapping[str, Any]]] = {
    "mean": {"unprotected": True},
    "median": {"f": 2},
    "weighted median": {"f": 1, "weighted": True, "weight_limit": 1.5},
    "trimmed_mean": {"f": 2},
    "meamed": {"f": 2},
    "krum": {"f": 1},
    "many krum": {"f": 1, "select": 3},
    "bulyan": {"f": 1},
}


def config(rule: str, aggregation: str) -> Config:
    name, f = rule.rsplit(maxsplit=1)[-1], RULES[rule].get("f", 2)
    fewest = 4 * f + 3 if name == "bulyan" else 5
    swarm = {
        "name": "lab",
        "nodes": fewest + f,
        "byzantine": f,
        "quorum": fewest,
        "deadline": 2.0,
        "vote_timeout": 1.0,
        "weight_cap": 3,
        "aggregation": aggregation,
    }
    plugins = {"memory": {}, "ed25519": {}, "replay": {}, name: dict(RULES[rule])}
    return parse({"swarm": swarm, "plugins": plugins}, source="test")


def played(swarm: Config, **scenario: Any) -> SimulationResult:
    return simulate(swarm, Scenario(rounds=ROUNDS, **scenario), task=QUADRATIC)


@pytest.mark.parametrize(
    ("rule", "attack"),
    [*((rule, {}) for rule in RULES), ("median", {"attack": "sign_flip", "attackers": 2})],
)
def test_a_rule_gives_the_same_bits_sharded(rule: str, attack: Mapping[str, Any]) -> None:
    whole = played(config(rule, "everyone"), **attack)
    sharded = played(config(rule, "sharded"), **attack)
    assert len(sharded.closed) == ROUNDS
    assert sharded.unanimous
    assert sharded.model_digests == whole.model_digests
    assert [r.model_digest for r in sharded.rounds] == [r.model_digest for r in whole.rounds]


@pytest.mark.parametrize(
    "network",
    [{"loss": 0.1, "duplication": 0.5, "jitter": 0.3}, {"dropout": 0.3}],
    ids=["rough", "dropout"],
)
def test_every_network_ends_with_one_model(network: Mapping[str, Any]) -> None:
    result = played(config("trimmed_mean", "sharded"), seed=3, **network)
    assert len(result.closed) >= ROUNDS
    assert result.unanimous


def test_an_engine_without_committees_refuses() -> None:
    with pytest.raises(LabError, match="plays no committees") as caught:
        played(config("median", "sharded"), engine="vectorised")
    assert caught.value.code == "QRES-E105"
