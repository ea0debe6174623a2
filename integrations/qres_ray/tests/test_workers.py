"""Training on Ray: the bits of one process, whatever dies, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import traced
from qres_ray import RayWorker, RayWorkers
from qres_ray import workers as module

from qres_core.attacks.scenario import Scenario
from qres_core.errors import LabError, QresError
from qres_core.kernel.config import parse
from qres_core.lab.simulator import simulate
from qres_core.training.tasks import Task

NODES = 5


def task(kind: Callable[..., Any] = traced.Adding, size: int = 16, **options: Any) -> Task:
    made = tuple(kind(node, **options) for node in range(NODES))
    first = np.zeros(size, dtype=np.int32)
    first.flags.writeable = False
    return Task("adding", first, made)


def play(made: Task | None = None, **scenario: Any) -> dict[str, Any]:
    """The whole result; on Ray, if ``workers`` are given."""
    swarm = {"name": "w", "nodes": NODES, "byzantine": 1, "quorum": 4, "insecure": True}
    config = parse({"swarm": swarm, "plugins": {"memory": {}, "median": {"f": 1}}}, source="test")
    folders = {key: scenario.pop(key) for key in ("save", "resume") if key in scenario}
    if "workers" in scenario:
        scenario = {"executor": "ray", **scenario}
    played = Scenario(**{"rounds": 3, "seed": 3, **scenario})
    return simulate(config, played, task=made or task(), **folders).to_json()


def written(folder: Path) -> list[list[int]]:
    return [[int(part) for part in path.name.split("-")] for path in folder.iterdir()]


# ── on a cluster ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.claim("C-ray-1")
@pytest.mark.usefixtures("ray")
@pytest.mark.parametrize(
    "scenario",
    [
        {},
        {"engine": "vectorised", "attack": "sign_flip", "attackers": 1},
        {"churn": 0.3, "loss": 0.05, "rounds": 2},
    ],
)
def test_ray_trains_what_one_process_and_several_train(scenario: dict[str, Any]) -> None:
    alone = play(**scenario)
    assert len({record["model_digest"] for record in alone["rounds"]}) > 1
    assert play(workers=1, **scenario) == alone
    assert play(workers=3, **scenario) == alone


@pytest.mark.control("C-ray-3")
@pytest.mark.usefixtures("ray")
def test_an_actor_keeps_its_nodes_and_has_the_gpus_that_it_asked_for(tmp_path: Path) -> None:
    options = {"num_cpus": 0.5, "num_gpus": 0.5}
    told = task(traced.Telling, folder=str(tmp_path))
    assert play(told, workers=2, executor_options=options) == play()
    found = written(tmp_path)
    by_node = {node: {pid for at, _, pid, _ in found if at == node} for node in range(NODES)}
    assert all(len(pids) == 1 for pids in by_node.values())
    assert by_node[0] == by_node[2] == by_node[4] != by_node[1] == by_node[3]
    assert os.getpid() not in set.union(*by_node.values())
    assert {gpu for *_, gpu in found} == {0}


@pytest.mark.usefixtures("ray")
def test_a_simulation_goes_on_with_ray_where_processes_began_it(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    play(rounds=2, save=folder)
    again = play(resume=folder, workers=2, executor_options={"num_cpus": 0.1})
    assert again["model_digests"] == play()["model_digests"]


def test_a_large_model_is_sent_once_however_many_nodes_train_from_it(
    ray: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, sent = ray.put, list[bytes]()

    def counted(value: Any) -> Any:
        sent.append(value.tobytes())
        return put(value)

    monkeypatch.setattr(ray, "put", counted)
    alone = play(task(size=50_000), engine="vectorised")
    assert play(task(size=50_000), engine="vectorised", workers=2) == alone
    assert len(sent) == len(set(sent)) == 3


@pytest.mark.claim("C-ray-2")
@pytest.mark.usefixtures("ray")
def test_an_actor_that_dies_in_a_round_is_made_anew_with_the_same_models(tmp_path: Path) -> None:
    assert play(task(traced.Mortal, folder=str(tmp_path)), workers=2) == play()
    assert len(written(tmp_path)) == 1


@pytest.mark.claim("C-ray-2")
@pytest.mark.control("C-ray-2")
@pytest.mark.usefixtures("ray")
def test_an_actor_that_keeps_dying_is_named_with_what_ray_says(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"QRES-E804.*node-0, node-2, node-4 died 3 times") as named:
        play(task(traced.Mortal, folder=str(tmp_path), times=9), workers=2)
    assert "The actor" in str(named.value)
    # What node-0 did is taken before the first death or after it: then the row begins anew.
    assert len(written(tmp_path)) in {3, 4}


@pytest.mark.usefixtures("ray")
def test_a_trainer_that_fails_is_told_as_in_one_process() -> None:
    told: list[str] = []
    where: list[dict[str, Any]] = [{}, {"workers": 2}]
    for options in where:
        with pytest.raises(QresError, match=r"QRES-E512 node-2 trainer\.fit.*no more") as failed:
            play(task(traced.Raising), **options)
        told.append(str(failed.value))
    assert told[0] == told[1]


@pytest.mark.usefixtures("ray")
def test_a_trainer_that_cannot_be_made_there_is_refused_with_the_reason() -> None:
    with pytest.raises(LabError, match=r"QRES-E105.*ValueError.*not a number") as refused:
        play(task(traced.Unreadable), workers=2)
    assert "workers = 1" in str(refused.value)


@pytest.mark.claim("C-ray-5")
@pytest.mark.control("C-ray-5")
@pytest.mark.usefixtures("ray")
def test_another_version_there_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    play(workers=1, rounds=1)  # the control
    here = module.versions()
    monkeypatch.setattr(module, "versions", lambda: {**here, "numpy": "0.9"})
    with pytest.raises(LabError, match=r"QRES-E105.*numpy is 0\.9 in the simulation and"):
        play(workers=1)


@pytest.mark.claim("C-ray-3")
@pytest.mark.usefixtures("ray")
@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"num_cpus": 3.0}, "num_cpus: 2 workers take 6 CPUs, and the Ray cluster has 4"),
        ({"num_gpus": 2.0}, "num_gpus: 1 workers take 2 GPUs, and the Ray cluster has 1"),
    ],
)
def test_workers_that_would_wait_for_ever_are_refused(options: dict[str, float], told: str) -> None:
    with pytest.raises(LabError, match=f"QRES-E105 simulation.executor_options.{told}"):
        play(workers=2, executor_options=options)


def test_what_a_worker_runs_comes_in_order_and_it_ends_at_once(ray: Any) -> None:
    make = RayWorkers()
    with make() as worker:
        futures = [worker.submit(divmod, 10 * number, 7) for number in range(20)]
        assert [future.result(300) for future in futures] == [
            divmod(10 * number, 7) for number in range(20)
        ]
        assert worker.submit(sorted, [1, 2], reverse=True).result(300) == [2, 1]
        with pytest.raises(ZeroDivisionError):
            worker.submit(divmod, 1, 0).result(300)
    worker.shutdown()
    with pytest.raises(RuntimeError, match="has ended"):
        worker.submit(divmod, 1, 1)
    assert ray.is_initialized()


INTERRUPTED = """
import sys
sys.path[:0] = [{here!r}]
import test_workers as tests
import traced

