"""Nodes, the vectorised engine and the attackers' look-ahead merge along one path."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from numpy.typing import NDArray

import qres_core
from qres_core import (
    ACCEPT,
    Accusation,
    Claims,
    Contribution,
    HeldOut,
    RoundInfo,
    Screening,
    Standing,
    Trainer,
    Update,
    Updates,
    Vector,
    Verdict,
    hookimpl,
    reject,
)
from qres_core.contract.types import NodeId, model_digest
from qres_core.kernel.config import parse
from qres_core.kernel.discovery import Installed, scan
from qres_core.lab.attacks import ATTACKS, AttackContext, Forgery, register
from qres_core.lab.scenario import Scenario
from qres_core.lab.simulator import simulate
from qres_core.lab.tasks import Task, TaskConfig, make_task

HOOKS = {"screen", "reveal", "aggregate", "endorse"}
NODES = 7
SIZE = 8


def test_only_the_data_path_calls_the_hooks_of_the_data_path() -> None:
    """Else one of the three could take another order again."""
    root = Path(qres_core.__file__).parent
    found = {
        path.relative_to(root).as_posix()
        for room in ("swarm", "lab", "node", "cli")
        for path in (root / room).rglob("*.py")
        if "plugin_templates" not in path.parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in HOOKS
    }
    assert found == {"swarm/merge.py"}


# Each plugin moves the result in its own way, and no two of them commute.


@attrs.frozen
class Weighs:
    """Halves one node's standing."""

    claims = Claims(tolerates=None)

    @hookimpl
    def reputation(self, sender: NodeId) -> Standing:
        return Standing(2**15 if sender[0] % 2 else 2**16)


@attrs.frozen
class Screens:
    """Leaves out the largest update, and lets the first count for a third."""

    @hookimpl
    def screen(self, updates: Updates, held_out: HeldOut) -> Screening:
        losses = [held_out.loss_with(row) for row in updates.vectors]
        worst = updates.senders[int(np.argmax(losses))]
        against = Accusation(worst, "largest")
        first = updates.senders[0]
        return Screening((against,), {} if first == worst else {first: 2**16 // 3})


@attrs.frozen
class Reveals:
    """Doubles what was sent, and adds one. It does not hide, so judging may stand beside it."""

    claims = Claims(tolerates=None, reveals=False)

    @hookimpl
    def reveal(self, updates: Updates, contributions: tuple[Contribution, ...]) -> Updates:
        assert updates.senders == tuple(contribution.sender for contribution in contributions)
        return attrs.evolve(updates, vectors=2 * updates.vectors + 1)


@attrs.frozen
class Wraps:
    """Halves what comes in and adds three to what comes out."""

    claims = Claims(tolerates=None)

    @hookimpl
    def wrap_aggregate(self, proceed: Callable[[Updates], Vector], updates: Updates) -> Vector:
        return proceed(attrs.evolve(updates, vectors=updates.vectors // 2)) + np.int32(3)


@attrs.frozen
class Endorses:
    """Accepts whatever is finite: that it is asked at all is what may change the result."""

    @hookimpl
    def endorse(self, merged: Vector, held_out: HeldOut) -> Verdict:
        return ACCEPT if np.isfinite(held_out.loss_with(merged)) else reject("infinite")


PLUGINS: Mapping[str, type] = {
    "weighs": Weighs,
    "screens": Screens,
    "reveals": Reveals,
    "wraps": Wraps,
    "endorses": Endorses,
}


@attrs.frozen
class Judging:
    """A trainer that holds the same examples as every other."""

    inner: Trainer

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update | None:
        return self.inner.fit(vector, round_info)

    def evaluate(self, vector: Vector) -> Mapping[str, float]:
        return self.inner.evaluate(vector)

    def validate(self, vector: Vector) -> float:
        return float(np.abs(vector.astype(np.int64)).sum())


def judging() -> Task:
    config = TaskConfig(name="quadratic", dimension=SIZE, local_epochs=1, learning_rate=0.3)
    task = make_task(config, nodes=NODES, seed=3)
    return attrs.evolve(task, trainers=tuple(Judging(trainer) for trainer in task.trainers))


@pytest.fixture
def foretold() -> Iterator[list[list[int]]]:
    """What the look-ahead says of each round's model."""
    told: list[list[int]] = []

    @register("test_one_path", summary="what was probed", knowledge="everything")
    @attrs.frozen
    class Foretell:
        probes: bool = True

        def forge(self, context: AttackContext) -> tuple[Forgery, ...]:
            def plan() -> list[NDArray[np.int32]]:
                rows = context.rng.integers(-900, 900, (context.attackers, SIZE)).astype(np.int32)
                merged = context.probe(rows)
                assert merged is not None
                told.append((context.model + merged).tolist())
                return list(rows)

            mine = context.agreed(plan)[context.index]
            return (Forgery(mine.astype("<i4").tobytes(), context.own.weight),)

    yield told
    del ATTACKS["test_one_path"]


@pytest.mark.parametrize("chosen", list(product([False, True], repeat=len(PLUGINS))))
def test_all_three_give_the_same_bits_whatever_is_enabled(
    foretold: list[list[int]], chosen: tuple[bool, ...]
) -> None:
    names = [name for name, there in zip(PLUGINS, chosen, strict=True) if there]
    tables: dict[str, Any] = {"memory": {}, "mean": {"unprotected": True}}
    tables |= {name: {} for name in names}
    swarm = {"name": "v", "nodes": NODES, "byzantine": 2, "quorum": 5, "insecure": True}
    config = parse({"swarm": swarm, "plugins": tables}, source="test")
    installed = {**scan(), **{name: Installed.local(name, PLUGINS[name]) for name in names}}
    models: dict[str, list[str]] = {}
    for engine in ("events", "vectorised"):
        foretold.clear()
        scenario = Scenario(rounds=2, seed=5, attack="test_one_path", attackers=2, engine=engine)
        result = simulate(config, scenario, task=judging(), installed=installed)
        models[engine] = [record.model_digest for record in result.closed]
        ahead = [np.array(model, dtype=np.int32) for model in foretold]
        models[f"ahead of {engine}"] = [
            model_digest(model, step).hex() for step, model in enumerate(ahead, start=1)
        ]
    assert len(models["events"]) == 2
    assert all(digests == models["events"] for digests in models.values())


def test_every_plugin_of_the_comparison_moves_the_result() -> None:
    """Positive control: what leaves the bits alone could not tell two orders apart."""
    swarm = {"name": "v", "nodes": NODES, "byzantine": 2, "quorum": 5, "insecure": True}
    scenario = Scenario(rounds=1, seed=5, engine="vectorised")

    def merged(*names: str) -> str:
        tables: dict[str, Any] = {"memory": {}, "mean": {"unprotected": True}}
        tables |= {name: {} for name in names}
        config = parse({"swarm": swarm, "plugins": tables}, source="test")
        installed = {**scan(), **{name: Installed.local(name, PLUGINS[name]) for name in names}}
        result = simulate(config, scenario, task=judging(), installed=installed)
        return result.closed[0].model_digest

    assert len({merged(), *(merged(name) for name in ("screens", "reveals", "wraps"))}) == 4
    assert merged("reveals", "endorses") == merged()  # judged before the vote: not revealed after
