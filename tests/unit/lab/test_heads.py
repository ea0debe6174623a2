"""Simulations have the heads of a real swarm: plugins bind to them, and checkpoints keep them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from qres_lab.vectorised import VectorisedEngine

from qres_core.attacks.scenario import Scenario
from qres_core.kernel.config import Config, parse
from qres_core.kernel.discovery import scan
from qres_core.lab.checkpoint import CheckpointFolder, settings
from qres_core.lab.events import EventEngine
from qres_core.lab.experiment import Experiment
from qres_core.lab.nodes import identify
from qres_core.lab.simulator import simulate
from qres_core.swarm.ledger.chain import Head
from qres_core.training.tasks import TaskConfig, make_task

TASK = TaskConfig(name="quadratic", dimension=6)
ENGINES = {"events": EventEngine, "vectorised": VectorisedEngine}


def configured(plugins: dict[str, Any] | None = None) -> Config:
    table = {"name": "heads", "nodes": 4, "byzantine": 1, "quorum": 3, "insecure": True}
    rule = {"memory": {}, "mean": {"unprotected": True}}
    return parse({"swarm": table, "plugins": {**rule, **(plugins or {})}}, source="test")


def test_who_runs_without_the_plugins_that_admit_claims_the_settings_of_the_swarm() -> None:
    gated: dict[str, Any] = {"ed25519": {}, "replay": {}}
    _kernels, ids = identify(configured(gated), 1, scan())
    gated["pki"] = {"members": [node_id.hex() for node_id in ids[:3]]}
    config = configured(gated)
    kernels, _ids = identify(config, 1, scan(), outsiders=1)
    assert {plugin.name for plugin in kernels[-1].enabled} < {p.name for p in kernels[0].enabled}
    assert len({kernel.settings.digest for kernel in kernels}) == 1


def last_head(engine: str, *, keeper: CheckpointFolder | None = None) -> Head:
    """Where the history is after four heights, of which some may be those of a checkpoint."""
    scenario = Scenario(rounds=4, seed=1, engine=engine)
    task = make_task(TASK, nodes=4, seed=1)
    made = ENGINES[engine](Experiment(configured(), scenario, task, scan(), keeper=keeper))
    try:
        if keeper is not None and keeper.start is not None:
            made.go_on(keeper.start)
        made.run()
        return made._head if isinstance(made, VectorisedEngine) else made.observer.machine.head
    finally:
        for kernel in dict.fromkeys(made.kernels):
            kernel.teardown()


def test_both_engines_come_to_the_same_head() -> None:
    fast, events = last_head("vectorised"), last_head("events")
    assert fast == events
    assert (fast.height, fast.step) == (4, 4)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_checkpoint_keeps_the_head_with_its_whole_past(tmp_path: Path, engine: str) -> None:
    config, task = configured(), make_task(TASK, nodes=4, seed=1)
    half = Scenario(rounds=2, seed=1, engine=engine)
    simulate(config, half, task=task, save=tmp_path / "half")
    keeper = CheckpointFolder.of(tmp_path / "half", settings(config, half, task.initial))
    assert keeper.start is not None
    assert keeper.start.head.height == 2
    assert last_head(engine, keeper=keeper) == last_head(engine)
