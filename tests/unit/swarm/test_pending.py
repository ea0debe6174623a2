"""Changes that wait at a node: in memory, and as files that operators hand over."""

from __future__ import annotations

import errno
import os
from contextlib import nullcontext
from pathlib import Path
from threading import Thread
from typing import NoReturn

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qres_core.contract.errors import ConfigError, RosterError, RoundError, WireError
from qres_core.contract.wire import Envelope
from qres_core.swarm.ledger.roster import MAX_CHANGE_BYTES, Roster, RosterChange
from qres_core.swarm.members import pending_changes as pending
from qres_core.swarm.members.pending_changes import (
    MAX_PENDING,
    PendingChanges,
    RosterFolder,
    hand_over,
    read_change,
    read_members,
    write_members,
)

SWARM = "lab"


def node(index: int) -> bytes:
    return index.to_bytes(32, "big")


FIRST = Roster(tuple(node(k) for k in range(1, 5)), 1, 3)
ADD = FIRST.change(SWARM, "add", node(9))


def signed(change: RosterChange, *ranks: int, mark: bytes = b"good") -> RosterChange:
    return change.signed(
        change.statement(node(rank), 5).with_auth({"test": mark}) for rank in ranks
    )


def is_good(message: Envelope) -> bool:
    return message.auth.get("test") == b"good"


def is_bad(message: Envelope) -> bool:
    return not is_good(message)


# ── in memory ─────────────────────────────────────────────────────────────────────────────────────


def test_signatures_from_several_hands_add_up() -> None:
    waiting = PendingChanges(SWARM, FIRST)
    waiting.offer(signed(ADD, 1), is_good)
    waiting.offer(signed(ADD, 3), is_good)
    assert waiting.ready(is_good) is None
    waiting.offer(signed(ADD, 1, 4), is_good)
    assert waiting.ready(is_good) == signed(ADD, 1, 3, 4)
    assert waiting.waiting == (signed(ADD, 1, 3, 4),)
    assert waiting.ready(is_bad) is None, "who lost its certificate counts no longer"


def test_a_forged_signature_does_not_take_the_place_of_a_true_one() -> None:
    waiting = PendingChanges(SWARM, FIRST)
    waiting.offer(signed(ADD, 1, 2, 3, mark=b"forged"), is_good)
    assert waiting.waiting == (ADD,)
    waiting.offer(signed(ADD, 1, 2, 3, 50), is_good)
    assert waiting.ready(is_good) == signed(ADD, 1, 2, 3)


def test_what_cannot_apply_is_refused() -> None:
    waiting = PendingChanges(SWARM, FIRST)
    other = attrs.evolve(FIRST, quorum=4)
    for change, reason in (
        (FIRST.change("other", "add", node(9)), "of the swarm 'other'"),
        (other.change(SWARM, "add", node(9)), "for roster 0"),
        (FIRST.change(SWARM, "remove", node(1)), "4 at least"),
    ):
        with pytest.raises(RosterError, match=f"QRES-E607.*{reason}"):
            waiting.offer(signed(change, 1, 2, 3), is_good)
    assert waiting.waiting == ()


def test_few_changes_wait() -> None:
    waiting = PendingChanges(SWARM, FIRST)
    for index in range(MAX_PENDING):
        waiting.offer(FIRST.change(SWARM, "add", node(100 + index)), is_good)
    with pytest.raises(RosterError, match="64 changes wait already"):
        waiting.offer(ADD, is_good)
    known = waiting.waiting[0]
    waiting.offer(signed(known, 1, 2, 3), is_good)
    assert waiting.ready(is_good) == signed(known, 1, 2, 3), "known ones still take signatures"


def test_another_roster_voids_what_waits() -> None:
    waiting = PendingChanges(SWARM, FIRST)
    waiting.offer(signed(ADD, 1, 2, 3), is_good)
    waiting.settle(FIRST)
    assert waiting.ready(is_good) is not None
    waiting.settle(FIRST.after(ADD))
    assert waiting.waiting == ()
    with pytest.raises(RosterError, match="for roster 0"):
        waiting.offer(signed(ADD, 1, 2, 3), is_good)


def test_an_authority_decides_where_it_is_asked() -> None:
    waiting = PendingChanges(SWARM, FIRST)
    waiting.offer(attrs.evolve(ADD, approval=b"yes"), is_good)
    assert waiting.ready(
        is_good, lambda digest, approval: (digest, approval) == (ADD.digest, b"yes")
    )
    assert waiting.ready(is_good, lambda _digest, _approval: False) is None
    assert waiting.ready(is_good) is None


def test_a_forged_approval_does_not_take_the_place_of_a_true_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waiting = PendingChanges(SWARM, FIRST)
    for approval in (b"forged", b"yes", b"forged too"):
        waiting.offer(attrs.evolve(ADD, approval=approval), is_good)

    def found() -> RosterChange | None:
        return waiting.ready(is_good, lambda _digest, approval: approval == b"yes")

    assert found() == attrs.evolve(ADD, approval=b"yes")
    monkeypatch.setattr(PendingChanges, "_copies", lambda _self, change: iter([change]))
    assert found() is None, "the control: the copy that came last decides"


