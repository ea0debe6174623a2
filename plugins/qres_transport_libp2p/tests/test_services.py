"""What of libp2p runs in a node is what stands on the list, and its records are not asked for."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.host.basic_host import BasicHost
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.peer.envelope import Envelope, make_unsigned
from libp2p.peer.id import ID
from libp2p.peer.pb import peer_record_pb2
from libp2p.peer.peer_record import PEER_RECORD_ENVELOPE_PAYLOAD_TYPE
from libp2p.peer.peerstore import PeerStore
from libp2p.protocol_muxer.exceptions import MultiselectCommunicatorError
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.utils import maybe_consume_signed_record
from libp2p.utils.varint import encode_varint_prefixed
from qres_transport_libp2p import services
from qres_transport_libp2p.identity import peer_id
from qres_transport_libp2p.services import (
    FIELDS,
    HANDLERS,
    IDENTIFY,
    LINE_BYTES,
    LINES,
    TASKS,
    ListedMultiselect,
    without_unlisted,
)

UNUSED = {
    "pubsub.pb.RPC": {"senderRecord", "testExtension"},
    "pubsub.pb.ControlMessage": {"idontwant", "extensions", "observe", "unobserve"},
    "pubsub.pb.ControlPrune": {"peers"},
}
"""The fields that libp2p 0.8.1 has beside those on the list."""


# ── services and handlers ─────────────────────────────────────────────────────────────────────────


def tasks_of(root: Any) -> Iterator[str]:
    """The names of all tasks of a loop."""
    for nursery in root.child_nurseries:
        for task in nursery.child_tasks:
            yield task.name
            yield from tasks_of(task)


def libp2p_s(names: set[str]) -> set[str]:
    """Those that neither this plugin nor trio started."""
    ours = ("qres_transport_libp2p.", "plugins.", "tests.", "test_", "trio.", "<TrioToken")
    return {name for name in names if not name.startswith(ours)}


@pytest.mark.claim("C-libp2p-31")
def test_a_node_runs_the_tasks_and_handlers_of_libp2p_on_the_list_and_no_others(
    lab: SimpleNamespace,
) -> None:
    """When this fails, libp2p starts something new: turn it off, or read it and list it."""
    roster = lab.members(2)

    async def main() -> None:
        async with lab.Swarm() as swarm:
            entry, two = (lab.transport(me, roster) for me in roster)
            await swarm.start(entry, two)
            await lab.connected(entry, two)

            async def look() -> tuple[set[str], set[Any], list[str]]:
                host: Any = entry._parts.host
                network = host.get_network()
                names = set(tasks_of(trio.lowlevel.current_root_task()))
                notified = [type(item).__name__ for item in network.notifees]
                assert not network.connection_pruner._started
                assert not network.auto_connector._started
                assert network._resource_manager is None
                assert not host._identify_tasks
                return names, set(host.get_mux().get_protocols()), notified

            names, handlers, notified = await entry._call(look)
            stock = libp2p_s(names)
            assert stock <= TASKS, stock - TASKS
            assert "heartbeat[daemon=True]" in stock
            assert handlers == HANDLERS
            assert sorted(notified) == ["PubsubNotifee", "Sessions"]

    trio.run(main)


@pytest.mark.control("C-libp2p-31")
def test_control_a_host_of_libp2p_does_more(lab: SimpleNamespace) -> None:
    me, peer = lab.members(2)

    async def main() -> None:
        async with lab.stock_host(me) as server, lab.stock_host(peer) as host:
            await lab.dial(host, me)
            with trio.fail_after(lab.PATIENCE):
                while not server._identified_peers:  # noqa: ASYNC110 - it asked of itself
                    await trio.sleep(0.02)
            names = set(tasks_of(trio.lowlevel.current_root_task()))
            assert libp2p_s(names) - TASKS
            assert set(server.get_mux().get_protocols()) - HANDLERS
            assert "_IdentifyNotifee" in {
                type(item).__name__ for item in server.get_network().notifees
            }

    trio.run(main)


def test_a_protocol_that_is_not_on_the_list_is_not_handled() -> None:
    select = ListedMultiselect()
    for name in HANDLERS:
        select.add_handler(name, None)
    for other in ("/ipfs/ping/1.0.0", "/ipfs/id/push/1.0.0", None):
        with pytest.raises(ValueError, match="not on the list"):
            select.add_handler(other, None)  # type: ignore[arg-type]
    assert set(select.get_protocols()) == HANDLERS


# ── identify ──────────────────────────────────────────────────────────────────────────────────────


def record(count: int, pair: Any) -> Envelope:
    """A signed record of so many addresses."""
    me = ID.from_pubkey(pair.public_key)
    made = peer_record_pb2.PeerRecord(peer_id=me.to_bytes(), seq=1)
    for number in range(count):
        made.addresses.add().multiaddr = b"\x04" + (0x0B000000 + number).to_bytes(4, "big")
    raw = made.SerializeToString()
    kind = PEER_RECORD_ENVELOPE_PAYLOAD_TYPE
    unsigned = make_unsigned("libp2p-peer-record", kind, raw)
    return Envelope(
        public_key=pair.public_key,
        payload_type=kind,
        raw_payload=raw,
        signature=pair.private_key.sign(unsigned),
    )


@pytest.mark.claim("C-libp2p-32")
def test_nobody_is_asked_who_it_is_and_no_record_is_kept(lab: SimpleNamespace) -> None:
    """A member with a record of as many addresses as there is room for is never asked for it."""
    roster = lab.members(2)
    asked: list[object] = []

    async def main() -> None:
        async with lab.Swarm() as swarm, lab.stock_host(roster[1]) as host:

            async def bomb(stream: Any) -> None:
                asked.append(stream)
                await stream.reset()

            host.set_stream_handler(IDENTIFY, bomb)
            node = lab.transport(roster[0], roster, dial=[])
            await swarm.start(node)
            assert await lab.greet(host, roster[0]) == b"\1"
            stream = await host.new_stream(peer_id(roster[0].node_id), [services.GOSSIPSUB])
            rpc = rpc_pb2.RPC(
                senderRecord=record(100, lab.stock_pair(roster[1])).marshal_envelope()
            )
            await stream.write(encode_varint_prefixed(rpc.SerializeToString()))
            with trio.fail_after(lab.PATIENCE):
                reason = "gossip: a field that is not used"
                while not node.stats().reasons.get(reason):  # noqa: ASYNC110
                    await trio.sleep(0.02)

            async def look() -> tuple[int, bool]:
                store = node._parts.host.get_peerstore()
                pair = create_new_key_pair(bytes([7]) * 32)
                kept = store.consume_peer_record(record(3, pair), 7200)
                known = peer_id(roster[1].node_id)
                return len(store.peer_data_map[known].get_addrs()) if store.has_peer(
                    known
                ) else 0, kept

            assert await node._call(look) == (0, False)
            assert not asked

    trio.run(main)


@pytest.mark.control("C-libp2p-32")
def test_control_libp2p_asks_and_keeps(
    lab: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the guard, a node asks before any hello, and keeps each address of the record."""
    monkeypatch.setattr(services, "_ask_nobody", None)
    roster = lab.members(2)
    asked: list[object] = []

    def asks(host: Any) -> None:
        host._schedule_identify = BasicHost._schedule_identify.__get__(host)

    real = services.keep_to_list
    from qres_transport_libp2p import network  # noqa: PLC0415 - what is patched

    def undone(host: Any) -> None:
        real(host)
        asks(host)

    monkeypatch.setattr(network, "keep_to_list", undone)

    async def main() -> None:
        async with lab.Swarm() as swarm, lab.stock_host(roster[1]) as host:

            async def bomb(stream: Any) -> None:
                asked.append(stream)
                await stream.reset()

            host.set_stream_handler(IDENTIFY, bomb)
            node = lab.transport(roster[0], roster, dial=[roster[1]])
            await swarm.start(node)
            with trio.fail_after(lab.PATIENCE):
                while not asked:  # noqa: ASYNC110
                    await trio.sleep(0.02)

    trio.run(main)
    store = PeerStore()
    pair = create_new_key_pair(bytes([7]) * 32)
    assert store.consume_peer_record(record(30, pair), 7200)
    assert len(store.addrs(ID.from_pubkey(pair.public_key))) == 30


