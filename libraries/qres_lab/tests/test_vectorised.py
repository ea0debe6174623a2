"""The fast path sees what an observer in the full simulation sees."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import numpy as np
import pytest

from qres_core import (
    ACCEPT,
    Blame,
    Claims,
    Contribution,
    RoundInfo,
    Update,
    Updates,
    Vector,
    Verdict,
    hookimpl,
    reject,
)
from qres_core.attacks.scenario import Scenario
from qres_core.dialogues import DialogueMessage, Send
from qres_core.errors import LabError
from qres_core.kernel.config import Config, parse
from qres_core.kernel.discovery import Installed, scan
from qres_core.lab.simulator import simulate
from qres_core.training import Trainer
from qres_core.training.tasks import TaskConfig, make_task

TASK = TaskConfig(name="quadratic", dimension=40, local_epochs=1, learning_rate=0.3)


def config(nodes: int = 9, *, quorum: int | None = None, **plugins: dict[str, object]) -> Config:
    tables = plugins or {"mean": {"unprotected": True}}
    swarm = {
        "name": "v",
        "nodes": nodes,
        "byzantine": 2,
        "quorum": nodes if quorum is None else quorum,
        "insecure": True,
    }
    return parse({"swarm": swarm, "plugins": {"memory": {}, **tables}}, source="test")


@pytest.mark.parametrize("attack", ["", "sign_flip", "scaled", "nan"])
@pytest.mark.parametrize("rule", [{"mean": {"unprotected": True}}, {"krum": {"f": 2}}])
def test_same_models_as_the_event_simulation(
    attack: str, rule: dict[str, dict[str, object]]
) -> None:
    scenario = Scenario(rounds=3, seed=5, attack=attack, attackers=2 if attack else 0)
    events = simulate(config(**rule), scenario, task=TASK)
    fast = simulate(config(**rule), attrs.evolve(scenario, engine="vectorised"), task=TASK)
    assert [item.model_digest for item in fast.rounds] == [
        record.model_digest for record in events.closed
    ]
    assert [item.alignment for item in fast.rounds] == [
        record.alignment for record in events.closed
    ]


@attrs.frozen
class Resting:
    """Has nothing new to train on in every round but each third."""

    inner: Trainer
    index: int

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update | None:
        if (round_info.step + self.index) % 3:
            return None
        return self.inner.fit(vector, round_info)

    def evaluate(self, vector: Vector) -> Mapping[str, float]:
        return self.inner.evaluate(vector)


@pytest.mark.parametrize("attack", ["", "alie"])
def test_a_node_with_nothing_new_is_left_out_of_the_round_in_both_engines(attack: str) -> None:
    made = config(9, quorum=6)
    scenario = Scenario(rounds=4, seed=5, attack=attack, attackers=2 if attack else 0)
    task = make_task(TASK, nodes=9, seed=5)
    resting = (*task.trainers[:1], Resting(task.trainers[1], 1), Resting(task.trainers[2], 0))
    task = attrs.evolve(task, trainers=(*resting, *task.trainers[3:]))
    events = simulate(made, scenario, task=task)
    fast = simulate(made, attrs.evolve(scenario, engine="vectorised"), task=task)
    assert [record.accepted for record in events.closed] == [8, 7, 8, 8]
    assert [verdict.accepted for verdict in fast.rounds] == [8, 7, 8, 8]
    assert [item.model_digest for item in fast.rounds] == [
        record.model_digest for record in events.closed
    ]
    assert [item.alignment for item in fast.rounds] == [
        record.alignment for record in events.closed
    ]


def test_every_contribution_passes_through_the_hooks() -> None:
    seen: list[bytes] = []

    @attrs.frozen
    class Watcher:
        claims = Claims(tolerates=None)

        @hookimpl
        def verify(self, contribution: Contribution, round_info: RoundInfo) -> Verdict:
            seen.append(contribution.sender)
            if len(seen) % 9 == 0:
                return reject("the-ninth", blame=Blame.SENDER)
            assert round_info.dimension == contribution.vector.size
            return ACCEPT

        @hookimpl
        def wrap_aggregate(self, proceed: object, updates: Updates) -> Vector:
            assert callable(proceed)
            merged: Vector = proceed(updates)
            return merged

    installed = {**scan(), "watcher": Installed.local("watcher", Watcher)}
    made = config(9, quorum=8, watcher={}, mean={"unprotected": True})
    scenario = Scenario(rounds=2, engine="vectorised")
    result = simulate(made, scenario, task=TASK, installed=installed)
    assert len(seen) == 18
    assert [dict(item.rejected) for item in result.rounds] == [{"watcher:the-ninth": 1}] * 2
    assert [verdict.accepted for verdict in result.rounds] == [8, 8]


def test_below_quorum_aborts_and_changes_nothing() -> None:
    scenario = Scenario(rounds=2, engine="vectorised", attack="wrong_length", attackers=1)
    result = simulate(config(9), scenario, task=TASK)
    assert [record.closed for record in result.rounds] == [False, False]
    assert len({item.model_digest for item in result.rounds}) == 1
    assert dict(result.rounds[0].rejected) == {"malformed-payload": 1}


@pytest.mark.parametrize("key", ["loss", "duplication", "churn"])
def test_network_options_are_refused_not_ignored(key: str) -> None:
    scenario = Scenario(rounds=1, engine="vectorised", **{key: 0.1})
    with pytest.raises(LabError, match=rf"QRES-E105 simulation\.{key}"):
        simulate(config(), scenario, task=TASK)


@attrs.define
class Roll:
    """Ready when all others have said their number, finished when most have said it twice."""

    others: int
    heard: list[DialogueMessage] = attrs.field(factory=list)

    @property
    def ready(self) -> bool:
        return sum(item.step == 0 for item in self.heard) == self.others

    @property
    def finished(self) -> bool:
        return sum(item.step == 1 for item in self.heard) >= self.others // 2

    def start(self) -> list[Send]:
        return [Send(b"here", 0)]

    def receive(self, message: DialogueMessage) -> tuple[()]:
        self.heard.append(message)
        return ()

    def tick(self, now: float) -> tuple[()]:
        del now
        return ()

    def decided(self, *agreed: object) -> list[Send]:
        del agreed
        return [Send(b"still here", 1)]


@attrs.define(eq=False)
class Caller:
    """Asks everybody in, and merges only when it heard of them."""

    roll: Roll | None = None

    claims = Claims(tolerates=None)

    @hookimpl
    def round_opened(self, round_info: RoundInfo) -> Roll:
        self.roll = Roll(len(round_info.roster) - 1)
        return self.roll

    @hookimpl
    def privatize(self, update: Update) -> Update:
        assert self.roll is not None
        assert self.roll.ready
        return update


def test_all_nodes_play_the_dialogues_of_plugins() -> None:
    installed = {**scan(), "caller": Installed.local("caller", Caller)}
    made = config(9, caller={}, mean={"unprotected": True})
    scenario = Scenario(rounds=2, engine="vectorised")
    result = simulate(made, scenario, task=TASK, installed=installed)
    assert len(result.closed) == 2
    # Each says two things and contributes once, in both rounds.
    assert result.messages == 2 * 3 * 9


def test_who_drops_out_says_nothing_more_in_the_round() -> None:
    installed = {**scan(), "caller": Installed.local("caller", Caller)}
    made = config(9, quorum=5, caller={}, mean={"unprotected": True})
    scenario = Scenario(rounds=4, engine="vectorised", dropout=0.3)
    result = simulate(made, scenario, task=TASK, installed=installed)
    assert len(result.closed) == 4
    accepted = [verdict.accepted for verdict in result.rounds]
    assert min(accepted) < 9
    assert result.messages < 4 * (2 * 9) + sum(accepted)


def test_a_thousand_nodes() -> None:
    made = config(1000, mean={"unprotected": True})
    task = attrs.evolve(TASK, dimension=1000)
    result = simulate(made, Scenario(rounds=2, engine="vectorised"), task=task)
    assert [verdict.accepted for verdict in result.rounds] == [1000, 1000]
    assert result.messages == 2000
    losses = [item.metrics["loss"] for item in result.rounds]
    assert np.all(np.diff(losses) < 0)
