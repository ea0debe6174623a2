"""Counts that two threads write, each its own fields."""

from __future__ import annotations

from collections import Counter
from typing import Any

import attrs

from qres_core.transport import TransportStats


@attrs.define(eq=False)
class Tally:
    """The fields of :class:`TransportStats`, counted.

    ``frames_received`` is written by the node's thread alone, all others by the transport's. A
    reason is one of the few that this package names, never what a peer wrote.
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
    reasons: Counter[str] = attrs.field(factory=Counter[str])

    def drop(self, reason: str) -> None:
        """Count a frame that was dropped."""
        self.frames_dropped += 1
        self.reasons[reason] += 1

    def refuse(self, reason: str) -> None:
        """Count a connection that was turned away."""
        self.refused += 1
        self.reasons[reason] += 1

    def spoilt(self, reason: str) -> None:
        """Count something that broke the protocol."""
        self.malformed += 1
        self.reasons[reason] += 1

    def snapshot(self) -> TransportStats:
        """The counts now."""
        counts: dict[str, Any] = attrs.asdict(self, recurse=False)
        counts["reasons"] = dict(self.reasons)
        return TransportStats(**counts)
