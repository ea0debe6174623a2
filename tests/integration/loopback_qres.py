"""``qres`` with one more plugin: a transport over loopback TCP, for processes of a test alone.

It believes whoever says who it is, and keeps nothing for those that are away.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

import anyio
import attrs
from anyio.abc import ByteReceiveStream, SocketStream
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from anyio.streams.stapled import MultiListener
from qres_lab.box import fleet
from qres_lab.box import nodes as box

from qres_core import NodeId, NodeInfo, cli, hookimpl
from qres_core.contract.transport import Handler
from qres_core.errors import TransportError
from qres_core.kernel import discovery
from qres_core.node import daemon
from qres_core.transport import (
    BlobRef,
    Delivery,
    PeerInfo,
    TransportEvent,
    TransportLimits,
    TransportStats,
)

NAME = "loopback"
LIMIT = 2**26


async def _exactly(stream: ByteReceiveStream, count: int) -> bytes:
    made = bytearray()
    while len(made) < count:
        made += await stream.receive(count - len(made))
    return bytes(made)


@attrs.define(eq=False)
class Loopback:
    node_id: NodeId
    listen: int
    ports: Mapping[str, int]
    sent: int = 0
    received: int = 0
    dropped: int = 0
    _tasks: list[asyncio.Task[None]] = attrs.field(factory=list)
    _inlet: MemoryObjectSendStream[Delivery] = attrs.field(init=False)
    _outlet: MemoryObjectReceiveStream[Delivery] = attrs.field(init=False)
    _queues: dict[NodeId, MemoryObjectSendStream[bytes]] = attrs.field(factory=dict)
    _up: dict[NodeId, float] = attrs.field(factory=dict)

    @property
    def limits(self) -> TransportLimits:
        return TransportLimits(LIMIT, LIMIT, LIMIT)

    async def start(self) -> None:
        self._inlet, self._outlet = anyio.create_memory_object_stream[Delivery](4096)
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=self.listen)
        # Not a task group: one may not be left open inside another scope.
        self._tasks = [asyncio.create_task(self._serve(listener))]
        for text, port in self.ports.items():
            outgoing = self._outgoing(bytes.fromhex(text), port)
            self._tasks.append(asyncio.create_task(outgoing))

    async def _serve(self, listener: MultiListener[SocketStream]) -> None:
        async with listener:
            await listener.serve(self._incoming)

    async def _incoming(self, stream: SocketStream) -> None:
        with suppress(OSError, anyio.EndOfStream, anyio.BrokenResourceError):
            async with stream:
                link = await _exactly(stream, 32)
                while True:
                    size = int.from_bytes(await _exactly(stream, 4), "big")
                    frame = await _exactly(stream, min(size, LIMIT))
                    self.received += 1
                    await self._inlet.send(Delivery(link, frame))

    async def _outgoing(self, peer: NodeId, port: int) -> None:
        while True:
            with suppress(OSError, anyio.EndOfStream, anyio.BrokenResourceError):
                async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                    await stream.send(self.node_id)
                    inlet, outlet = anyio.create_memory_object_stream[bytes](4096)
                    self._queues[peer], self._up[peer] = inlet, time.time()
                    try:
                        async for frame in outlet:
                            await stream.send(len(frame).to_bytes(4, "big") + frame)
                    finally:
                        self._queues.pop(peer).close()
                        self._up.pop(peer)
                        outlet.close()
            await anyio.sleep(0.2)

    async def broadcast(self, frame: bytes) -> None:
        for peer in list(self._queues):
            await self.send(peer, frame)

    async def send(self, to: NodeId, frame: bytes) -> None:
        queue = self._queues.get(to)
        if queue is None:
            return
        try:
            queue.send_nowait(frame)
            self.sent += 1
        except anyio.WouldBlock:
            self.dropped += 1

    async def receive(self) -> Delivery:
        return await self._outlet.receive()

    async def request(self, to: NodeId, protocol: str, data: bytes, within: float) -> bytes:
        del to, data, within
        raise TransportError.of("QRES-E907", protocol, "not in this transport")

    def handle(self, protocol: str, handler: Handler) -> None:
        del protocol, handler

    async def publish_blob(self, data: bytes) -> BlobRef:
        raise TransportError.of("QRES-E901", "blob", f"{len(data)} bytes")

    async def fetch_blob(self, ref: BlobRef, holders: Sequence[NodeId], within: float) -> bytes:
        del holders, within
        raise TransportError.of("QRES-E904", "blob", f"{ref.size} bytes")

    def peers(self) -> Sequence[PeerInfo]:
        return [
            PeerInfo(peer, f"127.0.0.1:{self.ports[peer.hex()]}", since)
            for peer, since in sorted(self._up.items())
        ]

    async def event(self) -> TransportEvent:
        await anyio.sleep_forever()
        raise AssertionError

    def stats(self) -> TransportStats:
        return TransportStats(self.sent, self.received, self.dropped)

    async def aclose(self) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if tasks:
            self._inlet.close()
            self._outlet.close()


@attrs.frozen
class LoopbackPlugin:
    listen: int
    peers: Mapping[str, int]

    @hookimpl
    def transport(self, node_info: NodeInfo) -> Loopback:
        return Loopback(node_info.node_id, self.listen, self.peers)


def _wire(seat: box.BoxNode, seats: Sequence[box.BoxNode]) -> dict[str, object]:
    others = {node.node_id: node.port for node in seats if node is not seat}
    return {"listen": seat.port, "peers": others}


def install() -> None:
    """Have this process find the plugin, and start others that do."""
    found = {**discovery.scan(), NAME: discovery.Installed.local(NAME, LoopbackPlugin)}
    for module in (box, daemon):
        module.scan = lambda: found  # type: ignore[attr-defined]
    box.WIRINGS[NAME] = _wire
    box.PROGRAM[:] = [__file__]
    fleet.STOP_SECONDS = 600.0  # type: ignore[misc] # a busy machine takes its time


if __name__ == "__main__":
    install()
    cli.main()
