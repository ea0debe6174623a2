"""The newest CRL ever seen, on disk, so that an older one does not come back after a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from qres_core import stores
from qres_pki.issuer import Revocations

FILE: Final = "pki.sqlite3"
_KIND: Final = stores.StoreKind(
    file=FILE,
    name="a store of qres-pki",
    application_id=0x71726573,  # "qres"
    version=0,
    reader="qres-pki",
    remedy="restore the file from a backup; deleting it forgets which CRLs were seen",
    shared=True,  # a setup may overlap the one before it
)


class HighWater:
    """The greatest CRL number and time seen of each CA.

    Args:
        data_dir: folder of the store, or ``None`` to keep it in memory only.
        swarm: the swarm's name; the store of another swarm is refused.

    Raises:
        RoundError: QRES-E602, the store is corrupt or of another swarm.
    """

    def __init__(self, data_dir: str | None, swarm: str) -> None:
        def fill(database: stores.PrivateDatabase) -> None:
            database.execute("CREATE TABLE swarm (name TEXT NOT NULL)")
            database.execute(
                "CREATE TABLE seen (authority BLOB PRIMARY KEY, number TEXT NOT NULL,"
                " this_update REAL NOT NULL, digest BLOB NOT NULL)"
            )
            database.execute("INSERT INTO swarm VALUES (?)", (swarm,))

        if data_dir is None:
            self._db = stores.PrivateDatabase.in_memory(_KIND, fill)
        else:
            self._db = stores.PrivateDatabase.open(Path(data_dir), _KIND, fill)
        try:
            self._db.expect_owner(swarm=(swarm, self._db.one("SELECT name FROM swarm")))
        except BaseException:
            self._db.close()
            raise

    def seen(self, authority: bytes) -> tuple[int, float, bytes] | None:
        """Number, time and digest of the newest CRL of a CA, or ``None``.

        ``authority``: fingerprint of the CA's key. Raises RoundError: QRES-E602, the store cannot
        be read.
        """
        query = "SELECT number, this_update, digest FROM seen WHERE authority = ?"
        row = self._db.row(query, authority)
        return None if row is None else (int(row[0]), float(row[1]), bytes(row[2]))

    def advance(self, authority: bytes, found: Revocations) -> bool:
        """Take note of a CRL, unless it is older than one seen before.

        ``authority``: fingerprint of the CA's key. Returns false if its number or its time is below
        those seen, or if it has the number of another CRL. A CA never makes such a one. Raises
        RoundError: QRES-E602, the store cannot be read or written; the CRL must then not be used.
        """
        with self._db.transaction():  # nobody else notes a newer one in between
            seen = self.seen(authority)
            if seen is not None:
                number, this_update, digest = seen
                if digest == found.digest:
                    return True
                if found.number <= number or found.this_update < this_update:
                    return False
            self._db.execute(
                "INSERT OR REPLACE INTO seen VALUES (?, ?, ?, ?)",
                (authority, str(found.number), found.this_update, found.digest),
            )
        return True

    def close(self) -> None:
        """Close the store; idempotent."""
        self._db.close()
