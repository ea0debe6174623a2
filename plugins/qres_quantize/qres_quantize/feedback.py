"""Rest of rounding, kept until it can be added: neither lost nor added twice.

A node adds to its update what is *left over*, rounds the sum, and sends that. What is left over
then, counts only if the swarm merges the contribution. So it waits beside the old one until the
height is over, and the old one stays where no model was made of the contribution.

On disk there is one SQLite file. It is written before the contribution leaves.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np

from qres_core import NodeInfo, RoundInfo, Vector, packing, stores
from qres_core.errors import WireError
from qres_quantize.rounding import KEY_BYTES

FILE: Final = "quantize.sqlite"
APPLICATION_ID: Final = 0x5152515A
"""``QRQZ`` in ASCII: marks the file's kind in its header."""
KEPT: Final = 4
"""Contributions of one height whose rest is kept: a height has one for each of its rounds, and the
swarm may decide any of them."""
_DOMAIN: Final = b"qres/quantize/left-over/v1"

_NOTHING: Final = (0, 1, 0, 0)
"""Number of what is left over, of the next vector, of the last round; and the dimension."""

_KIND: Final = stores.StoreKind(
    file=FILE,
    name="a store of what rounding left over",
    application_id=APPLICATION_ID,
    version=1,
    reader="qres-quantize",
    remedy="move it away: the node then begins with nothing left over",
)


@attrs.frozen
class Sent:
    """A contribution, and what is left over if it is merged."""

    round: int  # the number of its round
    height: int  # of that round
    step: int  # models before that round
    head: bytes  # digest of the head of that height; empty where nothing is agreed on
    rest: int  # number of the vector

    @classmethod
    def of(cls, info: RoundInfo, rest: int) -> Sent:
        """Vector to send in a round."""
        return cls(info.number, info.height, info.step, info.head, rest)


