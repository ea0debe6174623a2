"""Places for connections, given back when the socket under them closes, however that comes about.

libp2p 0.8.1 takes a place for every inbound connection and keeps it until the host stops: after
``max_connections`` of them nobody is let in any more. So it is given more places than can be taken
here, and the task that holds one is cancelled as soon as its socket is closed.

Whoever has many addresses can hold every place for handshakes. So a handshake that does not advance
makes room for another where none is left, and the addresses at which members proved their keys have
places of their own. Bytes are no advance, as a stranger can send one at a time for ever: the steps
of the handshake are.
"""

from __future__ import annotations

import contextlib
import socket
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Hashable, Iterable
from typing import Any, Final, Generic, TypeVar

import attrs
import trio
from libp2p.io.trio import TrioTCPStream
from libp2p.peer.id import ID
from qres_carrier import Tally, origin

from qres_transport_libp2p.clock import patience, spawn

HANDSHAKES: Final = 64
"""Inbound connections that have not proved a key yet, in all."""
HANDSHAKES_EACH: Final = 32
"""Such connections from one address."""
FAMILIAR: Final = 32
"""Such connections beside those, from addresses at which members proved their keys."""
FAMILIAR_EACH: Final = 3
"""Of those, from one address."""
ADDRESSES_EACH: Final = 2
"""Addresses that are remembered of a member: a liar may have any number."""
STALE_SECONDS: Final = 1.0
"""Time without a step after which a handshake makes room for another, where none is left. A member
takes a step in each round trip. Whoever begins handshakes faster than this frees places is refused:
each costs far more than to refuse it."""
NAMED: Final = 1
"""The step of a handshake at which the other end has named Noise; 0 is before it."""
BEGUN: Final = 2
"""The step at which the first message of Noise was answered."""
HANDSHAKE_SECONDS: Final = 5.0
"""How long a connection that has not proved a key may be silent."""
HANDSHAKE_MOST: Final = 30.0
"""How long it may take to prove one, at a byte at a time or among many that begin at once."""
LATE_SECONDS: Final = 0.5
"""A deadline that is noticed so much later is not one: this node did not read meanwhile either."""
CONNECTIONS_EACH: Final = 3
"""Connections of one member: one, the other of two that dialled at once, and a ghost."""
UNSENT_BYTES: Final = 128 * 1024
"""What the kernel takes of a connection beyond what is on its way."""
TOO_MANY_HANDSHAKES: Final = "too many handshakes"
TOO_SLOW: Final = "handshake too slow"
BROKEN_OFF: Final = "handshake broken off"
"""The other end hung up, or sent what is no handshake."""
TOO_MANY: Final = "too many connections"

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


@attrs.define(eq=False)
class FairPlaces(Generic[K, T]):
    """Places, shared fairly: whoever holds many makes room for whoever holds few.

    Where no place is left at all, the holder of most loses its oldest, unless the newcomer would
    then hold more.
    """

    total: int  # places
    each: int  # places that one holder may have
    renews: bool  # whether who has all of its own loses the oldest for a new one, or gets none
    _held: dict[K, list[T]] = attrs.field(factory=dict[K, list[T]])

    def __len__(self) -> int:
        return sum(len(items) for items in self._held.values())

    def take(self, key: K, item: T) -> tuple[bool, T | None]:
        """Find a place for an item: true if there is one, and the item that lost its own for it."""
        mine = self._held.get(key, [])
        loser: K | None = None
        if len(mine) >= self.each:
            if not self.renews:
                return False, None
            loser = key
        elif len(self) >= self.total:
            loser = max(self._held, key=lambda holder: len(self._held[holder]))
            if len(self._held[loser]) <= len(mine) + 1:
                return False, None
        lost = None if loser is None else self._held[loser][0]
        if loser is not None and lost is not None:
            self.give(loser, lost)
        self._held.setdefault(key, []).append(item)
        return True, lost

    def rivals(self, key: K) -> list[T]:
        """Those of which any may make room for one more of a key, and it is not the fewer."""
        mine = self._held.get(key, [])
        if len(mine) >= self.each:
            return mine
        return [item for items in self._held.values() if len(items) > len(mine) for item in items]

    def give(self, key: K, item: T) -> None:
        """Give a place back; nothing happens if the item has none."""
        mine = self._held.get(key, [])
        if item in mine:
            mine.remove(item)
        if not mine:
            self._held.pop(key, None)


