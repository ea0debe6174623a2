"""The node's side of a transport that runs in a thread of its own."""

from __future__ import annotations

import sys
import threading
import traceback
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, Final, TypeVar

import anyio.to_thread

from qres_carrier.mailbox import Mailbox
from qres_carrier.tally import Tally
from qres_core import NodeId
from qres_core.errors import RoundError, TransportError
from qres_core.transport import (
    BlobRef,
    Delivery,
    Handler,
    TransportEvent,
    TransportLimits,
    TransportStats,
)

T = TypeVar("T")
EVENTS: Final = 256
FOLDER: Final = "blobs"
"""Where a node with a data folder holds its blobs."""
FRAMES: Final = 6
"""Of a thread's stack, the innermost, that are named where it stands still."""


class ThreadedTransport(ABC):
    """Common part of all such transports.

    See :class:`qres_core.transport.Transport` for each method.

    Args:
        where: its place in errors, for example ``transport.grpc``.
        inbox_frames: frames that may wait for the node.
        longest_name: bytes of the longest name of a protocol.
        confirms: whether a sender is told that a frame came once it waits for the node.
    """

    def __init__(
        self, where: str, inbox_frames: int, longest_name: int, *, confirms: bool = False
    ) -> None:
        self._where = where
        self._longest_name = longest_name
        self._handlers: dict[str, Handler] = {}
        self._tally = Tally()
        self._inbox: Mailbox[Delivery] = Mailbox(inbox_frames, keeps=confirms)
        self._events: Mailbox[TransportEvent] = Mailbox(EVENTS, drop_oldest=True)
        self._ident: int | None = None  # of the thread, once it showed that it runs

    # ── what each does its own way ────────────────────────────────────────────────────────────

    @property
    @abstractmethod
    def limits(self) -> TransportLimits:
        """Bounds of sizes."""

    @property
    @abstractmethod
    def _started(self) -> bool:
        """True if it was started."""

    @abstractmethod
    async def _call(self, work: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Run a coroutine function in the thread. Raises RoundError: QRES-E603 if it is over."""

    @abstractmethod
    async def _broadcast(self, frame: bytes) -> None:
        """In the thread, as all that follow."""

    @abstractmethod
    async def _send(self, to: NodeId, frame: bytes) -> None: ...

    @abstractmethod
    async def _request(self, to: NodeId, protocol: str, data: bytes, within: float) -> bytes: ...

    @abstractmethod
    async def _publish(self, ref: BlobRef, data: bytes) -> None: ...

    @abstractmethod
    async def _fetch(self, ref: BlobRef, holders: Sequence[NodeId], within: float) -> bytes: ...

    # ── frames ────────────────────────────────────────────────────────────────────────────────

    async def broadcast(self, frame: bytes) -> None:
        """Send a frame to everybody; waits while frames go out faster than a limit."""
        self._check("frame", frame, self.limits.frame)
        await self._call(self._broadcast, frame)

    async def send(self, to: NodeId, frame: bytes) -> None:
        """Send a frame to one node, or queue it."""
        self._check("frame", frame, self.limits.frame)
        await self._call(self._send, to, frame)

    async def receive(self) -> Delivery:
        """The next frame. Raises RoundError QRES-E603 once the transport is closed."""
        self._need_start()
        delivery = await self._inbox.get()
        self._tally.frames_received += 1
        return delivery

    # ── requests and blobs ────────────────────────────────────────────────────────────────────

    async def request(self, to: NodeId, protocol: str, data: bytes, within: float) -> bytes:
        """Ask a node and wait for its answer."""
        self._check("request", data, self.limits.request)
        return await self._call(self._request, to, protocol, data, within)

    def handle(self, protocol: str, handler: Handler) -> None:
        """Answer requests of a protocol, in the event loop that starts the transport."""
        if self._started or protocol in self._handlers:
            what = "handlers are named once for each protocol, and before the start"
            raise ValueError(what)
        if not 1 <= len(protocol.encode()) <= self._longest_name:
            what = f"the name of a protocol has 1 to {self._longest_name} bytes"
            raise ValueError(what)
        self._handlers[protocol] = handler

    async def publish_blob(self, data: bytes) -> BlobRef:
        """Hold a blob for others to fetch, until newer ones need its room."""
        self._check("blob", data, self.limits.blob)
        ref = await anyio.to_thread.run_sync(BlobRef.of, data)
        await self._call(self._publish, ref, data)
        return ref

    async def fetch_blob(self, ref: BlobRef, holders: Sequence[NodeId], within: float) -> bytes:
        """Pull a blob from those who may have it, several at once."""
        if ref.size > self.limits.blob:
            what = f"{ref.size} bytes, allowed are {self.limits.blob}"
            raise TransportError.of("QRES-E901", "blob", what)
        return await self._call(self._fetch, ref, tuple(holders), within)

    # ── looking ───────────────────────────────────────────────────────────────────────────────

    async def event(self) -> TransportEvent:
        """The next event; the oldest of 256 is dropped when nobody asks."""
        self._need_start()
        return await self._events.get()

    def stats(self) -> TransportStats:
        """Counts since the start."""
        return self._tally.snapshot()

    # ── whether the thread runs; see :class:`qres_core.transport.AttendedTransport` ───────────────

    async def attend(self) -> None:
        """Have the thread do nothing, once. Raises RoundError: QRES-E603 where it is over."""
        self._ident = await self._call(_here)

    def doing(self) -> str:
        """Place of the thread in the code, the innermost call first."""
        # CPython's only way to see another thread; what it shows may be over already.
        system: Any = sys
        frame = system._current_frames().get(self._ident or 0)  # noqa: SLF001 - documented, for this
        if frame is None:
            return "its thread has ended"
        calls = traceback.extract_stack(frame)[-FRAMES:]
        places = [f"{PurePath(item.filename).name}:{item.lineno} {item.name}" for item in calls]
        return "at " + ", called by ".join(reversed(places))

    def dials(self) -> Mapping[NodeId, float]:
        """Seconds until each node that is away is dialled next; of nobody, if it is not known."""
        return {}

    # ── helpers ───────────────────────────────────────────────────────────────────────────────

    def _need_start(self) -> None:
        if not self._started:
            raise RoundError.of("QRES-E603", self._where, "not started")

    @staticmethod
    def _check(what: str, data: bytes, limit: int) -> None:
        if not 1 <= len(data) <= limit:
            found = f"{len(data)} bytes, allowed are 1 to {limit}"
            raise TransportError.of("QRES-E901", what, found)


async def _here() -> int:
    """The thread that runs this."""
    return threading.get_ident()
