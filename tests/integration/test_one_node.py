"""One real node among messages made by rule receives what it receives in a simulated swarm."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from qres_core import RoundInfo, Update, Vector
from qres_core.attacks.scenario import Scenario
from qres_core.lab.simulator import simulate
from qres_core.training.tasks import Task

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
D = 3000


@attrs.frozen
class Spread:
    """Updates over all of the grid: nothing of them packs."""

    index: int

    def fit(self, vector: Vector, _info: RoundInfo) -> Update:
        rng = np.random.default_rng(self.index)
        return Update(rng.integers(-(2**31) + 1, 2**31, vector.size, dtype=np.int32))

    def evaluate(self, _vector: Vector, _info: RoundInfo) -> Mapping[str, float]:
        return {}


@pytest.mark.parametrize(("n", "f"), [(4, 1), (9, 2)])
@pytest.mark.parametrize("more", [{}, {"bits": 8}], ids=str)
def test_bytes_by_rule_are_those_of_the_simulator(
    n: int, f: int, more: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    one_node = importlib.import_module("one_node")
    config = one_node.config(n, f, **more)
    path = one_node.OneNode(config, D).play()
    task = Task("spread", np.zeros(D, dtype=np.int32), tuple(Spread(index) for index in range(n)))
    (record,) = simulate(config, Scenario(rounds=1), task=task).rounds
    assert path.received.keys() == record.received.keys()
    # Some of the last votes come after the simulator has noted the round.
    for phase in ("shards", "holdings", "contributions", "results", "pulls"):
        assert path.received[phase] == pytest.approx(record.received[phase], rel=0.1), phase
