"""The newest CRL ever seen, on disk, so that an older one does not come back after a restart."""

from __future__ import annotations

import os
import secrets
import sqlite3
import weakref
from contextlib import closing
from pathlib import Path
from typing import Final

from qres_core import RoundError
from qres_pki.issuer import Revocations

FILE: Final = "pki.sqlite3"
_APPLICATION: Final = 0x71726573  # "qres": a database of somebody else is not taken for ours
_FIX: Final = "restore the file from a backup; deleting it forgets which CRLs were seen"


def _lay_out(database: sqlite3.Connection, swarm: str) -> None:
    database.executescript(
        f"PRAGMA application_id = {_APPLICATION};"
        "CREATE TABLE swarm (name TEXT NOT NULL);"
        "CREATE TABLE seen (authority BLOB PRIMARY KEY, number TEXT NOT NULL,"
        " this_update REAL NOT NULL, digest BLOB NOT NULL);"
    )
    with database:
        database.execute("INSERT INTO swarm VALUES (?)", (swarm,))


def _create(path: Path, swarm: str) -> None:
    """Make a store that is whole from the moment it is there, so an empty one is a damaged one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.new")
    # Created here and not by SQLite, so that nobody else can ever read it.
    os.close(os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        with closing(sqlite3.connect(beside)) as database:
            _lay_out(database, swarm)
        os.link(beside, path)
    finally:
        beside.unlink()


class HighWater:
    """The greatest CRL number and time seen of each CA.

    Args:
        data_dir: folder of the store, or ``None`` to keep it in memory only.
        swarm: the swarm's name; the store of another swarm is refused.

    Raises:
        RoundError: QRES-E602, the store is corrupt or of another swarm.
    """

    def __init__(self, data_dir: str | None, swarm: str) -> None:
        if data_dir is None:
            self._where = ":memory:"
            self._database = sqlite3.connect(self._where)
        else:
            path = Path(data_dir) / FILE
            self._where = str(path)
            try:
                if not path.exists():
                    _create(path, swarm)
                self._database = sqlite3.connect(path)
            except (OSError, sqlite3.Error) as error:
                raise self._unusable(str(error)) from error
        # A plugin that is dropped without `teardown` lets go of the file all the same.
        weakref.finalize(self, self._database.close)
        try:
            if data_dir is None:
                _lay_out(self._database, swarm)
            self._check(swarm)
        except sqlite3.Error as error:
            self._database.close()
            raise self._unusable(str(error)) from error
        except RoundError:
            self._database.close()
            raise

    def _unusable(self, what: str) -> RoundError:
        return RoundError.of("QRES-E602", self._where, what, _FIX)

    def _check(self, swarm: str) -> None:
        (application,) = self._database.execute("PRAGMA application_id").fetchone()
        if application != _APPLICATION:
            what = "not a store of this plugin"
            raise self._unusable(what)
        (health,) = self._database.execute("PRAGMA quick_check").fetchone()
        names = self._database.execute("SELECT name FROM swarm").fetchall()
        if health != "ok" or names != [(swarm,)]:
            what = str(health) if health != "ok" else f"of another swarm, not of {swarm!r}"
            raise self._unusable(what)

    def seen(self, authority: bytes) -> tuple[int, float, bytes] | None:
        """Number, time and digest of the newest CRL of a CA, or ``None``.

        Args:
            authority: fingerprint of the CA's key.

        Raises:
            sqlite3.Error: the store cannot be read.
        """
        row = self._database.execute(
            "SELECT number, this_update, digest FROM seen WHERE authority = ?", (authority,)
        ).fetchone()
        return None if row is None else (int(row[0]), float(row[1]), bytes(row[2]))

    def advance(self, authority: bytes, found: Revocations) -> bool:
        """Take note of a CRL, unless it is older than one seen before.

        Args:
            authority: fingerprint of the CA's key.
            found: the CRL.

        Returns:
            false if its number or its time is below those seen, or if it has the number of another
            CRL. A CA never makes such a one.

        Raises:
            sqlite3.Error: the store cannot be read or written; the CRL must then not be used.
        """
        seen = self.seen(authority)
        if seen is not None:
            number, this_update, digest = seen
            if digest == found.digest:
                return True
            if found.number <= number or found.this_update < this_update:
                return False
        with self._database:
            self._database.execute(
                "INSERT OR REPLACE INTO seen VALUES (?, ?, ?, ?)",
                (authority, str(found.number), found.this_update, found.digest),
            )
        return True

    def close(self) -> None:
        """Close the store; idempotent."""
        self._database.close()
