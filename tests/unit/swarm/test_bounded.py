"""What a node keeps on disk does not grow with the heights that its swarm decides."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from qres_core import Envelope, Vector, model_digest
from qres_core.contract.stores import PrivateDatabase
from qres_core.swarm.ledger.chain import Head, Link
from qres_core.swarm.ledger.messages import CandidateSet, Member
from qres_core.swarm.ledger.results import Merged
from qres_core.swarm.ledger.roster import Roster
from qres_core.swarm.storage.journal import JournalEntry, SqliteJournal

NODE = b"\x01" * 32
MEMBERS = tuple(bytes([number]) * 32 for number in range(1, 5))
MODEL: Vector = np.arange(64, dtype=np.int32)
PAYLOAD = 4 * MODEL.size
SETTLED = 200
"""Heights after which the file has the size that it keeps: SQLite's log is full by then."""


@pytest.fixture
def unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for the disk: what is written is the same."""

    def not_durable(database: PrivateDatabase) -> None:
        database.execute("PRAGMA synchronous=OFF")

    monkeypatch.setattr(PrivateDatabase, "_be_durable", not_durable)


def contribution(member: bytes, height: int) -> Envelope:
    return Envelope(
        "test", "contribution", height, bytes(32), member, height, height, bytes(PAYLOAD)
    )


def sizes(folder: Path, heights: int) -> Iterator[int]:
    """Bytes in the folder after each height, with all that is recorded at one."""
    head = Head.first("test", model_digest(MODEL, 0), Roster(MEMBERS, 1, 3), b"s" * 32)
    with closing(SqliteJournal(folder, swarm="test", node_id=NODE, initial=MODEL)) as journal:
        journal.begin(head, b"settings")
        for height in range(1, heights + 1):
            said = tuple(contribution(member, height) for member in MEMBERS)
            entry = JournalEntry(b"proposal", said)
            with journal.together():
                journal.record_vote(height, "contribution", bytes(32))
                journal.record_lock(entry)
                journal.record_chosen(entry)
                journal.record_vote(1, "outcome/prevote", b"found")
                journal.record_outcome_lock(b"outcome")
                journal.record_made(MODEL)
                journal.reserve_sequence()
                chosen = CandidateSet(
                    height, tuple(Member(sender, bytes(32)) for sender in MEMBERS), ()
                )
                merged = Merged(model_digest(MODEL, height))
                link = Link(head, chosen, merged, 1, (said[0],))
                journal.record_height([link], MODEL)
            head = link.next
            yield sum(path.stat().st_size for path in folder.iterdir())
        resume = journal.resume()
        assert resume is not None
        assert (resume.head.height, len(resume.links)) == (heights, 1)


def grown(folder: Path, heights: int) -> float:
    """How much larger the folder ever was after it had settled than until then."""
    seen = list(sizes(folder, heights))
    return max(seen[SETTLED:]) / max(seen[:SETTLED])


@pytest.mark.usefixtures("unsynced")
def test_the_journal_is_bounded(tmp_path: Path) -> None:
    assert grown(tmp_path, 3 * SETTLED) <= 1.1


@pytest.mark.long
@pytest.mark.usefixtures("unsynced")
def test_the_journal_is_bounded_after_ten_thousand_heights(tmp_path: Path) -> None:
    assert grown(tmp_path, 10_000) <= 1.1
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 8 * 2**20


@pytest.mark.usefixtures("unsynced")
def test_control_a_journal_that_drops_nothing_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SqliteJournal, "_drop_unnamed", lambda _journal: None)
    assert grown(tmp_path, 4 * SETTLED) > 1.1
