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
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from qres_core import Envelope, RoundError, Vector
from qres_core.swarm.journal import FILE, SEQUENCE_BLOCK, JournalEntry, Resume, SqliteJournal

NODE = b"\x01" * 32
INITIAL: Vector = np.array([0, 1, -1, 2**31 - 1], dtype=np.int32)
MODEL: Vector = np.array([7, -(2**31), 5, 65536], dtype=np.int32)
A, B = b"a" * 32, b"b" * 32


def opened(
    folder: Path, *, swarm: str = "test", node_id: bytes = NODE, initial: Vector = INITIAL
) -> SqliteJournal:
    return SqliteJournal(folder, swarm=swarm, node_id=node_id, initial=initial)


def resumed(folder: Path) -> Resume | None:
    with closing(opened(folder)) as journal:
        return journal.resume()


def message(number: int) -> Envelope:
    return Envelope("test", "contribution", 5, A, NODE, number, 1, bytes([number]) * 100)


def plain(record: JournalEntry | None) -> tuple[bytes, list[bytes]] | None:
    return (
        None
        if record is None
        else (record.head, [message.to_bytes() for message in record.messages])
    )


LOCK = JournalEntry(b"choice/proposal", (message(2), message(3)))


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A folder whose store holds a model, votes and a lock."""
    with closing(opened(tmp_path)) as journal:
        journal.record_model(4, 3, MODEL, JournalEntry(b"made", (message(1), message(2))))
        journal.record_vote(5, "choice/prevote", A)
        journal.record_lock(LOCK)
        journal.record_vote(5, "choice/precommit", A)
        journal.reserve_sequence()
    return tmp_path


def refusal(folder: Path) -> RoundError:
    with pytest.raises(RoundError) as caught:
        opened(folder)
    problem = caught.value.problems[0]
    assert problem.code == "QRES-E602"
    assert problem.where == str(folder / FILE)
    assert problem.what
    assert problem.fix
    return caught.value


# ── keeping ───────────────────────────────────────────────────────────────────────────────────


def test_a_fresh_store_has_nothing_to_resume_even_when_opened_again(tmp_path: Path) -> None:
    assert resumed(tmp_path) is None
    assert resumed(tmp_path) is None


def test_what_was_recorded_is_there_after_reopening(filled: Path) -> None:
    resume = resumed(filled)
    assert resume is not None
    assert (resume.step, resume.model_round, resume.last_round) == (3, 4, 5)
    assert plain(resume.lock) == plain(LOCK)
    assert resume.model.dtype == np.int32
    assert not resume.model.flags.writeable
    np.testing.assert_array_equal(resume.model, MODEL)


def test_a_node_that_voted_before_its_first_model_resumes_with_the_initial_one(
    tmp_path: Path,
) -> None:
    with closing(opened(tmp_path)) as journal:
        journal.record_vote(1, "choice/prevote", None)
    resume = resumed(tmp_path)
    assert resume is not None
    assert (resume.step, resume.model_round, resume.last_round) == (0, 0, 1)
    np.testing.assert_array_equal(resume.model, INITIAL)


def test_a_new_model_voids_the_lock(filled: Path) -> None:
    with closing(opened(filled)) as journal:
        journal.record_model(5, 4, INITIAL, None)
    resume = resumed(filled)
    assert resume is not None
    assert resume.lock is None
    assert (resume.step, resume.model_round, resume.last_round) == (4, 5, 5)


def messages_in(folder: Path) -> set[bytes]:
    with closing(sqlite3.connect(folder / FILE)) as db:
        return {digest for (digest,) in db.execute("SELECT digest FROM message")}


def test_messages_are_kept_as_long_as_a_record_names_them(filled: Path) -> None:
    first, second, third = (message(number).signing_digest for number in (1, 2, 3))
    resume = resumed(filled)
    assert resume is not None
    assert plain(resume.handover) == (b"made", [message(n).to_bytes() for n in (1, 2)])
    assert messages_in(filled) == {first, second, third}
    with closing(opened(filled)) as journal:
        journal.record_lock(None)
    assert messages_in(filled) == {first, second}
    with closing(opened(filled)) as journal:
        journal.record_model(6, 4, INITIAL, LOCK)
    assert messages_in(filled) == {second, third}
    with closing(opened(filled)) as journal:
        journal.record_model(7, 5, INITIAL, None)
    assert messages_in(filled) == set()


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


# ── votes ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("first", "second"), [(A, B), (A, None), (None, A)])
def test_a_second_different_vote_is_refused_also_after_a_restart(
    tmp_path: Path, first: bytes | None, second: bytes | None
) -> None:
    with closing(opened(tmp_path)) as journal:
        journal.record_vote(3, "choice/prevote", first)
        with pytest.raises(RoundError, match=r"QRES-E602.*second, different prevote of round 3"):
            journal.record_vote(3, "choice/prevote", second)
    with closing(opened(tmp_path)) as journal:
        with pytest.raises(RoundError, match="QRES-E602"):
            journal.record_vote(3, "choice/prevote", second)
        journal.record_vote(3, "choice/prevote", first)
        journal.record_vote(3, "choice/precommit", second)


def test_a_vote_of_an_earlier_round_is_refused(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as journal:
        journal.record_vote(9, "choice/prevote", A)
        with pytest.raises(RoundError, match="QRES-E602"):
            journal.record_vote(8, "choice/precommit", A)
        resume = journal.resume()
    assert resume is not None
    assert resume.last_round == 9


def test_old_votes_are_pruned(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as journal:
        journal.record_vote(1, "choice/prevote", A)
        for number in range(2, 300):
            journal.record_vote(number, "choice/prevote", B)
            journal.record_vote(number, "choice/precommit", B)
    assert (tmp_path / FILE).stat().st_size < 32768
    assert A not in (tmp_path / FILE).read_bytes()


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
                resume = journal.resume()
                assert journal.reserve_sequence() == SEQUENCE_BLOCK
        except RoundError as error:
            assert error.code == "QRES-E602"  # noqa: PT017 - either outcome is right
            refused.add(position)
            continue
        assert resume is not None
        np.testing.assert_array_equal(resume.model, MODEL)
        assert (resume.step, resume.model_round, resume.last_round) == (3, 4, 5)
        assert plain(resume.lock) == plain(LOCK)
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


def test_a_store_of_another_version_is_refused(filled: Path) -> None:
    with closing(sqlite3.connect(filled / FILE)) as db:
        db.execute("PRAGMA user_version=2")
    assert "version 2; this qres-core reads version 1" in str(refusal(filled))


@pytest.mark.parametrize("name", ["identity", "model", "votes", "lock", "sequence"])
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
    with closing(opened(live)) as journal:
        for number in range(1, 6):
            journal.record_vote(number, "choice/prevote", A)
            journal.record_model(number, number, np.full(4, number, dtype=np.int32), None)
            journal.record_lock(JournalEntry(bytes([number]), (message(number),)))
            shutil.copytree(live, image)
            resume = resumed(image)
            shutil.rmtree(image)
            assert resume is not None
            assert resume.step == resume.last_round == resume.model[3] == number
            assert plain(resume.lock) == (bytes([number]), [message(number).to_bytes()])


def test_what_a_killed_creation_left_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / f"{FILE}.new-abc").write_bytes(b"half")
    assert resumed(tmp_path) is None
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


# ── one process at a time, killed at any time ─────────────────────────────────────────────────

WORKER = """
import sys
from pathlib import Path
import numpy as np
from qres_core import Envelope
from qres_core.swarm.journal import JournalEntry
from qres_core.swarm.journal import SqliteJournal

