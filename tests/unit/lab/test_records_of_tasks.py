"""An example of a built-in task moves no step of another one, from the raw data on.

Where the unit of privacy is a record, a sum must move by at most the clip when a record is taken
away, before the data are scaled.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from click.testing import CliRunner
from qres_lab.testing import make_round_info

from qres_core import fixed
from qres_core.cli import app
from qres_core.errors import LabError
from qres_core.training import RecordClip, by_record, data
from qres_core.training.models import Softmax
from qres_core.training.numpy_trainer import NumpyTrainer
from qres_core.training.tasks import TaskConfig, by_records, make_task

datasets = pytest.importorskip("sklearn.datasets")
RATE, MODEL_SEED = 12.0, 2


def moved(scaled: Callable[[Any], Any], *, times: float = 1.0) -> float:
    """How far the sum of all nodes' steps moves without a record, in clips.

    ``times``: how large the values of that record are.
    """
    raw, labels = datasets.load_breast_cancer(return_X_y=True)
    order = np.random.default_rng(1).permutation(len(labels))[:300]
    gone, raw = int(order[0]), raw.copy()
    raw[gone] *= times
    sums = []
    clip = RecordClip(0.45 * RATE / 43, len(order))
    for kept in (np.arange(len(labels)), np.delete(np.arange(len(labels)), gone)):
        x = np.full_like(raw, np.nan)
        x[kept] = scaled(raw[kept])
        rows = order[np.isin(order, kept)]
        trainer = NumpyTrainer(
            model=Softmax(30, 2),
            x=x[rows],
            y=labels[rows].astype(np.int64),
            test_x=x[rows],
            test_y=labels[rows].astype(np.int64),
            local_epochs=1,
            batch_size=43,
            learning_rate=RATE,
        )
        weights = np.random.default_rng(MODEL_SEED).normal(size=trainer.model.dimension) * 0.3
        model = fixed.encode(weights).vector
        update = by_record(trainer, clip).fit(model, make_round_info(model.size))
        assert update is not None
        sums.append(update.vector.astype(object))
    difference = sums[0] - sums[1]
    return math.sqrt(difference @ difference) / clip.steps(0)


@pytest.mark.parametrize("times", [1.0, -1000.0])
def test_a_record_of_the_cell_nuclei_moves_a_sum_by_at_most_a_clip(times: float) -> None:
    assert 0.0 < moved(data._nuclei_scaled, times=times) <= 1.0


def test_scaled_by_what_all_records_are_like_it_moves_more() -> None:
    """The control: with the mean and the deviation of the examples themselves."""
    assert moved(data.standardised, times=1000.0) > 100.0


def blown_up(name: str, place: int) -> Any:
    """Scikit-learn's data sets with one record a thousand times as large."""
    bunch = getattr(datasets, f"load_{name}")()
    bunch.data = bunch.data.copy()
    bunch.data[place] *= 1000.0
    return types.SimpleNamespace(**{f"load_{name}": lambda: bunch})


def others_moved(monkeypatch: pytest.MonkeyPatch) -> int:
    """How many other rows of the task are not the same, to the bit."""
    plain = data.breast_cancer(5)
    monkeypatch.setattr(data, "_scikit_learn", lambda _what: blown_up("breast_cancer", 7))
    other = data.breast_cancer(5)
    changed = sum(
        int((item != two).any(axis=1).sum())
        for item, two in ((plain.train_x, other.train_x), (plain.test_x, other.test_x))
    )
    return changed - 1


def test_a_record_that_is_blown_up_leaves_the_other_rows_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert others_moved(monkeypatch) == 0


def test_without_the_constants_it_moves_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control."""
    monkeypatch.setattr(data, "_nuclei_scaled", data.standardised)
    assert others_moved(monkeypatch) == 568


def test_the_constants_are_the_figures_of_the_public_data_set() -> None:
    """So that no figure of the pages changes: the same to the last digits."""
    raw = np.asarray(datasets.load_breast_cancer().data, dtype=np.float64)
    np.testing.assert_allclose(data._nuclei_scaled(raw), data.standardised(raw), rtol=0, atol=1e-13)


CONFIG = """
[swarm]
name = "hospitals"
nodes = 10
byzantine = 0
quorum = 7
[plugins.memory]
[plugins.ed25519]
[plugins.replay]
[plugins.dp]
mode = "distributed"
unit = "record"
records = 400
clip = 0.12
epsilon = 4.0
delta = 1e-5
rounds = 5
honest = 6
[plugins.secagg]
bound = 64.0
noise_room = 100.0
[plugins.mean]
unprotected = true
[simulation]
rounds = 1
[trainer.task]
name = "synthetic"
local_epochs = 1
batch_size = 43
"""


@pytest.mark.parametrize("command", ["check", "simulate"])
def test_a_task_whose_records_carry_each_other_is_refused_by_name(
    command: str, tmp_path: Path
) -> None:
    """In `qres check`, and at the start; the control is the same swarm with another task."""
    pytest.importorskip("qres_dp")
    path = tmp_path / "swarm.toml"
    path.write_text(CONFIG, encoding="utf-8")
    refused = CliRunner().invoke(app.app, [command, str(path)])
    said = refused.output + str(refused.exception)  # the command's frame tells what is raised
    assert refused.exit_code
    assert "QRES-E105 trainer.task.name: its examples are scaled by figures" in said
    assert 'name = "digits" or "breast_cancer"' in said
    if command == "check":
        other = ["--set", 'trainer.task.name="breast_cancer"']
        assert CliRunner().invoke(app.app, [command, str(path), *other]).exit_code == 0


@pytest.mark.parametrize(("name", "whole"), [("synthetic", False), ("breast_cancer", True)])
def test_what_is_scaled_by_its_examples_has_no_single_steps(name: str, *, whole: bool) -> None:
    task = make_task(TaskConfig(name=name, local_epochs=1), nodes=4, seed=1)
    if whole:
        assert len(by_records(task, RecordClip(1.0, 200)).trainers) == 4
        return
    with pytest.raises(LabError, match="scaled by figures of all of them"):
        by_records(task, RecordClip(1.0, 2000))
    # The control: nothing else of the task is in the way.
    first: Any = task.trainers[0]
    free = attrs.evolve(task, trainers=(attrs.evolve(first, fitted=False),))
    assert len(by_records(free, RecordClip(1.0, 2000)).trainers) == 1
