"""Contributions on the disk, where those in memory would take more than the node's budget.

A node holds the contributions of a height until it is over: each as the numbers that are merged,
and as the message that others may ask for. Above half of ``swarm.memory`` a further one is laid
into a file of its own in the node's folder. The file has no name, where the system allows that, so
nothing is left of it however the process ends. What is read of it is a range of the numbers at a
time, or the message when somebody asks. What the disk does not take is not kept: the node asks for
it again if a set names it.

The other half is for merging: rows are taken off the shelf in ranges of coordinates
(:meth:`~qres_core.swarm.storage.kept_contributions.Gathering.rows`). QRES-E321 refuses plugins that
need whole ones.
"""

from __future__ import annotations

import math
import mmap
import os
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final, Protocol

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_core.contract.errors import RoundError
from qres_core.contract.types import NodeId, Vector
from qres_core.contract.wire import Envelope
from qres_core.swarm.storage.kept_contributions import Held

FOLDER: Final = "contributions"
_PREFIX: Final = "held-"
MOST_FILES: Final = 100
"""Contributions on the disk at once. Each has two files open, of which a process may have few, and
liars send several. Those beyond stay in memory."""


@attrs.define(eq=False)
class ShelvedFile:
    """The numbers of a contribution, and the payload that they came in, in one file."""

    _file: IO[bytes]
    dimension: int
    octets: int  # of the payload

    def __attrs_post_init__(self) -> None:
        # Open as long as the contribution is held, and closed when it is let go.
        weakref.finalize(self, self._file.close)

    @classmethod
    def write(cls, folder: Path, vector: Vector, payload: bytes) -> ShelvedFile:
        """A new file. Raises OSError."""
        file = tempfile.TemporaryFile(prefix=_PREFIX, dir=folder)  # noqa: SIM115
        try:
            file.write(np.ascontiguousarray(vector, dtype="<i4").data)
            file.write(payload)
            file.flush()
        except OSError:
            with suppress(OSError):  # it tries once more to write the rest
                file.close()
            raise
        return cls(file, int(vector.size), len(payload))

    def rows(self, start: int, stop: int) -> NDArray[np.int32]:
        """A range of the numbers, read now. Raises RoundError: QRES-E602 where it cannot be."""
        octets = self._read(4 * start, 4 * (stop - start))
        return np.frombuffer(octets, dtype="<i4").astype(np.int32, copy=False)

    def payload(self) -> bytes:
        """The payload, read now. Raises RoundError: QRES-E602 where it cannot be."""
        return self._read(4 * self.dimension, self.octets)

    def _read(self, start: int, count: int) -> bytes:
        try:
            self._file.seek(start)
            octets = self._file.read(count)
        except OSError as error:
            raise _unreadable(error.strerror or str(error)) from error
        if len(octets) != count:
            raise _unreadable("it is shorter than it was")
        return octets

    def mapped(self) -> Vector:
        """All numbers, of which those are in memory that are looked at."""
        octets = mmap.mmap(self._file.fileno(), 4 * self.dimension, access=mmap.ACCESS_READ)
        return np.frombuffer(octets, dtype="<i4").astype(np.int32, copy=False)


class HasPayload(Protocol):
    """Place of the payload of a message, if not in memory."""

    def payload(self) -> bytes:
        """The payload, read now. Raises RoundError: QRES-E602 where it cannot be."""
        ...


class ShelvedMessage(Envelope):
    """A message whose payload is read whenever somebody asks for it."""

    file: HasPayload

    @classmethod
    def of(cls, envelope: Envelope, file: HasPayload) -> ShelvedMessage:
        """The same message; its digests are known, so that nothing is read for them."""
        made = cls.__new__(cls)
        fields = {name: value for name, value in vars(envelope).items() if name != "payload"}
        made.__dict__.update(fields, file=file)
        return made

    def __getattr__(self, name: str) -> Any:
        """The payload; everything else is there."""
        if name == "payload":
            return self.file.payload()
        raise AttributeError(name)

    def taken_in(self) -> Envelope:
        """The same message in memory."""
        fields = [field.name for field in attrs.fields(Envelope) if field.init]
        return Envelope(**{name: getattr(self, name) for name in fields})


@attrs.define(eq=False)
class Shelf:
    """Shelf for the contributions of a node."""

    folder: Path | None  # the node's own; ``None`` where nothing may be kept
    budget: int  # bytes for contributions and their merging; 0 for no limit
    _files: weakref.WeakSet[ShelvedFile] = attrs.field(
        factory=weakref.WeakSet[ShelvedFile], init=False
    )

    @classmethod
    def open(cls, folder: Path | None, budget: int) -> Shelf:
        """The shelf of a node that starts; files that an earlier run left are gone.

        Raises RoundError: QRES-E602 for a folder that cannot be made.
        """
        if folder is None or not budget:
            return cls(None, budget)
        place = folder / FOLDER
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            for left in place.glob(f"{_PREFIX}*"):  # where a system gives such files names
                left.unlink()
        except OSError as error:
            raise _unusable(place, error) from error
        return cls(place, budget)

    def lay(self, held: Held, beside: int) -> Held:
        """The contribution as it is kept: in memory, or if the budget is used up on the disk.

        ``beside``: bytes of the contributions that are in memory. Raises RoundError: QRES-E602 when
        the disk does not take it; nothing is left of it then.
        """
        vector, envelope = held.contribution.vector, held.envelope
        fits = beside + held.octets <= self.budget // 2
        if self.folder is None or fits or len(self._files) >= MOST_FILES:
            return held
        try:
            file = ShelvedFile.write(self.folder, vector, envelope.payload)
            mapped = file.mapped()
        except OSError as error:
            raise _unusable(self.folder, error) from error
        self._files.add(file)
        contribution = attrs.evolve(held.contribution, vector=mapped)
        return Held(contribution, ShelvedMessage.of(envelope, file), file)


@attrs.define(eq=False)
class Allowance:
    """Allowance for contributions on the disk that a node gives to others in a while.

    All of it leaves through memory. A peer may ask for everything at once, and so may liars. One
    message each may have in a while; more only while something is left for all.
    """

    budget: int  # bytes in a while; 0 for no limit
    pause: float  # how long that is, seconds
    _left: int = attrs.field(default=0, init=False)
    _until: float = attrs.field(default=-math.inf, init=False)
    _given: set[NodeId] = attrs.field(factory=set[NodeId], init=False)

    def grants(self, peer: NodeId, now: float) -> bool:
        """True if a peer may be given a message now."""
        if now >= self._until:
            self._left, self._until, self._given = self.budget, now + self.pause, set()
        return not self.budget or peer not in self._given or self._left > 0

    def gave(self, peer: NodeId, octets: int) -> None:
        """A peer was given a message."""
        self._given.add(peer)
        self._left -= octets


def _unreadable(what: str) -> RoundError:
    where = f"a contribution in {FOLDER}"
    fix = "see to the disk of node.data_dir, or set swarm.memory = 0 for this node"
    return RoundError.of("QRES-E602", where, what, fix)


def _unusable(place: Path, error: OSError) -> RoundError:
    what = f"contributions cannot be laid there: {error.strerror or error}"
    return RoundError.of(
        "QRES-E602", os.fspath(place), what, "make room, or set swarm.memory = 0 for this node"
    )
