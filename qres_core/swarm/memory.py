"""The in-process transport ``memory``: nodes of one program, connected by bounded queues."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import anyio
import anyio.lowlevel
import attrs
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from qres_core.contract.errors import RoundError
from qres_core.contract.hookspecs import hookimpl
from qres_core.contract.transport import Delivery
from qres_core.contract.types import NodeId, NodeInfo
from qres_core.contract.verdict import ACCEPT, Verdict
from qres_core.kernel.config import at_least


def _admit_everybody(peer: NodeId, credential: bytes) -> Verdict:
    del peer, credential
    return ACCEPT


@attrs.define(eq=False)
class MemoryTransport:
    """One node's end.

    Attributes:
        node_id: this node.
        swarm: nodes meet in the hub of this name.
        capacity: frames that may wait for this node; further ones are dropped and counted.
        admission: asked about every neighbour when its first frame comes, and again in every hub
            it joins; frames of one that is not admitted are dropped and counted.
        credential: what this node shows its neighbours.
        dropped: frames this node did not get because its queue was full.
        refused: frames this node did not take because their neighbour was not admitted.
    """

    _hubs: ClassVar[dict[str, dict[NodeId, MemoryTransport]]] = {}

    node_id: NodeId
    swarm: str
    capacity: int
    admission: Callable[[NodeId, bytes], Verdict] = _admit_everybody
    credential: Callable[[], bytes] = bytes
    dropped: int = 0
    refused: int = 0
    _admitted: dict[NodeId, bool] = attrs.field(factory=dict[NodeId, bool])
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

    def _deliver(self, peer: MemoryTransport, frame: bytes) -> None:
        if self._inlet is None:
            return
        link = peer.node_id
        if link not in self._admitted:  # it connects
            self._admitted[link] = self.admission(link, peer.credential()).accepted
        if not self._admitted[link]:
            self.refused += 1
            return
        delivery = Delivery(link, frame)
        try:
            self._inlet.send_nowait(delivery)
        except anyio.WouldBlock:
            self.dropped += 1

    async def broadcast(self, frame: bytes) -> None:
        """Put the frame into every other queue."""
        for node_id, other in list(self._hubs.get(self.swarm, {}).items()):
            if node_id != self.node_id:
                other._deliver(self, frame)  # noqa: SLF001 - same class
        await anyio.lowlevel.checkpoint()

    async def send(self, to: NodeId, frame: bytes) -> None:
        """Put the frame into one queue; nothing if the node is not there."""
        other = self._hubs.get(self.swarm, {}).get(to)
        if other is not None:
            other._deliver(self, frame)  # noqa: SLF001
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
            for other in hub.values():  # who comes back connects anew
                other._admitted.pop(self.node_id, None)  # noqa: SLF001
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
    def transport(
        self,
        node_info: NodeInfo,
        admission: Callable[[NodeId, bytes], Verdict],
        credential: Callable[[], bytes],
    ) -> MemoryTransport:
        """This node's end of the hub named after the swarm."""
        return MemoryTransport(
            node_info.node_id, node_info.swarm, self.capacity, admission, credential
        )
