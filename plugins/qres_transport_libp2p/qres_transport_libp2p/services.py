"""Services of libp2p in a node: those on a list here, and no others.

libp2p's host asks each peer who it is, keeps what it says, answers pings, prunes connections, dials
on its own account and refuses by the machine's memory. Each of these is work that a peer decides
on, so none of them runs. Identify is not asked for, as its answer is unbounded work. It is
answered, from bytes that are made once, because other implementations ask before they open a stream
of gossip.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Final

import trio
from libp2p.abc import IHost, INetStream
from libp2p.custom_types import StreamHandlerFn, TProtocol
from libp2p.exceptions import ParseError
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.io.exceptions import IOException
from libp2p.protocol_muxer.exceptions import MultiselectCommunicatorError
from libp2p.protocol_muxer.multiselect import Multiselect
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.utils.varint import encode_varint_prefixed, read_varint_prefixed_bytes_limited
from multiaddr import Multiaddr

from qres_transport_libp2p import blobs, frames, hello, requests
from qres_transport_libp2p.clock import patience
from qres_transport_libp2p.wire import reset

GOSSIPSUB: Final = TProtocol("/meshsub/1.1.0")
"""1.2 announces every message it has, however small; that costs more than it saves here."""
IDENTIFY: Final = TProtocol("/ipfs/id/1.0.0")
HANDLERS: Final = frozenset(
    {
        blobs.PROTOCOL,
        frames.PROTOCOL,
        hello.PROTOCOL,
        requests.PROTOCOL,
        GOSSIPSUB,
        IDENTIFY,
    }
)
"""The protocols whose streams a node takes."""
TASKS: Final = frozenset(
    {
        # of a host: its service, and the port that it listens on
        "libp2p.tools.anyio_service.trio_manager.TrioManager.run",
        "libp2p.tools.anyio_service.trio_manager.TrioManager._handle_cancelled",
        "libp2p.transport.tcp.tcp.TCPListener._spawn_background_task.<locals>._run_server",
        "libp2p.transport.tcp.tcp.TCPListener.listen.<locals>.serve_tcp",
        "_internal:service.run[daemon=False]",
        # of a connection: its frames, and its streams
        "start[daemon=False]",
        "libp2p.stream_muxer.yamux.yamux.Yamux._handle_incoming_with_ready_signal",
        "libp2p.stream_muxer.yamux.yamux.Yamux._stale_stream_sweeper",
        "libp2p.network.connection.swarm_connection.SwarmConn._handle_muxed_stream",
        # of gossip: news of connections, the router's heartbeat, and what goes to a peer
        "handle_peer_queue[daemon=True]",
        "handle_dead_peer_queue[daemon=True]",
        "_validation_cache_cleanup[daemon=True]",
        "heartbeat[daemon=True]",
        "handle_sending_messages[daemon=False]",
        "_handle_new_peer_with_retry[daemon=False]",
        # for a moment: a message, and a peer that has just subscribed
        "_take[daemon=False]",
        "flush_pending_messages[daemon=False]",
        "_replay_recent_messages[daemon=False]",
        "on_peer_subscribed[daemon=False]",
    }
)
"""The names of libp2p's tasks in a node; ``tests/test_services.py`` fails for any other."""
FIELDS: Final[Mapping[str, frozenset[str]]] = {
    "pubsub.pb.RPC": frozenset({"subscriptions", "publish", "control"}),
    "pubsub.pb.RPC.SubOpts": frozenset({"subscribe", "topicid"}),
    "pubsub.pb.Message": frozenset({"from_id", "data", "seqno", "topicIDs", "signature", "key"}),
    "pubsub.pb.ControlMessage": frozenset({"ihave", "iwant", "graft", "prune"}),
    "pubsub.pb.ControlIHave": frozenset({"topicID", "messageIDs"}),
    "pubsub.pb.ControlIWant": frozenset({"messageIDs"}),
    "pubsub.pb.ControlGraft": frozenset({"topicID"}),
    "pubsub.pb.ControlPrune": frozenset({"topicID", "backoff"}),
}
"""The fields of gossip's RPCs that libp2p gets to see, by the name of the message."""
LINE_BYTES: Final = 256
"""Of one line of multistream-select; the longest name that is spoken here has 20."""
LINES: Final = 16
"""Lines that the other end may say before it names a protocol that is spoken here."""
ANSWER_SECONDS: Final = 10.0
STOCK_READ: Final = MultiselectCommunicator.read
"""libp2p's own, which reads as much as the other end names."""


