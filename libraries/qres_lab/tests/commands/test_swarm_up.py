"""``qres swarm up``: real processes on loopback, all of them gone in the end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from qres_lab.box.nodes import transport_of
from qres_lab.commands.swarm import _without_model

from qres_core.attacks.scenario import SECTIONS, Scenario
from qres_core.cli.options import read_config
from qres_core.contract.errors import ConfigError
from qres_core.kernel.config import parse, read_toml
from qres_core.lab.simulator import simulate
from qres_core.node.ask import ask
from qres_core.swarm.context.model_proof import verify
from qres_core.swarm.storage.model_file import SwarmModel, kept_model

PROGRAM = Path(__file__).parents[4] / "tests/integration/loopback_qres.py"
PATIENCE = 900.0
"""Seconds for what takes thirty on an idle machine."""
in_proc = pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks in /proc")
LOOPBACK = "[plugins.loopback]\nlisten = 0\npeers = {}\n"
CONFIG = """
[swarm]
name = "box"
nodes = 6
byzantine = 1
quorum = 5
deadline = 4.0
vote_timeout = 3.0

{transport}
[plugins.ed25519]

[plugins.pki]
ca = "made.pem"
certificates = "made"
crl = "made.pem"

[plugins.replay]
window = 2048

[plugins.reputation]

[plugins.krum]
f = 1

[trainer.task]
local_epochs = 2
"""
TASK = "[trainer.task]\nlocal_epochs = 2\n"


def qres(*arguments: str) -> list[str]:
    return [sys.executable, "-P", str(PROGRAM), *arguments]


def up(tmp_path: Path, *options: str, transport: str = LOOPBACK) -> subprocess.Popen[str]:
    config = tmp_path / "box.toml"
    text = CONFIG.format(transport=transport)
    config.write_text(text.replace(TASK, "") if "[trainer]" in transport else text)
    command = qres("swarm", "up", str(config), "--folder", str(tmp_path / "box"), *options)
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def processes(folder: Path) -> list[int]:
    """Ids of what runs a node of the folder; Linux only."""
    found: list[int] = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"--until-eof" in words and any(str(folder).encode() in word for word in words):
            found.append(int(entry.name))
    return found


def until(what: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.1)


def outcome(process: subprocess.Popen[str]) -> tuple[int, dict[str, Any], str]:
    try:
        said, errors = process.communicate(timeout=PATIENCE)
    finally:
        if process.poll() is None:  # its nodes end with it
            process.kill()
            process.communicate()
    return process.returncode, json.loads(said or "{}"), errors


def first_model(process: subprocess.Popen[str]) -> str:
    """The line that tells of it, after those that tell where the nodes are."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("model "):
            return line
    raise AssertionError(process.stderr.read() if process.stderr else "")


def kill(folder: Path) -> None:
    """End a node's process as no node ends by itself."""
    for victim in processes(folder):
        os.kill(victim, signal.SIGKILL)


@pytest.mark.claim("C-transport-7")
@pytest.mark.parametrize("transport", ["loopback", "libp2p", "grpc"])
@pytest.mark.long
def test_honest_processes_agree_among_hostile_ones(tmp_path: Path, transport: str) -> None:
    if transport != "loopback" and find_spec(f"qres_transport_{transport}") is None:
        pytest.skip(f"qres-transport-{transport} is not installed")
    # `memory` joins the nodes of a simulation; for processes libp2p takes its place.
    table = {"loopback": LOOPBACK, "grpc": "[plugins.grpc]\n"}.get(transport, "[plugins.memory]\n")
    options = ("--rounds", "6", "--attack", "scaled", "--timeout", "800", "--json")
    code, report, errors = outcome(up(tmp_path, *options, transport=table))
    assert code == 0, errors
    assert report["agreed"] is True
    assert report["step"] >= 6
    nodes = report["nodes"]
    assert [node["hostile"] for node in nodes] == [False] * 5 + [True]
    assert all(node["exit_code"] == 0 for node in nodes)
    digests = {node["status"]["model_digest"] for node in nodes if node["status"]["step"] == 6}
    assert len(digests) == 1
    assert nodes[0]["status"]["metrics"]["accuracy"] > 0.85
    assert nodes[0]["status"]["plugins"][0] == transport
    assert not processes(tmp_path)
    made = read_toml(tmp_path / "box" / "node-5" / "node.toml")
    assert made["trainer"]["options"]["attack"] == "scaled"
    assert not (tmp_path / "box" / "node-0" / "node.key").stat().st_mode & 0o077


