"""Yamux that survives cancelled reads and writes, and loses no stream to a cancellation.

A deadline is a cancellation, and a frame that is cancelled on its way into the Noise layer would
leave the two ends of the connection at different nonces. So frames are written under a shield: a
deadline costs a stream, never the connection. Reads need it too, because they send window updates.
And a stream that is cancelled while it is opened would keep its place in the connection for ever.
What comes is noted as a sign of life, and libp2p's own pings are left to who looks after them.
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

import trio
from libp2p.abc import IHost, IMuxedConn, INetConn, INetStream, ISecureConn
from libp2p.custom_types import TProtocol
from libp2p.network.exceptions import SwarmException
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import MuxedStreamError
from libp2p.stream_muxer.muxer_multistream import MuxerMultistream
from libp2p.stream_muxer.yamux import yamux
from libp2p.stream_muxer.yamux.yamux import (
    FLAG_ACK,
    FLAG_SYN,
    PROTOCOL_ID,
    TYPE_PING,
    YAMUX_HEADER_FORMAT,
    Yamux,
    YamuxStream,
)
from qres_carrier import SenderBuckets, TokenBucket

from qres_transport_libp2p.clock import patience, shielded
from qres_transport_libp2p.pulse import Pulse
from qres_transport_libp2p.windows import (
    STREAMS_BURST,
    STREAMS_PER_SECOND,
    TOO_FAST,
    FrameGuard,
    fault_of,
    may_grow,
)

WRITE_SECONDS: Final = 10.0
"""How long the peer's kernel may take nothing before the connection counts as lost."""
PLACE_SECONDS: Final = 0.05
"""Pause before a place for another stream is looked for again."""
FRAME_BYTES: Final = 16 * 1024
"""Of a stream's data, in one frame. What is small waits for one of them of each other stream."""
ROOM_SECONDS: Final = 60.0
"""How long a stream may have no room at the other end before it counts as broken. On a line that
carries a model each way, word of room waits behind what goes the other way."""
ROOM_PAUSE: Final = 0.01
"""Between two looks for room: nothing tells of it."""

T = TypeVar("T")
Fault = Callable[[IMuxedConn, str], object]


def openings() -> SenderBuckets:
    """Number of streams that each peer may open now."""
    return SenderBuckets(
        lambda: TokenBucket(STREAMS_PER_SECOND, STREAMS_BURST, clock=trio.current_time)
    )


class GatheringStream(YamuxStream):
    """Tells the sender of room only once half of the window was read, as yamux asks for.

    libp2p's own does so after every read, whatever its settings say. Gossip is read in pieces of a
    few bytes, so every third frame on a connection was such an update. And libp2p's own breaks a
    stream that has no room for five seconds, with what was under way on it.
    """

    async def write(self, data: bytes) -> None:
        """Write in small frames, as room comes. Raises MuxedStreamError: it is closed, or stuck."""
        sent = 0
        while sent < len(data):
            await self._have_room()
            part = data[sent : sent + min(FRAME_BYTES, self.send_window)]
            await super().write(part)
            sent += len(part)

    async def _have_room(self) -> None:
        """Wait for room. Raises MuxedStreamError: there is none in time, or the stream is over."""
        with patience(ROOM_SECONDS) as scope:
            while not (self.send_window > 0 or self.closed or self.send_closed):  # noqa: ASYNC110
                await trio.sleep(ROOM_PAUSE)
        if scope.cancelled_caught or self.closed or self.send_closed:
            what = "no room at the other end" if scope.cancelled_caught else "the stream is closed"
            raise MuxedStreamError(what)

    async def _auto_tune_and_send_window_update(self, *, bytes_read: int = 0) -> None:
        waiting = len(self.conn.stream_buffers.get(self.stream_id, b""))
        read = self.target_recv_window - self.recv_window - waiting
        if 2 * read >= self.target_recv_window:
            await super()._auto_tune_and_send_window_update(bytes_read=bytes_read)

    def _apply_autotune_epoch(self, buffered: int) -> int:
        """Let the window grow while the connection's budget lasts."""
        if may_grow(self.conn, self):
            return super()._apply_autotune_epoch(buffered)
        return 0


