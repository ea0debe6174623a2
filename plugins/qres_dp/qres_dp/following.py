"""The clipping bound of a swarm that follows a quantile: what a node knows of it, and keeps.

The next bound is a function of a decided set alone: of the bound that its contributions name, and
of the sums of their votes. A set is decided by certificate, and only one at a height. So a node
that opened the sums of a set knows the bound of the model that the set makes, whoever it has the
model from. It writes that down before it merges: a swarm that loses its power goes on.

A node that did not open them, for it was away, does not know the bound. It contributes nothing
until it has opened the sums of a set, one round later.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import attrs

from qres_core import DIGEST_BYTES, RoundInfo, ValueRefusedError, stores
from qres_dp.adaptive import FINE, SPAN

FILE: Final = "dp-bound.sqlite"
APPLICATION_ID: Final = 0x51524442
"""``QRDB`` in ASCII: marks the file's kind in its header."""
_DOMAIN: Final = b"qres/dp/bound/v1"

_KIND: Final = stores.StoreKind(
    file=FILE,
    name="a file of the clipping bound",
    application_id=APPLICATION_ID,
    version=1,
    reader="qres-dp",
    remedy="move it away: without it the node contributes after it has seen a round; it is public, "
    "and may be copied from a node whose clip more than swarm.byzantine others show too",
)


@attrs.frozen
class KnownBound:
    """The bound of a model."""

    step: int  # of the model
    model: bytes  # its digest, 32 bytes
    bound: int  # see :class:`~qres_dp.adaptive.AdaptiveClip`


@attrs.frozen
class NextBound:
    """The bound of the model that a decided set makes, if it makes one."""

    height: int  # at which the set was decided
    step: int  # of the model before
    model: bytes  # its digest, 32 bytes
    bound: int


class Following:
    """The open file, or the same in memory.

    ``folder``: the node's data folder, or ``None``; ``shape``: what a bound means: the swarm's
    name, the clip in steps, the grid. Raises RoundError: QRES-E602 for a file that is damaged or of
    another shape; every method that writes raises it when the disk does not take it.
    """

    def __init__(self, folder: Path | None, shape: tuple[str, int, int]) -> None:
        self.shape = shape
        self.known: KnownBound | None = None
        self._next: NextBound | None = None
        self._is_blind = False  # whether a set was merged whose sums this node never saw

        def fill(database: stores.PrivateDatabase) -> None:
            facts = stores.Facts(database, _DOMAIN)
            facts.lay_out()
            facts.write("shape", list(shape))

        if folder is None:
            self._db = stores.PrivateDatabase.in_memory(_KIND, fill)
        else:
            self._db = stores.PrivateDatabase.open(folder, _KIND, fill)
        self._facts = stores.Facts(self._db, _DOMAIN)
        try:
            self._load()
        except BaseException:
            self._db.close()
            raise

    def opened(self, round_info: RoundInfo) -> None:
        """A round begins: the bound of the set before holds, if that set made the round's model.

        Heights and steps tell: exactly one of each went by. What a set of an earlier height made
        of the bound is forgotten where it made no model, or where others went on without this node.
        """
        item = self._next
        if item is None:
            return
        if (item.height + 1, item.step + 1) == (round_info.height, round_info.step):
            self._adopt(round_info.step, round_info.model_digest)
        elif (item.height, item.model) != (round_info.height, round_info.model_digest):
            self._forget()

    def decided(self, round_info: RoundInfo, bound: int) -> None:
        """A set was decided that moves the bound, if it makes a model. Durable on return."""
        self._next = NextBound(round_info.height, round_info.step, round_info.model_digest, bound)
        with self._db.transaction():
            self._facts.write("next", list(attrs.astuple(self._next)))

    def closed(self, round_info: RoundInfo, model: bytes) -> None:
        """The node merged the round's set, and the model has this digest. Durable on return."""
        item = self._next
        if item is not None and (item.height, item.step, item.model) == (
            round_info.height,
            round_info.step,
            round_info.model_digest,
        ):
            self._adopt(item.step + 1, model)
        else:
            self._is_blind = True

    def of(self, round_info: RoundInfo, start: int) -> int:
        """The bound of a round; ``start``: that of the first model.

        Raises ValueRefusedError: QRES-E507 for a node that does not know it.
        """
        if round_info.step == 0:
            return start
        known = self.known
        if known is None or (known.step, known.model) != (
            round_info.step,
            round_info.model_digest,
        ):
            what = "the node missed rounds and does not know the clipping bound"
            fix = "none: it learns the bound from the votes of a round, and contributes after it"
            if self._is_blind:
                what = "sums were opened at another node, and the clipping bound is not known here"
                fix = 'in a simulation, engine = "events": "vectorised" has one observer'
            raise ValueRefusedError.of("QRES-E507", "plugins.dp", what, fix)
        return known.bound

    def _adopt(self, step: int, model: bytes) -> None:
        assert self._next is not None  # noqa: S101 - looked at by the callers
        self.known = KnownBound(step, model, self._next.bound)
        with self._db.transaction():
            self._facts.write("known", list(attrs.astuple(self.known)))
            self._db.execute("DELETE FROM fact WHERE name = ?", ("next",))
        self._next = None

    def _forget(self) -> None:
        with self._db.transaction():
            self._db.execute("DELETE FROM fact WHERE name = ?", ("next",))
        self._next = None

    def _load(self) -> None:
        if self._facts.read("shape") != list(self.shape):
            raise self._db.unusable("it is of another swarm, clip or grid")
        names = {str(row[0]) for row in self._db.rows("SELECT name FROM fact")}
        if not names <= {"shape", "known", "next"}:
            raise self._db.unusable("it has records that are none of this file")
        self.known = self._read("known", KnownBound) if "known" in names else None
        self._next = self._read("next", NextBound) if "next" in names else None

    def _read(self, name: str, kind: type[Any]) -> Any:
        value = self._facts.read(name)
        expected = [bytes if field.name == "model" else int for field in attrs.fields(kind)]
        try:
            made = kind(*value)
        except TypeError:
            made = None
        if made is not None and [type(item) for item in attrs.astuple(made)] != expected:
            made = None
        if made is None or len(made.model) != DIGEST_BYTES or made.step < 0:
            raise self._db.unusable(f"the record {name!r} is damaged")
        _swarm, first, _scale = self.shape
        if not max(1, first // SPAN) * FINE <= made.bound <= first * SPAN * FINE:
            # A copy from a liar; with a longer clip the others' shares of noise are too small.
            raise self._db.unusable(f"the record {name!r} has a clip out of range")
        return made

    def close(self) -> None:
        """Let go of the file; idempotent."""
        self._db.close()
