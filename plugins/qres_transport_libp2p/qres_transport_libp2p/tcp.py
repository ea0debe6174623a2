"""TCP whose sockets are counted and all closed in the end, on a port that nobody else has."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Any, Final, cast

import trio
from libp2p.abc import IRawConnection
from libp2p.custom_types import THandler
from libp2p.io.abc import ReadWriteCloser
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.transport.exceptions import OpenConnectionError
from libp2p.transport.tcp.tcp import TCP, TCPListener
from multiaddr import Multiaddr

from qres_transport_libp2p.slots import CountedSocket, Slots

NOT_ALLOWED: Final = "dial to an unknown place"


class TidyTCP(TCP):
    """Counts every connection, and dials only where it is allowed to.

    libp2p dials by itself whatever address it heard of: :meth:`allow` is the only way to add one.

    Args:
        slots: of connections.
    """

    def __init__(self, slots: Slots) -> None:
        super().__init__()
        self._slots = slots
        self._dialled: set[CountedSocket] = set()
        self._allowed: dict[str, frozenset[str]] = {}

    def allow(self, peer: ID, places: Iterable[Multiaddr]) -> None:
        """Allow dials of a peer to these places from now on, and to no others."""
        self._allowed[str(peer)] = frozenset(str(place) for place in places)

    async def dial(self, maddr: Multiaddr) -> IRawConnection:
        """Connect. Raises OpenConnectionError: it is not there, or nobody allowed it."""
        place, _, peer = str(maddr).partition("/p2p/")
        if place not in self._allowed.get(peer, ()):
            self._slots.tally.refuse(NOT_ALLOWED)
            what = f"{place} is no place where this node was told to dial {peer}"
            raise OpenConnectionError(what)
        conn: Any = await super().dial(maddr)
        made = CountedSocket(conn.stream.stream, self._over)
        self._dialled.add(made)
        return RawConnection(made, initiator=True)

    def _over(self, sock: CountedSocket) -> None:
        self._dialled.discard(sock)
        self._slots.over(sock)

    def create_listener(self, handler_function: THandler) -> TCPListener:
        """A listener whose connections are handled while there is a place for them."""

        async def handle(stream: ReadWriteCloser) -> None:
            plain: Any = stream
            await self._slots.serve(cast("trio.SocketStream", plain.stream), handler_function)

        return super().create_listener(handle)

    def close_dialled(self) -> None:
        """Close whatever is still open."""
        for sock in list(self._dialled):
            sock.cut()


def check_free(listen: Multiaddr) -> None:
    """Refuse a port that somebody listens on.

    libp2p listens with SO_REUSEPORT, for hole punching: two nodes of one user could share a port,
    and each get some of the other's connections. Raises OSError: it is taken, or the address is not
    this machine's.
    """
    family, address, _tcp, port = str(listen).split("/")[1:]
    kind = socket.AF_INET6 if family == "ip6" else socket.AF_INET
    with socket.socket(kind, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((address, int(port)))
