from __future__ import annotations

import http.client
import io
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest
import structlog

from qres_core import NodeId, NodeInfo, Standing, hookimpl
from qres_core.builtin.memory import MemoryTransport
from qres_core.errors import ConfigError, LabError, QresError
from qres_core.kernel.config import Config, parse
from qres_core.kernel.discovery import Installed, scan
from qres_core.kernel.node_ids import node_ids
from qres_core.node import daemon, extra, logs, stopping
from qres_core.node.calling import FILE, call
from qres_core.training.table import TrainerConfig

(ME,) = node_ids(1, 5)


@attrs.frozen
class Identity:
    @hookimpl
    def identity(self, seed: bytes | None) -> NodeId:
        assert seed is None
        return ME


@attrs.define(eq=False)
class Broken(MemoryTransport):
    async def broadcast(self, frame: bytes) -> None:
        raise OSError(len(frame))


@attrs.frozen
class BrokenPlugin:
    @hookimpl
    def transport(self, node_info: NodeInfo) -> MemoryTransport:
        return Broken(node_info.node_id, node_info.swarm, 64)


INSTALLED = {
    **scan(),
    "identity": Installed.local("identity", Identity),
    "broken": Installed.local("broken", BrokenPlugin),
}


def configure(folder: Path, *, without: str = "", **more: Any) -> Config:
    raw: dict[str, Any] = {
        "swarm": {
            "name": "alone",
            "nodes": 1,
            "byzantine": 0,
            "quorum": 1,
            "insecure": True,
            "roster": [ME.hex()],
        },
        "node": {"data_dir": str(folder), "status": "127.0.0.1:0"},
        "trainer": {"task": {"name": "quadratic", "dimension": 4}},
        "plugins": {"memory": {}, "identity": {}, "mean": {"unprotected": True}},
    }
    for key, value in more.items():
        raw[key] = {**raw[key], **value}
    if without:
        *tables, last = without.split(".")
        inner = raw
        for table in tables:
            inner = inner[table]
        del inner[last]
    return parse(raw, source="test", sections={"trainer": TrainerConfig})


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root, own = logging.getLogger(), logging.getLogger(logs.OWN)
    kept = root.handlers[:], root.level, own.level, logging.lastResort
    yield io.StringIO()
    root.handlers, logging.lastResort = kept[0], kept[3]
    root.setLevel(kept[1])
    own.setLevel(kept[2])
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def run(config: Config, stream: io.StringIO, **options: Any) -> tuple[int, list[Any]]:
    reports: list[Mapping[str, Any]] = []
    log = logs.set_up("info", "json", stream)
    options = {"installed": INSTALLED, "report": reports.append, **options}
    return daemon.run(config, log, **options), reports


@attrs.define(eq=False)
class Ledger:
    """A reputation plugin that answers only between setup and teardown."""

    open: bool = False

    @hookimpl
    def setup(self) -> None:
        self.open = True

    @hookimpl
    def reputation(self) -> Standing:
        if not self.open:
            raise RuntimeError
        return Standing()

    @hookimpl
    def teardown(self) -> None:
        self.open = False


def test_the_last_word_is_from_before_the_plugins_are_torn_down(
    tmp_path: Path, stream: io.StringIO
) -> None:
    installed = {**INSTALLED, "ledger": Installed.local("ledger", Ledger)}
    config = configure(tmp_path, plugins={"ledger": {}})
    code, (report,) = run(config, stream, rounds=2, linger=0.0, installed=installed)
    assert code == 0
    (member,) = report["members"]
    assert (member["banned"], member["standing"], report["rejections"]) == (False, 1.0, {})


def test_a_node_that_cannot_be_found_by_a_reload_runs_all_the_same(
    tmp_path: Path, stream: io.StringIO
) -> None:
    (tmp_path / ME.hex() / FILE).mkdir(parents=True)  # where its number belongs
    code, (report,) = run(
        configure(tmp_path), stream, rounds=1, linger=0.0, reread=lambda: configure(tmp_path)
    )
    assert (code, report["step"]) == (0, 1)
    (warned,) = [line for line in lines(stream) if line["event"] == "not to be found"]
    assert "`qres node reload` does not find this node" in warned["what"]


def test_a_swarm_of_one_makes_its_rounds_and_goes_on_later(
    tmp_path: Path, stream: io.StringIO
) -> None:
    code, (report,) = run(configure(tmp_path), stream, rounds=3, linger=0.0)
    assert (code, report["step"]) == (0, 3)
    assert report["metrics"]["loss"] > 0
    code, (again,) = run(configure(tmp_path), stream, rounds=4, linger=0.0)
    assert (code, again["step"], again["rounds"]["closed"]) == (0, 4, 1)
    running = [line["resumed"] for line in lines(stream) if line["event"] == "node running"]
    assert running == [False, True]


