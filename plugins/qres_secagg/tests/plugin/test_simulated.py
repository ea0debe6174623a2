"""Whole swarms in the simulator, and what the solver makes of configurations."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np
import pytest
from qres_secagg.aggregator import Aggregator, GroupSum

from qres_core import RoundInfo, Update, Vector
from qres_core.attacks.scenario import Scenario
from qres_core.errors import CompatibilityError
from qres_core.kernel.config import parse
from qres_core.kernel.kernel import Kernel
from qres_core.lab.record import SimulationResult
from qres_core.lab.simulator import simulate
from qres_core.training.tasks import TaskConfig, make_task

Tables = Mapping[str, Mapping[str, Any]]
TRUST: Tables = {"memory": {}, "ed25519": {}, "replay": {}}
MEAN: Tables = {"mean": {}}


def config(nodes: int, quorum: int, plugins: Tables, *, byzantine: int = 0, **swarm: Any) -> Any:
    table = {
        "name": "hidden",
        "nodes": nodes,
        "byzantine": byzantine,
        "quorum": quorum,
        "deadline": 4.0,
        "vote_timeout": 1.0,
        **swarm,
    }
    return parse({"swarm": table, "plugins": plugins}, source="test")


@attrs.frozen
class Lying:
    honest: Any

    def fit(self, model: Vector, round_info: RoundInfo) -> Update:
        update = self.honest.fit(model, round_info)
        pulled = np.clip(update.vector.astype(np.int64) * -20, -(2**19), 2**19)
        return attrs.evolve(update, vector=pulled.astype(np.int32))


def play(
    nodes: int,
    quorum: int,
    plugins: Tables,
    *,
    byzantine: int = 0,
    liars: int = 0,
    **scenario: Any,
) -> SimulationResult:
    played = Scenario(**scenario)
    task = make_task(TaskConfig(), nodes=nodes, seed=played.seed)
    honest = task.trainers[: nodes - liars]
    lying = tuple(Lying(trainer) for trainer in task.trainers[nodes - liars :])
    task = attrs.evolve(task, trainers=honest + lying)
    tables = {name: dict(table) for name, table in {**TRUST, **plugins}.items()}
    if "secagg" in tables:
        tables["secagg"].setdefault("patience", 0.4)
    return simulate(config(nodes, quorum, tables, byzantine=byzantine), played, task=task)


def accuracy(result: SimulationResult) -> float:
    assert result.unanimous
    return 100 * result.final("accuracy")


@pytest.mark.claim("C-secagg-2")
def test_the_models_are_bit_for_bit_those_without_it() -> None:
    """Nobody is away: the same updates are merged, and the mean of the exact sum is the mean."""
    hidden = play(8, 8, {"secagg": {}, **MEAN}, rounds=2)
    plain = play(8, 8, MEAN, rounds=2)
    assert hidden.model_digests == plain.model_digests
    assert hidden.rounds[-1].plugins["secagg"]["rounds_opened"] == 2
    assert not hidden.rounds[-1].plugins["secagg"]["saturated"]


@pytest.mark.control("C-secagg-2")
def test_control_sums_that_are_wrong_by_one_step_of_the_mean_give_other_models(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    finish = Aggregator.finish

    def wrong(aggregator: Aggregator) -> tuple[GroupSum, ...]:
        found = finish(aggregator)
        found[0].total[0] += 8  # one step, for each of the nodes
        return found

    monkeypatch.setattr(Aggregator, "finish", wrong)
    hidden = play(8, 8, {"secagg": {}, **MEAN}, rounds=1)
    assert hidden.unanimous
    assert hidden.model_digests != play(8, 8, MEAN, rounds=1).model_digests


@pytest.mark.claim("C-secagg-2")
@pytest.mark.long
def test_with_a_tenth_dropping_out_after_the_shares_the_models_are_still_the_same() -> None:
    """One of ten shares and never contributes: its masks are recovered in every round."""
    away: dict[str, Any] = {"attack": "silent", "attackers": 1, "rounds": 2}
    hidden = play(10, 9, {"secagg": {}, **MEAN}, **away)
    plain = play(10, 9, MEAN, **away)
    assert hidden.model_digests == plain.model_digests
    assert all(record.accepted == 9 for record in hidden.closed)


@pytest.mark.long
def test_nodes_that_come_and_go_do_not_keep_it_from_learning() -> None:
    secagg = {"secagg": {"patience": 0.4, "dropout": 0.3}}
    hidden = play(8, 5, {**secagg, **MEAN}, rounds=5, churn=0.1)
    assert len(hidden.closed) >= 5
    assert accuracy(hidden) > 90


def test_with_lost_messages_rounds_still_close() -> None:
    result = play(8, 5, {"secagg": {"patience": 0.4, "dropout": 0.3}, **MEAN}, rounds=3, loss=0.01)
    assert len(result.closed) == 3
    assert result.unanimous


def test_who_sends_two_contributions_costs_no_round() -> None:
    """What the liar sent was masked under no list, and a proposer leaves it out."""
    told: dict[str, Any] = {"attack": "equivocate", "attackers": 1, "rounds": 1}
    result = play(7, 6, {"secagg": {}, **MEAN}, **told)
    assert [(record.closed, record.accepted) for record in result.rounds] == [(True, 6)]
    assert result.unanimous


@pytest.mark.long
def test_distributed_noise_is_added_before_masks_and_learning_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("qres_dp")
    monkeypatch.setattr(os, "urandom", random.Random(1).randbytes)  # the same noise each time
    noise = {"clip": 2.0, "delta": 1e-3, "noise_multiplier": 0.1, "rounds": 10}
    shared = {"dp": {**noise, "mode": "distributed", "honest": 7}}
    secagg = {"secagg": {"min_size": 8, "noise_room": 8.0}}
    hidden = play(10, 8, {**shared, **secagg, **MEAN}, rounds=5)
    plain = play(10, 8, MEAN, rounds=5)
    assert hidden.model_digests != plain.model_digests
    assert accuracy(hidden) >= accuracy(plain) - 6  # of most noise it is 2 to 4 points


@pytest.mark.claim("C-secagg-24")
@pytest.mark.long
def test_a_median_of_groups_withstands_as_many_liars_as_promised() -> None:
    """The liar masks as all do; the one of the example sends what it likes without masks."""
    masked = {"group_size": 4, "min_size": 4, "dropout": 0.0}
    groups = {"secagg": masked, "median": {"f": 1}}
    clean = play(12, 12, groups, byzantine=1, rounds=2)
    attacked = play(12, 12, groups, byzantine=1, liars=1, rounds=2)
    assert accuracy(attacked) >= accuracy(clean) - 5


@pytest.mark.control("C-secagg-24")
@pytest.mark.long
def test_the_mean_of_a_sum_does_not_withstand_that_liar() -> None:
    """Positive control: without groups the same liar has its way."""
    clean = play(12, 12, MEAN, rounds=2)  # with masks the models are the same
    attacked = play(12, 12, {"secagg": {}, **MEAN}, liars=1, rounds=2)
    assert accuracy(attacked) < accuracy(clean) - 5


# ── the solver ────────────────────────────────────────────────────────────────────────────────


def codes(plugins: Tables, *, byzantine: int = 0, quorum: int = 20, **swarm: Any) -> set[str]:
    made = config(24, quorum, plugins, byzantine=byzantine, deadline=10.0, **swarm)
    with pytest.raises(CompatibilityError) as caught:
        Kernel.from_config(made)
    return {problem.code for problem in caught.value.problems}


@pytest.mark.claim("C-secagg-25")
@pytest.mark.control("C-secagg-25")
def test_what_does_not_fit_together_is_refused() -> None:
    grouped = {**TRUST, "secagg": {"group_size": 8, "min_size": 5}}
    assert "QRES-E303" in codes({**TRUST, "secagg": {}, "median": {"f": 1}}, byzantine=1)
    # 24 nodes in groups of 8 are three rows, and a median with f = 2 needs five.
    assert "QRES-E304" in codes({**grouped, "median": {"f": 2}}, byzantine=2)
    three = {**grouped, "median": {"f": 1}}
    Kernel.from_config(config(24, 24, three, byzantine=1, deadline=10.0))
    # With nobody to spare, a tenth away leaves three groups in every twentieth round only.
    whole = {**three, "secagg": {"group_size": 8}}
    assert "QRES-E304" in codes(whole, byzantine=1, quorum=24)
    # Whoever can speak for others can open what they masked.
    assert "QRES-E305" in codes({"memory": {}, "secagg": {}, **MEAN}, insecure=True)
    weighing = {**TRUST, "reputation": {"exponent": 1}, "secagg": {}, **MEAN}
    assert "QRES-E310" in codes(weighing)
    gate = {**TRUST, "reputation": {}, "secagg": {}, **MEAN}
    Kernel.from_config(config(24, 20, gate, deadline=10.0))


def test_distributed_noise_without_masks_is_refused() -> None:
    pytest.importorskip("qres_dp")
    noise = {"clip": 2.0, "delta": 1e-3, "noise_multiplier": 1.0, "rounds": 10}
    shared = {"dp": {**noise, "mode": "distributed", "honest": 7}}
    assert "QRES-E303" in codes({**TRUST, **shared, **MEAN})
    masked = {**TRUST, **shared, "secagg": {"noise_room": 23.0, "min_size": 8}, **MEAN}
    Kernel.from_config(config(24, 20, masked, deadline=10.0))
