"""Keeping connections: dialling who is wanted and away, noticing who is gone without a word."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import trio
from libp2p.exceptions import MultiError
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from multiaddr import Multiaddr

from qres_core import NodeId
from qres_core.transport import LinkReason
from qres_transport_libp2p.clock import first_error, patience
from qres_transport_libp2p.gossip import Gossip
from qres_transport_libp2p.hello import Greeter
from qres_transport_libp2p.options import Libp2pOptions
from qres_transport_libp2p.places import resolved
from qres_transport_libp2p.pulse import Pulse, PulseStep
from qres_transport_libp2p.sessions import PeerConnection, Sessions
from qres_transport_libp2p.wire import BrokenStreamError

LOOKS: Final = 4
"""How often each ``ping_seconds`` connections are looked at; each time costs next to nothing."""
DEAF: Final = 4
"""``ping_seconds`` after which a peer that lives and does not subscribe is dialled anew."""
READMITS: Final = 4
"""How often each ``readmit_seconds`` is looked who must be admitted again."""
MAX_FOUND: Final = 8
"""Places that somebody in the local network names for a peer, remembered beside the operator's."""
SLOWEST: Final = 32
"""Most that a pause is stretched for a peer that refuses us."""
_CHANCE: Final = random.SystemRandom()
_LOG: Final = logging.getLogger(__name__)


