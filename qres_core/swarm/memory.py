"""The in-process transport ``memory``: nodes of one program, connected by bounded queues."""

from __future__ import annotations

from typing import ClassVar

import anyio
import anyio.lowlevel
import attrs
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from qres_core.contract.errors import RoundError
from qres_core.contract.hookspecs import hookimpl
from qres_core.contract.transport import Delivery
from qres_core.contract.types import NodeId, NodeInfo
from qres_core.kernel.config import at_least


@attrs.define(eq=False)
class MemoryTransport:
    """One node's end.

    Attributes:
        node_id: this node.
        swarm: nodes meet in the hub of this name.
        capacity: frames that may wait for this node; further ones are dropped and counted.
        dropped: frames this node did not get because its queue was full.
    """

    _hubs: ClassVar[dict[str, dict[NodeId, MemoryTransport]]] = {}

    node_id: NodeId
    swarm: str
    capacity: int
    dropped: int = 0
    _inlet: MemoryObjectSendStream[Delivery] | None = None
    _outlet: MemoryObjectReceiveStream[Delivery] | None = None

    async def start(self) -> None:
        """Join the hub. Raises RoundError QRES-E603 if the identity is taken."""
        hub = self._hubs.setdefault(self.swarm, {})
        if self.node_id in hub:
            what = f"{self.node_id.hex()[:16]} is already in the hub {self.swarm!r}"
            raise RoundError.of("QRES-E603", "transport.memory", what, "one node per identity")
        self._inlet, self._outlet = anyio.create_memory_object_stream[Delivery](self.capacity)
        hub[self.node_id] = self

    def _deliver(self, delivery: Delivery) -> None:
        if self._inlet is None:
            return
        try:
            self._inlet.send_nowait(delivery)
        except anyio.WouldBlock:
            self.dropped += 1

    async def broadcast(self, frame: bytes) -> None:
        """Put the frame into every other queue."""
        for node_id, other in list(self._hubs.get(self.swarm, {}).items()):
            if node_id != self.node_id:
                other._deliver(Delivery(self.node_id, frame))  # noqa: SLF001 - same class
        await anyio.lowlevel.checkpoint()

    async def send(self, to: NodeId, frame: bytes) -> None:
        """Put the frame into one queue; nothing if the node is not there."""
        other = self._hubs.get(self.swarm, {}).get(to)
        if other is not None:
            other._deliver(Delivery(self.node_id, frame))  # noqa: SLF001
        await anyio.lowlevel.checkpoint()

    async def receive(self) -> Delivery:
        """The next frame."""
        if self._outlet is None:
            raise RoundError.of("QRES-E603", "transport.memory", "not started", "call start first")
        try:
            return await self._outlet.receive()
        except (anyio.EndOfStream, anyio.ClosedResourceError) as error:
            what = "closed while a frame was awaited"
            raise RoundError.of("QRES-E603", "transport.memory", what) from error

    async def aclose(self) -> None:
        """Leave the hub."""
        hub = self._hubs.get(self.swarm, {})
        if hub.get(self.node_id) is self:
            del hub[self.node_id]
            if not hub:
                self._hubs.pop(self.swarm, None)
        if self._inlet is not None and self._outlet is not None:
            self._inlet.close()
            self._outlet.close()
        self._inlet = self._outlet = None
        await anyio.lowlevel.checkpoint()


@attrs.frozen
class Memory:
    """Plugin ``memory``: carries frames between nodes of one process."""

    capacity: int = attrs.field(
        default=4096,
        validator=at_least(1),
        metadata={"help": "Frames that may wait for a node; further ones are dropped, counted."},
    )

    @hookimpl
    def transport(self, node_info: NodeInfo) -> MemoryTransport:
        """This node's end of the hub named after the swarm."""
        return MemoryTransport(node_info.node_id, node_info.swarm, self.capacity)