initial = np.zeros(2000, dtype=np.int32)
journal = SqliteJournal(Path(sys.argv[1]), swarm="kill", node_id=bytes(32), initial=initial)
resume = journal.resume()
number = 0 if resume is None else max(resume.last_round, resume.model_round)
step = 0 if resume is None else resume.step
print("open", flush=True)
if sys.argv[2] == "wait":
    sys.stdin.read()
while True:
    print("sequence", journal.reserve_sequence(), flush=True)
    number += 1
    for kind in ("choice/prevote", "choice/precommit"):
        journal.record_vote(number, kind, number.to_bytes(32, "big"))
        print("vote", number, flush=True)
        message = Envelope("kill", "contribution", number, bytes(32), bytes(32), 1, 1, bytes(3000))
        journal.record_lock(JournalEntry(number.to_bytes(8, "big"), (message,)))
        print("lock", number, flush=True)
    if number % 3 == 0:
        step += 1
        made = JournalEntry(b"", (message,))
        journal.record_model(number, step, np.full(2000, number, dtype=np.int32), made)
        print("model", number, step, flush=True)
"""


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


def test_nothing_reported_as_done_is_lost_when_the_process_is_killed(tmp_path: Path) -> None:
    rng = random.Random(20)
    initial = np.zeros(2000, dtype=np.int32)
    sequences: list[int] = []
    vote = lock = step = model = 0
    for _kill in range(15):
        for what, *numbers in killed_run(tmp_path, rng.randrange(1, 40)):
            if what == "sequence":
                sequences.append(int(numbers[0]))
            elif what == "vote":
                vote = int(numbers[0])
            elif what == "lock":
                lock = int(numbers[0])
            elif what == "model":
                model, step = map(int, numbers)
                lock = 0
        with closing(
            SqliteJournal(tmp_path, swarm="kill", node_id=bytes(32), initial=initial)
        ) as journal:
            resume = journal.resume()
            sequences.append(journal.reserve_sequence())
            if resume is None:
                assert vote == 0
                continue
            # One record more than reported may have been made: killed between the two.
            assert vote <= resume.last_round <= vote + 1
            assert step <= resume.step <= step + 1
            assert resume.model_round == (model if resume.step == step else resume.last_round)
            np.testing.assert_array_equal(
                resume.model, np.full(2000, resume.model_round, dtype=np.int32)
            )
            if resume.lock is None:
                assert lock == 0 or resume.step == step + 1
            else:
                kept = int.from_bytes(resume.lock.head, "big")
                assert lock <= kept <= resume.last_round
                assert [message.round for message in resume.lock.messages] == [kept]
            if resume.last_round == vote:
                with pytest.raises(RoundError, match="QRES-E602"):
                    journal.record_vote(vote, "choice/prevote", B)
            vote, step, model = resume.last_round, resume.step, resume.model_round
            lock = 0 if resume.lock is None else int.from_bytes(resume.lock.head, "big")
    assert vote > 15
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
