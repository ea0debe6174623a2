"""Queue of messages to send, bounded and shared, the small before the large."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable

import attrs

from qres_transport_grpc.wire import SMALL_BYTES

OVERHEAD_BYTES = 256
"""What each message counts for beside its own bytes."""
SMALL_RUN = 64
"""Small messages that overtake a large one, at most: a flood of them holds up no blob."""


@attrs.define(eq=False)
class OutboxPool:
    """Memory that several outboxes share: each may have as much of it as is left.

    So one that nobody empties has at most half, two have a third each, and there is always room for
    those that are emptied.
    """

    room: int  # bytes
    used: int = 0  # bytes


class Outbox:
    """Messages that take turns, by whom they are from or for: nobody waits behind a flood.

    Where there is no room, whoever has most of it loses the newest message. Small messages go
    before large ones, :data:`SMALL_RUN` of them at a time.

    Args:
        room: most bytes of large messages that wait.
        small_room: most bytes of small ones.
        share: most bytes that wait of one end, of each kind; ``None`` for all of them.
        pool: what it shares with others; ``None`` for nobody.
    """

    def __init__(
        self,
        room: int,
        small_room: int,
        share: int | None = None,
        pool: OutboxPool | None = None,
    ) -> None:
        self._queues = (
            OrderedDict[Hashable, deque[bytes]](),
            OrderedDict[Hashable, deque[bytes]](),
        )
        self._rooms = (small_room, room)
        self._share = share
        self._pool = pool
        self._waiting = [0, 0]
        self._by_end: tuple[dict[Hashable, int], dict[Hashable, int]] = ({}, {})
        self._overtaken = 0  # small messages that left while a large one waited

    @property
    def waiting(self) -> int:
        """Bytes that wait."""
        return sum(self._waiting)

    @property
    def large(self) -> int:
        """Bytes of large messages that wait."""
        return self._waiting[1]

    def put(self, message: bytes, end: Hashable = None) -> bool:
        """Add a message; false where there is no room. ``end``: whose turn it takes."""
        kind, size = int(len(message) > SMALL_BYTES), len(message) + OVERHEAD_BYTES
        while self._waiting[kind] + size > self._room(kind):
            if not self.fits(len(message), end):
                return False
            self._take(kind, self._greediest(kind), newest=True)
        if not self.fits(len(message), end):
            return False
        after = self._by_end[kind].get(end, 0) + size
        self._queues[kind].setdefault(end, deque()).append(message)
        self._count(kind, size)
        self._by_end[kind][end] = after
        return True

    def _count(self, kind: int, size: int) -> None:
        self._waiting[kind] += size
        if self._pool is not None:
            self._pool.used += size

    def _room(self, kind: int) -> int:
        """Most bytes of a kind that may wait now."""
        if self._pool is None:
            return self._rooms[kind]
        left = self._pool.room - self._pool.used
        return min(self._rooms[kind], left - self._waiting[1 - kind])

    def fits(self, length: int, end: Hashable = None) -> bool:
        """True if a message of some bytes has room, or another makes room for it."""
        kind, size = int(length > SMALL_BYTES), length + OVERHEAD_BYTES
        after = self._by_end[kind].get(end, 0) + size
        room = self._room(kind)
        if size > room or (self._share is not None and after > self._share):
            return False
        if self._waiting[kind] + size <= room:
            return True
        return self._by_end[kind][self._greediest(kind)] > after

    def clear(self) -> None:
        """Drop what waits."""
        while self.pop() is not None:
            pass

    def _greediest(self, kind: int) -> Hashable:
        return max(self._by_end[kind].items(), key=lambda item: item[1])[0]

    def pop(self) -> bytes | None:
        """The next message, if one waits."""
        for kind in (0, 1) if self._overtaken < SMALL_RUN else (1, 0):
            queues = self._queues[kind]
            for end in queues:
                queues.move_to_end(end)
                self._overtaken = 0 if kind or not self._queues[1] else self._overtaken + 1
                return self._take(kind, end)
        return None

    def _take(self, kind: int, end: Hashable, *, newest: bool = False) -> bytes:
        queue = self._queues[kind][end]
        message = queue.pop() if newest else queue.popleft()
        size = len(message) + OVERHEAD_BYTES
        self._count(kind, -size)
        self._by_end[kind][end] -= size
        if not queue:
            del self._queues[kind][end], self._by_end[kind][end]
        return message
