"""Scores and bans on disk: one SQLite file that survives the process and the power.

The file belongs to one node of one swarm. It holds a row for every node that was ever in the
roster, four facts about the whole (identity, settings, round, number of rows), and a SHA-256 beside
each, so that damage is told from a good score. Nothing is repaired or begun anew: a file that
cannot be trusted is refused, because a node that forgot its bans would let the banned in again.

A transaction is on the disk when it ends (write-ahead log, ``synchronous=FULL``). The file is
shared with ``qres reputation``: whoever changes it takes the write lock first and reads it again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs

from qres_core import NodeId, canonical, stores
from qres_core.errors import RoundError
from qres_reputation.record import FOR_EVER, Conduct
from qres_reputation.rules import UNIT, Belief

FILE: Final = "reputation.sqlite"
APPLICATION_ID: Final = 0x51524550
"""``QREP`` in ASCII: marks the file's kind in its header."""
SCHEMA_VERSION: Final = 1

_DOMAIN: Final = b"qres/reputation/store/v1"
KIND: Final = stores.StoreKind(
    file=FILE,
    name="a reputation store of QRES",
    application_id=APPLICATION_ID,
    version=SCHEMA_VERSION,
    reader="qres-reputation",
    remedy="bring the file back as it was; only to give up every score and ban, move it away "
    "together with its -wal and -shm files",
    shared=True,
)
_LIMIT: Final = 2**63


@attrs.frozen
class Settings:
    """Settings for somebody that opens the file without the node's configuration."""

    rule: str  # name of the rule the scores were made by
    start: int  # score of a fresh node, in units of 10**-6
    ban_below: int  # score of a node on probation, likewise
    ban_rounds: int  # rounds a ban lasts; 0 for ever


@attrs.frozen
class SavedConduct:
    """All that a file says."""

    settings: Settings  # of the node's last start
    round: int  # number of the last round that ended
    records: Mapping[NodeId, Conduct]  # by node, ascending


def _row(node: NodeId, record: Conduct) -> tuple[Any, ...]:
    belief = record.belief
    values = (node, belief.score, belief.good, belief.bad, record.until, record.streak)
    head = _DOMAIN + b"\0node\0"
    return (*values, hashlib.sha256(head + canonical.dumps(list(values))).digest())


class ConductStore:
    """The open file.

    Args:
        folder: the node's data folder.
        begin: whose the file is and what it says where there is none yet; left out, it must exist.

    Raises:
        RoundError: QRES-E602 when the file is missing, damaged, or not of this version. Every
            method raises it when the disk does not take what must be kept.
    """

    def __init__(
        self, folder: Path, begin: tuple[tuple[str, NodeId], SavedConduct] | None = None
    ) -> None:
        fill = None if begin is None else partial(_fill, identity=begin[0], snapshot=begin[1])
        self._db = stores.PrivateDatabase.open(folder, KIND, fill)
        self._facts = stores.Facts(self._db, _DOMAIN)
        try:
            swarm, node = self._facts.read("identity")
            self._version = self._db.one("PRAGMA data_version")
        except BaseException:
            self._db.close()
            raise
        self.swarm: str = swarm
        self.node: NodeId = node

    def bind(self, swarm: str, node: NodeId) -> None:
        """Refuse the file unless it is that node's. Raises RoundError: QRES-E602."""
        self._db.expect_owner(swarm=(swarm, self.swarm), node=(node, self.node))

    def unusable(self, what: str) -> RoundError:
        """The error that refuses the file."""
        return self._db.unusable(what)

    # ── reading ───────────────────────────────────────────────────────────────────────────────

    def changed(self) -> bool:
        """True if another process changed the file since this was last asked."""
        version = self._db.one("PRAGMA data_version")
        seen, self._version = self._version, version
        return bool(version != seen)

    def load(self) -> SavedConduct:
        """Everything, checked.

        Raises RoundError: QRES-E602 for any row that is damaged or missing.
        """
        with self._db.one_state():
            rule, *numbers = self._facts.read("settings")
            round_number, count = self._facts.read("round"), self._facts.read("count")
            query = "SELECT id, score, good, bad, until, streak, digest FROM node ORDER BY id"
            records = {row[0]: self._record(row) for row in self._db.rows(query)}
        if len(records) != count:
            raise self.unusable(f"{len(records)} nodes where {count} were written")
        return SavedConduct(Settings(rule, *numbers), round_number, records)

    def _record(self, row: tuple[Any, ...]) -> Conduct:
        node, score, good, bad, until, streak, _digest = row
        numbers = (score, good, bad, until, streak)
        if type(node) is not bytes or any(type(number) is not int for number in numbers):
            raise self.unusable("the record of a node is damaged")
        record = Conduct(Belief(score, good, bad), until, streak)
        if _row(node, record) != row:
            raise self.unusable(f"the record of node {node.hex()[:16]} is damaged")
        sane = 0 <= score <= UNIT and FOR_EVER <= until < _LIMIT and streak >= 0
        if not (sane and good >= 0 and bad >= 0):
            raise self.unusable(f"the record of node {node.hex()[:16]} makes no sense")
        return record

    # ── writing ───────────────────────────────────────────────────────────────────────────────

    def transaction(self) -> AbstractContextManager[None]:
        """Hold the write lock; all is on the disk when the block ends, or nothing is.

        Raises RoundError: QRES-E602.
        """
        return self._db.transaction()

    def put(self, records: Mapping[NodeId, Conduct]) -> None:
        """Write the records of some nodes; inside a transaction."""
        _put(self._db, records)
        self._facts.write("count", self._db.one("SELECT count(*) FROM node"))

    def put_settings(self, settings: Settings) -> None:
        """Write the settings; inside a transaction."""
        self._facts.write("settings", list(attrs.astuple(settings)))

    def put_round(self, number: int) -> None:
        """Write the number of the round that ended; inside a transaction."""
        self._facts.write("round", number)

    def close(self) -> None:
        """Let go of the file; idempotent."""
        self._db.close()


def _put(db: stores.PrivateDatabase, records: Mapping[NodeId, Conduct]) -> None:
    rows = [_row(node, record) for node, record in records.items()]
    db.execute_many("REPLACE INTO node VALUES (?, ?, ?, ?, ?, ?, ?)", rows)


def _fill(
    database: stores.PrivateDatabase, identity: tuple[str, NodeId], snapshot: SavedConduct
) -> None:
    database.execute(
        "CREATE TABLE node (id BLOB PRIMARY KEY, score INTEGER NOT NULL, "
        "good INTEGER NOT NULL, bad INTEGER NOT NULL, until INTEGER NOT NULL, "
        "streak INTEGER NOT NULL, digest BLOB NOT NULL) WITHOUT ROWID"
    )
    facts = stores.Facts(database, _DOMAIN)
    facts.lay_out()
    facts.write("identity", list(identity))
    facts.write("settings", list(attrs.astuple(snapshot.settings)))
    facts.write("round", snapshot.round)
    facts.write("count", len(snapshot.records))
    _put(database, snapshot.records)
