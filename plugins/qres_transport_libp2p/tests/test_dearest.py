"""The dearest input that fits costs each handler work in proportion to its length, by count."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.peerstore import PeerStore
from libp2p.protocol_muxer.exceptions import MultiselectCommunicatorError
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.pubsub.pb import rpc_pb2
from libp2p.stream_muxer.yamux.yamux import TYPE_DATA
from libp2p.utils import encode_varint_prefixed
from qres_carrier import TokenBucket
from qres_transport_libp2p import hello, services
from qres_transport_libp2p.hello import Hello
from qres_transport_libp2p.identity import peer_id
from qres_transport_libp2p.pubsub import MAX_RPC_BYTES, Gate, SafePubsub, tuned_gossipsub
from qres_transport_libp2p.windows import STREAMS
from qres_transport_libp2p.wire import BadBytesError
from qres_transport_libp2p.yamux import ShieldedYamux

TOPIC = "qres/test"
PEER = peer_id(bytes([2]) * 32)
PART = 4
"""The other input is so many times shorter."""
SLACK = 1.5
"""What is linear grows as much as its input, and what is quadratic by that squared."""
EACH = 60
"""Calls for each item of an input."""


def calls(work: Callable[[], object]) -> int:
    """How many functions are called, of Python's and of C's."""
    count = 0

    def note(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


class Stream:
    """One RPC."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.muxed_conn = SimpleNamespace(peer_id=PEER)

    async def read(self, size: int) -> bytes:
        await trio.lowlevel.checkpoint()
        data, self._data = self._data[:size], self._data[size:]
        return data

    async def reset(self) -> None:
        await trio.lowlevel.checkpoint()


def heard(rpc: rpc_pb2.RPC) -> Callable[[], object]:
    """A node reads an RPC."""
    data = rpc.SerializeToString()
    assert len(data) <= MAX_RPC_BYTES

    async def admitted(_of: object) -> bool:
        await trio.lowlevel.checkpoint()
        return True

    nothing: Any = lambda *_told: None  # noqa: E731
    gate = Gate(admitted, admitted, lambda _key: True, nothing, nothing, nothing)
    made = SafePubsub(
        new_host(key_pair=create_new_key_pair(bytes(32))),
        tuned_gossipsub(6),
        topic=TOPIC,
        max_data=1000,
        queue=8,
        bucket=lambda: TokenBucket(1.0, 400),
        gate=gate,
    )
    runs: Any = SimpleNamespace(is_running=True, run_task=lambda *_task: None)
    made._manager = runs
    made.subscribed_topics_receive[TOPIC] = nothing
    made.router._manager = runs  # type: ignore[attr-defined]
    stream: Any = Stream(encode_varint_prefixed(data))
    made.seen_messages.stop()
    return lambda: trio.run(made.continuously_read_stream, stream)


def records(count: int) -> rpc_pb2.RPC:
    return rpc_pb2.RPC(senderRecord=bytes(9 * count))


def messages(count: int) -> rpc_pb2.RPC:
    rpc = rpc_pb2.RPC()
    for number in range(count):
        rpc.publish.add(topicIDs=[TOPIC], data=b"x", seqno=number.to_bytes(8, "big"))
    return rpc


def subscriptions(count: int) -> rpc_pb2.RPC:
    rpc = rpc_pb2.RPC()
    for number in range(count):
        rpc.subscriptions.add(subscribe=bool(number % 2), topicid=TOPIC)
    return rpc


def controls(kind: str) -> Callable[[int], rpc_pb2.RPC]:
    def made(count: int) -> rpc_pb2.RPC:
        rpc = rpc_pb2.RPC()
        for _ in range(count):
            getattr(rpc.control, kind).add(topicID=TOPIC)
        return rpc

    return made


def names(kind: str) -> Callable[[int], rpc_pb2.RPC]:
    def made(count: int) -> rpc_pb2.RPC:
        said = rpc_pb2.RPC()
        getattr(said.control, kind).add(messageIDs=[b"%d" % number for number in range(count)])
        return said

    return made


