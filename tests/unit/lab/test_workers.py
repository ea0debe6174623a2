"""Training in several processes: the same bits as in one, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from qres_lab.testing import make_round_info

from qres_core import RoundInfo, Update, Vector
from qres_core.attacks.scenario import SECTIONS, Scenario
from qres_core.contract.record_clip import RecordClip
from qres_core.contract.training import TrainerError
from qres_core.errors import LabError, RoundError
from qres_core.kernel.config import parse
from qres_core.lab.checkpoint import CheckpointFolder
from qres_core.lab.simulator import simulate
from qres_core.training.tasks import Task, TaskConfig, by_records, make_task
from qres_core.training.workers import TrainingPool

sys.path.append(str(Path(__file__).parent))  # workers find the module there too
import pooled_trainers as trainers

NODES = 5
SIZE = 16


def worker() -> Executor:
    """A worker in this process: it gets copies, as another would."""
    return ThreadPoolExecutor(1)


def task(kind: Callable[..., Any] = trainers.Counting, **options: Any) -> Task:
    made = tuple(kind(node, **options) for node in range(NODES))
    return Task("counting", np.zeros(SIZE, dtype=np.int32), made)


def play(
    made: Task | TaskConfig | None = None,
    make: Callable[[], Executor] | None = worker,
    **scenario: Any,
) -> dict[str, Any]:
    swarm = {"name": "w", "nodes": NODES, "byzantine": 1, "quorum": 4, "insecure": True}
    raw = {"swarm": swarm, "plugins": {"memory": {}, "median": {"f": 1}}}
    config = parse(raw, source="test", sections=SECTIONS)
    folders = {key: scenario.pop(key) for key in ("save", "resume") if key in scenario}
    options: dict[str, Any] = {"rounds": 4, "seed": 3, **scenario}
    played = Scenario(**options)
    if make is not None and played.workers == 1:
        make = None
    result = simulate(config, played, task=made or task(), worker=make, **folders)
    return result.to_json()


SCENARIOS: list[dict[str, Any]] = [
    {},
    {"engine": "vectorised"},
    {"attack": "sign_flip", "attackers": 1},
    {"engine": "vectorised", "attack": "sign_flip", "attackers": 1},
    {"churn": 0.3, "loss": 0.05, "rounds": 3},
    {"dropout": 0.1},
]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_whatever_trains_the_whole_result_is_the_same(scenario: dict[str, Any]) -> None:
    alone = play(**scenario)
    assert len({record["model_digest"] for record in alone["rounds"]}) > 1
    for workers in (2, 4, 2 * NODES):
        assert play(workers=workers, **scenario) == alone


def test_processes_train_what_one_trains_and_a_node_stays_with_its_own(tmp_path: Path) -> None:
    alone = play()
    assert play(task(trainers.Tells, folder=str(tmp_path)), None, workers=2) == alone
    told = [tuple(map(int, path.name.split("-"))) for path in tmp_path.iterdir()]
    by_node = {node: {pid for found, _, pid in told if found == node} for node in range(NODES)}
    assert all(len(pids) == 1 for pids in by_node.values())
    assert by_node[0] == by_node[2] == by_node[4] != by_node[1] == by_node[3]
    assert os.getpid() not in set().union(*by_node.values())


@pytest.mark.parametrize("workers", [(1, 2), (2, 1), (2, 3)])
def test_a_simulation_goes_on_with_another_number_of_workers(
    workers: tuple[int, int], tmp_path: Path
) -> None:
    whole, folder = play(), tmp_path / "kept"
    play(rounds=2, workers=workers[0], save=folder)
    again = play(workers=workers[1], resume=folder)
    assert again["model_digests"] == whole["model_digests"]


def test_a_trainer_that_fails_is_told_as_ever() -> None:
    told: list[tuple[str, int]] = []
    for workers in (1, 2):
        with pytest.raises(TrainerError, match=r"QRES-E512 node-2 trainer\.fit") as failed:
            play(task(trainers.Fails), workers=workers)
        told.append((str(failed.value), failed.value.failure.line))
    assert told[0] == told[1]
    assert "no more data" in told[0][0]


# ── what is not as it should be ───────────────────────────────────────────────────────────────────


def test_a_process_that_dies_is_started_again(tmp_path: Path) -> None:
    assert play(task(trainers.Dies, folder=str(tmp_path)), None, workers=2) == play()
    assert len(list(tmp_path.iterdir())) == 1


@attrs.define
class Dying(ThreadPoolExecutor):
    """A worker that is found dead when the first training is to begin."""

    def __init__(self) -> None:
        super().__init__(1)

    def submit(self, fn: Any, /, *args: Any, **options: Any) -> Future[Any]:
        if fn.__name__ == "_fit":
            raise BrokenExecutor
        return super().submit(fn, *args, **options)


def test_a_process_that_keeps_dying_is_named() -> None:
    made: list[Executor] = []

    def make() -> Executor:
        made.append(Dying())
        return made[-1]

    with pytest.raises(LabError, match="QRES-E804") as refused:
        play(make=make, workers=2)
    assert "node-0, node-2, node-4 died 3 times" in str(refused.value)
    assert len(made) == 2 + 2


def test_trainers_that_cannot_travel_are_refused_with_what_to_do() -> None:
    @attrs.define
    class Local(trainers.Counting):
        """Nobody else can import it."""

    for kind, why in ((Local, "sent"), (trainers.Unloadable, "another process")):
        with pytest.raises(LabError, match=f"QRES-E105 simulation.workers: .*{why}") as refused:
            play(task(kind), workers=2)
        assert "workers = 1" in str(refused.value)


@pytest.mark.parametrize("workers", [0, -1, 1.5, "all"])
def test_a_number_of_workers_that_is_none_is_refused_by_name(workers: Any) -> None:
    raw = {
        "swarm": {"name": "w", "nodes": 4, "byzantine": 1, "quorum": 3},
        "plugins": {"memory": {}, "median": {"f": 1}},
        "simulation": {"workers": workers},
    }
    with pytest.raises(Exception, match=r"QRES-E10[45] simulation.workers"):
        parse(raw, source="test", sections=SECTIONS)


INTERRUPTED = """
import sys
sys.path[:0] = [{here!r}]
import test_workers as tests
import pooled_trainers as trainers