def test_a_change_that_the_plugins_refuse_does_not_keep_the_next_from_being_proposed() -> None:
    waiting = PendingChanges(SWARM, FIRST)
    for index in (9, 10):
        waiting.offer(signed(FIRST.change(SWARM, "add", node(index)), 1, 2, 3), is_good)
    first, second = waiting.waiting
    assert waiting.ready(is_good) == first, "control"
    found = waiting.ready(is_good, possible=lambda change: change != first)
    assert found == second
    assert waiting.ready(is_good, possible=lambda _change: False) is None


def failing(*_given: object, **_named: object) -> NoReturn:
    raise OSError(errno.EMFILE, "Too many open files")


def started(home: Path, roster: Roster) -> RosterFolder:
    """The folder of a node that just learned from its journal which roster is in force."""
    folder = RosterFolder(SWARM, FIRST, home)
    folder.settle(roster)
    return folder


# ── files ─────────────────────────────────────────────────────────────────────────────────────────


def test_files_are_read_when_they_come_change_and_go(tmp_path: Path) -> None:
    folder = started(tmp_path, FIRST)
    folder.refresh(is_good)
    assert folder.waiting == ()
    path = hand_over(tmp_path, signed(ADD, 1))
    assert path == hand_over(tmp_path, signed(ADD, 2))
    folder.refresh(is_good)
    assert folder.waiting == (signed(ADD, 1, 2),)
    (tmp_path / "roster" / "by-mail.change").write_bytes(signed(ADD, 4).to_bytes())
    folder.refresh(is_good)
    assert folder.ready(is_good) == signed(ADD, 1, 2, 4)
    path.unlink()
    folder.refresh(is_good)
    assert folder.waiting == (signed(ADD, 4),), "what is taken away is no longer proposed"
    assert folder.problems == {}


@pytest.mark.parametrize("alone", [True, False])
def test_of_two_who_sign_at_once_both_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, alone: bool
) -> None:
    pytest.importorskip("fcntl")
    path = hand_over(tmp_path, signed(ADD, 1))
    if not alone:
        monkeypatch.setattr(pending, "alone_in", lambda _folder: nullcontext())
    second = Thread(target=hand_over, args=(tmp_path, signed(ADD, 3)))

    def meanwhile(path: Path) -> RosterChange:
        found = read_change(path)
        if second.ident is None:
            second.start()
            second.join(0.2 if alone else None)  # it waits for the first to end
        return found

    monkeypatch.setattr(pending, "read_change", meanwhile)
    hand_over(tmp_path, signed(ADD, 2))
    second.join()
    both = signed(ADD, 1, 2, 3)
    assert read_change(path) == (both if alone else signed(ADD, 1, 2)), "control: it is lost"


def test_files_that_did_not_change_are_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = started(tmp_path, FIRST)
    hand_over(tmp_path, signed(ADD, 1))
    reads: list[Path] = []

    def counted(path: Path) -> RosterChange:
        reads.append(path)
        return read_change(path)

    monkeypatch.setattr(pending, "read_change", counted)
    for _ in range(3):
        folder.refresh(is_good)
    assert len(reads) == 1


