"""Examination of this node's port, and of the nodes at the addresses of its peers.

It knocks as any libp2p node does, with the greeting of multistream-select, and hangs up before the
handshake: no key is shown, and nobody who is connected is disturbed.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final

from multiaddr import Multiaddr

from qres_core import NodeInfo
from qres_core.errors import Problem
from qres_transport_libp2p.checks import LISTEN, PEER, faults
from qres_transport_libp2p.identity import peer_id
from qres_transport_libp2p.options import Libp2pOptions
from qres_transport_libp2p.places import split
from qres_transport_libp2p.tcp import check_free

GREETING: Final = b"\x13/multistream/1.0.0\n"
THREADS: Final = 16


def examine(options: Libp2pOptions, info: NodeInfo, *, runs: bool) -> Iterator[Problem | str]:
    """Lines for an operator on this node's port and its peers, one after the other."""
    wrong = {problem.where: problem for problem in faults(options)}
    yield from wrong.values()
    if LISTEN not in wrong:
        yield _port(options.listen, options.dial_seconds, runs=runs)
    places = {
        PEER.format(index): address
        for index, address in enumerate(options.peers)
        if PEER.format(index) not in wrong and not address.endswith(f"/p2p/{peer_id(info.node_id)}")
    }
    with ThreadPoolExecutor(max_workers=THREADS) as threads:
        waits = [options.dial_seconds] * len(places)
        yield from threads.map(_peer, places, places.values(), waits)


def _port(listen: str, within: float, *, runs: bool) -> Problem | str:
    _family, host, _tcp, port = listen.strip("/").split("/")
    if not int(port):
        return f"{listen}: any free port"
    if not runs:
        try:
            check_free(Multiaddr(listen))
        except OSError as error:
            fix = "end the process that holds it, or choose another port or address"
            return Problem("QRES-E603", LISTEN, f"{listen}: {error.strerror or error}", fix)
        return f"{listen} is free"
    own = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared
    found = _knock(own, int(port), within)
    if found is not None:
        return Problem("QRES-E603", LISTEN, f"{listen}: {found[1]}", "look into the node's log")
    return f"{listen} is this node's, and answers"


def _peer(where: str, address: str, within: float) -> Problem | str:
    _peer_id, place = split(address)
    _kind, host, _tcp, port = str(place).strip("/").split("/")
    found = _knock(host, int(port), within)
    if found is None:
        return f"{place} answers as a libp2p node"
    code, why = found
    fix = "see whether that node runs, whether the address is right, and the firewalls between"
    return Problem(code, where, f"{place}: {why}", fix)


def _knock(host: str, port: int, within: float) -> tuple[str, str] | None:
    """Code and reason where nobody answers as a libp2p node; ``None`` where somebody does.

    QRES-E904: nobody is there. QRES-E907: somebody is, and is something else.

    ``within``: seconds to connect, and again for the whole greeting.
    """
    try:
        with socket.create_connection((host, port), timeout=within) as connection:
            connection.sendall(GREETING)
            said, end = b"", time.monotonic() + within
            with suppress(TimeoutError):
                while len(said) < len(GREETING) and (more := connection.recv(len(GREETING))):
                    said += more
                    if (left := end - time.monotonic()) <= 0:
                        break
                    connection.settimeout(left)
    except OSError as error:
        return "QRES-E904", error.strerror or str(error) or type(error).__name__
    if said.startswith(GREETING):
        return None
    if said:
        return "QRES-E907", "connects, but what answers is no libp2p node"
    return "QRES-E907", "connects, and says nothing"
