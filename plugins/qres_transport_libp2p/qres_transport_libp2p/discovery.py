"""Finding nodes of the roster in the local network by mDNS, for who asks for it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable

import trio
from libp2p.discovery.events.peerDiscovery import peerDiscovery
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from multiaddr import Multiaddr

from qres_transport_libp2p.clock import run_soon


@contextlib.contextmanager
def found_nearby(want: Callable[[ID, Iterable[Multiaddr]], None]) -> Generator[None]:
    """Pass on what libp2p discovers, which it says in a thread of its own."""
    token = trio.lowlevel.current_trio_token()

    def handler(found: PeerInfo) -> None:
        with contextlib.suppress(trio.RunFinishedError):
            run_soon(token, want, found.peer_id, list(found.addrs))

    peerDiscovery.register_peer_discovered_handler(handler)
    try:
        yield
    finally:
        peerDiscovery.unregister_peer_discovered_handler(handler)
