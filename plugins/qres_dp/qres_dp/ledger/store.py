"""The ledger on disk: one SQLite file, its key and its anchor, of one node or of one data set.

A record is on the disk when :meth:`LedgerStore.append` returns, and no noised data leave before.
Several processes may have the ledger of a data set open. Each reads what the others wrote under the
lock that it writes with. Nothing is repaired or begun anew: a node whose ledger cannot be trusted
does not know what it spent, and says nothing more.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Self

import attrs

from qres_core import NodeId, stores
from qres_core.errors import RoundError, WireError
from qres_dp.ledger import anchor as anchors
from qres_dp.ledger import key as keys
from qres_dp.ledger.anchor import Anchor
from qres_dp.ledger.record import LedgerEntry, genesis, tag_of

FILE: Final = "dp-ledger.sqlite"
APPLICATION_ID: Final = 0x51524450
"""``QRDP`` in ASCII: marks the file's kind in its header."""
SCHEMA_VERSION: Final = 2
"""Version 1 named releases and charged a name once. It is refused, and not migrated: what its names
stand for is not known any more."""

KIND: Final = stores.StoreKind(
    file=FILE,
    name="a privacy ledger of QRES",
    application_id=APPLICATION_ID,
    version=SCHEMA_VERSION,
    reader="qres-dp",
    remedy=keys.REMEDY,
    instead="keep the file, take what it spent off plugins.dp.epsilon, and begin a new swarm with "
    "new folders",
    shared=True,  # other nodes with the same data, and `qres dp`
)
BESIDE: Final = (keys.FILE, anchors.FILE)
"""What is read together with the file."""


@attrs.frozen
class Owner:
    """Owner of a ledger, and the relation and unit it is kept for."""

    swarm: str  # the swarm's name; empty for the ledger of a data set
    node: NodeId  # the node's identity; empty for the ledger of a data set
    relation: str  # the neighbouring relation; epsilons of two relations do not add up
    unit: str  # whose data are protected as a whole; nor do those of two units

    @classmethod
    def of_data_set(cls, relation: str, unit: str) -> Owner:
        """The owner of a ledger that all nodes with the same data share."""
        return cls("", NodeId(b""), relation, unit)


