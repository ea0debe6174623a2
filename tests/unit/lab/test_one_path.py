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
from qres_lab.shadow import Sandbox, Shadow
from qres_lab.testing import make_node_info, make_round_info, make_updates

import qres_core
from qres_core import (
    ACCEPT,
    Accusation,
    Claims,
    Contribution,
    Evidence,
    RoundInfo,
    Standing,
    Update,
    Updates,
    Vector,
    Verdict,
    hookimpl,
    reject,
)
from qres_core.attacks import ATTACKS, AttackContext, Forgery, register
from qres_core.attacks.scenario import Scenario
from qres_core.builtin.mean import Mean
from qres_core.builtin.memory import Memory
from qres_core.claims import Privatizes
from qres_core.contract.types import NodeId, model_digest
from qres_core.dialogues import Revelation
from qres_core.kernel.assembly import enable
from qres_core.kernel.config import SwarmConfig, parse
from qres_core.kernel.discovery import Installed, scan
from qres_core.kernel.kernel import Kernel
from qres_core.lab.record import SimulationResult
from qres_core.lab.simulator import simulate
from qres_core.training import HeldOut, Screening, Trainer
from qres_core.training.tasks import Task, TaskConfig, make_task

HOOKS = {"screen", "reveal", "aggregate", "wrap_merged", "endorse"}
OF_SHARDS = {"reveal_shard", "aggregate_shard"}
NODES = 7
SIZE = 8


def test_only_the_data_path_calls_the_hooks_of_the_data_path() -> None:
    """Else one of the three could take another order again."""
    root = Path(qres_core.__file__).parent
    found = {
        (path.relative_to(root).as_posix(), node.attr in OF_SHARDS)
        for room in ("swarm", "lab", "node", "cli")
        for path in (root / room).rglob("*.py")
        if "plugin_templates" not in path.parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in HOOKS | OF_SHARDS
    }
    # In a sharded round a committee works on a range of coordinates.
    assert found == {("swarm/contributions/merge.py", False), ("swarm/shards/merging.py", True)}


# Each plugin moves the result in its own way, and no two of them commute.


@attrs.frozen
class Weighs:
    """Halves one node's standing."""

    claims = Claims(tolerates=None)

    @hookimpl
    def reputation(self, sender: NodeId) -> Standing:
        return Standing(2**31 if sender[0] % 2 else 2**32)