class ShieldedYamux(Yamux):
    """Writes whole frames, or closes the connection; reads none that the peer may not send.

    Args:
        secured: what it runs over.
        peer: whose it is.
        fault: told of a peer that sends what it may not; the connection ends by itself.
        opens: how many streams each peer may open, shared with its other connections.
    """

    def __init__(
        self,
        secured: ISecureConn,
        peer: ID,
        *,
        is_initiator: bool,
        fault: Fault | None = None,
        opens: SenderBuckets | None = None,
    ) -> None:
        def told(why: str) -> None:
            if fault is not None:
                fault(self, why)

        self.pulse = Pulse(trio.current_time())
        self._opens = openings() if opens is None else opens
        guard: Any = FrameGuard(secured, self._look, told, self._hear)
        super().__init__(guard, peer, is_initiator=is_initiator, on_close=_nothing)

    def _hear(self) -> None:
        self.pulse.heard = trio.current_time()

    def _look(self, kind: int, flags: int, stream_id: int, length: int) -> str:
        if kind == TYPE_PING and flags & FLAG_ACK:
            self.pulse.answered(length, trio.current_time())
        if kind != TYPE_PING and flags & FLAG_SYN and not self._opens.of(self.peer_id).take():
            return TOO_FAST
        return fault_of(self, kind, flags, stream_id, length)

    async def ping(self) -> None:
        """Ask for a sign of life. A connection that cannot be written to closes by itself."""
        self._ping_id = (self._ping_id + 1) % 2**32
        number = self._ping_id
        try:
            await self._write_frame(
                struct.pack(YAMUX_HEADER_FORMAT, 0, TYPE_PING, FLAG_SYN, 0, number)
            )
        finally:
            self.pulse.sent(number, trio.current_time())

    async def _measure_rtt_loop(self) -> None:
        """Nothing: who looks after all connections pings those that are quiet."""

    async def _write_frame(self, data: bytes) -> None:
        secured: Any = self.secured_conn
        async with self._write_lock:
            with patience(WRITE_SECONDS, shield=True) as scope:
                await secured.write(data)
            if scope.cancelled_caught:
                with patience(1.0, shield=True):
                    await secured.close()
        await trio.lowlevel.checkpoint()

    async def open_stream(self) -> YamuxStream:
        """A new stream; waits for a place. Whoever is cancelled meanwhile has not opened one."""
        while not self.stream_backlog_semaphore.value:  # noqa: ASYNC110 - nothing tells of one
            await trio.sleep(PLACE_SECONDS)
        with shielded():  # the frame ends, one way or the other
            return await super().open_stream()


class ShieldedMuxer(MuxerMultistream):
    """Negotiates yamux and nothing else, and makes it shielded.

    libp2p's own makes ``Yamux`` itself for that protocol, so a class given for it is not enough.
    """

    def __init__(self, fault: Fault | None) -> None:
        self._fault = fault
        self._opens = openings()
        super().__init__({TProtocol(PROTOCOL_ID): ShieldedYamux})

    async def new_conn(self, conn: ISecureConn, peer_id: ID) -> IMuxedConn:
        """A muxed connection over a secured one."""
        select: Any = self._selector.select
        protocol, _class = await select(conn, conn.is_initiator, self.negotiate_timeout)
        muxed = ShieldedYamux(
            conn,
            peer_id,
            is_initiator=conn.is_initiator,
            fault=self._fault,
            opens=self._opens,
        )
        return self._annotate_connection(muxed, conn, protocol)


async def _nothing() -> None:
    """Do nothing: a place for the swarm's own function."""


async def whole(opening: Callable[[], Awaitable[T]]) -> T:
    """Open a stream to the end, or not at all. Raises MuxedStreamError: not in time."""
    with patience(WRITE_SECONDS, shield=True):
        return await opening()
    what = "no stream in time"
    raise MuxedStreamError(what)


def _any(_peer: ID) -> Iterable[INetConn]:
    return ()


def shield(
    host: IHost,
    fault: Fault | None = None,
    choose: Callable[[ID], Iterable[INetConn]] = _any,
) -> None:
    """Have a host, before it runs, make its connections and their streams this way.

    ``fault``: told of connections whose other end sends what it may not, and how. ``choose``:
    the connections of a peer that streams are opened over, the first that works; if there is none,
    libp2p chooses.
    """
    library: Any = yamux
    library.YamuxStream = GatheringStream  # no argument leads there
    network: Any = host.get_network()
    network.upgrader.muxer_multistream = ShieldedMuxer(fault)
    plain: Callable[[ID], Awaitable[INetStream]] = network.new_stream

    async def new_stream(peer_id: ID) -> INetStream:
        if not network.get_connections(peer_id):  # libp2p would dial
            what = f"{peer_id} is not connected"
            raise SwarmException(what)
        for conn in choose(peer_id):
            with suppress(Exception):  # it is closing; another may do
                return await whole(conn.new_stream)
        return await whole(partial(plain, peer_id))

    network.new_stream = new_stream
