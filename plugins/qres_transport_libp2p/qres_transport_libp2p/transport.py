"""The transport as the node sees it: every call goes to the thread and comes back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import anyio
import attrs
from qres_carrier import FOLDER, ThreadedTransport

from qres_core import NodeId, NodeInfo, Verdict
from qres_core.errors import TransportError
from qres_core.transport import BlobRef, Delivery, LinkKeys, PeerInfo, TransportLimits
from qres_transport_libp2p.bridge import TrioThread, closed
from qres_transport_libp2p.caller import Caller
from qres_transport_libp2p.checks import check_addresses
from qres_transport_libp2p.hello import Greeter
from qres_transport_libp2p.identity import Members
from qres_transport_libp2p.network import HostParts, Network
from qres_transport_libp2p.options import Libp2pOptions
from qres_transport_libp2p.requests import MAX_NAME

T = TypeVar("T")
CLOSING_SECONDS: Final = 4.5


class Libp2pTransport(ThreadedTransport):
    """Implements :class:`qres_core.transport.Transport`; see there what methods do and raise.

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
        super().__init__("transport.libp2p", options.inbox_frames, MAX_NAME)
        self._info = node_info
        self._admission = admission
        self._credential = credential
        self._keys = keys
        self._options = options
        self._members = Members.of(node_info.node_id, node_info.roster, keys)
        self._now = frozenset(self._members.peers)  # the others that are members now
        self._caller: Caller | None = None
        self._thread: TrioThread | None = None
        self._network: Network | None = None
        self._height = 0

    @property
    def limits(self) -> TransportLimits:
        """Bounds of sizes."""
        options = self._options
        return TransportLimits(
            options.frame_bytes,
            options.request_bytes,
            min(options.blob_bytes, options.spool_bytes),
            0 if self._network is None else self._network.inline,
        )

    @property
    def addresses(self) -> tuple[str, ...]:
        """Addresses at which others can reach this node: multiaddrs with its PeerId."""
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
        now = tuple(sorted({*self._now, self._info.node_id}))
        check_addresses(fresh, attrs.evolve(self._info, roster=now), self._keys)
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
        if not self._inbox.put(Delivery(link, frame, None if author == link else author), link):
            self._tally.drop("inbox full")

    def _ended(self, why: str) -> None:
        self._inbox.close(lambda: closed(why))
        self._events.close(lambda: closed(why))

    # ── in the thread ─────────────────────────────────────────────────────────────────────────

    async def _broadcast(self, frame: bytes) -> None:
        parts = None if self._network is None else self._network.parts
        if parts is None:  # libp2p is being started again
            self._tally.drop("being started again")
        else:
            await parts.gossip.publish(frame)

    async def _send(self, to: NodeId, frame: bytes) -> None:
        parts = None if self._network is None else self._network.parts
        if parts is not None:
            await parts.frames.send(to, frame)

    async def _request(self, to: NodeId, protocol: str, data: bytes, within: float) -> bytes:
        return await self._parts.requests.ask(to, protocol, data, within)

    async def _publish(self, ref: BlobRef, data: bytes) -> None:
        self._parts.blobs.publish(ref, data)

    async def _fetch(self, ref: BlobRef, holders: Sequence[NodeId], within: float) -> bytes:
        return await self._parts.blobs.fetch(ref, holders, within)

    # ── looking ───────────────────────────────────────────────────────────────────────────────

    def peers(self) -> Sequence[PeerInfo]:
        """Neighbours that are connected and admitted, ascending."""
        return () if self._network is None else self._network.infos

    def doing(self) -> str:
        """The task that the thread runs, the peer that it runs for, and where in the code it is."""
        task = "" if self._thread is None else self._thread.steps.words
        return ", ".join(filter(None, (task, super().doing())))

    def dials(self) -> Mapping[NodeId, float]:
        """Seconds until each member that is away is dialled next."""
        return {} if self._network is None else self._network.dials

    async def aclose(self) -> None:
        """Disconnect and end the thread; idempotent."""
        if self._thread is None or self._caller is None:
            return
        await self._caller.cancel_all()
        await self._thread.stop(CLOSING_SECONDS)
        self._ended("closed")

    # ── helpers ───────────────────────────────────────────────────────────────────────────────

    @property
    def _started(self) -> bool:
        return self._thread is not None

    async def _call(self, work: Callable[..., Awaitable[T]], *args: Any) -> T:
        if self._thread is None:
            raise closed("not started")
        return await self._thread.call(work, *args)

    @property
    def _parts(self) -> HostParts:
        parts = None if self._network is None else self._network.parts
        if parts is None:
            raise TransportError.of("QRES-E904", "transport.libp2p", "libp2p is being started")
        return parts