@attrs.define(eq=False)
class LeftOver:
    """Rest of rounding, in memory and in a node also on disk."""

    key: bytes  # the node's secret, 32 bytes
    sent: tuple[Sent, ...] = ()  # of the height that is not over, ascending by round
    last_round: int = 0  # of the last contribution
    _rest: int = 0  # number of what is left over; 0 for nothing
    _next: int = 1  # number of the next vector
    _dimension: int = 0
    _packed: dict[int, bytes] = attrs.field(factory=dict[int, bytes], repr=False)
    _database: stores.PrivateDatabase | None = None

    @classmethod
    def open(cls, node_info: NodeInfo, key: bytes | None = None) -> LeftOver:
        """Open a node's store, in its folder or, where it has none, in memory.

        ``key``: the secret of a new store, drawn if not given. Raises RoundError: QRES-E602 for a
        file that is damaged, of another swarm or node, or open elsewhere.
        """
        key = os.urandom(KEY_BYTES) if key is None else key
        if node_info.data_dir is None:
            return cls(key)
        owner = [node_info.swarm, node_info.node_id]

        def fill(database: stores.PrivateDatabase) -> None:
            facts = stores.Facts(database, _DOMAIN)
            facts.lay_out()
            facts.write("owner", owner)
            facts.write("key", key)
            facts.write("state", [*_NOTHING, list[Any]()])

        database = stores.PrivateDatabase.open(Path(node_info.data_dir), _KIND, fill)
        try:
            facts = stores.Facts(database, _DOMAIN)
            database.expect_owner(swarm_or_node=(owner, facts.read("owner")))
            return cls._loaded(database, facts)
        except BaseException:
            database.close()
            raise

    @classmethod
    def _loaded(cls, database: stores.PrivateDatabase, facts: stores.Facts) -> LeftOver:
        key, state = facts.read("key"), facts.read("state")
        if type(key) is not bytes or len(key) != KEY_BYTES:
            raise database.unusable("the record 'key' is of another form")
        try:
            rest, following, last, dimension, raw = state
            sent = tuple(Sent(*item) for item in raw)
        except (TypeError, ValueError) as error:
            raise database.unusable("the record 'state' is of another form") from error
        found = cls(key, sent, last, rest, following, dimension, {}, database)
        for number in found._numbers():
            found._packed[number] = found._read(facts, number)
        return found

    def _read(self, facts: stores.Facts, number: int) -> bytes:
        size = facts.read(f"vector {number}")
        if type(size) is not int or not 0 <= size <= packing.most_bytes(self._dimension):
            raise facts.database.unusable(f"the record 'vector {number}' is of another form")
        return facts.read_octets(f"vector {number}", size)

    def _numbers(self) -> set[int]:
        """Of the vectors that count."""
        return {item.rest for item in self.sent} | ({self._rest} if self._rest else set())

    def vector(self, dimension: int) -> Vector:
        """Rest of rounding, int32; zeros where there is none, or of another model.

        Raises RoundError: QRES-E602 for a record that is no vector.
        """
        if not self._rest or dimension != self._dimension:
            return np.zeros(dimension, dtype=np.int32)
        try:
            return packing.unpack(self._packed[self._rest], dimension, "quantize")
        except WireError as error:
            if self._database is None:
                raise
            raise self._database.unusable("a record is no vector") from error

    def is_before(self, info: RoundInfo) -> bool:
        """True if a round is no later than the last contribution, and of another height than it.

        Numbers of rounds only rise. A process that was killed before its contribution was in the
        journal goes through rounds again, but through those of the same height.
        """
        is_same = any((item.height, item.head) == (info.height, info.head) for item in self.sent)
        return info.number <= self.last_round and not is_same

    def sends(self, info: RoundInfo, rest: Vector) -> None:
        """Keep what is left over if a contribution is merged; on the disk on return.

        One of the same round, which was then not sent, is forgotten. Raises RoundError: QRES-E602.
        """
        if rest.size != self._dimension:
            self.sent, self._rest, self._dimension = (), 0, rest.size
        others = [item for item in self.sent if item.round != info.number]
        added = Sent.of(info, self._next)
        self.sent = tuple(sorted([*others, added], key=lambda item: item.round))[-KEPT:]
        self._packed[added.rest] = packing.pack(rest)
        self._next += 1
        self.last_round = info.number
        self._save(added.rest)

    def settle(self, merged: Sent | None) -> None:
        """The height is over: what is left over of the contribution that was merged counts.

        ``merged``: ``None`` where none was; then that of before counts still.
        """
        self._rest = self._rest if merged is None else merged.rest
        self.sent = ()
        self._save()

    def forget(self, last_round: int | None = None) -> None:
        """Nothing is left over any more. ``last_round``: of the node's last contribution."""
        self.sent, self._rest = (), 0
        self.last_round = self.last_round if last_round is None else last_round
        self._save()

    def raw(self) -> list[Any]:
        """All that is known but for the key, as plain values."""
        return [self._state(), list(self._packed), list(self._packed.values())]

    def set_raw(self, value: Any) -> None:
        """Become what :meth:`raw` told, in a node that keeps nothing on the disk.

        Raises ValueError or TypeError for anything else.
        """
        (rest, following, last, dimension, raw), names, packed = value
        sent = tuple(Sent(*item) for item in raw)
        numbers = [rest, following, last, dimension, *names]
        for item in sent:
            numbers += [item.round, item.height, item.step, item.rest]
        octets = [*packed, *(item.head for item in sent)]
        if any(type(each) is not int for each in numbers):
            raise TypeError("expected numbers")
        if any(type(each) is not bytes for each in octets):
            raise TypeError("expected bytes")
        self._rest, self._next, self.last_round, self._dimension = rest, following, last, dimension
        self.sent, self._packed = sent, dict(zip(names, packed, strict=True))
        if self._numbers() - set(names):
            raise ValueError("a vector is missing")

    def _state(self) -> list[Any]:
        sent = [list(attrs.astuple(item)) for item in self.sent]
        return [self._rest, self._next, self.last_round, self._dimension, sent]

    def _save(self, added: int | None = None) -> None:
        wanted = self._numbers()
        gone = [number for number in self._packed if number not in wanted]
        for number in gone:
            del self._packed[number]
        if self._database is None:
            return
        facts = stores.Facts(self._database, _DOMAIN)
        with self._database.transaction():
            if added is not None:
                facts.write(f"vector {added}", len(self._packed[added]))
                facts.write_octets(f"vector {added}", self._packed[added])
            facts.write("state", self._state())
            for number in gone:
                query = "DELETE FROM fact WHERE name = ? OR name GLOB ?"
                self._database.execute(query, (f"vector {number}", f"vector {number} *"))

    def close(self) -> None:
        """Let go of the file; idempotent."""
        if self._database is not None:
            self._database.close()
