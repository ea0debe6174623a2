"""The CA's index: what it issued, what it revoked, and its newest CRL. The truth behind crl.pem."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

import attrs

from qres_core import stores

FILE: Final = "index.sqlite3"
_KIND: Final = stores.StoreKind(
    file=FILE,
    name="the index of a CA",
    application_id=0x71726361,  # "qrca"
    version=0,
    reader="qres-pki",
    remedy="name a folder made by `qres ca init`, or restore it from a backup",
    shared=True,  # two commands may run at once
)
_CA: Final = """
CREATE TABLE ca (swarm TEXT NOT NULL, crl_days INTEGER NOT NULL, number INTEGER NOT NULL,
                 this_update INTEGER NOT NULL, crl BLOB NOT NULL)
"""
_ISSUED: Final = """
CREATE TABLE issued (serial TEXT PRIMARY KEY, name TEXT NOT NULL, public_key TEXT NOT NULL,
                     roles TEXT NOT NULL, not_before INTEGER NOT NULL, not_after INTEGER NOT NULL,
                     certificate BLOB NOT NULL, revoked INTEGER, reason TEXT)
"""


@attrs.frozen
class Issued:
    """A certificate in the index."""

    serial: str  # serial number, hex
    name: str  # the node's name
    public_key: str  # its identity, hex
    roles: tuple[str, ...]  # what it may do
    not_before: int  # first second of validity, seconds since 1970
    not_after: int  # last second of validity
    certificate: bytes  # DER
    revoked: int | None = None  # when it was revoked, or ``None``
    reason: str | None = None  # why, or ``None``

    def status(self, now: float) -> str:
        """``revoked``, ``expired``, ``not yet valid`` or ``valid``."""
        if self.revoked is not None:
            return "revoked"
        if now > self.not_after:
            return "expired"
        return "not yet valid" if now < self.not_before else "valid"


@attrs.frozen
class CrlState:
    """The newest CRL."""

    number: int  # CRL number
    this_update: int  # when it was made, seconds since 1970
    pem: bytes  # the CRL


class Index:
    """The index of one CA, in SQLite.

    Args:
        folder: the CA's folder.

    Raises:
        RoundError: QRES-E602, it is missing, corrupt or something else.
    """

    def __init__(self, folder: Path) -> None:
        self._db = stores.PrivateDatabase.open(folder, _KIND)
        try:
            swarm, days = self._row("SELECT swarm, crl_days FROM ca")
            self.swarm, self.crl_days = str(swarm), int(days)
        except BaseException:
            self._db.close()
            raise

    @classmethod
    def create(cls, folder: Path, swarm: str, crl_days: int, crl: CrlState) -> None:
        """Make the index of a new CA, readable by its owner only.

        Raises RoundError: QRES-E602, it exists or cannot be made.
        """

        def fill(database: stores.PrivateDatabase) -> None:
            database.execute(_CA)
            database.execute(_ISSUED)
            row = (swarm, crl_days, crl.number, crl.this_update, crl.pem)
            database.execute("INSERT INTO ca VALUES (?, ?, ?, ?, ?)", row)

        stores.PrivateDatabase.create(folder, _KIND, fill).close()

    def close(self) -> None:
        """Close the database; idempotent."""
        self._db.close()

    def _row(self, query: str) -> tuple[Any, ...]:
        row = self._db.row(query)
        if row is None:
            raise self._db.unusable("the index is empty")
        return row

    def changing(self) -> AbstractContextManager[None]:
        """One transaction: nobody else changes the index meanwhile, and all of it or none counts.

        Raises RoundError: QRES-E602, the index cannot be read or written.
        """
        return self._db.transaction()

    def all(self) -> tuple[Issued, ...]:
        """Every certificate, in the order they were issued."""
        rows = self._db.rows(
            "SELECT serial, name, public_key, roles, not_before, not_after, certificate,"
            " revoked, reason FROM issued ORDER BY rowid"
        )
        return tuple(
            Issued(serial, name, public_key, tuple(roles.split()), *rest)
            for serial, name, public_key, roles, *rest in rows
        )

    def add(self, issued: Issued) -> None:
        """Take in a new certificate; inside :meth:`changing`."""
        self._db.execute(
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
        self._db.execute(
            "UPDATE issued SET revoked = ?, reason = ? WHERE serial = ? AND revoked IS NULL",
            (moment, reason, serial),
        )

    @property
    def crl(self) -> CrlState:
        """The newest CRL."""
        return CrlState(*self._row("SELECT number, this_update, crl FROM ca"))

    @crl.setter
    def crl(self, state: CrlState) -> None:
        self._db.execute(
            "UPDATE ca SET number = ?, this_update = ?, crl = ?",
            (state.number, state.this_update, state.pem),
        )