def test_who_asks_is_told_what_a_node_speaks(lab: SimpleNamespace) -> None:
    """Other implementations open no stream of gossip before they know."""
    roster = lab.members(2)

    async def main() -> None:
        async with lab.Swarm() as swarm, lab.stock_host(roster[1]) as host:
            node = lab.transport(roster[0], roster, dial=[])
            await swarm.start(node)
            name = await lab.dial(host, roster[0])
            stream = await host.new_stream(name, [IDENTIFY])
            said = await lab.last_words(stream)
            told = Identify.FromString(said[2:])
            assert set(told.protocols) == HANDLERS
            assert not told.signedPeerRecord
            assert len(told.listen_addrs) == 1

    trio.run(main)


# ── fields ────────────────────────────────────────────────────────────────────────────────────────


def descriptors(found: Any, seen: dict[str, Any]) -> dict[str, Any]:
    """A message and all in it, by name."""
    if found.full_name not in seen:
        seen[found.full_name] = found
        for field in found.fields:
            if field.message_type is not None:
                descriptors(field.message_type, seen)
    return seen


@pytest.mark.claim("C-libp2p-33")
def test_every_field_of_an_rpc_is_on_the_list_or_known_to_be_unused() -> None:
    """When this fails, libp2p has a new field: read what it does before it is listed."""
    all_of_them = descriptors(rpc_pb2.RPC.DESCRIPTOR, {})
    for name, listed in FIELDS.items():
        fields = {field.name for field in all_of_them[name].fields}
        assert fields == listed | UNUSED.get(name, set()), name
    reached = {
        field.message_type.full_name
        for name, listed in FIELDS.items()
        for field in all_of_them[name].fields
        if field.name in listed and field.message_type is not None
    }
    assert reached | {"pubsub.pb.RPC"} == FIELDS.keys()


