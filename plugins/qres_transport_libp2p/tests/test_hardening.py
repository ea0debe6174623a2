"""One test for each promise of the layer over libp2p; see "Promises" in the README."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import trio
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.tools.anyio_service import background_trio_service
from libp2p.utils import encode_varint_prefixed
from multiaddr import Multiaddr
from qres_transport_libp2p import hello, options, pubsub
from qres_transport_libp2p.gossip import topic_of
from qres_transport_libp2p.identity import peer_id
from qres_transport_libp2p.yamux import shield

from qres_core.transport import PeerChange

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

KIB = 1024


def rpc(*messages: rpc_pb2.Message) -> bytes:
    return encode_varint_prefixed(rpc_pb2.RPC(publish=messages).SerializeToString())


def message(author: bytes, **fields: Any) -> rpc_pb2.Message:
    given: dict[str, Any] = {
        "from_id": author,
        "data": b"x",
        "seqno": bytes(8),
        "topicIDs": [topic_of("test")],
        **fields,
    }
    return rpc_pb2.Message(**given)


def malformed(author: bytes) -> dict[str, bytes]:
    """RPCs that a peer may send, by what is wrong with them."""
    hashed = b"\x12\x20" + bytes(32)  # an author whose key does not stand in its name
    return {
        "garbage": encode_varint_prefixed(b"\xff" * 40),
        "no author": rpc(message(b"", signature=b"s" * 64)),
        "a garbage key": rpc(message(hashed, key=b"garbage", signature=b"s" * 64)),
        "a bad RSA key": rpc(
            message(hashed, key=b"\x08\x00\x12\x05" + bytes(5), signature=b"s" * 64)
        ),
        "a short sequence number": rpc(message(author, seqno=b"1", signature=b"s" * 64)),
        "two topics": rpc(message(author, topicIDs=[topic_of("test"), "x"], signature=b"s")),
        "too much data": rpc(message(author, data=bytes(60 * KIB), signature=b"s" * 64)),
        "a wrong signature": rpc(message(author, signature=b"s" * 64)),
        "no signature": rpc(message(author)),
        "an oversized RPC": encode_varint_prefixed(bytes(200 * KIB)),
        "an endless length": b"\xff" * 64,
    }


REASONS = {
    "garbage": "gossip: malformed RPC",
    "no author": "gossip: no author with a key",
    "a garbage key": "gossip: no author with a key",
    "a bad RSA key": "gossip: no author with a key",
    "a short sequence number": "gossip: no sequence number",
    "two topics": "gossip: another topic",
    "too much data": "gossip: no data, or too much",
    "a wrong signature": "gossip: wrong signature",
    "no signature": "gossip: wrong signature",
}


@asynccontextmanager
async def stock_pubsub(host: Any) -> AsyncGenerator[Pubsub]:
    router: Any = GossipSub([pubsub.GOSSIPSUB], 6, 4, 12, heartbeat_interval=1)
    made = Pubsub(host, router)
    try:
        async with background_trio_service(made), background_trio_service(router):
            await made.wait_until_ready()
            await made.subscribe(topic_of("test"))
            yield made
    finally:
        made.seen_messages.stop()


@pytest.mark.claim("C-transport-2")
@pytest.mark.parametrize("what", malformed(b""))
@pytest.mark.long
def test_a_malformed_message_ends_its_connection_and_nothing_else(
    lab: SimpleNamespace, what: str
) -> None:
    me, good, evil = lab.members(3)

    async def main() -> None:
        async with lab.Swarm() as swarm, lab.stock_host(evil) as host:
            roster = [me, good, evil]
            transport = lab.transport(me, roster, dial=[])
            two = lab.transport(good, roster, dial=[me])
            await swarm.start(transport, two)
            await lab.connected(transport, two)
            assert await lab.greet(host, me) == hello.WELCOME
            peer = await lab.dial(host, me)
            stream = await host.new_stream(peer, [pubsub.GOSSIPSUB])
            with contextlib.suppress(StreamError):  # it does not read on
                await stream.write(malformed(host.get_id().to_bytes())[what])
            if what not in ("an endless length", "an oversized RPC"):
                event = await lab.noticed(transport, PeerChange.BAD)
                assert event.peer == evil.node_id
                assert transport.stats().malformed == 1
                assert transport.stats().reasons == {REASONS[what]: 1}
            else:
                await trio.sleep(0.5)
            assert (await lab.reaches(two, transport, b"and still it works")).link == good.node_id

    trio.run(main)


@pytest.mark.claim("C-transport-2")
def test_a_message_in_another_s_name_is_counted_against_who_passes_it_on(
    lab: SimpleNamespace,
) -> None:
    me, good, evil = roster = lab.members(3)

    async def main() -> None:
        async with lab.Swarm() as swarm, lab.stock_host(evil) as host:
            transport = lab.transport(me, roster, dial=[])
            two = lab.transport(good, roster, dial=[me])
            await swarm.start(transport, two)
            await lab.connected(transport, two)
            assert await lab.greet(host, me) == hello.WELCOME
            stream = await host.new_stream(await lab.dial(host, me), [pubsub.GOSSIPSUB])
            signed = message(peer_id(good.node_id).to_bytes(), data=b"vote for me", seqno=b"n" * 8)
            payload = b"libp2p-pubsub:" + signed.SerializeToString()
            signed.signature = evil.key.sign(payload).signature  # by the wrong key
            await stream.write(rpc(signed))
            event = await lab.noticed(transport, PeerChange.BAD)
            assert (event.peer, event.detail) == (evil.node_id, "gossip: wrong signature")
            assert transport.stats().reasons == {"gossip: wrong signature": 1}
            # Control: the same by the key it names is delivered, and not counted.
            assert await lab.greet(host, me) == hello.WELCOME
            stream = await host.new_stream(await lab.dial(host, me), [pubsub.GOSSIPSUB])
            signed.signature = good.key.sign(payload).signature
            await stream.write(rpc(signed))
            delivery = await lab.heard(transport, b"vote for me")
            assert (delivery.link, delivery.author) == (evil.node_id, good.node_id)
            assert transport.stats().reasons == {"gossip: wrong signature": 1}
            assert {peer.node_id for peer in transport.peers()} >= {good.node_id}

    trio.run(main)


def test_nodes_whose_options_differ_do_not_blame_each_other(lab: SimpleNamespace) -> None:
    """The options of a transport are no shared settings."""
    roster = lab.members(2)
    most = options.FRAME_MOST

    async def main() -> None:
        async with lab.Swarm() as swarm:
            large = lab.transport(roster[0], roster, frame_bytes=most)
            small = lab.transport(roster[1], roster, frame_bytes=1024)
            await swarm.start(large, small)
            await lab.connected(large, small)
            await large.broadcast(bytes([1]) * most)
            await lab.heard(small, bytes([1]) * most)
            await large.send(roster[1].node_id, bytes([2]) * most)
            await lab.heard(small, bytes([2]) * most)
            assert small.stats().malformed == 0
            assert small.peers()

    anyio.run(main)


@pytest.mark.claim("C-libp2p-9")
@pytest.mark.long
def test_a_late_joiner_survives_large_messages(lab: SimpleNamespace) -> None:
    """The history is sent to it beside new messages, all larger than a frame of yamux."""
    roster = lab.members(3)

    async def main() -> None:
        async with lab.Swarm() as swarm:
            item, two, late = (lab.transport(me, roster) for me in roster)
            await swarm.start(item, two)
            await lab.connected(item, two)
            for number in range(20):
                await item.broadcast(bytes([number]) * 32 * KIB)
            await swarm.start(late)
            for number in range(20, 60):
                await item.broadcast(bytes([number]) * 32 * KIB)
                await anyio.sleep(0.02)
            await lab.connected(item, two, late)
            await lab.reaches(item, late, b"the last")
            assert item.stats().malformed == late.stats().malformed == 0

    anyio.run(main)


@pytest.mark.claim("C-libp2p-13")
@pytest.mark.control("C-libp2p-13")
@pytest.mark.parametrize("shielded", [True, False])
def test_cancelled_reads_and_writes_do_not_cost_the_connection(
    lab: SimpleNamespace,
    shielded: bool,  # noqa: FBT001
) -> None:
    """The control is the same without the shield."""
    me, peer = lab.members(2)
    survived = False

    async def sink(stream: Any) -> None:
        with contextlib.suppress(Exception):
            while True:
                await stream.read(2**18)

    async def main() -> None:
        nonlocal survived
        async with lab.stock_host(me) as server, lab.stock_host(peer) as host:
            if shielded:
                shield(server)
                shield(host)
            server.set_stream_handler("/sink", sink)
            name = await lab.dial(host, me)
            conns = host.get_network().get_connections(name)
            for number in range(60):
                try:
                    stream = await host.new_stream(name, ["/sink"])
                    with trio.move_on_after(0.0005 * (number % 20)):
                        while True:
                            await stream.write(bytes(2**17))
                    with trio.move_on_after(1):
                        await stream.reset()
                except Exception:  # noqa: BLE001 - in the control
                    break
            survived = not conns[0].is_closed and host.get_network().get_connections(name) == conns
            if survived:
                survived = False
                with trio.move_on_after(lab.PATIENCE), contextlib.suppress(Exception):
                    stream = await host.new_stream(name, ["/ipfs/ping/1.0.0"])
                    await stream.write(bytes(32))
                    survived = await stream.read(32) == bytes(32)

    trio.run(main)
    assert survived is shielded


@pytest.mark.claim("C-libp2p-11")
def test_what_a_node_says_just_after_a_restart_is_heard(lab: SimpleNamespace) -> None:
    """Sequence numbers do not begin again where the neighbours have been."""
    roster = lab.members(2)

    async def main() -> None:
        async with lab.Swarm() as swarm:
            item, two = (lab.transport(me, roster) for me in roster)
            await swarm.start(item, two)
            await lab.connected(item, two)
            for number in range(60):
                await two.broadcast(b"before %d" % number)
            await lab.heard(item, b"before 59")
            await two.aclose()
            again = lab.transport(roster[1], roster)
            await swarm.start(again)
            await lab.connected(item, again)
            for number in range(20):
                await again.broadcast(b"after %d" % number)
            for number in range(20):
                await lab.heard(item, b"after %d" % number)

    anyio.run(main)


@pytest.mark.claim("C-libp2p-12")
def test_own_messages_are_not_subject_to_a_silent_limit(lab: SimpleNamespace) -> None:
    roster = lab.members(2)

    async def main() -> None:
        async with lab.Swarm() as swarm:
            item, two = (lab.transport(me, roster) for me in roster)
            await swarm.start(item, two)
            await lab.connected(item, two)
            for number in range(150):
                await two.broadcast(b"%d" % number)
            await anyio.sleep(0.5)
            assert {(await lab.heard(item, b"%d" % n)).frame for n in range(150)}
            assert item.stats().frames_dropped == two.stats().frames_dropped == 0

    anyio.run(main)


@pytest.mark.claim("C-flood-1", "C-libp2p-12")
def test_broadcasts_beyond_the_rate_wait_and_floods_of_others_are_dropped(
    lab: SimpleNamespace,
) -> None:
    roster = lab.members(2)

    async def main() -> None:
        async with lab.Swarm() as swarm:
            transport = lab.transport(roster[0], roster, ingress_burst=10, ingress_per_second=0.1)
            two = lab.transport(roster[1], roster, publish_burst=20, publish_per_second=40.0)
            await swarm.start(transport, two)
            await lab.connected(transport, two)
            start = time.monotonic()
            for number in range(40):
                await two.broadcast(b"%d" % number)
            assert time.monotonic() - start >= 0.45  # 20 at once, 20 at 40 a second
            with anyio.fail_after(lab.PATIENCE):
                while transport.stats().frames_dropped < 20:  # noqa: ASYNC110
                    await anyio.sleep(0.05)

    anyio.run(main)


def test_the_router_is_tuned(lab: SimpleNamespace) -> None:
    router: Any = pubsub.tuned_gossipsub(6)
    assert router.heartbeat_interval == 1
    assert router.adaptive_gossip_enabled is False
    assert router.spam_protection_enabled is False
    assert list(router.protocols) == ["/meshsub/1.1.0"]
    assert (router.degree_low, router.degree, router.degree_high) == (0, 6, 12)
    assert lab


@pytest.mark.claim("C-libp2p-19")
def test_messages_are_not_kept_for_ever(lab: SimpleNamespace) -> None:
    roster = lab.members(2)

    async def main() -> None:
        async with lab.Swarm() as swarm:
            item, two = (lab.transport(me, roster) for me in roster)
            await swarm.start(item, two)
            await lab.connected(item, two)
            for number in range(30):
                await two.broadcast(b"%d" % number)
            await lab.heard(item, b"29")
            assert not item._parts.gossip._router.equivocation_detection

    anyio.run(main)


@pytest.mark.claim("C-libp2p-15")
def test_a_peer_whose_stream_was_reset_is_not_forgotten(lab: SimpleNamespace) -> None:
    roster = lab.members(2)

    async def main() -> None:
        async with lab.Swarm() as swarm:
            item, two = (lab.transport(me, roster) for me in roster)
            await swarm.start(item, two)
            await lab.connected(item, two)

            async def cut() -> None:
                for stream in list(item._parts.gossip.pubsub.peers.values()):
                    await stream.reset()

            for number in range(3):
                await item._call(cut)
                for sender, to in ((item, two), (two, item)):
                    await lab.reaches(sender, to, b"after the cut %d" % number)

    anyio.run(main)


FROZEN = """
import sys, anyio
sys.path.insert(0, {tests!r})
import importlib.util
spec = importlib.util.spec_from_file_location("lab", {tests!r} + "/conftest.py")
lab = importlib.util.module_from_spec(spec); sys.modules["lab"] = lab
spec.loader.exec_module(lab)

