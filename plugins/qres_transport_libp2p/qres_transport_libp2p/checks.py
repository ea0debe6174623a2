"""What can be known to be wrong with the options before anything is connected."""

from __future__ import annotations

from multiaddr import Multiaddr

from qres_core import ConfigError, LinkKeys, NodeInfo
from qres_transport_libp2p.identity import Members
from qres_transport_libp2p.options import Options
from qres_transport_libp2p.reconnect import split

_WHERE = "plugins.libp2p"


def check_addresses(options: Options, node_info: NodeInfo, keys: LinkKeys) -> None:
    """Refuse addresses that cannot be listened on, or that lead to nobody of the roster.

    Raises:
        ConfigError: QRES-E105.
    """
    try:
        layers = [protocol.name for protocol in Multiaddr(options.listen).protocols()]
    except Exception as error:
        what = f"{options.listen!r} is no multiaddr: {error}"
        raise ConfigError.of("QRES-E105", f"{_WHERE}.listen", what) from error
    if len(layers) != 2 or layers[0] not in ("ip4", "ip6") or layers[1] != "tcp":
        what = f"{options.listen!r} is not of the form /ip4/ADDRESS/tcp/PORT"
        raise ConfigError.of("QRES-E105", f"{_WHERE}.listen", what)
    members = Members.of(node_info.node_id, node_info.roster, keys)
    for index, address in enumerate(options.peers):
        where = f"{_WHERE}.peers[{index}]"
        try:
            peer, _place = split(address)
        except ValueError as error:
            fix = "an address ends in /p2p/ and the PeerId that `qres key show` prints"
            raise ConfigError.of("QRES-E105", where, str(error), fix) from error
        if peer == members.own:
            continue  # one list may serve all nodes
        if peer not in members.nodes:
            what = f"{peer} is not the PeerId of a node of the roster"
            raise ConfigError.of("QRES-E105", where, what, "correct it, or extend swarm.roster")
