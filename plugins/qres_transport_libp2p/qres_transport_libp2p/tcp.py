"""TCP whose sockets are all closed in the end, on a port that nobody else has."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any

from libp2p.abc import IRawConnection
from libp2p.transport.tcp.tcp import TCP
from multiaddr import Multiaddr

from qres_transport_libp2p.clock import patience


class TidyTCP(TCP):
    """Remembers the connections it dialled, so that none is open when the node has stopped."""

    def __init__(self) -> None:
        super().__init__()
        self._dialled: list[IRawConnection] = []

    async def dial(self, maddr: Multiaddr) -> IRawConnection:
        """Connect."""
        self._dialled = [item for item in self._dialled if _is_open(item)]
        conn = await super().dial(maddr)
        self._dialled.append(conn)
        return conn

    async def close_dialled(self) -> None:
        """Close whatever is still open."""
        for conn in self._dialled:
            if _is_open(conn):
                with patience(1.0, shield=True), suppress(Exception):
                    await conn.close()
        self._dialled.clear()


def _is_open(conn: IRawConnection) -> bool:
    raw: Any = conn
    try:
        return bool(raw.stream.stream.socket.fileno() >= 0)
    except AttributeError:
        return False


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