def exchange(count: int) -> rpc_pb2.RPC:
    """A PRUNE that names peers."""
    rpc = rpc_pb2.RPC()
    prune = rpc.control.prune.add(topicID=TOPIC)
    for _ in range(count):
        prune.peers.add(peerID=b"p", signedPeerRecord=b"r")
    return rpc


RPCS: dict[str, tuple[Callable[[int], rpc_pb2.RPC], int]] = {
    "record": (records, 14_000),
    "publish": (messages, 3_600),
    "subscriptions": (subscriptions, 8_000),
    "graft": (controls("graft"), 9_000),
    "prune": (controls("prune"), 9_000),
    "ihave": (controls("ihave"), 9_000),
    "ihave names": (names("ihave"), 16_000),
    "iwant names": (names("iwant"), 16_000),
    "idontwant names": (names("idontwant"), 16_000),
    "peers of a prune": (exchange, 14_000),
}


@pytest.mark.claim("C-libp2p-40")
@pytest.mark.parametrize("kind", RPCS)
def test_an_rpc_costs_no_more_than_in_proportion(kind: str) -> None:
    make, count = RPCS[kind]
    whole = calls(heard(make(count)))
    part = calls(heard(make(count // PART)))
    assert whole <= PART * SLACK * part, (whole, part)
    assert whole <= EACH * count


@pytest.mark.claim("C-libp2p-40")
@pytest.mark.parametrize("head", [b"\x81", b"\x01", b"\xf6"])  # arrays in arrays, numbers, nothing
def test_a_hello_costs_no_more_than_in_proportion(head: bytes) -> None:
    def read(size: int) -> Callable[[], object]:
        data = b"\x99" + (size - 3).to_bytes(2, "big") + head * (size - 3)

        def work() -> None:
            with pytest.raises(BadBytesError):
                Hello.loads(data)

        return work

    whole, part = calls(read(hello.MAX_BYTES)), calls(read(hello.MAX_BYTES // PART))
    assert whole <= PART * SLACK * part + 200
    assert whole <= EACH * hello.MAX_BYTES


@pytest.mark.claim("C-libp2p-40")
def test_lines_of_multistream_cost_a_bounded_amount() -> None:
    services.bound_lines()
    line = encode_varint_prefixed(b"x" * (services.LINE_BYTES - 1) + b"\n")
    stream: Any = Stream(line * 10 * services.LINES)

    async def main() -> None:
        talk, count = MultiselectCommunicator(stream), 0
        while count <= services.LINES:
            try:
                await talk.read()
            except MultiselectCommunicatorError:
                break
            count += 1
        assert count == services.LINES

    assert calls(lambda: trio.run(main)) < 100_000


@pytest.mark.claim("C-libp2p-40")
def test_a_frame_of_yamux_costs_what_the_streams_of_a_connection_allow() -> None:
    async def main() -> None:
        pipe: Any = SimpleNamespace(is_initiator=False)
        muxed = ShieldedYamux(pipe, PEER, is_initiator=False)
        for number in range(STREAMS - 1):
            opened: Any = SimpleNamespace(is_initiator=False, recv_window=2**18)
            muxed.streams[2 * number + 1] = opened
            muxed.stream_buffers[2 * number + 1] = bytearray(1)
        await trio.lowlevel.checkpoint()
        assert calls(lambda: muxed._look(TYPE_DATA, 0, 1, 1)) <= 4 * STREAMS

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.control("C-libp2p-40")
def test_control_addresses_that_are_compared_with_each_other_do_not_pass() -> None:
    """libp2p's own store, of a record's addresses."""
    from multiaddr import Multiaddr  # noqa: PLC0415 - of the control alone

    def kept(count: int) -> Callable[[], object]:
        addresses = [
            Multiaddr(b"\x04" + (0x0B000000 + number).to_bytes(4, "big")) for number in range(count)
        ]
        return lambda: PeerStore().add_addrs(PEER, addresses, 7200)

    whole, part = calls(kept(400)), calls(kept(400 // PART))
    assert whole > PART * SLACK * part
    assert whole > EACH * 400
