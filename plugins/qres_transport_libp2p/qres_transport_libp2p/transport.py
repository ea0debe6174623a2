"""The transport as the node sees it: every call goes to the thread and comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread
from qres_carrier import Mailbox, Tally

from qres_core import (
    BlobRef,
    Delivery,
    Handler,
    LinkKeys,
    NodeId,
    NodeInfo,
    PeerInfo,
    TransportError,
    TransportEvent,
    TransportLimits,
    TransportStats,
    Verdict,
)
from qres_transport_libp2p.bridge import TrioThread, closed
from qres_transport_libp2p.caller import Caller
from qres_transport_libp2p.checks import check_addresses
from qres_transport_libp2p.hello import Greeter
from qres_transport_libp2p.identity import Members
from qres_transport_libp2p.network import HostParts, Network
from qres_transport_libp2p.options import Libp2pOptions
from qres_transport_libp2p.requests import MAX_NAME

EVENTS: Final = 256
CLOSING_SECONDS: Final = 4.5
FOLDER: Final = "blobs"


class Libp2pTransport:
    """Implements :class:`qres_core.Transport`; see there what each method does and raises.

    Args:
        node_info: who this node is, and the roster.
        admission: asked about every peer, in the thread that calls :meth:`start`.
        credential: what to show, likewise.
        keys: of connections.
        options: all limits.
    """

    def __init__(
        self,
        node_info: NodeInfo,
        admission: Callable[[NodeId, bytes], Verdict],
        credential: Callable[[], bytes],
        keys: LinkKeys,
        options: Libp2pOptions,
    ) -> None:
        self._info = node_info
        self._admission = admission
        self._credential = credential
        self._keys = keys
        self._options = options
        self._members = Members.of(node_info.node_id, node_info.roster, keys)
        self._now = frozenset(self._members.peers)  # the others that are members now
        self._handlers: dict[str, Handler] = {}
        self._tally = Tally()
        self._inbox: Mailbox[Delivery] = Mailbox(options.inbox_frames)
        self._events: Mailbox[TransportEvent] = Mailbox(EVENTS, drop_oldest=True)
        self._caller: Caller | None = None
        self._thread: TrioThread | None = None
        self._network: Network | None = None
        self._height = 0

    @property
    def limits(self) -> TransportLimits:
        """What is too large."""
        options = self._options
        return TransportLimits(
            options.frame_bytes,
            options.request_bytes,
            min(options.blob_bytes, options.spool_bytes),
            0 if self._network is None else self._network.inline,
        )

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where others can reach this node: multiaddrs with its PeerId, once it is started."""
        return () if self._network is None else self._network.addresses

    def follow(self, roster: Iterable[NodeId]) -> None:
        """The members are these from now on: new ones may connect, others are disconnected.

        Those that left are still sent to for a second: that is how they learn why.
        """
        members = frozenset(roster) - {self._info.node_id}
        if members == self._now:
            return
        self._now = members
        if self._thread is None or self._network is None:
            self._settle()
            return
        for_now = sorted(members | self._members.peers.keys())
        self._members.follow(self._info.node_id, for_now, self._keys)
        self._thread.post(partial(self._network.part, self._settle))

    def enter(self, height: int) -> None:
        """The node is at this height: blobs of much earlier ones need not be held."""
        if self._thread is not None and self._network is not None and height != self._height:
            self._height = height
            self._thread.post(partial(self._network.enter, height))

    def aim(self, fresh: Libp2pOptions) -> None:
        """Dial the peers of other options from now on, and those of before no more.

        Raises ConfigError: QRES-E105 for addresses that are none.
        """
        check_addresses(fresh, self._info, self._keys)
        if self._thread is not None and self._network is not None:
            self._thread.post(partial(self._network.aim, fresh.peers))

    def _settle(self) -> None:
        self._members.follow(self._info.node_id, sorted(self._now), self._keys)

    async def start(self) -> None:
        """Listen, and begin to dial. Raises RoundError QRES-E603 when it cannot."""
        if self._thread is not None:
            raise closed("already started")
        self._caller = caller = Caller()
        self._inbox.bind(caller.post)
        self._events.bind(caller.post)
        place = self._info.data_dir
        self._network = Network(
            self._members,
            self._keys,
            self._info.swarm,
            self._options,
            Greeter(self._info.swarm, self._admission, self._credential, caller, self._options),
            self._handlers,
            None if place is None else Path(place, FOLDER),
            self._tally,
            self._deliver,
            self._events.put,
        )
        self._thread = TrioThread(caller, f"libp2p-{self._info.node_id.hex()[:8]}")
        try:
            await self._thread.start(self._network.run, self._ended)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.aclose()
            raise

    def _deliver(self, link: NodeId, frame: bytes, author: NodeId | None) -> None:
        self._tally.bytes_received += len(frame)
        if not self._inbox.put(Delivery(link, frame, None if author == link else author)):
            self._tally.drop("inbox full")

    def _ended(self, why: str) -> None:
        self._inbox.close(lambda: closed(why))
        self._events.close(lambda: closed(why))

    # ── frames ────────────────────────────────────────────────────────────────────────────────

    async def broadcast(self, frame: bytes) -> None:
        """Publish a frame; waits while frames go out faster than the limit."""
        self._check("frame", frame, self._options.frame_bytes)
        await self._running.call(self._broadcast, frame)

    async def _broadcast(self, frame: bytes) -> None:
        parts = None if self._network is None else self._network.parts
        if parts is None:  # libp2p is being started again
            self._tally.drop("being started again")
        else:
            await parts.gossip.publish(frame)

    async def send(self, to: NodeId, frame: bytes) -> None:
        """Queue a frame for one node."""
        self._check("frame", frame, self._options.frame_bytes)
        await self._running.call(self._send, to, frame)

    async def _send(self, to: NodeId, frame: bytes) -> None:
        parts = None if self._network is None else self._network.parts
        if parts is not None:
            await parts.frames.send(to, frame)

    async def receive(self) -> Delivery:
        """The next frame. Raises RoundError QRES-E603 once the transport is closed."""
        _ = self._running
        delivery = await self._inbox.get()
        self._tally.frames_received += 1
        return delivery

    # ── requests and blobs ────────────────────────────────────────────────────────────────────

    async def request(self, to: NodeId, protocol: str, data: bytes, within: float) -> bytes:
        """Ask a node and wait for its answer."""
        self._check("request", data, self._options.request_bytes)
        return await self._running.call(self._request, to, protocol, data, within)

    async def _request(self, to: NodeId, protocol: str, data: bytes, within: float) -> bytes:
        return await self._parts.requests.ask(to, protocol, data, within)

    def handle(self, protocol: str, handler: Handler) -> None:
        """Answer requests of a protocol, in the event loop that calls :meth:`start`."""
        if self._thread is not None or protocol in self._handlers:
            what = "handlers are named once for each protocol, and before the start"
            raise ValueError(what)
        if not 1 <= len(protocol.encode()) <= MAX_NAME:
            what = f"the name of a protocol has 1 to {MAX_NAME} bytes"
            raise ValueError(what)
        self._handlers[protocol] = handler

    async def publish_blob(self, data: bytes) -> BlobRef:
        """Hold a blob for others to fetch, until newer ones need its room."""
        self._check("blob", data, self.limits.blob)
        ref = await anyio.to_thread.run_sync(BlobRef.of, data)
        await self._running.call(self._publish, ref, data)
        return ref

    async def _publish(self, ref: BlobRef, data: bytes) -> None:
        self._parts.blobs.publish(ref, data)

    async def fetch_blob(self, ref: BlobRef, holders: Sequence[NodeId], within: float) -> bytes:
        """Pull a blob from those who may have it, several at once."""
        if ref.size > self.limits.blob:
            what = f"{ref.size} bytes, allowed are {self.limits.blob}"
            raise TransportError.of("QRES-E901", "blob", what)
        return await self._running.call(self._fetch, ref, tuple(holders), within)

    async def _fetch(self, ref: BlobRef, holders: Sequence[NodeId], within: float) -> bytes:
        return await self._parts.blobs.fetch(ref, holders, within)

    # ── looking ───────────────────────────────────────────────────────────────────────────────

    def peers(self) -> Sequence[PeerInfo]:
        """Who is connected and admitted, ascending."""
        return () if self._network is None else self._network.infos

    async def event(self) -> TransportEvent:
        """The next event; the oldest of 256 is dropped when nobody asks."""
        _ = self._running
        return await self._events.get()

    def stats(self) -> TransportStats:
        """Counts since the start."""
        return self._tally.snapshot()

    async def aclose(self) -> None:
        """Disconnect and end the thread; idempotent."""
        if self._thread is None or self._caller is None:
            return
        await self._caller.cancel_all()
        await self._thread.stop(CLOSING_SECONDS)
        self._ended("closed")

    # ── helpers ───────────────────────────────────────────────────────────────────────────────

    @property
    def _running(self) -> TrioThread:
        if self._thread is None:
            raise closed("not started")
        return self._thread

    @property
    def _parts(self) -> HostParts:
        parts = None if self._network is None else self._network.parts
        if parts is None:
            raise TransportError.of("QRES-E904", "transport.libp2p", "libp2p is being started")
        return parts

    @staticmethod
    def _check(what: str, data: bytes, limit: int) -> None:
        if not 1 <= len(data) <= limit:
            found = f"{len(data)} bytes, allowed are 1 to {limit}"
            raise TransportError.of("QRES-E901", what, found)
