"""What carries frames between nodes."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import attrs

from qres_core.contract.types import NodeId


@attrs.frozen
class Delivery:
    """A frame as it arrived.

    Attributes:
        link: identity of the neighbour that delivered it, as the transport knows it. Blame for
            forged messages falls here.
        frame: the bytes, not yet looked at.
    """

    link: NodeId
    frame: bytes


@runtime_checkable
class Transport(Protocol):
    """An asynchronous carrier, made by the ``transport`` hook.

    Queues are bounded; what a slow receiver cannot take is refused to the sender or dropped and
    counted, never held without limit.
    """

    async def start(self) -> None:
        """Connect. Raises RoundError QRES-E603 when it cannot."""
        ...

    async def broadcast(self, frame: bytes) -> None:
        """Send to every other node, best effort."""
        ...

    async def send(self, to: NodeId, frame: bytes) -> None:
        """Send to one node, best effort."""
        ...

    async def receive(self) -> Delivery:
        """The next frame; waits for it."""
        ...

    async def aclose(self) -> None:
        """Disconnect; idempotent."""
        ...
