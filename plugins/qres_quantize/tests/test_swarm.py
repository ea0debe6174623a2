"""Whole swarms: they learn with few bits, nodes and simulator agree, and liars gain nothing new."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from qres_quantize import Quantize

from qres_core import Outcome, RoundStatus, hookimpl
from qres_core.attacks.scenario import Scenario
from qres_core.errors import ModelError, ValueRefusedError
from qres_core.kernel.config import Config, parse
from qres_core.kernel.kernel import Kernel
from qres_core.kernel.merging import Merging
from qres_core.lab.checkpoint import Checkpoint
from qres_core.lab.record import RoundRecord, SimulationResult
from qres_core.lab.simulator import simulate
from qres_core.swarm.ledger.messages import ContributionBody
from qres_core.training.tasks import TaskConfig, make_task

TASK = TaskConfig(name="quadratic", dimension=300, local_epochs=1, learning_rate=0.3)


def configured(bits: int | None, rule: str = "median", **swarm: Any) -> Config:
    mine = "" if bits is None else f"[plugins.quantize]\nbits = {bits}"
    more = "\n".join(f"{key} = {value}" for key, value in swarm.items())
    text = f"""
        [swarm]
        name = "few-bits"
        nodes = 9
        byzantine = 2
        quorum = 7
        insecure = true
        {more}
        [plugins.memory]
        {mine}
        [plugins.{rule}]
        f = 2
        """
    return parse(tomllib.loads(text), source="test")


def run(bits: int | None, rounds: int = 8, **more: Any) -> SimulationResult:
    return simulate(configured(bits), Scenario(rounds=rounds, seed=5, **more), task=TASK)


def loss(result: SimulationResult) -> float:
    return float(result.rounds[-1].metrics["loss"])


@pytest.mark.parametrize("bits", [8, 2])
def test_all_nodes_and_the_simulator_agree_under_attack(bits: int) -> None:
    attacked = {"attack": "sign_flip", "attackers": 2}
    nodes = run(bits, rounds=4, engine="events", **attacked)
    observer = run(bits, rounds=4, engine="vectorised", **attacked)
    assert len(nodes.model_digests) == 7
    assert {*nodes.model_digests, *observer.model_digests} == {nodes.model_digests[0]}
    assert nodes.model_digests != run(None, rounds=4, engine="events", **attacked).model_digests


@pytest.mark.parametrize("bits", [8, 4])
def test_a_swarm_learns_as_with_all_bits(bits: int) -> None:
    plain = run(None, rounds=12, engine="vectorised")
    few = run(bits, rounds=12, engine="vectorised")
    assert loss(few) < 1.02 * loss(plain)
    assert loss(plain) < float(plain.rounds[0].metrics["loss"]) / 2


def test_two_bits_learn_later_and_by_feedback_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, few = (loss(run(bits, rounds=40, engine="vectorised")) for bits in (None, 2))
    assert few < 1.02 * plain
    monkeypatch.setattr(Quantize, "_is_merged", lambda *_args: False)  # the control
    assert loss(run(2, rounds=40, engine="vectorised")) > 1.3 * few


@attrs.define
class Sizes:
    """Bytes of contributions, as they are decoded."""

    found: list[int] = attrs.field(factory=list[int])

    def install(self, patch: pytest.MonkeyPatch) -> None:
        encode = ContributionBody.to_bytes

        def measured(body: ContributionBody) -> bytes:
            octets = encode(body)
            self.found.append(len(octets))
            return octets

        patch.setattr(ContributionBody, "to_bytes", measured)


@pytest.mark.claim("C-quantize-1")
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_contributions_are_as_small_as_promised(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = Sizes()
    sizes.install(monkeypatch)
    run(bits, rounds=2, engine="vectorised")
    assert sizes.found
    assert max(sizes.found) <= 300 * bits // 8 + 5 * 2 + 20


# ── heights without a model ───────────────────────────────────────────────────────────────────────


@attrs.define
class Watch:
    """How heights ended at the nodes, and what each node then holds."""

    ended: list[RoundStatus] = attrs.field(factory=list[RoundStatus])
    sums: dict[bytes, Any] = attrs.field(factory=dict[bytes, Any])
    broken: int = 0

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """The law of every node, held against what went in and out of its own plugin."""
        privatize, closed, opened = Quantize.privatize, Quantize.round_closed, Quantize.round_opened
        made: dict[tuple[bytes, int], Any] = {}

        def rounding(plugin: Quantize, update: Any, round_info: Any) -> Any:
            sent = privatize(plugin, update, round_info)
            taken = update.vector.astype(np.int64) - sent.vector
            made[plugin._node, round_info.height] = taken
            return sent

        def closing(plugin: Quantize, outcome: Outcome) -> None:
            closed(plugin, outcome)
            self.ended.append(outcome.status)
            node = plugin._node
            taken = made.pop((node, outcome.round_info.height), None)
            if outcome.status is RoundStatus.CLOSED and node in outcome.members:
                self.sums[node] = self.sums.get(node, 0) + taken

        def opening(plugin: Quantize, round_info: Any, contributed: Any) -> None:
            opened(plugin, round_info, contributed)
            held = plugin._left.vector(round_info.dimension)
            self.broken += not np.array_equal(held, self.sums.get(plugin._node, 0 * held))

        patch.setattr(Quantize, "privatize", hookimpl(rounding))
        patch.setattr(Quantize, "round_closed", hookimpl(closing))
        patch.setattr(Quantize, "round_opened", hookimpl(opening))


@pytest.mark.claim("C-quantize-2")
@pytest.mark.parametrize("engine", ["events", "vectorised"])
def test_void_heights_add_nothing_twice(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that refuses two heights of six; the law holds at every node all the time."""
    aggregate = Merging.aggregate

    def refusing(merging: Merging, updates: Any, round_info: Any, *more: Any) -> Any:
        if round_info.height in {1, 3}:
            raise ValueRefusedError.of("QRES-E507", "test", "not this one")
        return aggregate(merging, updates, round_info, *more)

    watch = Watch()
    watch.install(monkeypatch)
    monkeypatch.setattr(Merging, "aggregate", refusing)
    result = run(2, rounds=6, engine=engine)
    assert [record.closed for record in result.rounds].count(False) == 2
    assert watch.ended.count(RoundStatus.VOID) == 2 * len(watch.sums)
    assert watch.broken == 0


