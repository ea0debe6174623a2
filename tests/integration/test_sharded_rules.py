"""Sharded rounds in the simulator, with the project's rules: the models of unsharded rounds."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import attrs
import pytest

from qres_core import RoundInfo, Vector
from qres_core.attacks.scenario import Scenario
from qres_core.errors import LabError
from qres_core.kernel.config import Config, parse
from qres_core.lab.events import EventEngine
from qres_core.lab.record import SimulationResult
from qres_core.lab.simulator import simulate
from qres_core.training.tasks import TaskConfig, trained

QUADRATIC: Final = TaskConfig(name="quadratic", dimension=50)
ROUNDS: Final = 2
WAYS: Final = "everyone", "sharded"
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


def config(rule: str, aggregation: str, **beside: Mapping[str, Any]) -> Config:
    """A swarm with a rule, and other plugins ``beside`` it."""
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
    plugins = {"memory": {}, "ed25519": {}, "replay": {}, **beside, name: dict(RULES[rule])}
    return parse({"swarm": swarm, "plugins": plugins}, source="test")


def played(swarm: Config, task: TaskConfig = QUADRATIC, **scenario: Any) -> SimulationResult:
    return simulate(swarm, Scenario(rounds=ROUNDS, **scenario), task=task)


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


def test_bytes_of_each_phase_are_counted() -> None:
    common = {"choice", "contributions", "holdings", "outcome", "pulls", "results", "shards"}
    for rule, more in (("median", set()), ("krum", {"products"})):
        (record, *_) = played(config(rule, "sharded")).rounds
        assert record.received.keys() - {"other"} == common | more
        assert all(octets > 0 for octets in record.received.values())


NOISE: Final = {
    "mode": "local",
    "clip": 1.0,
    "noise_multiplier": 0.5,
    "delta": 1e-5,
    "rounds": 4,
}
BESIDE: Final[Mapping[str, Mapping[str, Mapping[str, Any]]]] = MappingProxyType(
    {
        "quantize": {"quantize": {"bits": 4}},
        "local noise": {"dp": NOISE},
        "fedavgm": {"fedavgm": {"learning_rate": 0.5}},
        "fedadam": {"fedadam": {}},
        "noise, rounding and momentum": {"dp": NOISE, "quantize": {"bits": 8}, "fedyogi": {}},
    }
)
"""Plugins that look at no update of another node."""


@pytest.mark.parametrize(
    ("rule", "name"),
    [*(("median", name) for name in BESIDE), ("many krum", "noise, rounding and momentum")],
)
def test_what_looks_at_no_update_of_another_node_gives_the_same_bits_sharded(
    rule: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the same figures: what was charged, what waits, how many releases there were."""

    def drawn(how: str) -> SimulationResult:
        return played(config(rule, how, **BESIDE[name]))

    monkeypatch.setattr("qres_dp.releases.local.fresh_key", lambda: bytes(32))
    whole, sharded = map(drawn, WAYS)
    assert len(sharded.closed) == ROUNDS
    assert sharded.unanimous
    assert sharded.model_digests == whole.model_digests
    assert [r.model_digest for r in sharded.rounds] == [r.model_digest for r in whole.rounds]
    assert [r.plugins for r in sharded.rounds] == [r.plugins for r in whole.rounds]
    assert [r.epsilon for r in sharded.rounds] == [r.epsilon for r in whole.rounds]
    assert sharded.model_digests != played(config(rule, "sharded")).model_digests  # it matters


def test_noise_in_shares_is_summed_and_charged_sharded_as_it_is_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("qres_dp.releases.local.fresh_key", lambda: bytes(32))
    noise = {**NOISE, "mode": "distributed", "clip": 0.5, "honest": 2, "noise_multiplier": 1.0}
    plugins = {
        "dp": noise,
        "secagg": {"patience": 0.3, "bound": 64.0, "noise_room": 30.0},
    }
    results: list[SimulationResult] = []
    for how in WAYS:
        made = config("mean", how, **plugins)
        swarm = attrs.evolve(made.swarm, weight_cap=1, byzantine=1, deadline=4.0)
        results.append(played(attrs.evolve(made, swarm=swarm)))
    whole, sharded = results
    assert len(sharded.closed) == ROUNDS
    assert sharded.unanimous
    assert [r.model_digest for r in sharded.rounds] == [r.model_digest for r in whole.rounds]
    assert [r.plugins for r in sharded.rounds] == [r.plugins for r in whole.rounds]
    assert sharded.rounds[-1].epsilon


@pytest.mark.parametrize("tolerance", [10.0, 0.0])
def test_what_is_merged_is_tried_on_public_examples_sharded_as_it_is_whole(
    tolerance: float,
) -> None:
    """A merge of lies is refused by all, and the height is void with the same code."""
    task = TaskConfig(name="digits", held_out=100, same_held_out=True)
    plugins = {"public_validation": {"tolerance": tolerance}}
    results = [
        played(config("median", how, **plugins), task, attack="sign_flip", attackers=2)
        for how in WAYS
    ]
    whole, sharded = results
    assert sharded.unanimous
    assert [(r.outcome, r.model_digest, r.reason) for r in sharded.rounds] == [
        (r.outcome, r.model_digest, r.reason) for r in whole.rounds
    ]


@pytest.mark.parametrize(
    "network",
    [{"loss": 0.1, "duplication": 0.5, "jitter": 0.3}, {"dropout": 0.3}],
    ids=["rough", "dropout"],
)
def test_every_network_ends_with_one_model(network: Mapping[str, Any]) -> None:
    result = played(config("trimmed_mean", "sharded"), seed=3, **network)
    assert len(result.closed) >= ROUNDS
    assert result.unanimous


def test_an_engine_in_which_everybody_trains_refuses_a_sample() -> None:
    whole = config("median", "everyone")
    few = attrs.evolve(whole, swarm=attrs.evolve(whole.swarm, nodes=9, participants=8))
    assert all(record.accepted == 8 for record in played(few).rounds)
    with pytest.raises(LabError, match="everybody trains") as caught:
        played(few, engine="vectorised")
    assert caught.value.code == "QRES-E105"


@pytest.mark.parametrize("guarded", [True, False])
def test_attackers_that_know_all_updates_have_nobody_train_that_was_not_drawn(
    monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    """A trainer that keeps something from round to round would else be another one for it."""
    whole = config("median", "everyone")
    few = attrs.evolve(whole, swarm=attrs.evolve(whole.swarm, nodes=9, participants=8))
    train, asked = trained, dict[tuple[bytes, int], set[str]]()

    def noted(trainer: Any, model: Vector, info: RoundInfo, *, node: str) -> Any:
        asked.setdefault((info.head, info.number), set()).add(node)
        return train(trainer, model, info, node=node)

    monkeypatch.setattr("qres_core.lab.trainings.trained", noted)
    if not guarded:
        monkeypatch.setattr(EventEngine, "_trains", lambda *_arguments: True)
    played(few, attack="ipm", attackers=1)
    assert len(asked) >= ROUNDS
    assert all(len(nodes) <= 8 for nodes in asked.values()) is guarded


def test_an_engine_without_committees_refuses() -> None:
    with pytest.raises(LabError, match="plays no committees") as caught:
        played(config("median", "sharded"), engine="vectorised")
    assert caught.value.code == "QRES-E105"
