"""The keys of a stream of correlated noise, on disk: a node that starts again goes on with it.

Noise of a step takes back part of the noise of earlier steps, so these must be known. They are
functions of their keys, 32 bytes a step, which is what is kept. The file is secret: with it and the
releases, the updates of the whole stream can be computed. It belongs to one stream of one node and
is made for its owner alone (mode 0600). Independent noise keeps no such file.

A key is on the disk before ``append`` returns, and is to be appended before the ledger is charged
and the noise leaves. So the file knows of every release in the ledger, and one that knows of fewer
was deleted or put back from an older copy, and is refused.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from qres_core import stores
from qres_dp.correlated.factor import LONGEST_STREAM
from qres_dp.randomness import KEY_BYTES

FILE: Final = "dp-noise.sqlite"
APPLICATION_ID: Final = 0x5152444E
"""``QRDN`` in ASCII: marks the file's kind in its header."""
VERSION: Final = 1

_KIND: Final = stores.StoreKind(
    file=FILE,
    name="a file of noise keys",
    application_id=APPLICATION_ID,
    version=VERSION,
    reader="qres-dp",
    remedy="bring the file back as it was; only to end the stream and begin another, at a further "
    "cost in privacy, move it away",
)


def _link(previous: bytes, step: int, key: bytes) -> bytes:
    body = b"qres/dp/noise/v1\0" + previous + step.to_bytes(8, "little") + key
    return hashlib.sha256(body).digest()


class KeyHistory:
    """The keys of one stream, in order; each record is chained to the one before.

    Args:
        folder: the node's data folder, or ``None`` to keep the keys in memory.
        stream: names the stream: everything its noise depends on beside the keys (swarm, node,
            factor, variance, dimension). A file of another stream is refused.
        released: steps the ledger knows of; the file must know of at least as many.

    Raises:
        RoundError: QRES-E602 for a file that is damaged, of another stream, open to others, or
            short of keys. Every method raises it when the disk does not take a key.

    Complexity: opening reads everything, O(steps).
    """

    def __init__(self, folder: Path | None, stream: bytes, *, released: int = 0) -> None:
        self._keys: list[bytes] = []
        head = hashlib.sha256(b"qres/dp/stream/v1\0" + stream).digest()

        def fill(database: stores.PrivateDatabase) -> None:
            database.execute("CREATE TABLE stream (head BLOB NOT NULL)")
            database.execute(
                "CREATE TABLE step "
                "(number INTEGER PRIMARY KEY, key BLOB NOT NULL, link BLOB NOT NULL)"
            )
            database.execute("INSERT INTO stream VALUES (?)", (head,))

        if folder is None:
            self._db = stores.PrivateDatabase.in_memory(_KIND, fill)
        else:
            self._db = stores.PrivateDatabase.open(folder, _KIND, fill)
        try:
            self._head = self._load(head, released)
        except BaseException:
            self._db.close()
            raise

    def _load(self, head: bytes, released: int) -> bytes:
        """Read the keys; the head of their chain."""
        found = self._db.rows("SELECT head FROM stream")
        self._db.expect_owner(stream_of_noise=([(head,)], found))
        query = "SELECT number, key, link FROM step ORDER BY number LIMIT ?"
        for number, key, link in self._db.rows(query, LONGEST_STREAM + 1):
            sound = type(key) is bytes and len(key) == KEY_BYTES and number == len(self._keys)
            if not sound or link != _link(head, number, key):
                raise self._db.unusable(f"the record of step {number} is damaged")
            self._keys.append(key)
            head = link
        if len(self._keys) < released:
            what = f"{len(self._keys)} keys, and {released} releases in the ledger"
            raise self._db.unusable(what)
        return head

    @property
    def keys(self) -> tuple[bytes, ...]:
        """The keys of all steps taken, first to last."""
        return tuple(self._keys)

    def append(self, key: bytes) -> None:
        """Keep the key of the next step; it is on the disk when this returns.

        ``key``: 32 bytes, never used before. Raises RoundError: QRES-E602 when it cannot be kept,
        or was used before.
        """
        if len(key) != KEY_BYTES or key in self._keys:
            raise self._db.unusable("a key of another length, or one that was used before")
        number = len(self._keys)
        link = _link(self._head, number, key)
        with self._db.transaction():
            self._db.execute("INSERT INTO step VALUES (?, ?, ?)", (number, key, link))
        self._keys.append(key)
        self._head = link

    def close(self) -> None:
        """Let go of the file; idempotent."""
        self._db.close()
