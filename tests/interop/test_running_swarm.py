"""A peer on js-libp2p among the processes of a swarm that is at work: three nodes and the peer."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest
from js_peer import javascript_peer
from nacl.signing import SigningKey

from qres_core.node import toml
from qres_core.node.ask import ask
from qres_core.node.box import free_ports
from qres_core.swarm.carrier import Announce, announces

pytestmark = pytest.mark.interop

DIMENSION = 50_000
LARGEST = 2**24
PATIENCE = 300.0
"""Seconds for what takes a few on an idle machine."""
SCRIPT = SigningKey(hashlib.sha256(b"javascript in a swarm").digest())


@attrs.define(eq=False)
class Place:
    """A node's folder, and its process."""

    folder: Path
    url: str
    node_id: bytes
    peer_id: str
    address: str
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-P", "-m", "qres_core.cli", "node", "run", "node.toml"]
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log)

    def status(self) -> Mapping[str, Any]:
        report = ask(self.url)
        return report if report is not None and report["state"] == "running" else {"step": 0}


async def until(what: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not await anyio.to_thread.run_sync(what):
        assert time.monotonic() < end, "it took too long"
        await anyio.sleep(0.2)


@pytest.fixture
def places(tmp_path: Path) -> Iterator[list[Place]]:
    """Three nodes of a swarm of four, running; the fourth member is the peer."""
    ports = free_ports(6)
    made: list[Place] = []
    for index in range(3):
        folder = tmp_path / f"node-{index}"
        folder.mkdir()
        command = ["keygen", "node.key", "--no-passphrase", "--json"]
        program = [sys.executable, "-P", "-m", "qres_core.cli", *command]
        done = subprocess.run(program, cwd=folder, capture_output=True, check=True)
        key = json.loads(done.stdout)
        address = f"/ip4/127.0.0.1/tcp/{ports[index]}/p2p/{key['peer_id']}"
        url = f"http://127.0.0.1:{ports[3 + index]}"
        made.append(Place(folder, url, bytes.fromhex(key["public_key"]), key["peer_id"], address))
    roster = [*(place.node_id.hex() for place in made), bytes(SCRIPT.verify_key).hex()]
    for index, place in enumerate(made):
        tables = {
            "swarm": {
                "name": "javascript",
                "nodes": 4,
                "byzantine": 1,
                "quorum": 3,
                "deadline": 2.0,
                "vote_timeout": 1.0,
                "roster": roster,
            },
            "node": {"data_dir": "data", "status": place.url.removeprefix("http://")},
            "trainer": {"task": {"name": "quadratic", "dimension": DIMENSION}},
            "plugins": {
                "libp2p": {
                    "listen": f"/ip4/127.0.0.1/tcp/{ports[index]}",
                    "peers": [other.address for other in made if other is not place],
                },
                "ed25519": {"key": "node.key"},
                "replay": {},
                "median": {"f": 1},
            },
        }
        (place.folder / "node.toml").write_text(toml.render(tables))
    try:
        for place in made:
            place.start()
        yield made
    finally:
        for place in made:
            if place.process is not None:
                place.process.kill()
                place.process.wait()


def test_the_peer_hears_and_pulls_what_a_running_swarm_says(node: str, places: list[Place]) -> None:
    """It contributes nothing, and is linked to a single node. The swarm goes on with it."""
    members = [*(place.node_id for place in places), bytes(SCRIPT.verify_key)]
    names = {place.peer_id for place in places}

    async def main() -> None:
        await until(lambda: all(place.status()["step"] >= 1 for place in places))
        peer = javascript_peer(
            node, seed=bytes(SCRIPT), swarm="javascript", credential=b"", roster=members
        )
        async with peer as script:
            linked = places[0]
            assert await script.do("dial", address=linked.address) in names
            before = linked.status()["step"]

            def heard() -> dict[str, str]:
                """Announcements of large frames, by their author."""
                told = [item for item in script.events if item.get("how") == "gossip"]
                return {
                    item["author"]: item["frame"]
                    for item in told
                    if announces(bytes.fromhex(item["frame"]))
                }

            await until(lambda: set(heard()) == names)  # two of them come by way of the third
            await until(lambda: linked.status()["step"] >= before + 2)
            pulled: list[int] = []
            while not pulled:  # blobs of heights that are over are dropped
                frame = heard()[linked.peer_id]
                try:
                    told = await script.do("fetch", announcement=frame, **{"from": linked.peer_id})
                except RuntimeError as error:
                    if "not here" not in str(error):
                        raise
                    await anyio.sleep(0.2)
                else:
                    pulled.append(told["size"])
            announced = Announce.from_bytes(bytes.fromhex(frame), max_bytes=LARGEST)
            assert pulled == [announced.ref.size]
            assert pulled[0] > 4 * DIMENSION
            report = linked.status()
            assert {item["id"] for item in report["peers"]} >= {members[-1].hex()}
            assert not [item for item in script.events if item["event"] == "closed"]
            assert not [reason for reason in report["rejections"] if "malformed" in reason]
        for place in places:
            assert place.process is not None
            place.process.send_signal(signal.SIGTERM)
            assert await anyio.to_thread.run_sync(place.process.wait) == 0

    anyio.run(main)
