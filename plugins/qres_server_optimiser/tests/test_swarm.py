"""Whole swarms: all nodes and the simulator come to the same model, under attack too."""

from __future__ import annotations

import tomllib
from itertools import count, pairwise
from typing import Any

import attrs
import numpy as np
import pytest
from qres_server_optimiser import FedAvgM, momentum_step, plugin
from qres_server_optimiser.state import Arrays, OptimiserState

from qres_core import RoundInfo, Surroundings, Vector, fixed
from qres_core.attacks.scenario import Scenario
from qres_core.errors import RoundError
from qres_core.kernel.config import Config, parse
from qres_core.lab.record import SimulationResult
from qres_core.lab.simulator import simulate
from qres_core.training.numpy_trainer import QuadraticTrainer
from qres_core.training.tasks import Task, TaskConfig, make_task

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


@pytest.mark.claim("C-optimiser-1")
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


@attrs.define
class Forgetting:
    """Some nodes lose their state at a height, as one that caught up from a snapshot lacks it."""

    count: int  # of the nodes
    height: int
    lacked: int = 0  # how often a node was asked to merge without the state
    seen: list[OptimiserState] = attrs.field(factory=list[OptimiserState])

    def install(self, patch: pytest.MonkeyPatch) -> None:
        becomes, of = OptimiserState.becomes, OptimiserState.of

        def kept(state: OptimiserState, model: bytes, height: int, arrays: Arrays) -> None:
            if not any(state is known for known in self.seen):
                self.seen.append(state)
            first = any(state is known for known in self.seen[: self.count])
            becomes(state, b"" if first and height == self.height else model, height, arrays)

        def asked(state: OptimiserState, round_info: RoundInfo) -> Arrays | None:
            found = of(state, round_info)
            self.lacked += found is None
            return found

        patch.setattr(OptimiserState, "becomes", kept)
        patch.setattr(OptimiserState, "of", asked)


@pytest.mark.control("C-optimiser-1")
def test_control_a_last_bit_that_differs_between_nodes_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = count()

    def drifting(merged: Vector, last: Vector, **options: float) -> Vector:
        return momentum_step(merged, last, **options) ^ (next(calls) & 1)

    monkeypatch.setattr(plugin, "momentum_step", drifting)
    with pytest.raises(RoundError, match="QRES-E601"):
        simulate(configured("fedavgm", "median"), Scenario(rounds=3, seed=5), task=TASK)


