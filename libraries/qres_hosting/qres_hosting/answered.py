"""Answers of a client: a repeated announcement gets no second answer, and nobody pays."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Final

from qres_core.contract.errors import RoundError
from qres_core.contract.stores import PrivateDatabase, StoreKind
from qres_core.contract.types import NodeId

KEPT: Final = 2**16
"""Announcements that a client remembers, the newest."""
_KIND: Final = StoreKind(
    file="answered.sqlite",
    name="the announcements that a client answered",
    application_id=0x71726177,  # "qraw"
    version=1,
    reader="qres-hosting",
    remedy="move it away: without it the client may answer an old announcement once more",
    shared=True,
)
_here: Final[dict[NodeId, dict[bytes, None]]] = {}
"""By client of this process: nonces, in the order that they came."""


def note_answer(node_id: NodeId, nonce: bytes, folder: Path | None) -> None:
    """Note that a client answers an announcement, durably where it has a folder.

    Raises RoundError: QRES-E604 if it did before, QRES-E602 for a disk that does not take it.
    """
    here = _here.setdefault(node_id, {})
    if nonce in here or (folder is not None and not _is_first(nonce, folder)):
        what = "this client answered the same announcement before"
        fix = "none if somebody repeats messages; else give every client a key of its own"
        raise RoundError.of("QRES-E604", "round.nonce", what, fix)
    here[nonce] = None
    if len(here) > KEPT:
        del here[next(iter(here))]


def _is_first(nonce: bytes, folder: Path) -> bool:
    with closing(PrivateDatabase.open(folder, _KIND, _lay_out)) as database, database.transaction():
        if database.row("SELECT 1 FROM told WHERE nonce = ?", nonce) is not None:
            return False
        database.execute("INSERT INTO told (nonce) VALUES (?)", (nonce,))
        database.execute("DELETE FROM told WHERE at <= (SELECT MAX(at) FROM told) - ?", (KEPT,))
    return True


def _lay_out(database: PrivateDatabase) -> None:
    database.execute("CREATE TABLE told (at INTEGER PRIMARY KEY, nonce BLOB NOT NULL UNIQUE)")
