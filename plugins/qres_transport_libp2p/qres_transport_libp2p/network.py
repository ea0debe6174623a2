"""Everything that lives in the transport's thread, put together."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs
import trio
from libp2p import new_host
from libp2p.abc import IHost, IMuxedConn, INetConn
from libp2p.network.config import ConnectionConfig
from libp2p.peer.id import ID
from multiaddr import Multiaddr
from qres_carrier import SharedBlobStore, Tally

from qres_core import NodeId
from qres_core.transport import Handler, LinkKeys, LinkReason, PeerChange, PeerInfo, TransportEvent
from qres_transport_libp2p.blobs import Blobs
from qres_transport_libp2p.clock import first_error, patience, spawn
from qres_transport_libp2p.discovery import nearby
from qres_transport_libp2p.frames import Frames
from qres_transport_libp2p.gate import noise_only
from qres_transport_libp2p.gossip import Gossip
from qres_transport_libp2p.hello import Greeter
from qres_transport_libp2p.identity import Members, key_pair
from qres_transport_libp2p.options import Libp2pOptions
from qres_transport_libp2p.places import split
from qres_transport_libp2p.pulse import SLOWEST
from qres_transport_libp2p.reconnect import Reconnector
from qres_transport_libp2p.requests import Requests
from qres_transport_libp2p.services import answer_identify, keep_to_list
from qres_transport_libp2p.sessions import PeerConnection, Sessions
from qres_transport_libp2p.slots import (
    FAMILIAR,
    HANDSHAKE_MOST,
    HANDSHAKE_SECONDS,
    HANDSHAKES,
    CountedSocket,
    Slots,
)
from qres_transport_libp2p.steps import PEER
from qres_transport_libp2p.tcp import TidyTCP, check_free
from qres_transport_libp2p.yamux import shield

CLOSING_SECONDS: Final = 3.0
NEGOTIATION_SECONDS: Final = 30.0
"""libp2p's own limit for each step of a connection or a stream; all have limits above it."""
LEAVING_SECONDS: Final = 1.0
"""How long a member that was removed is still connected: it is told so."""
RESTART_SECONDS: Final = 1.0
INLINE_BYTES: Final = 4096
"""Larger frames are pulled where others pass gossip on: it costs less than to hear them twice."""

_LOG: Final = logging.getLogger(__name__)


@attrs.define(eq=False)
class HostParts:
    """Parts that serve calls while the network is up."""

    host: IHost
    sessions: Sessions
    gossip: Gossip
    frames: Frames
    requests: Requests
    blobs: Blobs
    slots: Slots


