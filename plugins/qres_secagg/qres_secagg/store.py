"""The sessions a node took part in and the updates it had opened in sums, kept over restarts.

``secagg.sqlite`` holds session ids and fingerprints. A node that masked two updates, or opened two
survivor sets, in one session could have the difference of the two computed; one that restarts in
the middle of a round must therefore know that it was there, though its keys are gone. The same
update in the sums of two sessions would let their difference show who was in one of them only.

Both are on the disk (``synchronous=FULL``) before the methods return, and with that before the
message they allow leaves the node. Of rounds far back only the number is kept: their sessions all
count as used, and their models do not come back.

Nothing is repaired or begun anew: a node without its store does not know where it took part. When
one may be begun, says whoever knows how old the swarm is (:meth:`Store.begin`).
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import weakref
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, Self

import attrs

from qres_core import NodeId, RoundError

FILE: Final = "secagg.sqlite"
APPLICATION_ID: Final = 0x51525347
SCHEMA_VERSION: Final = 1
_NEW: Final = f"{FILE}.new-"
KEPT_ROUNDS: Final = 4096
"""Rounds behind the newest of which everything is kept."""
_KEEP: Final = (
    "bring the file back as it was, or join under a new identity: "
    "a node that forgot its sessions could take part in one twice"
)


class Store:
    """Durable memory of sessions and opened updates; one process at a time.

    Args:
        folder: the node's own folder; ``None`` for a new store in memory only.
        swarm: name of the swarm, which the store is bound to.
        node_id: this node's identity, 32 bytes; bound too.

    Raises:
        RoundError: QRES-E602 for a store that is missing, damaged, another node's or open
            elsewhere.
    """

    def __init__(self, folder: Path | None, *, swarm: str, node_id: NodeId) -> None:
        self._path = ":memory:" if folder is None else str(folder / FILE)
        with self._refusing():
            if folder is None:
                self._db = sqlite3.connect(
                    self._path, isolation_level=None, check_same_thread=False
                )
                _fill(self._db, swarm, node_id)
            else:
                if not self.exists(folder):
                    raise self._unusable("there is no such file")
                uri = f"{(folder / FILE).resolve().as_uri()}?mode=rw"
                self._db = sqlite3.connect(
                    uri, uri=True, timeout=0, isolation_level=None, check_same_thread=False
                )
        # Also where nobody tears the plugin down, as in an experiment that is given up.
        weakref.finalize(self, self._db.close)
        try:
            with self._refusing():
                self._check(swarm, node_id)
        except BaseException:
            self._db.close()
            raise

    @staticmethod
    def exists(folder: Path) -> bool:
        """Whether there is a store in the folder, in whatever state."""
        return (folder / FILE).exists()

    @classmethod
    def begin(cls, folder: Path, *, swarm: str, node_id: NodeId) -> Self:
        """Begin a store where there is none. Mode 0600; a new folder 0700.

        Only for a node that cannot have taken part in a session that is still to be held.

        Raises:
            RoundError: QRES-E602 when it cannot be made, or there is one.
        """
        path = folder / FILE
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=_NEW, dir=folder)  # mode 0600
            os.close(handle)
            try:
                with closing(sqlite3.connect(name, isolation_level=None)) as db:
                    _durable(db)
                    _fill(db, swarm, node_id)
                # Of a store that was removed; it would be rolled back into this one.
                Path(f"{path}-journal").unlink(missing_ok=True)
                # The name appears with the whole store behind it or not at all.
                os.link(name, path)
            finally:
                Path(name).unlink(missing_ok=True)
            _sync_folder(folder)
        except (OSError, sqlite3.Error) as error:
            what = getattr(error, "strerror", None) or str(error)
            raise RoundError.of("QRES-E602", str(path), what, "name another folder") from error
        return cls(folder, swarm=swarm, node_id=node_id)

    def _check(self, swarm: str, node_id: NodeId) -> None:
        self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
        _durable(self._db)
        self._db.execute("BEGIN EXCLUSIVE")
        application = self._one("PRAGMA application_id")
        self._db.execute("COMMIT")
        if application != APPLICATION_ID:
            raise self._unusable("not a store of secure aggregation")
        version = self._one("PRAGMA user_version")
        if version != SCHEMA_VERSION:
            what = f"version {version}; this qres-secagg reads version {SCHEMA_VERSION}"
            raise self._unusable(what, "run the qres-secagg that wrote it")
        if self._one("PRAGMA quick_check") != "ok":
            raise self._unusable("the file is damaged")
        if self._db.execute("SELECT swarm, node FROM owner").fetchall() != [(swarm, node_id)]:
            fix = "give every node of every swarm its own node.data_dir"
            raise self._unusable("it belongs to another node or swarm", fix)

    def take(self, sid: bytes, round_number: int) -> bool:
        """Note that the node takes part in a session, durably.

        Args:
            sid: the session id, 32 bytes.
            round_number: the session's round.

        Returns:
            False if the node took part in it before, or if its round is further back than
            :data:`KEPT_ROUNDS`; then it must stay out.

        Raises:
            RoundError: QRES-E602 if the disk does not take it; the node must stay out.
        """
        with self._refusing():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                floor = self._one("SELECT round FROM past")
                query = "INSERT OR IGNORE INTO used VALUES (?, ?)"
                new = round_number > floor and bool(
                    self._db.execute(query, (sid, round_number)).rowcount
                )
                if new and round_number - KEPT_ROUNDS > floor:
                    self._db.execute("UPDATE past SET round = ?", (round_number - KEPT_ROUNDS,))
                    for table in ("used", "spent"):
                        self._db.execute(
                            f"DELETE FROM {table} WHERE round <= ?",  # noqa: S608 - two constants
                            (round_number - KEPT_ROUNDS,),
                        )
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
        return new

    def spend(self, name: bytes, round_number: int) -> None:
        """Note an update that may be part of an opened sum, durably.

        Args:
            name: its fingerprint.
            round_number: round of the session.

        Raises:
            RoundError: QRES-E602; then the shares must not leave.
        """
        with self._refusing():
            self._db.execute("INSERT OR IGNORE INTO spent VALUES (?, ?)", (name, round_number))

    def spent(self, name: bytes) -> bool:
        """Whether :meth:`spend` was called for it."""
        with self._refusing():
            query = "SELECT count(*) FROM spent WHERE name = ?"
            return bool(self._db.execute(query, (name,)).fetchone()[0])

    def of_round(self, number: int) -> RoundHistory:
        """What a client of that round asks."""
        return RoundHistory(self, number)

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def _one(self, query: str) -> Any:
        row = self._db.execute(query).fetchone()
        return None if row is None else row[0]

    def _unusable(self, what: str, fix: str = _KEEP) -> RoundError:
        return RoundError.of("QRES-E602", self._path, what, fix)

    @contextmanager
    def _refusing(self) -> Generator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
                fix = "stop the other process; a node runs once"
                raise self._unusable("another process has it open", fix) from error
            raise self._unusable(str(error)) from error
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise self._unusable(str(error)) from error
        except OSError as error:
            fix = "name another folder"
            raise self._unusable(error.strerror or str(error), fix) from error


def _durable(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA synchronous=FULL")
    db.execute("PRAGMA fullfsync=ON")  # macOS: past the drive's own cache


def _fill(db: sqlite3.Connection, swarm: str, node_id: NodeId) -> None:
    db.execute("BEGIN EXCLUSIVE")
    db.execute(f"PRAGMA application_id={APPLICATION_ID}")
    db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
    db.execute("CREATE TABLE owner (swarm TEXT NOT NULL, node BLOB NOT NULL)")
    db.execute("CREATE TABLE used (sid BLOB PRIMARY KEY, round INTEGER NOT NULL)")
    db.execute("CREATE TABLE spent (name BLOB PRIMARY KEY, round INTEGER NOT NULL)")
    db.execute("CREATE TABLE past (round INTEGER NOT NULL)")
    db.execute("INSERT INTO owner VALUES (?, ?)", (swarm, node_id))
    db.execute("INSERT INTO past VALUES (-1)")
    db.execute("COMMIT")


def _sync_folder(folder: Path) -> None:
    """Make the name of a new file durable."""
    if os.name != "posix":  # Windows opens no folders, and needs no such call
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@attrs.frozen
class RoundHistory:
    """A :class:`~qres_secagg.client.History` that notes the round along with everything."""

    store: Store
    number: int

    def begin(self, sid: bytes) -> bool:
        """See :meth:`Store.take`."""
        return self.store.take(sid, self.number)

    def spend(self, fingerprint: bytes) -> None:
        """See :meth:`Store.spend`."""
        self.store.spend(fingerprint, self.number)

    def spent(self, fingerprint: bytes) -> bool:
        """See :meth:`Store.spent`."""
        return self.store.spent(fingerprint)
