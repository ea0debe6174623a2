"""``qres node`` in real processes on loopback: agreeing, killed, late, told to stop."""

from __future__ import annotations

import base64
import json
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import pytest
from qres_lab.box import toml
from qres_lab.box.fleet import judge
from qres_lab.box.nodes import free_ports

from qres_core.cli.options import read_config
from qres_core.contract import canonical
from qres_core.kernel.config import read_toml
from qres_core.node.ask import ask
from qres_core.swarm.context.model_proof import verify
from qres_core.swarm.storage.model_file import kept_model

PROGRAM = Path(__file__).with_name("loopback_qres.py")
MODEL = '''
import time
from qres_core import Update
from qres_core.training.tasks import TaskConfig, make_task


class Slow:
    """The quadratic task, so slow that a test can look at single rounds."""

    def __init__(self, inner):
        self.inner = inner

    def fit(self, vector, round_info):
        time.sleep(0.1)
        return self.inner.fit(vector, round_info)

    def evaluate(self, vector):
        return self.inner.evaluate(vector)


def make(index):
    task = make_task(TaskConfig(name="quadratic", dimension=12), nodes=4, seed=3)
    return Slow(task.trainers[index]), task.initial
'''
JUDGED = '''
from pathlib import Path

import numpy as np
from qres_core import Update
from qres_core.training.tasks import TaskConfig, make_task
from slow_model import Slow


class Judged(Slow):
    """Judges models by the loss; while a file is there, it trains the wrong way."""

    def __init__(self, inner, judges, spoilt):
        super().__init__(inner)
        self.judges = judges
        self.spoilt = Path(spoilt)

    def fit(self, vector, round_info):
        update = super().fit(vector, round_info)
        if self.spoilt.exists():
            return Update(np.full_like(update.vector, 3 << 16), weight=update.weight)
        return update

    def validate(self, vector):
        return sum(one.evaluate(vector)["loss"] for one in self.judges)


def make(index, spoilt):
    # Slow to learn: a model that is nearly the best one is not made better by every honest set.
    table = TaskConfig(name="quadratic", dimension=12, learning_rate=0.02, local_epochs=1)
    task = make_task(table, nodes=4, seed=3)
    return Judged(task.trainers[index], task.trainers, spoilt), task.initial
'''
PATIENCE = 900.0
"""Seconds for what takes a few on an idle machine."""


def qres(*arguments: str) -> list[str]:
    return [sys.executable, "-P", str(PROGRAM), *arguments]


def until(what: Callable[[], bool], patience: float = PATIENCE) -> None:
    end = time.monotonic() + patience
    while not what():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.1)


@attrs.define(eq=False)
class Place:
    """A node's folder and, while it runs, its process."""

    folder: Path
    url: str
    node_id: str
    peer_id: str
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0
    models: dict[int, str] = attrs.field(factory=dict)

    def start(self, *options: str) -> None:
        self.starts += 1
        with ExitStack() as stack:
            out = stack.enter_context((self.folder / "out").open("wb"))
            log = stack.enter_context((self.folder / f"log-{self.starts}").open("wb"))
            command = qres("node", "run", str(self.folder / "node.toml"), "--json", *options)
            self.process = subprocess.Popen(command, stdout=out, stderr=log)

    def end(self, number: int, patience: float = PATIENCE) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(patience)

    def status(self) -> Mapping[str, Any]:
        report = ask(self.url)
        if report is None or report["state"] != "running":
            return {"step": 0, "round": 0, "history": [], "rejections": {}}
        self.models[report["step"]] = report["model_digest"]
        for record in report["history"]:
            if record["closed"]:
                self.models[record["step"]] = record["model_digest"]
        return report

    def report(self) -> Mapping[str, Any]:
        """The status of a node that runs; a busy machine may let it answer late."""
        found: list[Mapping[str, Any]] = []

        def told() -> bool:
            found.append(self.status())
            return "members" in found[-1]

        until(told)
        return found[-1]

    def step(self) -> int:
        return int(self.status()["step"])

    def log(self) -> list[dict[str, Any]]:
        lines: list[dict[str, Any]] = []
        for path in sorted(self.folder.glob("log-*")):
            lines += map(json.loads, path.read_text("utf-8").splitlines())
        return lines

    def exported(self) -> int:
        """The step of the model that an export gives now, which the roster vouches for."""
        config = read_config(self.folder / "roster.toml")
        return verify(kept_model(self.folder), config, time.time()).step

    def fact(self, name: str) -> Any:
        """A record of the journal of a node that does not run."""
        path = self.folder / "data" / self.node_id / "journal.sqlite"
        with closing(sqlite3.connect(path)) as db:
            query = "SELECT value FROM fact WHERE name = ?"
            (value,) = db.execute(query, (name,)).fetchone()
        return canonical.loads(value, max_bytes=len(value))


