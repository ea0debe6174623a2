from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from qres_core import RoundInfo, Update, Vector
from qres_core.contract.by_record import ByRecord, by_record
from qres_core.contract.trainer_abilities import abilities_of
from qres_core.errors import ConfigError, LabError
from qres_core.kernel.config import Config, parse
from qres_core.node.trainer import guarded
from qres_core.training import RecordClip
from qres_core.training.table import TrainerConfig, make_work, notices
from qres_core.training.tasks import TaskConfig, make_task

INFO = RoundInfo("s", 1, bytes(32), 2, 0, (bytes(32),), 1, 0, 0)
OWN = """
import numpy as np
from qres_core.training.tasks import TaskConfig, make_task

task = make_task(TaskConfig(name="quadratic", dimension=3), nodes=2, seed=0)
def make(index=0): return task.trainers[index], task.initial
def fails(): raise OSError("no data")
def nothing(): return None
def kind(): return type(task.trainers[0]), task.initial
def no_model(): return task.trainers[0], [1, 2]
def placed(*, nodes, index, tag=""): return task.trainers[index], task.initial * 0 + nodes + index
def tagged(tag): return task.trainers[0], task.initial
number = 3
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "own_model_of_test.py").write_text(OWN)
    (tmp_path / "broken_model_of_test.py").write_text("import nothing_of_the_kind")
    before = sys.path[:]
    yield tmp_path
    sys.path[:] = before
    sys.modules.pop("own_model_of_test", None)


def read(folder: Path, **trainer: Any) -> Config:
    raw = {"swarm": {"name": "s", "nodes": 2, "byzantine": 0, "quorum": 2}, "trainer": trainer}
    return parse(raw, source=str(folder / "node.toml"), sections={"trainer": TrainerConfig})


def test_a_built_in_task_gives_each_node_its_share(folder: Path) -> None:
    table = {"name": "quadratic", "dimension": 5}
    config = TaskConfig(name="quadratic", dimension=5)
    task = make_task(config, nodes=2, seed=9)
    trainer, initial = make_work(read(folder, task=table, seed=9, index=1))
    assert trainer.evaluate(initial) == task.trainers[1].evaluate(task.initial)
    with pytest.raises(ConfigError, match=r"trainer.index"):
        make_work(read(folder, task=table, index=2))


def test_an_own_model_is_found_beside_the_configuration(folder: Path) -> None:
    table = {"entry": "own_model_of_test:make", "options": {"index": 1}}
    _trainer, initial = make_work(read(folder, **table))
    assert initial.shape == (3,)
    assert sys.path[-1] == str(folder)


def test_a_factory_that_asks_is_told_which_node_it_is(folder: Path) -> None:
    table = {"entry": "own_model_of_test:placed", "index": 1}
    assert make_work(read(folder, **table))[1].tolist() == [3, 3, 3]
    # What the operator says goes before.
    assert make_work(read(folder, **table, options={"nodes": 7}))[1].tolist() == [8, 8, 8]
    # One that does not ask is told nothing.
    make_work(read(folder, entry="own_model_of_test:tagged", options={"tag": "a"}))
    assert notices(read(folder, **table)) == ()
    assert "no parameter `index`" in notices(read(folder, entry="own_model_of_test:tagged"))[0]


def test_an_own_model_is_found_in_the_folder_that_is_named(folder: Path) -> None:
    (folder / "elsewhere").mkdir()
    (folder / "own_model_of_test.py").rename(folder / "elsewhere" / "own_model_of_test.py")
    with pytest.raises(ConfigError, match=r"trainer\.path"):
        make_work(read(folder, entry="own_model_of_test:make"))
    for path in ("elsewhere", str(folder / "elsewhere")):
        _trainer, initial = make_work(read(folder, entry="own_model_of_test:make", path=path))
        assert initial.shape == (3,)


@pytest.mark.parametrize(
    ("trainer", "code"),
    [
        ({}, "QRES-E103"),
        ({"entry": "own_model_of_test"}, "QRES-E105"),
        ({"entry": "nothing_of_the_kind:make"}, "QRES-E101"),
        ({"entry": "broken_model_of_test:make"}, "QRES-E101"),
        ({"entry": "own_model_of_test:fails"}, "QRES-E101"),
        ({"entry": "own_model_of_test:make", "options": {"indx": 1}}, "QRES-E101"),
        ({"entry": "own_model_of_test:make", "index": 2}, "QRES-E105"),
        ({"entry": "own_model_of_test:nothing"}, "QRES-E104"),
        ({"entry": "own_model_of_test:kind"}, "QRES-E104"),
        ({"entry": "own_model_of_test:no_model"}, "QRES-E503"),
        ({"entry": "own_model_of_test:number"}, "QRES-E801"),
        ({"entry": "own_model_of_test:mak"}, "QRES-E801"),
        ({"task": {"name": "digit"}}, "QRES-E801"),
        ({"entry": "a:b", "task": {}}, "QRES-E105"),
        ({"options": {"a": 1}}, "QRES-E105"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    folder: Path, trainer: Mapping[str, Any], code: str
) -> None:
    with pytest.raises(Exception, match=code):
        make_work(read(folder, **trainer))


@attrs.define(eq=False)
class Plain:
    inside: int = 0
    most: int = 0

    def _stay(self) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)
        time.sleep(0.02)
        self.inside -= 1

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update:
        del round_info
        self._stay()
        return Update(vector)

    def evaluate(self, vector: Vector) -> Mapping[str, float]:
        del vector
        self._stay()
        return {"loss": 1.0}


class Judging(Plain):
    def validate(self, vector: Vector) -> float:
        return float(vector[0])


class Comparing(Judging):
    def reference(self, vector: Vector, round_info: RoundInfo) -> Vector:
        del round_info
        return vector


def test_fit_and_evaluate_wait_for_each_other() -> None:
    inner, vector = Plain(), np.zeros(2, dtype=np.int32)
    trainer = guarded(inner)
    threads = [
        threading.Thread(target=item)
        for item in [lambda: trainer.fit(vector, INFO), lambda: trainer.evaluate(vector, INFO)] * 4
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert inner.most == 1


def test_a_trainer_that_clips_single_examples_takes_turns_by_itself() -> None:
    task = make_task(TaskConfig(local_epochs=1), nodes=5, seed=0)
    clipping = by_record(task.trainers[0], RecordClip(1.0, 300))
    assert guarded(clipping) is clipping
    assert isinstance(clipping, ByRecord)
    with clipping._turn:
        threads = [
            threading.Thread(target=method, args=(task.initial, attrs.evolve(INFO, dimension=650)))
            for method in (clipping.fit, clipping.evaluate)
        ]
        for thread in threads:
            thread.start()
            thread.join(0.05)
        assert all(thread.is_alive() for thread in threads)
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)


def test_a_guarded_trainer_can_what_it_could() -> None:
    vector = np.ones(2, dtype=np.int32)
    plain, judging, comparing = (
        abilities_of(guarded(trainer)) for trainer in (Plain(), Judging(), Comparing())
    )
    assert plain.validate is None
    assert judging.validate is not None
    assert judging.reference is None
    assert judging.validate(vector) == 1.0
    assert comparing.reference is not None
    assert comparing.reference(vector, INFO) is vector


def test_lab_errors_come_out_as_they_are(folder: Path) -> None:
    with pytest.raises(LabError):
        make_work(read(folder, task={"name": "quadratic", "held_out": 1}))
