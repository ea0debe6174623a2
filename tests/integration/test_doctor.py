"""``qres node doctor`` on a node that is well, and on sick ones."""

from __future__ import annotations

import json
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import attrs
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from qres_core.cli.node import command
from qres_core.node import doctor as room
from qres_core.node.doctor import Examined

ROOT = Path(__file__).resolve().parent.parent.parent
RFC_8032 = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
GREETING = b"\x13/multistream/1.0.0\n"
PATIENCE = 600.0


def qres(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "qres_core.cli", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, check=False, text=True)


@attrs.define(eq=False)
class Listener:
    """Greets whoever comes as a libp2p node does, or with other words, or not at all."""

    port: int
    words: bytes = GREETING
    heard: list[bytes] = attrs.field(factory=list)
    _socket: socket.socket = attrs.field(init=False)

    def __enter__(self) -> Self:
        self._socket = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_details: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)  # wakes who accepts
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _address = self._socket.accept()
            except OSError:
                return
            with connection, suppress(ConnectionError):
                self.heard.append(connection.recv(100))
                connection.sendall(self.words)
                connection.recv(100)  # until the other end hangs up


@attrs.frozen
class Place:
    """The folder of one node of five, and where the others are."""

    home: Path
    base: int

    @property
    def file(self) -> Path:
        return self.home / "node.toml"

    def change(self, old: str, new: str) -> None:
        text = self.file.read_text("utf-8")
        assert old in text
        self.file.write_text(text.replace(old, new, 1), encoding="utf-8")

    def examine(self) -> tuple[int, dict[str, dict[str, Any]]]:
        """The exit code, and what was found by place."""
        done = CliRunner().invoke(command, ["doctor", str(self.file), "--json"])
        said = json.loads(done.stdout)
        return done.exit_code, {item["where"]: item for item in said["findings"]}


@contextmanager
def consecutive(count: int) -> Iterator[int]:
    """First of some ports in a row that nobody has, and that nobody else takes meanwhile.

    Each is bound as by one who shares nothing, and shared from then on: tests that run beside this
    one find it taken, and on Linux whoever sets SO_REUSEADDR may listen there all the same.
    """
    for first in random.SystemRandom().sample(range(20000, 30000), 200):
        with ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    item = stack.enter_context(socket.socket())
                    item.bind(("127.0.0.1", port))
                    item.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            except OSError:
                continue
            if sys.platform != "linux":
                stack.close()
            yield first
            return
    raise AssertionError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("doctor") / "nodes"
    script = ROOT / "deploy/make_nodes.py"
    with consecutive(10) as base:
        words = [sys.executable, "-P", str(script), str(folder), "--loopback", str(base)]
        subprocess.run(words, check=True, capture_output=True)
        yield Place(folder / "node-0", base)


