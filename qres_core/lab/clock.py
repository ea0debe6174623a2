"""Virtual time: what is to happen, and when."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Final

import attrs

EPOCH: Final = 1_700_000_000.0
"""Where the virtual clock starts, seconds since 1970."""

Event = Callable[[], None]
_Waiting = tuple[float, int, Event]


@attrs.define(eq=False)
class Clock:
    """Plays events in the order of their times; of one time, in the order they were put in."""

    now: float = EPOCH  # seconds since 1970
    _waiting: list[_Waiting] = attrs.field(factory=list[_Waiting], init=False)
    _count: int = attrs.field(default=0, init=False)

    def at(self, time: float, event: Event) -> None:
        """Have something happen at a time."""
        self._count += 1
        heapq.heappush(self._waiting, (time, self._count, event))

    def after(self, seconds: float, event: Event) -> None:
        """Have something happen so many seconds from now."""
        self.at(self.now + seconds, event)

    def advance(self) -> bool:
        """Have the next event happen; false if none is waiting."""
        if not self._waiting:
            return False
        self.now, _order, event = heapq.heappop(self._waiting)
        event()
        return True
