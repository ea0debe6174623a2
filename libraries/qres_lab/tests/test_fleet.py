from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import tomllib
from contextlib import ExitStack
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qres_lab.box import nodes as box
from qres_lab.box import toml
from qres_lab.box.fleet import PAUSES, Fleet, NodeProcess, judge, last_error
from qres_lab.box.nodes import BoxNode, free_ports


def test_nodes_agree_that_hold_one_model_of_every_step() -> None:
    ahead, behind = {1: "a", 2: "b", 3: "c"}, {0: "i", 1: "a", 2: "b"}
    verdict = judge([ahead, behind], None)
    assert (verdict.agreed, verdict.step, verdict.model_digest, verdict.split) == (
        True,
        2,
        "b",
        None,
    )
    assert not judge([ahead, behind], 3).agreed
    assert judge([ahead, ahead], 3).agreed


def test_nodes_that_differ_once_do_not_agree() -> None:
    verdict = judge([{1: "a", 2: "b"}, {1: "x", 2: "b"}], 2)
    assert (verdict.agreed, verdict.split) == (False, 1)


def test_nobody_agrees_with_nobody() -> None:
    assert not judge([], None).agreed
    assert not judge([{1: "a"}, {}], None).agreed


def process(code: int) -> subprocess.Popen[bytes]:
    """One that ended with a code."""
    done = subprocess.Popen([sys.executable, "-c", f"raise SystemExit({code})"])
    done.wait()
    return done


def member(folder: Path, code: int) -> NodeProcess:
    folder.mkdir(exist_ok=True)
    return NodeProcess(BoxNode(3, folder, False, "aa", "bb", 1, 2), process(code))  # noqa: FBT003 - order


def report(step: int) -> dict[str, object]:
    return {"state": "running", "step": step, "model_digest": f"{step:02}", "history": []}


def test_a_node_that_fails_is_restarted_after_growing_pauses_and_then_left_dead(
    tmp_path: Path,
) -> None:
    seat = member(tmp_path / "node-3", 1)
    (tmp_path / "node-3" / "log.jsonl").write_text('{"event": "x"}\nValueError: the disk is full\n')
    now, pauses = 100.0, []
    while not seat.fate:
        said = seat.ended(now, restart=True)
        assert "node-3 ended with code 1: ValueError: the disk is full" in said
        if seat.is_waiting:
            pause = 0.0
            while not seat.is_due(now + pause):
                pause += 0.5
            pauses.append(pause)
            seat.begin_again(process(1))
    assert tuple(pauses) == PAUSES
    assert "it is left dead" in said
    assert seat.role == "honest, dead"
    assert seat.restarts == len(PAUSES)


def test_a_new_model_begins_another_row_of_restarts(tmp_path: Path) -> None:
    seat = member(tmp_path / "node-3", 1)
    for step in range(3 * len(PAUSES)):
        seat.take(report(step + 1))
        seat.ended(0.0, restart=True)
        assert seat.is_due(PAUSES[0])
        seat.begin_again(process(1))
    assert not seat.fate


def test_a_node_that_was_refused_or_is_done_or_may_not_is_not_restarted(tmp_path: Path) -> None:
    refused = member(tmp_path / "node-1", 2)
    problems = [{"code": "QRES-E105", "where": "node.status", "what": "cannot listen"}]
    (tmp_path / "node-1" / "last.json").write_text(json.dumps({"problems": problems}))
    assert "QRES-E105 node.status cannot listen; it is left" in refused.ended(0.0, restart=True)
    done = member(tmp_path / "node-2", 0)
    assert "finished and stopped" in done.ended(0.0, restart=True)
    assert done.done
    assert not done.fate
    killed = member(tmp_path / "node-3", 1)
    killed.ended(0.0, restart=False)
    assert killed.fate
    assert not any(item.is_waiting for item in (refused, done, killed))


def test_a_node_that_cannot_be_started_again_ends_no_box(tmp_path: Path) -> None:
    fleet = Fleet([], needed=1)
    fleet.members = [member(tmp_path / f"node-{index}", 1) for index in range(2)]
    gone = fleet.members[0]
    gone.seat = attrs.evolve(gone.seat, folder=tmp_path / "gone")
    assert len(fleet.poll()) == 2  # both ended, and are to be started again at once
    fleet.members[1].give_up("is not looked at here")
    said = fleet.poll()
    assert len(said) == 1
    assert "cannot be started again" in said[0]
    assert gone.role == "honest, dead"
    assert not fleet.poll()
    fleet.stop()


