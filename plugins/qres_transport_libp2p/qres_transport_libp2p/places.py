"""Addresses of a node: multiaddrs, and host names in them."""

from __future__ import annotations

import socket
from typing import Any, Final

import trio
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr
from multiaddr import Multiaddr

PLAIN: Final = (("ip4", "tcp"), ("ip6", "tcp"))
NAMED: Final = (("dns", "tcp"), ("dns4", "tcp"), ("dns6", "tcp"))
_FAMILY: Final = {"dns": socket.AF_UNSPEC, "dns4": socket.AF_INET, "dns6": socket.AF_INET6}
_KIND: Final = {socket.AF_INET: "ip4", socket.AF_INET6: "ip6"}


def split(address: str) -> tuple[ID, Multiaddr]:
    """A peer's PeerId and where it is. Raises ValueError."""
    try:
        info = info_from_p2p_addr(Multiaddr(address))
    except Exception as error:
        what = f"{address!r} is no multiaddr with a PeerId: {error}"
        raise ValueError(what) from error
    return info.peer_id, info.addrs[0]


def form(place: Multiaddr) -> tuple[str, ...]:
    """The names of its layers: ``("ip4", "tcp")``."""
    return tuple(protocol.name for protocol in place.protocols())


async def resolved(place: Multiaddr) -> list[Multiaddr]:
    """The addresses behind a host name, as this machine resolves it; others as they are.

    libp2p asks name servers itself, and so knows nothing of ``/etc/hosts`` nor of whatever else the
    machine is set up to ask. Raises OSError: the name leads nowhere.
    """
    if form(place) not in NAMED:
        return [place]
    kind, name, _tcp, port = str(place).split("/")[1:]
    lookup: Any = trio.socket.getaddrinfo
    found = await lookup(name, int(port), family=_FAMILY[kind], type=socket.SOCK_STREAM)
    made = [
        f"/{_KIND[family]}/{address[0]}/tcp/{port}"
        for family, _type, _proto, _canonical, address in found
        if family in _KIND and "%" not in str(address[0])
    ]
    return [Multiaddr(fromkey) for fromkey in dict.fromkeys(made)]