def test_a_file_that_could_not_be_read_is_read_at_the_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As without a free file descriptor; what is no change is not read again."""
    folder = started(tmp_path, FIRST)
    path = hand_over(tmp_path, signed(ADD, 1, 2, 3))
    with monkeypatch.context() as broken:
        broken.setattr("qres_core.contract.stores.files.open", failing, raising=False)
        for _ in range(2):
            folder.refresh(is_good)
            assert "Too many open files" in folder.problems[path.name]
            assert not folder.waiting
    folder.refresh(is_good)
    assert folder.ready(is_good) == signed(ADD, 1, 2, 3)
    assert folder.problems == {}
    path.with_name("0.change").write_bytes(b"\xff")
    folder.refresh(is_good)
    monkeypatch.setattr(pending, "read_change", failing)
    folder.refresh(is_good)
    assert list(folder.problems) == ["0.change"]
    assert "QRES-E4" in folder.problems["0.change"]


def test_files_are_removed_when_their_change_is_void(tmp_path: Path) -> None:
    folder = started(tmp_path, FIRST)
    decided = hand_over(tmp_path, signed(ADD, 1, 2, 3))
    beaten = hand_over(tmp_path, FIRST.change(SWARM, "add", node(10)))
    second = FIRST.after(ADD)
    early = hand_over(tmp_path, second.change(SWARM, "add", node(11)))
    foreign = hand_over(tmp_path, FIRST.change("other", "add", node(11)))
    folder.refresh(is_good)
    assert "waits until the node has caught up" in folder.problems[early.name]
    assert "of the swarm 'other'" in folder.problems[foreign.name]
    assert len(folder.waiting) == 2
    folder.settle(second)
    folder.refresh(is_good)
    assert not decided.exists()
    assert not beaten.exists()
    assert early.exists(), "a node that was behind does not lose what its operator gave it"
    assert foreign.exists(), "the node removes nothing that it does not understand"
    assert [change.member for change in folder.waiting] == [node(11)]
    assert read_members(tmp_path, SWARM) == second


def test_a_node_that_restarts_goes_on_with_its_files(tmp_path: Path) -> None:
    hand_over(tmp_path, signed(ADD, 1, 2, 3))
    folder = started(tmp_path, FIRST)
    folder.refresh(is_good)
    assert folder.ready(is_good) == signed(ADD, 1, 2, 3)
    again = started(tmp_path, FIRST.after(ADD))
    again.refresh(is_good)
    assert again.waiting == ()
    assert list((tmp_path / "roster").glob("*.change")) == []


@pytest.mark.parametrize("kind", ["folder", "pipe", "large", "garbage", "empty", "gone"])
def test_a_file_that_is_no_change_is_named_and_left(tmp_path: Path, kind: str) -> None:
    folder = started(tmp_path, FIRST)
    good = hand_over(tmp_path, signed(ADD, 1, 2, 3))
    path = good.with_name("0.change")
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        if not hasattr(os, "mkfifo"):
            pytest.skip("this system has no named pipes")
        os.mkfifo(path)
    elif kind == "gone":
        path.symlink_to(tmp_path / "nowhere")
    else:
        sizes = {"large": MAX_CHANGE_BYTES + 1, "garbage": 100, "empty": 0}
        path.write_bytes(b"\xff" * sizes[kind])
    folder.refresh(is_good)
    assert folder.ready(is_good) == signed(ADD, 1, 2, 3)
    if kind != "gone":
        assert list(folder.problems) == ["0.change"]
        assert path.exists()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(content=st.binary(max_size=200))
def test_any_content_of_a_file_is_a_change_or_a_named_problem(
    tmp_path: Path, content: bytes
) -> None:
    folder = started(tmp_path, FIRST)
    (tmp_path / "roster" / "any.change").write_bytes(content)
    folder.refresh(is_good)
    assert folder.waiting == ()
    assert "QRES-E4" in folder.problems["any.change"]


def test_only_so_many_files_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = started(tmp_path, FIRST)
    monkeypatch.setattr(pending, "MAX_FILES", 3)
    for index in range(5):
        (tmp_path / "roster" / f"{index}.change").write_bytes(b"")
    folder.refresh(is_good)
    assert list(folder.problems) == ["0.change", "1.change", "2.change"]


def test_nothing_is_said_to_operators_before_the_node_knows_its_roster(tmp_path: Path) -> None:
    write_members(tmp_path, SWARM, FIRST.after(ADD))
    folder = RosterFolder(SWARM, FIRST, tmp_path)
    assert read_members(tmp_path, SWARM) == FIRST.after(ADD), "a node that restarts"
    folder.settle(FIRST.after(ADD))
    assert read_members(tmp_path, SWARM) == FIRST.after(ADD)
    new = RosterFolder(SWARM, FIRST, tmp_path / "new")
    new.settle(FIRST)
    assert read_members(tmp_path / "new", SWARM) == FIRST, "a node that begins"


# ── the roster for operators ──────────────────────────────────────────────────────────────────────


def test_the_roster_of_now_is_kept_for_operators(tmp_path: Path) -> None:
    assert read_members(tmp_path, SWARM) is None
    write_members(tmp_path, SWARM, FIRST)
    assert read_members(tmp_path, SWARM) == FIRST
    with pytest.raises(RoundError, match=r"QRES-E602.*not the roster of this swarm"):
        read_members(tmp_path, "other")


@pytest.mark.parametrize("content", [b"", b"\xff", b"\x80", b"\x82\x63lab\x80", b"x" * 200_000])
def test_a_damaged_roster_for_operators_is_refused(tmp_path: Path, content: bytes) -> None:
    write_members(tmp_path, SWARM, FIRST)
    (tmp_path / "roster" / "members").write_bytes(content)
    with pytest.raises(RoundError, match=r"QRES-E602.*start the node"):
        read_members(tmp_path, SWARM)


def test_a_file_in_the_way_is_not_written_over(tmp_path: Path) -> None:
    path = hand_over(tmp_path, ADD)
    path.write_bytes(b"\xff")
    with pytest.raises(WireError):
        hand_over(tmp_path, signed(ADD, 1))
    assert path.read_bytes() == b"\xff"
    with pytest.raises(ConfigError, match="QRES-E101"):
        read_change(tmp_path / "nowhere")
    (tmp_path / "home").write_bytes(b"")
    with pytest.raises(RoundError, match=r"QRES-E602"):
        hand_over(tmp_path / "home", ADD)
