"""What can be wrong in a neighbour's gossip: it is named, held against it, and not delivered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import trio
import trio.testing
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.network.stream.exceptions import StreamReset
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.rpc_queue import RpcQueue
from libp2p.utils.varint import decode_varint_with_size
from nacl.signing import SigningKey
from qres_carrier import SenderBuckets, TokenBucket
from qres_transport_libp2p.identity import peer_id
from qres_transport_libp2p.pubsub import (
    TOGETHER_BYTES,
    TOO_FAST,
    UNKNOWN_AUTHOR,
    Gate,
    ProtocolFault,
    SafePubsub,
    tuned_gossipsub,
)

TOPIC = "qres/test"
AUTHOR = SigningKey(bytes([1]) * 32)
NEIGHBOUR = peer_id(bytes([2]) * 32)
MOST = 1000


class Heard:
    """What the transport was told."""

    def __init__(self) -> None:
        self.bad: list[tuple[ID, ProtocolFault, str]] = []
        self.delivered: list[tuple[ID, ID, bytes]] = []
        self.dropped: Counter[str] = Counter()
        self.admits = True

    def gate(self) -> Gate:
        async def admitted(_of: object) -> bool:
            await trio.lowlevel.checkpoint()
            return self.admits

        def drop(why: str) -> None:
            self.dropped[why] += 1

        return Gate(
            inbound=admitted,
            outbound=admitted,
            author=lambda key: key == peer_id(bytes(AUTHOR.verify_key)).to_bytes(),
            deliver=lambda *told: self.delivered.append(told),
            bad=lambda *told: self.bad.append(told),
            dropped=drop,
        )


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def pubsub(heard: Heard) -> Iterator[SafePubsub]:
    made = SafePubsub(
        new_host(key_pair=create_new_key_pair(bytes(32))),
        tuned_gossipsub(6),
        topic=TOPIC,
        max_data=MOST,
        queue=8,
        bucket=lambda: TokenBucket(1.0, 4),
        gate=heard.gate(),
    )
    try:
        yield made
    finally:
        made.seen_messages.stop()


def signed(key: SigningKey = AUTHOR, **changes: Any) -> rpc_pb2.Message:
    """A message of the author, signed by a key."""
    fields: dict[str, Any] = {
        "from_id": peer_id(bytes(AUTHOR.verify_key)).to_bytes(),
        "data": b"a vote",
        "seqno": bytes(8),
        "topicIDs": [TOPIC],
        **changes,
    }
    made = rpc_pb2.Message(**fields)
    made.signature = key.sign(b"libp2p-pubsub:" + made.SerializeToString()).signature
    return made


def pushed(pubsub: SafePubsub, *messages: rpc_pb2.Message, by: ID = NEIGHBOUR) -> None:
    async def main() -> None:
        for message in messages:
            await pubsub.push_msg(by, message)

    trio.run(main)


@pytest.mark.control("C-transport-2")
def test_a_right_message_is_held_against_nobody(pubsub: SafePubsub, heard: Heard) -> None:
    pushed(pubsub, signed())
    assert heard.bad == []
    assert not heard.dropped


@pytest.mark.claim("C-transport-2")
@pytest.mark.parametrize(
    ("message", "fault"),
    [
        (signed(topicIDs=["another"]), ProtocolFault.TOPIC),
        (signed(topicIDs=[TOPIC, "another"]), ProtocolFault.TOPIC),
        (signed(topicIDs=[]), ProtocolFault.TOPIC),
        (signed(data=b""), ProtocolFault.SIZE),
        (signed(data=bytes(MOST + 1)), ProtocolFault.SIZE),
        (signed(seqno=b"1"), ProtocolFault.NUMBER),
        (signed(from_id=b""), ProtocolFault.AUTHOR),
        (signed(from_id=NEIGHBOUR.to_bytes()[:-1]), ProtocolFault.AUTHOR),
        (signed(from_id=b"\x12\x20" + bytes(36)), ProtocolFault.AUTHOR),
        (signed(SigningKey(bytes(32))), ProtocolFault.SIGNATURE),
    ],
)
def test_a_wrong_message_is_held_against_who_passed_it_on(
    pubsub: SafePubsub, heard: Heard, message: rpc_pb2.Message, fault: ProtocolFault
) -> None:
    pushed(pubsub, message)
    assert heard.bad == [(NEIGHBOUR, fault, str(fault))]
    assert heard.delivered == []


def test_a_message_of_an_unknown_author_is_dropped_and_held_against_nobody(
    pubsub: SafePubsub, heard: Heard
) -> None:
    """Who is at another height knows other members, and passes on what they say."""
    author = SigningKey(bytes([2]) * 32)
    pushed(pubsub, signed(author, from_id=peer_id(bytes(author.verify_key)).to_bytes()))
    assert heard.dropped == {UNKNOWN_AUTHOR: 1}
    assert (heard.bad, heard.delivered) == ([], [])


def test_messages_beyond_the_rate_are_dropped_and_counted_before_they_are_looked_at(
    pubsub: SafePubsub, heard: Heard
) -> None:
    pushed(pubsub, *[signed(data=b"") for _ in range(10)])
    assert len(heard.bad) == 4
    assert heard.dropped == {TOO_FAST: 6}


@pytest.mark.claim("C-flood-1", "C-libp2p-12")
@pytest.mark.control("C-flood-1", "C-libp2p-12")
@pytest.mark.parametrize("guarded", [True, False])
def test_who_connects_again_has_no_new_burst(
    pubsub: SafePubsub,
    heard: Heard,
    guarded: bool,  # noqa: FBT001 - the case
) -> None:
    """The control forgets the bucket with the connection."""
    now = [0.0]

    def buckets() -> SenderBuckets:
        return SenderBuckets(lambda: TokenBucket(1.0, 4, clock=lambda: now[0]))

    pubsub._buckets = buckets()
    for _ in range(10):
        pushed(pubsub, *[signed(data=b"") for _ in range(4)])
        pubsub._handle_dead_peer(NEIGHBOUR)
        if not guarded:
            pubsub._buckets = buckets()
    assert len(heard.bad) == (4 if guarded else 40)
    assert heard.dropped == ({TOO_FAST: 36} if guarded else {})
    if guarded:
        now[0] = 2.0
        pushed(pubsub, *[signed(data=b"") for _ in range(4)])
        assert len(heard.bad) == 6


def test_what_was_heard_from_a_neighbour_is_not_looked_at_again_from_the_others(
    pubsub: SafePubsub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pubsub, "_is_subscribed_to_msg", lambda _self, _message: True)
    forged, message = signed(SigningKey(bytes(32))), signed()
    pushed(pubsub, forged)
    assert pubsub._is_subscribed_to_msg(message)  # a forger does not keep it out
    pushed(pubsub, message)
    assert not pubsub._is_subscribed_to_msg(message)
    assert pubsub._is_subscribed_to_msg(signed(seqno=b"another."))


def test_no_signed_addresses_go_with_a_message(
    pubsub: SafePubsub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neighbours check that signature for every message, and nobody asks for the addresses."""
    sent: list[rpc_pb2.RPC] = []

    async def write(_self: Pubsub, _stream: object, rpc: rpc_pb2.RPC) -> bool:
        await trio.lowlevel.checkpoint()
        sent.append(rpc)
        return True

    monkeypatch.setattr(Pubsub, "write_msg", write)
    stream: Any = Stream()
    trio.run(pubsub.write_msg, stream, rpc_pb2.RPC(publish=[signed()], senderRecord=b"record"))
    assert sent == [rpc_pb2.RPC(publish=[signed()])]


