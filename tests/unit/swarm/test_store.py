"""The store keeps what it was told, whatever happens to the process, or says that it cannot."""

from __future__ import annotations

import itertools
import random
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import attrs
import numpy as np
import pytest

from qres_core import Envelope, Vector, model_digest
from qres_core.contract.stores import PrivateDatabase
from qres_core.errors import RoundError, ValueRefusedError
from qres_core.swarm.ledger.chain import Head, Link
from qres_core.swarm.ledger.messages import CandidateSet, Member
from qres_core.swarm.ledger.results import Merged, Result, Void
from qres_core.swarm.ledger.roster import Roster, RosterChange
from qres_core.swarm.storage.journal import (
    _FACTS,
    APPLICATION_ID,
    FILE,
    SEQUENCE_BLOCK,
    JournalEntry,
    MemoryJournal,
    Resume,
    SqliteJournal,
    refuse_lost,
)
from qres_core.swarm.storage.shelf import ShelvedMessage

NODE = b"\x01" * 32
INITIAL: Vector = np.array([0, 1, -1, 2**31 - 1], dtype=np.int32)
MODEL: Vector = np.array([7, -(2**31), 5, 65536], dtype=np.int32)
A, B = b"a" * 32, b"b" * 32
SETTINGS = b"settings"
ROSTER = Roster((NODE, b"\x02" * 32), 0, 2)
FIRST = Head.first("test", model_digest(INITIAL, 0), ROSTER, b"s" * 32)


def opened(
    folder: Path, *, swarm: str = "test", node_id: bytes = NODE, initial: Vector = INITIAL
) -> SqliteJournal:
    return SqliteJournal(folder, swarm=swarm, node_id=node_id, initial=initial)


def resumed(folder: Path) -> Resume | None:
    with closing(opened(folder)) as journal:
        return in_memory(journal.resume())


def in_memory(resume: Resume | None) -> Resume | None:
    """With the messages of its records, which are read whenever somebody asks for them."""
    if resume is None:
        return None
    lock, chosen = (
        None if record is None else attrs.evolve(record, messages=taken_in(record))
        for record in (resume.lock, resume.chosen)
    )
    return attrs.evolve(resume, lock=lock, chosen=chosen)


def taken_in(record: JournalEntry) -> tuple[Envelope, ...]:
    assert all(isinstance(kept, ShelvedMessage) for kept in record.messages)
    return tuple(kept.taken_in() for kept in record.messages if isinstance(kept, ShelvedMessage))


def message(number: int) -> Envelope:
    return Envelope("test", "contribution", 5, A, NODE, number, 1, bytes([number]) * 100)


def plain(record: JournalEntry | None) -> tuple[bytes, list[bytes]] | None:
    return (
        None
        if record is None
        else (record.head, [message.to_bytes() for message in record.messages])
    )


LOCK = JournalEntry(b"proposal", (message(2), message(3)))
CHOSEN = JournalEntry(b"certificate", (message(1), message(3)))
OUTCOME_LOCK = b"outcome"


def link(head: Head, result: Result, change: RosterChange | None = None) -> Link:
    """The height of a head decided; nobody looks at the votes here."""
    members = tuple(Member(sender, A) for sender in head.roster.members)
    votes = (message(9),)
    return Link(head, CandidateSet(head.height + 1, members, (), change), result, 1, votes)


def added(head: Head, number: int) -> RosterChange:
    return head.roster.change("test", "add", bytes([number]) * 32)


def merged(model: Vector, step: int) -> Merged:
    return Merged(model_digest(model, step))


