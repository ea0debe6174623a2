from __future__ import annotations

import subprocess
import sys
from typing import Any

import attrs
import numpy as np
import pytest

from qres_core import RoundInfo, Vector, fixed, vector_digest
from qres_core.attacks.scenario import SECTIONS
from qres_core.contract.by_record import by_record
from qres_core.contract.trainer_abilities import abilities_of
from qres_core.errors import LabError, OptionError, ValueRefusedError
from qres_core.kernel.config import parse
from qres_core.node.trainer import guarded
from qres_core.training import RecordClip, Trainer
from qres_core.training.momentum import with_momentum
from qres_core.training.numpy_trainer import NumpyTrainer, ValidatingTrainer
from qres_core.training.table import notices
from qres_core.training.tasks import Task, TaskConfig, make_task


def average(task: Task, rounds: int) -> list[Vector]:
    """Models of plain federated averaging by example count, in exact integers."""
    vector = task.initial
    models = []
    for number in range(1, rounds + 1):
        info = RoundInfo("lab", number, vector_digest(vector), vector.size, task.scale, (), 1)
        updates = [trainer.fit(vector, info) for trainer in task.trainers]
        weights = np.array([update.weight for update in updates], dtype=np.int64)
        sums = weights @ np.stack([update.vector for update in updates]).astype(np.int64)
        step = np.floor_divide(2 * sums + weights.sum(), 2 * weights.sum()).astype(np.int32)
        vector = fixed.add_saturating(vector, step).vector
        models.append(vector)
    return models


@pytest.mark.parametrize("model", ["softmax", "mlp"])
def test_averaging_over_twenty_nodes_learns_the_digits(model: str) -> None:
    pytest.importorskip("sklearn")
    task = make_task(TaskConfig(model=model), nodes=20, seed=1)
    assert task.evaluate(task.initial)["accuracy"] < 0.3
    assert task.evaluate(average(task, 12)[-1])["accuracy"] >= 0.93


@pytest.mark.parametrize(
    ("config", "digest"),
    [
        (TaskConfig(), "90f48f064b16d08323f26d29adf3ec88"),
        (
            TaskConfig(model="mlp", partition="dirichlet", proximal=0.1),
            "3fc1cad1e61605ec96de6dd830f60943",
        ),
        (TaskConfig(name="quadratic", dimension=500), "54427690190e5a30756a0782b1794058"),
    ],
    ids=["softmax", "mlp", "quadratic"],
)
def test_models_are_the_same_on_every_supported_version(config: TaskConfig, digest: str) -> None:
    if config.name == "digits":
        pytest.importorskip("sklearn")
    model = average(make_task(config, nodes=20, seed=1), 5)[-1]
    assert vector_digest(model).hex()[:32] == digest


@pytest.mark.parametrize("partition", ["iid", "dirichlet"])
@pytest.mark.parametrize("nodes", [1, 20, 1000])
def test_every_example_is_trained_on_by_one_node(nodes: int, partition: str) -> None:
    pytest.importorskip("sklearn")
    task = make_task(TaskConfig(partition=partition), nodes=nodes, seed=3)
    assert len(task.trainers) == nodes
    assert all(isinstance(trainer, Trainer) for trainer in task.trainers)
    info = RoundInfo("lab", 1, vector_digest(task.initial), task.initial.size, 0, (), 1)
    weights = [trainer.fit(task.initial, info).weight for trainer in task.trainers]
    assert min(weights) >= 1
    assert sum(weights) == 1347


def test_more_nodes_than_examples_are_refused() -> None:
    pytest.importorskip("sklearn")
    with pytest.raises(LabError, match="at most 1347 nodes") as caught:
        make_task(TaskConfig(), nodes=1348, seed=0)
    assert caught.value.code == "QRES-E105"


def test_nodes_measure_the_common_held_out_examples() -> None:
    pytest.importorskip("sklearn")
    task = make_task(TaskConfig(), nodes=3, seed=0)
    figures = [dict(trainer.evaluate(task.initial)) for trainer in task.trainers]
    assert figures == [dict(task.evaluate(task.initial))] * 3