def test_a_node_alone_stops_by_itself_once_its_goal_is_reached(
    tmp_path: Path, stream: io.StringIO
) -> None:
    config = configure(tmp_path, swarm={"until": "loss < 1e9", "interval": 0.2})
    code, (report,) = run(config, stream, linger=0.0)
    assert code == 0
    assert report["goal"].startswith("loss < 1e9 is reached at model ")
    assert report["through"] is True
    assert report["step"] >= 1


def test_a_goal_of_a_figure_that_evaluate_does_not_return_is_told(
    tmp_path: Path, stream: io.StringIO
) -> None:
    config = configure(tmp_path, swarm={"until": "accuracy > 0.5", "rounds": 2})
    code, (report,) = run(config, stream, linger=0.0)
    assert (code, report["step"]) == (0, 2)  # and rounds count from the configuration
    assert report["goal"] == "swarm.until asks for accuracy, and evaluate returns distance, loss"
    told = [
        line for line in lines(stream) if line["event"] == "goal names no figure of the trainer"
    ]
    assert [line["level"] for line in told] == ["error"]


@pytest.mark.parametrize("number", stopping.SIGNALS)
def test_a_signal_stops_it(tmp_path: Path, stream: io.StringIO, number: int) -> None:
    def tell() -> None:
        while "round closed" not in stream.getvalue():
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    code, (report,) = run(configure(tmp_path), stream)
    thread.join()
    assert code == 0
    assert report["step"] >= 1
    events = [line["event"] for line in lines(stream)]
    assert events.count("stopping") == 1
    assert events[-1] == "node stopped"
    assert signal.getsignal(number) is not signal.SIG_IGN


def test_it_stops_when_what_holds_it_lets_go(tmp_path: Path, stream: io.StringIO) -> None:
    held, holder = os.pipe()
    timer = threading.Timer(1.0, os.close, (holder,))
    timer.start()
    try:
        code, _reports = run(configure(tmp_path), stream, leash=held)
    finally:
        timer.join()
        os.close(held)
    assert code == 0
    assert "standard input ended" in stream.getvalue()


def test_a_file_lets_go_at_once(tmp_path: Path, stream: io.StringIO) -> None:
    with Path(os.devnull).open("rb") as nothing:
        assert run(configure(tmp_path), stream, leash=nothing.fileno())[0] == 0


def test_a_node_that_had_to_stop_says_why(tmp_path: Path, stream: io.StringIO) -> None:
    plugins = {"memory": {}, "broken": {}}
    config = configure(tmp_path, plugins=plugins, without="plugins.memory")
    code, _reports = run(config, stream)
    assert code == 1
    (failed,) = [line for line in lines(stream) if line["event"] == "node failed"]
    assert (failed["code"], failed["where"], failed["level"]) == (
        "QRES-E603",
        "transport.send",
        "error",
    )


@pytest.mark.parametrize(
    ("change", "code", "where"),
    [
        ({"without": "plugins.identity"}, "QRES-E301", "identity"),
        ({"without": "swarm.roster"}, "QRES-E103", "swarm.roster"),
        ({"without": "node.data_dir"}, "QRES-E103", "node.data_dir"),
        ({"without": "trainer.task"}, "QRES-E103", "trainer"),
        ({"node": {"status": "nowhere"}}, "QRES-E105", "node.status"),
        ({"swarm": {"insecure": False}}, "QRES-E306", "plugins"),
    ],
)
def test_what_is_not_all_there_does_not_start(
    tmp_path: Path, stream: io.StringIO, change: Mapping[str, Any], code: str, where: str
) -> None:
    with pytest.raises(QresError) as caught:
        run(configure(tmp_path, **change), stream)
    assert (caught.value.code, caught.value.problems[0].where) == (code, where)
    assert not list(tmp_path.iterdir())


def test_a_node_that_is_not_in_its_roster_follows_and_takes_no_part(
    tmp_path: Path, stream: io.StringIO
) -> None:
    prepared = daemon.prepare(configure(tmp_path, swarm={"roster": ["00" * 32]}), INSTALLED, ())
    assert prepared.node_id not in prepared.roster
    board = daemon.Daemon(prepared, logs.set_up("info", "json", stream), leash=None)

    async def look() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(board.run)
            while board.board.node is None or board.board.node.meeting:  # noqa: ASYNC110
                await anyio.sleep(0.01)
            await anyio.sleep(0.1)
            board.board.node.stop()

    anyio.run(look)
    assert "no member" in [line["event"] for line in lines(stream)]
    report = board.board.report()
    assert (report["step"], report["rounds"]["closed"]) == (0, 0)


def test_a_node_that_runs_is_ready_where_its_disk_takes_what_it_keeps(
    tmp_path: Path, stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qres_core.node.server.SECONDS", 300.0)
    prepared = daemon.prepare(configure(tmp_path), INSTALLED, ())
    running = daemon.Daemon(prepared, logs.set_up("info", "json", stream))
    seen: list[int] = []

    def code(url: str) -> int:
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=300)
        connection.request("GET", "/readyz")
        status = connection.getresponse().status
        connection.close()
        return status

    async def look() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(running.run)
            while running.board.node is None or running.board.node.meeting:  # noqa: ASYNC110
                await anyio.sleep(0.01)
            (url,) = [line["url"] for line in lines(stream) if line["event"] == "status"]
            seen.append(await anyio.to_thread.run_sync(code, url))
            running.board.node.stop()

    anyio.run(look)
    assert seen == [200]