def raw(links: tuple[Link, ...]) -> list[bytes]:
    return [item.to_bytes() for item in links]


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A folder whose store holds a height, and of the next one votes, locks and the decided set."""
    with closing(opened(tmp_path)) as journal:
        journal.begin(FIRST, SETTINGS)
        journal.record_height([MADE], MODEL)
        journal.record_vote(5, "choice/prevote", A)
        journal.record_lock(LOCK)
        journal.record_vote(5, "choice/precommit", A)
        journal.record_chosen(CHOSEN)
        journal.record_vote(1, "outcome/prevote", b"found")
        journal.record_outcome_lock(OUTCOME_LOCK)
        journal.reserve_sequence()
    return tmp_path


MADE = link(FIRST, merged(MODEL, 1))


def check_filled(resume: Resume | None) -> None:
    assert resume is not None
    assert (resume.head, resume.last_round) == (MADE.next, 5)
    assert raw(resume.links) == raw((MADE,))
    assert plain(resume.lock) == plain(LOCK)
    assert plain(resume.chosen) == plain(CHOSEN)
    assert resume.ballots == ((1, "outcome/prevote", b"found"),)
    assert (resume.attempt, resume.outcome_lock) == (1, OUTCOME_LOCK)
    np.testing.assert_array_equal(resume.model, MODEL)


def refusal(folder: Path) -> RoundError:
    with pytest.raises(RoundError) as caught:
        opened(folder)
    problem = caught.value.problems[0]
    assert problem.code == "QRES-E602"
    assert problem.where == str(folder / FILE)
    assert problem.what
    assert problem.fix
    return caught.value


@pytest.mark.parametrize("initial", [np.zeros(4), np.zeros((2, 2), dtype=np.int32)])
def test_a_first_model_that_is_none_is_refused_before_there_is_a_store(
    tmp_path: Path, initial: Vector
) -> None:
    with pytest.raises(ValueRefusedError, match=r"QRES-E50[23] initial"):
        opened(tmp_path, initial=initial)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("model", [True, False])
@pytest.mark.parametrize("journal", [True, False])
def test_a_folder_with_a_model_and_no_journal_is_refused(
    tmp_path: Path, *, model: bool, journal: bool
) -> None:
    """A node that began anew there would vote again in rounds that it voted in."""
    kept = tmp_path / "model"
    if model:
        kept.touch()
    if journal:
        opened(tmp_path).close()
    if model and not journal:
        with pytest.raises(RoundError, match=r"QRES-E602.*a node ran in the folder"):
            refuse_lost(tmp_path, kept)
    else:
        refuse_lost(tmp_path, kept)


# ── keeping ───────────────────────────────────────────────────────────────────────────────────


def test_a_fresh_store_has_nothing_to_resume_even_when_opened_again(tmp_path: Path) -> None:
    assert resumed(tmp_path) is None
    assert resumed(tmp_path) is None


def test_what_was_recorded_is_there_after_reopening(filled: Path) -> None:
    resume = resumed(filled)
    check_filled(resume)
    assert resume is not None
    assert resume.model.dtype == np.int32
    assert not resume.model.flags.writeable


def test_a_node_that_voted_before_its_first_model_resumes_with_the_initial_one(
    tmp_path: Path,
) -> None:
    with closing(opened(tmp_path)) as journal:
        journal.begin(FIRST, SETTINGS)
        journal.record_vote(1, "choice/prevote", None)
    resume = resumed(tmp_path)
    assert resume is not None
    assert (resume.head, resume.links, resume.last_round) == (FIRST, (), 1)
    np.testing.assert_array_equal(resume.model, INITIAL)


def test_a_node_keeps_the_head_and_the_settings_that_it_began_with(tmp_path: Path) -> None:
    other = Head.first("test", A, ROSTER, b"t" * 32)
    with closing(opened(tmp_path)) as journal:
        assert journal.begin(other, b"others") == b"others"
    with closing(opened(tmp_path)) as journal:  # it has said nothing so far
        assert journal.begin(FIRST, SETTINGS) == SETTINGS
        journal.reserve_sequence()
    with closing(opened(tmp_path)) as journal:
        assert journal.begin(other, b"others") == SETTINGS
    resume = resumed(tmp_path)
    assert resume is not None
    assert resume.head == FIRST


@pytest.mark.parametrize("result", [merged(INITIAL, 2), Void("QRES-E508")])
def test_the_next_height_voids_what_bound_the_node_at_the_last(
    filled: Path, result: Result
) -> None:
    ended = link(MADE.next, result)
    model = INITIAL if isinstance(result, Merged) else None
    with closing(opened(filled)) as journal:
        journal.record_height([ended], model)
    resume = resumed(filled)
    assert resume is not None
    assert (resume.head, resume.last_round) == (ended.next, 5)
    assert raw(resume.links) == raw((ended,))
    assert (resume.lock, resume.chosen, resume.outcome_lock) == (None, None, None)
    assert (resume.attempt, resume.ballots) == (0, ())
    np.testing.assert_array_equal(resume.model, MODEL if model is None else model)
    assert messages_in(filled) == set()


def test_links_that_changed_the_members_stay_and_of_the_others_the_last(tmp_path: Path) -> None:
    head, changed, expected = FIRST, [2, 3, 6], []
    with closing(opened(tmp_path)) as journal:
        journal.begin(FIRST, SETTINGS)
        for height in range(9):
            change = added(head, 16 + height) if height in changed else None
            made = link(head, Void("QRES-E508"), change)
            journal.record_height([made], None)
            head = made.next
            expected = [kept for kept in expected if kept.chosen.change is not None]
            expected.append(made)
            resume = journal.resume()
            assert resume is not None
            assert raw(resume.links) == raw(tuple(expected))
    assert [kept.head.height for kept in expected] == [*changed, 8]
    resume = resumed(tmp_path)
    assert resume is not None
    assert raw(resume.links) == raw(tuple(expected))
    assert resume.head == head
    assert len(resume.head.roster) == 5


def test_a_node_that_was_away_writes_all_the_links_that_it_was_given(filled: Path) -> None:
    head = MADE.next
    change = link(head, Void("QRES-E508"), added(head, 16))
    later = attrs.evolve(change.next, height=40, step=30, model=model_digest(INITIAL, 30))
    last = link(later, merged(INITIAL, 31))
    with closing(opened(filled)) as journal:
        journal.record_height([change, last], INITIAL)
    resume = resumed(filled)
    assert resume is not None
    assert raw(resume.links) == raw((change, last))
    assert resume.head == last.next
    with closing(opened(filled)) as journal:
        journal.record_height([link(last.next, Void("QRES-E508"))], None)
    resume = resumed(filled)
    assert resume is not None
    assert [kept.head.height for kept in resume.links] == [change.head.height, 41]


def messages_in(folder: Path) -> set[bytes]:
    with closing(sqlite3.connect(folder / FILE)) as db:
        return {digest for (digest,) in db.execute("SELECT digest FROM message")}


def test_messages_are_kept_as_long_as_a_record_names_them(filled: Path) -> None:
    first, second, third = (message(number).signing_digest for number in (1, 2, 3))
    assert messages_in(filled) == {first, second, third}
    with closing(opened(filled)) as journal:
        journal.record_lock(None)
    assert messages_in(filled) == {first, third}
    check = resumed(filled)
    assert check is not None
    assert plain(check.chosen) == plain(CHOSEN)
    with closing(opened(filled)) as journal:
        journal.record_lock(LOCK)
        journal.record_chosen(LOCK)
    assert messages_in(filled) == {second, third}


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE link SET body = x'a0'",
        "UPDATE link SET digest = x'a0'",
        "UPDATE link SET body = substr(body, 1, length(body) - 1)",
        "UPDATE link SET body = 'text'",
    ],
)
def test_a_link_that_is_damaged_is_refused(filled: Path, change: str) -> None:
    with closing(sqlite3.connect(filled / FILE, isolation_level=None)) as db:
        db.execute(change)
    with (
        closing(opened(filled)) as journal,
        pytest.raises(RoundError, match=r"QRES-E602.*link of the chain"),
    ):
        journal.resume()


def test_a_missing_link_is_refused(filled: Path) -> None:
    """The head that is kept follows from it."""
    with closing(sqlite3.connect(filled / FILE, isolation_level=None)) as db:
        db.execute("DELETE FROM link")
    with (
        closing(opened(filled)) as journal,
        pytest.raises(RoundError, match=r"QRES-E602.*link of the chain"),
    ):
        journal.resume()


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM message",
        "UPDATE message SET frame = x'a0'",
        "UPDATE message SET frame = (SELECT max(frame) FROM message)",
    ],
)
def test_a_message_that_is_missing_or_another_is_refused(filled: Path, change: str) -> None:
    with closing(sqlite3.connect(filled / FILE, isolation_level=None)) as db:
        db.execute(change)
    with closing(opened(filled)) as journal, pytest.raises(RoundError, match="QRES-E602"):
        journal.resume()


def test_a_lock_can_be_given_up(filled: Path) -> None:
    with closing(opened(filled)) as journal:
        journal.record_lock(None)
    resume = resumed(filled)
    assert resume is not None
    assert resume.lock is None


@pytest.mark.claim("C-replay-13")
def test_sequence_blocks_are_disjoint_across_restarts(tmp_path: Path) -> None:
    firsts: list[int] = []
    for _restart in range(4):
        with closing(opened(tmp_path)) as journal:
            firsts += [journal.reserve_sequence() for _block in range(3)]
    assert firsts == [SEQUENCE_BLOCK * index for index in range(12)]


def test_the_model_is_stored_as_little_endian_int32(filled: Path) -> None:
    assert MODEL.astype("<i4").tobytes() in (filled / FILE).read_bytes()


def test_folder_and_file_are_for_their_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "node"
    with closing(opened(folder)) as journal:
        journal.record_vote(1, "choice/prevote", A)
        files = sorted(path.name for path in folder.iterdir())
        assert files == [FILE, f"{FILE}-wal"]
        for path in folder.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for made in (folder, folder.parent):
        assert stat.S_IMODE(made.stat().st_mode) == 0o700


# ── facts that are recorded together ──────────────────────────────────────────────────────────


def commits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is committed from now on: a word for each commit, of any store."""
    found: list[str] = []
    plain = PrivateDatabase.execute

    def execute(
        database: PrivateDatabase, query: str, values: Sequence[object] = ()
    ) -> sqlite3.Cursor:
        if query == "COMMIT":
            found.append(query)
        return plain(database, query, values)

    monkeypatch.setattr(PrivateDatabase, "execute", execute)
    return found


