"""The in-process transport: who gets what, and what happens when nobody takes it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from qres_core import ACCEPT, Delivery, NodeInfo, RoundError, Transport, Verdict, reject
from qres_core.swarm.memory import Memory, MemoryTransport

A, B, C = (bytes([letter]) * 32 for letter in b"abc")


def everybody(peer: bytes, credential: bytes) -> Verdict:
    assert len(peer) == 32
    assert isinstance(credential, bytes)
    return ACCEPT


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


def test_a_full_queue_drops_what_comes_next_and_counts_it() -> None:
    async def scene(a: MemoryTransport, b: MemoryTransport) -> None:
        for number in range(6):
            await a.send(B, bytes([number]))
        assert b.dropped == 2
        assert [one.frame for one in await waiting(b)] == [b"\0", b"\1", b"\2", b"\3"]
        await a.broadcast(b"again")
        assert [one.frame for one in await waiting(b)] == [b"again"]
        assert (a.dropped, b.dropped) == (0, 2)

    play(scene, make(A), make(B))


def test_a_neighbour_that_is_not_admitted_is_not_heard() -> None:
    asked: list[tuple[bytes, bytes]] = []

    def admission(peer: bytes, credential: bytes) -> Verdict:
        asked.append((peer, credential))
        return ACCEPT if credential == b"member" else reject("no member")

    async def scene(a: MemoryTransport, b: MemoryTransport, c: MemoryTransport) -> None:
        for frame in (b"1", b"2"):
            await b.broadcast(frame)
            await c.broadcast(frame)
            await c.send(A, frame)
        assert await waiting(a) == [Delivery(B, b"1"), Delivery(B, b"2")]
        assert a.refused == 4
        assert asked == [(B, b"member"), (C, b"stranger")], "asked when they connect, and once"
        await c.aclose()
        await c.start()
        await c.send(A, b"3")
        assert asked[2:] == [(C, b"stranger")], "who comes back connects anew"
        assert await waiting(a) == []

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