def test_a_hangup_has_the_file_read_again(tmp_path: Path, stream: io.StringIO) -> None:
    def reread() -> Iterator[Config]:
        yield configure(tmp_path, node={"log_level": "debug"})
        yield configure(tmp_path, node={"log_level": "error", "name": "other"})
        raise RecursionError  # whatever a file brings about

    files = reread()
    prepared = daemon.prepare(configure(tmp_path), INSTALLED, ())
    log = logs.set_up("info", "json", stream)
    running = daemon.Daemon(prepared, log, reread=lambda: next(files))
    running.reload()  # too early: nothing runs
    said: list[Any] = []

    async def look() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(running.run)
            while running.board.node is None:  # noqa: ASYNC110
                await anyio.sleep(0.01)
            for times in (1, 2, 3):
                assert call(tmp_path / ME.hex()) == os.getpid()
                while running.board.reloads < times:  # noqa: ASYNC110
                    await anyio.sleep(0.01)
                said.append(running.board.report()["reload"])
            running.board.node.stop()

    anyio.run(look)
    assert [(it["times"], it["taken"]) for it in said] == [
        (1, ["node.log_level"]),
        (2, []),
        (3, []),
    ]
    assert said[0]["problems"] == []
    assert said[2]["problems"] == ["RecursionError: see the node's log"]
    (problem,) = said[1]["problems"]
    assert problem.startswith("QRES-E106 node.name: cannot change while the node runs")
    assert logging.getLogger(logs.OWN).level == logging.DEBUG
    events = [line["event"] for line in lines(stream)]
    assert [event for event in events if event.startswith("reload")] == [
        "reload refused",
        "reloaded",
        "reload refused",
        "reload refused",
    ]
    assert not (tmp_path / ME.hex() / FILE).exists()


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
def test_a_hangup_that_comes_too_early_does_not_end_the_node(
    tmp_path: Path, stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, before = daemon.prepare, signal.getsignal(signal.SIGHUP)
    found: list[Any] = []

    def prepare(*given: Any) -> Any:
        found.append(signal.getsignal(signal.SIGHUP))
        if found[0] is not before:
            os.kill(os.getpid(), signal.SIGHUP)  # while a trainer loads its data, for example
        return plain(*given)

    monkeypatch.setattr(daemon, "prepare", prepare)
    config = configure(tmp_path)
    assert run(config, stream, rounds=1, linger=0.0, reread=lambda: config)[0] == 0
    assert signal.getsignal(signal.SIGHUP) is before
    events = [line["event"] for line in lines(stream)]
    assert events.index("reload refused") < events.index("node running")
    found.clear()
    assert run(config, stream, rounds=1, linger=0.0)[0] == 0
    assert found == [before], "control: it does what it did before, and ends the process"


def test_a_store_that_is_damaged_is_refused_before_anything(
    tmp_path: Path, stream: io.StringIO
) -> None:
    folder = tmp_path / ME.hex()
    folder.mkdir()
    (folder / "journal.sqlite").write_bytes(b"not a store")
    with pytest.raises(QresError, match="QRES-E602"):
        run(configure(tmp_path), stream)


def test_a_node_whose_journal_is_gone_does_not_begin_again(
    tmp_path: Path, stream: io.StringIO
) -> None:
    """It forgot its votes. The model that the swarm vouched for tells that it ran."""
    config, folder = configure(tmp_path), tmp_path / ME.hex()
    assert run(config, stream, rounds=1, linger=0.0)[0] == 0
    kept = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    for path in list(kept):
        if path.name.startswith("journal.sqlite"):
            path.unlink()
            del kept[path]
    assert [path.name for path in kept] == ["vouched.cbor"]
    with pytest.raises(QresError, match=r"QRES-E602.*journal\.sqlite.*vouched\.cbor is there"):
        run(config, stream)
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == kept
    for path in kept:  # the control: an empty folder is that of a new node
        path.unlink()
    assert run(config, stream, rounds=1, linger=0.0)[0] == 0


def test_no_status_is_served_where_none_is_wanted(tmp_path: Path, stream: io.StringIO) -> None:
    config = configure(tmp_path, node={"status": ""})
    assert run(config, stream, rounds=1, linger=0.0)[0] == 0
    assert "http" not in stream.getvalue()


def test_what_is_missing_of_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    extra.require()
    monkeypatch.setitem(sys.modules, "structlog", None)
    with pytest.raises(LabError, match=r"QRES-E802.*structlog.*pip install structlog"):
        extra.require()


def test_the_configuration_is_read_strictly(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"QRES-E102 trainer.entri"):
        configure(tmp_path, trainer={"entri": "x"})
