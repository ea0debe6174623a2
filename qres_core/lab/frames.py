"""Facts that the nodes of a simulated swarm have alike, held once for all of them.

A broadcast frame comes to ``n`` nodes of one process, and all of them merge to the same model. Were
each of them to decode the frame and to hold the model, the vectors of a round would be in memory
``n**2`` times. An envelope never changes, and neither does a vector, so the nodes can have the
same one. What cannot be decoded is looked at by every node.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from functools import lru_cache
from typing import Any, Final, TypeVar, cast
from weakref import WeakValueDictionary

import numpy as np

from qres_core.attacks.carried import CarriedFrame
from qres_core.contract.errors import WireError
from qres_core.contract.types import Vector
from qres_core.contract.wire import Envelope
from qres_core.kernel.config import SwarmConfig
from qres_core.swarm.machine.height import MadeModel
from qres_core.swarm.shards.messages import ShardPart

T = TypeVar("T")

LARGE: Final = 8192
"""Bytes; of a longer frame only the envelope is kept while it is under way."""
KEPT: Final = 4096
"""Shorter frames that are remembered."""
VECTORS: Final = 8
"""Results that are remembered: of a rule and its wrappers, and of nodes that lie."""


class SharedFrames:
    """Decodes for all nodes of one swarm. ``swarm``: its promises, of which the limit counts."""

    def __init__(self, swarm: SwarmConfig) -> None:
        self._limit = swarm.max_message_bytes
        self._small = lru_cache(KEPT)(self._decode)
        # by digest, the message seen last that has a payload: all with the same share it
        self._holders: WeakValueDictionary[bytes, Envelope] = WeakValueDictionary()
        self._shards: WeakValueDictionary[bytes, ShardPart] = WeakValueDictionary()

    def _decode(self, frame: bytes) -> Envelope:
        return Envelope.from_bytes(frame, max_bytes=self._limit)

    def read(self, frame: bytes) -> Envelope:
        """The envelope in a frame. Raises WireError, as :meth:`Envelope.from_bytes`."""
        if isinstance(frame, CarriedFrame):
            return frame.envelope
        if len(frame) > LARGE:
            return self.shared(self._decode(frame))
        return self._small(frame)

    def carried(self, frame: bytes) -> bytes:
        """A frame as it is carried to many nodes; one that is small or unreadable as it is."""
        if len(frame) <= LARGE:
            return frame
        try:
            envelope = self.read(frame)
        except WireError:
            return frame
        carried = CarriedFrame()
        carried.envelope, carried.size = envelope, len(frame)
        return carried

    def shared(self, envelope: Envelope) -> Envelope:
        """The message, with the very payload that others have that say the same."""
        if len(envelope.payload) > LARGE:
            digest = envelope.payload_digest
            shard, known = self._shards.get(digest), self._holders.get(digest)
            if shard is not None and isinstance(shard.octets, memoryview):
                object.__setattr__(envelope, "payload", shard.octets.obj)
            elif known is not None:
                object.__setattr__(envelope, "payload", known.payload)
            self._holders[digest] = envelope
        return envelope

    def read_from(self, shard: ShardPart, digest: bytes) -> None:
        """A node reads a shard in a payload of this digest: it keeps the payload with it."""
        self._shards[digest] = shard


class SharedFindings:
    """Findings that follow from something alone, made by whichever node needs them first.

    What can be is kept for as long as a node holds it. Of the rest the newest are.
    """

    def __init__(self) -> None:
        self._held: WeakValueDictionary[tuple[Hashable, ...], Any] = WeakValueDictionary()
        self._kept: dict[tuple[Hashable, ...], Any] = {}

    def found(self, what: tuple[Hashable, ...], find: Callable[[], T]) -> T:
        """Result of ``find``, now or earlier for the same ``what``. Raises as it does."""
        known = self._held.get(what)
        if known is None:
            known = self._kept.get(what)
        if known is None:
            known = find()
            try:
                self._held[what] = known
            except TypeError:  # of numbers, bytes and lists nobody knows whether they are held
                self._kept[what] = known
                if len(self._kept) > KEPT:
                    del self._kept[next(iter(self._kept))]
        return cast("T", known)


class SharedVectors:
    """Vectors that nodes find, each by itself, and find alike."""

    def __init__(self) -> None:
        self._merged: deque[Vector] = deque(maxlen=VECTORS)
        self._made: deque[tuple[Vector, int, MadeModel]] = deque(maxlen=VECTORS)

    def merged(self, vector: Vector) -> Vector:
        """The vector that another node found, if it is equal; else this one."""
        for known in self._merged:
            if known is vector or np.array_equal(known, vector):
                return known
        self._merged.append(vector)
        return vector

    def made(self, model: Vector, step: int, merged: Vector) -> MadeModel:
        """As :meth:`MadeModel.of`, made once for all nodes with the same arguments."""
        for before, number, known in self._made:
            if number == step and _alike(before, model) and _alike(known.merged, merged):
                return known
        found = MadeModel.of(model, step, merged)
        self._made.append((model, step, found))
        return found


def _alike(a: Vector, b: Vector) -> bool:
    return a is b or np.array_equal(a, b)
