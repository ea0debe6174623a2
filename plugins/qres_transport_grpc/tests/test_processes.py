"""Five nodes and two hubs in processes: one hub is killed and started again, one drops a third."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from qres_transport_grpc.identity import HubIdentity

PATIENCE = 900.0
"""Seconds for what takes thirty on an idle machine."""
NODES = 5
IP = shutil.which("ip") or ""
DROPPER = """
import asyncio, random, sys
from pathlib import Path
from qres_transport_grpc.identity import HubIdentity
from qres_transport_grpc.roster import HubRoster
from qres_transport_grpc.server import HubServer, serve

class Dropper(HubServer):
    def route(self, sender, to, message):
        if random.random() > 1 / 3:
            super().route(sender, to, message)

async def main():
    server = Dropper(HubIdentity.read(Path(sys.argv[2])), HubRoster(Path(sys.argv[1])))
    await serve(server, sys.argv[3], print, asyncio.Event())

asyncio.run(main())
"""
NODE = """
[swarm]
name = "behind-firewalls"
nodes = {count}
byzantine = 1
quorum = 4
deadline = 10.0
vote_timeout = 5.0
roster = {roster}

[node]
data_dir = "{folder}/data"
status = ""

[trainer.task]
name = "quadratic"
dimension = 20000

[plugins.grpc]
hubs = {hubs}
reconnect_seconds = 0.5

[plugins.ed25519]
key = "{folder}/node.key"

[plugins.replay]
window = 2048

