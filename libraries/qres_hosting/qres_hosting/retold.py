"""Dialogues of a client in a round, kept from process to process.

A client of another framework is a process for each message. What it was told is played again to
each, by a secret that is made for the round. So the file is as secret as the client's updates:

- Each turn is answered once. What was asked and answered is on the disk before the answer leaves.
  The same question again gets the same answer, byte for byte, and another one for that turn none.
- A round is begun once; a client that was asked to begin another one has forgotten the secret of
  the one before. It is forgotten too when there is nothing more to say.
- What dialogues remember over rounds stays, and nothing is forgotten to make room: see
  :attr:`qres_core.dialogues.HostedMemory.first`.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import attrs

from qres_core.contract import canonical
from qres_core.contract.errors import RoundError
from qres_core.contract.stores import PrivateDatabase, StoreKind

KEPT: Final = 2**16
"""Rounds that a client remembers, the newest."""
MOST_KEPT: Final = 2**20
"""Values that dialogues remember, all of them for good: a coordinator could have them forgotten by
models that it makes up."""
_SECRET_BYTES: Final = 32
_KIND: Final = StoreKind(
    file="dialogues.sqlite",
    name="a client's dialogues",
    application_id=0x71726474,  # "qrdt"
    version=1,
    reader="qres-hosting",
    remedy="bring the file back as it was, or join under a new identity: a client that forgot what "
    "it said could say something else",
    shared=True,
)
_TABLES: Final = {
    "begun": "at INTEGER PRIMARY KEY, nonce BLOB NOT NULL UNIQUE",
    "kept": "at INTEGER PRIMARY KEY, name BLOB NOT NULL UNIQUE, value BLOB NOT NULL",
    "round": "nonce BLOB PRIMARY KEY, told BLOB NOT NULL, dimension INTEGER NOT NULL, "
    "secret BLOB NOT NULL",
    "event": "at INTEGER PRIMARY KEY, nonce BLOB NOT NULL, turn INTEGER NOT NULL, "
    "asked BLOB NOT NULL, told BLOB NOT NULL, answer BLOB NOT NULL, UNIQUE (nonce, turn)",
}
Heard = tuple[str, bytes, int, bytes]
"""A message: plugin, sender, step and body."""


@attrs.frozen
class Happening:
    """Event of a round, in order: a turn, or an update that was given away."""

    turn: int  # -1 where an update was given
    heard: tuple[Heard, ...] = ()
    named: Mapping[str, bytes] = attrs.field(factory=dict[str, bytes])  # by plugin

    def to_bytes(self) -> bytes:
        """Encode."""
        return canonical.dumps([self.turn, [list(each) for each in self.heard], dict(self.named)])

    @classmethod
    def from_bytes(cls, octets: bytes) -> Happening:
        """Decode what this client wrote."""
        turn, heard, named = canonical.loads(octets, max_bytes=len(octets))
        return cls(turn, tuple(tuple(each) for each in heard), named)


class Retold:
    """A client's open file of dialogues. A context manager.

    Args:
        folder: the client's own.
        again: whether a round may be begun again: in experiments, whose nonces repeat.

    Raises RoundError: QRES-E602 for a file that is missing in part, damaged or not private.
    """

    def __init__(self, folder: Path, *, again: bool) -> None:
        self._db = PrivateDatabase.open(folder, _KIND, _lay_out)
        self._db.execute("PRAGMA secure_delete=ON")
        self._db.empty_log()  # of a process that was killed before it could
        self._again = again
        self._full: RoundError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._db.close()

    def begin(self, nonce: bytes, told: bytes, dimension: int) -> None:
        """Begin a round, and forget the one before; nothing, if it goes on already.

        Raises RoundError: QRES-E604 for one that was begun before another one.
        """
        db = self._db
        with db.transaction():
            here = db.row("SELECT told, dimension FROM round WHERE nonce = ?", nonce)
            if here == (told, dimension) and not self._again:
                return
            known = db.row("SELECT 1 FROM begun WHERE nonce = ?", nonce) is not None
            if known and not self._again:
                raise _refused("round.nonce", "this client began the same round before")
            db.execute("DELETE FROM event")
            db.execute("DELETE FROM round")
            db.execute("INSERT OR IGNORE INTO begun (nonce) VALUES (?)", (nonce,))
            db.execute("DELETE FROM begun WHERE at <= (SELECT MAX(at) FROM begun) - ?", (KEPT,))
            secret = secrets.token_bytes(_SECRET_BYTES)
            db.execute(
                "INSERT INTO round (nonce, told, dimension, secret) VALUES (?, ?, ?, ?)",
                (nonce, told, dimension, secret),
            )
        db.empty_log()  # of the secret before

    def secret(self, nonce: bytes, told: bytes, dimension: int) -> bytes:
        """The secret of the round. Raises RoundError: QRES-E604 where it is not, or not any more.

        That is of a round that this client did not begin, of which it is told something else, or
        in which it has nothing more to say.
        """
        found = self._db.row("SELECT told, dimension, secret FROM round WHERE nonce = ?", nonce)
        if found is None:
            raise _refused("turn.number", "this client was not there at the beginning of the round")
        if found[:2] != (told, dimension):
            raise _refused("turn.told", "this client was told something else of the round")
        if not found[2]:
            raise _refused("turn.number", "this client has nothing more to say in the round")
        return bytes(found[2])

    def answered(self, nonce: bytes, turn: int, asked: bytes) -> tuple[bytes, ...] | None:
        """Answer in a turn; ``None`` where there was none.

        Raises RoundError: QRES-E604 where something else was asked, or the turn is not the next.
        """
        query = "SELECT asked, answer FROM event WHERE nonce = ? AND turn = ?"
        found = self._db.row(query, nonce, turn)
        if found is not None:
            if found[0] != hashlib.sha256(asked).digest():
                raise _refused("turn.number", "this client was asked something else in the turn")
            return tuple(canonical.loads(found[1], max_bytes=len(found[1])))
        next_ = self._db.one("SELECT COUNT(*) FROM event WHERE nonce = ? AND turn >= 0", nonce)
        if turn != next_:
            what = f"the turn is {turn}, and this client has answered {next_}"
            raise _refused("turn.number", what)
        return None

    def history(self, nonce: bytes) -> list[Happening]:
        """Events of the round so far."""
        rows = self._db.rows("SELECT told FROM event WHERE nonce = ? ORDER BY at", nonce)
        return [Happening.from_bytes(row[0]) for row in rows]

    def add(
        self,
        nonce: bytes,
        after: int,
        happened: Happening,
        asked: bytes = b"",
        answer: Sequence[bytes] = (),
        *,
        over: bool = False,
    ) -> tuple[bytes, ...]:
        """Note what happened, durably, before anybody hears of it.

        Args:
            nonce: of the round.
            after: how many things happened before, as they were played.
            happened: it.
            asked: the turn as it came.
            answer: frames.
            over: whether the secret is of no more use.

        Returns: what may be said: where another process was faster with the same turn, what that
            said.
        Raises: RoundError: QRES-E604 where something else happened meanwhile; QRES-E602 where
            something could not be remembered before.
        """
        if self._full is not None:  # a dialogue may have gone on without it
            raise self._full
        db = self._db
        with db.transaction():
            if happened.turn >= 0:
                known = self.answered(nonce, happened.turn, asked)
                if known is not None:
                    return known
            count = db.one("SELECT COUNT(*) FROM event WHERE nonce = ?", nonce)
            secret = db.one("SELECT secret FROM round WHERE nonce = ?", nonce)
            if count != after or not secret:
                raise _refused("turn.number", "another process of this client went on with it")
            digest = hashlib.sha256(asked).digest()
            row = (nonce, happened.turn, digest, happened.to_bytes(), canonical.dumps(list(answer)))
            query = "INSERT INTO event (nonce, turn, asked, told, answer) VALUES (?, ?, ?, ?, ?)"
            db.execute(query, row)
            if over:
                db.execute("UPDATE round SET secret = x'' WHERE nonce = ?", (nonce,))
                db.execute("UPDATE event SET told = x'' WHERE nonce = ?", (nonce,))
        if over:  # a process that is killed from here on leaves it nowhere
            db.empty_log()
        return tuple(answer)

    def first(self, key: bytes, value: bytes) -> bytes:
        """The value that was kept under a key first, durably; this one, if there was none.

        Raises RoundError: QRES-E602 where there is no more room. Nothing is forgotten instead.
        """
        db = self._db
        with db.transaction():
            known: Any = db.one("SELECT value FROM kept WHERE name = ?", key)
            if known is not None:
                return bytes(known)
            if int(db.one("SELECT COUNT(*) FROM kept") or 0) >= MOST_KEPT:
                what = f"{MOST_KEPT} values are remembered, and none may be forgotten"
                fix = "give the client a new key and an empty node.data_dir"
                self._full = RoundError.of("QRES-E602", _KIND.file, what, fix)
                raise self._full
            db.execute("INSERT INTO kept (name, value) VALUES (?, ?)", (key, value))
        return value


def _refused(where: str, what: str) -> RoundError:
    fix = "none if a message came twice or late: the client is left out of the round"
    return RoundError.of("QRES-E604", where, what, fix)


def _lay_out(database: PrivateDatabase) -> None:
    for name, columns in _TABLES.items():
        database.execute(f"CREATE TABLE {name} ({columns})")