class LedgerStore:
    """The open file, checked from the first record to the last.

    Args:
        folder: of the node, or of the data set.

    Raises:
        RoundError: QRES-E602 when the ledger, its key or its anchor is missing, damaged, cut short
            or of another version.

    Complexity: O(records).
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._db = stores.PrivateDatabase.open(folder, KIND)
        try:
            self._key = keys.read(folder)
            self.records: list[LedgerEntry] = []
            with self._db.transaction():  # in which nobody writes a record or an anchor
                self._open()
        except BaseException:
            self._db.close()
            raise

    @staticmethod
    def exists(folder: Path) -> bool:
        """True if there is a ledger here, or what is left of one.

        A key alone is none: it is made first, and nothing was charged with it.
        """
        return stores.PrivateDatabase.exists(folder, KIND) or (folder / anchors.FILE).exists()

    @classmethod
    def create(cls, folder: Path, owner: Owner) -> Self:
        """Begin a ledger where there is none. Mode 0600, a new folder 0700.

        Raises RoundError: QRES-E602 when it cannot be made.
        """

        def fill(database: stores.PrivateDatabase) -> None:
            database.execute(
                "CREATE TABLE owner (swarm TEXT NOT NULL, node BLOB NOT NULL, "
                "relation TEXT NOT NULL, unit TEXT NOT NULL)"
            )
            database.execute(
                "CREATE TABLE record "
                "(idx INTEGER PRIMARY KEY, body BLOB NOT NULL, tag BLOB NOT NULL)"
            )
            database.execute("INSERT INTO owner VALUES (?, ?, ?, ?)", attrs.astuple(owner))

        keys.make(folder)
        stores.PrivateDatabase.create(folder, KIND, fill).close()
        return cls(folder)

    # ── opening ───────────────────────────────────────────────────────────────────────────────

    def _open(self) -> None:
        row = self._db.row("SELECT swarm, node, relation, unit FROM owner")
        if row is None or tuple(map(type, row)) != (str, bytes, str, str):
            raise self.unusable("the file does not say whose it is")
        self.owner = Owner(*row)
        self._begins = self._last = genesis(self._key, row)
        self.refresh()
        self._hold_to(anchors.read(self._folder, self._key))
        anchors.sweep(self._folder)

    def refresh(self) -> Sequence[LedgerEntry]:
        """Read what other processes wrote since, checked; all of it the first time.

        Raises RoundError: QRES-E602 for records that are damaged, gone, or of another chain.
        """
        known = len(self.records)
        query = "SELECT idx, tag FROM record WHERE idx >= ? ORDER BY idx LIMIT 2"
        place = self._db.rows(query, max(known, 1))
        if known and (not place or place.pop(0) != (known, self._last)):
            raise self.unusable(f"record {known} was changed or removed while it was open")
        if not place:
            return ()
        query = "SELECT idx, body, tag FROM record WHERE idx > ? ORDER BY idx"
        fresh, self._last = self._chain(self._db.rows(query, known))
        self.records.extend(fresh)
        return fresh

    def _chain(self, rows: Sequence[tuple[Any, Any, Any]]) -> tuple[list[LedgerEntry], bytes]:
        """Records that follow on those known, and the tag of the last of them."""
        records: list[LedgerEntry] = []
        previous = self._last
        for expected, (index, body, tag) in enumerate(rows, start=len(self.records) + 1):
            try:
                record = LedgerEntry.from_bytes(body) if type(body) is bytes else None
            except WireError as error:
                what = f"record {expected} is damaged: {error.problems[0].what}"
                raise self.unusable(what) from error
            if record is None or (index, record.index) != (expected, expected):
                raise self.unusable(f"record {expected} is missing or damaged")
            if record.previous != previous:
                raise self.unusable(f"record {expected} does not follow from those before it")
            previous = tag_of(self._key, body)
            if type(tag) is not bytes or not hmac.compare_digest(tag, previous):
                raise self.unusable(f"record {expected} was not written with the ledger's key")
            records.append(record)
        return records, previous

    def _hold_to(self, found: Anchor | None) -> None:
        if found is None:
            if self.records:
                raise self.unusable(f"its anchor {anchors.FILE} is gone")
            self._write_anchor()  # killed between the two files
            return
        if not 0 <= found.count <= len(self.records):
            what = f"{found.count} records were written and {len(self.records)} are here"
            raise self.unusable(what)
        if self._tag_of(found.count) != found.head:
            raise self.unusable(f"its records are not those its anchor {anchors.FILE} names")
        if found.count < len(self.records):
            self._write_anchor()  # killed between the two writes

    def _tag_of(self, count: int) -> bytes:
        return self.records[count - 1].tag(self._key) if count else self._begins

    # ── writing ───────────────────────────────────────────────────────────────────────────────

    def append(self, make: Callable[[bytes], LedgerEntry]) -> LedgerEntry:
        """Write a record; durable when this returns.

        ``make``: called with the tag of the last record once all others are read and nobody else
        can write. What it raises is raised, and nothing is written. Raises RoundError: QRES-E602
        when the disk does not take it.
        """
        with self._db.transaction():
            self.refresh()
            record = make(self._last)
            body = record.to_bytes()
            tag = tag_of(self._key, body)
            self._db.execute("INSERT INTO record VALUES (?, ?, ?)", (record.index, body, tag))
        self.records.append(record)
        self._last = tag
        with self._db.transaction():
            self.refresh()
            self._write_anchor()
        return record

    def _write_anchor(self) -> None:
        """Write it, under the lock, so that no slower process puts back an older one."""
        anchors.write(self._folder, Anchor(len(self.records), self._last), self._key)

    def close(self) -> None:
        """Let go of the file; idempotent."""
        self._db.close()

    def unusable(self, what: str, fix: str | None = None) -> RoundError:
        """The error that refuses the ledger."""
        return self._db.unusable(what, fix)
