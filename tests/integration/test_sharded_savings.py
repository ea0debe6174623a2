"""Committees and rounding to few bits together save about what they save one by one."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np
import pytest

from qres_core import RoundInfo, Update, Vector
from qres_core.attacks.scenario import Scenario
from qres_core.kernel.config import parse
from qres_core.lab.simulator import simulate
from qres_core.training.tasks import Task

BENCHMARKS: Final = Path(__file__).parents[2] / "benchmarks"
NODES: Final = 10
LIARS: Final = 3
D: Final = 300_000
SHARE: Final = 0.8


@attrs.frozen
class Normal:
    """Updates as they are learned: most numbers small against the largest of 13 bits."""

    index: int

    def fit(self, vector: Vector, _info: RoundInfo) -> Update:
        rng = np.random.default_rng(self.index)
        return Update(np.rint(rng.normal(0, 2**10, vector.size)).astype(np.int32))

    def evaluate(self, _vector: Vector, _info: RoundInfo) -> Mapping[str, float]:
        return {}


def received(*, bits: int = 0, **swarm: Any) -> int:
    """Bytes that a node receives in a round."""
    table = {
        "name": "savings", "nodes": NODES, "byzantine": LIARS, "quorum": NODES, **swarm,
    }  # fmt: skip
    plugins: dict[str, Any] = {"memory": {}, "ed25519": {}, "replay": {}}
    plugins |= {"mean": {"unprotected": True}} | ({"quantize": {"bits": bits}} if bits else {})
    task = Task("normal", np.zeros(D, dtype=np.int32), tuple(map(Normal, range(NODES))))
    config = parse({"swarm": table, "plugins": plugins}, source="test")
    (record,) = simulate(config, Scenario(rounds=1), task=task).rounds
    return sum(record.received.values())


@pytest.mark.parametrize(("d", "pays"), [(1_000, False), (100_000, True)])
def test_a_round_over_slow_links_is_slower_for_small_models_and_faster_for_large_ones(
    d: int, *, pays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In virtual seconds, with links of 20 Mbit/s: it takes more messages in a row, and fewer
    bytes."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    latency = importlib.import_module("latency")
    everyone, sharded = (latency.seconds(7, 1, d, how) for how in ("everyone", "sharded"))
    vectors = 8 * 4 * d / (latency.MBITS * 1e6)  # seconds of one
    assert everyone > 6 * vectors
    assert sharded > 2.4 * vectors  # parts of the others, and of the model what it did not merge
    assert (sharded < everyone) is pays


def test_the_size_from_which_it_pays_lies_between_two_that_were_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    crossing = importlib.import_module("latency").crossing
    assert crossing({1: 0.5, 100: 2.0, 1000: 3.0}) == pytest.approx(10)
    assert crossing({1: 1.5, 100: 2.0}) == 0
    assert crossing({1: 0.5, 100: 0.9}) == float("inf")


def test_what_each_saves_multiplies() -> None:
    """A merged shard is exact, so it is not rounded, and messages beside vectors stay: a fifth."""
    plain = received()
    alone = [received(aggregation="sharded"), received(bits=8)]
    assert min(plain / octets for octets in alone) > 1.5, "control: each saves something"
    product = np.prod([plain / octets for octets in alone])
    together = plain / received(aggregation="sharded", bits=8)
    assert SHARE * product < together
