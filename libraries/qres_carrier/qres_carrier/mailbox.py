"""A bounded queue from one thread to an event loop in another."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

import anyio
import anyio.lowlevel

T = TypeVar("T")
Post = Callable[[Callable[[], object]], None]


class Mailbox(Generic[T]):
    """Filled from any thread, emptied by tasks of one event loop.

    Args:
        capacity: most items that wait.
        drop_oldest: whether a full box makes room for the new one, or refuses it.
    """

    def __init__(self, capacity: int, *, drop_oldest: bool = False) -> None:
        self._items: deque[T] = deque()
        self._capacity = capacity
        self._drop_oldest = drop_oldest
        self._lock = threading.Lock()
        self._waiting: list[anyio.Event] = []
        self._post: Post | None = None
        self._error: Callable[[], Exception] | None = None

    def bind(self, post: Post) -> None:
        """Name the way to run something in the event loop of whoever empties the box."""
        self._post = post

    def put(self, item: T) -> bool:
        """Add an item; false if there was no room or the box is closed."""
        with self._lock:
            if self._error is not None:
                return False
            if len(self._items) >= self._capacity:
                if not self._drop_oldest:
                    return False
                self._items.popleft()
            self._items.append(item)
            self._wake()
        return True

    def close(self, error: Callable[[], Exception]) -> None:
        """Let everyone who waits, now or later, get an error."""
        with self._lock:
            self._error = self._error or error
            self._items.clear()
            self._wake()

    def _wake(self) -> None:
        if self._waiting and self._post is not None:
            for event in self._waiting:
                self._post(event.set)
            self._waiting.clear()

    async def get(self) -> T:
        """The oldest item; waits for it. Raises Exception: what the box was closed with."""
        await anyio.lowlevel.checkpoint()  # before, so that a cancelled task takes nothing
        while True:
            with self._lock:
                if self._error is not None:
                    raise self._error()
                if self._items:
                    return self._items.popleft()
                event = anyio.Event()
                self._waiting.append(event)
            try:
                await event.wait()
            finally:
                with self._lock:
                    if event in self._waiting:
                        self._waiting.remove(event)
