"""The simulator: repeatable to the bit, unanimous in bad networks, and truthful about attacks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import attrs
import pytest

from qres_core import Claims, NodeInfo, Updates, Vector, hookimpl
from qres_core.attacks import DataAttack, catalogue, make_attack
from qres_core.attacks.scenario import Scenario
from qres_core.builtin.mean import weighted_mean
from qres_core.errors import LabError, RoundError
from qres_core.kernel.config import Config, parse
from qres_core.kernel.discovery import Installed, scan
from qres_core.lab.events import MAX_ABORTED
from qres_core.lab.record import RoundRecord, SimulationResult
from qres_core.lab.simulator import simulate
from qres_core.training.tasks import TaskConfig

QUADRATIC: Final = TaskConfig(name="quadratic", dimension=50)
DIGITS: Final = TaskConfig(local_epochs=2, learning_rate=0.5, batch_size=16)
MEAN: Final[Mapping[str, Mapping[str, Any]]] = {"memory": {}, "mean": {"unprotected": True}}


def config(
    nodes: int = 7,
    byzantine: int = 0,
    *,
    quorum: int | None = None,
    plugins: Mapping[str, Mapping[str, Any]] = MEAN,
    **more: Any,
) -> Config:
    swarm = {
        "name": "lab",
        "nodes": nodes,
        "byzantine": byzantine,
        "quorum": nodes - byzantine if quorum is None else quorum,
        "insecure": True,
        "deadline": 2.0,
        "vote_timeout": 1.0,
        **more,
    }
    return parse({"swarm": swarm, "plugins": dict(plugins)}, source="test")


def quadratic(swarm: Config, **scenario: Any) -> SimulationResult:
    return simulate(swarm, Scenario(**scenario), task=QUADRATIC)


# ── repeatable ────────────────────────────────────────────────────────────────────────────────────

ROUGH: Final[Mapping[str, Any]] = {
    "loss": 0.1,
    "duplication": 0.2,
    "churn": 0.2,
    "delay": 0.05,
    "jitter": 0.2,
}


@pytest.mark.parametrize("network", [{}, ROUGH])
def test_the_same_seed_gives_the_same_result_and_another_another(
    network: Mapping[str, Any],
) -> None:
    swarm = config(7, 2)
    attack = {"attack": "noise", "attackers": 2}
    first, again, other = (
        quadratic(swarm, rounds=3, seed=seed, **network, **attack) for seed in (5, 5, 6)
    )
    assert first == again
    assert first.to_json() == again.to_json()
    assert first.model_digests != other.model_digests
    assert [r.model_digest for r in first.rounds] != [r.model_digest for r in other.rounds]


def test_the_seed_of_the_network_does_not_change_what_is_learned() -> None:
    """All contribute in time either way, so the models are those of a perfect network."""
    plain, jittery = (
        quadratic(config(), rounds=4, **network)
        for network in ({}, {"jitter": 0.2, "duplication": 0.3})
    )
    assert plain.model_digests == jittery.model_digests
    assert plain.messages != jittery.messages


# ── bad networks ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.long
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "network",
    [
        {"loss": 0.1},
        {"duplication": 0.5, "jitter": 0.5},
        {"churn": 0.3},
        ROUGH,
    ],
    ids=["loss", "duplication", "churn", "rough"],
)
def test_every_network_ends_with_one_model_on_every_node(
    network: Mapping[str, Any], seed: int
) -> None:
    result = quadratic(config(7, 2), rounds=4, seed=seed, **network)
    assert len(result.closed) >= 4
    assert result.unanimous
    assert len(result.model_digests) == 7
    assert result.closed[-1].model_digest in result.model_digests


@pytest.mark.control("C-grpc-18")
def test_a_swarm_that_is_mostly_away_ends_the_simulation() -> None:
    seen: list[RoundRecord] = []
    scenario = Scenario(rounds=50, churn=0.97, seed=2)
    result = simulate(config(7, 2), scenario, task=QUADRATIC, progress=seen.append)
    assert tuple(seen) == result.rounds
    assert len(result.closed) < 50


# ── attacks ───────────────────────────────────────────────────────────────────────────────────────

UNDONE: Final = {
    *("sign_flip", "scaled", "noise", "gaussian", "sleeper"),
    *("nan", "inf", "offset", "foe", "optimised_ipm", "searched", "cancel", "drift", "aside"),
    *("ascent", "one_class", "steady"),
}
"""Attacks that undo a plain mean."""
HINDERED: Final = {"ipm", "optimised_alie", "mirror"}
"""Attacks that slow a plain mean down."""
UNLABELLED: Final = [
    name for name in sorted(catalogue()) if not isinstance(make_attack(name), DataAttack)
]
"""Attacks that need no examples: the quadratic task has none."""
EXTRA: Final[Mapping[str, Mapping[str, Any]]] = {"sleeper": {"strength": 2.0}}


def attacked(name: str, plugins: Mapping[str, Mapping[str, Any]]) -> SimulationResult:
    swarm = config(9, 2, quorum=7, plugins=plugins)
    return quadratic(swarm, rounds=4, attack=name, attackers=2, **EXTRA.get(name, {}))


@pytest.fixture(scope="module")
def clean_loss() -> float:
    loss = quadratic(config(9, 2, quorum=7), rounds=4).final("loss")
    assert loss is not None
    return loss


@pytest.mark.long
@pytest.mark.parametrize("name", UNLABELLED)
def test_what_each_attack_does_to_the_mean_and_to_krum(name: str, clean_loss: float) -> None:
    mean = attacked(name, MEAN)
    krum = attacked(name, {"memory": {}, "krum": {"f": 2}})
    for result in (mean, krum):
        assert result.unanimous
        assert len(result.closed) == 4
    mean_loss, krum_loss = mean.final("loss"), krum.final("loss")
    assert mean_loss is not None
    assert krum_loss is not None
    assert krum_loss < 0.05  # the nodes' own optima are this far from the common one
    if name in UNDONE:
        assert mean_loss > 1000 * clean_loss
    elif name in HINDERED:
        assert 10 * clean_loss < mean_loss < 1000 * clean_loss
    else:
        assert mean_loss < 10 * clean_loss


def test_an_update_of_another_length_is_rejected_with_the_reason() -> None:
    result = attacked("wrong_length", MEAN)
    for (
        record
    ) in result.closed:  # a round may end before the second, as late members are not waited for
        assert 1 <= record.rejected["malformed-payload"] <= 2
        assert (record.accepted, record.attackers_accepted) == (7, 0)


def test_a_second_contribution_is_rejected_with_the_reason() -> None:
    result = attacked("duplicate", MEAN)
    for record in result.closed:
        assert record.rejected["equivocation"] == 2
        assert (record.accepted, record.attackers_accepted) == (9, 2)  # the first of each counts


def test_nan_is_a_finite_number_on_the_grid() -> None:
    result = attacked("nan", MEAN)
    loss = result.final("loss")
    assert loss is not None
    assert math.isfinite(loss)


@pytest.mark.claim("C-agreement-5")
def test_silence_at_quorum_blocks_rounds_and_changes_no_model() -> None:
    swarm = config(7, 2, quorum=7)
    result = quadratic(swarm, rounds=3, attack="silent", attackers=2)
    assert not result.closed
    assert len(result.rounds) == MAX_ABORTED
    assert {record.reason for record in result.rounds} == {"5 contributions, quorum 7"}
    untouched = quadratic(swarm, rounds=1).rounds[0]
    assert {record.model_digest for record in result.rounds} == set(result.model_digests)
    assert untouched.model_digest not in result.model_digests
    assert any("stay silent" in notice for notice in result.notices)


@pytest.mark.control("C-agreement-5")
def test_with_room_below_the_quorum_silence_changes_nothing() -> None:
    result = quadratic(config(7, 2, quorum=5), rounds=3, attack="silent", attackers=2)
    assert [record.accepted for record in result.closed] == [5, 5, 5]


def test_a_swarm_of_attackers_alone_is_played_too() -> None:
    result = quadratic(config(4, 0), rounds=2, attack="scaled", attackers=4)
    assert len(result.model_digests) == 4


# ── refusals ──────────────────────────────────────────────────────────────────────────────────────


def test_more_attackers_than_nodes_are_refused() -> None:
    with pytest.raises(LabError) as caught:
        quadratic(config(4, 1), attack="noise", attackers=5)
    (problem,) = caught.value.problems
    assert (problem.code, problem.where) == ("QRES-E105", "simulation.attackers")


def test_an_unknown_attack_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(LabError) as caught:
        quadratic(config(4, 1), attack="sing_flip", attackers=1)
    (problem,) = caught.value.problems
    assert (problem.code, problem.where) == ("QRES-E801", "simulation.attack")
    assert "sign_flip" in problem.fix


def test_a_strength_that_an_attack_does_not_take_is_refused() -> None:
    with pytest.raises(LabError) as caught:
        quadratic(config(4, 1), attack="silent", attackers=1, strength=2.0)
    assert caught.value.code == "QRES-E105"


@pytest.mark.parametrize("lonely", [{"attack": "noise"}, {"attackers": 2}])
def test_an_attack_without_attackers_is_refused(lonely: Mapping[str, Any]) -> None:
    with pytest.raises(ValueError, match="attack"):
        Scenario(**lonely)


# ── a node that differs ───────────────────────────────────────────────────────────────────────────


@attrs.define
class Faulty:
    """A rule on a broken machine: one node's result differs by a bit from all others'."""

    broken: bool = attrs.field(default=False, init=False)

    claims = Claims(tolerates=None)

    @hookimpl
    def setup(self, node_info: NodeInfo) -> None:
        self.broken = node_info.node_id == node_info.roster[0]

    @hookimpl
    def aggregate(self, updates: Updates) -> Vector:
        merged = weighted_mean(updates.vectors, updates.weights).copy()
        merged[0] ^= self.broken
        return merged


@pytest.mark.control("C-agreement-2")
def test_a_node_that_computes_otherwise_ends_the_simulation_with_the_named_error() -> None:
    installed = {**scan(), "faulty": Installed.local("faulty", Faulty)}
    swarm = config(4, 1, plugins={"memory": {}, "faulty": {}})
    with pytest.raises(RoundError) as caught:
        simulate(swarm, Scenario(rounds=3), task=QUADRATIC, installed=installed)
    assert caught.value.code == "QRES-E601"


# ── digits: what the demonstration claims ─────────────────────────────────────────────────────────

NODES: Final = 20
F: Final = 6
ROUNDS: Final = 12


def digits(plugins: Mapping[str, Mapping[str, Any]], *, attack: str = "") -> float:
    swarm = config(NODES, F, quorum=15, plugins=plugins)
    liars = {"attack": attack, "attackers": F} if attack else {}
    result = simulate(swarm, Scenario(rounds=ROUNDS, **liars), task=DIGITS)
    assert result.unanimous
    assert len(result.closed) == ROUNDS
    accuracy = result.final("accuracy")
    assert accuracy is not None
    return 100.0 * accuracy


@pytest.fixture(scope="module")
def clean() -> float:
    return digits(MEAN)


@pytest.mark.long
def test_the_clean_swarm_learns(clean: float) -> None:
    assert clean > 85.0


@pytest.mark.control("C-composition-9", "C-transport-7")
@pytest.mark.long
def test_sign_flip_ruins_the_mean(clean: float) -> None:
    assert digits(MEAN, attack="sign_flip") <= clean - 30.0


@pytest.mark.long
@pytest.mark.parametrize(("select", "points"), [(8, 5.0), (1, 8.0)])
def test_krum_withstands_sign_flip(clean: float, select: int, points: float) -> None:
    rule = {"memory": {}, "krum": {"f": F, "select": select}}
    assert digits(rule, attack="sign_flip") >= clean - points
