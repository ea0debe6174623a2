"""Memory of a node to encode its updates and to decode sums: one file.

Two tables, each of at most ``band`` vectors:

- The node's **own updates**, clipped and without noise. They are secret. An update is on the disk
  before the row that holds it is charged and leaves. Whatever happens to the file, no row moves
  farther than it is charged for: see :mod:`qres_dp.correlated.encoding`.
- The **changes of the model**, which everybody knows. Each is bound to the digests of the models
  before and after it, so that only the swarm's own last changes are ever decoded with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np
from qres_arithmetic import squared_norm

from qres_core import DIGEST_BYTES, Vector, stores
from qres_core.errors import RoundError
from qres_dp.correlated.factor import Factor

FILE: Final = "dp-encoding.sqlite"
APPLICATION_ID: Final = 0x51524445
"""``QRDE`` in ASCII: marks the file's kind in its header."""
VERSION: Final = 2
"""Version 1 did not say whose part of an update is bounded."""
CANNOT_DECODE: Final = "QRES-E608"
_DOMAIN: Final = b"qres/dp/encoding/v1"
_DIGITS: Final = 12  # of a step

_KIND: Final = stores.StoreKind(
    file=FILE,
    name="a file of updates to encode",
    application_id=APPLICATION_ID,
    version=VERSION,
    reader="qres-dp",
    remedy="bring the file back, or move it away: then the node's last updates fade from the "
    "model, and it merges nothing for as many rounds as the band has",
)


@attrs.frozen
class EncodingShape:
    """Shape and owner of the vectors in the file."""

    swarm: str  # the swarm's name
    band: int  # coefficients of the matrix
    bound: int  # how long an update is at most, in steps of the grid
    scale: int  # exponent of the grid
    dimension: int  # coordinates
    # what a row is charged for: that a node's update is bounded, or each of so many parts of it
    unit: str = "node"  # what is protected as a whole, ``node`` or ``record``
    units: int = 1  # most units of a node, each of at most ``bound / units`` steps


@attrs.frozen(eq=False)
class ModelChange:
    """Change of the model by a step."""

    before: bytes  # digest of the model before it, 32 bytes
    after: bytes  # digest of the model after it, 32 bytes
    vector: Vector  # the difference, int32, shape ``(d,)``


