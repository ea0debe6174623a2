"""Swarms whose nodes refuse steps that are too long for them, over the real agreement."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import numpy as np
import pytest
from qres_validation.validated_mean import StepLength

from qres_core import RoundInfo, Update, Vector
from qres_core.kernel.config import parse
from qres_core.lab.record import SimulationResult
from qres_core.lab.scenario import Scenario
from qres_core.lab.simulator import simulate
from qres_core.lab.tasks import Task

GOAL = np.array([4000, -8000, 1000], dtype=np.int32)


@attrs.frozen(eq=False)
class Eager:
    """Goes three times as far as it should: the loss after the step is four times as large."""

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update:
        del round_info
        return Update((3 * (GOAL - vector)).astype(np.int32))

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
