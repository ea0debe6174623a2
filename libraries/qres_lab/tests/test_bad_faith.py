"""Attackers that propose and vote in bad faith, beside the lie in what they contribute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np
import pytest
from qres_lab.attacks.bad_faith import LyingProposer, WithholdVotes
from qres_lab.testing import make_node_ids, make_updates

from qres_core import ACCEPT, Claims, Updates, Vector, Verdict, hookimpl, reject
from qres_core.attacks.sabotage import Outgoing
from qres_core.attacks.scenario import Scenario
from qres_core.builtin.mean import weighted_mean
from qres_core.contract.errors import OptionError
from qres_core.errors import LabError
from qres_core.kernel.config import Config, parse
from qres_core.kernel.discovery import Installed, scan
from qres_core.lab.record import SimulationResult
from qres_core.lab.simulator import simulate
from qres_core.training import HeldOut
from qres_core.training.tasks import Task, TaskConfig, make_task

NODES, LIARS = 7, 2
QUADRATIC = TaskConfig(name="quadratic", dimension=8, local_epochs=1, learning_rate=0.3)


@attrs.frozen
class Fussy:
    """A rule whose voter takes only what its examples make better."""

    claims = Claims(tolerates=None)

    @hookimpl
    def endorse(self, merged: Vector, held_out: HeldOut) -> Verdict:
        return ACCEPT if held_out.loss_with(merged) < 1.0 else reject("worse")

    @hookimpl
    def aggregate(self, updates: Updates) -> Vector:
        return weighted_mean(updates.vectors, updates.weights)


@attrs.frozen
class Judging:
    """A trainer that likes every model, or none."""

    inner: Any
    loss: float

    def fit(self, vector: Vector, round_info: Any) -> Any:
        return self.inner.fit(vector, round_info)

    def evaluate(self, vector: Vector) -> Mapping[str, float]:
        figures: Mapping[str, float] = self.inner.evaluate(vector)
        return figures

    def validate(self, vector: Vector) -> float:
        del vector
        return self.loss


def task(*losses: float) -> Task:
    """The first nodes' examples give these losses, the others' none at all."""
    made = make_task(QUADRATIC, nodes=NODES, seed=3)
    filled = (*losses, *[0.0] * (NODES - len(losses)))
    judging = (Judging(*item) for item in zip(made.trainers, filled, strict=True))
    return attrs.evolve(made, trainers=tuple(judging))


def config(rule: str = "fussy") -> Config:
    swarm = {"name": "b", "nodes": NODES, "byzantine": LIARS, "quorum": 5, "insecure": True}
    table: dict[str, Any] = {"unprotected": True} if rule == "mean" else {}
    return parse({"swarm": swarm, "plugins": {"memory": {}, rule: table}}, source="test")


def play(made: Task, sabotage: str, rule: str = "fussy", **options: Any) -> SimulationResult:
    scenario = Scenario(rounds=4, seed=1, attackers=LIARS, sabotage=sabotage, **options)
    installed = {**scan(), "fussy": Installed.local("fussy", Fussy)}
    return simulate(config(rule), scenario, task=made, installed=installed)


# ── votes ─────────────────────────────────────────────────────────────────────────────────────────


def test_two_votes_are_withheld_and_then_one_honest_objection_stops_a_set() -> None:
    """Five votes of seven decide: with the liars' four honest ones do, without them all five."""
    fussy = task(9.0)
    voted = play(fussy, "", attack="mimic")
    withheld = play(fussy, "withhold_votes", attack="mimic")
    agreed = play(task(), "withhold_votes", attack="mimic")
    assert not voted.aborted
    assert not agreed.aborted
    assert withheld.attack == "mimic + withhold_votes"
    assert len(withheld.aborted) >= len(withheld.closed) > 0  # liars propose in turn, and vote then


def test_only_votes_on_what_an_honest_node_proposes_are_withheld() -> None:
    liar = WithholdVotes()
    kinds = ("choice/prevote", "choice/precommit", "choice/proposal", "outcome/prevote")
    assert [liar.withholds(Outgoing(kind, 1, 7, 0)) for kind in kinds] == [True, True, False, False]
    assert not any(
        liar.withholds(Outgoing(kind, 1, 7, 0, accomplice_proposes=True)) for kind in kinds
    )


# ── proposals ─────────────────────────────────────────────────────────────────────────────────────


def test_a_lying_proposer_takes_the_liars_and_those_honest_nodes_that_are_most_like_them() -> None:
    ids = make_node_ids(5)
    rows = np.array([[10], [-2], [4], [-90], [1]], dtype=np.int32)
    chosen = LyingProposer().chosen(make_updates(rows, senders=ids), [ids[3]], 3)
    assert chosen == {ids[3], ids[1], ids[4]}
    all_lie = LyingProposer().chosen(make_updates(rows, senders=ids), ids, 3)
    assert all_lie == set(ids)


@pytest.mark.parametrize("judges", ["all", "nobody"])
def test_liars_that_propose_leave_honest_updates_out_and_honest_nodes_do_not(judges: str) -> None:
    made = task() if judges == "all" else make_task(QUADRATIC, nodes=NODES, seed=3)
    honest = play(made, "", rule="mean", attack="foe")
    lying = play(made, "lying_proposer", rule="mean", attack="foe")
    assert {record.accepted for record in honest.closed} == {NODES}
    assert {record.accepted for record in lying.closed} == {5, NODES}
    assert all(record.attackers_accepted == LIARS for record in lying.closed)
    assert lying.unanimous


def test_what_attackers_try_is_what_a_lying_proposer_and_withheld_votes_make_of_it() -> None:
    """The search finds a row that passes in every round, whoever proposes and votes."""
    result = play(task(), "bad_faith", attack="searched")
    assert not result.aborted
    assert all(record.attackers_accepted == LIARS for record in result.closed)


# ── what is refused ───────────────────────────────────────────────────────────────────────────────


def test_a_sabotage_needs_a_lie_to_stand_beside() -> None:
    with pytest.raises(OptionError, match=r"simulation.attack is not set"):
        Scenario(sabotage="bad_faith")


@pytest.mark.parametrize(
    ("attack", "sabotage", "code"),
    [
        ("foe", "bad_fait", "QRES-E801"),
        ("flood", "bad_faith", "QRES-E105"),
        ("foe", "equivocate", "QRES-E105"),
    ],
)
def test_a_sabotage_that_there_is_not_or_that_leaves_no_room_is_refused(
    attack: str, sabotage: str, code: str
) -> None:
    with pytest.raises(LabError, match=f"{code} simulation.sabotage"):
        play(task(), sabotage, attack=attack)


def test_the_vectorised_engine_has_no_votes_to_withhold() -> None:
    with pytest.raises(LabError, match=r"QRES-E105 simulation.sabotage"):
        play(task(), "bad_faith", attack="foe", engine="vectorised")
