"""The CA's index: what it issued, what it revoked, and its newest CRL. The truth behind crl.pem."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import attrs

from qres_core import RoundError

_APPLICATION: Final = 0x71726361  # "qrca"
_SCHEMA: Final = """
BEGIN IMMEDIATE;
CREATE TABLE ca (swarm TEXT NOT NULL, crl_days INTEGER NOT NULL, number INTEGER NOT NULL,
                 this_update INTEGER NOT NULL, crl BLOB NOT NULL);
CREATE TABLE issued (serial TEXT PRIMARY KEY, name TEXT NOT NULL, public_key TEXT NOT NULL,
                     roles TEXT NOT NULL, not_before INTEGER NOT NULL, not_after INTEGER NOT NULL,
                     certificate BLOB NOT NULL, revoked INTEGER, reason TEXT);
"""


@attrs.frozen
class Issued:
    """A certificate in the index.

    Attributes:
        serial: serial number, hex.
        name: the node's name.
        public_key: its identity, hex.
        roles: what it may do.
        not_before: first second of validity, seconds since 1970.
        not_after: last second of validity.
        certificate: DER.
        revoked: when it was revoked, or ``None``.
        reason: why, or ``None``.
    """

    serial: str
    name: str
    public_key: str
    roles: tuple[str, ...]
    not_before: int
    not_after: int
    certificate: bytes
    revoked: int | None = None
    reason: str | None = None

    def status(self, now: float) -> str:
        """``revoked``, ``expired``, ``not yet valid`` or ``valid``."""
        if self.revoked is not None:
            return "revoked"
        if now > self.not_after:
            return "expired"
        return "not yet valid" if now < self.not_before else "valid"


@attrs.frozen
class CrlState:
    """The newest CRL.

    Attributes:
        number: CRL number.
        this_update: when it was made, seconds since 1970.
        pem: the CRL.
    """

    number: int
    this_update: int
    pem: bytes


class Index:
    """The index of one CA, in SQLite.

    Args:
        path: the database.

    Raises:
        RoundError: QRES-E602, it is missing, corrupt or something else.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        if not path.is_file():
            raise self._unusable("there is no index")
        self._database = sqlite3.connect(path, isolation_level=None, timeout=30.0)
        try:
            with self._named():
                (application,) = self._one("PRAGMA application_id")
                (health,) = self._one("PRAGMA quick_check")
                if application != _APPLICATION or health != "ok":
                    raise self._unusable("not the index of a CA, or damaged")
                swarm, days = self._one("SELECT swarm, crl_days FROM ca")
                self.swarm, self.crl_days = str(swarm), int(days)
        except RoundError:
            self._database.close()
            raise

    @classmethod
    def create(cls, path: Path, swarm: str, crl_days: int, crl: CrlState) -> None:
        """Make the index of a new CA, readable by its owner only.

        Raises:
            FileExistsError: it exists.
        """
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        database = sqlite3.connect(path, isolation_level=None)
        try:
            database.executescript(_SCHEMA + f"PRAGMA application_id = {_APPLICATION};")
            row = (swarm, crl_days, crl.number, crl.this_update, crl.pem)
            database.execute("INSERT INTO ca VALUES (?, ?, ?, ?, ?)", row)
            database.execute("COMMIT")
        finally:
            database.close()

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _unusable(self, what: str) -> RoundError:
        fix = "name a folder made by `qres ca init`, or restore it from a backup"
        return RoundError.of("QRES-E602", str(self._path), what, fix)

    @contextmanager
    def _named(self) -> Generator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._unusable(str(error)) from error

    def _one(self, query: str) -> tuple[Any, ...]:
        row: Any = self._database.execute(query).fetchone()
        if row is None:
            raise self._unusable("the index is empty")
        return tuple(row)

    @contextmanager
    def changing(self) -> Generator[None]:
        """One transaction: nobody else changes the index meanwhile, and all of it or none counts.

        Raises:
            RoundError: QRES-E602, the index cannot be read or written.
        """
        with self._named():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException:
                self._database.execute("ROLLBACK")
                raise

    def all(self) -> tuple[Issued, ...]:
        """Every certificate, in the order they were issued."""
        with self._named():
            rows: list[Any] = self._database.execute(
                "SELECT serial, name, public_key, roles, not_before, not_after, certificate,"
                " revoked, reason FROM issued ORDER BY rowid"
            ).fetchall()
        return tuple(
            Issued(serial, name, public_key, tuple(roles.split()), *rest)
            for serial, name, public_key, roles, *rest in rows
        )

    def add(self, issued: Issued) -> None:
        """Take in a new certificate; inside :meth:`changing`."""
        self._database.execute(
            "INSERT INTO issued VALUES (?, ?, ?, ?, ?, ?, ?, NULL, NULL)",
            (
                issued.serial,
                issued.name,
                issued.public_key,
                " ".join(issued.roles),
                issued.not_before,
                issued.not_after,
                issued.certificate,
            ),
        )

    def revoke(self, serial: str, moment: int, reason: str) -> None:
        """Mark a certificate as revoked; inside :meth:`changing`."""
        self._database.execute(
            "UPDATE issued SET revoked = ?, reason = ? WHERE serial = ? AND revoked IS NULL",
            (moment, reason, serial),
        )

    @property
    def crl(self) -> CrlState:
        """The newest CRL."""
        with self._named():
            return CrlState(*self._one("SELECT number, this_update, crl FROM ca"))

    @crl.setter
    def crl(self, state: CrlState) -> None:
        self._database.execute(
            "UPDATE ca SET number = ?, this_update = ?, crl = ?",
            (state.number, state.this_update, state.pem),
        )