class CountedSocket(TrioTCPStream):
    """A TCP stream that tells when it is closed.

    Args:
        stream: trio's.
        over: called once, when it is closed.
    """

    def __init__(self, stream: trio.SocketStream, over: Callable[[CountedSocket], None]) -> None:
        super().__init__(stream)
        _keep_short(stream)
        self.closed = trio.Event()
        self.proved = trio.Event()
        self.peer: ID | None = None  # the key that was proved
        self.counted = False  # whether it was counted why no member came of it
        self._where = _where(stream)
        self.address = "" if self._where is None else origin(self._where[0])
        self.heard = trio.current_time()  # when anything last came
        self.step = 0  # of the handshake: 0, NAMED or BEGUN
        self.stepped = self.heard  # when it came to that
        self._over = over

    async def read(self, n: int | None = None) -> bytes:
        """As any stream; what comes is a sign of life."""
        data: bytes = await super().read(n)
        self.heard = trio.current_time()
        return data

    async def write(self, data: bytes) -> None:
        """As any stream; after Noise is named, the first is the answer to its first message."""
        if self.step == NAMED:
            self.advance(BEGUN)
        await super().write(data)

    def advance(self, step: int) -> None:
        """Its handshake has come to a step."""
        self.step, self.stepped = step, trio.current_time()

    def get_remote_address(self) -> tuple[str, int] | None:
        """Address of the other end, also over IPv6, and after it is closed."""
        return self._where

    async def close(self) -> None:
        """Close it; the socket is closed before anything is awaited."""
        self.cut()
        await super().close()

    def cut(self) -> None:
        """Close it at once; whoever reads or writes is told so."""
        untyped: Any = self.stream.socket
        untyped.close()
        if not self.closed.is_set():
            self.closed.set()
            self._over(self)