class EncodingMemory:
    """The open file, or the same in memory.

    Args:
        folder: the node's data folder, or ``None``.
        shape: what the vectors are. A file of others is refused.

    Raises:
        RoundError: QRES-E602 for a file that is damaged, of another shape or open to others. Every
            method that writes raises it when the disk does not take it.

    Complexity: opening reads everything, O(band * d).
    """

    def __init__(self, folder: Path | None, shape: EncodingShape) -> None:
        self.shape = shape
        self.factor = Factor(shape.band)
        self._own: dict[int, Vector] = {}
        self._changes: dict[int, ModelChange] = {}
        named = list(attrs.astuple(shape))

        def fill(database: stores.PrivateDatabase) -> None:
            facts = stores.Facts(database, _DOMAIN)
            facts.lay_out()
            facts.write("shape", named)

        if folder is None:
            self._db = stores.PrivateDatabase.in_memory(_KIND, fill)
        else:
            self._db = stores.PrivateDatabase.open(folder, _KIND, fill)
        self._facts = stores.Facts(self._db, _DOMAIN)
        try:
            self._load(named)
        except BaseException:
            self._db.close()
            raise

    # ── the node's own updates ────────────────────────────────────────────────────────────────

    @property
    def own(self) -> Mapping[int, Vector]:
        """The node's last updates by step, int32, shape ``(d,)``."""
        return self._own

    def keep(self, step: int, update: Vector | None) -> None:
        """Take the update of a step, in the place of one it had before; durable on return.

        Updates of other steps stay as long as rows of this step and later ones hold them.

        ``update``: int32, shape ``(d,)``, within the bound; ``None`` if the step has no data.
        """
        kept = {item: held for item, held in self._own.items() if 0 < step - item < self.shape.band}
        gone = self._own.keys() - kept.keys() - {step}
        if update is not None:
            kept[step] = update
        elif step in self._own:
            gone = gone | {step}
        with self._db.transaction():
            self._forget("own", gone)
            if update is not None:
                self._facts.write(f"own {step}", update.astype("<i4").tobytes())
        self._own = kept

    # ── the changes of the model ──────────────────────────────────────────────────────────────

    def note(self, step: int, change: ModelChange) -> None:
        """Take what a step did to the model; durable on return.

        Changes that do not lead to it are forgotten.
        """
        kept: dict[int, ModelChange] = {}
        following = change
        for item in range(step - 1, step - self.shape.band, -1):
            held = self._changes.get(item)
            if held is None or held.after != following.before:
                break
            kept[item] = following = held
        gone = self._changes.keys() - kept.keys() - {step}
        with self._db.transaction():
            self._forget("change", gone)
            body = [change.before, change.after, change.vector.astype("<i4").tobytes()]
            self._facts.write(f"change {step}", body)
        self._changes = {**kept, step: change}

    def changes(self, step: int, model: bytes) -> Sequence[Vector]:
        """The last changes of the model, the newest first.

        Args:
            step: of the model.
            model: its digest.

        Returns:
            ``band - 1`` vectors, or ``step`` of them if that is fewer.

        Raises:
            RoundError: QRES-E608 where this node lacks some of them.
        """
        needed = min(step, self.shape.band - 1)
        found: list[Vector] = []
        for item in range(step - 1, step - 1 - needed, -1):
            held = self._changes.get(item)
            if held is None or held.after != model:
                what = f"needs the last {needed} changes of the model and has {len(found)}"
                fix = f"none: it knows them after {needed - len(found)} more rounds"
                raise RoundError.of(CANNOT_DECODE, "plugins.dp.noise", what, fix)
            found.append(held.vector)
            model = held.before
        return found

    # ── the file ──────────────────────────────────────────────────────────────────────────────

    def _forget(self, table: str, gone: set[int]) -> None:
        for item in gone:
            self._db.execute("DELETE FROM fact WHERE name = ?", (f"{table} {item}",))

    def _load(self, named: list[Any]) -> None:
        if self._facts.read("shape") != named:
            raise self._db.unusable("it is of another swarm, clip, unit, band, grid or model")
        for (name,) in self._db.rows("SELECT name FROM fact WHERE name != 'shape'"):
            table, _space, number = str(name).partition(" ")
            sound = number.isascii() and number.isdigit() and len(number) < _DIGITS
            if table not in {"own", "change"} or not sound:
                raise self._db.unusable(f"the record {name!r} is none of this file")
            value = self._facts.read(name)
            if table == "own":
                self._own[int(number)] = self._update(name, value)
            else:
                self._changes[int(number)] = self._change(name, value)

    def _update(self, name: str, value: Any) -> Vector:
        update = self._vector(name, value)
        if squared_norm(update) > self.shape.bound**2:
            raise self._db.unusable(f"the record {name!r} is longer than the clip")
        return update

    def _change(self, name: str, value: Any) -> ModelChange:
        try:
            before, after, body = value
        except (TypeError, ValueError) as error:
            raise self._db.unusable(f"the record {name!r} is damaged") from error
        if any(type(item) is not bytes or len(item) != DIGEST_BYTES for item in (before, after)):
            raise self._db.unusable(f"the record {name!r} is damaged")
        return ModelChange(before, after, self._vector(name, body))

    def _vector(self, name: str, value: Any) -> Vector:
        if type(value) is not bytes or len(value) != 4 * self.shape.dimension:
            raise self._db.unusable(f"the record {name!r} is damaged")
        return np.frombuffer(value, dtype="<i4").astype(np.int32)

    def close(self) -> None:
        """Let go of the file; idempotent."""
        self._db.close()
