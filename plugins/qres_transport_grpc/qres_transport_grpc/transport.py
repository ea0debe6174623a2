"""The transport as the node sees it: every call goes to the thread and comes back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import anyio
from qres_carrier import FOLDER, SharedBlobStore, ThreadedTransport

from qres_core import NodeId, NodeInfo, Verdict
from qres_core.errors import RoundError
from qres_core.transport import CHUNK, BlobRef, Delivery, LinkKeys, PeerInfo, TransportLimits
from qres_transport_grpc.admission import Gatekeeper
from qres_transport_grpc.blobs import BlobPuller, PieceService
from qres_transport_grpc.exchanges import MAX_NAME, Exchanges
from qres_transport_grpc.frames import GrpcFrames
from qres_transport_grpc.home import HomeLoop, LoopThread, closed
from qres_transport_grpc.network import GrpcNetwork
from qres_transport_grpc.options import GrpcOptions
from qres_transport_grpc.peers import Acquaintance

T = TypeVar("T")


class GrpcTransport(ThreadedTransport):
    """Implements :class:`qres_core.transport.Transport`; see there what methods do and raise.

    Args:
        node_info: who this node is, and the roster.
        admission: asked about every peer, in the loop that calls :meth:`start`.
        credential: what to show, likewise.
        keys: of links.
        options: all limits.
    """

    def __init__(
        self,
        node_info: NodeInfo,
        admission: Callable[[NodeId, bytes], Verdict],
        credential: Callable[[], bytes],
        keys: LinkKeys,
        options: GrpcOptions,
    ) -> None:
        super().__init__("transport.grpc", options.inbox_frames, MAX_NAME, confirms=True)
        self._info = node_info
        self._admission, self._credential = admission, credential
        self._keys, self._options = keys, options
        self._roster = frozenset(node_info.roster)
        self._hubs = options.hubs
        self._height = 0
        self._home: HomeLoop | None = None
        self._thread: LoopThread | None = None
        self._network: GrpcNetwork | None = None
        self._over = False

    @property
    def limits(self) -> TransportLimits:
        """Bounds of sizes."""
        options = self._options
        blob = min(options.blob_bytes, options.spool_bytes)
        return TransportLimits(options.frame_bytes, options.request_bytes, blob)

    # ── what the plugin tells ─────────────────────────────────────────────────────────────────

    def follow(self, roster: Iterable[NodeId]) -> None:
        """The members are these from now on: new ones are linked, others are parted from."""
        members = frozenset(roster)
        if members != self._roster:
            self._roster = members
            self._post(lambda network: network.follow(members))

    def enter(self, height: int) -> None:
        """The node is at this height: blobs of much earlier ones need not be held."""
        if height != self._height:
            self._height = height
            self._post(lambda _network: self._store.enter(height))

    def aim(self, hubs: Sequence[str]) -> None:
        """Keep connections to these hubs from now on."""
        self._hubs = tuple(hubs)
        self._post(lambda network: network.lines.aim(hubs))

    def _post(self, work: Callable[[GrpcNetwork], object]) -> None:
        if self._thread is not None and self._network is not None:
            self._thread.post(work, self._network)

    # ── life ──────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Begin to dial the hubs. Raises RoundError QRES-E603 when it cannot."""
        if self._thread is not None:
            raise closed("already started")
        place = self._info.data_dir
        try:
            folder = None if place is None else Path(place, FOLDER)
            self._store = SharedBlobStore(folder, self._options.spool_bytes)
        except OSError as error:
            what = f"the folder of blobs: {error}"
            raise RoundError.of("QRES-E603", "transport.grpc", what) from error
        self._home = home = HomeLoop()
        self._inbox.bind(home.post)
        self._events.bind(home.post)
        await home.open()
        self._network = network = GrpcNetwork(
            self._info,
            self._keys,
            self._options,
            Gatekeeper(home, self._admission, self._credential, self._options.hello_seconds),
            self._tally,
            self._events.put,
        )
        pieces = PieceService(self._store)
        self._frames = GrpcFrames(network, self._options, self._deliver)
        self._exchanges = Exchanges(
            network, self._options, home, self._handlers, pieces.answer, pieces.allows
        )
        self._pulls = BlobPuller(
            self._exchanges, self._options, self._store, self._tally, self._is_up
        )
        self._thread = LoopThread(f"grpc-{self._info.node_id.hex()[:8]}")
        await self._call(network.begin, self._roster, self._hubs)
        self._thread.post(lambda: network.spawn(self._frames.keep()))
        self._thread.post(lambda: network.spawn(self._exchanges.keep()))

    def _is_up(self, node: NodeId) -> bool:
        peer = None if self._network is None else self._network.peers.get(node)
        return peer is not None and peer.up

    def _deliver(self, link: NodeId, frame: bytes) -> bool:
        if not self._inbox.put(Delivery(link, frame), link):
            self._tally.drop("inbox full")
            return False
        self._tally.bytes_received += len(frame)
        return True

    async def aclose(self) -> None:
        """Say goodbye, disconnect and end the threads; idempotent."""
        if self._thread is None or self._network is None or self._home is None or self._over:
            return
        self._over = True
        with anyio.CancelScope(shield=True):
            await self._home.landed(self._thread.call(self._network.end))
            await self._home.close()
            self._thread.stop()
        self._inbox.close(closed)
        self._events.close(closed)

    async def _call(self, work: Callable[..., Awaitable[T]], *args: Any) -> T:
        if self._thread is None or self._home is None or self._over:
            raise closed("not started" if self._thread is None else "closed")
        return await self._home.landed(self._thread.call(work, *args))

    @property
    def _started(self) -> bool:
        return self._thread is not None

    # ── in the thread ─────────────────────────────────────────────────────────────────────────

    async def _broadcast(self, frame: bytes) -> None:
        if self._network is not None:
            for peer in self._network.peers.values():
                self._seal(peer, frame)

    async def _send(self, to: NodeId, frame: bytes) -> None:
        peer = None if self._network is None else self._network.peers.get(to)
        if peer is not None:
            self._seal(peer, frame)

    def _seal(self, peer: Acquaintance, frame: bytes) -> None:
        if not peer.up:
            return
        if self._frames.send(peer, frame):
            self._tally.frames_sent += 1
            self._tally.bytes_sent += len(frame)
        else:
            self._tally.drop("too many not confirmed")

    async def _request(self, to: NodeId, protocol: str, data: bytes, within: float) -> bytes:
        return await self._exchanges.request(to, protocol, data, within)

    async def _publish(self, ref: BlobRef, data: bytes) -> None:
        self._pulls.publish(ref, data, CHUNK)

    async def _fetch(self, ref: BlobRef, holders: Sequence[NodeId], within: float) -> bytes:
        return await self._pulls.fetch(ref, holders, within)

    # ── looking ───────────────────────────────────────────────────────────────────────────────

    def peers(self) -> Sequence[PeerInfo]:
        """Neighbours that are linked and admitted, ascending."""
        return () if self._network is None else self._network.infos