async def main():
    me, other = lab.members(2)
    me, other = type(me)(me.key, {port}), type(other)(other.key, {other})
    node = lab.transport(me, [me, other], dial=[other])
    await node.start()
    await lab.connected(node)
    await anyio.sleep(600)

anyio.run(main)
"""


def run_child(code: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-P", "-c", code])


async def until(lab: SimpleNamespace, done: Callable[[], bool]) -> None:
    with anyio.fail_after(lab.PATIENCE):
        while not done():  # noqa: ASYNC110 - a transport tells nobody
            await anyio.sleep(0.05)


async def until_heard(lab: SimpleNamespace, send: Any, to: Any, frame: bytes) -> None:
    """Send a frame, which is best effort, until it arrives."""
    with anyio.fail_after(lab.PATIENCE):
        while True:
            await send()
            with anyio.move_on_after(0.5):
                await lab.heard(to, frame)
                return


@pytest.mark.claim("C-libp2p-17")
def test_a_frozen_node_is_noticed_and_its_successor_is_heard(lab: SimpleNamespace) -> None:
    """It is stopped, so no connection closes; a new process with its key takes its place."""
    me, other = lab.members(2)
    code = FROZEN.format(tests=str(Path(__file__).parent), port=me.port, other=other.port)

    async def main() -> None:
        async with lab.Swarm() as swarm:
            transport = lab.transport(other, [me, other], dial=[], ping_seconds=3600.0)
            await swarm.start(transport)
            child = run_child(code)
            try:
                await lab.noticed(transport, PeerChange.UP)
                os.kill(child.pid, signal.SIGSTOP)
                place = type(me)(me.key, lab.free_ports(1)[0])
                new = lab.transport(place, [me, other], dial=[other])
                await swarm.start(new)
                await lab.connected(new, transport)
                # Long before the frozen one's pings are missed.
                for sender, to in ((new, transport), (transport, new)):
                    await until_heard(lab, partial(sender.broadcast, b"gossip"), to, b"gossip")
                    direct = partial(sender.send, to._info.node_id, b"direct")
                    await until_heard(lab, direct, to, b"direct")
            finally:
                child.kill()
                child.wait()

    anyio.run(main)


@pytest.mark.claim("C-libp2p-16")
@pytest.mark.long
def test_a_peer_that_freezes_is_down_and_comes_back(lab: SimpleNamespace) -> None:
    me, other = lab.members(2)
    code = FROZEN.format(tests=str(Path(__file__).parent), port=me.port, other=other.port)

    async def main() -> None:
        async with lab.Swarm() as swarm:
            transport = lab.transport(other, [me, other], dial=[me], ping_seconds=1.0)
            await swarm.start(transport)
            child = run_child(code)
            try:
                await lab.noticed(transport, PeerChange.UP)
                os.kill(child.pid, signal.SIGSTOP)
                # What is told may be of before: on a slow machine pings are missed, too.
                await lab.noticed(transport, PeerChange.DOWN)
                await until(lab, lambda: transport.peers() == ())
                os.kill(child.pid, signal.SIGCONT)
                await lab.noticed(transport, PeerChange.UP)
                await until(lab, lambda: transport.peers() != ())
            finally:
                child.kill()
                child.wait()

    anyio.run(main)


@pytest.mark.claim("C-libp2p-18")
@pytest.mark.long
def test_a_node_that_computes_goes_on_serving(lab: SimpleNamespace) -> None:
    """libp2p resets streams that rest for five seconds; the node's own thread may rest."""
    roster = lab.members(2)
    data = hashlib.sha256(b"data").digest() * (8 * KIB * KIB // 32)

    async def main() -> None:
        async with lab.Swarm() as swarm:
            item, two = (lab.transport(me, roster) for me in roster)
            await swarm.start(item, two)
            await lab.connected(item, two)
            ref = await item.publish_blob(data)
            task_data: list[bytes] = []

            async def fetch() -> None:
                task_data.append(await two.fetch_blob(ref, [roster[0].node_id], lab.PATIENCE))

            async with anyio.create_task_group() as group:
                group.start_soon(fetch)
                await anyio.sleep(0.01)
                time.sleep(7)  # noqa: ASYNC251 - the point
            assert task_data == [data]
            assert len(item.peers()) == len(two.peers()) == 1
            await lab.noticed(item, PeerChange.UP)  # a dial may have failed before the other began
            with anyio.move_on_after(0.2):
                raise AssertionError(await item.event())

    anyio.run(main)


@pytest.mark.claim("C-libp2p-10")
@pytest.mark.long
def test_nobody_is_dialled_because_a_peer_says_so(lab: SimpleNamespace) -> None:
    """Neither by a PRUNE with peers nor by the addresses in a peer's record."""
    me, evil, victim = lab.members(3)
    met: list[str] = []

    async def main() -> None:
        async def answer(stream: trio.SocketStream) -> None:
            met.append("dialled")
            await stream.aclose()

        async with lab.Swarm() as swarm, trio.open_nursery() as nursery:
            await nursery.start(trio.serve_tcp, answer, victim.port)
            lie = [Multiaddr(victim.listen)]
            async with lab.stock_host(evil, announce_addrs=lie) as host, stock_pubsub(host) as out:
                transport = lab.transport(me, [me, evil, victim], dial=[])
                await swarm.start(transport)
                assert await lab.greet(host, me) == hello.WELCOME
                peer = await lab.dial(host, me)
                with trio.fail_after(lab.PATIENCE):
                    while peer not in out.peers:  # noqa: ASYNC110
                        await trio.sleep(0.05)
                prune = rpc_pb2.ControlPrune(topicID=topic_of("test"), backoff=1)
                named = ID(peer_bytes(victim.node_id))
                prune.peers.append(rpc_pb2.PeerInfo(peerID=named.to_bytes()))
                control = rpc_pb2.ControlMessage(prune=[prune])
                told = rpc_pb2.RPC(control=control)
                await out.write_msg(out.peers[peer], told)
                await host.get_network().close_peer(peer)
                await trio.sleep(3)
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert not met


@pytest.mark.control(
    "C-libp2p-9",
    "C-libp2p-11",
    "C-libp2p-12",
    "C-libp2p-15",
    "C-libp2p-16",
    "C-libp2p-17",
    "C-libp2p-18",
    "C-libp2p-20",
)
def test_control_what_nobody_said_is_not_heard_and_what_did_not_happen_is_not_noticed(
    lab: SimpleNamespace,
) -> None:
    roster = lab.members(2)

    async def main() -> None:
        async with lab.Swarm() as swarm:
            item, two = (lab.transport(me, roster) for me in roster)
            await swarm.start(item, two)
            await lab.connected(item, two)
            await item.broadcast(b"said")
            await lab.heard(two, b"said")
            for wait in (lab.heard(two, b"never said"), lab.noticed(two, PeerChange.DOWN)):
                with anyio.move_on_after(0.3) as scope:
                    await wait
                assert scope.cancelled_caught

    anyio.run(main)


def peer_bytes(public: bytes) -> bytes:
    return b"\x00\x24\x08\x01\x12\x20" + public