def test_what_is_recorded_together_is_one_commit_and_none_if_it_is_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(opened(tmp_path)) as journal:
        journal.begin(FIRST, SETTINGS)
        found = commits(monkeypatch)
        with journal.together():
            pass
        assert not found
        with journal.together():
            journal.record_lock(LOCK)
            journal.record_vote(5, "choice/precommit", A)
            assert journal.reserve_sequence() == 0
            assert not found
        assert len(found) == 1
        journal.record_vote(5, "choice/prevote", A)
        assert len(found) == 2
    resume = resumed(tmp_path)
    assert resume is not None
    assert plain(resume.lock) == plain(LOCK)


def test_of_what_is_recorded_together_all_is_kept_or_nothing(filled: Path) -> None:
    def interrupted(journal: SqliteJournal) -> None:
        with journal.together():
            journal.record_vote(6, "choice/prevote", B)
            journal.record_lock(None)
            raise InterruptedError

    def refused(journal: SqliteJournal) -> None:
        with journal.together():
            journal.record_lock(None)
            journal.record_vote(5, "choice/prevote", B)

    with closing(opened(filled)) as journal:
        with pytest.raises(InterruptedError):
            interrupted(journal)
        check_filled(journal.resume())
        with pytest.raises(RoundError, match="second, different"):
            refused(journal)
    check_filled(resumed(filled))


