"""Scores and bans on disk: one SQLite file that survives the process and the power.

The file belongs to one node of one swarm. It holds a row for every node that was ever in the
roster, four facts about the whole (identity, settings, round, number of rows), and a SHA-256 beside
each, so that damage is told from a good score. Nothing is repaired or begun anew: a file that
cannot be trusted is refused, because a node that forgot its bans would let the banned in again.

A transaction is on the disk when it ends (write-ahead log, ``synchronous=FULL``). The file is
shared with ``qres reputation``: whoever changes it takes the write lock first and reads it again.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import tempfile
from collections.abc import Generator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import attrs

from qres_core import NodeId, RoundError, WireError, canonical
from qres_reputation.record import FOR_EVER, Record
from qres_reputation.rules import UNIT, Belief

FILE: Final = "reputation.sqlite"
APPLICATION_ID: Final = 0x51524550
"""``QREP`` in ASCII: marks the file's kind in its header."""
SCHEMA_VERSION: Final = 1
BUSY_SECONDS: Final = 5.0

_NEW: Final = f"{FILE}.new-"
_KEEP: Final = (
    "bring the file back as it was; only to give up every score and ban, move it away "
    "together with its -wal and -shm files"
)
_LIMIT: Final = 2**63


@attrs.frozen
class Settings:
    """What whoever opens the file without the node's configuration has to know.

    Attributes:
        rule: name of the rule the scores were made by.
        start: score of a fresh node, in units of 10**-6.
        ban_below: score of a node on probation, likewise.
        ban_rounds: rounds a ban lasts; 0 for ever.
    """

    rule: str
    start: int
    ban_below: int
    ban_rounds: int


@attrs.frozen
class Snapshot:
    """All that a file says.

    Attributes:
        settings: of the node's last start.
        round: number of the last round that ended.
        records: by node, ascending.
    """

    settings: Settings
    round: int
    records: Mapping[NodeId, Record]


def _digest(label: str, value: bytes) -> bytes:
    return hashlib.sha256(b"qres/reputation/store/v1\0" + label.encode() + b"\0" + value).digest()


def _row(node: NodeId, record: Record) -> tuple[Any, ...]:
    belief = record.belief
    values = (node, belief.score, belief.good, belief.bad, record.until, record.streak)
    return (*values, _digest("node", canonical.dumps(list(values))))


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


