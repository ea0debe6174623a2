"""Large messages that wait for their turn to leave: each once, and made when there is room for it.

A line that is slower than what is asked of it has a queue somewhere. Here it holds what was asked
for, some bytes each, and not the answers: whoever asks again while an answer waits gets it once.
Ends take turns, so nobody waits behind what another one asked for.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final

import attrs

from qres_core import NodeId

TURNS_EACH: Final = 256
"""Messages that may wait for one end; more are not taken, and are asked for again."""


@attrs.frozen
class _LineTurn:
    make: Callable[[], bytes]
    attempt: int


class Turns:
    """Queue of messages to make and to send.

    Args:
        room: whether the line that an attempt goes over takes a message for a node now.
        send: sends one: to whom, the attempt and the message.
    """

    def __init__(
        self,
        room: Callable[[NodeId, int], bool],
        send: Callable[[NodeId, int, bytes], object],
    ) -> None:
        self._room, self._send = room, send
        self._waiting: OrderedDict[NodeId, OrderedDict[Hashable, _LineTurn]] = OrderedDict()

    def put(self, to: NodeId, key: Hashable, make: Callable[[], bytes], attempt: int = 0) -> bool:
        """Have a message made and sent when there is room; false if too many wait for that end.

        Another one of the same ``key`` that still waits is this one: it is not sent twice.
        """
        queue = self._waiting.setdefault(to, OrderedDict())
        known = queue.get(key)
        if known is not None:
            queue[key] = _LineTurn(make, attempt)  # where it was, over another line
        elif len(queue) >= TURNS_EACH:
            return False
        else:
            queue[key] = _LineTurn(make, attempt)
        self.go_on()
        return True

    def waits(self, to: NodeId) -> int:
        """Messages that wait for an end."""
        return len(self._waiting.get(to, ()))

    def drop(self, to: NodeId) -> None:
        """Nothing is to be sent to an end any more."""
        self._waiting.pop(to, None)

    def go_on(self) -> None:
        """Send what there is room for."""
        went = True
        while went:
            went = False
            for to, queue in list(self._waiting.items()):
                key, turn = next(iter(queue.items()))
                if not self._room(to, turn.attempt):
                    continue
                del queue[key]
                self._waiting.move_to_end(to)
                if not queue:
                    del self._waiting[to]
                self._send(to, turn.attempt, turn.make())
                went = True