def test_nobody_trains_on_what_any_node_holds_out() -> None:
    pytest.importorskip("sklearn")
    task = make_task(TaskConfig(held_out=60, partition="similarity", gamma=0.0), nodes=10, seed=3)
    trainers = [trainer for trainer in task.trainers if isinstance(trainer, ValidatingTrainer)]
    assert len(trainers) == 10
    assert {trainer.held_x.shape for trainer in trainers} == {(60, 64)}
    trained, held, tested = (
        {row.tobytes() for trainer in trainers for row in getattr(trainer, name)}
        for name in ("x", "held_x", "test_x")
    )
    assert not trained & held
    assert not tested & (trained | held)
    assert any(set(trainer.held_y) - set(trainer.y) for trainer in trainers)
    assert not np.array_equal(trainers[0].held_x, trainers[1].held_x)


def test_own_held_out_examples_are_of_the_nodes_own_share_and_lacking_ones_lack_classes() -> None:
    pytest.importorskip("sklearn")
    sorted_by_class = TaskConfig(held_out=30, partition="similarity", gamma=0.0, local_epochs=1)
    for source, least, most in (("own", 1, 3), ("pool", 8, 10), ("lacking", 6, 7)):
        task = make_task(attrs.evolve(sorted_by_class, held_out_from=source), nodes=10, seed=3)
        trainers = [trainer for trainer in task.trainers if isinstance(trainer, ValidatingTrainer)]
        assert [len(trainer.held_y) for trainer in trainers] == [30] * 10
        assert all(least <= len(set(trainer.held_y)) <= most for trainer in trainers)
        trained, held = (
            {row.tobytes() for trainer in trainers for row in getattr(trainer, name)}
            for name in ("x", "held_x")
        )
        assert not trained & held
        for trainer in task.trainers:
            fading = guarded(with_momentum(trainer, 0.5))
            wrapped = (trainer, fading, by_record(trainer, RecordClip(1.0, 300)))
            assert [abilities_of(item).pooled for item in wrapped] == [source == "pool"] * 3
        if source == "own":
            assert all(set(trainer.held_y) <= set(trainer.y) for trainer in trainers)
            assert len(trained) + len(held) == 1347  # there is no pool beside
        if source == "lacking":
            assert all(max(trainer.held_y) < 7 for trainer in trainers)


def test_a_report_says_where_held_out_examples_come_from() -> None:
    swarm = {"name": "a", "nodes": 4, "byzantine": 1, "quorum": 3, "insecure": True}
    for source in ("own", "pool", "lacking"):
        task = {"held_out": 5, "held_out_from": source}
        config = parse(
            {"swarm": swarm, "trainer": {"task": task}},
            source="test",
            sections=SECTIONS,
        )
        (said,) = notices(config)
        assert said.startswith(f"trainer.task.held_out_from = {source!r}: 5 examples a node, of ")
    with pytest.raises(OptionError, match="QRES-E105"):
        TaskConfig(held_out_from="theirs")


@pytest.mark.parametrize(
    "config",
    [
        TaskConfig(held_out=270),
        TaskConfig(held_out=200, held_out_from="lacking"),
        TaskConfig(held_out=270, held_out_from="own"),
        TaskConfig(name="quadratic", held_out=1),
    ],
    ids=["more than there are", "of seven classes", "more than a share", "of no examples"],
)
def test_what_cannot_be_held_out_is_refused(config: TaskConfig) -> None:
    pytest.importorskip("sklearn")
    with pytest.raises(LabError, match=r"QRES-E105 trainer\.task\.held_out"):
        make_task(config, nodes=5, seed=0)


def test_own_examples_that_all_hold_alike_are_refused() -> None:
    pytest.importorskip("sklearn")
    config = TaskConfig(held_out=5, held_out_from="own", same_held_out=True)
    with pytest.raises(LabError, match=r"QRES-E105 trainer\.task\.same_held_out"):
        make_task(config, nodes=5, seed=0)