[plugins.median]
f = 1
"""


def qres(*words: str) -> list[str]:
    return [sys.executable, "-P", "-m", "qres_core.cli", *words]


def closed(folder: Path) -> dict[int, str]:
    """Steps a node has made, with the digest of each model."""
    found: dict[int, str] = {}
    for line in (folder / "log").read_text(encoding="utf-8").splitlines():
        entry: dict[str, Any] = json.loads(line) if line.startswith("{") else {}
        if entry.get("event") == "round closed" and entry.get("step") is not None:
            found[entry["step"]] = str(entry.get("model_digest", ""))
    return found


def until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.2)


class Swarm:
    """Nodes and hubs; ``at`` puts a process where it belongs."""

    def __init__(
        self, folder: Path, at: Callable[[int | None], Sequence[str]], places: Sequence[str]
    ) -> None:
        self.folder, self._at, self._places = folder, at, places
        self.nodes = [folder / f"node-{index}" for index in range(NODES)]
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        ids: list[str] = []
        for home in self.nodes:
            home.mkdir()
            made = subprocess.run(
                qres("keygen", str(home / "node.key"), "--no-passphrase", "--json"),
                capture_output=True,
                check=True,
            )
            ids.append(json.loads(made.stdout)["public_key"])
        self.roster = folder / "swarm.toml"
        self.roster.write_text(
            f'[swarm]\nname = "behind-firewalls"\nroster = {json.dumps(ids)}\n', encoding="utf-8"
        )
        hubs = [
            f"{place}#{HubIdentity.read(folder / f'hub-{index}.pem').digest}"
            for index, place in enumerate(places)
        ]
        for home in self.nodes:
            text = NODE.format(
                count=NODES, roster=json.dumps(ids), folder=home, hubs=json.dumps(hubs)
            )
            (home / "node.toml").write_text(text, encoding="utf-8")

    def hub(self, index: int, *, drops: bool = False) -> None:
        identity, listen = str(self.folder / f"hub-{index}.pem"), self._places[index]
        words = (
            [sys.executable, "-P", "-c", DROPPER, str(self.roster), identity, listen]
            if drops
            else qres("hub", "run", str(self.roster), "--identity", identity, "--listen", listen)
        )
        self._start(f"hub-{index}", [*self._at(None), *words], self.folder / f"hub-{index}.log")

    def node(self, index: int) -> None:
        words = qres("node", "run", str(self.nodes[index] / "node.toml"), "--json")
        self._start(f"node-{index}", [*self._at(index), *words], self.nodes[index] / "log")

    def _start(self, name: str, words: list[str], log: Path) -> None:
        with log.open("ab") as file:
            self.processes[name] = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=file)

    def steps(self) -> list[int]:
        return [max(closed(home), default=0) for home in self.nodes]

    def goes_on(self, rounds: int) -> None:
        before = max(self.steps())
        until(lambda: min(self.steps()) >= before + rounds)


def play(folder: Path, at: Callable[[int | None], Sequence[str]], places: Sequence[str]) -> None:
    swarm = Swarm(folder, at, places)
    try:
        swarm.hub(0)
        swarm.hub(1, drops=True)
        for index in range(NODES):
            swarm.node(index)
        swarm.goes_on(3)
        swarm.processes["hub-0"].kill()
        swarm.processes["hub-0"].wait()
        swarm.goes_on(3)  # over the hub that drops a third
        swarm.processes["hub-1"].kill()
        swarm.processes["hub-1"].wait()
        before = max(swarm.steps())
        time.sleep(10)
        assert max(swarm.steps()) <= before + 1  # the control: without a hub no round closes
        swarm.hub(0)
        swarm.goes_on(3)  # over the hub that was started again
        for index in range(NODES):
            swarm.processes[f"node-{index}"].send_signal(signal.SIGTERM)
        for index in range(NODES):
            assert swarm.processes[f"node-{index}"].wait(PATIENCE) == 0
    finally:
        for process in swarm.processes.values():
            if process.poll() is None:
                process.kill()
                process.wait()
    models: dict[int, set[str]] = {}
    for home in swarm.nodes:
        for step, digest in closed(home).items():
            models.setdefault(step, set()).add(digest)
    assert all(len(digests) == 1 for digests in models.values()), "nodes have two models of a step"


@pytest.mark.claim("C-grpc-18")
@pytest.mark.control("C-grpc-18")
@pytest.mark.long
def test_rounds_close_while_hubs_fail(tmp_path: Path, free_places: list[str]) -> None:
    play(tmp_path, lambda _index: [], free_places)


@pytest.fixture
def free_places(lab: SimpleNamespace) -> Iterator[list[str]]:
    """Kept from others while a hub is not there."""
    with lab.kept_port() as first, lab.kept_port() as second:
        yield [f"127.0.0.1:{item.getsockname()[1]}" for item in (first, second)]


# ── in namespaces ─────────────────────────────────────────────────────────────────────────────────


def ip(*words: str) -> None:
    subprocess.run([IP, *words], check=True, capture_output=True)


@contextmanager
def namespaces() -> Iterator[list[str]]:
    """A namespace for the hubs, and for each node one whose only way out leads to the hubs.

    Nothing is passed on between nodes, and the hubs listen on port 443 alone.
    """
    names = [f"qres-{os.getpid()}-{word}" for word in ("hub", *map(str, range(NODES)))]
    made: list[str] = []
    try:
        for name in names:
            ip("netns", "add", name)
            made.append(name)
            ip("-n", name, "link", "set", "lo", "up")
        for address in ("10.99.0.1/32", "10.99.0.2/32"):
            ip("-n", names[0], "addr", "add", address, "dev", "lo")
        for index, name in enumerate(names[1:], start=1):
            wire = ("type", "veth", "peer", "name", "eth0", "netns", name)
            ip("-n", names[0], "link", "add", f"node{index}", *wire)
            ip("-n", names[0], "addr", "add", f"10.99.{index}.1/30", "dev", f"node{index}")
            ip("-n", names[0], "link", "set", f"node{index}", "up")
            ip("-n", name, "addr", "add", f"10.99.{index}.2/30", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "route", "add", "default", "via", f"10.99.{index}.1")
        off = "import pathlib; pathlib.Path('/proc/sys/net/ipv4/ip_forward').write_text('0')"
        subprocess.run([IP, "netns", "exec", names[0], sys.executable, "-c", off], check=True)
        yield names
    finally:
        for name in made:
            ip("netns", "del", name)


def reaches(name: str, host: str, port: int) -> bool:
    """Whether a connection comes about from a namespace; refused by the other end counts."""
    program = (
        "import socket\ntry: socket.create_connection(({!r}, {}), 3).close()\n"
        "except ConnectionRefusedError: pass\nexcept OSError: raise SystemExit(1)"
    )
    words = [sys.executable, "-c", program.format(host, port)]
    return subprocess.run([IP, "netns", "exec", name, *words], check=False).returncode == 0


@pytest.mark.claim("C-grpc-18")
@pytest.mark.long
def test_rounds_close_between_nodes_that_reach_hubs_alone(tmp_path: Path) -> None:
    if not IP:
        pytest.skip("network namespaces need ip, of iproute2")
    try:
        with namespaces() as names:
            assert reaches(names[1], "10.99.0.1", 443)
            assert not reaches(names[1], "10.99.2.2", 443)  # another node
            play(
                tmp_path,
                lambda index: [IP, "netns", "exec", names[0 if index is None else index + 1]],
                ["10.99.0.1:443", "10.99.0.2:443"],
            )
    except (subprocess.CalledProcessError, PermissionError) as error:
        if "netns" in str(error) and "qres_core" not in str(error):
            pytest.skip(f"this machine allows no network namespaces: {error}")
        raise
