"""A peer on js-libp2p among the processes of a swarm that is at work: three nodes and the peer."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from js_peer import javascript_peer
from qres_lab.box.fleet import Fleet
from qres_lab.box.nodes import prepare

from qres_core.swarm.runtime.carrier import Announce, announces

pytestmark = pytest.mark.interop

DIMENSION = 50_000
LARGEST = 2**24
PATIENCE = 300.0
"""Seconds for what takes a few on an idle machine."""


def tables() -> dict[str, Any]:
    """Four nodes, of which one may stay silent, and a model too large for gossip."""
    return {
        "swarm": {
            "name": "javascript",
            "nodes": 4,
            "byzantine": 1,
            "quorum": 3,
            "deadline": 2.0,
            "vote_timeout": 1.0,
        },
        "plugins": {"libp2p": {}, "ed25519": {}, "replay": {}, "median": {"f": 1}},
        "trainer": {"task": {"name": "quadratic", "dimension": DIMENSION}},
    }


async def until(what: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not await anyio.to_thread.run_sync(what):
        assert time.monotonic() < end, "it took too long"
        await anyio.sleep(0.2)


def test_the_peer_hears_and_pulls_what_a_running_swarm_says(
    node: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It contributes nothing, and is linked to a single node. The swarm goes on with it."""
    monkeypatch.setattr("qres_lab.box.fleet.STOP_SECONDS", 600.0)
    _config, seats = prepare(tables(), "test", tmp_path / "box")
    *others, taken = seats
    linked = others[0]
    names = {seat.peer_id for seat in others}
    pem = (taken.folder / "node.key").read_bytes()
    seed = load_pem_private_key(pem, password=None).private_bytes_raw()  # type: ignore[union-attr]

    async def main(fleet: Fleet) -> None:
        def reaches(step: int) -> Callable[[], bool]:
            def polled() -> bool:
                fleet.poll()
                return fleet.step >= step

            return polled

        await until(reaches(1))
        peer = javascript_peer(
            node,
            seed=seed,
            swarm="javascript",
            credential=b"",
            roster=[bytes.fromhex(seat.node_id) for seat in seats],
        )
        async with peer as script:
            address = f"/ip4/127.0.0.1/tcp/{linked.port}/p2p/{linked.peer_id}"
            assert await script.do("dial", address=address) == linked.peer_id
            before = fleet.step

            def heard() -> dict[str, str]:
                """Announcements of large frames, by their author."""
                told = [item for item in script.events if item.get("how") == "gossip"]
                return {
                    item["author"]: item["frame"]
                    for item in told
                    if announces(bytes.fromhex(item["frame"]))
                }

            await until(lambda: set(heard()) == names)  # two of them come by way of the third
            await until(reaches(before + 2))
            pulled, frame = list[int](), ""
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
            assert pulled[0] > DIMENSION  # packed, two bytes a number and more
            await until(reaches(fleet.step + 1))
            report = fleet.members[0].report
            assert report is not None
            assert {item["id"] for item in report["peers"]} >= {taken.node_id}
            assert not [item for item in script.events if item["event"] == "closed"]
            assert not [reason for reason in report["rejections"] if "malformed" in reason]

    with Fleet(others, restart=False) as fleet:
        anyio.run(main, fleet)
    assert fleet.verdict().agreed
    assert [member.process.returncode for member in fleet.members] == [0, 0, 0]