if __name__ == "__main__":
    options = {{"address": "local", "num_cpus": 0.1}}
    made = tests.task(traced.Lasting, folder={folder!r})
    tests.play(made, workers=2, executor_options=options)
"""


@pytest.mark.claim("C-ray-4")
@pytest.mark.control("C-ray-4")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_nothing_runs_on_after_ctrl_c_or_the_end_of_the_simulation(
    how: signal.Signals, tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    folder, script, log = tmp_path / "pids", tmp_path / "script.py", tmp_path / "log"
    folder.mkdir()
    here = str(Path(__file__).parent)
    script.write_text(INTERRUPTED.format(here=here, folder=str(folder)), encoding="utf-8")
    with log.open("wb") as out:
        command = [sys.executable, "-P", str(script)]
        process = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
    try:
        until(lambda: len(written(folder)) == 2 or process.poll() is not None)
        pids = {pid for told in written(folder) for pid in told}
        assert len(pids) == 3, log.read_text("utf-8")  # two actors, and the process above both
        assert all(alive(pid) for pid in pids)  # positive control
        if how == signal.SIGINT:  # a terminal sends it to all
            os.killpg(process.pid, how)
        else:
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


# ── without one ───────────────────────────────────────────────────────────────────────────────────


def test_without_ray_a_simulation_is_refused_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(LabError, match="QRES-E802 qres-ray: ray cannot be imported") as refused:
        play(workers=2)
    assert "pip install ray" in str(refused.value)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"num_gpus": -1.0}, "QRES-E105 simulation.executor_options.num_gpus"),
        ({"num_gpu": 1.0}, "QRES-E102 simulation.executor_options.num_gpu: .*did you mean"),
        ({"address": 6379}, "QRES-E104 simulation.executor_options.address"),
    ],
)
def test_options_that_are_wrong_are_refused_before_anything_starts(
    options: dict[str, Any], told: str
) -> None:
    with pytest.raises(QresError, match=f"(?s){told}"):
        play(workers=2, executor_options=options)


class NoCluster:
    """Stands in for Ray where no cluster answers."""

    @staticmethod
    def is_initialized() -> bool:
        return False

    @staticmethod
    def init(**options: Any) -> None:
        raise ConnectionError(f"nobody at {options['address']}")


@pytest.mark.parametrize("address", ["10.0.0.1:6379", "ray://10.0.0.1:10001"])
def test_a_cluster_that_does_not_answer_is_named(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", NoCluster)
    with pytest.raises(LabError, match=f"options.address: .*{address}.*nobody at {address}"):
        play(workers=2, executor_options={"address": address})


class Slow(NoCluster):
    """Stands in for Ray on a busy machine: it starts at the third time, or never."""

    tries = 0

    @classmethod
    def init(cls, **_options: Any) -> None:
        cls.tries += 1
        if cls.tries % 7 != 3:
            raise RuntimeError("timed out during startup")

    @staticmethod
    def shutdown() -> None:
        """Nothing runs."""

    @staticmethod
    def cluster_resources() -> dict[str, float]:
        return {}


def test_a_cluster_of_this_machine_is_started_again_where_ray_gave_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ray", Slow)
    with pytest.raises(LabError, match="the Ray cluster has 0"):  # it started
        RayWorkers()()
    assert Slow.tries == 3
    with pytest.raises(LabError, match="no Ray cluster on this machine: timed out"):
        RayWorkers()()
    assert Slow.tries == 8


def test_a_worker_whose_cluster_is_gone_ends_without_it() -> None:
    worker = RayWorker(NoCluster, None, lambda value: value)
    worker.shutdown()
    assert worker.closed