# ── a simulation that is killed and goes on ──────────────────────────────────────────────────────


class KilledError(Exception):
    """Somebody pulls the plug."""


@attrs.define
class Broken:
    """A simulation that is killed after its second height, and goes on from what it saved."""

    bits: int
    engine: str = "events"

    def play(self, workers: int, killed_at: int = 0, **folders: Any) -> SimulationResult:
        def progress(record: RoundRecord) -> None:
            if record.number == killed_at:
                raise KilledError

        task = make_task(TASK, nodes=9, seed=5)
        scene = Scenario(rounds=6, seed=5, engine=self.engine, workers=workers)
        config = configured(self.bits)
        return simulate(config, scene, task=task, progress=progress, **folders)

    def killed(self, folder: Path, workers: int) -> Path:
        with pytest.raises(KilledError):
            self.play(workers, killed_at=2, save=folder)
        return folder


def digests(result: SimulationResult) -> list[str]:
    return [record.model_digest for record in result.rounds]


@pytest.mark.parametrize("engine", ["events", "vectorised"])
def test_killed_and_resumed_is_as_played_through(engine: str, tmp_path: Path) -> None:
    simulation = Broken(2, engine)
    whole = digests(simulation.play(1))
    again = simulation.play(1, resume=simulation.killed(tmp_path / "run", 1))
    assert digests(again) == whole
    assert not any("quantize" in notice for notice in again.notices)


def test_so_it_is_with_workers_of_another_number(tmp_path: Path) -> None:
    simulation = Broken(2)
    whole = digests(simulation.play(1))
    assert digests(simulation.play(2, resume=simulation.killed(tmp_path / "run", 2))) == whole


def test_what_plugins_keep_makes_it_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: without it, the rounds after the break are others."""
    simulation = Broken(2)
    whole, folder = digests(simulation.play(1)), simulation.killed(tmp_path / "run", 1)
    monkeypatch.setattr(Kernel, "recall", lambda *_args: None)
    forgotten = digests(simulation.play(1, resume=folder))
    assert forgotten[:2] == whole[:2]
    assert forgotten[2:] != whole[2:]


def test_a_memory_that_is_none_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulation = Broken(2)
    folder, recall = simulation.killed(tmp_path / "run", 1), Checkpoint.recall

    def spoiled(start: Checkpoint, *more: Any) -> None:
        recall(attrs.evolve(start, plugins=tuple({"quantize": b"no"} for _ in range(9))), *more)

    monkeypatch.setattr(Checkpoint, "recall", spoiled)
    with pytest.raises(ModelError, match=r"QRES-E605.*plugins\.quantize"):
        simulation.play(1, resume=folder)