@pytest.mark.parametrize("scale", [-2, 0, 4])
def test_quadratic_converges_to_the_mean_of_the_optima(scale: int) -> None:
    config = TaskConfig(name="quadratic", dimension=300, local_epochs=1)
    task = make_task(config, nodes=50, seed=2, scale=scale)
    assert task.initial.shape == (300,)
    assert task.scale == scale
    losses = [task.evaluate(vector)["loss"] for vector in average(task, 15)]
    assert losses[0] < task.evaluate(task.initial)["loss"] / 2
    # The mean of 50 optima of variance 0.01 is 0.01 / 50 from the common one.
    assert losses[-1] == pytest.approx(0.01 / 50, rel=0.4)


def test_options_reach_the_trainers() -> None:
    pytest.importorskip("sklearn")
    options: dict[str, Any] = {
        "local_epochs": 2,
        "batch_size": 9,
        "learning_rate": 0.3,
        "proximal": 0.7,
        "global_momentum": 0.4,
    }
    task = make_task(TaskConfig(**options), nodes=2, seed=8, scale=1)
    for node, trainer in enumerate(task.trainers):
        assert isinstance(trainer, NumpyTrainer)
        found = attrs.asdict(trainer, recurse=False)
        assert {name: found[name] for name in options} == options
        assert (found["seed"], found["node"], found["scale"]) == (8, node, 1)


def test_the_quadratic_task_refuses_global_momentum() -> None:
    with pytest.raises(LabError, match="QRES-E105") as caught:
        make_task(TaskConfig(name="quadratic", global_momentum=0.5), nodes=2, seed=0)
    assert caught.value.problems[0].where == "trainer.task.global_momentum"


def test_equal_arguments_make_equal_tasks_and_another_seed_another() -> None:
    config = TaskConfig(name="quadratic", dimension=20)
    first, again, other = (
        average(make_task(config, nodes=2, seed=seed), 1)[0] for seed in (4, 4, 5)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("field", "value", "suggestion"),
    [("name", "digit", "digits"), ("model", "softmx", "softmax"), ("partition", "id", "iid")],
)
def test_unknown_names_are_refused_with_the_nearest_known(
    field: str, value: Any, suggestion: str
) -> None:
    with pytest.raises(LabError) as caught:
        make_task(TaskConfig(**{field: value}), nodes=2, seed=0)
    assert caught.value.code == "QRES-E801"
    assert caught.value.problems[0].where == f"trainer.task.{field}"
    assert suggestion in caught.value.problems[0].fix


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden", 0),
        ("local_epochs", 0),
        ("local_epochs", 1.0),
        ("batch_size", -1),
        ("batch_size", True),
        ("dimension", 0),
        ("alpha", 0.0),
        ("alpha", float("inf")),
        ("learning_rate", float("nan")),
        ("learning_rate", "0.1"),
        ("proximal", -0.1),
        ("proximal", True),
        ("global_momentum", 1.0),
    ],
)
def test_values_out_of_range_are_refused_naming_the_field(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^QRES-E105 {field}: must be"):
        TaskConfig(**{field: value})


@pytest.mark.parametrize(("arguments"), [{"nodes": 0, "seed": 0}, {"nodes": 1, "seed": -1}])
def test_impossible_counts_are_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(LabError) as caught:
        make_task(TaskConfig(name="quadratic"), **arguments)
    assert caught.value.code == "QRES-E105"


def test_scale_off_the_grid_is_refused() -> None:
    with pytest.raises(ValueRefusedError) as caught:
        make_task(TaskConfig(name="quadratic"), nodes=1, seed=0, scale=33)
    assert caught.value.code == "QRES-E504"


def test_every_option_is_explained() -> None:
    assert all(field.metadata["help"].endswith(".") for field in attrs.fields(TaskConfig))


def test_importing_tasks_imports_no_optional_dependency() -> None:
    code = (
        "import sys, qres_core.training.tasks;"
        "print(sorted({'sklearn', 'scipy', 'torch', 'matplotlib'} & sys.modules.keys()))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