@pytest.mark.claim("C-optimiser-7")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == "fedadam" else pytest.mark.long)
        for name in sorted(OPTIMISERS)
    ],
)
def test_nodes_that_lack_the_state_take_the_models_of_the_others(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a restart after four models, they merge again from the fifth on."""
    scenario = Scenario(rounds=7, seed=2)
    plain = simulate(configured(name, "median"), scenario, task=TASK)
    forgetting = Forgetting(4, height=2)
    forgetting.install(monkeypatch)
    result = simulate(configured(name, "median"), scenario, task=TASK)
    assert forgetting.lacked == (4 if name == "fedavgm" else 8)
    assert [record.closed for record in result.rounds] == [True] * 7
    assert result.unanimous
    assert result.model_digests[0] == plain.model_digests[0]


@pytest.mark.parametrize("name", sorted(OPTIMISERS))
def test_a_swarm_that_lost_the_state_stands_still_for_a_height(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgetting = Forgetting(9, height=2)
    forgetting.install(monkeypatch)
    result = simulate(configured(name, "median"), Scenario(rounds=7, seed=2), task=TASK)
    assert forgetting.lacked == 9
    assert [record.closed for record in result.rounds] == [True, True, False] + [True] * 5
    assert "QRES-E604" in result.rounds[2].reason
    assert result.unanimous


# ── steps that are refused ────────────────────────────────────────────────────────────────────────


@attrs.frozen(eq=False, kw_only=True)
class PublicJudge(QuadraticTrainer):
    """A quadratic node that judges models by an optimum that all nodes know."""

    known: Vector

    def validate(self, vector: Vector) -> float:
        way = fixed.decode(vector) - fixed.decode(self.known)
        return float(way @ way) / way.size


def judged() -> Task:
    task = make_task(TaskConfig(name="quadratic", dimension=20), nodes=5, seed=1, scale=0)
    optima: list[Any] = [getattr(trainer, "optimum") for trainer in task.trainers]  # noqa: B009 - a trainer of the lab
    known = np.median(np.stack(optima), axis=0).astype(np.int32)
    trainers = tuple(PublicJudge(optimum=item, known=known, learning_rate=0.2) for item in optima)
    return attrs.evolve(task, trainers=trainers)


def overshooting(*names: str, **options: dict[str, float]) -> SimulationResult:
    """Momentum carries the model past its optimum. That raises the loss, so a step is refused."""
    tables: dict[str, Any] = {"median": {"f": 1}, **options}
    plugins = {name: tables.get(name, {}) for name in ("memory", *names, "median")}
    swarm = {"name": "swinging", "nodes": 5, "byzantine": 1, "quorum": 4, "insecure": True}
    config = parse({"swarm": swarm, "plugins": plugins}, source="test")
    return simulate(config, Scenario(rounds=30, seed=1, engine="vectorised"), task=judged())


def test_a_step_that_was_refused_after_the_merge_does_not_come_again() -> None:
    result = overshooting("public_validation", "fedavgm")
    closed = [record.closed for record in result.rounds]
    assert 0 < closed.count(False) < 15
    assert all(before or after for before, after in pairwise(closed))
    losses = [record.metrics["loss"] for record in result.rounds if record.closed]
    assert losses[-1] < losses[0] / 10


@pytest.mark.parametrize("name", ["fedadam", "fedyogi"])
def test_a_first_step_that_is_refused_comes_again_if_its_rate_is_too_high(name: str) -> None:
    """As the README says; the control is a rate with which the first step is no worse."""
    low, high = (
        overshooting("public_validation", name, **{name: {"learning_rate": rate}}).rounds
        for rate in (0.1, 0.5)
    )
    assert all(record.closed for record in low[-5:])
    assert any(record.closed for record in high[:5])
    assert not any(record.closed for record in high[5:])


@pytest.mark.control("C-optimiser-2")
def test_beside_votes_a_swarm_would_stand_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Why such plugins are refused; the control of ``check``."""
    with pytest.raises(Exception, match=r"QRES-E303 plugins\.fedavgm: plugins\.validation votes"):
        overshooting("fedavgm", "validation")

    def nothing(_plugin: FedAvgM, _around: Surroundings) -> tuple[()]:
        return ()

    monkeypatch.setattr(FedAvgM, "check", nothing)
    closed = [record.closed for record in overshooting("fedavgm", "validation").rounds]
    assert closed == [True] * closed.count(True) + [False] * closed.count(False)
    assert closed.count(True) < 10


@pytest.mark.control("C-optimiser-2")
def test_of_two_optimisers_the_model_would_run_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Why a second one is refused; the control of ``check``. Alone, each comes to the optimum."""

    def losses(*names: str) -> list[float]:
        fast: dict[str, Any] = {"fedadam": {"learning_rate": 0.1}, "median": {"f": 1}}
        plugins = {name: fast.get(name, {}) for name in ("memory", *names, "median")}
        swarm = {"name": "twice", "nodes": 5, "byzantine": 1, "quorum": 4, "insecure": True}
        config = parse({"swarm": swarm, "plugins": plugins}, source="test")
        slow = attrs.evolve(TASK, learning_rate=0.01)
        result = simulate(config, Scenario(rounds=40, seed=2, engine="vectorised"), task=slow)
        return [record.metrics["loss"] for record in result.rounds]

    for names in (("fedadam", "fedavgm"), ("fedavgm", "fedyogi")):
        with pytest.raises(Exception, match=rf"QRES-E303 plugins\.{names[1]}: .* one optimiser"):
            losses(*names)
    for name in ("fedadam", "fedavgm"):
        alone = losses(name)
        assert alone[-1] < alone[0] / 2

    def nothing(_plugin: FedAvgM, _around: Surroundings) -> tuple[()]:
        return ()

    monkeypatch.setattr(FedAvgM, "check", nothing)
    both = losses("fedadam", "fedavgm")
    assert both[-1] > 10 * both[0]
