"""Queues for a reader: frames that fall due, and notices of which the oldest give way."""

from __future__ import annotations

import heapq
import math
from collections import deque
from typing import Generic, TypeVar

import anyio
import attrs

from qres_core.contract.errors import RoundError

T = TypeVar("T")


def _closed(where: str) -> RoundError:
    return RoundError.of("QRES-E603", where, "closed while something was awaited")


@attrs.define(eq=False)
class _Awaited:
    """Something to wait for, until it is closed."""

    _closed: bool = attrs.field(init=False, default=False)
    _changed: anyio.Event = attrs.field(init=False, factory=anyio.Event)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


@attrs.define(eq=False)
class Inbox(_Awaited, Generic[T]):
    """Items that may be taken once their time has come; ties in the order they were put.

    Readers wait for the clock themselves, so that a delayed item needs no task of its own.
    """

    capacity: int  # items that may wait, due or not
    _waiting: list[tuple[float, int, T]] = attrs.field(factory=list[tuple[float, int, T]])
    _count: int = 0

    def put(self, item: T, due: float = -math.inf) -> bool:
        """Add an item that may be taken from ``due`` on, a time of ``anyio.current_time``.

        Returns:
            whether there was room.

        Complexity: O(log capacity).
        """
        if self._closed or len(self._waiting) >= self.capacity:
            return False
        heapq.heappush(self._waiting, (due, self._count, item))
        self._count += 1
        self._wake()
        return True

    async def take(self) -> T:
        """The item that has been due longest; waits for one.

        Raises RoundError: QRES-E603 once it is closed.
        """
        await anyio.lowlevel.checkpoint()
        while not self._closed:
            wait = math.inf
            if self._waiting:
                wait = self._waiting[0][0] - anyio.current_time()
                if wait <= 0:
                    return heapq.heappop(self._waiting)[2]
            with anyio.move_on_after(wait):
                await self._changed.wait()
        raise _closed("transport.receive")

    def close(self) -> None:
        """Forget everything; who waits gets the error."""
        self._closed = True
        self._waiting.clear()
        self._wake()


@attrs.define(eq=False)
class Notices(_Awaited, Generic[T]):
    """The newest items, for a reader who may never come."""

    capacity: int  # items that are kept
    _kept: deque[T] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._kept = deque(maxlen=self.capacity)

    def put(self, item: T) -> None:
        """Add an item; the oldest goes if there is no room."""
        self._kept.append(item)
        self._wake()

    async def take(self) -> T:
        """The oldest item that is left; waits for one. Raises RoundError QRES-E603 once closed."""
        await anyio.lowlevel.checkpoint()
        while not self._closed or self._kept:
            if self._kept:
                return self._kept.popleft()
            await self._changed.wait()
        raise _closed("transport.event")

    def open(self) -> None:
        """Undo a close."""
        self._closed = False

    def close(self) -> None:
        """Let who waits get the error, once what is left has been read."""
        self._closed = True
        self._wake()
