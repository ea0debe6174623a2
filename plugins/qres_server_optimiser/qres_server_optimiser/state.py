"""State of an optimiser for a model, kept so that it is never taken for another one's.

A state belongs to a model at a height. Heights end by certificate, so all nodes that were told how
each of them ended hold the same state. A node that was not told holds none.

On disk there is one SQLite file. It is written after the journal: a node that is killed between the
two has a newer model than state, and holds none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_core import DIGEST_BYTES, NodeInfo, RoundInfo, canonical, stores

APPLICATION_ID: Final = 0x5152534F
"""``QRSO`` in ASCII: marks the file's kind in its header."""
_DOMAIN: Final = b"qres/server-optimiser/v1"
_TYPES: Final = ("<i4", "<f8")

Arrays = tuple[NDArray[Any], ...]
FRESH: Final[Arrays] = ()
"""The state of an optimiser that begins anew."""


@attrs.frozen(eq=False)
class KnownState:
    """The state of a model at a height."""

    model: bytes  # digest of the model, 32 bytes
    height: int  # the height that begins with it
    arrays: Arrays  # each of shape ``(d,)``, or :data:`FRESH`


@attrs.define(eq=False)
class OptimiserState:
    """State of an optimiser, in memory and in a node also on disk."""

    _known: KnownState | None = None
    _database: stores.PrivateDatabase | None = None

    @classmethod
    def open(cls, name: str, node_info: NodeInfo) -> OptimiserState:
        """Open a node's state, in its folder or, where it has none, in memory.

        ``name``: the plugin's. Raises RoundError: QRES-E602 for a file that is damaged, of another
        swarm or node, or open elsewhere.
        """
        if node_info.data_dir is None:
            return cls()
        owner = [node_info.swarm, node_info.node_id]

        def fill(database: stores.PrivateDatabase) -> None:
            facts = stores.Facts(database, _DOMAIN)
            facts.lay_out()
            facts.write("owner", owner)
            facts.write("at", [b"", 0])
            facts.write("arrays", [])

        kind = stores.StoreKind(
            file=f"{name}.sqlite",
            name=f"a state of {name}",
            application_id=APPLICATION_ID,
            version=1,
            reader="qres-server-optimiser",
            remedy="move it away: the node then takes the models that others make for some rounds",
        )
        database = stores.PrivateDatabase.open(Path(node_info.data_dir), kind, fill)
        try:
            facts = stores.Facts(database, _DOMAIN)
            database.expect_owner(swarm_or_node=(owner, facts.read("owner")))
            return cls(_loaded(database, facts), database)
        except BaseException:
            database.close()
            raise

    def of(self, round_info: RoundInfo) -> Arrays | None:
        """The state of a round's model; ``None`` if it is not known here."""
        known = self._known
        if known is None or known.model != round_info.model_digest:
            return None
        return known.arrays if known.height == round_info.height else None

    def becomes(self, model: bytes, height: int, arrays: Arrays) -> None:
        """Keep the state of a model at the height that begins with it; on the disk on return.

        Raises RoundError: QRES-E602 when the disk does not take it.
        """
        self._known = KnownState(model, height, arrays)
        if self._database is None:
            return
        facts = stores.Facts(self._database, _DOMAIN)
        with self._database.transaction():
            facts.write("at", [model, height])
            facts.write("arrays", [[_kind(array), array.size] for array in arrays])
            self._database.execute("DELETE FROM fact WHERE name GLOB 'array *'")
            for number, array in enumerate(arrays):
                facts.write_octets(f"array {number}", _octets(array).data)

    def raw(self) -> bytes:
        """Bytes of the state, for a simulation's checkpoint; empty where there is none."""
        known = self._known
        if known is None:
            return b""
        arrays = [[_kind(array), _octets(array).tobytes()] for array in known.arrays]
        return canonical.dumps([known.model, known.height, arrays])

    def set_raw(self, memory: bytes) -> None:
        """Become what :meth:`raw` told, in a node that keeps nothing on the disk.

        Raises ValueError, TypeError or WireError for other bytes.
        """
        model, height, arrays = canonical.loads(memory, max_bytes=len(memory))
        if type(model) is not bytes or type(height) is not int:
            raise TypeError("expected a model and its height")
        if any(kind not in _TYPES for kind, _octets in arrays):
            raise ValueError("expected arrays")
        read = tuple(_native(np.frombuffer(octets, dtype=kind)) for kind, octets in arrays)
        self._known = KnownState(model, height, read)

    def close(self) -> None:
        """Let go of the file; idempotent."""
        if self._database is not None:
            self._database.close()


def _kind(array: NDArray[Any]) -> str:
    return "<i4" if array.dtype == np.int32 else "<f8"


def _octets(array: NDArray[Any]) -> NDArray[np.uint8]:
    return array.astype(_kind(array), copy=False).view(np.uint8)


def _native(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(array.dtype.newbyteorder("="))


def _loaded(database: stores.PrivateDatabase, facts: stores.Facts) -> KnownState | None:
    at, known = facts.read("at"), facts.read("arrays")
    if not (canonical.is_list(at) and len(at) == 2 and canonical.is_list(known)):
        raise database.unusable("a record is of another form")
    model, height = at
    if type(model) is not bytes or type(height) is not int:
        raise database.unusable("the record 'at' is of another form")
    arrays = tuple(_array(database, facts, number, item) for number, item in enumerate(known))
    return KnownState(model, height, arrays) if len(model) == DIGEST_BYTES else None


def _array(
    database: stores.PrivateDatabase, facts: stores.Facts, number: int, item: object
) -> NDArray[Any]:
    if canonical.is_list(item) and len(item) == 2:
        kind, size = item
        if kind in _TYPES and type(size) is int and 0 <= size < 2**31:
            width = np.dtype(kind).itemsize
            octets = facts.read_octets(f"array {number}", width * size)
            return _native(np.frombuffer(octets, dtype=kind))
    raise database.unusable("the record 'arrays' is of another form")
