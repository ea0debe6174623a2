"""Counts that two threads write, each its own fields."""

from __future__ import annotations

import attrs

from qres_core import TransportStats


@attrs.define(eq=False)
class Tally:
    """The fields of :class:`TransportStats`, counted.

    ``frames_received`` is written by the node's thread alone, all others by the transport's.
    """

    frames_sent: int = 0
    frames_received: int = 0
    frames_dropped: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    blobs_fetched: int = 0
    blobs_failed: int = 0
    refused: int = 0
    malformed: int = 0

    def snapshot(self) -> TransportStats:
        """The counts now."""
        return TransportStats(**attrs.asdict(self))
