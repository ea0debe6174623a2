"""The journal of a real node: one SQLite file that survives the process and the power.

The file holds six *facts*, each a canonical CBOR value with its SHA-256: who the node is, the
model, what made it, the votes of the last round, the lock, the next sequence number. All six are
there from the first moment, so a missing one is damage and not a beginning. Nothing is ever
repaired or begun anew: a node that forgot its votes could vote twice.

A commit is on the disk when a method returns (write-ahead log, ``synchronous=FULL``). What is lost
with the log ``journal.sqlite-wal``, deleted after a crash, cannot be noticed; leave the folder as
it is.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import tempfile
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import numpy as np

from qres_core.contract import canonical
from qres_core.contract.errors import RoundError, WireError
from qres_core.contract.types import NodeId, Vector, check_vector, model_digest
from qres_core.swarm.journal import SEQUENCE_BLOCK, Resume

FILE: Final = "journal.sqlite"
APPLICATION_ID: Final = 0x51524553
"""``QRES`` in ASCII: marks the file's kind in its header."""
SCHEMA_VERSION: Final = 1

_NEW: Final = f"{FILE}.new-"
_FACTS: Final = ("identity", "model", "handover", "votes", "lock", "sequence")
_KEEP: Final = (
    "bring the folder back as it was, or move it away and join under a new identity: "
    "a node that forgot its votes must not vote under the old one"
)


def _digest(name: str, value: bytes) -> bytes:
    return hashlib.sha256(b"qres/store/v1\0" + name.encode() + b"\0" + value).digest()


def _write(db: sqlite3.Connection, name: str, fact: object) -> None:
    value = canonical.dumps(fact)
    db.execute("REPLACE INTO fact VALUES (?, ?, ?)", (name, value, _digest(name, value)))


def _octets(model: Vector) -> bytes:
    return np.ascontiguousarray(model, dtype="<i4").tobytes()


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the system has a way to."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    _sync_folder(folder.parent)


