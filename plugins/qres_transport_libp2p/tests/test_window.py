"""Windows: room is told of half a window at a time, and nobody sends beyond it."""

from __future__ import annotations

import contextlib
import itertools
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
import trio
import trio.testing
from libp2p.custom_types import TProtocol
from libp2p.stream_muxer.yamux.yamux import (
    DEFAULT_WINDOW_SIZE,
    FLAG_SYN,
    TYPE_DATA,
    TYPE_WINDOW_UPDATE,
    YAMUX_HEADER_FORMAT,
    YamuxStream,
)
from qres_carrier import SenderBuckets, Tally, TokenBucket
from qres_transport_libp2p import blobs, hello
from qres_transport_libp2p.identity import peer_id
from qres_transport_libp2p.options import Libp2pOptions
from qres_transport_libp2p.sessions import Sessions
from qres_transport_libp2p.windows import (
    BEYOND,
    CONNECTION_BYTES,
    OWN_BURST,
    OWN_PER_SECOND,
    STREAMS,
    STREAMS_BURST,
    STREAMS_PER_SECOND,
    TOO_FAST,
    TOO_MANY_STREAMS,
    TOO_MUCH,
    fault_of,
    may_grow,
)
from qres_transport_libp2p.yamux import GatheringStream, ShieldedYamux

from qres_core.transport import PeerChange

KIB = 1024
SMALL, LARGE = 20, 20
"""Frames: of a few bytes, and more than a window of 256 KiB together."""


