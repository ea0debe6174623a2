"""Finding nodes of the roster in the local network by mDNS, for who asks for it.

The form is that of the libp2p specification "Multicast DNS", with zeroconf alone: libp2p 0.8.1
announces a wildcard address as it stands, on every interface, and is silent where it fails.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import anyio.to_thread
import ifaddr
import trio
from libp2p.peer.id import ID
from multiaddr import Multiaddr
from zeroconf import (
    InterfaceChoice,
    IPVersion,
    ServiceBrowser,
    ServiceInfo,
    ServiceListener,
    Zeroconf,
)

from qres_transport_libp2p.clock import patience, run_soon
from qres_transport_libp2p.places import PLAIN, form, split

SERVICE: Final = "_p2p._udp.local."
GROUP: Final = "224.0.0.251"
PORT: Final = 5353
MAX_PLACES: Final = 8
"""Addresses announced, and taken from one announcement."""
ANSWER_SECONDS: Final = 3.0
CLOSING_SECONDS: Final = 5.0
WILD: Final = "0.0.0.0"  # noqa: S104 - compared with, not listened on

Want = Callable[[ID, Iterable[Multiaddr]], None]


def own_places(listen: Multiaddr, own: ID, machine: Iterable[str]) -> list[str]:
    """The addresses to announce: the one listened on, or the machine's IPv4 addresses for all.

    ``listen``: ``/ip4/ADDRESS/tcp/PORT``, with the port that is bound; ``machine``: IPv4 addresses
    of the machine.
    """
    address, port = listen.value_for_protocol("ip4"), listen.value_for_protocol("tcp")
    if address != WILD:
        return [f"/ip4/{address}/tcp/{port}/p2p/{own}"]
    mine = sorted(set(machine))
    outer = [sample for sample in mine if not sample.startswith("127.")] or mine
    return [f"/ip4/{address}/tcp/{port}/p2p/{own}" for address in outer[:MAX_PLACES]]


def places_in(properties: Mapping[bytes, bytes | None]) -> Iterator[tuple[ID, Multiaddr]]:
    """Peer and places that an announcement names: plain addresses alone, and only so many.

    ``properties``: of the TXT record, as anybody in the network may have written them.
    """
    left = MAX_PLACES
    for name, value in properties.items():
        if not (left and name.startswith(b"dnsaddr") and value):
            continue
        with contextlib.suppress(ValueError):  # also what is no UTF-8
            peer, place = split(value.decode())
            if form(place) in PLAIN:
                left -= 1
                yield peer, place


class _Listener(ServiceListener):
    """Passes on announcements, from the thread that zeroconf calls it in."""

    def __init__(self, tell: Want) -> None:
        self._tell = tell

    def add_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        """Somebody announces itself."""
        with contextlib.suppress(Exception):  # whatever a stranger's packets provoke
            info = zc.get_service_info(type_, name, int(1000 * ANSWER_SECONDS))
            for peer, place in places_in({} if info is None else info.properties):
                self._tell(peer, [place])

    def update_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        """Somebody announces something else."""
        self.add_service(zc, type_, name)

    def remove_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        """Somebody goes: an address that leads nowhere does no harm."""


def _machine() -> list[str]:
    """IPv4 addresses of this machine."""
    found = (ip for adapter in ifaddr.get_adapters() for ip in adapter.ips)
    return [item.ip for item in found if isinstance(item.ip, str)]


def _check_multicast(addresses: Iterable[str]) -> None:
    """Refuse to be found by nobody: zeroconf leaves out interfaces that cannot, in silence.

    Raises OSError: none of the addresses has an interface and a route for multicast.
    """
    failed = OSError("the machine has no address")
    for address in addresses:
        here = socket.inet_aton(address)
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                membership = socket.inet_aton(GROUP) + here
                probe.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
                probe.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, here)
                probe.connect((GROUP, PORT))
        except OSError as error:
            failed = OSError(error.errno, f"no multicast on {address}: {error.strerror}")
        else:
            return
    raise failed


def _open(listen: Multiaddr, own: ID, tell: Want) -> Zeroconf:
    places = own_places(listen, own, _machine())
    address, port = listen.value_for_protocol("ip4"), listen.value_for_protocol("tcp")
    _check_multicast([place.split("/")[2] for place in places])
    on: Any = InterfaceChoice.All if address == WILD else [address]
    zeroconf = Zeroconf(interfaces=on, ip_version=IPVersion.V4Only)
    try:
        name = secrets.token_hex(16)
        keys = ["dnsaddr", *(f"dnsaddr{number}" for number in range(2, MAX_PLACES + 1))]
        info = ServiceInfo(
            SERVICE,
            f"{name}.{SERVICE}",
            port=int(port or 0),
            properties=dict(zip(keys, places, strict=False)),
            server=f"{name}.local.",
            parsed_addresses=[place.split("/")[2] for place in places],
        )
        zeroconf.register_service(info)
        ServiceBrowser(zeroconf, SERVICE, listener=_Listener(tell))
    except BaseException:
        zeroconf.close()
        raise
    return zeroconf


@asynccontextmanager
async def nearby(listen: Multiaddr, own: ID, want: Want) -> AsyncGenerator[None]:
    """Announce this node, and pass on whom others announce.

    On the interface of the address that is listened on, or on all of them for ``0.0.0.0``.
    ``listen``: where this node listens, with the port that is bound; ``want``: told who was found
    where, in this thread. Raises OSError: there is no multicast on the interface.
    """
    token = trio.lowlevel.current_trio_token()

    def tell(peer: ID, places: Iterable[Multiaddr]) -> None:
        with contextlib.suppress(trio.RunFinishedError):
            run_soon(token, want, peer, places)

    zeroconf = await anyio.to_thread.run_sync(partial(_open, listen, own, tell))
    try:
        yield
    finally:
        with patience(CLOSING_SECONDS, shield=True):
            await anyio.to_thread.run_sync(zeroconf.close, abandon_on_cancel=True)
