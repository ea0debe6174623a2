"""Gossip's control messages cost a bounded amount; each control is libp2p's own router."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.utils import encode_varint_prefixed
from qres_carrier import TokenBucket
from qres_transport_libp2p import hello
from qres_transport_libp2p.control import (
    CONTROL_BURST,
    FAR,
    IDS_EACH,
    OTHER_TOPIC,
    REMEMBERED,
    TOO_FAST,
    FrugalGossipSub,
)
from qres_transport_libp2p.identity import peer_id
from qres_transport_libp2p.pubsub import Gate, ProtocolFault, SafePubsub, tuned_gossipsub
from qres_transport_libp2p.services import GOSSIPSUB

from qres_core.transport import PeerChange

TOPIC = "qres/test"
PEER, OTHER = peer_id(bytes([2]) * 32), peer_id(bytes([3]) * 32)
LARGE = 10_000


class Node:
    """A router with its pubsub, and what it sends and says."""

    def __init__(self, *, stock: bool = False) -> None:
        self.sent: list[tuple[ID, rpc_pb2.RPC]] = []
        self.bad: list[tuple[ID, ProtocolFault]] = []
        self.dropped: Counter[str] = Counter()
        host = new_host(key_pair=create_new_key_pair(bytes(32)))
        self.router: GossipSub
        if stock:
            self.router = GossipSub(protocols=[GOSSIPSUB], degree=6, degree_low=4, degree_high=12)
            self.pubsub = Pubsub(host, self.router)
        else:
            frugal = tuned_gossipsub(6)
            self.router = frugal
            self.pubsub = SafePubsub(
                host,
                frugal,
                topic=TOPIC,
                max_data=LARGE,
                queue=8,
                bucket=lambda: TokenBucket(1.0, 4),
                gate=self.gate(),
            )
        send: Any = lambda peer, rpc, priority=False: self.sent.append((peer, rpc))  # noqa: E731, ARG005
        self.router.send_rpc = send
        self.router.mesh[TOPIC] = set()
        for peer in (PEER, OTHER):
            self.router.peer_protocol[peer] = GOSSIPSUB

    def gate(self) -> Gate:
        nothing: Any = None

        def drop(why: str) -> None:
            self.dropped[why] += 1

        def bad(peer: ID, fault: ProtocolFault, detail: str) -> None:
            assert detail == fault
            self.bad.append((peer, fault))

        return Gate(nothing, nothing, nothing, nothing, bad, drop)

    def hear(self, *controls: rpc_pb2.ControlMessage, by: ID = PEER) -> None:
        async def main() -> None:
            for control in controls:
                await self.router.handle_rpc(rpc_pb2.RPC(control=control), by)

        trio.run(main)
        self.pubsub.seen_messages.stop()

    def holds(self, number: int) -> bytes:
        """A message that may be asked for; its name."""
        message = rpc_pb2.Message(
            from_id=OTHER.to_bytes(), seqno=number.to_bytes(8, "big"), data=bytes(LARGE)
        )
        message.topicIDs.append(TOPIC)
        self.router.mcache.put(message)
        return message.from_id + message.seqno

    @property
    def size(self) -> int:
        return sum(rpc.ByteSize() for _peer, rpc in self.sent)


def iwant(*names: bytes) -> rpc_pb2.ControlMessage:
    return rpc_pb2.ControlMessage(iwant=[rpc_pb2.ControlIWant(messageIDs=names)])


def graft(*topics: str) -> rpc_pb2.ControlMessage:
    return rpc_pb2.ControlMessage(graft=[rpc_pb2.ControlGraft(topicID=item) for item in topics])


@pytest.mark.claim("C-libp2p-14")
@pytest.mark.control("C-libp2p-19")
@pytest.mark.parametrize("stock", [False, True])
def test_a_message_is_sent_once_to_each_neighbour_that_asks(
    stock: bool,  # noqa: FBT001 - the case
) -> None:
    node = Node(stock=stock)
    name = node.holds(1)
    node.hear(iwant(*[name] * 50), iwant(name))
    if stock:
        assert node.size > 50 * LARGE
        return
    assert LARGE < node.size < 2 * LARGE
    node.hear(iwant(name), by=OTHER)
    assert [peer for peer, _rpc in node.sent] == [PEER, OTHER]
    node.hear(iwant(b"unknown", b"\xff" * 46))
    assert len(node.sent) == 2


@pytest.mark.claim("C-libp2p-19")
def test_answers_are_forgotten_with_their_messages() -> None:
    node = Node()
    router: Any = node.router
    router._answered[PEER] = {number.to_bytes(8, "big") for number in range(REMEMBERED)}
    name = node.holds(1)
    node.hear(iwant(name))
    assert router._answered[PEER] == {name}
    node.hear(iwant(name))
    assert len(node.sent) == 1


@pytest.mark.parametrize("stock", [False, True])
def test_other_topics_are_ignored_and_nothing_is_kept_of_them(
    stock: bool,  # noqa: FBT001 - the case
) -> None:
    node = Node(stock=stock)
    others = [f"x{number}" for number in range(20)]
    prune = [rpc_pb2.ControlPrune(topicID=item, backoff=9) for item in others]
    ihave = [rpc_pb2.ControlIHave(topicID=item, messageIDs=[b"0" * 46]) for item in others]
    node.hear(graft(*others), rpc_pb2.ControlMessage(prune=prune, ihave=ihave))
    kept = (
        set(node.router.back_off)
        | set(node.router.graft_flood_tracking[PEER])
        | set(node.router.ihave_message_limits[PEER])
    )
    if stock:
        assert len(node.sent) >= 20  # a signed PRUNE for each
        assert kept >= set(others)
        return
    assert node.sent == []
    assert not kept
    assert node.dropped == {OTHER_TOPIC: 2}
    node.hear(graft(TOPIC, "another"))
    assert node.router.mesh[TOPIC] == {PEER}
    assert node.bad == []


@pytest.mark.claim("C-libp2p-14")
def test_control_beyond_the_budget_is_dropped_and_far_beyond_it_ends_the_connection() -> None:
    node = Node()
    burst = int(CONTROL_BURST)
    name = node.holds(1)
    node.hear(graft(*[TOPIC] * (burst + 1)))
    assert node.router.mesh[TOPIC] == set()
    assert node.dropped == {TOO_FAST: 1}
    assert node.bad == []
    node.hear(iwant(*[name] * (IDS_EACH * burst)))  # names cost, too
    assert node.dropped == {TOO_FAST: 2}
    node.hear(graft(TOPIC))
    assert node.router.mesh[TOPIC] == {PEER}  # small ones are still taken
    node.hear(graft(*[TOPIC] * int(FAR * burst)))
    assert node.bad == [(PEER, ProtocolFault.CONTROL)]
    node.hear(graft(TOPIC), by=OTHER)
    assert node.router.mesh[TOPIC] == {PEER, OTHER}  # which is nothing to the others


@pytest.mark.control("C-libp2p-14")
def test_a_heartbeat_of_a_busy_swarm_is_far_within_the_budget() -> None:
    """Ten of them in the same second: 2,000 names each, and some changes of the mesh."""
    node = Node()
    names = [number.to_bytes(46, "big") for number in range(2000)]
    beat = rpc_pb2.ControlMessage(
        ihave=[rpc_pb2.ControlIHave(topicID=TOPIC, messageIDs=names)],
        iwant=[rpc_pb2.ControlIWant(messageIDs=names)],
        graft=[rpc_pb2.ControlGraft(topicID=TOPIC)],
        prune=[rpc_pb2.ControlPrune(topicID=TOPIC, backoff=1)],
    )
    node.hear(*[beat] * 10)
    assert not node.dropped
    assert isinstance(node.router, FrugalGossipSub)


def test_a_flood_of_topics_costs_the_flooder_its_connection(lab: SimpleNamespace) -> None:
    """The short form of `graftx` in `make hostile`; the others meanwhile hear each other."""
    me, good, evil = roster = lab.members(3)
    flood = rpc_pb2.RPC(control=graft(*[f"x{number}" for number in range(500)]))

    async def main() -> None:
        async with lab.Swarm() as swarm, lab.stock_host(evil) as host:
            node = lab.transport(me, roster, dial=[])
            other = lab.transport(good, roster, dial=[me])
            await swarm.start(node, other)
            await lab.connected(node, other)
            assert await lab.greet(host, me) == hello.WELCOME
            stream = await host.new_stream(await lab.dial(host, me), [GOSSIPSUB])

            async def pour() -> None:
                while True:
                    await stream.write(encode_varint_prefixed(flood.SerializeToString()))
                    await trio.sleep(0.01)

            with pytest.raises(Exception):  # noqa: B017, PT011 - libp2p says it in several ways
                await pour()
            event = await lab.noticed(node, PeerChange.BAD)
            assert (event.peer, event.detail) == (evil.node_id, "gossip: control flood")
            reasons = node.stats().reasons
            assert reasons[f"gossip: {TOO_FAST}"] >= 1
            assert reasons["gossip: control flood"] == 1
            await lab.reaches(other, node, b"as before")
            assert OTHER_TOPIC not in str(reasons)  # not even looked at

    trio.run(main)
