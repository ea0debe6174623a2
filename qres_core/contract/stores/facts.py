"""A table of named values, each with its digest: what is damaged is told from what is meant."""

from __future__ import annotations

import hashlib
from typing import Any, ClassVar, Final

import attrs

from qres_core.contract import canonical
from qres_core.contract.errors import WireError
from qres_core.contract.stores.database import PrivateDatabase

_TABLE: Final = (
    "CREATE TABLE fact (name TEXT PRIMARY KEY, value BLOB NOT NULL, digest BLOB NOT NULL)"
)


@attrs.frozen
class Facts:
    """The table ``fact`` of a database: canonical CBOR values by name, each with its SHA-256.

    The digest is of the domain, a zero byte, the name, a zero byte and the value.

    Attributes:
        database: the database.
        domain: names the store and its version, so that no value counts in another one.
        PIECE: bytes of :meth:`write_octets` in one record: SQLite takes none of a billion bytes.
    """

    database: PrivateDatabase
    domain: bytes
    PIECE: ClassVar[int] = 2**26

    def lay_out(self) -> None:
        """Make the table; in the ``fill`` of a new database."""
        self.database.execute(_TABLE)

    def digest(self, name: str, value: bytes) -> bytes:
        """Digest that stands beside a value, 32 bytes."""
        return hashlib.sha256(self.domain + b"\0" + name.encode() + b"\0" + value).digest()

    def write(self, name: str, fact: object) -> None:
        """Set a fact, in the transaction that is open or else in one of its own.

        Raises:
            RoundError: QRES-E602 when the disk does not take it.
            WireError: CBOR does not hold ``fact``.
        """
        value = canonical.dumps(fact)
        row = (name, value, self.digest(name, value))
        self.database.execute("REPLACE INTO fact VALUES (?, ?, ?)", row)

    def read(self, name: str) -> Any:
        """A fact.

        Raises:
            RoundError: QRES-E602 when it is missing or damaged.
        """
        query = "SELECT value, digest FROM fact WHERE name = ?"
        value, digest = self.database.row(query, name) or (None, None)
        if type(value) is not bytes or self.digest(name, value) != digest:
            raise self.database.unusable(f"the record {name!r} is damaged")
        try:
            return canonical.loads(value, max_bytes=len(value))
        except WireError as error:
            raise self.database.unusable(f"the record {name!r} cannot be read") from error

    def write_octets(self, name: str, octets: bytes | memoryview) -> None:
        """Set bytes of any length, in facts called by the name, a space and a number from 0.

        Errors as of :meth:`write`.
        """
        for piece, start in enumerate(range(0, len(octets), self.PIECE)):
            self.write(f"{name} {piece}", bytes(octets[start : start + self.PIECE]))

    def read_octets(self, name: str, size: int) -> bytes:
        """So many bytes, as they were set.

        Raises:
            RoundError: QRES-E602 when a part is missing, damaged or of another length.
        """
        parts = [self.read(f"{name} {piece}") for piece in range(-(-size // self.PIECE))]
        octets = b"".join(part for part in parts if type(part) is bytes)
        if len(octets) != size:
            raise self.database.unusable(f"the record {name!r} is of another form")
        return octets
