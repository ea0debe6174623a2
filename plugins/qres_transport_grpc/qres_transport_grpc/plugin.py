"""The ``grpc`` plugin: options, and the factory of the transport."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import attrs
from qres_carrier import fitting

from qres_core import NodeId, NodeInfo, RoundInfo, Surroundings, Verdict, hookimpl
from qres_core.errors import ConfigError, Problem
from qres_core.transport import LinkKeys, Transport
from qres_transport_grpc.options import GrpcOptions
from qres_transport_grpc.wire import HubPlace

_FIX = "write HOST:PORT#SHA256, as `qres hub run` prints it"


def check_hubs(options: GrpcOptions) -> None:
    """Refuse hubs that are none.

    Raises ConfigError: QRES-E103 for no hub, QRES-E105 for a malformed one.
    """
    if not options.hubs:
        what = "a node reaches others over hubs alone, and none is named"
        raise ConfigError.of("QRES-E103", "plugins.grpc.hubs", what, _FIX)
    for index, text in enumerate(options.hubs):
        try:
            HubPlace.of(text)
        except ValueError as error:
            where = f"plugins.grpc.hubs[{index}]"
            raise ConfigError.of("QRES-E105", where, str(error), _FIX) from error


@attrs.frozen(kw_only=True)
class Grpc(GrpcOptions):
    """Carries frames, requests and blobs over hubs, by outbound gRPC connections alone.

    Nobody has to trust a hub: nodes seal what they say to each other, so a hub can only drop,
    delay or deliver. Only members link, each proved by the key that also signs its messages, and
    only those that the plugins with the hook ``admit`` accept.
    """

    # the transport of the node, once it is made; of a class that imports gRPC
    _made: list[Any] = attrs.field(factory=list[Any], init=False, eq=False, repr=False)

    def check(self, around: Surroundings) -> Iterator[Problem]:
        """Check that another plugin lends the key to connect with, and messages can be carried."""
        return fitting.problems("grpc", self, around)

    @hookimpl
    def transport(
        self,
        node_info: NodeInfo,
        admission: Callable[[NodeId, bytes], Verdict],
        credential: Callable[[], bytes],
        link_keys: LinkKeys | None,
    ) -> Transport:
        """This node's end. Nothing is connected before it is started.

        Raises QRES-E103 where no plugin lends a key or no hub is named, and QRES-E105 for hubs that
        are none.
        """
        check_hubs(self)
        keys = fitting.lent("grpc", link_keys)
        from qres_transport_grpc.transport import GrpcTransport  # noqa: PLC0415 - imports gRPC

        made = GrpcTransport(node_info, admission, credential, keys, self)
        self._made[:] = [made]
        return made

    def examine(
        self,
        node_info: NodeInfo,
        runs: bool,  # noqa: FBT001 - positional
        link_keys: LinkKeys | None,
    ) -> Iterator[Problem | str]:
        """Check that each hub answers with the certificate that is named, and knows this node."""
        check_hubs(self)
        from qres_transport_grpc.examining import examine  # noqa: PLC0415 - imports gRPC

        yield from examine(self, node_info, None if runs else link_keys)

    def retune(self, fresh: Grpc) -> None:
        """Keep connections to the hubs of other options from now on.

        Raises ConfigError: QRES-E103 or QRES-E105 for hubs that are none.
        """
        check_hubs(fresh)
        for made in self._made:
            made.aim(fresh.hubs)

    @hookimpl
    def round_opened(self, round_info: RoundInfo) -> None:
        """Part from who is no member any more, and link those that are new."""
        for made in self._made:
            made.follow(round_info.roster)
            made.enter(round_info.height)
