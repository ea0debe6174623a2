"""The in-process transport: who gets what, and what happens when nobody takes it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import attrs
import pytest
from qres_lab.testing import make_round_info

from qres_core import ACCEPT, NodeInfo, Verdict, reject
from qres_core.builtin.inbox import Inbox
from qres_core.builtin.memory import Memory, MemoryTransport
from qres_core.errors import RoundError, TransportError
from qres_core.transport import Delivery, LinkReason, PeerChange, Transport, TransportEvent

A, B, C = (bytes([letter]) * 32 for letter in b"abc")


def everybody(peer: bytes, credential: bytes) -> Verdict:
    assert len(peer) == 32
    assert isinstance(credential, bytes)
    return ACCEPT


pytestmark = pytest.mark.usefixtures("virtual_time")


def make(
    node_id: bytes,
    *,
    swarm: str = "memory",
    capacity: int = 4,
    admission: Callable[[bytes, bytes], Verdict] = everybody,
    credential: Callable[[], bytes] = bytes,
) -> MemoryTransport:
    node_info = NodeInfo(node_id, swarm, (A, B, C))
    return Memory(capacity=capacity).transport(node_info, admission, credential)


def play(scene: Callable[..., Awaitable[Any]], *transports: MemoryTransport) -> None:
    """Start the transports, run the scene, close them in any case."""

    async def main() -> None:
        try:
            for transport in transports:
                await transport.start()
            with anyio.fail_after(5):
                await scene(*transports)
        finally:
            for transport in transports:
                await transport.aclose()

    anyio.run(main)
    assert not set(MemoryTransport._hubs) & {transport.swarm for transport in transports}


async def waiting(transport: MemoryTransport) -> list[Delivery]:
    """All that is in a queue, in order."""
    found: list[Delivery] = []
    with anyio.move_on_after(0.01):
        while True:
            found.append(await transport.receive())
    return found


def test_it_is_a_transport() -> None:
    assert isinstance(make(A), Transport)


def test_a_broadcast_reaches_every_other_node_and_not_its_sender() -> None:
    async def scene(a: MemoryTransport, b: MemoryTransport, c: MemoryTransport) -> None:
        await a.broadcast(b"frame")
        assert await waiting(a) == []
        assert await waiting(b) == await waiting(c) == [Delivery(A, b"frame")]

    play(scene, make(A), make(B), make(C))


def test_a_frame_for_one_reaches_that_one_and_names_its_link() -> None:
    async def scene(a: MemoryTransport, b: MemoryTransport, c: MemoryTransport) -> None:
        await c.send(B, b"1")
        await a.send(B, b"2")
        await a.send(b"?" * 32, b"to nobody")
        assert await waiting(b) == [Delivery(C, b"1"), Delivery(A, b"2")]
        assert await waiting(a) == await waiting(c) == []

    play(scene, make(A), make(B), make(C))


def test_swarms_do_not_hear_each_other() -> None:
    async def scene(a: MemoryTransport, b: MemoryTransport) -> None:
        await a.broadcast(b"frame")
        await a.send(B, b"frame")
        assert await waiting(b) == []

    play(scene, make(A, swarm="one"), make(B, swarm="two"))


@pytest.mark.claim("C-flood-1")
def test_a_full_queue_drops_what_comes_next_and_counts_it() -> None:
    async def scene(a: MemoryTransport, b: MemoryTransport) -> None:
        for number in range(6):
            await a.send(B, bytes([number]))
        assert b.stats().frames_dropped == 2
        assert [waiter.frame for waiter in await waiting(b)] == [b"\0", b"\1", b"\2", b"\3"]
        await a.broadcast(b"again")
        assert [waiter.frame for waiter in await waiting(b)] == [b"again"]
        assert (a.stats().frames_dropped, b.stats().frames_dropped) == (0, 2)

    play(scene, make(A), make(B))


def test_nothing_is_put_into_a_queue_that_is_closed() -> None:
    inbox = Inbox[int](1)
    inbox.close()
    assert not inbox.put(1)
    assert not inbox._waiting
    assert Inbox[int](1).put(1), "control"


def test_a_neighbour_that_is_not_admitted_is_not_heard() -> None:
    asked: list[tuple[bytes, bytes]] = []

    def admission(peer: bytes, credential: bytes) -> Verdict:
        asked.append((peer, credential))
        return ACCEPT if credential == b"member" else reject("no-member")

    async def scene(a: MemoryTransport, b: MemoryTransport, c: MemoryTransport) -> None:
        assert asked == [(B, b"member"), (C, b"stranger")], "asked when they connect, and once"
        for frame in (b"1", b"2"):
            await b.broadcast(frame)
            await c.broadcast(frame)
            await c.send(A, frame)
        assert await waiting(a) == [Delivery(B, b"1"), Delivery(B, b"2")]
        assert [peer.node_id for peer in a.peers()] == [B]
        assert [peer.node_id for peer in c.peers()] == [B]
        await c.aclose()
        await c.start()
        await c.send(A, b"3")
        assert asked[2:] == [(C, b"stranger")], "who comes back connects anew"
        assert await waiting(a) == []
        assert a.stats().refused == 2

    play(
        scene,
        make(A, admission=admission),
        make(B, credential=lambda: b"member"),
        make(C, credential=lambda: b"stranger"),
    )


def test_receive_waits_for_a_frame() -> None:
    async def scene(a: MemoryTransport, b: MemoryTransport) -> None:
        async def later() -> None:
            await anyio.wait_all_tasks_blocked()
            await a.send(B, b"at last")

        async with anyio.create_task_group() as group:
            group.start_soon(later)
            assert await b.receive() == Delivery(A, b"at last")

    play(scene, make(A), make(B))


def test_an_identity_is_taken_once_and_its_owner_stays() -> None:
    second = make(A)

    async def scene(a: MemoryTransport, b: MemoryTransport) -> None:
        with pytest.raises(RoundError, match="QRES-E603") as caught:
            await second.start()
        assert caught.value.problems[0].fix
        await second.aclose()
        await b.send(A, b"still here")
        assert await waiting(a) == [Delivery(B, b"still here")]

    play(scene, make(A), make(B))


def test_a_node_that_left_gets_nothing_and_may_come_back_to_an_empty_queue() -> None:
    async def scene(a: MemoryTransport, b: MemoryTransport) -> None:
        await a.send(B, b"before")
        await b.aclose()
        await b.aclose()
        await a.send(B, b"away")
        await a.broadcast(b"away")
        with pytest.raises(RoundError, match="QRES-E603"):
            await b.receive()
        await b.start()
        await a.send(B, b"back")
        assert await waiting(b) == [Delivery(A, b"back")]

    play(scene, make(A), make(B))


def test_receive_before_start_is_refused() -> None:
    async def main() -> None:
        with pytest.raises(RoundError, match=r"QRES-E603.*not started"):
            await make(A).receive()

    anyio.run(main)


@pytest.mark.parametrize("capacity", [0, -1])
def test_a_queue_that_holds_nothing_is_refused(capacity: int) -> None:
    with pytest.raises(ValueError, match="capacity"):
        Memory(capacity=capacity)


def test_an_admission_that_raises_admits_nobody() -> None:
    def admission(peer: bytes, credential: bytes) -> Verdict:
        raise LookupError(peer, credential)

    async def scene(a: MemoryTransport, b: MemoryTransport) -> None:
        assert (a.peers(), b.peers()) == ((), ())
        assert await a.event() == TransportEvent(
            PeerChange.REFUSED, B, "admission raised LookupError", LinkReason.REFUSED_HELLO
        )
        assert (a.stats().refused, b.stats().refused) == (1, 0)

    play(scene, make(A, admission=admission), make(B))


# ── bad weather ───────────────────────────────────────────────────────────────────────────────────


def weather(**options: Any) -> tuple[MemoryTransport, MemoryTransport]:
    kind = Memory(capacity=10_000, **options)
    first, second = (
        kind.transport(NodeInfo(node_id, "weather", (A, B)), everybody, bytes) for node_id in (A, B)
    )
    return first, second


def arrived(count: int, **options: Any) -> list[int]:
    """What became of numbered frames from A to B."""
    found: list[int] = []

    async def scene(a: MemoryTransport, b: MemoryTransport) -> None:
        for number in range(count):
            await a.send(B, number.to_bytes(4, "big"))
        await anyio.sleep(2 * (options.get("delay", 0) + options.get("jitter", 0)))
        more = True
        while more:
            more = False
            with anyio.move_on_after(0.2):
                found.append(int.from_bytes((await b.receive()).frame, "big"))
                more = True

    play(scene, *weather(**options))
    return found


def test_frames_are_lost_and_doubled_as_often_as_asked_and_the_same_for_a_seed() -> None:
    lossy = arrived(2000, loss=0.25, seed=1)
    assert lossy == sorted(set(lossy))
    assert 1400 < len(lossy) < 1600
    assert arrived(2000, loss=0.25, seed=1) == lossy
    assert arrived(2000, loss=0.25, seed=2) != lossy
    doubled = arrived(2000, duplicate=0.1, seed=1)
    assert set(doubled) == set(range(2000))
    assert 2140 < len(doubled) < 2260
    assert arrived(50, loss=1.0) == []


def test_jitter_lets_frames_overtake_each_other_and_loses_none() -> None:
    late = arrived(200, delay=0.05, jitter=0.05, seed=3)
    assert late != sorted(late)
    assert sorted(late) == list(range(200))


def test_a_delay_holds_frames_requests_and_blobs_back() -> None:
    async def answer(asker: bytes, data: bytes) -> bytes:
        return asker[:1] + data

    async def scene(a: MemoryTransport, b: MemoryTransport) -> None:
        ref = await b.publish_blob(b"blob")
        for what in (
            lambda: a.request(B, "echo", b"?", 5),
            lambda: a.fetch_blob(ref, [B], 5),
        ):
            began = anyio.current_time()
            await what()
            assert anyio.current_time() - began >= 0.19
        await a.send(B, b"frame")
        assert await waiting(b) == []
        assert await b.receive() == Delivery(A, b"frame")

    a, b = weather(delay=0.1)
    b.handle("echo", answer)
    play(scene, a, b)


@pytest.mark.parametrize("option", ["loss", "duplicate"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_what_is_no_probability_is_refused(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=option):
        Memory(**{option: value})


def test_a_partition_cuts_links_and_healing_makes_them_anew() -> None:
    async def scene(a: MemoryTransport, b: MemoryTransport, c: MemoryTransport) -> None:
        hub = MemoryTransport.hub("memory")
        hub.partition([{A, B}])
        await c.broadcast(b"lost")
        await a.broadcast(b"seen")
        assert await waiting(a) == []
        assert await waiting(b) == [Delivery(A, b"seen")]
        assert [peer.node_id for peer in c.peers()] == []
        with pytest.raises(TransportError, match="QRES-E904"):
            await c.request(A, "echo", b"?", 5)
        hub.partition([{A}, {B, C}])
        assert [peer.node_id for peer in b.peers()] == [C]
        hub.heal()
        await c.broadcast(b"back")
        assert await waiting(a) == await waiting(b) == [Delivery(C, b"back")]
        changes = [await a.event() for _ in range(6)]
        seen = [(change.change, change.peer) for change in changes]
        assert seen == [
            (PeerChange.UP, B),
            (PeerChange.UP, C),
            (PeerChange.DOWN, C),
            (PeerChange.DOWN, B),
            (PeerChange.UP, B),
            (PeerChange.UP, C),
        ]

    play(scene, make(A), make(B), make(C))
    with pytest.raises(RoundError, match="QRES-E603"):
        MemoryTransport.hub("memory")


# ── requests and blobs ────────────────────────────────────────────────────────────────────────────


def test_a_request_ends_when_the_other_goes() -> None:
    async def answer(asker: bytes, data: bytes) -> bytes:
        del asker, data
        await anyio.sleep_forever()
        return b""

    async def scene(a: MemoryTransport, b: MemoryTransport) -> None:
        async with anyio.create_task_group() as group:

            async def leave() -> None:
                await anyio.wait_all_tasks_blocked()
                await b.aclose()

            group.start_soon(leave)
            with pytest.raises(TransportError, match="QRES-E904"):
                await a.request(B, "slow", b"?", 60)

    a, b = make(A), make(B)
    b.handle("slow", answer)
    with pytest.raises(RoundError, match="QRES-E603"):
        b.handle("slow", answer)
    play(scene, a, b)


def test_a_neighbour_with_too_many_requests_is_told_so() -> None:
    gate = anyio.Event()

    async def answer(asker: bytes, data: bytes) -> bytes:
        del asker
        await gate.wait()
        return data

    async def scene(a: MemoryTransport, b: MemoryTransport, c: MemoryTransport) -> None:
        async with anyio.create_task_group() as group:
            for _request in range(8):
                group.start_soon(a.request, B, "slow", b"?", 5)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(TransportError, match="QRES-E902"):
                await a.request(B, "slow", b"?", 5)
            group.start_soon(c.request, B, "slow", b"?", 5)
            await anyio.wait_all_tasks_blocked()
            gate.set()
        assert await a.request(B, "slow", b"!", 5) == b"!"
        assert await b.publish_blob(b"x")

    a, b, c = make(A), make(B), make(C)
    b.handle("slow", answer)
    play(scene, a, b, c)


def test_events_are_bounded_and_end_when_closed() -> None:
    async def scene(a: MemoryTransport, b: MemoryTransport) -> None:
        for _time in range(600):
            await b.aclose()
            await b.start()
        for _event in range(1024):
            await a.event()
        with anyio.move_on_after(0.01) as scope:
            await a.event()
        assert scope.cancelled_caught
        await a.aclose()
        await a.event()  # b went
        with pytest.raises(RoundError, match="QRES-E603"):
            await a.event()

    play(scene, make(A), make(B))


# ── members that change ───────────────────────────────────────────────────────────────────────────


def test_links_follow_the_members_that_both_ends_know() -> None:
    """As the kernel's, the admission turns away whoever is no member at its node."""
    known = {A: {A, B}, B: {A, B}, C: {A, B, C}}
    ends = {
        node: make(node, admission=lambda peer, _shown, node=node: _member(peer, known[node]))
        for node in (A, B, C)
    }

    def links() -> dict[bytes, list[bytes]]:
        return {node: [peer.node_id for peer in end.peers()] for node, end in ends.items()}

    async def scene(*_ends: MemoryTransport) -> None:
        await anyio.lowlevel.checkpoint()
        assert links() == {A: [B], B: [A], C: []}
        known[A] = {A, B, C}
        ends[A].follow(known[A])
        assert links() == {A: [B, C], B: [A], C: [A]}
        known[B] = {A, B, C}
        ends[B].follow(known[B])
        assert links() == {A: [B, C], B: [A, C], C: [A, B]}
        await ends[C].broadcast(b"here I am")
        assert [item.frame for item in await waiting(ends[B])] == [b"here I am"]
        known[A] = {A, C}
        ends[A].follow(known[A])
        assert links() == {A: [C], B: [C], C: [A, B]}
        ends[B].follow(known[B])  # it is behind, and is not let in again
        assert links() == {A: [C], B: [C], C: [A, B]}
        await ends[B].send(A, b"I am still here")
        assert [item.frame for item in await waiting(ends[A])] == [b"here I am"]

    play(scene, *ends.values())
    ends[A].follow({A})  # when all have left


def _member(peer: bytes, members: set[bytes]) -> Verdict:
    return ACCEPT if peer in members else reject("unknown-sender")


def test_the_plugin_hands_the_members_of_a_round_to_its_transport() -> None:
    plugin = Memory()
    round_info = attrs.evolve(make_round_info(), roster=(A, B))
    plugin.round_opened(round_info)  # before there is a transport
    first = plugin.transport(NodeInfo(A, "memory", (A, B, C)), everybody, bytes)
    others = [make(node) for node in (B, C)]

    async def scene(*_ends: MemoryTransport) -> None:
        await anyio.lowlevel.checkpoint()
        assert [peer.node_id for peer in first.peers()] == [B, C]
        for _again in range(2):
            plugin.round_opened(round_info)
            assert [peer.node_id for peer in first.peers()] == [B]
        plugin.round_opened(attrs.evolve(round_info, roster=(A, B, C)))
        assert [peer.node_id for peer in first.peers()] == [B, C]

    play(scene, first, *others)
