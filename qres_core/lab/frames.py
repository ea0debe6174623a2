"""Frames of a simulated swarm, decoded once for all nodes that receive them.

A broadcast frame comes to ``n`` nodes of one process. Decoded by each of them, its payload would be
in memory ``n`` times, and all payloads of a round ``n**2`` times. An envelope never changes, so the
nodes can have the same one. What cannot be decoded is looked at by every node.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from qres_core.contract.wire import Envelope
from qres_core.kernel.config import SwarmConfig

LARGE: Final = 65_536
"""Bytes; of longer frames no more are remembered than a round has contributions."""
KEPT: Final = 4096
"""Other frames that are remembered."""


class SharedFrames:
    """Decodes for all nodes of one swarm. ``swarm``: its promises, of which the limit counts."""

    def __init__(self, swarm: SwarmConfig) -> None:
        def decode(frame: bytes) -> Envelope:
            return Envelope.from_bytes(frame, max_bytes=swarm.max_message_bytes)

        self._large = lru_cache(swarm.nodes)(decode)
        self._small = lru_cache(KEPT)(decode)

    def read(self, frame: bytes) -> Envelope:
        """The envelope in a frame. Raises WireError, as :meth:`Envelope.from_bytes`."""
        return (self._large if len(frame) > LARGE else self._small)(frame)
