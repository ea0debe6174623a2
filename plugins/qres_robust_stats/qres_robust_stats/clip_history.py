"""What centred clipping returned for which model, kept so that a crash mixes nothing up.

A history knows two vectors at most: what *made* the current model, and what the rule *returned* for
a round on it. When the round closes, the second becomes the first, under the digest of the new
model. On disk both are rows of ``centred_clipping.sqlite``, each with its SHA-256; every change is
one transaction, on the disk when the method returns. A file that was lost begins empty: what it
would have said is then not known, and the rule refuses rather than guess.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import tempfile
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Protocol

import attrs
import numpy as np

from qres_core import NodeInfo, RoundError, Vector

FILE: Final = "centred_clipping.sqlite"
APPLICATION_ID: Final = 0x51524343
SCHEMA_VERSION: Final = 1

_NEW: Final = f"{FILE}.new-"
_READ: Final = "SELECT model, vector, digest FROM kept WHERE name = ?"


class ClipHistory(Protocol):
    """What the rule returned, by model digest."""

    def made(self, model: bytes) -> Vector | None:
        """Return what made a model, or ``None`` if that is not known."""
        ...

    def returned(self, parent: bytes, vector: Vector) -> None:
        """Keep what the rule returned for a round on ``parent``; a later one replaces it."""
        ...

    def became(self, parent: bytes, child: bytes) -> None:
        """Keep that what was returned for ``parent`` made ``child``; forget what made ``parent``.

        Where nothing was returned for ``parent``, nothing is known of ``child`` either.
        """
        ...

    def close(self) -> None:
        """Let go of the file; idempotent."""
        ...


def open_history(node_info: NodeInfo) -> ClipHistory:
    """Open the node's history, in its folder or, where it has none, in memory.

    Raises:
        RoundError: QRES-E602.
    """
    if node_info.data_dir is None:
        return MemoryHistory()
    return SqliteHistory(Path(node_info.data_dir), node_info)


@attrs.define
class MemoryHistory:
    """A history that ends with the process, for simulations."""

    _made: tuple[bytes, Vector] | None = None
    _returned: tuple[bytes, Vector] | None = None

    def made(self, model: bytes) -> Vector | None:
        """See :class:`ClipHistory`."""
        return self._made[1] if self._made and self._made[0] == model else None

    def returned(self, parent: bytes, vector: Vector) -> None:
        """See :class:`ClipHistory`."""
        self._returned = parent, vector.copy()

    def became(self, parent: bytes, child: bytes) -> None:
        """See :class:`ClipHistory`."""
        known = self._returned is not None and self._returned[0] == parent
        self._made = (child, self._returned[1]) if known and self._returned else None
        self._returned = None

    def close(self) -> None:
        """See :class:`ClipHistory`."""


class SqliteHistory:
    """A history in one SQLite file; one process at a time.

    Args:
        folder: the node's own folder; made (mode 0700) if it is not there. The file has mode 0600.
        node_info: the swarm and the node the file is bound to.

    Raises:
        RoundError: QRES-E602 when the file is damaged, of another swarm, node or version, open
            elsewhere, or cannot be made. Every method raises it when the disk does not take what
            must be kept.

    Complexity: :meth:`returned` writes the vector and syncs; the others O(1) beside reading it.
    """

    def __init__(self, folder: Path, node_info: NodeInfo) -> None:
        self._path = folder / FILE
        owner = hashlib.sha256(
            b"qres/centred-clipping/owner/v1\0"
            + node_info.swarm.encode()
            + b"\0"
            + node_info.node_id
        ).digest()
        with self._refusing():
            if not self._path.exists():
                self._create(owner)
            uri = f"{self._path.resolve().as_uri()}?mode=rw"
            self._db = sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None)
        try:
            with self._refusing():
                self._open(owner)
        except BaseException:
            self._db.close()
            raise

    def made(self, model: bytes) -> Vector | None:
        """See :class:`ClipHistory`."""
        with self._refusing():
            return self._read("made", model)

    def returned(self, parent: bytes, vector: Vector) -> None:
        """See :class:`ClipHistory`."""
        octets = np.ascontiguousarray(vector, dtype="<i4").tobytes()
        with self._transaction():
            self._db.execute(
                "REPLACE INTO kept VALUES ('returned', ?, ?, ?)",
                (parent, octets, _digest("returned", parent, octets)),
            )

    def became(self, parent: bytes, child: bytes) -> None:
        """See :class:`ClipHistory`."""
        with self._transaction():
            vector = self._read("returned", parent)
            self._db.execute("DELETE FROM kept WHERE name IN ('made', 'returned')")
            if vector is not None:
                octets = np.ascontiguousarray(vector, dtype="<i4").tobytes()
                self._db.execute(
                    "INSERT INTO kept VALUES ('made', ?, ?, ?)",
                    (child, octets, _digest("made", child, octets)),
                )

    def close(self) -> None:
        """See :class:`ClipHistory`."""
        self._db.close()

    def _create(self, owner: bytes) -> None:
        folder = self._path.parent
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=_NEW, dir=folder)  # mode 0600
        os.close(handle)
        try:
            with closing(sqlite3.connect(name, isolation_level=None)) as db:
                db.execute("PRAGMA synchronous=FULL")
                db.execute("BEGIN")
                db.execute(f"PRAGMA application_id={APPLICATION_ID}")
                db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
                db.execute(
                    "CREATE TABLE kept (name TEXT PRIMARY KEY, model BLOB NOT NULL, "
                    "vector BLOB NOT NULL, digest BLOB NOT NULL)"
                )
                db.execute(
                    "INSERT INTO kept VALUES ('owner', ?, x'', ?)",
                    (owner, _digest("owner", owner, b"")),
                )
                db.execute("COMMIT")
            # The name appears with the whole file behind it or not at all.
            with suppress(FileExistsError):
                os.link(name, self._path)
        finally:
            Path(name).unlink(missing_ok=True)
        _sync_folder(folder)

    def _open(self, owner: bytes) -> None:
        # Before the first access, so that the lock is held from there until `close`.
        self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
        if self._one("PRAGMA application_id") != APPLICATION_ID:
            raise self._unusable("not a history of centred clipping")
        version = self._one("PRAGMA user_version")
        if version != SCHEMA_VERSION:
            what = f"version {version}; this qres-robust-stats reads version {SCHEMA_VERSION}"
            raise self._unusable(what, "run the qres-robust-stats that wrote it")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("PRAGMA fullfsync=ON")  # macOS: past the drive's own cache
        self._db.execute("BEGIN EXCLUSIVE")
        self._db.execute("COMMIT")
        if self._one("PRAGMA quick_check") != "ok":
            raise self._unusable("the file is damaged")
        if self._read("owner", owner) is None:
            fix = "give every node of every swarm its own node.data_dir"
            raise self._unusable("it belongs to another swarm or node", fix)
        for leftover in self._path.parent.glob(f"{_NEW}*"):  # of a node killed in its creation
            leftover.unlink(missing_ok=True)

    def _one(self, query: str) -> Any:
        row = self._db.execute(query).fetchone()
        return None if row is None else row[0]

    def _read(self, name: str, model: bytes) -> Vector | None:
        row = self._db.execute(_READ, (name,)).fetchone()
        if row is None:
            return None
        found, octets, digest = row
        if not (type(found) is type(octets) is bytes) or _digest(name, found, octets) != digest:
            raise self._unusable(f"the record {name!r} is damaged")
        if found != model:
            return None
        return np.frombuffer(octets, dtype="<i4").astype(np.int32)

    def _unusable(self, what: str, fix: str | None = None) -> RoundError:
        keep = "restore the file, or move it away: the node then follows the others by snapshots"
        return RoundError.of("QRES-E602", str(self._path), what, fix or keep)

    @contextmanager
    def _refusing(self) -> Generator[None]:
        """Turn what SQLite and the disk say into the named error."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
                fix = "stop the other process; a node runs once"
                raise self._unusable("another process has it open", fix) from error
            raise self._unusable(str(error)) from error
        except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter of a damaged schema
            raise self._unusable(str(error)) from error
        except OSError as error:
            raise self._unusable(error.strerror or str(error), "name another folder") from error

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


def _digest(name: str, model: bytes, octets: bytes) -> bytes:
    head = b"qres/centred-clipping/v1\0" + name.encode() + b"\0" + model
    return hashlib.sha256(head + octets).digest()


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the system has a way to."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