class Stream:
    """An open stream of the neighbour."""

    def __init__(self) -> None:
        self.muxed_conn: Any = self
        self.peer_id = NEIGHBOUR
        self.was_reset = False

    async def reset(self) -> None:
        await trio.lowlevel.checkpoint()
        self.was_reset = True


class Sink(Stream):
    """A stream to the neighbour that notes each write, and breaks after so many."""

    def __init__(self, breaks: int = 1000) -> None:
        super().__init__()
        self.writes: list[list[rpc_pb2.RPC]] = []
        self.breaks = breaks

    async def write(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        if len(self.writes) == self.breaks:
            raise StreamReset
        rpcs: list[rpc_pb2.RPC] = []
        while data:
            size, start = decode_varint_with_size(data)
            rpcs.append(rpc_pb2.RPC.FromString(data[start : start + size]))
            data = data[start + size :]
        self.writes.append(rpcs)


def test_what_waits_for_a_peer_is_written_together_and_in_order(pubsub: SafePubsub) -> None:
    queue, sink = RpcQueue(max_size=100), Sink()
    stream: Any = sink
    small = [signed(seqno=number.to_bytes(8, "big")) for number in range(4)]
    large = signed(data=bytes(TOGETHER_BYTES))
    messages = [rpc_pb2.RPC(publish=[message]) for message in (*small[:3], large, small[3])]
    control = rpc_pb2.RPC()
    control.control.graft.add(topicID=TOPIC)
    for rpc in messages:
        addressed = rpc_pb2.RPC(senderRecord=b"record")
        addressed.MergeFrom(rpc)
        assert queue.push(addressed)
    assert queue.push(control, priority=True)
    queue.close()
    trio.run(pubsub.handle_sending_messages, NEIGHBOUR, stream, queue)
    assert sink.writes == [[control, *messages[:4]], [messages[4]]]


def test_a_peer_whose_stream_breaks_is_written_no_more(
    pubsub: SafePubsub, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead: list[ID] = []
    monkeypatch.setattr(SafePubsub, "_handle_dead_peer", lambda _self, peer: dead.append(peer))
    queue, sink = RpcQueue(max_size=100), Sink(breaks=1)
    stream: Any = sink
    for _ in range(3):
        queue.push(rpc_pb2.RPC(publish=[signed(data=bytes(TOGETHER_BYTES))]))
    trio.run(pubsub.handle_sending_messages, NEIGHBOUR, stream, queue)
    assert (len(sink.writes), len(queue), dead) == (1, 1, [NEIGHBOUR])


def test_what_libp2p_cannot_digest_is_the_neighbour_s_fault(
    pubsub: SafePubsub, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_arguments: object) -> None:
        await trio.lowlevel.checkpoint()
        raise OverflowError

    monkeypatch.setattr(Pubsub, "push_msg", fails)
    pushed(pubsub, signed())
    assert heard.bad == [(NEIGHBOUR, ProtocolFault.MESSAGE, "OverflowError")]
    assert not pubsub._carriers
    with pytest.raises(OverflowError):  # a message of this node itself is no neighbour's fault
        pushed(pubsub, signed(), by=pubsub.my_id)


@pytest.mark.parametrize("admits", [True, False])
def test_a_stream_is_read_only_of_who_is_admitted_and_ends_with_the_first_fault(
    pubsub: SafePubsub,
    heard: Heard,
    monkeypatch: pytest.MonkeyPatch,
    admits: bool,  # noqa: FBT001
) -> None:
    async def fails(*_arguments: object) -> None:
        await trio.lowlevel.checkpoint()
        raise UnicodeError

    monkeypatch.setattr(SafePubsub, "continuously_read_stream", fails)
    heard.admits = admits
    stream: Any = Stream()
    trio.run(pubsub.stream_handler, stream)
    assert stream.was_reset
    assert heard.bad == ([(NEIGHBOUR, ProtocolFault.RPC, "UnicodeError")] if admits else [])


def test_a_peer_that_is_not_admitted_is_sent_nothing(
    pubsub: SafePubsub, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached: list[object] = []

    async def reach(_pubsub: object, peer: object) -> None:
        await trio.lowlevel.checkpoint()
        reached.append(peer)

    monkeypatch.setattr(Pubsub, "_handle_new_peer", reach)
    heard.admits = False
    trio.run(pubsub._handle_new_peer, NEIGHBOUR)
    assert reached == []
    heard.admits = True
    trio.run(pubsub._handle_new_peer, NEIGHBOUR)
    assert reached == [NEIGHBOUR]
    assert not pubsub._opening


def test_a_stream_over_a_connection_that_is_gone_is_replaced(
    pubsub: SafePubsub, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream: Any = Stream()
    removed: list[object] = []
    closed: list[bool] = []

    class Queue:
        def close(self) -> None:
            closed.append(True)

    monkeypatch.setattr(pubsub.router, "remove_peer", removed.append)
    queue: Any = Queue()
    pubsub.peers[NEIGHBOUR] = stream
    pubsub.peer_queues[NEIGHBOUR] = queue
    trio.run(pubsub.renew, NEIGHBOUR)
    assert pubsub.peers[NEIGHBOUR] is stream  # it runs over the connection there is
    heard.admits = False
    trio.run(pubsub.renew, NEIGHBOUR)
    assert NEIGHBOUR not in pubsub.peers
    assert (removed, closed) == ([NEIGHBOUR], [True])


def test_who_comes_back_while_an_attempt_is_under_way_is_reached_when_that_fails(
    pubsub: SafePubsub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the attempt takes: it may wait for a stream over a connection that is gone."""
    stream: Any = Stream()
    attempts: list[float] = []

    async def reach(_pubsub: object, peer: Any) -> None:
        attempts.append(trio.current_time())
        if len(attempts) == 1:
            await trio.sleep(240)
            what = "no stream in time"
            raise OSError(what)
        pubsub.peers[peer] = stream

    monkeypatch.setattr(Pubsub, "_handle_new_peer", reach)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pubsub._handle_new_peer_with_retry, NEIGHBOUR)
            await trio.testing.wait_all_tasks_blocked()
            await pubsub.renew(NEIGHBOUR)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert pubsub.peers[NEIGHBOUR] is stream
    assert attempts == [0.0, pytest.approx(240.0, abs=5.0)]


def test_what_is_written_to_a_stream_that_was_replaced_does_not_end_the_other(
    pubsub: SafePubsub, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead: list[object] = []
    monkeypatch.setattr(SafePubsub, "_handle_dead_peer", lambda _self, peer: dead.append(peer))
    old: Any = Sink(breaks=0)
    new: Any = Stream()
    for now, ended in ((new, []), (old, [NEIGHBOUR])):
        queue = RpcQueue(max_size=100)
        queue.push(rpc_pb2.RPC(publish=[signed()]))
        pubsub.peers[NEIGHBOUR] = now
        trio.run(pubsub.handle_sending_messages, NEIGHBOUR, old, queue)
        assert dead == ended


class _Nobody(set[ID]):
    """Remembers nothing."""

    def __contains__(self, item: object) -> bool:
        return False


@pytest.mark.parametrize("mended", [True, False])
def test_who_comes_again_and_again_and_takes_no_stream_costs_one_task(
    pubsub: SafePubsub,
    monkeypatch: pytest.MonkeyPatch,
    mended: bool,  # noqa: FBT001 - the case
) -> None:
    tries: list[float] = []

    async def in_vain(_peer: ID, within: float) -> None:
        tries.append(trio.current_time())
        await trio.sleep(within)

    monkeypatch.setattr(pubsub, "_handle_new_peer_with_retry", in_vain)
    if not mended:
        monkeypatch.setattr(pubsub, "_renewing", _Nobody())

    async def main() -> None:
        with trio.move_on_after(60):
            async with trio.open_nursery() as nursery:
                for _ in range(20):  # that many times it comes up
                    nursery.start_soon(pubsub.renew, NEIGHBOUR)
                    await trio.sleep(0.1)
        if mended:
            assert 5 < len(tries) < 12
            assert not pubsub._renewing
        else:
            assert len(tries) > 100

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize("mended", [True, False])
def test_who_subscribes_again_and_again_is_sent_the_history_once(
    pubsub: SafePubsub,
    monkeypatch: pytest.MonkeyPatch,
    mended: bool,  # noqa: FBT001 - the case
) -> None:
    """Once for each connection; the control is libp2p's own way."""
    sent: list[ID] = []
    router: Any = pubsub.router
    stream: Any = object()

    async def history(peer: ID, _topic: str) -> None:
        sent.append(peer)

    monkeypatch.setattr(router, "send_recent_messages", history)
    if not mended:
        monkeypatch.setattr(SafePubsub, "_forget_subscription", Pubsub._forget_subscription)

    async def main() -> None:
        pubsub.peers[NEIGHBOUR] = stream
        for _ in range(30):
            pubsub.peer_topics[TOPIC] = {NEIGHBOUR}
            await pubsub._replay_recent_messages(NEIGHBOUR, TOPIC)
            pubsub._forget_subscription(NEIGHBOUR, TOPIC)
            assert TOPIC not in pubsub.peer_topics
        assert len(sent) == (1 if mended else 30)
        pubsub._forget_all_subscriptions(NEIGHBOUR)
        await pubsub._replay_recent_messages(NEIGHBOUR, TOPIC)
        assert len(sent) == (2 if mended else 31)

    trio.run(main)