class Reconnector:
    """Dials, looks for signs of life, and asks to be admitted again.

    Args:
        sessions: who is connected.
        greeter: says hello.
        gossip: who subscribed.
        options: pauses.
        allow: told where a peer may be dialled, before it is.
    """

    def __init__(
        self,
        sessions: Sessions,
        greeter: Greeter,
        gossip: Gossip,
        options: Libp2pOptions,
        allow: Callable[[ID, Iterable[Multiaddr]], None],
    ) -> None:
        self._sessions = sessions
        self._greeter = greeter
        self._gossip = gossip
        self._options = options
        self._allow = allow
        self._told: dict[ID, list[Multiaddr]] = {}
        self._found: dict[ID, list[Multiaddr]] = {}
        self._kept: set[ID] = set()
        self._deaf: dict[ID, float] = {}  # since when, trio's clock
        self._next: dict[ID, float] = {}  # when each that is kept is dialled next, this machine's

    def aim(self, places: Iterable[tuple[ID, Multiaddr]]) -> None:
        """Keep connected to these peers from now on, and not to those of before."""
        self._told.clear()
        for peer, place in places:
            self.want(peer, place)

    def want(self, peer: ID, place: Multiaddr) -> None:
        """Keep connected to a peer for as long as it is a member, now or later."""
        if peer != self._sessions.members.own:
            self._told.setdefault(peer, []).append(place)
            self._begin(peer)

    def found(self, peer: ID, places: Iterable[Multiaddr]) -> None:
        """Try these places too, the newest few: who says that the peer is there is not known."""
        if peer in self._sessions.members.nodes:
            known = self._found.setdefault(peer, [])
            known += [place for place in places if place not in known]
            del known[:-MAX_FOUND]
            self._begin(peer)

    def places(self, peer: ID) -> list[Multiaddr]:
        """Places of a peer: those that the operator named, then those that were found."""
        return [*self._told.get(peer, ()), *self._found.get(peer, ())]

    def _begin(self, peer: ID) -> None:
        if peer not in self._kept:
            self._kept.add(peer)
            self._sessions.start(self._keep, peer)

    def dials(self) -> dict[NodeId, float]:
        """Seconds until each member that is away is dialled next; from any thread."""
        now, nodes = time.monotonic(), self._sessions.members.nodes
        return {
            nodes[peer]: max(0.0, at - now)
            for peer, at in dict(self._next).items()
            if peer in nodes
        }

    # ── dialling ──────────────────────────────────────────────────────────────────────────────

    async def _keep(self, peer: ID) -> None:
        # One of two that name each other waits, so that they do not always dial at once.
        own = self._sessions.members.own.to_bytes()
        await trio.sleep(_CHANCE.uniform(0, 0.3) + (0.7 if own > peer.to_bytes() else 0.0))
        while True:
            wanted = self.places(peer) and peer in self._sessions.members.nodes
            if wanted and not self._sessions.of(peer):
                await self._dial(peer)
            pause = self._options.reconnect_seconds * _CHANCE.uniform(1.0, 2.5)
            pause *= min(SLOWEST, 2 ** self._sessions.refusals[peer])
            if wanted:
                self._next[peer] = time.monotonic() + pause
            await trio.sleep(pause)
            self._next.pop(peer, None)  # it is dialled now, or need not be

    async def _dial(self, peer: ID) -> None:
        host: Any = self._sessions.host
        network = host.get_network()
        allowed = 2 * self._options.dial_seconds * self._sessions.stretch.of(peer)
        with patience(allowed) as scope:
            try:
                await network.close_peer(peer)
                network.unblock_peer(peer)  # libp2p bars a peer for a minute after a failed dial
                host.get_peerstore().clear_addrs(peer)  # a peer may have told us others' addresses
                places = await self._resolved(peer)
                self._allow(peer, places)
                await host.connect(PeerInfo(peer, places))
            except Exception as error:  # noqa: BLE001 - it is away; it is dialled again
                self._sessions.failed(peer, LinkReason.DIAL_FAILED, _cause(error))
        if scope.cancelled_caught:
            what = f"no connection in {allowed:g} s"
            if not self._found.get(peer):  # else it may be a stranger that says nothing
                self._sessions.stretch.late(peer)
            self._sessions.failed(peer, LinkReason.TIMED_OUT, what)

    async def _resolved(self, peer: ID) -> list[Multiaddr]:
        made: list[Multiaddr] = []
        for place in self.places(peer):
            try:
                made += await resolved(place)
            except OSError as error:  # the other places may do
                _LOG.warning("%s: %s", place, error)
        return made

    # ── watching ──────────────────────────────────────────────────────────────────────────────

    async def watch(self) -> None:
        """Ask those who are quiet, and end the connections of those who do not answer, or hear.

        Nothing is ended by a look that comes late: this node did not read either meanwhile.
        """
        pause = self._options.ping_seconds / LOOKS
        last = trio.current_time()
        while True:
            await trio.sleep(pause)
            now = trio.current_time()
            late, last = now - last - pause, now
            self._sessions.sweep()
            peers = self._sessions.up()
            self._deaf = {peer: since for peer, since in self._deaf.items() if peer in peers}
            if late > pause:
                self._deaf.clear()
                for link in self._sessions.open_links():
                    self._pulse(link).forgive(late)
                continue
            for link in self._sessions.open_links():  # also those that have not said hello yet
                self._look_after(link, now)
            for peer in peers:
                self._listen_to(peer, now)

    def _look_after(self, link: PeerConnection, now: float) -> None:
        pause = self._options.ping_seconds
        match self._pulse(link).step(now, pause, pause * self._sessions.stretch.of(link.peer)):
            case PulseStep.NOTHING:
                pass
            case PulseStep.ASK:
                muxed: Any = link.muxed
                self._sessions.start(muxed.ping)
            case PulseStep.GIVE_UP:
                _LOG.info("%s does not answer", link.peer)
                self._sessions.silent(link)

    def _listen_to(self, peer: ID, now: float) -> None:
        if self._gossip.pubsub.hears(peer):
            self._deaf.pop(peer, None)
            return
        pause = self._options.ping_seconds
        if peer not in self._deaf:
            self._deaf[peer] = now
            self._sessions.start(self._gossip.pubsub.renew, peer)
        elif now - self._deaf[peer] >= DEAF * pause * self._sessions.stretch.of(peer):
            del self._deaf[peer]
            _LOG.info("%s does not subscribe", peer)
            self._sessions.lost(peer)

    @staticmethod
    def _pulse(link: PeerConnection) -> Pulse:
        muxed: Any = link.muxed
        pulse: Pulse = muxed.pulse
        return pulse

    async def readmit(self) -> None:
        """Say hello again, from time to time, over connections where neither end has."""
        every = self._options.readmit_seconds
        while True:
            await trio.sleep(every / READMITS * _CHANCE.uniform(0.8, 1.2))
            for peer in self._sessions.up():
                for link in [item for item in self._sessions.of(peer) if item.admitted][-1:]:
                    if trio.current_time() - link.greeted < every * _CHANCE.uniform(0.75, 1.0):
                        continue
                    try:
                        await self._greeter.hello(link)
                    except BrokenStreamError as error:
                        _LOG.debug("greeting %s again: %s", peer, error)


def _cause(error: BaseException) -> str:
    """Cause of a dial's failure, the innermost error: libp2p wraps it several times."""
    found = first_error(error)
    while (inner := _inner(found)) is not None:
        found = first_error(inner)
    return f"{type(found).__name__}: {found}"


def _inner(error: BaseException) -> BaseException | None:
    if isinstance(error, MultiError):  # of the addresses tried
        first: BaseException | None = next(iter(error.errors), None)
        return first
    return error.__cause__ or error.__context__