@attrs.define(eq=False)
class Slots:
    """Places by holder: addresses before the handshake, members after it."""

    most: int  # connections of members, in all
    tally: Tally  # counts
    handshakes: FairPlaces[str, CountedSocket] = attrs.field(
        factory=lambda: FairPlaces[str, CountedSocket](HANDSHAKES, HANDSHAKES_EACH, renews=False)
    )
    familiar: FairPlaces[str, CountedSocket] = attrs.field(
        factory=lambda: FairPlaces[str, CountedSocket](FAMILIAR, FAMILIAR_EACH, renews=False)
    )
    # where each member proved its key last; of members alone, so it is bounded
    _addresses: defaultdict[ID, deque[str]] = attrs.field(
        factory=lambda: defaultdict[ID, deque[str]](lambda: deque(maxlen=ADDRESSES_EACH))
    )
    members: FairPlaces[ID, CountedSocket] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.members = FairPlaces(self.most, CONNECTIONS_EACH, renews=True)

    async def serve(
        self,
        stream: trio.SocketStream,
        handle: Callable[[CountedSocket], Awaitable[None]],
    ) -> None:
        """Have an inbound connection handled until it is closed, if there is a place for it."""
        sock = CountedSocket(stream, self.over)
        fits, lost = self._begin(sock)
        if not fits or lost is not None:
            self.tally.refuse(TOO_MANY_HANDSHAKES)
        if lost is not None:
            lost.counted = True
            lost.cut()
        try:
            if fits:
                await self._until_closed(sock, handle)
        finally:
            sock.cut()

    def _begin(self, sock: CountedSocket) -> tuple[bool, CountedSocket | None]:
        """Find a place for a handshake: true if there is one, and the one that lost its place."""
        address = sock.address
        known = any(address in kept for kept in self._addresses.values())
        pools = (self.familiar, self.handshakes) if known else (self.handshakes,)
        for pool in pools:
            fits, lost = pool.take(address, sock)
            if fits:
                return True, lost
        for pool in pools:
            stale = _stale(pool.rivals(address))
            if stale is not None:
                pool.give(stale.address, stale)
                fits, _none = pool.take(address, sock)
                return fits, stale
        return False, None

    async def _until_closed(
        self, sock: CountedSocket, handle: Callable[[CountedSocket], Awaitable[None]]
    ) -> None:
        async def work() -> None:
            try:
                await handle(sock)
            finally:
                sock.cut()

        async with trio.open_nursery() as nursery:
            spawn(nursery, work)
            if not await _in_time(sock):
                self.tally.refuse(TOO_SLOW)
                sock.counted = True
                sock.cut()
            await sock.closed.wait()
            if not (sock.proved.is_set() or sock.counted):
                self.tally.refuse(BROKEN_OFF)
            nursery.cancel_scope.cancel()

    def prove(self, sock: CountedSocket, peer: ID) -> bool:
        """A socket's other end has proved a key: whether there is a place for that member."""
        if sock.closed.is_set():
            return False
        self._end(sock)
        known = self._addresses[peer]
        if sock.address and sock.address not in known:
            known.append(sock.address)
        fits, lost = self.members.take(peer, sock)
        if not fits or lost is not None:
            self.tally.refuse(TOO_MANY)
        if lost is not None:
            lost.cut()
        if fits:
            sock.peer = peer
        sock.proved.set()
        return fits

    def over(self, sock: CountedSocket) -> None:
        """A socket is closed."""
        self._end(sock)
        if sock.peer is not None:
            self.members.give(sock.peer, sock)

    def _end(self, sock: CountedSocket) -> None:
        """Its handshake is over."""
        self.handshakes.give(sock.address, sock)
        self.familiar.give(sock.address, sock)


def _stale(rivals: Iterable[CountedSocket]) -> CountedSocket | None:
    """Of handshakes that take no step, the one that took fewest, and of these the longest ago."""
    now = trio.current_time()
    stale = [item for item in rivals if now - item.stepped >= STALE_SECONDS]
    return min(stale, key=lambda item: (item.step, item.stepped), default=None)


async def _in_time(sock: CountedSocket) -> bool:
    """True if a socket proved a key, or closed, before it was too slow for it."""
    since = begun = trio.current_time()
    while True:
        due = min(max(sock.heard, since) + HANDSHAKE_SECONDS, begun + HANDSHAKE_MOST)
        now = trio.current_time()
        if due <= now:
            return False
        with patience(due - now):
            await _first(sock.proved, sock.closed)
            return True
        if trio.current_time() - due > LATE_SECONDS:
            since = trio.current_time()


async def _first(*events: trio.Event) -> None:
    async with trio.open_nursery() as nursery:

        async def wait(event: trio.Event) -> None:
            await event.wait()
            nursery.cancel_scope.cancel()

        for event in events:
            spawn(nursery, wait, event)


def _keep_short(stream: trio.SocketStream) -> None:
    """Have what is written wait here and not in the kernel, where a vote comes after megabytes."""
    option: int | None = getattr(socket, "TCP_NOTSENT_LOWAT", None)
    if option is not None:
        untyped: Any = stream
        with contextlib.suppress(OSError):  # closed already
            untyped.setsockopt(socket.IPPROTO_TCP, option, UNSENT_BYTES)


def _where(stream: trio.SocketStream) -> tuple[str, int] | None:
    """Host and port of the other end; an address of IPv6 has two parts more."""
    untyped: Any = stream.socket
    try:
        host, port = untyped.getpeername()[:2]
    except OSError:  # it is gone already
        return None
    return str(host), int(port)
