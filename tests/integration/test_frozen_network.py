"""A whole node whose network's thread stands still: what its operator sees."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from qres_lab.box import nodes as box
from qres_lab.box.fleet import LOG, Fleet
from qres_lab.box.nodes import BoxNode, prepare

PATIENCE = 900.0
"""Seconds for what takes a few on an idle machine."""
# ``qres``, whose network's thread stands in what a neighbour's message set off, as long as a file
# with the thread's name is there. Plugins in a folder of their own would be refused: QRES-E205.
PROGRAM = """
import threading
import time
from pathlib import Path

from qres_core import cli
from qres_transport_libp2p.curves import without_fastecdsa

with without_fastecdsa():
    from qres_transport_libp2p.pubsub import SafePubsub

deliver = SafePubsub.notify_subscriptions


def stand_still(self, message):
    while Path(__file__).with_name(threading.current_thread().name).exists():
        time.sleep(0.05)
    deliver(self, message)


SafePubsub.notify_subscriptions = stand_still
if __name__ == "__main__":
    cli.main()
"""
TABLES: dict[str, Any] = {
    "swarm": {"name": "frozen", "nodes": 4, "byzantine": 1, "quorum": 3},
    "plugins": {
        "libp2p": {"reconnect_seconds": 0.5},
        "ed25519": {},
        "replay": {},
        "median": {"f": 1},
    },
    "trainer": {"task": {"name": "quadratic", "dimension": 8}},
}


def ready(seat: BoxNode) -> tuple[int, str]:
    """What ``/readyz`` says; 0 where nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", seat.status_port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        connection.close()


def complaints(seat: BoxNode) -> list[dict[str, Any]]:
    """What its log says of the thread that this test keeps."""
    lines = (seat.folder / LOG).read_text("utf-8").splitlines()
    found = [json.loads(line) for line in lines if line.startswith("{")]
    return [line for line in found if "stand_still" in str(line.get("what"))]


@pytest.mark.long
@pytest.mark.claim("C-watchdog-1")
@pytest.mark.control("C-watchdog-1")
@pytest.mark.skipif(
    find_spec("qres_transport_libp2p") is None or find_spec("qres_robust_stats") is None,
    reason="needs qres-transport-libp2p and qres-robust-stats",
)
def test_a_node_whose_network_stands_still_is_not_ready_and_says_whose_task_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The controls: the same node before and after, and another one meanwhile, are ready."""
    _config, seats = prepare(TABLES, "frozen", tmp_path / "box")
    program = tmp_path / "frozen_qres.py"
    program.write_text(PROGRAM, encoding="utf-8")
    monkeypatch.setattr(box, "PROGRAM", [str(program)])
    frozen, other, *others = seats
    flag = tmp_path / f"libp2p-{frozen.node_id[:8]}"
    with Fleet(seats, restart=False) as fleet:

        def until(done: Callable[[], bool]) -> None:
            end = time.monotonic() + PATIENCE
            while not done():
                assert time.monotonic() < end, "it took too long"
                assert all(member.process.poll() is None for member in fleet.members)
                time.sleep(0.1)

        until(lambda: all(ready(seat)[0] == 200 for seat in seats))
        assert not complaints(frozen), "control: it runs"
        flag.touch()
        until(lambda: ready(frozen)[0] == 503 and "QRES-E909" in ready(frozen)[1])
        assert "stand_still" in ready(frozen)[1], "where in the code"
        until(lambda: ready(other)[0] == 200)
        flag.unlink()
        until(lambda: all(ready(seat)[0] == 200 for seat in seats))
    (line,) = complaints(frozen)
    assert (line["event"], line["code"]) == ("transport stands still", "QRES-E909")
    assert line["level"] == "error"
    assert "the task " in line["what"]
    assert any(seat.peer_id in line["what"] for seat in (other, *others)), "whose task it was"
    assert not any(complaints(seat) for seat in (other, *others))
