"""Bounds on unread data of a peer, looked at before a frame's body is read.

libp2p 0.8.1 only warns of a peer that sends beyond its window, and keeps whatever comes; and it
lets windows grow to 16 MiB on each of any number of streams. Here such a peer's connection ends at
the header, and all windows of a connection share one budget.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

from libp2p.io.exceptions import IOException
from libp2p.stream_muxer.yamux.yamux import (
    DEFAULT_WINDOW_SIZE,
    FLAG_SYN,
    HEADER_SIZE,
    TYPE_DATA,
    YAMUX_HEADER_FORMAT,
    Yamux,
    YamuxStream,
)

CONNECTION_BYTES: Final = 16 * 2**20
"""Unread bytes of one connection, in all its streams."""
STREAMS: Final = 256
"""Streams that the other end may have open; libp2p opens no more than that."""
BEYOND: Final = "yamux: beyond the window"
STREAMS_PER_SECOND: Final = 50.0
"""Streams that a peer may open a second, on average, over all its connections: each costs, however
soon it ends."""
STREAMS_BURST: Final = 512
"""And at once."""
OWN_PER_SECOND: Final = 40.0
"""Streams that this node opens to a peer a second, on average: fewer than the peer allows."""
OWN_BURST: Final = 200
"""And at once: a node that starts anew knows nothing of what it opened before."""
TOO_FAST: Final = "yamux: streams too fast"
TOO_MANY_STREAMS: Final = "yamux: too many streams"
TOO_MUCH: Final = "yamux: too much unread"


class BeyondWindowError(IOException):
    """The other end broke the rules of yamux; nothing more is read."""


def fault_of(conn: Yamux, kind: int, flags: int, stream_id: int, length: int) -> str:
    """Fault of a frame, by its header, or nothing."""
    stream = conn.streams.get(stream_id)
    if flags & FLAG_SYN and kind <= 1 and stream is None:
        theirs = sum(1 for item in conn.streams.values() if not item.is_initiator)
        if theirs >= STREAMS:
            return TOO_MANY_STREAMS
    if kind != TYPE_DATA or not length:
        return ""
    # What comes for a stream that is over here was sent before the other end knew, and is dropped.
    if length > (DEFAULT_WINDOW_SIZE if stream is None else stream.recv_window):
        return BEYOND
    if len(conn.streams) * DEFAULT_WINDOW_SIZE > CONNECTION_BYTES:  # with fewer, windows see to it
        unread = sum(len(buffer) for buffer in conn.stream_buffers.values())
        if unread + length > CONNECTION_BYTES:
            return TOO_MUCH
    return ""


def may_grow(conn: Yamux, stream: YamuxStream) -> bool:
    """True if a stream's window may double."""
    granted = sum(item.target_recv_window for item in conn.streams.values())
    return granted + stream.target_recv_window <= CONNECTION_BYTES


class FrameGuard:
    """A secured connection whose yamux frames are looked at as they are read.

    Args:
        secured: the connection; all but reading is left to it.
        look: what is wrong with a header: kind, flags, stream and length; or nothing.
        fault: told what was wrong, once.
        heard: called whenever something came.
    """

    def __init__(
        self,
        secured: Any,
        look: Callable[[int, int, int, int], str],
        fault: Callable[[str], object],
        heard: Callable[[], object],
    ) -> None:
        self._secured = secured
        self._heard = heard
        self._look = look
        self._fault = fault
        self._head = bytearray()
        self._body = 0  # bytes of the present frame that are still to come

    def __getattr__(self, name: str) -> Any:
        return getattr(self._secured, name)

    async def read(self, size: int | None = None) -> bytes:
        """As the connection's. Raises BeyondWindowError: after the header of a forbidden frame."""
        data: bytes = await self._secured.read(size)
        if data:
            self._heard()
        if self._body:  # yamux reads a header as a whole, then the body as a whole
            self._body -= len(data)
            return data
        self._head += data
        if len(self._head) >= HEADER_SIZE:
            _version, kind, flags, stream_id, length = struct.unpack(
                YAMUX_HEADER_FORMAT, self._head
            )
            self._head.clear()
            if why := self._look(kind, flags, stream_id, length):
                self._fault(why)
                raise BeyondWindowError(why)
            self._body = length if kind == TYPE_DATA else 0
        return data