if __name__ == "__main__":
    tests.play(tests.task(trainers.Stays, folder={folder!r}), None, workers=2)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_nothing_runs_on_after_ctrl_c_or_the_end_of_the_simulation(
    how: signal.Signals, tmp_path: Path
) -> None:
    folder = tmp_path / "pids"
    folder.mkdir()
    script = tmp_path / "script.py"
    here = str(Path(__file__).parent)
    script.write_text(INTERRUPTED.format(here=here, folder=str(folder)), encoding="utf-8")
    process = subprocess.Popen([sys.executable, "-P", str(script)], stderr=subprocess.DEVNULL)
    try:
        until(lambda: len(list(folder.iterdir())) == 2 or process.poll() is not None)
        pids = [int(path.name) for path in folder.iterdir()]
        assert len(pids) == 2
        assert all(alive(pid) for pid in pids)  # positive control
        process.send_signal(how)
        process.wait(600)
        until(lambda: not any(alive(pid) for pid in pids))
    finally:
        process.kill()
        process.wait()


def alive(pid: int) -> bool:
    """Whether a process runs: one that ended and is not waited for does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def until(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + 600
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.05)


# ── what trainers keep ────────────────────────────────────────────────────────────────────────────


def info(number: int) -> RoundInfo:
    return attrs.evolve(make_round_info(SIZE, nodes=4, byzantine=1), number=number, step=number)


MODEL: Vector = np.zeros(SIZE, dtype=np.int32)


def first(update: Update | None) -> int:
    assert update is not None
    return int(update.vector[0])


def test_results_taken_in_another_order_than_asked_for_are_those_of_one_process() -> None:
    """Each training begins from what the trainer keeps when its result is due."""
    one_process, elsewhere = trainers.Counting(0), trainers.Counting(0)
    pool = TrainingPool([elsewhere], 1, worker)
    try:
        for number in (3, 4, 5):
            pool.begin(0, info(number), MODEL)
        for number in (5, 3, 4, 4, 6):
            expected = first(one_process.fit(MODEL, info(number)))
            assert first(pool.take(0, info(number), MODEL)) == expected
            assert elsewhere == one_process
    finally:
        pool.close()


@pytest.mark.parametrize("forgets", [True, False])
def test_what_nobody_takes_is_forgotten_with_its_round(*, forgets: bool) -> None:
    """And what the worker's trainer came to keep by it does not count. The control keeps it."""
    one_process, elsewhere = trainers.Counting(0), trainers.Counting(0)
    pool = TrainingPool([elsewhere], 1, worker)
    try:
        assert first(pool.take(0, info(3), MODEL)) == first(one_process.fit(MODEL, info(3)))
        pool.begin(0, info(4), MODEL)  # its round ends without this node
        if forgets:
            pool.forget(5)
        assert bool(pool._jobs[0]) is not forgets
        assert first(pool.take(0, info(5), MODEL)) == first(one_process.fit(MODEL, info(5)))
        assert elsewhere == one_process
    finally:
        pool.close()