def test_the_last_error_of_a_log_is_found_among_everything_else(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    assert last_error(log) == ""
    events = [
        {"level": "error", "event": "node failed", "code": "QRES-E602", "what": "disk full"},
        {"level": "warning", "event": "round aborted"},
    ]
    log.write_text("\n".join(map(json.dumps, events)) + "\nnot json\n")
    assert last_error(log) == "QRES-E602 disk full"
    log.write_bytes(b"\xff" * 200_000 + b"\nTraceback (most recent call last):\nOSError: gone\n")
    assert last_error(log) == "OSError: gone"


def test_a_box_is_hopeless_only_once_too_few_honest_nodes_are_left(tmp_path: Path) -> None:
    fleet = Fleet([], needed=3)
    fleet.members = [member(tmp_path / f"node-{index}", 1) for index in range(4)]
    for item in fleet.members:
        item.take(report(5))
    assert not fleet.hopeless
    fleet.members[0].fate = "was killed"
    assert not fleet.hopeless
    assert fleet.verdict().agreed
    fleet.members[1].fate = "was killed"
    assert fleet.hopeless
    assert not fleet.verdict().agreed
    # What the dead held counts: they were honest.
    fleet.members[1].fate, fleet.members[0].models = "", {5: "another"}
    assert fleet.verdict().split == 5


def test_a_box_whose_quorum_needs_the_attackers_is_not_hopeless_from_the_start(
    tmp_path: Path,
) -> None:
    fleet = Fleet([], needed=3)
    fleet.members = [member(tmp_path / f"node-{index}", 1) for index in range(3)]
    fleet.members[2].seat = attrs.evolve(fleet.members[2].seat, hostile=True)
    assert not fleet.hopeless


def failing(rounds: int, *, closed: int = 0) -> dict[str, object]:
    """The status of a node whose trainer failed in each round; the last ``closed`` made a model."""
    history = [
        {"round": number, "step": 1, "closed": number > rounds - closed, "model_digest": "01"}
        for number in range(1, rounds + 1)
    ]
    return report(1) | {"history": history, "trainer_error": {"round": rounds, "times": rounds}}


def test_a_box_starves_once_too_many_trainers_fail_round_after_round(tmp_path: Path) -> None:
    fleet = Fleet([], needed=3)
    fleet.members = [member(tmp_path / f"node-{index}", 1) for index in range(4)]
    for item in fleet.members:
        item.take(report(1))
    fleet.members[0].take(failing(5))
    assert fleet.starving == 0  # the other three suffice
    assert fleet.verdict().agreed
    fleet.members[1].take(failing(2))
    assert fleet.starving == 0  # it may recover
    fleet.members[1].take(failing(5, closed=1))
    assert fleet.starving == 0  # a round closed all the same
    fleet.members[1].take(failing(3))
    assert fleet.starving == 2
    assert not fleet.verdict().agreed


def test_ports_are_distinct() -> None:
    assert len(set(free_ports(20))) == 20


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets two bind where one listens")
def test_a_port_that_was_given_out_is_given_to_nobody_else_and_a_node_may_listen_on_it() -> None:
    mine = free_ports(200)
    with ExitStack() as stack:
        others: list[int] = []
        for _ in range(200):
            other = stack.enter_context(socket.socket())
            other.bind(("127.0.0.1", 0))
            others.append(other.getsockname()[1])
        assert not set(mine) & set(others)

    async def listens() -> None:
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", mine[0])
        server.close()
        await server.wait_closed()

    for _ in range(2):  # and again when it has been restarted
        asyncio.run(listens())
    with socket.socket() as plain, pytest.raises(OSError, match="in use"):
        plain.bind(("127.0.0.1", mine[0]))


def test_no_more_than_256_ports_are_kept() -> None:
    free_ports(1)
    oldest = box._held[-1]
    free_ports(256)
    assert oldest.fileno() == -1, "its port is anybody's again"
    assert len(box._held) <= 256


SCALARS = (
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    | st.integers(-(2**62), 2**62)
    | st.floats(allow_nan=False)
    | st.booleans()
    | st.dates()
    | st.times()
    | st.datetimes()
)
KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(KEYS, VALUES, max_size=5))
def test_what_is_written_is_read_back(raw: dict[str, object]) -> None:
    assert tomllib.loads(toml.render(raw)) == raw