@pytest.fixture
def place(made: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    shutil.copytree(made.home.parent, tmp_path / "nodes")
    home = tmp_path / "nodes/node-0"
    monkeypatch.chdir(home)
    return Place(home, made.base)


@pytest.fixture
def peers(place: Place) -> Iterator[list[Listener]]:
    """The other four, as far as a greeting goes. The node gives a busy machine time for it."""
    place.change("[plugins.libp2p]\n", "[plugins.libp2p]\ndial_seconds = 60.0\n")
    with ExitStack() as stack:
        made = [Listener(place.base + index) for index in range(1, 5)]
        yield [stack.enter_context(item) for item in made]


def sick(found: dict[str, dict[str, Any]]) -> dict[str, str]:
    """What is to be mended; each names what to do."""
    assert all(item["fix"] for item in found.values() if not item["well"])
    return {where: item["what"] for where, item in found.items() if not item["well"]}


def test_a_node_that_is_well_has_nothing_to_mend(place: Place, peers: list[Listener]) -> None:
    code, found = place.examine()
    assert (code, sick(found)) == (0, {})
    assert found["swarm.roster"]["what"] == "5 members, this node among them"
    assert found["process"]["what"] == "the node does not run"
    assert "is free" in found["node.status"]["what"]
    assert "MiB are free" in found["node.data_dir"]["what"]
    # Each was greeted as the protocol begins: it is no silent socket to them.
    assert [item.heard for item in peers] == [[GREETING]] * 4
    assert not (place.home / "data").exists(), "nothing is made"
    done = CliRunner().invoke(command, ["doctor", "node.toml"])
    assert done.exit_code == 0
    assert {line[:4] for line in done.stdout.splitlines()} == {"ok  "}
    assert len(done.stdout.splitlines()) >= 12


def test_a_port_that_somebody_has_is_named(place: Place, peers: list[Listener]) -> None:
    assert len(peers) == 4
    with Listener(place.base), Listener(place.base + 5):
        code, found = place.examine()
    assert code == 1
    assert sick(found).keys() == {"plugins.libp2p.listen", "node.status"}
    assert all("in use" in what for what in sick(found).values())


def test_a_key_that_others_may_read_is_named(place: Place, peers: list[Listener]) -> None:
    assert len(peers) == 4
    (place.home / "node.key").chmod(0o644)
    code, found = place.examine()
    assert code == 1
    assert sick(found).keys() == {"plugins.ed25519.key"}
    done = CliRunner().invoke(command, ["doctor", "node.toml"])
    assert done.exit_code == 1
    assert "BAD  plugins.ed25519.key: " in done.stdout
    assert "     to do: " in done.stdout


def test_a_key_of_no_member_is_named(place: Place, peers: list[Listener]) -> None:
    assert len(peers) == 4
    text = place.file.read_text("utf-8")
    mine, *_others = [
        line for line in text.splitlines() if line.startswith('    "') and "/" not in line
    ]
    place.change(mine, f'    "{RFC_8032}",')
    code, found = place.examine()
    assert code == 1
    assert sick(found) == {"swarm.roster": "this node's key is no member's"}


@pytest.mark.parametrize("ran", [True, False])
def test_peers_that_are_away_or_something_else_are_named(place: Place, *, ran: bool) -> None:
    """That nobody is there yet is no fault of a node that never ran; that somebody else is, is."""
    if ran:
        key = load_pem_private_key((place.home / "node.key").read_bytes(), None)
        assert isinstance(key, Ed25519PrivateKey)
        node_id = key.public_key().public_bytes_raw()
        (place.home / "data" / node_id.hex()).mkdir(parents=True)
    # One of them is waited for that long; the others must not be late where the machine halts.
    place.change("[plugins.libp2p]\n", "[plugins.libp2p]\ndial_seconds = 10.0\n")
    with (
        Listener(place.base + 1),
        Listener(place.base + 2, b"SSH-2.0-OpenSSH_9.6\r\n"),
        Listener(place.base + 3, b""),
    ):
        code, found = place.examine()
    assert code == 1
    expected = {
        "plugins.libp2p.peers[1]": "connects, but what answers is no libp2p node (QRES-E907)",
        "plugins.libp2p.peers[2]": "connects, and says nothing (QRES-E907)",
    }
    if ran:
        expected["plugins.libp2p.peers[3]"] = "Connection refused (QRES-E904)"
    assert {where: what.split(": ")[1] for where, what in sick(found).items()} == expected


def test_a_folder_that_takes_nothing_is_named(place: Place, peers: list[Listener]) -> None:
    assert len(peers) == 4
    place.change('data_dir = "data"', 'data_dir = "/dev/null/data"')
    code, found = place.examine()
    assert code == 1
    assert sick(found).keys() == {"node.data_dir"}


def test_a_file_that_is_no_configuration_is_named(place: Place) -> None:
    place.change("quorum = 4", "quorom = 4")
    code, found = place.examine()
    assert code == 1
    assert "swarm.quorom" in sick(found)


def test_too_little_room_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (finding,) = room._disk(tmp_path)
    assert finding.well, "control: there is room"
    monkeypatch.setattr(room, "FREE_BYTES", 2**62)
    (finding,) = room._disk(tmp_path)
    assert not finding.well
    assert "free at least" in finding.fix
    (finding,) = room._disk(None)
    assert not finding.well


@pytest.mark.parametrize(
    ("offsets", "bad"),
    [
        ([0.1, -0.2, 1.0], []),
        ([30.0, 31.0, 29.0], ["30.0 s ahead of most peers'"]),
        ([-30.0, -31.0, -29.0], ["30.0 s behind most peers'"]),
        ([0.1, 0.0, -60.0], ["60.0 s away"]),
        ([None, None, None], []),
    ],
)
def test_a_clock_that_is_wrong_is_named_and_so_is_whose(
    offsets: list[float | None], bad: list[str]
) -> None:
    members = [
        {"id": f"{index:02x}" * 32, "clock_offset_seconds": offset}
        for index, offset in enumerate(offsets)
    ]
    found = list(room._clock({"members": members}))
    said = [item.what for item in found if not item.well]
    assert len(said) == len(bad)
    assert all(part in what for part, what in zip(bad, said, strict=True))
    assert list(room._clock(None)) == [Examined("clock", room.UNKNOWN)]


@pytest.mark.long
def test_a_swarm_that_runs_is_well_and_its_clocks_are_compared(place: Place) -> None:
    place.change("[plugins.libp2p]\n", "[plugins.libp2p]\ndial_seconds = 60.0\n")
    nodes: list[subprocess.Popen[bytes]] = []
    words = [sys.executable, "-P", "-m", "qres_core.cli", "node", "run", "node.toml"]
    try:
        for index in range(5):
            home = place.home.parent / f"node-{index}"
            with (home / "log").open("wb") as log:
                nodes.append(subprocess.Popen(words, cwd=home, stderr=log))
        end = time.monotonic() + PATIENCE
        while True:
            code, found = place.examine()
            if not sick(found) and "most of 4 peers'" in found["clock"]["what"]:
                break
            assert time.monotonic() < end, found
            time.sleep(1.0)
        assert code == 0
        assert found["process"]["what"] == "the node runs"
        said = CliRunner().invoke(command, ["doctor", "node.toml"]).stdout
        assert "is this node's, and answers" in said
        assert said.count("answers as a libp2p node") == 4
        # Told to read its file again, it takes another level; another name is refused by name.
        place.change("[node]\n", '[node]\nlog_level = "debug"\n')
        done = qres("node", "reload", "node.toml", cwd=place.home)
        assert (done.returncode, done.stdout) == (0, "taken: node.log_level\n"), done.stderr
        place.change('name = "deployed"', 'name = "other"')
        done = qres("node", "reload", "node.toml", cwd=place.home)
        assert (done.returncode, done.stdout) == (1, "")
        assert "QRES-E106 swarm.name" in done.stderr
    finally:
        for node in nodes:
            node.send_signal(signal.SIGTERM)
        for node in nodes:
            node.wait(PATIENCE)
    done = qres("node", "reload", "node.toml", cwd=place.home)
    assert done.returncode == 2
    assert "no node runs" in done.stderr
