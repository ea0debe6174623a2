"""A module in whole swarms: in the simulator, after a break, and in a box of processes."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")
from small import a_round

from qres_core.cli.options import SECTIONS
from qres_core.kernel.config import parse, read_toml
from qres_core.lab.record import RoundRecord, SimulationResult
from qres_core.lab.simulator import simulate

TESTS = Path(__file__).parent
NODES = 4
CONFIG = """
[swarm]
name = "net"
nodes = 4
byzantine = 1
quorum = 3
deadline = 240
vote_timeout = 120

[plugins.memory]

[plugins.ed25519]

[plugins.replay]

[plugins.{rule}]
f = 1

[trainer]
entry = "net:make"
options = {{ {options} }}

[simulation]
rounds = 4
seed = 3
"""
NET = f"""
import json
import os
import signal
import sys
from pathlib import Path

sys.path.append({str(TESTS)!r})
import small
import torch

torch.set_num_threads(1)


def watched(trainer, folder):
    # Write down what is trained; the process is killed before its second and after its fourth.
    fit, diary = trainer.fit, folder / "diary"

    def killed(name):
        if not (folder / name).exists():
            (folder / name).touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def written(vector, info):
        done = len(diary.read_text().splitlines()) if diary.exists() else 0
        if done == 1:
            killed("before")
        update = fit(vector, info)
        if done == 3:
            killed("after")
        with diary.open("a") as file:
            print(json.dumps([info.number, vector.tolist(), update.vector.tolist()]), file=file)
        return update

    trainer.fit = written
    return trainer


def make(index, nodes, seed, scale, norm=False, keep=False, folder=""):
    trainer = small.trainer(
        small.net(dropout=0.25, norm=norm),
        small.loader(20, seed=10 + index),
        optimizer=small.adam,
        buffers="local" if norm else "refuse",
        keep_optimizer=keep,
        pooled=True,
        seed=seed,
        index=index,
    )
    first = trainer.vector(scale)
    return (watched(trainer, Path(folder)) if folder and index == 1 else trainer), first
"""
KEEPING = "norm = true, keep = true"


class StoppedError(Exception):
    """Somebody pulls the plug."""


def written(folder: Path, rule: str = "median", options: str = KEEPING) -> Path:
    (folder / "net.py").write_text(NET)
    path = folder / "net.toml"
    path.write_text(CONFIG.format(rule=rule, options=options))
    return path


def played(path: Path, *, stop_at: int | None = None, **where: Any) -> SimulationResult:
    config = parse(read_toml(path), source=str(path), sections=SECTIONS)

    def progress(record: RoundRecord) -> None:
        if record.number == stop_at:
            raise StoppedError

    sys.modules.pop("net", None)
    sys.path.insert(0, str(path.parent))
    try:
        return simulate(config, config.sections["simulation"], progress=progress, **where)
    finally:
        sys.path.remove(str(path.parent))


def digests(result: SimulationResult) -> list[str]:
    assert len(result.closed) == len(result.rounds) == 4
    assert result.unanimous
    return [record.model_digest for record in result.closed]


@pytest.mark.parametrize("rule", ["median", "validated_mean", "geometric_median"])
def test_rules_run_and_a_seed_repeats(tmp_path: Path, rule: str) -> None:
    path = written(tmp_path, rule, "")
    result = played(path)
    assert digests(result) == digests(played(path))
    assert result.final("accuracy") > result.rounds[0].metrics["accuracy"]


def test_a_simulation_that_goes_on_has_the_state_of_optimisers_and_buffers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path)
    whole = played(path)
    for folder in ("run", "control"):
        with pytest.raises(StoppedError):
            played(path, save=tmp_path / folder, stop_at=2)
    again = played(path, resume=tmp_path / "run")
    assert digests(again) == digests(whole)
    assert [item.metrics for item in again.rounds] == [item.metrics for item in whole.rounds]
    assert again.notices[-1] == "continues after model 2"
    monkeypatch.setattr("qres_torch.TorchTrainer.recall", lambda *_arguments: None)
    assert digests(played(path, resume=tmp_path / "control"))[2:] != digests(whole)[2:]


def test_workers_train_what_one_process_trains(tmp_path: Path) -> None:
    """Each worker goes on with its nodes' optimisers and buffers, and judges with neither."""
    path = written(tmp_path, "validated_mean")
    alone = played(path)
    path.write_text(path.read_text() + "workers = 2\n")
    together = played(path)
    assert digests(together) == digests(alone)
    assert [item.metrics for item in together.rounds] == [item.metrics for item in alone.rounds]


@pytest.mark.long
def test_a_box_of_processes_makes_the_models_of_the_simulation(tmp_path: Path) -> None:
    path = written(tmp_path)
    expected = digests(played(path))
    report = boxed(path, rounds=4)
    found = {node["status"]["model_digest"] for node in report["nodes"]}
    assert found == {expected[-1]}


def boxed(path: Path, rounds: int) -> dict[str, Any]:
    """What a box of processes reports that agreed."""
    command = ["swarm", "up", str(path), "--rounds", str(rounds), "--json", "--timeout", "800"]
    run = subprocess.run(
        [sys.executable, "-P", "-m", "qres_core.cli", *command],
        capture_output=True,
        text=True,
        check=False,
        cwd=path.parent,
        timeout=900,
    )
    assert run.returncode == 0, run.stderr
    report: dict[str, Any] = json.loads(run.stdout)
    assert report["agreed"] is True
    return report


@pytest.mark.long
def test_a_node_that_is_killed_goes_on_with_its_optimiser_and_buffers(tmp_path: Path) -> None:
    """``kill -9`` before a training and at its end: what it trains is what it would have trained.

    The oracle is a trainer that nobody kills, in the rounds that the node finished.
    """
    path = written(tmp_path, options=f'{KEEPING}, folder = "{tmp_path}"')
    path.write_text(path.read_text().replace("deadline = 240", "deadline = 20"))
    report = boxed(path, rounds=8)
    assert report["nodes"][1]["restarts"] == 2
    diary = [json.loads(line) for line in (tmp_path / "diary").read_text().splitlines()]
    assert len(diary) >= 5
    sys.modules.pop("net", None)
    sys.path.insert(0, str(tmp_path))
    try:
        net = importlib.import_module("net")
    finally:
        sys.path.remove(str(tmp_path))

    def replayed(*, begins_anew: bool) -> bool:
        trainer = net.make(1, NODES, 3, 0, norm=True, keep=True)[0]
        for done, (number, model, update) in enumerate(diary):
            if begins_anew and done == 1:
                trainer = net.make(1, NODES, 3, 0, norm=True, keep=True)[0]
            vector = np.array(model, dtype=np.int32)
            if trainer.fit(vector, a_round(vector, number=number)).vector.tolist() != update:
                return False
        return True

    assert replayed(begins_anew=False)
    assert not replayed(begins_anew=True), "control: it would show"
