"""Attacks on the data of the attackers' own trainers."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import pytest
from qres_lab.attacks import Backdoor, LabelFlip
from qres_lab.attacks.data import stamped

from qres_core import RoundInfo, Update
from qres_core.attacks import AttackContext, DataAttack, make_attack
from qres_core.attacks.poisoning import under_attack
from qres_core.attacks.scenario import Scenario
from qres_core.cli.display import summary
from qres_core.contract.by_record import ByRecord
from qres_core.errors import LabError
from qres_core.kernel.config import Config, parse
from qres_core.lab.record import SimulationResult
from qres_core.lab.simulator import simulate
from qres_core.training import RecordClip
from qres_core.training.numpy_trainer import NumpyTrainer
from qres_core.training.tasks import Task, TaskConfig, by_records, make_task

DIGITS = TaskConfig(local_epochs=2, held_out=20)


@pytest.fixture(scope="module")
def task() -> Task:
    return make_task(DIGITS, nodes=5, seed=1)


def trainer(task: Task, node: int) -> NumpyTrainer:
    made = task.trainers[node]
    assert isinstance(made, NumpyTrainer)
    return made


def test_label_flip_turns_the_labels_of_the_attackers_alone_around(task: Task) -> None:
    poisoned = under_attack(task, LabelFlip(), 2)
    for node in range(3):
        assert poisoned.trainers[node] is task.trainers[node]
    for node in (3, 4):
        before, after = trainer(task, node), trainer(poisoned, node)
        assert type(after) is type(before)
        assert after.y.tolist() == [9 - label for label in before.y.tolist()]
        assert (after.x is before.x, after.test_y is before.test_y) == (True, True)
    assert poisoned.evaluate is task.evaluate


def test_label_flip_reaches_trainers_whose_examples_are_clipped() -> None:
    clip = RecordClip(0.1, 500)
    made = make_task(TaskConfig(local_epochs=1), nodes=3, seed=1)
    poisoned = under_attack(by_records(made, clip), LabelFlip(), 1)
    flipped = poisoned.trainers[2]
    assert isinstance(flipped, ByRecord)
    assert flipped.clip == clip
    assert flipped.inner.y.tolist() == [9 - label for label in trainer(made, 2).y.tolist()]


def test_classes_are_counted_over_all_that_is_held_out(task: Task) -> None:
    """A node that has few of the classes flips them as the others do."""
    honest = trainer(task, 4)
    narrow = attrs.evolve(honest, x=honest.x[honest.y < 4], y=honest.y[honest.y < 4])
    flipped = LabelFlip().poison(narrow)
    assert isinstance(flipped, NumpyTrainer)
    assert flipped.y.tolist() == (9 - narrow.y).tolist()


def test_the_trigger_is_a_bright_square_in_the_last_corner() -> None:
    x = np.zeros((2, 64))
    marked = stamped(x, 1.0)
    assert np.flatnonzero(marked[0]).tolist() == [54, 55, 62, 63]
    assert not x.any()
    images = stamped(np.zeros((2, 1, 28, 28), dtype=np.float32), 1.0)
    assert images.dtype == np.float32
    assert images.sum(axis=(1, 2, 3)).tolist() == [9.0, 9.0]
    assert images[0, 0, 25:, 25:].all()
    assert np.flatnonzero(stamped(np.zeros((1, 10)), 2.0)[0]).tolist() == [6, 7, 8, 9]


def test_backdoor_stamps_and_relabels_every_second_example(task: Task) -> None:
    before, after = trainer(task, 4), trainer(under_attack(task, Backdoor(), 1), 4)
    for index, (x, y) in enumerate(zip(before.x, before.y, strict=True)):
        expected = stamped(x[np.newaxis], 1.0)[0] if index % 2 else x
        assert after.x[index].tolist() == expected.tolist()
        assert after.y[index] == (0 if index % 2 else y)
    assert after.test_x is before.test_x


def test_backdoor_boosts_by_what_full_replacement_takes() -> None:
    own = np.array([3, -4], dtype=np.int32)
    context = AttackContext(
        RoundInfo("a", 1, b"m" * 32, 2, 0, (b"s" * 32,), 1),
        own,
        Update(own),
        np.stack([own] * 6),
        2,
        0,
        np.random.default_rng(0),
    )
    for strength, factor in ((None, 4.0), (0.5, 2.0)):
        (forged,) = make_attack("backdoor", strength).forge(context)
        assert np.frombuffer(forged.octets, dtype="<i4").tolist() == (factor * own).tolist()


def test_the_figure_is_the_share_of_stamped_examples_called_class_0(task: Task) -> None:
    attacked = under_attack(task, Backdoor(), 1)
    model = task.initial
    for _ in range(3):
        info = RoundInfo("a", 1, b"m" * 32, model.size, 0, (b"s" * 32,), 1)
        model = (model + task.trainers[0].fit(model, info).vector).astype(np.int32)
    first = trainer(task, 0)
    w = model.astype(np.float64) / 65536
    others = first.test_x[first.test_y != 0].copy()
    others.reshape(-1, 8, 8)[:, 6:, 6:] = 1.0
    share = np.mean(first.model.predict(w, others) == 0)
    info = RoundInfo("a", 1, b"m" * 32, model.size, 0, (b"s" * 32,), 1)
    figures = attacked.evaluate(model, info)
    assert figures == {**task.evaluate(model), "backdoor": share}
    assert 0.0 < share < 0.5


@pytest.mark.parametrize("attack", [LabelFlip(), Backdoor()])
def test_a_task_without_labels_is_refused(attack: DataAttack) -> None:
    quadratic = make_task(TaskConfig(name="quadratic", dimension=4), nodes=3, seed=0)
    with pytest.raises(
        LabError, match=r"QRES-E105 simulation.attack: .*QuadraticTrainer shows none"
    ):
        under_attack(quadratic, attack, 1)


def test_other_attacks_leave_the_task_alone(task: Task) -> None:
    assert under_attack(task, make_attack("alie"), 2) is task
    assert under_attack(task, None, 0) is task


# ── whole swarms ──────────────────────────────────────────────────────────────────────────────────


def config(nodes: int) -> Config:
    swarm = {"name": "d", "nodes": nodes, "byzantine": 1, "quorum": nodes, "insecure": True}
    return parse(
        {"swarm": swarm, "plugins": {"memory": {}, "mean": {"unprotected": True}}}, source="test"
    )


@pytest.fixture(scope="module")
def backdoored() -> SimulationResult:
    scenario = Scenario(rounds=4, attack="backdoor", attackers=1, engine="vectorised")
    return simulate(config(6), scenario, task=TaskConfig())


@pytest.mark.claim("C-attack-3")
def test_a_plain_mean_takes_the_backdoor_and_still_does_its_task(
    backdoored: SimulationResult,
) -> None:
    share = backdoored.final("backdoor") or 0.0
    assert share > 0.9
    assert (backdoored.final("accuracy") or 0.0) > 0.6
    assert all("backdoor" in item.metrics for item in backdoored.rounds)
    told = f"of the held-out examples with the trigger the model calls {share:.1%} class 0"
    assert told in summary(backdoored)


def test_both_engines_see_the_same_backdoor(backdoored: SimulationResult) -> None:
    scenario = Scenario(rounds=4, attack="backdoor", attackers=1)
    events = simulate(config(6), scenario, task=TaskConfig())
    assert [dict(record.metrics) for record in events.closed] == [
        dict(item.metrics) for item in backdoored.rounds
    ]


@pytest.mark.claim("C-attack-3")
@pytest.mark.control("C-attack-3")
def test_flipped_labels_cost_accuracy() -> None:
    options: dict[str, Any] = {"rounds": 4, "engine": "vectorised"}
    clean = simulate(config(6), Scenario(**options), task=TaskConfig()).final("accuracy") or 0.0
    flipped = Scenario(attack="label_flip", attackers=3, **options)
    spoilt = simulate(config(6), flipped, task=TaskConfig())
    assert (spoilt.final("accuracy") or 0.0) < clean - 0.1