def updates(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The room that streams tell of from now on, bytes."""
    found: list[int] = []
    plain: Callable[[ShieldedYamux, bytes], Awaitable[None]] = ShieldedYamux._write_frame

    async def write(conn: ShieldedYamux, data: bytes) -> None:
        kind, flags, room = data[1], data[2:4], int.from_bytes(data[8:12], "big")
        if kind == TYPE_WINDOW_UPDATE and not any(flags):
            found.append(room)
        await plain(conn, data)

    monkeypatch.setattr(ShieldedYamux, "_write_frame", write)
    return found


@pytest.mark.parametrize("gathered", [True, False])
def test_small_frames_cost_no_update_and_a_full_window_some(
    lab: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    gathered: bool,  # noqa: FBT001 - the case
) -> None:
    """The control is libp2p's own stream."""
    roster = lab.members(2)
    found = updates(monkeypatch)
    if not gathered:
        plain: Any = YamuxStream._auto_tune_and_send_window_update
        monkeypatch.setattr(GatheringStream, "_auto_tune_and_send_window_update", plain)

    async def main() -> None:
        async with lab.Swarm() as swarm:
            item, other = (lab.transport(me, roster) for me in roster)
            await swarm.start(item, other)
            await lab.connected(item, other)
            found.clear()
            for number in range(SMALL):
                await item.broadcast(b"small %d" % number)
                await lab.heard(other, b"small %d" % number)
            if not gathered:
                assert len(found) >= SMALL
                return
            assert found == []
            for number in range(LARGE):
                await item.broadcast(bytes([number]) * 32 * KIB)
                await lab.heard(other, bytes([number]) * 32 * KIB)
            assert found
            assert min(found) >= 128 * KIB

    anyio.run(main)


# ── a peer that sends more than there is room for ─────────────────────────────────────────────────

PIECE = 60_000
MUCH = 4 * DEFAULT_WINDOW_SIZE


def head(kind: int, flags: int, stream_id: int, length: int) -> bytes:
    return struct.pack(YAMUX_HEADER_FORMAT, 0, kind, flags, stream_id, length)


async def pour(muxed: Any, protocol: str) -> None:
    """Send four windows on a stream of a protocol that reads nothing of it, until it is cut off."""
    name = protocol.encode()
    said = b"\x13/multistream/1.0.0\n" + bytes([len(name) + 1]) + name + b"\n"
    secured = muxed.secured_conn
    await secured.write(head(TYPE_WINDOW_UPDATE, FLAG_SYN, 1001, 0))
    await secured.write(head(TYPE_DATA, 0, 1001, len(said)) + said)
    with contextlib.suppress(Exception):
        for _ in range(MUCH // PIECE):
            await secured.write(head(TYPE_DATA, 0, 1001, PIECE) + bytes(PIECE))
            await trio.sleep(0.01)


async def connection_of(lab: SimpleNamespace, host: Any) -> Any:
    """The only one of a host that was dialled: who dials it may have it a moment earlier."""
    with trio.fail_after(lab.PATIENCE):
        while not (found := host.get_network().get_connections()):  # noqa: ASYNC110
            await trio.sleep(0.02)
    (conn,) = found
    return conn


@pytest.mark.claim("C-libp2p-8")
@pytest.mark.parametrize("greeted", [True, False])
def test_who_sends_beyond_its_window_is_cut_off(
    lab: SimpleNamespace,
    greeted: bool,  # noqa: FBT001 - the case
) -> None:
    """Before its hello as well as after it: it is counted, and nothing beyond the window kept."""
    me, evil = lab.members(2)
    seen: list[int] = []

    async def main() -> None:
        async with lab.Swarm() as swarm, lab.stock_host(evil) as host:
            transport = lab.transport(me, [me, evil], dial=[])
            await swarm.start(transport)
            if greeted:
                assert await lab.greet(host, me) == hello.WELCOME
            peer = await lab.dial(host, me)
            conn = await connection_of(lab, transport._parts.host)
            buffers = conn.muxed_conn.stream_buffers
            muxed = host.get_network().get_connections(peer)[0].muxed_conn

            async def watch() -> None:
                while True:
                    seen.append(sum(len(buffer) for buffer in list(buffers.values())))
                    await trio.sleep(0.005)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch)
                # Nobody answers a blob's requests for long, and before a hello nobody reads any.
                await pour(muxed, "/none" if greeted else blobs.PROTOCOL)
                event = await lab.noticed(transport, PeerChange.BAD)
                nursery.cancel_scope.cancel()
            assert (event.peer, event.detail) == (evil.node_id, BEYOND)
            assert transport.stats().reasons[BEYOND] == 1
            with trio.fail_after(lab.PATIENCE):
                while transport._parts.host.get_network().get_connections():  # noqa: ASYNC110
                    await trio.sleep(0.02)
            assert max(seen) <= DEFAULT_WINDOW_SIZE

    trio.run(main)


@pytest.mark.control("C-libp2p-8", "C-transport-3")
def test_control_libp2p_keeps_whatever_comes(lab: SimpleNamespace) -> None:
    """When this fails, libp2p enforces its windows, and ``windows.py`` may be smaller."""
    me, evil = lab.members(2)

    async def rest(_stream: object) -> None:
        await trio.sleep_forever()

    async def main() -> None:
        async with lab.stock_host(me) as server, lab.stock_host(evil) as host:
            server.set_stream_handler("/rest", rest)
            peer = await lab.dial(host, me)
            muxed = host.get_network().get_connections(peer)[0].muxed_conn
            conn = await connection_of(lab, server)
            await pour(muxed, "/rest")
            with trio.fail_after(lab.PATIENCE):
                while not any(  # noqa: ASYNC110
                    len(buffer) > 2 * DEFAULT_WINDOW_SIZE
                    for buffer in conn.muxed_conn.stream_buffers.values()
                ):
                    await trio.sleep(0.02)

    trio.run(main)


def held(count: int, *, unread: int = 0, room: int = DEFAULT_WINDOW_SIZE) -> Any:
    """A connection with streams of the other end, each with some unread bytes."""
    streams = {
        2 * number: SimpleNamespace(
            is_initiator=False, recv_window=room, target_recv_window=DEFAULT_WINDOW_SIZE
        )
        for number in range(count)
    }
    return SimpleNamespace(streams=streams, stream_buffers={key: bytes(unread) for key in streams})


@pytest.mark.parametrize(
    ("conn", "frame", "why"),
    [
        (held(1), (TYPE_DATA, 0, 0, DEFAULT_WINDOW_SIZE), ""),
        (held(1), (TYPE_DATA, 0, 0, DEFAULT_WINDOW_SIZE + 1), BEYOND),
        (held(1, room=9), (TYPE_DATA, 0, 0, 10), BEYOND),
        (held(1, room=0), (TYPE_DATA, 0, 0, 0), ""),
        (held(1), (TYPE_DATA, FLAG_SYN, 2, DEFAULT_WINDOW_SIZE), ""),
        (held(1), (TYPE_DATA, FLAG_SYN, 2, DEFAULT_WINDOW_SIZE + 1), BEYOND),
        (held(1), (TYPE_DATA, 0, 99, DEFAULT_WINDOW_SIZE + 1), BEYOND),  # it is over here
        (held(1, room=0), (TYPE_WINDOW_UPDATE, 0, 0, 2**31), ""),  # room for us
        (held(STREAMS - 1), (TYPE_WINDOW_UPDATE, FLAG_SYN, 999, 0), ""),
        (held(STREAMS), (TYPE_WINDOW_UPDATE, FLAG_SYN, 999, 0), TOO_MANY_STREAMS),
        (held(100, unread=CONNECTION_BYTES // 100), (TYPE_DATA, 0, 0, 999), TOO_MUCH),
        (held(100, unread=CONNECTION_BYTES // 100), (TYPE_DATA, 0, 0, 0), ""),
        (held(100, unread=9), (TYPE_DATA, 0, 0, 999), ""),
    ],
)
def test_what_a_header_tells(conn: Any, frame: tuple[int, int, int, int], why: str) -> None:
    assert fault_of(conn, *frame) == why


def test_windows_grow_within_the_budget_of_the_connection() -> None:
    conn = held(5)
    stream: Any = conn.streams[0]
    while may_grow(conn, stream):
        stream.target_recv_window *= 2
    assert stream.target_recv_window == CONNECTION_BYTES // 2
    granted = sum(item.target_recv_window for item in conn.streams.values())
    assert granted <= CONNECTION_BYTES
    assert not may_grow(conn, conn.streams[2]) or granted + DEFAULT_WINDOW_SIZE <= CONNECTION_BYTES


def opened_and_reset(count: int, per: float) -> set[str]:
    """What is found wrong with streams that are opened, so many a second."""
    found: set[str] = set()

    async def main() -> None:
        pipe: Any = SimpleNamespace(is_initiator=False)
        muxed = ShieldedYamux(pipe, peer_id(bytes([1]) * 32), is_initiator=False)
        for number in range(count):
            found.add(muxed._look(TYPE_WINDOW_UPDATE, FLAG_SYN, 2 * number + 1, 0))
            if not number % 100:
                await trio.sleep(100 / per)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    return found


@pytest.mark.claim("C-libp2p-39")
def test_streams_that_are_opened_too_fast_end_the_connection() -> None:
    assert opened_and_reset(3 * STREAMS_BURST, 10_000) == {"", TOO_FAST}


@pytest.mark.control("C-libp2p-39")
def test_control_without_a_rate_streams_that_are_opened_too_fast_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("qres_transport_libp2p.yamux.STREAMS_PER_SECOND", 1e9)
    assert opened_and_reset(3 * STREAMS_BURST, 10_000) == {""}


@pytest.mark.control("C-libp2p-39")
def test_control_streams_at_their_rate_do_not() -> None:
    assert opened_and_reset(3 * STREAMS_BURST, STREAMS_PER_SECOND) == {""}


def found_in_own_streams(
    monkeypatch: pytest.MonkeyPatch, *, paced: bool
) -> tuple[Counter[str], float]:
    """What a peer finds in the streams that an honest node opens to it, and the seconds it took.

    Each of twenty tasks opens a hundred, as fast as it may. Half way the node starts anew.
    """
    peer = peer_id(bytes([1]) * 32)
    found: Counter[str] = Counter()
    took = 0.0

    async def main() -> None:
        nonlocal took
        pipe: Any = SimpleNamespace(is_initiator=False)
        theirs = ShieldedYamux(pipe, peer_id(bytes([2]) * 32), is_initiator=False)
        numbers = itertools.count(1, 2)

        async def new_stream(_peer: object, _protocols: object) -> object:
            found[theirs._look(TYPE_WINDOW_UPDATE, FLAG_SYN, next(numbers), 0)] += 1
            return SimpleNamespace()

        started = trio.current_time()
        for _start in range(2):
            host: Any = SimpleNamespace(new_stream=new_stream)
            members: Any = SimpleNamespace(nodes={}, peers={})
            nobody: Any = None
            node = Sessions(host, members, Libp2pOptions(), Tally(), *[nobody] * 4)
            monkeypatch.setattr(node, "is_up", lambda _peer: True)
            if not paced:
                node._openings = SenderBuckets(lambda: TokenBucket(1e9, 1e9))

            async def opens(node: Sessions = node) -> None:
                for _ in range(50):
                    await node.open(peer, TProtocol("/qres/blob/1"))

            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(opens)
        took = trio.current_time() - started

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    return found, took


@pytest.mark.claim("C-libp2p-42")
def test_an_honest_node_that_opens_many_streams_is_not_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not even by a peer that saw it open as many at once just before it started anew."""
    found, took = found_in_own_streams(monkeypatch, paced=True)
    assert found == {"": 2000}
    assert took == pytest.approx(2 * (1000 - OWN_BURST) / OWN_PER_SECOND, rel=0.01)


@pytest.mark.control("C-libp2p-42")
def test_control_one_that_opens_them_at_once_is(monkeypatch: pytest.MonkeyPatch) -> None:
    found, took = found_in_own_streams(monkeypatch, paced=False)
    assert found[TOO_FAST] >= 1000
    assert took < 1.0