def keep_to_list(host: IHost) -> None:
    """Turn off what a host of libp2p does beyond the list, before it runs."""
    made: Any = host
    made.multiselect = ListedMultiselect()
    made._schedule_identify = _ask_nobody  # noqa: SLF001 - no argument leads there
    store: Any = host.get_peerstore()
    store.consume_peer_record = _refuse_record
    network: Any = host.get_network()
    network.notifees.clear()
    network.set_resource_manager(None)  # the slots and the windows are the limits
    for part in (network.auto_connector, network.connection_pruner):
        part.start = _nothing
    network.auto_connector.maybe_connect = _nothing  # nobody is dialled but by the keeper
    bound_lines()


def bound_lines() -> None:
    """Read no line of multistream-select that is longer than one can be, in this process."""
    library: Any = MultiselectCommunicator
    library.read = _read_line


def without_unlisted(message: Any) -> bool:
    """Take the fields that are not on the list out of an RPC or a part of it; whether any was."""
    listed = FIELDS[message.DESCRIPTOR.full_name]
    unlisted = [field.name for field, _value in message.ListFields() if field.name not in listed]
    for name in unlisted:
        message.ClearField(name)
    return bool(unlisted)


class ListedMultiselect(Multiselect):
    """Takes streams of the protocols on the list alone."""

    def __init__(self) -> None:
        super().__init__({})

    def add_handler(self, protocol: TProtocol | None, handler: StreamHandlerFn | None) -> None:
        """Handle a protocol. Raises ValueError: it is not on the list."""
        if protocol not in HANDLERS:
            what = f"{protocol} is not on the list of what a node handles"
            raise ValueError(what)
        super().add_handler(protocol, handler)


async def _read_line(self: MultiselectCommunicator) -> str:
    """The next line, of a bounded length, and a bounded number of them."""
    said: Any = self
    said.lines = getattr(said, "lines", 0) + 1
    try:
        if said.lines > LINES:
            what = "too many lines"
            raise ParseError(what)  # noqa: TRY301 - one refusal for all
        data = await read_varint_prefixed_bytes_limited(self.read_writer, LINE_BYTES)
        if data[-1:] != b"\n":
            what = "no line"
            raise ParseError(what)  # noqa: TRY301 - as above
        return data[:-1].decode()
    except (ParseError, IOException, ValueError) as error:
        what = f"reading a line: {type(error).__name__}"
        raise MultiselectCommunicatorError(what) from error


def answer_identify(host: IHost, addresses: Iterable[Multiaddr]) -> None:
    """Answer who asks what this node speaks, the same bytes to everybody.

    ``addresses``: where the node listens.
    """
    said = encode_varint_prefixed(
        Identify(
            protocol_version="qres/1",
            agent_version="qres",
            public_key=host.get_public_key().serialize(),
            listen_addrs=[address.to_bytes() for address in addresses],
            protocols=sorted(HANDLERS),
        ).SerializeToString()
    )

    async def answer(stream: INetStream) -> None:
        done = False
        with patience(ANSWER_SECONDS), suppress(Exception):  # whoever asked may have gone
            await stream.write(said)
            await stream.close()
            done = True
        if not done:
            await reset(stream)

    host.set_stream_handler(IDENTIFY, answer)


def _ask_nobody(_peer: object, *, reason: str) -> None:
    """Ask no peer who it is: the key that it proved is all that counts."""
    del reason


def _refuse_record(_envelope: object, _ttl: int) -> bool:
    """Keep no addresses that a peer says it has."""
    return False


async def _nothing() -> None:
    await trio.lowlevel.checkpoint()