@attrs.define(eq=False)
class Network:
    """The program of the thread: brings libp2p up, and up again should it fall."""

    members: Members  # who may connect
    keys: LinkKeys  # this node's key
    swarm: str  # its swarm's name
    options: Libp2pOptions  # all limits
    greeter: Greeter  # admission
    handlers: Mapping[str, Handler]  # of requests
    folder: Path | None  # for blobs, or ``None``
    tally: Tally  # counts
    deliver: Callable[[NodeId, bytes, NodeId | None], None]  # takes frames
    emit: Callable[[TransportEvent], object]  # takes events
    parts: HostParts | None = None  # what is up now, or ``None``
    addresses: tuple[str, ...] = ()  # where others can reach this node, once it is up
    _peers: tuple[str, ...] = attrs.field(init=False)  # whom to keep connected to
    _keeper: Reconnector | None = attrs.field(default=None, init=False)
    _store: SharedBlobStore = attrs.field(init=False)

    @property
    def infos(self) -> tuple[PeerInfo, ...]:
        """Peers that are up; from any thread."""
        parts = self.parts
        return () if parts is None else parts.sessions.infos

    @property
    def dials(self) -> dict[NodeId, float]:
        """Seconds until each member that is away is dialled next; from any thread."""
        keeper = self._keeper
        return {} if keeper is None else keeper.dials()

    @property
    def inline(self) -> int:
        """The largest frame that should travel in gossip now, or 0; from any thread."""
        parts = self.parts
        return INLINE_BYTES if parts is not None and parts.gossip.passed_on else 0

    async def run(self, ready: Callable[[], None], stop: trio.Event) -> None:
        """Run until told to stop. What fails before it is ready is raised."""
        _quiet()
        self._peers = self.options.peers
        self._store = SharedBlobStore(self.folder, self.options.spool_bytes)
        listen = Multiaddr(self.options.listen)
        was_ready = False

        def up() -> None:
            nonlocal was_ready
            was_ready = True
            ready()

        while True:
            try:
                await self._run_once(listen, up, stop)
            except Exception as error:
                if not was_ready:
                    raise
                _LOG.exception("libp2p failed and is started again")
                first = first_error(error)
                what = f"libp2p failed and is started again: {type(first).__name__}: {first}"
                self.emit(TransportEvent(PeerChange.BAD, None, what))
            finally:
                self.parts = self._keeper = None
            if stop.is_set():
                return
            listen = _bound(self.addresses) or listen  # the others know the old port
            with patience(RESTART_SECONDS):
                await stop.wait()
                return

    def _host(self, listen: Multiaddr, tcp: TidyTCP, slots: Slots) -> IHost:
        pair = key_pair(self.keys)
        most = self.options.max_connections + HANDSHAKES + FAMILIAR  # the slots are the limit
        config = ConnectionConfig(
            max_connections=most,
            min_connections=0,
            low_watermark=0,  # dial nobody on libp2p's own account
            high_watermark=most,
            max_connections_per_peer=3,
            dial_timeout=self.options.dial_seconds,
            inbound_upgrade_timeout=HANDSHAKE_MOST + NEGOTIATION_SECONDS,
            outbound_upgrade_timeout=2 * self.options.dial_seconds * SLOWEST,  # as the keeper
            inbound_stream_protocol_negotiation_timeout=NEGOTIATION_SECONDS,
            outbound_stream_protocol_negotiation_timeout=NEGOTIATION_SECONDS,
        )
        host = new_host(
            key_pair=pair,
            sec_opt=noise_only(pair, partial(self._judge, slots)),
            listen_addrs=[listen],
            transports=[tcp],
            connection_config=config,
        )
        keep_to_list(host)
        shield(host, self._misused, self._connections)
        return host

    def _nearby(self, keeper: Reconnector) -> AbstractAsyncContextManager[None]:
        bound = _bound(self.addresses)
        if bound is None or not self.options.mdns:
            return contextlib.nullcontext()
        return nearby(bound, self.members.own, keeper.found)

    def enter(self, height: int) -> None:
        """The node is at a height; in the thread."""
        self._store.enter(height)

    def aim(self, peers: tuple[str, ...]) -> None:
        """Keep connected to these from now on; in the thread."""
        self._peers = peers
        if self._keeper is not None:
            self._keeper.aim(map(split, peers))

    def part(self, settle: Callable[[], None]) -> None:
        """Let go of those that are no members any more; in the thread.

        ``settle``: drops them from the members.
        """
        if self.parts is None:
            settle()
        else:
            self.parts.sessions.start(self._part, settle, self.parts.sessions)

    async def _part(self, settle: Callable[[], None], sessions: Sessions) -> None:
        try:
            await trio.sleep(LEAVING_SECONDS)
        finally:  # also where libp2p falls meanwhile
            settle()
        sessions.expel()

    async def _judge(self, slots: Slots, sock: CountedSocket, peer: ID) -> str:
        """Reason why a key that was proved may not go on, or nothing; one that may has a place."""
        PEER.set(peer)
        sock.counted = True  # from here on it is counted whose key it was
        node = self.members.nodes.get(peer)
        if node is not None and (why := await self.greeter.bars(node, HANDSHAKE_SECONDS)):
            self._barred(peer, node, why)
            return why
        if peer not in self.members.nodes:  # looked at last: it may have been removed meanwhile
            self._stranger(peer)
            return "no key of the roster"
        if not slots.prove(sock, peer):
            return "no place for another connection"
        return ""

    def _stranger(self, peer: ID) -> None:
        self.tally.refuse("stranger")
        what = f"{peer} has no key of the roster"
        self.emit(TransportEvent(PeerChange.REFUSED, None, what, LinkReason.REFUSED_KEY))

    def _misused(self, muxed: IMuxedConn, why: str) -> None:
        if self.parts is not None:
            link = self.parts.sessions.link(muxed)
            self.parts.sessions.bad(link, why, why, LinkReason.OVERRAN)

    def _connections(self, peer: ID) -> list[INetConn]:
        return [] if self.parts is None else self.parts.sessions.connections(peer)

    def _barred(self, peer: ID, node: NodeId, why: str) -> None:
        self.tally.refuse("barred")
        if self.parts is not None:
            self.parts.sessions.refusals[peer] += 1  # it is dialled less often
        said = f"{why} (before its hello)"
        self.emit(TransportEvent(PeerChange.REFUSED, node, said, LinkReason.REFUSED_HELLO))

    async def _run_once(
        self, listen: Multiaddr, ready: Callable[[], None], stop: trio.Event
    ) -> None:
        check_free(listen)
        slots = Slots(self.options.max_connections, self.tally)
        tcp = TidyTCP(slots)
        host = self._host(listen, tcp, slots)
        async with host.run([listen]), trio.open_nursery() as nursery:

            def start(work: Callable[..., Awaitable[object]], *arguments: Any) -> None:
                spawn(nursery, _guarded, work, arguments)

            async def on_up(peer: ID) -> None:
                await gossip.pubsub.renew(peer)

            async def on_link(link: PeerConnection) -> None:
                await self.greeter.greet(link)

            sessions = Sessions(
                host,
                self.members,
                self.options,
                self.tally,
                self.emit,
                start,
                on_link,
                on_up,
            )
            self.greeter.attach(sessions)
            gossip = Gossip(sessions, self.swarm, self.options, self.deliver)
            host.get_network().register_notifee(sessions)
            caller = self.greeter.caller
            self.parts = HostParts(
                host,
                sessions,
                gossip,
                Frames(sessions, self.options, self.deliver),
                Requests(sessions, self.options, caller, self.handlers),
                Blobs(sessions, self.options, self._store),
                slots,
            )
            keeper = Reconnector(sessions, self.greeter, gossip, self.options, tcp.allow)
            async with gossip.running():
                self.addresses = tuple(str(get_addr) for get_addr in host.get_addrs())
                answer_identify(host, [Multiaddr(item) for item in _places(self.addresses)])
                if not self.addresses:
                    what = f"cannot listen on {listen}"
                    raise OSError(what)
                self._keeper = keeper
                keeper.aim(map(split, self._peers))
                start(keeper.watch)
                start(keeper.readmit)
                async with self._nearby(keeper):
                    ready()
                    await stop.wait()
                with patience(CLOSING_SECONDS):
                    await host.close()
                    tcp.close_dialled()
            nursery.cancel_scope.cancel()


def _quiet() -> None:
    """Leave libp2p's own log to who asks for it: to it, a peer that is away is an error."""
    if not os.environ.get("LIBP2P_DEBUG"):
        logging.getLogger("libp2p").setLevel(logging.CRITICAL)


async def _guarded(work: Callable[..., Awaitable[object]], arguments: tuple[Any, ...]) -> None:
    """Run a task whose failure is not everybody's."""
    try:
        await work(*arguments)
    except Exception:  # noqa: BLE001 - whatever it is
        _LOG.exception("in the background")


def _places(addresses: tuple[str, ...]) -> list[str]:
    return [item.partition("/p2p/")[0] for item in addresses]


def _bound(addresses: tuple[str, ...]) -> Multiaddr | None:
    return Multiaddr(_places(addresses)[0]) if addresses else None
