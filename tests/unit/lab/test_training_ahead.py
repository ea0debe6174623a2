"""Nodes begin to train for the next height on their own result, and throw it away if need be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import numpy as np

from qres_core import RoundInfo, Update
from qres_core.attacks.scenario import Scenario
from qres_core.kernel.config import parse
from qres_core.kernel.discovery import scan
from qres_core.lab.events import EventEngine
from qres_core.lab.experiment import Experiment
from qres_core.lab.nodes import SimulatedNode
from qres_core.swarm.context.effects import Train
from qres_core.swarm.machine.steps import TrainingAhead
from qres_core.training.tasks import TaskConfig, make_task

ROUNDS = 4


class Watched(EventEngine):
    """Notes each training that a node asks for, and the height that the node is at."""

    trainings: list[tuple[int, RoundInfo, int]]

    def _open(self, node: SimulatedNode, train: Train) -> None:
        self.trainings.append((node.index, train.round_info, node.machine.head.height))
        super()._open(node, train)


@contextmanager
def played(*, ahead: bool = True, **swarm: Any) -> Iterator[Watched]:
    table = {"name": "ahead", "nodes": 4, "byzantine": 1, "quorum": 3, "insecure": True, **swarm}
    plugins = {"memory": {}, "mean": {"unprotected": True}}
    config = parse({"swarm": table, "plugins": plugins}, source="test")
    task = make_task(TaskConfig(name="quadratic", dimension=6), nodes=4, seed=1)
    engine = Watched(Experiment(config, Scenario(rounds=ROUNDS, seed=1), task, scan()))
    engine.trainings = []
    for node in engine.nodes:
        node.machine.trains_ahead = ahead
    try:
        engine.run()
        yield engine
    finally:
        for kernel in engine.kernels:
            kernel.teardown()


def early(engine: Watched) -> list[tuple[int, RoundInfo, int]]:
    return [item for item in engine.trainings if item[1].height > item[2]]


def test_a_quiet_swarm_trains_while_it_votes_and_is_quicker_by_that() -> None:
    with played() as quick, played(ahead=False) as slow:
        assert not early(slow), "the control"
        assert len(early(quick)) >= 4 * (ROUNDS - 1)
        for engine in (quick, slow):
            asked = [(who, info.number) for who, info, _height in engine.trainings]
            assert len(asked) == len(set(asked)), "each trains once a round"
        assert quick.result().model_digests == slow.result().model_digests
        assert quick.clock.now < slow.clock.now


def test_a_swarm_that_keeps_an_interval_trains_when_the_round_begins() -> None:
    with played(interval=5.0) as engine:
        assert engine.trainings
        assert not early(engine)


def test_what_was_trained_for_another_head_is_not_contributed() -> None:
    """The control is at the end: for the head that the node is at, it is."""
    table = {"name": "ahead", "nodes": 4, "byzantine": 1, "quorum": 3, "insecure": True}
    plugins = {"memory": {}, "mean": {"unprotected": True}}
    config = parse({"swarm": table, "plugins": plugins}, source="test")
    task = make_task(TaskConfig(name="quadratic", dimension=6), nodes=4, seed=1)
    engine = EventEngine(Experiment(config, Scenario(rounds=1, seed=1), task, scan()))
    machine = engine.observer.machine
    try:
        machine.start(1.0)
        update = Update(np.ones(6, np.int32), weight=1)
        machine.trained(update, machine.number, b"o" * 32, 1.1)
        machine.sit_out("failed", machine.number, b"o" * 32, 1.1)
        assert not machine.contributions
        machine.trained(update, machine.number, machine.head.digest, 1.1)
        assert list(machine.contributions) == [engine.observer.node_id]
    finally:
        for kernel in engine.kernels:
            kernel.teardown()


def test_only_the_round_that_was_asked_for_gets_what_came_of_it() -> None:
    info = RoundInfo("s", 5, bytes(32), 2, 0, (b"n" * 32,), 1, head=b"h" * 32, height=4)
    update = Update(np.ones(2, np.int32), weight=1)
    ahead = TrainingAhead()
    assert ahead.claim(info) == (False, None)
    ahead.begin(info)
    ahead.take(update, 4, info.head)
    ahead.take(update, 5, b"o" * 32)
    assert ahead.claim(info) == (True, None)  # under way still
    ahead.begin(info)
    ahead.take(update, 5, info.head)
    assert ahead.claim(attrs.evolve(info, head=b"o" * 32)) == (False, None)
    assert ahead.claim(info) == (False, None)  # it was thrown away
    ahead.begin(info)
    ahead.take("nothing new", 5, info.head)
    assert ahead.claim(info) == (True, "nothing new")
