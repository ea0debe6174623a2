"""A node is ready where it can take part, and says why where it cannot."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qres_core.kernel.node_ids import node_ids
from qres_core.node.readiness import PROBE, PROBE_SECONDS, Readiness, disk_trouble
from qres_core.node.status import StatusBoard

IDS = node_ids(4, 1)


def readiness(
    folder: Path | None = None,
    *,
    peers: int = 3,
    is_member: bool = True,
    bans: tuple[bytes, ...] = (),
    clock: Any = float,
) -> Readiness:
    """That of one node of four, of which a round needs three."""
    board = StatusBoard()
    head = SimpleNamespace(bans=bans, roster=SimpleNamespace(quorum=3))
    machine = SimpleNamespace(is_member=is_member, node_id=IDS[0], head=head)
    transport = SimpleNamespace(peers=lambda: IDS[1 : 1 + peers])
    node: Any = SimpleNamespace(machine=machine, transport=transport)
    board.node = node
    return Readiness(board, folder, clock)


def test_a_node_with_a_quorum_and_a_disk_is_ready(tmp_path: Path) -> None:
    for peers in (2, 3):
        assert not readiness(tmp_path, peers=peers).trouble()
    assert not readiness().trouble()  # it keeps nothing
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"peers": 1}, "2 of the 3 nodes that a round needs are connected, with this one"),
        ({"is_member": False}, "this node is no member where its history is"),
        ({"bans": IDS[:1]}, "the members banned this node"),
        ({"folder": Path("/dev/null/none")}, "cannot write into /dev/null/none: Not a directory"),
    ],
)
def test_what_keeps_a_node_from_taking_part_is_named(given: dict[str, Any], why: str) -> None:
    assert readiness(**given).trouble() == why


def test_a_node_that_has_not_begun_is_not_ready() -> None:
    assert Readiness(StatusBoard(), None).trouble() == "the node is starting"


def test_the_disk_is_tried_no_more_often_than_it_may(tmp_path: Path) -> None:
    now = 0.0
    folder = tmp_path / "node"
    folder.mkdir()
    ready = readiness(folder, clock=lambda: now)
    assert not ready.trouble()
    folder.rmdir()
    assert not ready.trouble(), "control: it was tried a moment ago"
    now = PROBE_SECONDS
    assert (
        ready.trouble()
        == disk_trouble(folder)
        == (f"cannot write into {folder}: No such file or directory")
    )
    folder.mkdir()
    now = 2 * PROBE_SECONDS
    assert not ready.trouble()


def test_a_link_in_the_place_of_the_probe_leads_to_nobody_s_file(tmp_path: Path) -> None:
    folder, prey = tmp_path / "node", tmp_path / "node.key"
    folder.mkdir()
    prey.write_bytes(b"a key")
    (folder / PROBE).symlink_to(prey)
    assert disk_trouble(folder) == ""
    assert prey.read_bytes() == b"a key"
    assert not list(folder.iterdir())
    # Control: whoever opens that name without care writes into the file.
    (folder / PROBE).symlink_to(prey)
    (folder / PROBE).write_bytes(b"")
    assert prey.read_bytes() == b""


def test_what_a_killed_process_left_behind_is_no_trouble(tmp_path: Path) -> None:
    (tmp_path / PROBE).write_bytes(b"half")
    assert disk_trouble(tmp_path) == ""
    assert not list(tmp_path.iterdir())


def test_a_node_whose_transport_stands_still_is_not_ready() -> None:
    ready = readiness()
    assert not ready.trouble()
    ready.stuck = lambda: "QRES-E909 transport stands still"
    assert ready.trouble() == "QRES-E909 transport stands still"
