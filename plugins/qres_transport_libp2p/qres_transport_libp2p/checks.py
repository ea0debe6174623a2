"""Checks of the options before anything is connected."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Final

from multiaddr import Multiaddr

from qres_core import NodeInfo
from qres_core.errors import ConfigError, Problem
from qres_core.transport import LinkKeys
from qres_transport_libp2p.identity import Members
from qres_transport_libp2p.options import Libp2pOptions
from qres_transport_libp2p.places import NAMED, PLAIN, form, split

_LOG: Final = logging.getLogger(__name__)
_WHERE: Final = "plugins.libp2p"
LISTEN: Final = f"{_WHERE}.listen"
PEER: Final = f"{_WHERE}.peers[{{}}]"
_LISTEN = "for example /ip4/0.0.0.0/tcp/4001; port 0 is a free one"


def faults(options: Libp2pOptions) -> Iterator[Problem]:
    """Faults of the addresses of the options (QRES-E105), each under its key path."""
    try:
        layers = form(Multiaddr(options.listen))
    except Exception as error:  # noqa: BLE001 - libraries say it in several ways
        what = f"{options.listen!r} is no multiaddr: {error}"
        yield Problem("QRES-E105", LISTEN, what, _LISTEN)
    else:
        if layers not in PLAIN:
            what = f"{options.listen!r} is not of the form /ip4/ADDRESS/tcp/PORT"
            yield Problem("QRES-E105", LISTEN, what, _LISTEN)
        if options.mdns and layers[0] != "ip4":
            what = "mDNS is offered over IPv4 alone"
            fix = "listen on /ip4/…, or name the nodes in peers"
            yield Problem("QRES-E105", f"{_WHERE}.mdns", what, fix)
    for index, address in enumerate(options.peers):
        try:
            _peer, place = split(address)
        except ValueError as error:
            fix = "an address ends in /p2p/ and the PeerId that `qres key show` prints"
            yield Problem("QRES-E105", PEER.format(index), str(error), fix)
            continue
        if form(place) not in (*PLAIN, *NAMED):
            what = f"{address!r} needs more than TCP, and this transport uses only TCP"
            fix = "write /ip4/ADDRESS/tcp/PORT/p2p/PEER or /dns4/NAME/tcp/PORT/p2p/PEER"
            yield Problem("QRES-E105", PEER.format(index), what, fix)


def check_addresses(options: Libp2pOptions, node_info: NodeInfo, keys: LinkKeys) -> None:
    """Refuse addresses that cannot be listened on or dialled, and warn of those of strangers.

    Raises ConfigError: QRES-E105, for all of them.
    """
    if found := list(faults(options)):
        raise ConfigError(found)
    members = Members.of(node_info.node_id, node_info.roster, keys)
    for index, address in enumerate(options.peers):
        peer, _place = split(address)
        if not members.knows(peer.to_bytes()):  # it may be added later, or was removed
            where = PEER.format(index)
            _LOG.warning("%s: %s is no member now, and is not dialled until it is", where, peer)
