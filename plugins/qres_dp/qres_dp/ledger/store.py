"""The ledger on disk: one SQLite file and its anchor, of one node of one swarm.

A record is on the disk when :meth:`LedgerStore.append` returns, and no noised data leave before.
Nothing is repaired or begun anew: a node whose ledger cannot be trusted does not know what it
spent, and says nothing more.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self

from qres_core import NodeId, RoundError, WireError, stores
from qres_dp.ledger import anchor as anchors
from qres_dp.ledger.anchor import Anchor
from qres_dp.ledger.record import LedgerEntry, genesis

FILE: Final = "dp-ledger.sqlite"
APPLICATION_ID: Final = 0x51524450
"""``QRDP`` in ASCII: marks the file's kind in its header."""
SCHEMA_VERSION: Final = 1

_KIND: Final = stores.StoreKind(
    file=FILE,
    name="a privacy ledger of QRES",
    application_id=APPLICATION_ID,
    version=SCHEMA_VERSION,
    reader="qres-dp",
    remedy="restore the file; without it nobody knows the privacy spent",
    shared=True,  # `qres dp` reads it
)


class LedgerStore:
    """The open file, checked from the first record to the last.

    Args:
        folder: the node's data folder.

    Raises:
        RoundError: QRES-E602 when the ledger or its anchor is missing, damaged, cut short or of
            another version.

    Complexity: O(records).
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        found = anchors.read(folder)
        self._db = stores.PrivateDatabase.open(folder, _KIND)
        try:
            self._open(found)
        except BaseException:
            self._db.close()
            raise

    @staticmethod
    def exists(folder: Path) -> bool:
        """Whether there is a ledger here, or what is left of one."""
        return stores.PrivateDatabase.exists(folder, _KIND) or (folder / anchors.FILE).exists()

    @classmethod
    def create(cls, folder: Path, swarm: str, node: NodeId, relation: str) -> Self:
        """Begin a ledger where there is none. Mode 0600, a new folder 0700.

        Raises RoundError: QRES-E602 when it cannot be made.
        """

        def fill(database: stores.PrivateDatabase) -> None:
            database.execute(
                "CREATE TABLE owner "
                "(swarm TEXT NOT NULL, node BLOB NOT NULL, relation TEXT NOT NULL)"
            )
            database.execute("CREATE TABLE record (idx INTEGER PRIMARY KEY, body BLOB NOT NULL)")
            database.execute("INSERT INTO owner VALUES (?, ?, ?)", (swarm, node, relation))

        stores.PrivateDatabase.create(folder, _KIND, fill).close()
        return cls(folder)

    # ── opening ───────────────────────────────────────────────────────────────────────────────

    def _open(self, found: Anchor | None) -> None:
        row = self._db.row("SELECT swarm, node, relation FROM owner")
        rows = self._db.rows("SELECT idx, body FROM record ORDER BY idx")
        if row is None or tuple(map(type, row)) != (str, bytes, str):
            raise self.unusable("the file does not say whose it is")
        self.swarm, self.node, self.relation = row
        self.records: list[LedgerEntry] = self._chain(rows)
        self._hold_to(found)
        anchors.sweep(self._folder)

    def _chain(self, rows: Sequence[tuple[Any, Any]]) -> list[LedgerEntry]:
        records: list[LedgerEntry] = []
        previous = genesis(self.swarm, self.node, self.relation)
        for expected, (index, body) in enumerate(rows, start=1):
            try:
                record = LedgerEntry.from_bytes(body) if type(body) is bytes else None
            except WireError as error:
                what = f"record {expected} is damaged: {error.problems[0].what}"
                raise self.unusable(what) from error
            if record is None or (index, record.index) != (expected, expected):
                raise self.unusable(f"record {expected} is missing or damaged")
            if record.previous != previous:
                raise self.unusable(f"record {expected} does not follow from those before it")
            records.append(record)
            previous = record.digest
        return records

    def _hold_to(self, found: Anchor | None) -> None:
        if found is None:
            if self.records:
                raise self.unusable(f"its anchor {anchors.FILE} is gone")
            anchors.write(self._folder, self._anchor())  # killed between the two files
            return
        if (found.swarm, found.node, found.relation) != (self.swarm, self.node, self.relation):
            raise self.unusable(f"its anchor {anchors.FILE} is of another ledger")
        if not 0 <= found.count <= len(self.records):
            what = f"{found.count} records were written and {len(self.records)} are here"
            raise self.unusable(what)
        if self._head(found.count) != found.head:
            raise self.unusable(f"its records are not those its anchor {anchors.FILE} names")
        if found.count < len(self.records):
            anchors.write(self._folder, self._anchor())  # killed between the two writes

    def _head(self, count: int) -> bytes:
        if count:
            return self.records[count - 1].digest
        return genesis(self.swarm, self.node, self.relation)

    def _anchor(self) -> Anchor:
        count = len(self.records)
        return Anchor(self.swarm, self.node, self.relation, count, self._head(count))

    # ── writing ───────────────────────────────────────────────────────────────────────────────

    def append(self, record: LedgerEntry) -> None:
        """Write a record; durable when this returns.

        Raises RoundError: QRES-E602 when the disk does not take it, or another process wrote.
        """
        with self._db.transaction():
            self._expect(record.index - 1)
            self._db.execute("INSERT INTO record VALUES (?, ?)", (record.index, record.to_bytes()))
        self.records.append(record)
        anchors.write(self._folder, self._anchor())

    def _expect(self, count: int) -> None:
        if self._db.one("SELECT count(*) FROM record") != count:
            fix = "give every node its own node.data_dir"
            raise self.unusable("another process writes to it", fix)

    def close(self) -> None:
        """Let go of the file; idempotent."""
        self._db.close()

    def unusable(self, what: str, fix: str | None = None) -> RoundError:
        """The error that refuses the ledger."""
        return self._db.unusable(what, fix)