OWN = """
import numpy as np
from qres_core.training.tasks import TaskConfig, make_task


def make(index, nodes, dimension, drawn_by="all"):
    task = make_task(TaskConfig(name="quadratic", dimension=dimension), nodes=nodes, seed=3)
    first = task.initial if drawn_by == "all" else task.initial + np.int32(index)
    return task.trainers[index], first


def alone(dimension):
    return make(0, 6, dimension)
"""
OWN_TABLES = """
[trainer]
entry = "own_model_of_box:make"
path = "models"
options = { dimension = 8 }
"""


def own(tmp_path: Path) -> str:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "own_model_of_box.py").write_text(OWN)
    return LOOPBACK + OWN_TABLES


@pytest.mark.long
def test_a_box_trains_a_model_of_ones_own(tmp_path: Path) -> None:
    save = tmp_path / "saved"
    options = ("--rounds", "4", "--attack", "scaled", "--timeout", "800", "--json")
    process = up(tmp_path, *options, "--save", str(save), transport=own(tmp_path))
    code, report, errors = outcome(process)
    assert code == 0, errors
    # The model is handed out, and whoever has the roster need not trust who hands it out.
    model = SwarmModel.load(save / "model.npz")
    assert f"saved model {model.step}, {model.digest.hex()[:16]}" in errors
    assert model.step >= 4
    proof = verify(model, read_config(save / "roster.toml"), time.time())
    assert (proof.nodes, proof.byzantine) == (6, 1)
    if model.step == report["step"]:
        assert model.digest.hex() == report["model_digest"]
    assert model.weights.shape == (8,)
    # Whichever node's folder it is exported from, it is the last one.
    assert all(kept_model(tmp_path / "box" / f"node-{at}").step >= 4 for at in range(5))
    assert "same data" not in errors
    assert report["agreed"] is True
    nodes = report["nodes"]
    assert all(node["exit_code"] == 0 for node in nodes)
    honest = [node["status"] for node in nodes[:5]]
    assert (
        len({honest_node["model_digest"] for honest_node in honest if honest_node["step"] == 4})
        == 1
    )
    assert honest[0]["metrics"]["loss"] >= 0
    box = tmp_path / "box"
    tables = [read_toml(box / f"node-{at}" / "node.toml")["trainer"] for at in range(6)]
    assert [table["index"] for table in tables] == list(range(6))  # each has data of its own
    assert [table["entry"] for table in tables[:5]] == ["own_model_of_box:make"] * 5
    assert tables[5]["options"]["attack"] == "scaled"
    assert tables[5]["options"]["trainer"]["entry"] == "own_model_of_box:make"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--set", "trainer.options.index=1"), "trainer.options.index"),
        (("--attack", "label_flip"), "labelled examples"),
        (("--set", 'trainer.options.drawn_by="each"'), "begin with different models"),
        (("--set", "trainer.options.dimention=8"), "dimention"),
    ],
)
@pytest.mark.long
def test_what_an_own_model_cannot_play_is_refused(
    tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    process = up(tmp_path, *options, transport=own(tmp_path))
    _out, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2, errors
    assert said in errors
    assert not (tmp_path / "box").exists()


@pytest.mark.long
def test_a_box_says_when_all_nodes_may_train_on_the_same_data(tmp_path: Path) -> None:
    entry = ("--set", 'trainer.entry="own_model_of_box:alone"')
    process = up(tmp_path, *entry, "--rounds", "1", transport=own(tmp_path))
    _out, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    assert "no parameter `index`" in errors


EIGHT = (
    CONFIG.replace("nodes = 6", "nodes = 8")
    .replace("byzantine = 1", "byzantine = 2")
    .replace("quorum = 5", "quorum = 7")
    .replace("deadline = 4.0", "deadline = 120.0")
    .replace("f = 1", "f = 2")
    # Krum needs seven of the eight: a banned liar would end the rounds.
    .replace("[plugins.reputation]", "[plugins.reputation]\noutlier_rounds = 0")
)


@pytest.mark.claim("C-transport-7")
@pytest.mark.long
def test_eight_processes_two_of_them_hostile_learn_what_the_simulator_predicts(
    tmp_path: Path,
) -> None:
    """Signatures, certificates, replay protection, reputation and Krum, over libp2p."""
    if find_spec("qres_transport_libp2p") is None:
        pytest.skip("qres-transport-libp2p is not installed")
    config = tmp_path / "eight.toml"
    config.write_text(EIGHT.format(transport="[plugins.memory]\n"))
    command = qres("swarm", "up", str(config), "--rounds", "6", "--attack", "sign_flip")
    options = ("--folder", str(tmp_path / "box"), "--timeout", "800", "--json")
    process = subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    code, report, errors = outcome(process)
    assert code == 0, errors
    honest = [node["status"] for node in report["nodes"] if not node["hostile"]]
    assert len(honest) == 6
    assert {honest_node["step"] for honest_node in honest} == {6}
    assert len({honest_node["model_digest"] for honest_node in honest}) == 1
    # The simulator signs with keys of its own and has no certificates.
    raw = read_toml(config)
    del raw["plugins"]["pki"]
    simulated = simulate(
        parse(raw, source="eight", sections=SECTIONS),
        Scenario(rounds=6, attack="sign_flip", attackers=2),
    )
    found = [honest_node["metrics"]["accuracy"] for honest_node in honest]
    assert found == pytest.approx([simulated.final("accuracy")] * 6, abs=0.03)


SHARDED = """
[swarm]
name = "box"
nodes = 5
byzantine = 1
quorum = 5
deadline = 120.0
vote_timeout = 60.0
aggregation = "{aggregation}"

[plugins.loopback]
listen = 0
peers = {}

[plugins.ed25519]
[plugins.replay]
[plugins.arc]
f = 1
[plugins.nnm]
f = 1
[plugins.krum]
f = 1
[trainer.task]
name = "quadratic"
dimension = 500
"""


def whole_and_sharded(
    text: str, tmp_path: Path, timeout: str
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Two rounds of a configuration, aggregated by everyone and in shards: what nodes say then."""
    for aggregation in ("everyone", "sharded"):
        config = tmp_path / f"{aggregation}.toml"
        config.write_text(text.format(aggregation=aggregation))
        command = qres("swarm", "up", str(config), "--rounds", "2", "--json")
        process = subprocess.Popen(
            [*command, "--folder", str(tmp_path / aggregation), "--timeout", timeout],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        code, report, errors = outcome(process)
        assert code == 0, errors
        yield aggregation, [node["status"] for node in report["nodes"]]


@pytest.mark.long
def test_processes_merge_in_shards_what_they_merge_whole(tmp_path: Path) -> None:
    """A rule by inner products in two wrappers that take some too: four steps in each round."""
    models: set[str] = set()
    for _aggregation, nodes in whole_and_sharded(SHARDED, tmp_path, "800"):
        assert [node["step"] for node in nodes] == [2] * 5
        models |= {node["model_digest"] for node in nodes}
    assert len(models) == 1


large = pytest.mark.skipif(
    not os.environ.get("QRES_LARGE"), reason="processes for two minutes: make large"
)

WIDE = """
[swarm]
name = "wide"
nodes = 20
byzantine = 2
quorum = 18
deadline = 240.0
vote_timeout = 120.0
aggregation = "{aggregation}"

[plugins.grpc]
[plugins.ed25519]
[plugins.replay]
[plugins.median]
f = 2

[trainer.task]
name = "quadratic"
dimension = 100000
"""


@pytest.mark.long
@large
def test_twenty_processes_receive_four_times_fewer_bytes_in_shards(tmp_path: Path) -> None:
    """As their transports count them, all messages of two rounds included."""
    models, received = set[str](), dict[str, float]()
    for aggregation, nodes in whole_and_sharded(WIDE, tmp_path, "3000"):
        models |= {node["model_digest"] for node in nodes}
        counted = [node["transport"]["bytes_received"] for node in nodes]
        received[aggregation] = statistics.median(counted)
    assert len(models) == 1
    assert received["everyone"] > 4 * received["sharded"]


PARTS = """
[swarm]
name = "parts"
nodes = 4
byzantine = 1
quorum = 4
deadline = 10.0
vote_timeout = 3.0
memory = 400

[plugins.loopback]
listen = 0
peers = {}

[plugins.ed25519]

[plugins.replay]
window = 2048

[plugins.median]
f = 1

[trainer.task]
name = "quadratic"
dimension = 50
"""


@in_proc
@pytest.mark.long
def test_processes_make_the_models_of_the_simulator_in_slices(tmp_path: Path) -> None:
    """Also a process that is killed in the middle, and goes on from its journal.

    The budget of memory lets most contributions lie on the disk, and these are merged in ranges.
    """
    config, box = tmp_path / "parts.toml", tmp_path / "box"
    config.write_text(PARTS)
    command = qres("swarm", "up", str(config), "--folder", str(box), "--rounds", "11", "--json")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        until(lambda: len(processes(box)) == 4)
        url = read_toml(box / "node-0" / "node.toml")["node"]["status"]
        until(lambda: (ask(url) or {}).get("step", 0) >= 2)
        kill(box / "node-2")
        code, report, errors = outcome(process)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert code == 0, errors
    assert [node["restarts"] for node in report["nodes"]] == [0, 0, 1, 0]
    raw = read_toml(config)
    del raw["plugins"]["loopback"]
    raw["plugins"]["memory"] = {}

    def simulated(dimension: int) -> str:
        raw["trainer"]["task"]["dimension"] = dimension
        swarm = parse(raw, source="parts", sections=SECTIONS)
        return simulate(swarm, Scenario(rounds=11)).model_digests[0]

    assert {node["status"]["model_digest"] for node in report["nodes"]} == {simulated(50)}
    assert report["model_digest"] != simulated(49)  # the control


@in_proc
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.long
def test_no_node_outlives_the_swarm(tmp_path: Path, number: int) -> None:
    process = up(tmp_path)
    box = tmp_path / "box"
    try:
        until(lambda: len(processes(box)) == 6)
        if number == signal.SIGINT:
            first_model(process)
        process.send_signal(number)
        _said, errors = process.communicate(timeout=PATIENCE)
        until(lambda: not processes(box))
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
        for left in processes(box):
            os.kill(left, signal.SIGKILL)
    if number == signal.SIGINT:
        assert process.returncode == 0, errors  # stopped when told, and of one mind


@pytest.mark.long
@in_proc
def test_ctrl_c_before_the_last_of_the_rounds_ends_with_130_and_a_line(tmp_path: Path) -> None:
    process = up(tmp_path, "--rounds", "100000")
    try:
        first_model(process)
        process.send_signal(signal.SIGINT)
        _said, errors = process.communicate(timeout=PATIENCE)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert process.returncode == 130, errors
    assert "stopped by SIGINT at model" in errors.splitlines()[-1]
    assert "Traceback" not in errors
    assert not processes(tmp_path / "box")


BAD = """
from qres_core.training.tasks import TaskConfig, make_task


class Bad:
    def __init__(self, inner, index):
        self.inner, self.index = inner, index

    def fit(self, vector, round_info):
        if self.index == 2:
            raise ValueError("loss is nan")
        return self.inner.fit(vector, round_info)

    def evaluate(self, vector):
        return self.inner.evaluate(vector)


def make(index, nodes, seed):
    task = make_task(TaskConfig(name="quadratic", dimension=12), nodes=nodes, seed=seed)
    return Bad(task.trainers[index], index), task.initial
"""


@pytest.mark.long
def test_a_failing_trainer_is_told_once_with_its_line_while_the_box_goes_on(
    tmp_path: Path,
) -> None:
    (tmp_path / "bad_model_of_box.py").write_text(BAD)
    config = tmp_path / "bad.toml"
    tables = '[trainer]\nentry = "bad_model_of_box:make"\n'
    text = NINE.partition("[trainer.task]")[0]
    wiring = "listen = 0\npeers = {}\n"
    config.write_text(text.format(transport="loopback", wiring=wiring) + tables)
    options = ("--folder", str(tmp_path / "box"), "--rounds", "3", "--json")
    short = ("--set", "swarm.deadline=3.0")
    process = subprocess.Popen(
        qres("swarm", "up", str(config), *options, *short),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    code, report, errors = outcome(process)
    assert code == 0, errors
    told = [line for line in errors.splitlines() if "trainer failed" in line]
    assert len(told) == 1
    assert told[0].startswith("node-2: trainer failed in fit, round ")
    assert "ValueError: loss is nan" in told[0]
    line = BAD.splitlines().index('            raise ValueError("loss is nan")') + 1
    assert f"bad_model_of_box.py, line {line}" in told[0]
    failures = [node["trainer_error"] for node in report["nodes"]]
    assert failures[2]["line"] == line
    assert [failure is None for failure in failures] == [at != 2 for at in range(9)]
    log = (tmp_path / "box" / "node-2" / "log.jsonl").read_text()
    assert "Traceback" in log


NINE = """
[swarm]
name = "nine"
nodes = 9
byzantine = 2
quorum = 7
deadline = 10.0
vote_timeout = 3.0

[plugins.{transport}]
{wiring}
[plugins.ed25519]

[plugins.replay]

[plugins.krum]
f = 2

[trainer.task]
name = "quadratic"
dimension = 12
"""


@pytest.mark.long
@in_proc
@pytest.mark.parametrize("transport", [pytest.param("loopback", marks=large), "libp2p"])
def test_two_of_nine_nodes_are_killed_and_the_box_goes_on_and_both_catch_up(
    tmp_path: Path, transport: str
) -> None:
    if transport == "libp2p" and find_spec("qres_transport_libp2p") is None:
        pytest.skip("qres-transport-libp2p is not installed")
    config, box = tmp_path / "nine.toml", tmp_path / "box"
    wiring = "listen = 0\npeers = {}\n" if transport == "loopback" else ""
    config.write_text(NINE.format(transport=transport, wiring=wiring))
    command = qres("swarm", "up", str(config), "--folder", str(box), "--rounds", "25", "--json")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        homes = [box / f"node-{index}" for index in range(9)]
        until(lambda: len(processes(box)) == 9)
        urls = [read_toml(home / "node.toml")["node"]["status"] for home in homes]

        def steps() -> list[int]:
            return [(ask(url) or {}).get("step", 0) for url in urls]

        until(lambda: min(steps()) >= 2)
        kill(homes[3])
        kill(homes[7])
        code, report, errors = outcome(process)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert code == 0, errors
    for name in ("node-3", "node-7"):
        assert f"{name} was killed (SIGKILL), restarting" in errors
    nodes = report["nodes"]
    assert [node["restarts"] for node in nodes] == [0, 0, 0, 1, 0, 0, 0, 1, 0]
    assert not any(node["dead"] for node in nodes)
    assert report["agreed"] is True
    assert {node["status"]["step"] for node in nodes} == {25}
    assert {node["status"]["model_digest"] for node in nodes} == {report["model_digest"]}


@pytest.mark.long
@large
@in_proc
@pytest.mark.parametrize("killed", [1, 2])
def test_dead_nodes_end_a_box_only_where_no_round_can_close_without_them(
    tmp_path: Path, killed: int
) -> None:
    rounds = "15" if killed == 1 else "100000"
    process = up(tmp_path, "--no-restart", "--rounds", rounds)
    try:
        first_model(process)
        for index in range(killed):
            kill(tmp_path / "box" / f"node-{index}")
        said, errors = process.communicate(timeout=PATIENCE)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert "node-0 was killed (SIGKILL); it is left dead" in errors
    assert "restarting" not in errors
    if killed == 1:  # five of six are the quorum
        assert process.returncode == 0, errors
        assert "5 of 6 honest nodes agree: model 15" in said
    else:
        assert process.returncode == 1, said
        assert "4 of 6 honest nodes are left, and a round needs 5" in errors
    assert not processes(tmp_path / "box")


@pytest.mark.long
@large
@in_proc
def test_a_node_that_is_refused_when_it_starts_again_is_left_dead_with_the_reason(
    tmp_path: Path,
) -> None:
    process = up(tmp_path, "--rounds", "15", "--json")
    home = tmp_path / "box" / "node-2"
    try:
        until(lambda: bool(processes(home)))
        url = read_toml(home / "node.toml")["node"]["status"]
        until(lambda: (ask(url) or {}).get("step", 0) >= 1)
        text = (home / "node.toml").read_text()
        (home / "node.toml").write_text(text.replace("byzantine =", "byzantin ="))
        kill(home)
        code, report, errors = outcome(process)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert code == 0, errors
    assert errors.count("node-2 was killed (SIGKILL), restarting") == 1
    assert errors.count("node-2 was refused at start: QRES-E1") == 1
    assert "QRES-E10" in report["nodes"][2]["dead"]
    assert report["nodes"][2]["restarts"] == 1


@pytest.mark.long
def test_the_lines_in_a_pipe_tell_of_every_model_and_of_its_own_figures(tmp_path: Path) -> None:
    process = up(tmp_path, "--rounds", "6")
    said, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    lines = said.splitlines()
    urls = [line.split()[1] for line in lines if line.startswith("node-")]
    assert len(set(urls)) == 6
    assert all(url.startswith("http://127.0.0.1:") for url in urls)
    models = [line.split() for line in lines if line.startswith("model ")]
    assert [int(words[1]) for words in models] == list(range(1, 7))
    history = json.loads((tmp_path / "box" / "node-0" / "last.json").read_text())["history"]
    measured = {
        record["model_digest"][:12]: f"{record['metrics']['accuracy']:.1%}"
        for record in history
        if record["metrics"]
    }
    told = {words[-1]: words[2] for words in models if words[2] != "not"}
    assert told
    assert all(told[digest] == measured[digest] for digest in told.keys() & measured.keys())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--attack", "alie"), "must know all honest updates"),
        (("--attack", "replay"), "forges messages"),
        (("--set", "swarm.quorum=4"), "QRES-E304"),
        (("--nodes", "4"), "QRES-E105"),
        (("--attack", "scaled", "--attackers", "7"), "QRES-E105"),
        (("--set", 'trainer.entry="my:model"'), "take one of them out"),
    ],
)
@pytest.mark.long
def test_what_cannot_be_played_is_refused(
    tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    process = up(tmp_path, *options)
    _out, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert said in errors
    assert not (tmp_path / "box").exists()  # nothing is left in the way of the next try


@pytest.mark.long
def test_what_is_not_installed_is_said_once_and_before_the_nodes_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = tmp_path / "missing"
    missing.mkdir()
    (missing / "sklearn.py").write_text("raise ModuleNotFoundError('No module named sklearn')")
    monkeypatch.setenv("PYTHONPATH", str(missing))
    process = up(tmp_path)
    _out, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert errors.count("come with scikit-learn") == errors.count("QRES-E802 ") == 1
    assert errors.count("fix: pip install scikit-learn") == 1
    assert not (tmp_path / "box").exists()


def test_a_box_needs_a_transport_between_processes() -> None:
    with pytest.raises(ConfigError, match=r"QRES-E105 plugins: none of libp2p, grpc.*is enabled"):
        transport_of({"plugins": {"krum": {}}})
    for name in ("libp2p", "grpc"):
        assert transport_of({"plugins": {name: {}, "memory": {}}}) == name


def test_a_folder_with_something_in_it_is_not_saved_to(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    code, _report, errors = outcome(up(tmp_path, "--save", str(tmp_path), "--json"))
    assert code == 2
    assert "QRES-E803" in errors or "QRES-E803" in json.dumps(_report)
    assert not (tmp_path / "box").exists()


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "box").mkdir()
    (tmp_path / "box" / "mine").write_text("mine")
    process = up(tmp_path)
    _out, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, "QRES-E803" in errors) == (2, True)
    assert [path.name for path in (tmp_path / "box").iterdir()] == ["mine"]


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


def looked_at(command: list[str], tries: int = 3) -> subprocess.CompletedProcess[str]:
    """What the browser shows; on a busy machine it may give up before it has begun."""
    shown = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    return shown if shown.stdout or tries == 1 else looked_at(command, tries - 1)


@pytest.mark.long
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_the_page_shows_the_node_in_a_browser(tmp_path: Path) -> None:
    process = up(tmp_path, "--attack", "scaled")
    try:
        first_model(process)
        config = read_toml(tmp_path / "box" / "node-0" / "node.toml")
        page = f"http://{config['node']['status']}/"
        command = [
            *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"),
            *(f"--user-data-dir={tmp_path / 'browser'}", "--virtual-time-budget=5000", page),
        ]
        shown = looked_at(command)
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE)
    assert 'class="live"' in shown.stdout  # the script ran, and the status came
    assert "running" in shown.stdout
    roster = config["swarm"]["roster"]
    assert all(node[:12] in shown.stdout for node in roster)
    assert "Content Security Policy" not in shown.stderr


def test_a_swarm_that_gets_nowhere_says_why() -> None:
    def report(*reasons: str, void: bool = False) -> dict[str, object]:
        ended = [{"closed": False, "void": void, "reason": reason} for reason in reasons]
        return {"history": [*ended, {"closed": True, "reason": ""}]}

    late, few = "no proposal", "0 contributions, quorum 5"
    reports = [report(few, few, late), report(few), None, {}]
    assert _without_model(reports) == [(f"aborted: {few}", 2), (f"aborted: {late}", 1)]
    assert _without_model([report("refused", void=True)]) == [("void: refused", 1)]
    assert _without_model([report()]) == []
    assert len(_without_model([report(*"abcdef")])) == 3
