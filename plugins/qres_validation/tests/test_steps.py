"""Swarms whose nodes refuse steps that are too long for them, over the real agreement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import numpy as np
import pytest
from qres_validation import ValidatedMean
from qres_validation.validated_mean import StepLength

from qres_core import RoundInfo, Update, Vector, Verdict, hookimpl
from qres_core.attacks.sabotage import (
    SABOTAGE,
    Injection,
    Outgoing,
    RegisteredSabotage,
    SabotageContext,
)
from qres_core.attacks.scenario import Scenario
from qres_core.kernel.config import parse
from qres_core.lab.record import SimulationResult
from qres_core.lab.simulator import simulate
from qres_core.training import HeldOut
from qres_core.training.tasks import Task

GOAL = np.array([4000, -8000, 1000], dtype=np.int32)


@attrs.frozen(eq=False)
class Eager:
    """Goes three times as far as it should: the loss after the step is four times as large."""

    part: float = 3.0  # of the way to the goal

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update:
        del round_info
        return Update((self.part * (GOAL - vector)).astype(np.int32))

    def reference(self, vector: Vector, round_info: RoundInfo) -> Vector:
        return self.fit(vector, round_info).vector

    def validate(self, vector: Vector) -> float:
        return float(((vector.astype(np.float64) - GOAL) ** 2).mean())

    def evaluate(self, vector: Vector) -> Mapping[str, float]:
        return {"loss": self.validate(vector)}


def play() -> SimulationResult:
    swarm = {"name": "eager", "nodes": 4, "byzantine": 1, "quorum": 3, "insecure": True}
    config = parse(
        {"swarm": swarm, "plugins": {"memory": {}, "validated_mean": {"f": 1}}}, source="eager"
    )
    task = Task("eager", np.zeros(3, dtype=np.int32), tuple(Eager() for _node in range(4)))
    return simulate(config, Scenario(rounds=3, engine="events"), task=task)


@pytest.mark.claim("C-validation-14")
@pytest.mark.control("C-validation-14")
def test_nodes_that_refuse_a_step_come_to_a_shorter_one(monkeypatch: pytest.MonkeyPatch) -> None:
    result = play()
    assert len(result.closed) == 3
    assert result.unanimous
    assert not result.rounds[0].closed
    # With half of the step the loss is a quarter of what it was.
    assert result.final("loss") < 0.3 * Eager().validate(np.zeros(3, dtype=np.int32))
    # The control: who never halves a step proposes what all refuse, for ever.
    monkeypatch.setattr(StepLength, "after", lambda *_arguments: None)
    assert not play().closed


class Harmed(Eager):
    """Any step away from where it is costs it much."""

    def validate(self, vector: Vector) -> float:
        return 1.0 + float((vector != 0).sum())


@pytest.mark.parametrize(("harmed", "closes"), [(4, True), (5, False)])
def test_honest_nodes_whose_votes_are_not_needed_may_lose_anything(
    harmed: int, *, closes: bool
) -> None:
    """In a swarm of ten with one liar these are ceil(9 / 2) - 1 = 4 of nine."""
    swarm = {"name": "harm", "nodes": 10, "byzantine": 1, "quorum": 9, "insecure": True}
    config = parse(
        {"swarm": swarm, "plugins": {"memory": {}, "validated_mean": {"f": 1}}}, source="harm"
    )
    kinds = [Harmed] * harmed + [Eager] * (10 - harmed)  # the last one votes for everything
    task = Task("harm", np.zeros(3, dtype=np.int32), tuple(kind(0.5) for kind in kinds))
    result = simulate(config, Scenario(rounds=1, engine="events"), task=task)
    assert bool(result.closed) is closes


@attrs.frozen
class ShowTooFew:
    """Contributes honestly, and shows what it proposes to one node less than could decide on it."""

    contributes: bool = True
    credentials: bool = True

    def act(self, context: SabotageContext) -> Sequence[Injection]:
        del context
        return ()

    def withholds(self, message: Outgoing) -> bool:
        kept = (message.place + message.round) % message.nodes < 3
        return message.accomplice_proposes and (message.votes_on_set or kept)


@pytest.mark.claim("C-validation-14")
def test_liars_whose_sets_reach_too_few_shorten_no_steps_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(SABOTAGE, "few", RegisteredSabotage("few", "shows too few", ShowTooFew))
    swarm = {"name": "few", "nodes": 7, "byzantine": 2, "quorum": 5, "insecure": True}
    config = parse(
        {"swarm": swarm, "plugins": {"memory": {}, "validated_mean": {"f": 2}}}, source="few"
    )
    start = np.zeros(3, dtype=np.int32)
    task = Task("calm", start, tuple(Eager(0.5) for _node in range(7)))
    scenario = Scenario(rounds=10, engine="events", attack="few", attackers=2)

    def left() -> float:
        return simulate(config, scenario, task=task).final("loss") / Eager().validate(start)

    assert left() < 1e-5  # ten times half of the way is left
    # The control: who endorsed a set that failed takes shorter steps, too, for ten rounds.
    monkeypatch.setattr("qres_validation.validated_mean.CALM", 10)
    endorse = ValidatedMean.endorse

    def stand_for(
        self: ValidatedMean, merged: Vector, held_out: HeldOut, round_info: RoundInfo
    ) -> Verdict:
        self._step.mine = round_info.number
        return endorse(self, merged, held_out)

    monkeypatch.setattr(ValidatedMean, "endorse", hookimpl(stand_for))
    assert left() > 1e-4