@attrs.define
class Around:
    """A trainer around another, which says what is kept."""

    inner: trainers.Counting

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update | None:
        return self.inner.fit(vector, round_info)

    def evaluate(self, vector: Vector) -> Mapping[str, float]:
        return self.inner.evaluate(vector)


def test_what_a_trainer_inside_of_another_keeps_travels_too() -> None:
    one_process, elsewhere = trainers.Counting(0), Around(trainers.Counting(0))
    pool = TrainingPool([elsewhere], 1, worker)
    try:
        for number in (3, 4, 5):
            pool.begin(0, info(number), MODEL)
        for number in (5, 3, 4, 4, 6):
            expected = first(one_process.fit(MODEL, info(number)))
            assert first(pool.take(0, info(number), MODEL)) == expected
            assert elsewhere.inner == one_process
    finally:
        pool.close()


def test_a_disk_that_takes_no_model_leaves_no_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[bool] = []

    class Watched(ThreadPoolExecutor):
        def shutdown(self, *args: Any, **options: Any) -> None:
            closed.append(True)
            super().shutdown(*args, **options)

    def full(*_: object) -> None:
        raise RoundError.of("QRES-E602", "model.npz", "no space left on device")

    monkeypatch.setattr(CheckpointFolder, "finish", full)
    with pytest.raises(RoundError, match="QRES-E602"):
        play(make=lambda: Watched(1), workers=2, save=tmp_path / "kept")
    assert closed == [True, True]


def test_what_a_trainer_comes_to_keep_meanwhile_counts() -> None:
    """A judge may change it in the simulation's process while the worker trains."""
    one_process, elsewhere = trainers.Counting(0), trainers.Counting(0)
    pool = TrainingPool([elsewhere], 1, worker)
    try:
        for number in (3, 4):
            pool.begin(0, info(number), MODEL)
            for trainer in (one_process, elsewhere):
                trainer.after += 100
            expected = first(one_process.fit(MODEL, info(number)))
            assert first(pool.take(0, info(number), MODEL)) == expected
            assert elsewhere == one_process
    finally:
        pool.close()


def digits(make: Callable[[], Executor] | None = worker, **scenario: Any) -> list[str]:
    """Digests of the built-in task whose trainers keep the swarm's last step."""
    task = TaskConfig(name="digits", global_momentum=0.5, local_epochs=1)
    played = play(task, make, rounds=4, **scenario)
    return [record["model_digest"] for record in played["rounds"]]


def test_the_built_in_trainers_keep_the_swarms_last_step_in_a_worker_that_dies() -> None:
    made: list[Executor] = []

    class DiesLate(ThreadPoolExecutor):
        """The first of them is found dead in the third round."""

        trainings = 0

        def submit(self, fn: Any, /, *args: Any, **options: Any) -> Future[Any]:
            self.trainings += fn.__name__ == "_fit"
            if self is made[0] and self.trainings > 2 * 3:  # three of the five nodes are its own
                raise BrokenExecutor
            return super().submit(fn, *args, **options)

    def make() -> Executor:
        made.append(DiesLate(1))
        return made[-1]

    alone = digits()
    assert digits(make, workers=2) == alone
    assert len(made) == 3, "one died"


def test_a_simulation_goes_on_with_the_swarms_last_step(tmp_path: Path) -> None:
    whole = digits()
    task = TaskConfig(name="digits", global_momentum=0.5, local_epochs=1)
    play(task, rounds=2, save=tmp_path / "kept")
    again = play(task, rounds=4, resume=tmp_path / "kept")
    assert [record["model_digest"] for record in again["rounds"]] == whole
    assert "loses" not in again["notices"][-1]


def test_trainers_whose_single_examples_are_clipped_train_in_workers_too() -> None:
    """Noise is no function of the seed, so that what is compared is what the trainers make."""
    config = TaskConfig(name="digits", local_epochs=1)
    made = by_records(make_task(config, nodes=3, seed=1), RecordClip(1.0, 900))
    pool = TrainingPool(made.trainers, 2, worker)
    model, number = made.initial, attrs.evolve(info(1), dimension=made.initial.size)
    try:
        for node, trainer in enumerate(made.trainers):
            there, here = pool.take(node, number, model), trainer.fit(model, number)
            assert there is not None
            assert here is not None
            assert np.array_equal(there.vector, here.vector)
            assert here.vector.any()
    finally:
        pool.close()