@pytest.mark.claim("C-libp2p-33")
def test_fields_that_are_not_on_the_list_are_taken_out() -> None:
    rpc = rpc_pb2.RPC(senderRecord=b"record")
    rpc.subscriptions.add(subscribe=True, topicid="t")
    rpc.control.idontwant.add(messageIDs=[b"x"])
    rpc.control.prune.add(topicID="t", backoff=1).peers.add(peerID=b"p", signedPeerRecord=b"r")
    assert without_unlisted(rpc)
    assert without_unlisted(rpc.control)
    assert without_unlisted(rpc.control.prune[0])
    assert not rpc.HasField("senderRecord")
    assert not rpc.control.idontwant
    assert not rpc.control.prune[0].peers
    assert (rpc.subscriptions[0].topicid, rpc.control.prune[0].backoff) == ("t", 1)
    assert not any(map(without_unlisted, (rpc, rpc.control, rpc.control.prune[0])))


@pytest.mark.control("C-libp2p-33")
def test_control_libp2p_keeps_the_record_of_an_rpc() -> None:
    """It does so before a router sees the RPC."""
    pair = create_new_key_pair(bytes([7]) * 32)
    me, store = ID.from_pubkey(pair.public_key), PeerStore()
    rpc = rpc_pb2.RPC(senderRecord=record(30, pair).marshal_envelope())
    host: Any = SimpleNamespace(get_peerstore=lambda: store)
    assert maybe_consume_signed_record(rpc, host, me)
    assert len(store.addrs(me)) == 30


# ── multistream-select ────────────────────────────────────────────────────────────────────────────


class Said:
    """A stream that says something, and counts what is asked of it."""

    def __init__(self, *words: bytes) -> None:
        self._words = b"".join(words)
        self.most = 0

    async def read(self, size: int) -> bytes:
        await trio.lowlevel.checkpoint()
        self.most = max(self.most, size)
        data, self._words = self._words[:size], self._words[size:]
        return data


def line(words: bytes) -> bytes:
    return encode_varint_prefixed(words + b"\n")


@pytest.mark.parametrize(
    "words",
    [
        encode_varint_prefixed(bytes(LINE_BYTES + 1)),
        b"\xff\xff\xff\xff\x7f",  # 32 GiB
        b"\xff" * 11,
        b"\x02\xff\n",  # no text
        b"\x02xy",
        b"\x00",
        b"\x05a",
        b"",
    ],
)
@pytest.mark.claim("C-libp2p-34")
def test_a_line_that_is_none_is_refused_before_it_is_read(words: bytes) -> None:
    said: Any = Said(words)

    async def main() -> None:
        with pytest.raises(MultiselectCommunicatorError):
            await MultiselectCommunicator(said).read()

    services.bound_lines()
    trio.run(main)
    assert said.most <= LINE_BYTES


@pytest.mark.claim("C-libp2p-34")
def test_a_few_lines_are_enough() -> None:
    said: Any = Said(line(b"/no/such/protocol") * (LINES + 1))

    async def main() -> None:
        talk = MultiselectCommunicator(said)
        for _ in range(LINES):
            assert await talk.read() == "/no/such/protocol"
        with pytest.raises(MultiselectCommunicatorError):
            await talk.read()

    services.bound_lines()
    trio.run(main)


@pytest.mark.control("C-libp2p-34")
def test_control_libp2p_asks_for_as_much_as_the_other_end_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: Any = Said(b"\xff\xff\xff\xff\x7f", bytes(1000))

    async def main() -> None:
        with pytest.raises(Exception):  # noqa: B017, PT011 - the stream ends
            await MultiselectCommunicator(said).read()

    monkeypatch.setattr(MultiselectCommunicator, "read", services.STOCK_READ)
    trio.run(main)
    assert said.most > 2**30