def test_a_process_killed_before_the_end_keeps_nothing_of_what_is_recorded_together(
    filled: Path,
) -> None:
    """As the files are then: what a commit has not reached does not count."""
    copy = filled / "copy"
    with closing(opened(filled)) as journal, journal.together():
        journal.record_vote(6, "choice/prevote", B)
        journal.record_lock(None)
        copy.mkdir(mode=0o700)
        for name in (FILE, f"{FILE}-wal"):
            (copy / name).touch(mode=0o600)
            (copy / name).write_bytes((filled / name).read_bytes())
    check_filled(resumed(copy))
    resume = resumed(filled)
    assert resume is not None
    assert (resume.last_round, resume.lock) == (6, None)


def test_a_height_is_safe_at_once_with_what_was_recorded_before_it(filled: Path) -> None:
    ended = link(MADE.next, Void("QRES-E508"))

    def interrupted(journal: SqliteJournal) -> None:
        with journal.together():
            journal.record_vote(6, "choice/prevote", B)
            journal.record_height([ended], None)
            journal.record_vote(7, "choice/prevote", B)
            raise InterruptedError

    with closing(opened(filled)) as journal:
        with pytest.raises(InterruptedError):
            interrupted(journal)
        journal.record_vote(6, "choice/precommit", B)  # the block is over
    resume = resumed(filled)
    assert resume is not None
    assert (resume.head, resume.last_round) == (ended.next, 6)


# ── votes ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.claim("C-agreement-6")
@pytest.mark.parametrize(("first", "second"), [(A, B), (A, None), (None, A)])
def test_a_second_different_vote_is_refused_also_after_a_restart(
    tmp_path: Path, first: bytes | None, second: bytes | None
) -> None:
    with closing(opened(tmp_path)) as journal:
        journal.record_vote(3, "choice/prevote", first)
        with pytest.raises(
            RoundError, match=r"QRES-E602.*second, different choice/prevote of round 3"
        ):
            journal.record_vote(3, "choice/prevote", second)
    with closing(opened(tmp_path)) as journal:
        with pytest.raises(RoundError, match="QRES-E602"):
            journal.record_vote(3, "choice/prevote", second)
        journal.record_vote(3, "choice/prevote", first)
        journal.record_vote(3, "choice/precommit", second)