@attrs.frozen
class Screens:
    """Leaves out the largest update, and lets the first count for a third."""

    @hookimpl
    def screen(self, updates: Updates, held_out: HeldOut) -> Screening:
        losses = [held_out.loss_with(row) for row in updates.vectors]
        worst = updates.senders[int(np.argmax(losses))]
        against = Accusation(worst, "largest")
        first = updates.senders[0]
        return Screening((against,), {} if first == worst else {first: 2**32 // 3})


@attrs.frozen
class Reveals:
    """Doubles what was sent, and adds one. It does not hide, so judging may stand beside it."""

    claims = Claims(tolerates=None, privatizes=Privatizes(reveals=False))

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


# ── what fails, and what plugins remember ─────────────────────────────────────────────────────────


def played(kind: type, engine: str, *, attack: str = "", rounds: int = 2) -> SimulationResult:
    """A swarm with one plugin of a test's own beside the mean."""
    tables: dict[str, Any] = {"memory": {}, "mean": {"unprotected": True}, "own": {}}
    swarm = {"name": "v", "nodes": NODES, "byzantine": 2, "quorum": 5, "insecure": True}
    config = parse({"swarm": swarm, "plugins": tables}, source="test")
    scenario = Scenario(
        rounds=rounds, seed=5, attack=attack, attackers=2 if attack else 0, engine=engine
    )
    installed = {**scan(), "own": Installed.local("own", kind)}
    return simulate(config, scenario, task=judging(), installed=installed)


@attrs.define
class Fails:
    """Raises in one hook, in the first round only."""

    hook: str = attrs.field(default="", init=False)
    claims = Claims(tolerates=None, privatizes=Privatizes(reveals=False))

    def _at(self, hook: str, round_info: RoundInfo) -> None:
        if hook == self.hook and round_info.number == 1:
            msg = "broken"
            raise RuntimeError(msg)

    @hookimpl
    def screen(self, round_info: RoundInfo) -> Screening:
        self._at("screen", round_info)
        return Screening()

    @hookimpl
    def endorse(self, round_info: RoundInfo) -> Verdict:
        self._at("endorse", round_info)
        return ACCEPT

    @hookimpl
    def wrap_aggregate(
        self, proceed: Callable[[Updates], Vector], updates: Updates, round_info: RoundInfo
    ) -> Vector:
        self._at("wrap_aggregate", round_info)
        return proceed(updates)


@attrs.define
class FailsToMerge:
    """Raises while what is decided is merged, in the first round only."""

    hook: str = attrs.field(default="", init=False)
    claims = Claims(tolerates=None)

    @hookimpl
    def reveal(self, updates: Updates, round_info: RoundInfo) -> Updates:
        if self.hook == "reveal" and round_info.number == 1:
            msg = "broken"
            raise RuntimeError(msg)
        return updates

    @hookimpl
    def wrap_aggregate(
        self, proceed: Callable[[Updates], Vector], updates: Updates, round_info: RoundInfo
    ) -> Vector:
        if self.hook == "wrap_aggregate" and round_info.number == 1:
            msg = "broken"
            raise RuntimeError(msg)
        return proceed(updates)


def breaking(kind: type, hook: str) -> type:
    """The plugin, with a hook that raises in the first round."""
    field: Any = attrs.field(default=hook, init=False)
    return attrs.make_class("Broken", {"hook": field}, bases=(kind,))


@pytest.mark.parametrize("hook", ["", "screen", "endorse", "wrap_aggregate"])
def test_a_hook_that_raises_before_the_vote_costs_both_engines_the_round_and_no_more(
    hook: str,
) -> None:
    kind = breaking(Fails, hook)
    events, fast = (played(kind, engine, rounds=3) for engine in ("events", "vectorised"))
    # Without a fault all three close: the positive control.
    assert [record.number for record in fast.closed] == ([2, 3] if hook else [1, 2, 3])
    # Nodes play until so many rounds closed, the fast path so many rounds.
    assert [(record.number, record.model_digest) for record in fast.closed] == [
        (record.number, record.model_digest) for record in events.closed[: len(fast.closed)]
    ]


@pytest.mark.parametrize("hook", ["reveal", pytest.param("wrap_aggregate", marks=pytest.mark.long)])
def test_a_hook_that_raises_while_a_decided_set_is_merged_ends_no_simulation(hook: str) -> None:
    """The height is void in both engines, and the next one makes a model."""
    kind = breaking(FailsToMerge, hook)
    fast, events = (played(kind, engine, rounds=3) for engine in ("vectorised", "events"))
    assert [record.number for record in fast.closed] == [2, 3]
    for result in (fast, events):
        assert [record.number for record in result.void] == [1]
        assert not result.aborted
        assert "QRES-E701" in result.rounds[0].reason
    assert [(record.number, record.outcome, record.model_digest) for record in fast.rounds] == [
        (record.number, record.outcome, record.model_digest) for record in events.rounds[:3]
    ]


@attrs.define
class Remembers:
    """Accuses the largest, and adds to the model how much evidence it has been told of."""

    claims = Claims(tolerates=None)
    told: int = attrs.field(default=0, init=False)

    @hookimpl
    def screen(self, updates: Updates) -> Screening:
        lengths = np.abs(updates.vectors.astype(np.int64)).sum(axis=1)
        return Screening((Accusation(updates.senders[int(np.argmax(lengths))], "largest"),))

    @hookimpl
    def observe(self, evidence: Evidence) -> None:
        self.told += evidence.against

    @hookimpl
    def wrap_aggregate(self, proceed: Callable[[Updates], Vector], updates: Updates) -> Vector:
        return proceed(updates) + np.int32(self.told)


def test_the_look_ahead_tells_plugins_what_screening_found_before_it_merges(
    foretold: list[list[int]],
) -> None:
    result = played(Remembers, "vectorised", attack="test_one_path")
    ahead = [
        model_digest(np.array(model, dtype=np.int32), step).hex()
        for step, model in enumerate(foretold, start=1)
    ]
    assert ahead == [record.model_digest for record in result.closed]


@attrs.frozen
class Exposes:
    """Finds out about the first sender while it reveals."""

    claims = Claims(tolerates=None)

    @hookimpl
    def reveal(self, updates: Updates) -> Revelation:
        return Revelation(updates, (Accusation(updates.senders[0], "exposed"),))


@attrs.define
class Listens:
    """Observes, and has no other hook."""

    heard: list[str] = attrs.field(factory=list[str], init=False)

    @hookimpl
    def observe(self, evidence: Evidence) -> None:
        self.heard.append(evidence.fact)


def test_a_probe_that_brings_evidence_to_light_merges_and_tells_no_plugin_of_the_node() -> None:
    listens, mean = Listens(), Mean(unprotected=True)
    plugins = {"memory": Memory(), "mean": mean, "exposes": Exposes(), "listens": listens}
    swarm = SwarmConfig(name="v", nodes=4, byzantine=1, quorum=3, insecure=True)
    kernel = Kernel([enable(plugin, name) for name, plugin in plugins.items()], swarm)
    node_info = make_node_info(nodes=4, byzantine=1)
    kernel.setup(node_info)
    info = make_round_info(SIZE, nodes=4, byzantine=1)
    updates = {
        node: Update(np.full(SIZE, 5, dtype=np.int32), weight=1) for node in node_info.roster
    }
    attacker = node_info.roster[0]
    honest = {node: update for node, update in updates.items() if node != attacker}
    model = np.zeros(SIZE, dtype=np.int32)
    shadow = Shadow(Sandbox(kernel), info, model, honest, {attacker: updates[attacker]})
    for _probe in range(2):
        merged = shadow.probe(np.full((1, SIZE), 5, dtype=np.int32))
        assert merged is not None
        assert merged.tolist() == [5] * SIZE
    assert listens.heard == []
    everything = make_updates([[5] * SIZE] * 4)  # positive control: the node itself is told
    kernel.reveal(everything, (), info)
    assert listens.heard == ["exposes:exposed"]


@attrs.define(slots=False)
class Fills:
    """Has a field that nothing filled yet, and that a probe fills."""

    _heard: str = attrs.field(init=False)

    @hookimpl
    def observe(self, evidence: Evidence) -> None:
        self._heard = evidence.fact


def test_a_probe_undoes_what_the_one_before_filled_in() -> None:
    swarm = SwarmConfig(name="v", nodes=4, byzantine=1, quorum=3, insecure=True)
    plugins = {"memory": Memory(), "mean": Mean(unprotected=True), "fills": Fills()}
    sandbox = Sandbox(Kernel([enable(each, name) for name, each in plugins.items()], swarm))
    for _probe in range(2):
        kernel = sandbox.fresh()
        assert not hasattr(kernel.enabled[2].instance, "_heard")
        kernel.observe(Evidence(b"n" * 32, "x:y", "x", 1))
        assert hasattr(kernel.enabled[2].instance, "_heard")
