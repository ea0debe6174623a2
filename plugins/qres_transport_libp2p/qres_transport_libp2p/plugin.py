"""The ``libp2p`` plugin: options, and the factory of the transport."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import attrs

from qres_core import (
    Claims,
    ConfigError,
    LinkKeys,
    NodeId,
    NodeInfo,
    Problem,
    RoundInfo,
    Surroundings,
    Transport,
    Verdict,
    hookimpl,
)
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
        """Whether another plugin lends the key to connect with, and messages can be carried.

        Yields QRES-E305 without such a key; QRES-E105 for blobs that cannot hold the largest
        message.
        """
        if "link_keys" not in around.hooks:
            what = "there is no key to connect with: no enabled plugin has the hook link_keys"
            yield Problem("QRES-E305", "plugins.libp2p", what, "add [plugins.ed25519]")
        largest = around.max_message_bytes
        if largest <= self.frame_bytes:
            return
        for key in ("blob_bytes", "spool_bytes"):
            room: int = getattr(self, key)
            if room < largest:
                what = f"is {room}, and swarm.max_message_bytes is {largest}"
                fix = f"{key} = {largest} or more, or a lower swarm.max_message_bytes"
                yield Problem("QRES-E105", f"plugins.libp2p.{key}", what, fix)

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
        if link_keys is None:
            what = "there is no key to connect with: no enabled plugin has the hook link_keys"
            raise ConfigError.of("QRES-E103", "plugins.libp2p", what, "add [plugins.ed25519]")
        from qres_transport_libp2p import checks  # noqa: PLC0415 - these import libp2p
        from qres_transport_libp2p.transport import Libp2pTransport  # noqa: PLC0415

        checks.check_addresses(self, node_info, link_keys)
        made = Libp2pTransport(node_info, admission, credential, link_keys, self)
        self._made[:] = [made]
        return made

    def examine(self, node_info: NodeInfo, runs: bool) -> Iterator[Problem | str]:  # noqa: FBT001 - positional
        """Whether the port is this node's or free, and who answers at the addresses of peers."""
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
