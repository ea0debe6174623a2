"""The keys of a stream of correlated noise, on disk: a node that starts again goes on with it.

Noise of a step takes back part of the noise of earlier steps, so these must be known. They are
functions of their keys, 32 bytes a step, which is what is kept. The file is secret: with it and the
releases, the updates of the whole stream can be computed. It belongs to one stream of one node and
is made for its owner alone (mode 0600). Independent noise keeps no such file.

A key is on the disk before ``append`` returns (``synchronous=FULL``), and is to be appended before
the ledger is charged and the noise leaves. So the file knows of every release in the ledger, and
one that knows of fewer was deleted or put back from an older copy, and is refused.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import weakref
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from qres_core import RoundError
from qres_dp.correlated.factor import LONGEST_STREAM
from qres_dp.randomness import KEY_BYTES

FILE: Final = "dp-noise.sqlite"
APPLICATION_ID: Final = 0x5152444E
"""``QRDN`` in ASCII: marks the file's kind in its header."""
VERSION: Final = 1

_KEEP: Final = (
    "bring the file back as it was; only to end the stream and begin another, at a further cost in "
    "privacy, move it away"
)


def _link(previous: bytes, step: int, key: bytes) -> bytes:
    body = b"qres/dp/noise/v1\0" + previous + step.to_bytes(8, "little") + key
    return hashlib.sha256(body).digest()


class KeyHistory:
    """The keys of one stream, in order; each record is chained to the one before.

    Args:
        folder: the node's data folder, or ``None`` to keep the keys in memory.
        stream: names the stream: everything its noise depends on beside the keys (swarm, node,
            factor, variance, dimension). A file of another stream is refused.
        released: steps the ledger knows of; the file must know of at least as many.

    Raises:
        RoundError: QRES-E602 for a file that is damaged, of another stream, open to others, or
            short of keys. Every method raises it when the disk does not take a key.

    Complexity: opening reads everything, O(steps).
    """

    def __init__(self, folder: Path | None, stream: bytes, *, released: int = 0) -> None:
        self._where = "noise keys" if folder is None else str(folder / FILE)
        self._keys: list[bytes] = []
        self._head = hashlib.sha256(b"qres/dp/stream/v1\0" + stream).digest()
        self._db: sqlite3.Connection | None = None
        if folder is None:
            return
        with self._refusing():
            fresh = self._claim(folder / FILE)
            db = sqlite3.connect(self._where, isolation_level=None, check_same_thread=False)
            try:
                db.execute("PRAGMA synchronous=FULL")
                db.execute("PRAGMA fullfsync=ON")
                if fresh:
                    self._create(db)
                self._load(db, released)
            except BaseException:
                db.close()
                raise
            self._db = db
            # Also where nobody tears the plugin down, as in an experiment that is given up.
            weakref.finalize(self, db.close)

    @staticmethod
    def _claim(path: Path) -> bool:
        """Make the file, empty and for its owner alone; false if there is one."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        except FileExistsError:
            return path.stat().st_size == 0  # its maker was killed before it wrote anything
        return True

    def _create(self, db: sqlite3.Connection) -> None:
        db.execute("BEGIN IMMEDIATE")
        db.execute(f"PRAGMA application_id={APPLICATION_ID}")
        db.execute(f"PRAGMA user_version={VERSION}")
        db.execute("CREATE TABLE stream (head BLOB NOT NULL)")
        db.execute(
            "CREATE TABLE step (number INTEGER PRIMARY KEY, key BLOB NOT NULL, link BLOB NOT NULL)"
        )
        db.execute("INSERT INTO stream VALUES (?)", (self._head,))
        db.execute("COMMIT")

    def _load(self, db: sqlite3.Connection, released: int) -> None:
        kind = db.execute("PRAGMA application_id").fetchone()[0]
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if (kind, version) != (APPLICATION_ID, VERSION):
            raise self._unusable("not a file of noise keys, or of another version")
        if os.name == "posix":
            mode = Path(self._where).stat().st_mode & 0o777
            if mode & 0o077:
                fix = "if nobody else has read it, chmod 600"
                raise self._unusable(f"mode {mode:03o}: others can read the noise", fix)
        if db.execute("PRAGMA integrity_check").fetchone()[0] != "ok":
            raise self._unusable("the file is damaged")
        if db.execute("SELECT head FROM stream").fetchall() != [(self._head,)]:
            raise self._unusable("it belongs to another stream of noise")
        query = "SELECT number, key, link FROM step ORDER BY number LIMIT ?"
        for number, key, link in db.execute(query, (LONGEST_STREAM + 1,)):
            sound = type(key) is bytes and len(key) == KEY_BYTES and number == len(self._keys)
            if not sound or link != _link(self._head, number, key):
                raise self._unusable(f"the record of step {number} is damaged")
            self._keys.append(key)
            self._head = link
        if len(self._keys) < released:
            raise self._unusable(f"{len(self._keys)} keys, and {released} releases in the ledger")

    def _unusable(self, what: str, fix: str = _KEEP) -> RoundError:
        return RoundError.of("QRES-E602", self._where, what, fix)

    @contextmanager
    def _refusing(self) -> Generator[None]:
        try:
            yield
        except (OSError, sqlite3.Error, UnicodeDecodeError) as error:
            raise self._unusable(str(error)) from error

    @property
    def keys(self) -> tuple[bytes, ...]:
        """The keys of all steps taken, first to last."""
        return tuple(self._keys)

    def append(self, key: bytes) -> None:
        """Keep the key of the next step; it is on the disk when this returns.

        Args:
            key: 32 bytes, never used before.

        Raises:
            RoundError: QRES-E602 when it cannot be kept, or was used before.
        """
        if len(key) != KEY_BYTES or key in self._keys:
            raise self._unusable("a key of another length, or one that was used before")
        number = len(self._keys)
        link = _link(self._head, number, key)
        if self._db is not None:
            with self._refusing():
                self._db.execute("INSERT INTO step VALUES (?, ?, ?)", (number, key, link))
        self._keys.append(key)
        self._head = link

    def close(self) -> None:
        """Let go of the file; idempotent."""
        if self._db is not None:
            self._db.close()
