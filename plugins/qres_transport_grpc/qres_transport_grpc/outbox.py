"""What waits to be sent, bounded, the small before the large."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable

from qres_transport_grpc.wire import SMALL_BYTES

OVERHEAD_BYTES = 256
"""What each message counts for beside its own bytes."""


class Outbox:
    """Messages for one receiver.

    Args:
        room: most bytes of large messages that wait.
        small_room: most bytes of small ones.
        share: most bytes that wait from one sender, of each kind; ``None`` for all of them.
    """

    def __init__(self, room: int, small_room: int, share: int | None = None) -> None:
        self._queues: tuple[deque[tuple[Hashable, bytes]], deque[tuple[Hashable, bytes]]] = (
            deque(),
            deque(),
        )
        self._rooms = (small_room, room)
        self._share = share
        self._waiting = [0, 0]
        self._by_sender: dict[tuple[int, Hashable], int] = {}

    @property
    def waiting(self) -> int:
        """Bytes that wait."""
        return sum(self._waiting)

    def put(self, message: bytes, sender: Hashable = None) -> bool:
        """Add a message; false where there is no room."""
        kind, size = int(len(message) > SMALL_BYTES), len(message) + OVERHEAD_BYTES
        theirs = self._by_sender.get((kind, sender), 0)
        if self._waiting[kind] + size > self._rooms[kind]:
            return False
        if self._share is not None and theirs + size > self._share:
            return False
        self._queues[kind].append((sender, message))
        self._waiting[kind] += size
        self._by_sender[kind, sender] = theirs + size
        return True

    def pop(self) -> bytes | None:
        """The next message, if one waits."""
        for kind, queue in enumerate(self._queues):
            if queue:
                sender, message = queue.popleft()
                size = len(message) + OVERHEAD_BYTES
                self._waiting[kind] -= size
                left = self._by_sender[kind, sender] - size
                if left:
                    self._by_sender[kind, sender] = left
                else:
                    del self._by_sender[kind, sender]
                return message
        return None
