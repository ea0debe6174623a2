"""The ``libp2p`` plugin: options, and the factory of the transport."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import attrs
from qres_carrier import fitting

from qres_core import Claims, NodeId, NodeInfo, RoundInfo, Surroundings, Verdict, hookimpl
from qres_core.errors import Problem
from qres_core.transport import LinkKeys, Transport
from qres_transport_libp2p.options import Libp2pOptions
from qres_transport_libp2p.pin import check_libp2p


@attrs.frozen(kw_only=True)
class Libp2p(Libp2pOptions):
    """Carries frames, requests and blobs over libp2p: TCP, Noise, yamux and gossipsub 1.1.

    Only members connect, each proved by the key that also signs its messages, and only those that
    the plugins with the hook ``admit`` accept. The members are those of the last round that opened.

    Source:
        libp2p specifications "Peer Ids and Keys", "noise-libp2p", "yamux", "gossipsub v1.1".
    """

    # the transport of the node, once it is made; of a class that imports libp2p
    _made: list[Any] = attrs.field(factory=list[Any], init=False, eq=False, repr=False)

    def check(self, around: Surroundings) -> Iterator[Problem]:
        """Check that another plugin lends the key to connect with, and messages can be carried."""
        return fitting.problems("libp2p", self, around)

    @property
    def claims(self) -> Claims:
        """A notice that anybody in the local network learns this node's addresses, if so."""
        notice = "mdns is on: anybody in the local network learns this node's addresses"
        return Claims(tolerates=None, notices=(notice,) if self.mdns else ())

    @hookimpl
    def transport(
        self,
        node_info: NodeInfo,
        admission: Callable[[NodeId, bytes], Verdict],
        credential: Callable[[], bytes],
        link_keys: LinkKeys | None,
    ) -> Transport:
        """This node's end. Nothing is connected before it is started.

        Raises QRES-E202 where libp2p is missing, broken or of another release, QRES-E103 where no
        plugin lends a key, and QRES-E105 for addresses that are none.
        """
        check_libp2p()
        keys = fitting.lent("libp2p", link_keys)
        from qres_transport_libp2p import checks  # noqa: PLC0415 - these import libp2p
        from qres_transport_libp2p.transport import Libp2pTransport  # noqa: PLC0415

        checks.check_addresses(self, node_info, keys)
        made = Libp2pTransport(node_info, admission, credential, keys, self)
        self._made[:] = [made]
        return made

    def examine(
        self,
        node_info: NodeInfo,
        runs: bool,  # noqa: FBT001 - positional
        link_keys: LinkKeys | None,
    ) -> Iterator[Problem | str]:
        """Check that the port is this node's or free, and see who answers at addresses of peers."""
        del link_keys  # no key is shown
        check_libp2p()
        from qres_transport_libp2p.examining import examine  # noqa: PLC0415 - imports libp2p

        yield from examine(self, node_info, runs=runs)

    def retune(self, fresh: Libp2p) -> None:
        """Keep connections to the peers of other options from now on.

        Raises ConfigError: QRES-E105 for addresses that are none.
        """
        for made in self._made:
            made.aim(fresh)

    @hookimpl
    def round_opened(self, round_info: RoundInfo) -> None:
        """Disconnect who is no member any more, and let those in that are new."""
        for made in self._made:
            made.follow(round_info.roster)
            made.enter(round_info.height)
