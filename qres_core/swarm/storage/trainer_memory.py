"""Memory of a node's trainer from round to round, in the node's folder.

It is on the disk before the update that was made with it leaves. So a node that was killed and
started again trains as if it had not been: in the round that it was killed in, from what the
trainer had before that round, and in the next, from what it had after it.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from pathlib import Path
from typing import Any, Final

import attrs

from qres_core.contract import canonical, stores
from qres_core.contract.errors import ConfigError, QresError, RoundError
from qres_core.contract.rounds import RoundInfo
from qres_core.contract.trainer import RememberingTrainer
from qres_core.contract.trainer_abilities import abilities_of
from qres_core.contract.training import kept_by
from qres_core.contract.types import NodeId

FILE: Final = "trainer.cbor"
"""Name of the file in a node's folder."""
_FORMAT: Final = "qres/trainer/v1"
_LOG: Final = logging.getLogger(__name__)


@attrs.define(eq=False)
class TrainerMemory:
    """The file of a node's trainer. One process at a time: the journal beside it sees to that."""

    trainer: RememberingTrainer
    path: Path
    owner: tuple[str, NodeId, bytes]  # swarm, node and digest of the first model
    _written: bytes = attrs.field(default=b"", init=False)  # digest of what is in the file
    _turn: threading.Lock = attrs.field(factory=threading.Lock, init=False)
    _closed: bool = attrs.field(default=False, init=False)

    @classmethod
    def open(
        cls, trainer: object, folder: Path, owner: tuple[str, NodeId, bytes], *, begun: bool
    ) -> TrainerMemory | None:
        """Give the trainer back what it kept; ``None`` for one that keeps nothing.

        ``begun``: whether the node contributed before. Raises RoundError: QRES-E602 for a file that
        is damaged, of another node or swarm, or of another trainer.
        """
        keeping = abilities_of(trainer).memory
        if keeping is None:
            return None
        memory = cls(keeping, folder / FILE, owner)
        stores.clear_leftovers(memory.path)
        if memory.path.exists():
            memory._recall()
        elif begun and keeping.remember():
            _LOG.warning("%s is not there: the trainer begins without a past", memory.path)
        return memory

    def keep(self, round_info: RoundInfo) -> None:
        """Write down what the trainer keeps, if that is something else than before.

        Raises RoundError: QRES-E602 when the disk does not take it. Raises TrainerError: QRES-E512:
        the trainer failed.
        """
        kept = kept_by(self.trainer, round_info.number)
        digest = self._checksum(kept)
        with self._turn:
            # A training that nobody waits for any more may end after the node.
            if self._closed or digest == self._written or not (kept or self._written):
                return
            content = canonical.dumps([_FORMAT, *self.owner, kept, digest])
            stores.replace_file(self.path, content)
            self._written = digest

    def close(self) -> None:
        """Write nothing any more."""
        with self._turn:
            self._closed = True

    def _recall(self) -> None:
        try:
            stores.refuse_loose(self.path)
            content = stores.read_file(self.path, self.path.stat().st_size)
        except ConfigError as error:
            raise self._unusable(error.problems[0].what) from error
        except OSError as error:
            raise self._unusable(error.strerror or str(error)) from error
        try:
            value: Any = canonical.loads(content, max_bytes=len(content), max_items=8)
            *about, kept, digest = value
            whole = about == [_FORMAT, *self.owner] and digest == self._checksum(kept)
        except (QresError, ValueError, TypeError) as error:
            raise self._unusable("is damaged") from error
        if not whole:
            raise self._unusable("is damaged, or of another node, swarm or first model")
        try:
            self.trainer.recall(kept)
        except Exception as error:  # of a user's own code it may be anything
            why = f"{type(error).__name__}: {error}"
            if isinstance(error, QresError):
                why = error.problems[0].what
            raise self._unusable(f"is not what this trainer kept: {why}") from error
        self._written = digest

    def _checksum(self, kept: bytes) -> bytes:
        return hashlib.sha256(canonical.dumps([_FORMAT, *self.owner]) + kept).digest()

    def _unusable(self, what: str) -> RoundError:
        fix = "bring the file back as it was, or remove it: the trainer then begins without a past"
        return RoundError.of("QRES-E602", str(self.path), what, fix)
