"""Frames for one node: to each neighbour a stream that stays open, and a bounded queue."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Final

import trio
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from qres_carrier import SenderBuckets, TokenBucket

from qres_core import NodeId
from qres_transport_libp2p.options import FRAME_MOST, Libp2pOptions
from qres_transport_libp2p.sessions import FOREVER, PeerConnection, Sessions
from qres_transport_libp2p.wire import BadBytesError, BrokenStreamError, Wire, reset

PROTOCOL: Final = TProtocol("/qres/frame/1")
STREAMS_PER_PEER: Final = 2
"""One, and one more while the other end has not noticed that the first is gone."""


class Frames:
    """Sends and delivers.

    Args:
        sessions: who is admitted.
        options: limits.
        deliver: takes frames.
    """

    def __init__(
        self,
        sessions: Sessions,
        options: Libp2pOptions,
        deliver: Callable[[NodeId, bytes, NodeId | None], None],
    ) -> None:
        self._sessions = sessions
        self._options = options
        self._deliver = deliver
        self._queues: dict[ID, trio.MemorySendChannel[bytes]] = {}
        self._reading: dict[ID, int] = {}
        self._buckets = SenderBuckets(
            lambda: TokenBucket(
                options.ingress_per_second, options.ingress_burst, clock=trio.current_time
            )
        )
        sessions.serve(PROTOCOL, self._read)

    async def send(self, to: NodeId, frame: bytes) -> None:
        """Queue a frame; nothing happens if the node is not there, or takes no more."""
        peer = self._sessions.members.peers.get(to)
        if peer is None or not self._sessions.is_up(peer):
            return
        queue = self._queues.get(peer)
        if queue is None:
            queue, outlet = trio.open_memory_channel[bytes](self._options.outbox_frames)
            self._queues[peer] = queue
            self._sessions.start(self._write, peer, outlet)
        try:
            queue.send_nowait(frame)
        except trio.WouldBlock:
            self._sessions.tally.drop("outbox full")
            return
        self._sessions.tally.frames_sent += 1
        self._sessions.tally.bytes_sent += len(frame)

    async def _write(self, peer: ID, outlet: trio.MemoryReceiveChannel[bytes]) -> None:
        wire: Wire | None = None
        async for frame in outlet:
            for _attempt in range(2):  # a stream that broke while it rested is opened again
                try:
                    wire = wire or await self._sessions.open(peer, PROTOCOL)
                    await wire.send(frame)
                    break
                except BrokenStreamError:
                    if wire is not None:
                        await reset(wire.stream)
                        wire = None
            else:
                self._sessions.tally.drop("stream broke")

    async def _read(self, link: PeerConnection, wire: Wire) -> None:
        reading = self._reading.get(link.peer, 0)
        if reading >= STREAMS_PER_PEER:
            what = "too many streams"
            raise BrokenStreamError(what)
        self._reading[link.peer] = reading + 1
        try:
            while True:
                frame = await wire.block(FRAME_MOST, FOREVER)
                if not frame:
                    what = "an empty frame"
                    raise BadBytesError(what)
                if wait := self._buckets.of(link.peer).wait():
                    await trio.sleep(wait)  # the sender's window closes meanwhile
                self._deliver(link.node, frame, None)
        finally:
            self._reading[link.peer] -= 1
            with contextlib.suppress(KeyError):
                if not self._reading[link.peer]:
                    del self._reading[link.peer]