class SqliteJournal:
    """Durable memory of one node, in ``journal.sqlite``; one process at a time.

    A new store is made where there is none, the folder for its owner alone (mode 0700, file 0600).

    Args:
        folder: the node's own folder.
        swarm: name of the swarm; the store is bound to it.
        node_id: this node's identity, 32 bytes; bound too.
        initial: the swarm's first model, int32, shape ``(d,)``; bound too, and what a node that
            stopped in its first rounds resumes with.

    Raises:
        RoundError: QRES-E602 when the store is damaged, of another swarm, node, initial model or
            version, open elsewhere, or cannot be made. Every method raises it when the disk does
            not take what must be kept.
        ValueRefusedError: QRES-E502 or QRES-E503 for ``initial``.

    Complexity: a method that records syncs the disk once; a model costs O(d).
    """

    def __init__(self, folder: Path, *, swarm: str, node_id: NodeId, initial: Vector) -> None:
        check_vector(initial, "initial")
        self._path = folder / FILE
        identity = [swarm, node_id, model_digest(initial, 0)]
        try:
            if not self._path.exists():
                self._create(identity, initial)
            uri = f"{self._path.resolve().as_uri()}?mode=rw"
            self._db = sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None)
        except OSError as error:
            raise self._unusable(error.strerror or str(error), "name another folder") from error
        except sqlite3.Error as error:
            raise self._unusable(str(error)) from error
        try:
            self._open(identity)
        except BaseException:
            self._db.close()
            raise

    # ── opening ───────────────────────────────────────────────────────────────────────────────

    def _create(self, identity: list[Any], initial: Vector) -> None:
        folder = self._path.parent
        if self._path.with_name(f"{FILE}-wal").exists():
            raise self._unusable("the file is missing and its write-ahead log is not")
        _make_folder(folder)
        handle, name = tempfile.mkstemp(prefix=_NEW, dir=folder)  # mode 0600
        os.close(handle)
        try:
            with closing(sqlite3.connect(name, isolation_level=None)) as db:
                db.execute("PRAGMA synchronous=FULL")
                db.execute("BEGIN")
                db.execute(f"PRAGMA application_id={APPLICATION_ID}")
                db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
                db.execute(
                    "CREATE TABLE fact (name TEXT PRIMARY KEY, value BLOB NOT NULL, "
                    "digest BLOB NOT NULL)"
                )
                _write(db, "identity", identity)
                _write(db, "model", [0, 0, _octets(initial)])
                _write(db, "votes", [0, dict[str, bytes]()])
                _write(db, "lock", None)
                _write(db, "handover", None)
                _write(db, "sequence", 0)
                db.execute("COMMIT")
            # The name appears with the whole store behind it or not at all, and never over another
            # process's: a file that is there and empty was cut short.
            with suppress(FileExistsError):
                os.link(name, self._path)
        finally:
            Path(name).unlink(missing_ok=True)
        _sync_folder(folder)

    def _open(self, identity: list[Any]) -> None:
        with self._refusing():
            # Before the first access, so that the lock is held from there until `close`.
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            if self._one("PRAGMA application_id") != APPLICATION_ID:
                raise self._unusable("not a store of QRES")
            version = self._one("PRAGMA user_version")
            if version != SCHEMA_VERSION:
                what = f"version {version}; this qres-core reads version {SCHEMA_VERSION}"
                raise self._unusable(what, "run the qres-core that wrote it")
            if self._one("PRAGMA journal_mode=WAL") != "wal":
                raise self._unusable("no write-ahead log in this folder", "use a local disk")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA fullfsync=ON")  # macOS: past the drive's own cache
            self._db.execute("BEGIN EXCLUSIVE")
            self._db.execute("COMMIT")
            if self._one("PRAGMA quick_check") != "ok":
                raise self._unusable("the file is damaged")
            found = {name: self._read(name) for name in _FACTS}["identity"]
        for mine, theirs, name in zip(
            identity, found, ("swarm", "node", "initial model"), strict=True
        ):
            if mine != theirs:
                what = f"it belongs to another {name}"
                if name == "swarm":
                    what += f", {theirs!r}"
                fix = "give every node of every swarm its own node.data_dir"
                raise self._unusable(what, fix)
        for leftover in self._path.parent.glob(f"{_NEW}*"):  # of a node killed in its creation
            leftover.unlink(missing_ok=True)

    def _unusable(self, what: str, fix: str = _KEEP) -> RoundError:
        return RoundError.of("QRES-E602", str(self._path), what, fix)

    @contextmanager
    def _refusing(self) -> Generator[None]:
        """Turn what SQLite says into the named error."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
                fix = "stop the other process; a node runs once"
                raise self._unusable("another process has it open", fix) from error
            raise self._unusable(str(error)) from error
        except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter of a damaged schema
            raise self._unusable(str(error)) from error

    # ── facts ─────────────────────────────────────────────────────────────────────────────────

    def _one(self, query: str, *values: object) -> Any:
        row = self._db.execute(query, values).fetchone()
        return None if row is None else row[0]

    def _read(self, name: str) -> Any:
        query = "SELECT value, digest FROM fact WHERE name = ?"
        value, digest = self._db.execute(query, (name,)).fetchone() or (None, None)
        if type(value) is not bytes or _digest(name, value) != digest:
            raise self._unusable(f"the record {name!r} is damaged")
        try:
            return canonical.loads(value, max_bytes=len(value))
        except WireError as error:
            raise self._unusable(f"the record {name!r} cannot be read") from error

    @contextmanager
    def _transaction(self) -> Generator[None]:
        with self._refusing():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise

    # ── the journal ───────────────────────────────────────────────────────────────────────────

    def resume(self) -> Resume | None:
        """Where the node stopped; ``None`` while it has neither voted nor made a model."""
        with self._refusing():
            model_round, step, octets = self._read("model")
            last_round, _votes = self._read("votes")
            lock, handover = self._read("lock"), self._read("handover")
        if last_round == 0 and step == 0 and lock is None:
            return None
        model = np.frombuffer(octets, dtype="<i4").astype(np.int32)
        return Resume(check_vector(model, "model"), step, model_round, last_round, lock, handover)

    def record_vote(self, round_number: int, kind: str, choice: bytes | None) -> None:
        """Keep a vote; those of earlier rounds are forgotten.

        Raises:
            RoundError: QRES-E602 also for a vote that would be equivocation: other than the one
                recorded, or of a round before the last.
        """
        with self._transaction():
            last_round, recorded = self._read("votes")
            votes: dict[str, bytes | None] = recorded if round_number == last_round else {}
            if round_number < last_round:
                what = f"a {kind} of round {round_number} after one of round {last_round}"
                raise self._unusable(what)
            if kind in votes and votes[kind] != choice:
                raise self._unusable(f"a second, different {kind} of round {round_number}")
            _write(self._db, "votes", [round_number, {**votes, kind: choice}])

    def record_lock(self, proposal: bytes | None) -> None:
        """Keep what the node is locked on."""
        with self._transaction():
            _write(self._db, "lock", proposal)

    def record_model(
        self, round_number: int, step: int, model: Vector, handover: bytes | None
    ) -> None:
        """Keep the model and what made it and void the lock, all or nothing."""
        with self._transaction():
            _write(self._db, "handover", handover)
            _write(self._db, "model", [round_number, step, _octets(model)])
            _write(self._db, "lock", None)

    def reserve_sequence(self) -> int:
        """First of a block of numbers that no run of this node was given before."""
        with self._transaction():
            first: int = self._read("sequence")
            _write(self._db, "sequence", first + SEQUENCE_BLOCK)
        return first

    def close(self) -> None:
        """Let go of the file; idempotent."""
        self._db.close()
