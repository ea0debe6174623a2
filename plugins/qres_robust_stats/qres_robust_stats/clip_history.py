"""Results of centred clipping by model, kept so that a crash mixes nothing up.

A history knows two vectors at most: what *made* the current model, and what the rule *returned* for
a round on it. When the round closes, the second becomes the first, under the digest of the new
model. On disk both are rows of ``centred_clipping.sqlite``, each with its SHA-256; every change is
one transaction, on the disk when the method returns. A file that was lost begins empty: what it
would have said is then not known, and the rule refuses rather than guess.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final, Protocol

import attrs
import numpy as np

from qres_core import NodeInfo, Vector, canonical, stores

FILE: Final = "centred_clipping.sqlite"
APPLICATION_ID: Final = 0x51524343
SCHEMA_VERSION: Final = 1

_KIND: Final = stores.StoreKind(
    file=FILE,
    name="a history of centred clipping",
    application_id=APPLICATION_ID,
    version=SCHEMA_VERSION,
    reader="qres-robust-stats",
    remedy="restore the file, or move it away: the node then follows the others by snapshots",
)
_READ: Final = "SELECT model, vector, digest FROM kept WHERE name = ?"


class ClipHistory(Protocol):
    """Results of the rule, by model digest."""

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

    Raises RoundError: QRES-E602.
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

    def raw(self) -> bytes:
        """Source of the current model, for a simulation's checkpoint; empty if it is not known."""
        if self._made is None:
            return b""
        model, vector = self._made
        return canonical.dumps([model, vector.astype("<i4").tobytes()])

    @classmethod
    def of_raw(cls, memory: bytes) -> MemoryHistory:
        """Read bytes of :meth:`raw`. Raises ValueError, TypeError or WireError for other bytes."""
        model, octets = canonical.loads(memory, max_bytes=len(memory))
        if type(model) is not bytes:
            raise TypeError("expected the digest of a model")
        return cls((model, np.frombuffer(octets, dtype="<i4").astype(np.int32)))


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
        owner = hashlib.sha256(
            b"qres/centred-clipping/owner/v1\0"
            + node_info.swarm.encode()
            + b"\0"
            + node_info.node_id
        ).digest()

        def fill(database: stores.PrivateDatabase) -> None:
            database.execute(
                "CREATE TABLE kept (name TEXT PRIMARY KEY, model BLOB NOT NULL, "
                "vector BLOB NOT NULL, digest BLOB NOT NULL)"
            )
            database.execute(
                "INSERT INTO kept VALUES ('owner', ?, x'', ?)",
                (owner, _digest("owner", owner, b"")),
            )

        self._db = stores.PrivateDatabase.open(folder, _KIND, fill)
        try:
            self._db.expect_owner(swarm_or_node=(True, self._read("owner", owner) is not None))
        except BaseException:
            self._db.close()
            raise

    def made(self, model: bytes) -> Vector | None:
        """See :class:`ClipHistory`."""
        return self._read("made", model)

    def returned(self, parent: bytes, vector: Vector) -> None:
        """See :class:`ClipHistory`."""
        octets = np.ascontiguousarray(vector, dtype="<i4").tobytes()
        with self._db.transaction():
            self._db.execute(
                "REPLACE INTO kept VALUES ('returned', ?, ?, ?)",
                (parent, octets, _digest("returned", parent, octets)),
            )

    def became(self, parent: bytes, child: bytes) -> None:
        """See :class:`ClipHistory`."""
        with self._db.transaction():
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

    def _read(self, name: str, model: bytes) -> Vector | None:
        row = self._db.row(_READ, name)
        if row is None:
            return None
        found, octets, digest = row
        if not (type(found) is type(octets) is bytes) or _digest(name, found, octets) != digest:
            raise self._db.unusable(f"the record {name!r} is damaged")
        if found != model:
            return None
        return np.frombuffer(octets, dtype="<i4").astype(np.int32)


def _digest(name: str, model: bytes, octets: bytes) -> bytes:
    head = b"qres/centred-clipping/v1\0" + name.encode() + b"\0" + model
    return hashlib.sha256(head + octets).digest()
