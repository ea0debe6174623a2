"""Sessions: the peers that are connected, those that were admitted, and the streams of these."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

import attrs
import trio
from libp2p.abc import IHost, IMuxedConn, INetConn, INetStream, INetwork, INotifee
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from multiaddr import Multiaddr
from qres_carrier import SenderBuckets, Tally, TokenBucket

from qres_core import NodeId
from qres_core.errors import TransportError
from qres_core.transport import LinkReason, PeerChange, PeerInfo, TransportEvent
from qres_transport_libp2p.clock import patience
from qres_transport_libp2p.endings import ending
from qres_transport_libp2p.identity import Members
from qres_transport_libp2p.options import Libp2pOptions
from qres_transport_libp2p.pulse import Stretch
from qres_transport_libp2p.windows import OWN_BURST, OWN_PER_SECOND
from qres_transport_libp2p.wire import BadBytesError, BrokenStreamError, Wire, closing, reset

SETTLE_SECONDS: Final = 5.0
"""Two connections made within it are a simultaneous dial: ends must not close different ones."""

_LOG: Final = logging.getLogger(__name__)


@attrs.define(eq=False)
class PeerConnection:
    """One connection."""

    muxed: IMuxedConn  # what its streams run over
    peer: ID  # the key it proved
    node: NodeId  # whom that key speaks for
    since: float  # when it was made, trio's clock
    conn: INetConn | None = None  # its end in libp2p's swarm, once that is known
    nonce: bytes = b""  # drawn anew by every start of the peer; empty before it said so
    admitted: bool = False  # it has been greeted and may go on
    greeted: float = -math.inf  # when the two ends last admitted each other, trio's clock
    over: bool = False  # it was refused, or is closed
    reason: LinkReason | None = None  # why it is over
    decided: trio.Event = attrs.field(factory=trio.Event)  # set with either

    async def wait(self, within: float) -> bool:
        """True if it is admitted, once that is decided; false if it takes too long."""
        with patience(within):
            await self.decided.wait()
        return self.admitted and not self.over

    @property
    def address(self) -> str:
        """Address of the peer, for people."""
        try:
            muxed: Any = self.muxed
            found: Any = muxed.get_remote_address()
        except Exception:  # noqa: BLE001 - closed meanwhile
            return ""
        if not found:
            return ""
        host, port = found
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@attrs.define(eq=False)
class Sessions(INotifee):
    """The table of links, kept by libp2p's notifications and by the greeter."""

    host: IHost  # libp2p's
    members: Members  # who may connect
    options: Libp2pOptions  # deadlines
    tally: Tally  # counts
    emit: Callable[[TransportEvent], object]  # where events go
    start: Callable[..., None]  # starts a task in the transport's nursery
    on_link: Callable[[PeerConnection], Awaitable[None]]  # called with every new link, to greet it
    # called with a peer that has just become reachable, or lost one of its connections
    on_up: Callable[[ID], Awaitable[None]]
    # the peers that are up, ascending; replaced as a whole, so any thread may read it
    infos: tuple[PeerInfo, ...] = ()
    # how often in a row each peer was refused, or refused us
    refusals: Counter[ID] = attrs.field(factory=Counter[ID])
    # how much longer than the options say each peer may take
    stretch: Stretch = attrs.field(factory=Stretch)
    _links: dict[IMuxedConn, PeerConnection] = attrs.field(factory=dict[IMuxedConn, PeerConnection])
    _up: dict[ID, PeerInfo] = attrs.field(factory=dict[ID, PeerInfo])
    # why the last link of each peer that is, or was just, up ended
    _why: dict[ID, LinkReason] = attrs.field(factory=dict[ID, LinkReason])
    _changed: trio.Event = attrs.field(factory=trio.Event)
    # how many streams this node may open to each peer now
    _openings: SenderBuckets = attrs.field(
        factory=lambda: SenderBuckets(
            lambda: TokenBucket(OWN_PER_SECOND, OWN_BURST, clock=trio.current_time)
        )
    )

    # ── looking ───────────────────────────────────────────────────────────────────────────────

    def link(self, muxed: IMuxedConn) -> PeerConnection:
        """The link of a connection; made if the notification has not come yet."""
        found = self._links.get(muxed)
        if found is None:
            peer = muxed.peer_id
            node = self.members.nodes.get(peer, b"")
            found = PeerConnection(muxed, peer, node, trio.current_time())
            if muxed.is_closed:  # nothing would ever take it out of the table
                found.over = True
                found.decided.set()
                return found
            self._links[muxed] = found
            if not node:  # it was removed after the gate let it through
                self._end_peer(found, LinkReason.NO_MEMBER)
        return found

    def of(self, peer: ID) -> list[PeerConnection]:
        """The open links of a peer, oldest first."""
        return [link for link in self._links.values() if link.peer == peer and not link.over]

    def open_links(self) -> list[PeerConnection]:
        """Those of all peers, admitted or not."""
        return [link for link in self._links.values() if not link.over]

    def connections(self, peer: ID) -> list[INetConn]:
        """Those over which streams to a peer may be opened, newest first.

        libp2p prefers the one with most streams, which is the one that is about to be replaced.
        """
        return [
            link.conn
            for link in reversed(self.of(peer))
            if link.admitted and link.conn is not None and not link.muxed.is_closed
        ]

    def is_up(self, peer: ID) -> bool:
        """True if a peer is connected and admitted."""
        return any(item.admitted for item in self.of(peer))

    def up(self) -> list[ID]:
        """The peers that are."""
        return list(self._up)

    async def wait_up(self, peer: ID, within: float) -> bool:
        """True if a peer is up, or comes up in time."""
        with patience(within):
            while not self.is_up(peer):
                await self._changed.wait()
        return self.is_up(peer)

    # ── deciding ──────────────────────────────────────────────────────────────────────────────

    def admit(self, link: PeerConnection, nonce: bytes) -> None:
        """Let a greeted link go on, and end those that it replaces."""
        fresh = not link.admitted or link.nonce != nonce
        link.nonce, link.admitted = nonce, not link.over
        link.greeted = trio.current_time()
        link.decided.set()
        if link.over:
            return
        if not fresh:  # whichever end said hello again: a liar that always does would stay late
            self.stretch.in_time(link.peer)
            return
        ghosts: list[PeerConnection] = []
        for other in self.of(link.peer):
            if other is link or not other.admitted:
                continue
            restarted = other.nonce != nonce
            redialled = link.since - other.since > SETTLE_SECONDS
            if restarted or redialled:
                # The peer knows better: it would not have dialled again over a living connection.
                self._end(other, LinkReason.REPLACED)
                ghosts.append(other)
        self._refresh()
        self.start(self._succeed, link.peer, ghosts)

    async def _succeed(self, peer: ID, ghosts: list[PeerConnection]) -> None:
        for ghost in ghosts:  # first, or libp2p would open the next stream over one of them
            await self.abort(ghost)
        await self.on_up(peer)

    def refuse(
        self, link: PeerConnection, why: str, *, ours: bool = True, linger: float = 0.0
    ) -> None:
        """End every link of a peer that may not take part, or that will not have us.

        ``linger``: as for :meth:`abort`.
        """
        reason = LinkReason.REFUSED_HELLO if ours else LinkReason.REFUSED_BY_PEER
        if not link.over:
            if ours:
                self.tally.refuse("not admitted")
            self.refusals[link.peer] += 1
            said = f"{why} ({link.address})"
            self._tell(PeerChange.REFUSED, link, said, reason)
        self._end_peer(link, reason, linger)

    def bad(
        self,
        link: PeerConnection,
        what: str,
        reason: str,
        why: LinkReason = LinkReason.BROKE_PROTOCOL,
    ) -> None:
        """End every link of a peer that broke the protocol; ``reason`` is counted."""
        self.tally.spoilt(reason)
        self._tell(PeerChange.BAD, link, what, why)
        self._end_peer(link, why)

    def bad_peer(
        self, peer: ID, what: str, reason: str, why: LinkReason = LinkReason.BROKE_PROTOCOL
    ) -> None:
        """As :meth:`bad`, for a peer known by its PeerId alone."""
        for link in self.of(peer)[:1]:
            self.bad(link, what, reason, why)

    def lost(self, peer: ID) -> None:
        """End every link of a peer that does not subscribe."""
        self.stretch.late(peer)
        for link in self.of(peer)[:1]:
            self._end_peer(link, LinkReason.TIMED_OUT)

    def silent(self, link: PeerConnection) -> None:
        """End a link over which nothing comes; the peer's others may live."""
        if not link.over:
            self.stretch.late(link.peer)
            if not link.admitted:
                what = f"it says nothing ({link.address})"
                self.failed(link.peer, LinkReason.TIMED_OUT, what)
            self._end(link, LinkReason.TIMED_OUT)
            self._refresh()
            self.start(self._fall_back, link)

    async def _fall_back(self, link: PeerConnection) -> None:
        await self.abort(link)
        if self.is_up(link.peer):
            await self.on_up(link.peer)

    def failed(self, peer: ID, reason: LinkReason, detail: str) -> None:
        """A connection to a member did not come up."""
        node = self.members.nodes.get(peer)
        if node is not None:
            self.emit(TransportEvent(PeerChange.FAILED, node, detail, reason))

    async def give_up(self, link: PeerConnection, why: str) -> None:
        """End a link on which no hello came."""
        if not link.over:
            self.stretch.late(link.peer)
            self._end(link, LinkReason.TIMED_OUT)
            self.failed(link.peer, LinkReason.TIMED_OUT, f"{why} ({link.address})")
            await self.abort(link)

    def _tell(self, change: PeerChange, link: PeerConnection, what: str, why: LinkReason) -> None:
        """Say what a peer did; why it ends is said once, and by ``DOWN`` where that follows."""
        told = None if link.peer in self._up or link.over else why
        self.emit(TransportEvent(change, link.node, what, told))

    def expel(self) -> None:
        """End every link of a peer that is no member any more."""
        for link in list(self._links.values()):
            if link.peer not in self.members.nodes and not link.over:
                self._end_peer(link, LinkReason.NO_MEMBER)

    def _end_peer(self, link: PeerConnection, reason: LinkReason, linger: float = 0.0) -> None:
        for item in [link, *self.of(link.peer)]:
            self._end(item, reason)
            # What came over an admitted link would count for that long.
            self.start(self.abort, item, 0.0 if item.admitted else linger)
        self._refresh()

    def _end(self, link: PeerConnection, reason: LinkReason) -> None:
        link.over = True
        link.reason = link.reason or reason
        if link.peer in self._up:
            self._why[link.peer] = link.reason
        link.decided.set()

    def _closed(self, link: PeerConnection) -> None:
        """A link's connection is closed; what was not ended here ended by itself."""
        if not link.over:
            reason = ending(link.muxed)
            if link.peer not in self._up and reason is not LinkReason.CLOSED_HERE:
                self.failed(link.peer, reason, f"before it was admitted ({link.address})")
            self._end(link, reason)

    def _refresh(self) -> None:
        now = {link.peer: link for link in self._links.values() if link.admitted and not link.over}
        for peer in self._up.keys() - now.keys():
            gone, why = self._up.pop(peer), self._why.pop(peer, LinkReason.CLOSED_HERE)
            self.emit(TransportEvent(PeerChange.DOWN, gone.node_id, gone.address, why))
        for peer, link in now.items():
            if peer not in self._up:
                self.refusals[peer] = 0
                self._up[peer] = PeerInfo(link.node, link.address, time.time())
                self.emit(TransportEvent(PeerChange.UP, link.node, link.address))
        self.infos = tuple(sorted(self._up.values(), key=lambda node: node.node_id))
        self._changed.set()
        self._changed = trio.Event()

    async def abort(self, link: PeerConnection, linger: float = 0.0) -> None:
        """Close a connection, first what is under it: a frozen peer takes no goodbye.

        ``linger``: most seconds that the other end has to hear why, and to close it itself.
        """
        if linger:
            with trio.move_on_after(linger):
                while not link.muxed.is_closed:  # noqa: ASYNC110 - libp2p has no event for it
                    await trio.sleep(0.05)
        with patience(3.0, shield=True):
            try:
                secured: Any = getattr(link.muxed, "secured_conn", None)
                if secured is not None:
                    await secured.close()
                await (link.conn or link.muxed).close()
            except Exception:  # noqa: BLE001 - it is closed, one way or the other
                _LOG.debug("closing a connection to %s", link.peer, exc_info=True)
        self._links.pop(link.muxed, None)

    def sweep(self) -> None:
        """Forget links that closed without a notification."""
        for link in list(self._links.values()):
            if link.muxed.is_closed:
                self._forget(link)
        self._refresh()

    def _forget(self, link: PeerConnection) -> None:
        self._links.pop(link.muxed, None)
        self._closed(link)
        if self.is_up(link.peer):  # what ran over this one has to run over another
            self.start(self.on_up, link.peer)

    # ── libp2p's notifications ────────────────────────────────────────────────────────────────

    async def connected(self, network: INetwork, conn: INetConn) -> None:
        """Greet a new connection."""
        del network
        link = self.link(conn.muxed_conn)
        link.conn = conn
        self.start(self.on_link, link)

    async def disconnected(self, network: INetwork, conn: INetConn) -> None:
        """Forget a connection."""
        del network
        link = self._links.get(conn.muxed_conn)
        if link is not None:
            self._forget(link)
            self._refresh()

    async def opened_stream(self, network: INetwork, stream: INetStream) -> None:
        """Nothing."""

    async def closed_stream(self, network: INetwork, stream: INetStream) -> None:
        """Nothing."""

    async def listen(self, network: INetwork, multiaddr: Multiaddr) -> None:
        """Nothing."""

    async def listen_close(self, network: INetwork, multiaddr: Multiaddr) -> None:
        """Nothing."""

    # ── streams ───────────────────────────────────────────────────────────────────────────────

    def peer_of(self, node: NodeId) -> ID:
        """The PeerId of a node that is up. Raises TransportError: QRES-E904."""
        peer = self.members.peers.get(node)
        if peer is None:
            raise TransportError.of("QRES-E904", node.hex()[:16], "not in the roster")
        if not self.is_up(peer):
            raise TransportError.of("QRES-E904", node.hex()[:16], "not connected")
        return peer

    async def open(self, peer: ID, protocol: TProtocol) -> Wire:
        """A new stream to a peer that is up; the user closes it.

        Raises BrokenStreamError: there is none to be had.
        """
        if not self.is_up(peer):
            what = "not connected"
            raise BrokenStreamError(what)
        stream: INetStream | None = None
        await trio.sleep(self._openings.of(peer).wait())  # faster ones would end the connection
        try:
            with patience(self.options.read_seconds):
                stream = await self.host.new_stream(peer, [protocol])
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise BrokenStreamError(what) from error
        if stream is None:
            what = "no stream in time"
            raise BrokenStreamError(what)
        return Wire(stream, self.options.read_seconds)

    def serve(
        self, protocol: TProtocol, handle: Callable[[PeerConnection, Wire], Awaitable[None]]
    ) -> None:
        """Handle streams of a protocol, once the connection they came over is admitted."""

        async def handler(stream: INetStream) -> None:
            try:
                link = self.link(stream.muxed_conn)
                if not await link.wait(self.options.hello_seconds):
                    await reset(stream)
                    return
                try:
                    async with closing(stream):
                        await handle(link, Wire(stream, self.options.read_seconds))
                except BadBytesError as error:
                    self.bad(link, f"{protocol}: {error}", f"malformed: {protocol}", error.reason)
                except BrokenStreamError:
                    pass
            except Exception:  # noqa: BLE001 - one stream must not end the others
                _LOG.exception("serving %s", protocol)

        self.host.set_stream_handler(protocol, handler)


FOREVER: Final = math.inf
