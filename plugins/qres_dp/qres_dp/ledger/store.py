"""The ledger on disk: one SQLite file and its anchor, of one node of one swarm.

A record is on the disk when :meth:`Store.append` returns (write-ahead log, ``synchronous=FULL``),
and no noised data leave before. Nothing is repaired or begun anew: a node whose ledger cannot be
trusted does not know what it spent, and says nothing more.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import weakref
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Self

from qres_core import NodeId, RoundError, WireError
from qres_dp.ledger import anchor as anchors
from qres_dp.ledger.anchor import Anchor
from qres_dp.ledger.record import Record, genesis

FILE: Final = "dp-ledger.sqlite"
APPLICATION_ID: Final = 0x51524450
"""``QRDP`` in ASCII: marks the file's kind in its header."""
SCHEMA_VERSION: Final = 1
BUSY_SECONDS: Final = 5.0

_NEW: Final = f"{FILE}.new-"
_KEEP: Final = "bring the file back as it was; without it nobody knows what was spent"


class Store:
    """The open file, checked from the first record to the last.

    Args:
        folder: the node's data folder.

    Raises:
        RoundError: QRES-E602 when the ledger or its anchor is missing, damaged, cut short or of
            another version.

    Complexity: O(records).
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / FILE
        found = anchors.read(folder)
        try:
            if not self._path.is_file():
                raise self.unusable("there is no such file")
            uri = f"{self._path.resolve().as_uri()}?mode=rw"
            self._db = sqlite3.connect(
                uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
        except (OSError, sqlite3.Error) as error:
            raise self.unusable(str(error)) from error
        # Also where nobody tears the plugin down, as in an experiment that is given up.
        weakref.finalize(self, self._db.close)
        try:
            self._open(found)
        except BaseException:
            self._db.close()
            raise

    @staticmethod
    def exists(folder: Path) -> bool:
        """Whether there is a ledger here, or what is left of one."""
        names = (FILE, f"{FILE}-wal", anchors.FILE)
        return any((folder / name).exists() for name in names)

    @classmethod
    def create(cls, folder: Path, swarm: str, node: NodeId, relation: str) -> Self:
        """Begin a ledger where there is none. Mode 0600, a new folder 0700.

        Raises:
            RoundError: QRES-E602 when it cannot be made.
        """
        path = folder / FILE
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=_NEW, dir=folder)  # mode 0600
            os.close(handle)
            try:
                _fill(name, swarm, node, relation)
                # The name appears with the whole ledger behind it or not at all.
                os.link(name, path)
            finally:
                Path(name).unlink(missing_ok=True)
            anchors.sync_folder(folder)
        except (OSError, sqlite3.Error) as error:
            fix = "name another folder"
            raise RoundError.of("QRES-E602", str(path), str(error), fix) from error
        return cls(folder)

    # ── opening ───────────────────────────────────────────────────────────────────────────────

    def _open(self, found: Anchor | None) -> None:
        with self._refusing():
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA fullfsync=ON")  # macOS: past the drive's own cache
            if self._one("PRAGMA application_id") != APPLICATION_ID:
                raise self.unusable("not a privacy ledger of QRES")
            version = self._one("PRAGMA user_version")
            if version != SCHEMA_VERSION:
                what = f"version {version}; this qres-dp reads version {SCHEMA_VERSION}"
                raise self.unusable(what, "run the qres-dp that wrote it")
            if self._one("PRAGMA journal_mode=WAL") != "wal":
                raise self.unusable("no write-ahead log in this folder", "use a local disk")
            if self._one("PRAGMA integrity_check") != "ok":
                raise self.unusable("the file is damaged")
            row = self._db.execute("SELECT swarm, node, relation FROM owner").fetchone()
            rows = self._db.execute("SELECT idx, body FROM record ORDER BY idx").fetchall()
        if row is None or tuple(map(type, row)) != (str, bytes, str):
            raise self.unusable("the file does not say whose it is")
        self.swarm, self.node, self.relation = row
        self.records: list[Record] = self._chain(rows)
        self._hold_to(found)
        for leftover in self._folder.glob(f"{_NEW}*"):  # of a node killed in its creation
            leftover.unlink(missing_ok=True)
        anchors.sweep(self._folder)

    def _chain(self, rows: Sequence[tuple[Any, Any]]) -> list[Record]:
        records: list[Record] = []
        previous = genesis(self.swarm, self.node, self.relation)
        for expected, (index, body) in enumerate(rows, start=1):
            try:
                record = Record.from_bytes(body) if type(body) is bytes else None
            except WireError as error:
                what = f"record {expected} is damaged: {error.problems[0].what}"
                raise self.unusable(what) from error
            if record is None or (index, record.index) != (expected, expected):
                raise self.unusable(f"record {expected} is missing or damaged")
            if record.previous != previous:
                raise self.unusable(f"record {expected} does not follow from those before it")
            records.append(record)
            previous = record.digest
        return records

    def _hold_to(self, found: Anchor | None) -> None:
        if found is None:
            if self.records:
                raise self.unusable(f"its anchor {anchors.FILE} is gone")
            anchors.write(self._folder, self._anchor())  # killed between the two files
            return
        if (found.swarm, found.node, found.relation) != (self.swarm, self.node, self.relation):
            raise self.unusable(f"its anchor {anchors.FILE} is of another ledger")
        if not 0 <= found.count <= len(self.records):
            what = f"{found.count} records were written and {len(self.records)} are here"
            raise self.unusable(what)
        if self._head(found.count) != found.head:
            raise self.unusable(f"its records are not those its anchor {anchors.FILE} names")
        if found.count < len(self.records):
            anchors.write(self._folder, self._anchor())  # killed between the two writes

    def _head(self, count: int) -> bytes:
        if count:
            return self.records[count - 1].digest
        return genesis(self.swarm, self.node, self.relation)

    def _anchor(self) -> Anchor:
        count = len(self.records)
        return Anchor(self.swarm, self.node, self.relation, count, self._head(count))

    # ── writing ───────────────────────────────────────────────────────────────────────────────

    def append(self, record: Record) -> None:
        """Write a record; durable when this returns.

        Raises:
            RoundError: QRES-E602 when the disk does not take it, or another process wrote.
        """
        with self._refusing():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._expect(record.index - 1)
                self._db.execute(
                    "INSERT INTO record VALUES (?, ?)", (record.index, record.to_bytes())
                )
                self._db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise
        self.records.append(record)
        anchors.write(self._folder, self._anchor())

    def _expect(self, count: int) -> None:
        if self._one("SELECT count(*) FROM record") != count:
            fix = "give every node its own node.data_dir"
            raise self.unusable("another process writes to it", fix)

    def close(self) -> None:
        """Let go of the file; idempotent."""
        self._db.close()

    def unusable(self, what: str, fix: str = _KEEP) -> RoundError:
        """The error that refuses the ledger."""
        return RoundError.of("QRES-E602", str(self._path), what, fix)

    @contextmanager
    def _refusing(self) -> Generator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                what = f"another process kept it locked for {BUSY_SECONDS:g} seconds"
                raise self.unusable(what, "end that process") from error
            raise self.unusable(str(error)) from error
        except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter from damaged text
            raise self.unusable(str(error)) from error

    def _one(self, query: str) -> Any:
        row = self._db.execute(query).fetchone()
        return None if row is None else row[0]


def _fill(name: str, swarm: str, node: NodeId, relation: str) -> None:
    with closing(sqlite3.connect(name, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous=FULL")
        db.execute("BEGIN")
        db.execute(f"PRAGMA application_id={APPLICATION_ID}")
        db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        db.execute(
            "CREATE TABLE owner (swarm TEXT NOT NULL, node BLOB NOT NULL, relation TEXT NOT NULL)"
        )
        db.execute("CREATE TABLE record (idx INTEGER PRIMARY KEY, body BLOB NOT NULL)")
        db.execute("INSERT INTO owner VALUES (?, ?, ?)", (swarm, node, relation))
        db.execute("COMMIT")
