"""A bounded queue from one thread to an event loop in another."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import anyio
import anyio.lowlevel

T = TypeVar("T")
Post = Callable[[Callable[[], object]], None]


class Mailbox(Generic[T]):
    """Filled from any thread, emptied by tasks of one event loop.

    Items may have a source. Sources take turns, and none may have more items in the box than there
    is room left: so one that floods gets half of it. In a full box the newest item of whoever has
    most makes way for a source that has none, as long as somebody has two.

    Args:
        capacity: most items that wait.
        drop_oldest: whether a full box makes room for the new one, or refuses it.
        keeps: whether what is in the box is never dropped, since its sender was told that it came;
            a source that has none then waits until something is taken.
    """

    def __init__(self, capacity: int, *, drop_oldest: bool = False, keeps: bool = False) -> None:
        self._queues: OrderedDict[Hashable, deque[T]] = OrderedDict()
        self._waits = 0  # items in all queues
        self._capacity = capacity
        self._drop_oldest = drop_oldest
        self._keeps = keeps
        self._lock = threading.Lock()
        self._waiting: list[anyio.Event] = []
        self._post: Post | None = None
        self._error: Callable[[], Exception] | None = None

    def bind(self, post: Post) -> None:
        """Name the way to run something in the event loop of whoever empties the box."""
        self._post = post

    def __len__(self) -> int:
        """Items that wait."""
        return self._waits

    def put(self, item: T, source: Hashable = None) -> bool:
        """Add an item; false if there was no room for its source, or the box is closed."""
        with self._lock:
            if self._error is not None:
                return False
            if source is not None and source not in self._queues:
                self._make_way()
            room = self._capacity - self._waits
            if room <= 0 and self._drop_oldest:
                self._take()
            elif room <= (0 if source is None else len(self._queues.get(source, ()))):
                return False
            self._queues.setdefault(source, deque()).append(item)
            self._waits += 1
            self._wake()
        return True

    def _make_way(self) -> None:
        """Drop the newest item of the source that has most, if the box is full of several."""
        if self._queues and self._waits >= self._capacity and not self._keeps:
            longest = max(self._queues.values(), key=len)
            if len(longest) > 1:
                longest.pop()
                self._waits -= 1

    def _take(self) -> T:
        source, queue = self._queues.popitem(last=False)
        item = queue.popleft()
        self._waits -= 1
        if queue:
            self._queues[source] = queue  # its next one waits for the others' turns
        return item

    def close(self, error: Callable[[], Exception]) -> None:
        """Let everyone who waits, now or later, get an error."""
        with self._lock:
            self._error = self._error or error
            self._queues.clear()
            self._waits = 0
            self._wake()

    def _wake(self) -> None:
        if self._waiting and self._post is not None:
            for event in self._waiting:
                self._post(event.set)
            self._waiting.clear()

    async def get(self) -> T:
        """The next item; waits for it. Raises Exception: what the box was closed with."""
        await anyio.lowlevel.checkpoint()  # before, so that a cancelled task takes nothing
        while True:
            with self._lock:
                if self._error is not None:
                    raise self._error()
                if self._waits:
                    return self._take()
                event = anyio.Event()
                self._waiting.append(event)
            try:
                await event.wait()
            finally:
                with self._lock:
                    if event in self._waiting:
                        self._waiting.remove(event)
