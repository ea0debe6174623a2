"""What counts as a whole write-ahead log, held against the logs SQLite writes."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from qres_replay.log import log_is_whole

if TYPE_CHECKING:
    from pathlib import Path

PAGE = 512
FRAME = PAGE + 24


def written(folder: Path, commits: int) -> bytes:
    """The log of a database after some commits."""
    path = folder / "any.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(f"PRAGMA page_size={PAGE}")
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA wal_autocheckpoint=0")
        db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, value BLOB)")
        for number in range(commits):
            db.execute("REPLACE INTO t VALUES (1, ?)", (bytes([number]) * 40,))
        return (folder / "any.sqlite-wal").read_bytes()


@pytest.fixture
def log(tmp_path: Path) -> bytes:
    return written(tmp_path, 5)


def whole(folder: Path, octets: bytes) -> bool:
    path = folder / "copy-wal"
    path.write_bytes(octets)
    return log_is_whole(path)


@pytest.mark.control("C-replay-5")
def test_a_log_sqlite_wrote_is_whole(tmp_path: Path, log: bytes) -> None:
    assert len(log) > 6 * FRAME
    assert whole(tmp_path, log)


def test_a_missing_or_empty_log_is_not(tmp_path: Path) -> None:
    assert not log_is_whole(tmp_path / "nothing")
    assert not whole(tmp_path, b"")


@pytest.mark.claim("C-replay-5")
def test_every_cut_is_noticed_but_one_between_transactions(tmp_path: Path, log: bytes) -> None:
    edges = {length + off for length in range(32, len(log), FRAME) for off in range(-9, 10)}
    for length in sorted({*range(40), *edges, *range(0, len(log), 61)} & {*range(len(log))}):
        expected = length > 32 and (length - 32) % FRAME == 0 and commits(log[:length])
        assert whole(tmp_path, log[:length]) == expected, length


def commits(octets: bytes) -> bool:
    """Whether the last frame ends a transaction: its head gives the size of the database."""
    return octets[-FRAME + 4 : -FRAME + 8] != bytes(4)


def test_every_flipped_bit_is_noticed(tmp_path: Path, log: bytes) -> None:
    rng = random.Random(5)
    places = {*range(32), *range(32, 32 + 24), *rng.sample(range(len(log)), 300), len(log) - 1}
    for place in sorted(places - {*range(4, 8), *range(12, 16)}):
        damaged = bytearray(log)
        damaged[place] ^= 1 << rng.randrange(8)
        assert not whole(tmp_path, bytes(damaged)), place
    for place in (*range(4, 8), *range(12, 16)):  # format and cycle: covered by the checksum
        damaged = bytearray(log)
        damaged[place] ^= 1
        assert not whole(tmp_path, bytes(damaged)), place


def test_frames_of_an_earlier_cycle_are_noticed(tmp_path: Path, log: bytes) -> None:
    (tmp_path / "other").mkdir()
    other = written(tmp_path / "other", 5)
    assert not whole(tmp_path, log + other[32 : 32 + FRAME])


@pytest.mark.parametrize("page", [0, 4, 2**32 - 8])
def test_a_header_that_makes_no_sense_is_no_error(tmp_path: Path, log: bytes, page: int) -> None:
    assert not whole(tmp_path, log[:8] + page.to_bytes(4, "big") + log[12:])


def test_a_page_of_no_whole_words_is_no_error_whatever_its_checksum_says(
    tmp_path: Path, log: bytes
) -> None:
    head = log[:8] + (PAGE - 4).to_bytes(4, "big") + log[12:24]
    order = "big" if int.from_bytes(log[:4], "big") & 1 else "little"
    sums = b"".join(part.to_bytes(4, "big") for part in slow_checksum(head, order, (0, 0)))
    assert not whole(tmp_path, head + sums + log[32 : 32 + FRAME - 4])


def test_the_other_byte_order_is_read(tmp_path: Path, log: bytes) -> None:
    # The magic number says in which byte order checksums were computed; SQLite uses the machine's.
    magic = int.from_bytes(log[:4], "big")
    swapped = bytearray(log)
    swapped[:4] = (magic ^ 1).to_bytes(4, "big")
    order = "big" if magic ^ 1 == 0x377F0683 else "little"
    sums = slow_checksum(bytes(swapped[:24]), order, (0, 0))
    swapped[24:32] = b"".join(message.to_bytes(4, "big") for message in sums)
    for start in range(32, len(swapped), FRAME):
        sums = slow_checksum(bytes(swapped[start : start + 8]), order, sums)
        sums = slow_checksum(bytes(swapped[start + 24 : start + FRAME]), order, sums)
        swapped[start + 16 : start + 24] = b"".join(message.to_bytes(4, "big") for message in sums)
    assert whole(tmp_path, bytes(swapped))


def slow_checksum(data: bytes, order: str, sums: tuple[int, int]) -> tuple[int, int]:
    """As the documentation has it: ``s0 += x(i) + s1; s1 += x(i+1) + s0``."""
    s0, s1 = sums
    words = [int.from_bytes(data[i : i + 4], order) for i in range(0, len(data), 4)]  # type: ignore[arg-type]
    for i in range(0, len(words), 2):
        s0 = (s0 + words[i] + s1) % 2**32
        s1 = (s1 + words[i + 1] + s0) % 2**32
    return s0, s1