def wires(
    transport: str, index: int, made: Sequence[Place], ports: Sequence[int]
) -> dict[str, object]:
    """The transport's table of a node."""
    others = [(item, ports[at]) for at, item in enumerate(made) if at != index]
    if transport == "loopback":
        return {"listen": ports[index], "peers": {other.node_id: port for other, port in others}}
    return {
        "listen": f"/ip4/127.0.0.1/tcp/{ports[index]}",
        "peers": [f"/ip4/127.0.0.1/tcp/{port}/p2p/{other.peer_id}" for other, port in others],
    }


TRANSPORTS = [
    "loopback",
    pytest.param(
        "libp2p",
        marks=[
            pytest.mark.long,
            pytest.mark.skipif(
                find_spec("qres_transport_libp2p") is None,
                reason="qres-transport-libp2p is not installed",
            ),
        ],
    ),
]


@pytest.fixture(params=TRANSPORTS)
def places(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[list[Place]]:
    """Four nodes, ready to be started; stopped in the end, whatever happened."""
    ports = free_ports(8)
    made: list[Place] = []
    for index in range(4):
        folder = tmp_path / f"node-{index}"
        folder.mkdir()
        command = qres("keygen", str(folder / "node.key"), "--no-passphrase", "--json")
        done = subprocess.run(command, capture_output=True, check=True)
        key = json.loads(done.stdout)
        url = f"http://127.0.0.1:{ports[4 + index]}"
        made.append(Place(folder, url, key["public_key"], key["peer_id"]))
    for index, place in enumerate(made):
        (place.folder / "slow_model.py").write_text(MODEL)
        tables = {
            "swarm": {
                "name": "processes",
                "nodes": 4,
                "byzantine": 1,
                "quorum": 3,
                "deadline": 1.0,
                "vote_timeout": 1.0,
                "roster": [node.node_id for node in made],
            },
            "node": {
                "data_dir": str(place.folder / "data"),
                "status": place.url.removeprefix("http://"),
            },
            "trainer": {"entry": "slow_model:make", "options": {"index": index}},
            "plugins": {
                request.param: wires(request.param, index, made, ports),
                "ed25519": {"key": str(place.folder / "node.key")},
                "replay": {"window": 2048},
                "reputation": {},
                "median": {"f": 1},
            },
        }
        (place.folder / "node.toml").write_text(toml.render(tables))
        known = {"swarm": tables["swarm"], "plugins": {"ed25519": {}}}
        (place.folder / "roster.toml").write_text(toml.render(known))
    try:
        yield made
    finally:
        for place in made:
            if place.process is not None and place.process.poll() is None:
                place.process.kill()
                place.process.wait()


def unanimous(places: Sequence[Place]) -> bool:
    return judge([place.models for place in places], None).split is None


def test_processes_agree_and_stop_when_told(places: list[Place]) -> None:
    for place in places:
        place.start()
    until(lambda: all(place.step() >= 3 for place in places))
    until(lambda: "loss" in places[0].report()["metrics"])  # measured after the model is made
    assert places[0].report()["metrics"]["loss"] > 0
    until(lambda: all(place.exported() >= 3 for place in places))  # they run
    others = {place.node_id for place in places[1:]}
    until(lambda: {peer["id"] for peer in places[0].report()["peers"]} == others)
    asked = [sys.executable, "-P", "-m", "qres_core.cli", "node", "status", "--url"]
    shown: list[str] = []

    def answers() -> bool:  # a busy machine may let it answer late
        done = subprocess.run([*asked, places[0].url], capture_output=True, text=True, check=False)
        shown.append(done.stdout)
        return done.returncode == 0

    until(answers)
    assert places[0].node_id in shown[-1]

    # Three of four go on, and the fourth leaves nothing undone.
    assert places[3].end(signal.SIGTERM) == 0
    before = places[0].step()
    until(lambda: places[0].step() >= before + 2)
    last = json.loads((places[3].folder / "out").read_text())
    assert last["step"] >= 3
    assert places[3].fact("head")[2] == last["step"]
    events = [line["event"] for line in places[3].log()]
    told = events[events.index("stopping") :]
    # What was measured, and who hangs up, it may still tell meanwhile; no round any more.
    assert set(told[1:-1]) <= {"peer down", "peer up", "links ended", "model measured"}
    assert told[-1] == "node stopped"

    assert [place.end(signal.SIGINT) for place in places[:3]] == [0, 0, 0]
    assert unanimous(places)
    gone = subprocess.run([*asked, places[0].url], capture_output=True, text=True, check=False)
    assert (gone.returncode, "no node answers" in gone.stderr) == (1, True)
    for place in places:  # no secrets in logs
        pem = (place.folder / "node.key").read_text()
        secret = base64.b64decode("".join(pem.splitlines()[1:-1]))[-32:]
        text = json.dumps(place.log())
        for form in (secret.hex(), base64.b64encode(secret).decode(), "PRIVATE KEY"):
            assert form not in text


@pytest.mark.long
def test_a_killed_node_goes_on_where_it_was_and_says_nothing_twice(places: list[Place]) -> None:
    for place in places:
        place.start()
    victim = places[0]
    until(lambda: victim.step() >= 2)
    facts: list[tuple[int, int, int]] = []
    for pause in (0.0, 0.35, 0.9):
        time.sleep(pause)
        victim.end(signal.SIGKILL)
        last_round, _votes = victim.fact("votes")
        # The kill may fall between the model and those who vouch for it: then it is an earlier one.
        assert 1 <= victim.exported() <= victim.fact("head")[2]
        facts.append((victim.fact("head")[2], last_round, victim.fact("sequence")))
        victim.start()
        target = max(facts[-1][0], places[1].step())
        until(lambda target=target: victim.step() > target)
    running = [line for line in victim.log() if line["event"] == "node running"]
    assert [line["resumed"] for line in running] == [False, True, True, True]
    assert [line["step"] for line in running[1:]] == [step for step, _round, _number in facts]
    for earlier, later in pairwise(facts):
        assert all(a < b for a, b in zip(earlier, later, strict=True))
    refused = [reason for place in places[1:] for reason in place.report()["rejections"]]
    assert "equivocation" not in refused
    assert not [item for item in refused if "malformed" in item or "signature" in item]
    # Nobody lost trust in it, and it kept its ledger.
    for place in places:
        standings = {member["id"]: member for member in place.report()["members"]}
        assert not any(standing["banned"] for standing in standings.values())
        assert standings[victim.node_id]["standing"] == 1.0
    for place in places:
        assert place.end(signal.SIGTERM) == 0
    assert unanimous(places)
    # No round was closed twice: every step was made once in the log of each run of the node.
    closed = [
        line["step"] for line in victim.log() if line["event"] == "round closed" and line["members"]
    ]
    assert len(closed) == len(set(closed))


@pytest.mark.long
def test_a_node_that_joins_late_takes_a_snapshot(places: list[Place]) -> None:
    for place in places[:3]:
        place.start()
    until(lambda: places[0].step() >= 4)
    late = places[3]
    late.start()
    until(lambda: late.step() >= 5)
    caught = [line for line in late.log() if line.get("reason") == "caught up from a snapshot"]
    assert caught
    assert caught[0]["step"] >= 4
    # And it takes part: the others merge what it contributes.
    mine = late.node_id

    def contributes() -> bool:
        members = places[0].status().get("members", ())
        return any(member["id"] == mine and member["contributed"] > 0 for member in members)

    until(contributes)
    for place in places:
        assert place.end(signal.SIGTERM) == 0
    assert unanimous(places)


@pytest.mark.long
@pytest.mark.parametrize("places", ["loopback"], indirect=True)
def test_rounds_end_a_run(places: list[Place]) -> None:
    # The others stay until it is through, however late it is.
    for place in places[1:]:
        place.start("--rounds", "2", "--linger", str(PATIENCE))
    places[0].start("--rounds", "2", "--linger", "1")
    assert places[0].process is not None
    assert places[0].process.wait(PATIENCE) == 0
    until(lambda: all(place.step() == 2 for place in places[1:]))
    assert [place.end(signal.SIGTERM) for place in places[1:]] == [0, 0, 0]
    for place in places:
        assert json.loads((place.folder / "out").read_text())["step"] == 2
        place.start("--rounds", "2", "--linger", "0")  # nothing is left to do
    for place in places:
        assert place.process is not None
        assert place.process.wait(PATIENCE) == 0
        assert json.loads((place.folder / "out").read_text())["step"] == 2


@pytest.mark.parametrize("places", ["loopback"], indirect=True)
def test_what_cannot_start_is_refused(places: list[Place]) -> None:
    place = places[0]
    with ExitStack() as stack:
        holder = stack.enter_context(closing(socket.socket()))
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", int(place.url.rpartition(":")[2])))
        holder.listen()
        place.start()
        assert place.process is not None
        assert place.process.wait(PATIENCE) == 2
    assert "QRES-E105" in (place.folder / "out").read_text()
    (place.folder / "node.key").chmod(0o644)
    place.start()
    assert place.process.wait(PATIENCE) == 2
    assert "QRES-E105" in (place.folder / "out").read_text()


def judged(places: Sequence[Place], spoilt: Path, *, validate: bool) -> None:
    """Have the nodes train a model that they can judge, and judge it or not."""
    for index, place in enumerate(places):
        (place.folder / "judged_model.py").write_text(JUDGED)
        tables = read_toml(place.folder / "node.toml")
        options = {"index": index, "spoilt": str(spoilt)}
        tables["trainer"] = {"entry": "judged_model:make", "options": options}
        if validate:
            plugins: dict[str, Any] = tables.pop("plugins")
            tables["plugins"] = {**plugins, "validation": {}}
        (place.folder / "node.toml").write_text(toml.render(tables))


def held(places: Sequence[Place]) -> set[tuple[int, str]]:
    """The models of nodes that run."""
    return {(item["step"], item["model_digest"]) for item in (place.report() for place in places)}


@pytest.mark.claim("C-transport-9")
@pytest.mark.long
@pytest.mark.parametrize("places", ["loopback"], indirect=True)
@pytest.mark.skipif(find_spec("qres_validation") is None, reason="qres-validation is missing")
def test_a_model_that_fails_validation_never_becomes_the_node_s(
    places: list[Place], tmp_path: Path
) -> None:
    """Not when rounds fail one after the other, and not after ``kill -9``, of one or of all."""
    spoilt = tmp_path / "spoilt"
    judged(places, spoilt, validate=True)
    for place in places:
        place.start()
    until(lambda: all(place.step() >= 2 for place in places))
    spoilt.touch()

    def stuck() -> bool:
        """No node's last three rounds made a model, and it did not endorse what was proposed."""
        last = [place.status()["history"][-3:] for place in places]
        reasons = [[item["reason"] for item in rounds if not item["closed"]] for rounds in last]
        return all(
            len(reason) == 3 and reason.count("not endorsed here") >= 2 for reason in reasons
        )

    until(stuck)  # whatever was under way before is over
    ((step, digest),) = held(places)
    for victims in (places[:1], places):
        for place in victims:
            place.end(signal.SIGKILL)
        for place in victims:
            assert place.fact("head")[2] == step
            place.start()
        until(stuck)
        assert held(places) == {(step, digest)}
    running = [line for line in places[0].log() if line["event"] == "node running"][1:]
    assert {(report["step"], report["model_digest"]) for report in running} == {(step, digest)}
    # The model nobody left is the one they go on from.
    spoilt.unlink()
    until(lambda: all(place.step() >= step + 2 for place in places))
    for place in places:
        assert place.end(signal.SIGTERM) == 0
    assert unanimous(places)
    assert {place.models[step] for place in places} == {digest}


@pytest.mark.control("C-transport-9")
@pytest.mark.long
@pytest.mark.parametrize("places", ["loopback"], indirect=True)
def test_without_validation_it_does(places: list[Place], tmp_path: Path) -> None:
    """The control."""
    spoilt = tmp_path / "spoilt"
    judged(places, spoilt, validate=False)
    for place in places:
        place.start()
    until(lambda: places[0].step() >= 2 and "loss" in places[0].report()["metrics"])
    before = places[0].report()["metrics"]["loss"]
    spoilt.touch()
    until(lambda: places[0].report()["metrics"].get("loss", 0.0) > 2 * before + 1)