class Store:
    """The open file.

    Args:
        folder: the node's data folder.

    Raises:
        RoundError: QRES-E602 when the file is missing, damaged, or not of this version. Every
            method raises it when the disk does not take what must be kept.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        try:
            if not self._path.is_file():
                raise self.unusable("there is no such file", "name the data folder of a node")
            uri = f"{self._path.resolve().as_uri()}?mode=rw"
            self._db = sqlite3.connect(
                uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
        except (OSError, sqlite3.Error) as error:
            raise self.unusable(str(error)) from error
        try:
            self._open()
        except BaseException:
            self._db.close()
            raise

    @classmethod
    def create(cls, folder: Path, identity: tuple[str, NodeId], snapshot: Snapshot) -> None:
        """Make the file if there is none, for its owner alone (mode 0600, folder 0700).

        Raises:
            RoundError: QRES-E602 when it cannot be made.
        """
        path = folder / FILE
        where = str(path)
        try:
            if path.exists():
                return
            if path.with_name(f"{FILE}-wal").exists():
                what = "the file is missing and its write-ahead log is not"
                raise RoundError.of("QRES-E602", where, what, _KEEP)
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=_NEW, dir=folder)  # mode 0600
            os.close(handle)
            try:
                _fill(name, identity, snapshot)
                # The name appears with the whole store behind it or not at all.
                with suppress(FileExistsError):
                    os.link(name, path)
            finally:
                Path(name).unlink(missing_ok=True)
            _sync_folder(folder)
        except (OSError, sqlite3.Error) as error:
            raise RoundError.of("QRES-E602", where, str(error), "name another folder") from error

    def _open(self) -> None:
        with self._refusing():
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA fullfsync=ON")  # macOS: past the drive's own cache
            if self._one("PRAGMA application_id") != APPLICATION_ID:
                raise self.unusable("not a reputation store of QRES")
            version = self._one("PRAGMA user_version")
            if version != SCHEMA_VERSION:
                what = f"version {version}; this qres-reputation reads version {SCHEMA_VERSION}"
                raise self.unusable(what, "run the qres-reputation that wrote it")
            if self._one("PRAGMA journal_mode=WAL") != "wal":
                raise self.unusable("no write-ahead log in this folder", "use a local disk")
            if self._one("PRAGMA integrity_check") != "ok":
                raise self.unusable("the file is damaged")
            swarm, node = self._fact("identity")
        self.swarm: str = swarm
        self.node: NodeId = node
        self._version = self._one("PRAGMA data_version")

    def bind(self, swarm: str, node: NodeId) -> None:
        """Refuse the file unless it is that node's.

        Raises:
            RoundError: QRES-E602.
        """
        for mine, theirs, name in ((swarm, self.swarm, "swarm"), (node, self.node, "node")):
            if mine != theirs:
                fix = "give every node of every swarm its own node.data_dir"
                raise self.unusable(f"it belongs to another {name}", fix)
        for leftover in self._path.parent.glob(f"{_NEW}*"):  # of a node killed in its creation
            leftover.unlink(missing_ok=True)

    def unusable(self, what: str, fix: str = _KEEP) -> RoundError:
        """The error that refuses the file."""
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

    def _one(self, query: str, *values: object) -> Any:
        row = self._db.execute(query, values).fetchone()
        return None if row is None else row[0]

    def _fact(self, name: str) -> Any:
        query = "SELECT value, digest FROM fact WHERE name = ?"
        value, digest = self._db.execute(query, (name,)).fetchone() or (None, None)
        if type(value) is not bytes or _digest(name, value) != digest:
            raise self.unusable(f"the record {name!r} is damaged")
        try:
            return canonical.loads(value, max_bytes=len(value))
        except WireError as error:
            raise self.unusable(f"the record {name!r} cannot be read") from error

    # ── reading ───────────────────────────────────────────────────────────────────────────────

    def changed(self) -> bool:
        """Whether another process changed the file since this was last asked."""
        with self._refusing():
            version = self._one("PRAGMA data_version")
        seen, self._version = self._version, version
        return bool(version != seen)

    def load(self) -> Snapshot:
        """Everything, checked.

        Raises:
            RoundError: QRES-E602 for any row that is damaged or missing.
        """
        with self._refusing():
            own = not self._db.in_transaction
            if own:
                self._db.execute("BEGIN")  # all of one state
            try:
                rule, *numbers = self._fact("settings")
                round_number, count = self._fact("round"), self._fact("count")
                query = "SELECT id, score, good, bad, until, streak, digest FROM node ORDER BY id"
                records = {row[0]: self._record(row) for row in self._db.execute(query)}
            finally:
                if own:
                    self._db.execute("COMMIT")
        if len(records) != count:
            raise self.unusable(f"{len(records)} nodes where {count} were written")
        return Snapshot(Settings(rule, *numbers), round_number, records)

    def _record(self, row: tuple[Any, ...]) -> Record:
        node, score, good, bad, until, streak, _digest = row
        numbers = (score, good, bad, until, streak)
        if type(node) is not bytes or any(type(number) is not int for number in numbers):
            raise self.unusable("the record of a node is damaged")
        record = Record(Belief(score, good, bad), until, streak)
        if _row(node, record) != row:
            raise self.unusable(f"the record of node {node.hex()[:16]} is damaged")
        sane = 0 <= score <= UNIT and FOR_EVER <= until < _LIMIT and streak >= 0
        if not (sane and good >= 0 and bad >= 0):
            raise self.unusable(f"the record of node {node.hex()[:16]} makes no sense")
        return record

    # ── writing ───────────────────────────────────────────────────────────────────────────────

    @contextmanager
    def transaction(self) -> Generator[None]:
        """Hold the write lock; all is on the disk when the block ends, or nothing is.

        Raises:
            RoundError: QRES-E602.
        """
        with self._refusing():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise

    def put(self, records: Mapping[NodeId, Record]) -> None:
        """Write the records of some nodes; inside a transaction."""
        _put(self._db, records)
        _write_fact(self._db, "count", self._one("SELECT count(*) FROM node"))

    def put_settings(self, settings: Settings) -> None:
        """Write the settings; inside a transaction."""
        _write_fact(self._db, "settings", list(attrs.astuple(settings)))

    def put_round(self, number: int) -> None:
        """Write the number of the round that ended; inside a transaction."""
        _write_fact(self._db, "round", number)

    def close(self) -> None:
        """Let go of the file; idempotent."""
        self._db.close()


def _write_fact(db: sqlite3.Connection, name: str, fact: object) -> None:
    value = canonical.dumps(fact)
    db.execute("REPLACE INTO fact VALUES (?, ?, ?)", (name, value, _digest(name, value)))


def _put(db: sqlite3.Connection, records: Mapping[NodeId, Record]) -> None:
    rows = [_row(node, record) for node, record in records.items()]
    db.executemany("REPLACE INTO node VALUES (?, ?, ?, ?, ?, ?, ?)", rows)


def _fill(name: str, identity: tuple[str, NodeId], snapshot: Snapshot) -> None:
    with closing(sqlite3.connect(name, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous=FULL")
        db.execute("BEGIN")
        db.execute(f"PRAGMA application_id={APPLICATION_ID}")
        db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        db.execute(
            "CREATE TABLE fact (name TEXT PRIMARY KEY, value BLOB NOT NULL, digest BLOB NOT NULL)"
        )
        db.execute(
            "CREATE TABLE node (id BLOB PRIMARY KEY, score INTEGER NOT NULL, "
            "good INTEGER NOT NULL, bad INTEGER NOT NULL, until INTEGER NOT NULL, "
            "streak INTEGER NOT NULL, digest BLOB NOT NULL) WITHOUT ROWID"
        )
        _write_fact(db, "identity", list(identity))
        _write_fact(db, "settings", list(attrs.astuple(snapshot.settings)))
        _write_fact(db, "round", snapshot.round)
        _write_fact(db, "count", len(snapshot.records))
        _put(db, snapshot.records)
        db.execute("COMMIT")