def test_a_vote_of_an_earlier_round_is_refused(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as journal:
        journal.begin(FIRST, SETTINGS)
        journal.record_vote(9, "choice/prevote", A)
        with pytest.raises(RoundError, match="QRES-E602"):
            journal.record_vote(8, "choice/precommit", A)
        resume = journal.resume()
    assert resume is not None
    assert resume.last_round == 9


def test_a_head_that_is_not_later_is_refused(tmp_path: Path, filled: Path) -> None:
    """At a head that came before, the node would vote again where it has voted."""
    with closing(opened(filled)) as journal:
        before = in_memory(journal.resume())
        assert before is not None
        with pytest.raises(RoundError, match=r"QRES-E602.*a head of height 1 after 1"):
            journal.record_height([MADE], MODEL)
    after = resumed(tmp_path)
    assert after is not None
    assert (after.head, plain(after.lock)) == (before.head, plain(before.lock))


def test_of_what_a_record_holds_one_message_at_a_time_is_in_memory(tmp_path: Path) -> None:
    size, count = 2**18, 8
    messages = tuple(
        Envelope("test", "contribution", 5, A, NODE, number, 1, bytes([number]) * size)
        for number in range(count)
    )
    with closing(opened(tmp_path)) as journal:
        journal.begin(FIRST, SETTINGS)
        journal.record_chosen(JournalEntry(b"certificate", messages))

    def peak(*, keep: bool) -> int:
        with closing(opened(tmp_path)) as journal:
            tracemalloc.start()
            try:
                resume = in_memory(journal.resume()) if keep else journal.resume()
                assert resume is not None
                assert resume.chosen is not None
                for found, sent in zip(resume.chosen.messages, messages, strict=True):
                    assert found.to_bytes() == sent.to_bytes()
                return tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

    assert peak(keep=False) < count // 2 * size
    assert peak(keep=True) > count * size, "control"


def test_a_message_that_is_damaged_after_the_start_is_refused(filled: Path) -> None:
    with closing(opened(filled)) as journal:
        resume = journal.resume()
        assert resume is not None
        assert resume.lock is not None
        assert resume.lock.messages[0].payload == message(2).payload
        journal._db.execute("UPDATE message SET frame = x'00'")
        with pytest.raises(RoundError, match=r"QRES-E602.*missing or damaged"):
            _ = resume.lock.messages[0].payload


def test_old_votes_are_pruned(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as journal:
        journal.record_vote(1, "choice/prevote", A)
        for number in range(2, 300):
            journal.record_vote(number, "choice/prevote", B)
            journal.record_vote(number, "choice/precommit", B)
    assert (tmp_path / FILE).stat().st_size < 32768
    assert A not in (tmp_path / FILE).read_bytes()


# ── votes on the outcome ──────────────────────────────────────────────────────────────────────


def ballots(folder: Path, *votes: tuple[int, str, bytes]) -> Resume:
    """What is kept of votes that a node wrote down, each in a run of its own."""
    with closing(opened(folder)) as journal:
        journal.begin(FIRST, SETTINGS)
    for number, kind, said in votes:
        with closing(opened(folder)) as journal:
            journal.record_vote(number, f"outcome/{kind}", said)
    resume = resumed(folder)
    assert resume is not None
    return resume


def test_of_the_outcome_the_last_attempt_is_kept_and_the_first_prevote(tmp_path: Path) -> None:
    resume = ballots(
        tmp_path,
        (1, "prevote", b"mine"),
        (1, "precommit", b"nil"),
        (2, "proposal", b"other"),
        (2, "prevote", b"other"),
        (3, "prevote", b"mine"),
        (3, "precommit", b"mine"),
    )
    assert resume.attempt == 3
    assert resume.ballots == (
        (1, "outcome/prevote", b"mine"),
        (3, "outcome/precommit", b"mine"),
        (3, "outcome/prevote", b"mine"),
    )


def test_what_a_node_found_may_be_told_late_and_once(tmp_path: Path) -> None:
    resume = ballots(tmp_path, (4, "prevote", b"other"), (1, "prevote", b"mine"))
    assert resume.attempt == 4
    assert set(resume.ballots) == {
        (1, "outcome/prevote", b"mine"),
        (4, "outcome/prevote", b"other"),
    }
    with closing(opened(tmp_path)) as journal:
        journal.record_vote(1, "outcome/prevote", b"mine")
        with pytest.raises(RoundError, match=r"QRES-E602.*second, different outcome/prevote"):
            journal.record_vote(1, "outcome/prevote", b"other")


@pytest.mark.parametrize("kind", ["proposal", "prevote", "precommit"])
@pytest.mark.parametrize("number", [2, 1])
def test_a_second_different_vote_on_the_outcome_is_refused(
    tmp_path: Path, kind: str, number: int
) -> None:
    ballots(tmp_path, (number, kind, b"first"))
    with closing(opened(tmp_path)) as journal:
        with pytest.raises(RoundError, match=r"QRES-E602.*second, different outcome/"):
            journal.record_vote(number, f"outcome/{kind}", b"second")
        journal.record_vote(number, f"outcome/{kind}", b"first")


@pytest.mark.parametrize(
    ("number", "kind"), [(2, "prevote"), (2, "precommit"), (2, "proposal"), (1, "precommit")]
)
def test_a_vote_of_a_smaller_attempt_is_refused(tmp_path: Path, number: int, kind: str) -> None:
    ballots(tmp_path, (3, "prevote", b"first"))
    with (
        closing(opened(tmp_path)) as journal,
        pytest.raises(RoundError, match=rf"QRES-E602.*outcome/{kind} of attempt {number} after"),
    ):
        journal.record_vote(number, f"outcome/{kind}", b"late")


def test_votes_on_set_and_outcome_do_not_stand_in_each_other_s_way(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as journal:
        journal.begin(FIRST, SETTINGS)
        journal.record_vote(70, "choice/precommit", A)
        journal.record_vote(1, "outcome/prevote", b"found")
        journal.record_vote(71, "choice/prevote", B)
        resume = journal.resume()
    assert resume is not None
    assert (resume.last_round, resume.attempt) == (71, 1)


# ── refusing ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"swarm": "elsewhere"}, "another swarm, 'test'"),
        ({"node_id": b"\x02" * 32}, "another node"),
        ({"initial": MODEL}, "another initial model"),
    ],
)
def test_a_foreign_store_is_refused(filled: Path, other: dict[str, object], named: str) -> None:
    with pytest.raises(RoundError, match=f"QRES-E602.*{named}"):
        opened(filled, **other)  # type: ignore[arg-type]
    assert resumed(filled) is not None


def positions(data: bytes) -> Iterator[int]:
    """Every byte of the model, of its neighbourhood, and a sample of the rest of the file."""
    model = data.index(MODEL.astype("<i4").tobytes())
    yield from range(model - 8, model + MODEL.nbytes)
    yield from random.Random(1).sample(range(len(data)), 150)


def test_a_flipped_bit_is_refused_or_changes_nothing(filled: Path) -> None:
    sound = (filled / FILE).read_bytes()
    model = sound.index(MODEL.astype("<i4").tobytes())
    refused: set[int] = set()
    for position in positions(sound):
        damaged = bytearray(sound)
        damaged[position] ^= 1 << position % 8
        (filled / FILE).write_bytes(damaged)
        try:
            with closing(opened(filled)) as journal:
                resume = in_memory(journal.resume())
                assert journal.reserve_sequence() == SEQUENCE_BLOCK
        except RoundError as error:
            assert error.code == "QRES-E602"  # noqa: PT017 - either outcome is right
            refused.add(position)
            continue
        check_filled(resume)
    assert refused >= set(range(model, model + MODEL.nbytes))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.95])
def test_a_truncated_store_is_refused_and_left_alone(filled: Path, share: float) -> None:
    data = (filled / FILE).read_bytes()
    cut = data[: int(len(data) * share)]
    (filled / FILE).write_bytes(cut)
    refusal(filled)
    assert (filled / FILE).read_bytes() == cut


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("not a database at all, whatever its name may say\n" * 50)
    refusal(tmp_path)


def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / FILE)) as db:
        db.execute("CREATE TABLE fact (name TEXT)")
    assert "not a store of QRES" in str(refusal(tmp_path))


@pytest.mark.parametrize("version", [5, 7])
def test_a_store_of_another_version_is_refused_with_what_to_do(filled: Path, version: int) -> None:
    with closing(sqlite3.connect(filled / FILE)) as db:
        db.execute(f"PRAGMA user_version={version}")
    error = refusal(filled)
    assert f"version {version}; this qres-core reads version 6" in str(error)
    assert error.problems[0].fix.startswith("run the qres-core that wrote it, or begin a new swarm")


def test_a_journal_counts_the_rounds_that_a_contribution_left_in(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as journal:
        journal.begin(FIRST, SETTINGS)
        name, rounds, last = journal.contributions()
        assert (len(name), rounds, last) == (16, 0, 0)
        journal.record_vote(3, "contribution", None)
        journal.record_vote(3, "choice/prevote", A)
        journal.record_vote(4, "choice/prevote", A)
        with journal.together():
            journal.record_vote(6, "contribution", None)
            journal.record_vote(6, "contribution", None)  # no round more
        journal.record_height([MADE], MODEL)
        assert journal.contributions() == (name, 2, 6)
    with closing(opened(tmp_path)) as journal:
        assert journal.contributions() == (name, 2, 6)
    with closing(opened(tmp_path / "another")) as journal:
        assert journal.contributions()[0] != name
    assert MemoryJournal().contributions() == (b"", 0, 0)


def test_the_state_of_a_node_of_0_1_is_refused_by_name(tmp_path: Path) -> None:
    """It had the same file and kind, with other facts in it."""
    with closing(sqlite3.connect(tmp_path / FILE)) as db, db:
        db.execute(f"PRAGMA application_id={APPLICATION_ID}")
        db.execute("PRAGMA user_version=1")
        db.execute("CREATE TABLE fact (name TEXT PRIMARY KEY, value BLOB, digest BLOB)")
        db.execute("INSERT INTO fact VALUES ('handover', x'f6', x'00')")
    before = (tmp_path / FILE).read_bytes()
    assert "version 1; this qres-core reads version 6" in str(refusal(tmp_path))
    assert (tmp_path / FILE).read_bytes() == before


@pytest.mark.parametrize("name", _FACTS)
def test_a_missing_record_is_refused(filled: Path, name: str) -> None:
    with closing(sqlite3.connect(filled / FILE)) as db, db:
        db.execute("DELETE FROM fact WHERE name = ?", (name,))
    assert repr(name) in str(refusal(filled))


def test_a_record_in_the_place_of_another_is_refused(filled: Path) -> None:
    with closing(sqlite3.connect(filled / FILE)) as db, db:
        db.execute(
            "REPLACE INTO fact SELECT 'lock', value, digest FROM fact WHERE name = 'sequence'"
        )
    assert "'lock'" in str(refusal(filled))


def test_a_log_without_its_file_is_refused(filled: Path) -> None:
    (filled / f"{FILE}-wal").write_bytes(b"left")
    (filled / FILE).unlink()
    refusal(filled)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    refusal(tmp_path / "file" / "data")


def test_a_closed_journal_records_nothing(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.close()
    journal.close()
    with pytest.raises(RoundError, match="QRES-E602"):
        journal.record_vote(1, "choice/prevote", A)
    with pytest.raises(RoundError, match="QRES-E602"):
        journal.resume()


def test_a_copy_made_between_two_records_holds_all_before(tmp_path: Path) -> None:
    """What is on the disk when a method returns is all that a crash would leave."""
    live, image = tmp_path / "live", tmp_path / "image"
    head = FIRST
    with closing(opened(live)) as journal:
        journal.begin(FIRST, SETTINGS)
        for number in range(1, 6):
            journal.record_vote(number, "choice/prevote", A)
            model = np.full(4, number, dtype=np.int32)
            made = link(head, merged(model, number))
            journal.record_height([made], model)
            head = made.next
            journal.record_lock(JournalEntry(bytes([number]), (message(number),)))
            journal.record_vote(1, "outcome/prevote", bytes([number]))
            shutil.copytree(live, image)
            resume = resumed(image)
            shutil.rmtree(image)
            assert resume is not None
            assert resume.head == head
            assert resume.head.step == resume.last_round == resume.model[3] == number
            assert plain(resume.lock) == (bytes([number]), [message(number).to_bytes()])
            assert resume.ballots == ((1, "outcome/prevote", bytes([number])),)


def test_what_a_killed_creation_left_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / f"{FILE}.new-abc").write_bytes(b"half")
    assert resumed(tmp_path) is None
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


# ── one process at a time, killed at any time ─────────────────────────────────────────────────

WORKER = """
import sys
from pathlib import Path
import numpy as np
from qres_core import Envelope, model_digest
from qres_core.swarm.ledger.chain import Head, Link
from qres_core.swarm.storage.journal import JournalEntry, SqliteJournal
from qres_core.swarm.ledger.messages import CandidateSet, Member
from qres_core.swarm.ledger.results import Merged
from qres_core.swarm.ledger.roster import Roster

node = bytes(32)
initial = np.zeros(2000, dtype=np.int32)
journal = SqliteJournal(Path(sys.argv[1]), swarm="kill", node_id=node, initial=initial)
first = Head.first("kill", model_digest(initial, 0), Roster((node,), 0, 1), bytes(32))
journal.begin(first, b"settings")
resume = journal.resume()
number, head = resume.last_round, resume.head
ballot = resume.ballots[0][2] if resume.ballots else None  # a node says again what it said
print("open", flush=True)
if sys.argv[2] == "wait":
    sys.stdin.read()


def done(what):
    print(what, number, flush=True)


while True:
    print("sequence", journal.reserve_sequence(), flush=True)
    number += 1
    octets = number.to_bytes(32, "big")
    message = Envelope("kill", "contribution", number, bytes(32), node, 1, 1, bytes(3000))
    for kind in ("choice/prevote", "choice/precommit"):
        journal.record_vote(number, kind, octets)
        done("vote")
        journal.record_lock(JournalEntry(octets, (message,)))
        done("lock")
    if number % 3 == 0:
        journal.record_chosen(JournalEntry(octets, (message,)))
        done("chosen")
        ballot = ballot or octets
        journal.record_vote(1, "outcome/prevote", ballot)
        print("ballot", int.from_bytes(ballot, "big"), flush=True)
        journal.record_outcome_lock(octets)
        done("outcome-lock")
        model = np.full(2000, number, dtype=np.int32)
        chosen = CandidateSet(number, (Member(node, octets),))
        made = Merged(model_digest(model, head.step + 1))
        link = Link(head, chosen, made, 1, ())
        journal.record_height([link], model)
        head, ballot = link.next, None
        done("height")
"""
STAGES = ("lock", "chosen", "ballot", "outcome-lock")


def held_back(resume: Resume) -> dict[str, int]:
    """What binds the node at its height, by the number of the round that it was written in."""
    found = {
        "lock": None if resume.lock is None else resume.lock.head,
        "chosen": None if resume.chosen is None else resume.chosen.head,
        "ballot": resume.ballots[0][2] if resume.ballots else None,
        "outcome-lock": resume.outcome_lock,
    }
    return {
        name: 0 if body is None else int.from_bytes(body, "big") for name, body in found.items()
    }


def start(folder: Path, mode: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(folder), mode],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def end(worker: subprocess.Popen[str]) -> list[list[str]]:
    """Kill a worker; every whole line it had printed."""
    assert worker.stdout is not None
    with worker:
        worker.kill()
        out = worker.stdout.read()
    assert worker.returncode == -signal.SIGKILL
    return [line.split() for line in out.splitlines(keepends=True) if line.endswith("\n")]


def killed_run(folder: Path, lines: int) -> list[list[str]]:
    """What a worker had printed as done when it was killed, some time after ``lines`` lines."""
    worker = start(folder, "run")
    assert worker.stdout is not None
    first = [worker.stdout.readline().split() for _line in range(lines)]
    return first + end(worker)


@pytest.mark.claim("C-agreement-6")
def test_nothing_reported_as_done_is_lost_when_the_process_is_killed(tmp_path: Path) -> None:
    rng = random.Random(20)
    initial = np.zeros(2000, dtype=np.int32)
    sequences: list[int] = []
    said = dict.fromkeys(("vote", "height", *STAGES), 0)
    seen: set[str] = set()
    for _kill in range(20):
        for what, *numbers in killed_run(tmp_path, rng.randrange(1, 40)):
            if what == "sequence":
                sequences.append(int(numbers[0]))
            elif what != "open":
                said[what] = int(numbers[0])
                seen.add(what)
            if what == "height":
                said.update(dict.fromkeys(STAGES, 0))
        with closing(
            SqliteJournal(tmp_path, swarm="kill", node_id=bytes(32), initial=initial)
        ) as journal:
            resume = journal.resume()
            sequences.append(journal.reserve_sequence())
            if resume is None:
                assert not said["vote"]
                continue
            # One record more than reported may have been made: killed between the two.
            assert said["vote"] <= resume.last_round <= said["vote"] + 1
            height = int(resume.model[0])
            assert height in {said["height"], resume.last_round}
            assert resume.head.model == model_digest(resume.model, resume.head.step)
            assert [item.next for item in resume.links] == ([resume.head] if height else [])
            held = held_back(resume)
            for name in STAGES:
                if height == said["height"]:
                    assert held[name] in {said[name], resume.last_round}, name
                else:
                    assert held[name] == 0, "the height is over"
            for entry in (resume.lock, resume.chosen):
                if entry is not None:
                    rounds = [message.round for message in entry.messages]
                    assert rounds == [int.from_bytes(entry.head, "big")]
            if resume.last_round == said["vote"]:
                with pytest.raises(RoundError, match="QRES-E602"):
                    journal.record_vote(said["vote"], "choice/prevote", B)
            if held["ballot"]:
                with pytest.raises(RoundError, match="QRES-E602"):
                    journal.record_vote(1, "outcome/prevote", B)
            said = {"vote": resume.last_round, "height": height, **held}
    assert said["vote"] > 15
    assert seen == set(said), "control: every stage was reached"
    assert all(a + SEQUENCE_BLOCK <= b for a, b in itertools.pairwise(sequences))


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    initial = np.zeros(2000, dtype=np.int32)
    worker = start(tmp_path, "wait")
    assert worker.stdout is not None
    assert worker.stdout.readline() == "open\n"
    try:
        with pytest.raises(RoundError, match=r"QRES-E602.*another process has it open"):
            SqliteJournal(tmp_path, swarm="kill", node_id=bytes(32), initial=initial)
    finally:
        end(worker)
    SqliteJournal(tmp_path, swarm="kill", node_id=bytes(32), initial=initial).close()


def test_a_second_journal_of_one_process_is_refused(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as journal:
        assert "another process has it open" in str(refusal(tmp_path))
        journal.record_vote(1, "choice/prevote", A)
