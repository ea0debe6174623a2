"""Places are given back however a connection ends, and nobody takes those of others."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing
from libp2p.network.config import ConnectionConfig
from libp2p.network.exceptions import SwarmException
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.transport.exceptions import OpenConnectionError
from multiaddr import Multiaddr
from qres_carrier import Tally
from qres_transport_libp2p import slots as places
from qres_transport_libp2p.identity import peer_id
from qres_transport_libp2p.slots import (
    BROKEN_OFF,
    CONNECTIONS_EACH,
    FAMILIAR_EACH,
    HANDSHAKE_MOST,
    HANDSHAKE_SECONDS,
    HANDSHAKES,
    HANDSHAKES_EACH,
    STALE_SECONDS,
    TOO_MANY,
    TOO_MANY_HANDSHAKES,
    TOO_SLOW,
    CountedSocket,
    FairPlaces,
    Slots,
)
from qres_transport_libp2p.tcp import NOT_ALLOWED, TidyTCP
from qres_transport_libp2p.yamux import ShieldedYamux, shield

FEW = 4
"""Connections that a host may have, where a test makes more, one after the other."""


# ── shares ────────────────────────────────────────────────────────────────────────────────────────


def test_a_holder_of_all_it_may_have_loses_its_oldest() -> None:
    shares: FairPlaces[str, int] = FairPlaces(10, 2, renews=True)
    assert shares.take("a", 1) == (True, None)
    assert shares.take("a", 2) == (True, None)
    assert shares.take("a", 3) == (True, 1)
    assert shares.take("b", 4) == (True, None)
    assert len(shares) == 3


def test_or_it_gets_no_new_one() -> None:
    shares: FairPlaces[str, int] = FairPlaces(10, 2, renews=False)
    assert [shares.take("a", number) for number in range(3)] == [(True, None)] * 2 + [(False, None)]
    assert shares.take("b", 4) == (True, None)
    assert len(shares) == 3


def test_the_holder_of_most_makes_room_for_the_holder_of_few() -> None:
    shares: FairPlaces[str, int] = FairPlaces(4, 4, renews=False)
    for number in range(4):
        assert shares.take("a", number) == (True, None)
    assert shares.take("b", 10) == (True, 0)
    assert shares.take("b", 11) == (True, 1)
    assert shares.take("b", 12) == (False, None)  # it would hold more than the other
    assert shares.take("c", 20) == (True, 2)  # of those who hold as much, the first
    assert len(shares) == 4


def test_a_place_is_given_back_once() -> None:
    shares: FairPlaces[str, int] = FairPlaces(4, 4, renews=False)
    shares.take("a", 1)
    for _ in range(2):
        shares.give("a", 1)
    shares.give("b", 2)
    assert len(shares) == 0


def stream_from(address: Callable[[], Any]) -> Any:
    """As much of a stream as a place needs."""
    sock = SimpleNamespace(getpeername=address, close=lambda: None)
    return SimpleNamespace(socket=sock, setsockopt=lambda *_option: None)


@pytest.mark.parametrize(
    ("said", "address"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8::1:2", "2001:db8::/64"),  # one host may have all of it
        ("fe80::1%eth0", "fe80::/64"),
        ("nowhere", ""),
    ],
)
def test_places_are_shared_by_address(said: str, address: str) -> None:
    stream = stream_from(lambda: (said, 7, 0, 0))

    async def main() -> None:
        await trio.lowlevel.checkpoint()
        sock = CountedSocket(stream, lambda _sock: None)
        assert (sock.address, sock.get_remote_address()) == (address, (said, 7))

    trio.run(main)


def test_a_socket_that_is_gone_already_is_of_no_address() -> None:
    def gone() -> Any:
        raise OSError

    stream = stream_from(gone)
    told: list[CountedSocket] = []

    async def main() -> None:
        await trio.lowlevel.checkpoint()
        sock = CountedSocket(stream, told.append)
        assert sock.address == ""
        assert sock.get_remote_address() is None
        sock.cut()
        sock.cut()
        assert told == [sock]  # once
        assert not Slots(4, Tally()).prove(sock, peer_id(bytes([1]) * 32))

    trio.run(main)


@pytest.mark.control("C-libp2p-7", "C-libp2p-28")
def test_where_no_place_is_left_a_member_gets_none() -> None:
    """Each of the others holds as few."""
    tally = Tally()
    slots = Slots(2, tally)
    stream = stream_from(lambda: ("127.0.0.1", 7))

    async def main() -> None:
        await trio.lowlevel.checkpoint()
        socks = [CountedSocket(stream, slots.over) for _ in range(3)]
        fits = [slots.prove(sock, peer_id(bytes([n]) * 32)) for n, sock in enumerate(socks)]
        assert fits == [True, True, False]
        assert tally.reasons == {TOO_MANY: 1}
        socks[0].cut()
        assert len(slots.members) == 1

    trio.run(main)


# ── connections, one after the other ──────────────────────────────────────────────────────────────


async def until(condition: Callable[[], object], lab: SimpleNamespace) -> None:
    with trio.fail_after(lab.PATIENCE):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.02)


async def connects(lab: SimpleNamespace, host: Any, to: Any) -> bool:
    """Whether a connection is made; it is closed again."""
    network = host.get_network()
    try:
        with trio.fail_after(lab.PATIENCE):
            peer = await lab.dial(host, to)
    except Exception:  # noqa: BLE001 - libp2p says it in several ways
        return False
    finally:
        network.unblock_peer(peer_id(to.node_id))
    await network.close_peer(peer)
    return True


@pytest.mark.control("C-libp2p-5", "C-libp2p-7", "C-transport-3")
def test_control_libp2p_s_own_places_are_kept_for_ever(lab: SimpleNamespace) -> None:
    """When this fails, libp2p gives them back, and ``slots.py`` may be simpler."""
    me, peer = lab.members(2)
    config = ConnectionConfig(
        max_connections=FEW, min_connections=0, low_watermark=0, high_watermark=FEW
    )

    async def main() -> None:
        async with (
            lab.stock_host(me, connection_config=config) as server,
            lab.stock_host(peer) as host,
        ):
            host.get_network().retry_config.max_retries = 0
            made = [await connects(lab, host, me) for _ in range(FEW + 1)]
            assert made == [True] * FEW + [False]
            network = server.get_network()
            await until(lambda: not network.get_connections(), lab)
            assert network._inbound_limiter.borrowed_tokens == FEW

    trio.run(main)


def resources(transport: Any) -> dict[str, int]:
    """How much of everything that is counted a node has given away."""
    parts = transport._parts
    network = parts.host.get_network()
    return {
        "handshakes": len(parts.slots.handshakes),
        "members": len(parts.slots.members),
        "libp2p's": network._inbound_limiter.borrowed_tokens,
        "connections": len(network.get_connections()),
        "links": len(parts.sessions._links),
        "requests answered": parts.requests._answering.total(),
        "requests asked": parts.requests._asking,
        "blobs served": parts.blobs._serving.total(),
        "blobs fetched": len(parts.blobs._fetching),
        "frames read": sum(parts.frames._reading.values()),
        "gossip opened": len(parts.gossip.pubsub._opening),
    }


@pytest.mark.claim("C-libp2p-5")
@pytest.mark.long
def test_every_place_comes_back_however_a_connection_ends(lab: SimpleNamespace) -> None:
    """More connections than places, ended in six ways; then everything counted is as it was."""
    me, good, evil, stranger = lab.members(4)

    async def ended(host: Any, way: int) -> None:
        peer = await lab.dial(host, me)
        network = host.get_network()
        muxed = network.get_connections(peer)[0].muxed_conn
        if way == 1:  # in the middle of things
            for protocol in ("/qres/request/1", "/qres/blob/1", "/qres/frame/1"):
                await host.new_stream(peer, [protocol])
        if way in {1, 2}:  # without a word
            await muxed.secured_conn.close()
        elif way == 3:  # after garbage
            await muxed.secured_conn.write(bytes(range(100)))
        await network.close_peer(peer)
        network.unblock_peer(peer)

    async def main() -> None:
        async with (
            lab.Swarm() as swarm,
            lab.stock_host(evil) as host,
            lab.stock_host(stranger) as other,
        ):
            transport = lab.transport(me, [me, good, evil], dial=[], max_connections=FEW)
            await swarm.start(transport)
            for number in range(2 * FEW):
                with contextlib.suppress(Exception), trio.move_on_after(lab.PATIENCE):
                    await ended(host, number % 4)
                with contextlib.suppress(Exception), trio.move_on_after(lab.PATIENCE):
                    await lab.dial(other, me)  # it is refused at the gate
                other.get_network().unblock_peer(peer_id(me.node_id))
                with socket.create_connection(("127.0.0.1", me.port)):
                    pass
            await lab.greet(host, me)
            await host.get_network().close_peer(peer_id(me.node_id))

            async def given() -> dict[str, int]:
                return {name: count for name, count in resources(transport).items() if count}

            with trio.fail_after(lab.PATIENCE):
                while await transport._call(given):  # noqa: ASYNC110
                    await trio.sleep(0.05)
            two = lab.transport(good, [me, good], dial=[me])
            await swarm.start(two)
            await lab.connected(transport, two)
            assert (await transport._call(given))["members"] == 1

    trio.run(main)


@pytest.mark.claim("C-libp2p-5")
@pytest.mark.long
def test_every_place_of_a_connection_that_lives_comes_back(lab: SimpleNamespace) -> None:
    """Requests and fetches that are given up at whatever moment cost no stream."""
    me, peer = roster = lab.members(2)

    async def answer(_node: bytes, data: bytes) -> bytes:
        await trio.sleep(0.02)
        return data

    async def main() -> None:
        async with lab.Swarm() as swarm:
            node = lab.transport(me, roster, dial=[])
            other = lab.transport(peer, roster, dial=[me])
            node.handle("ask", answer)
            await swarm.start(node, other)
            await lab.connected(node, other)
            ref = await node.publish_blob(bytes(3 * 2**20))
            for number in range(30):
                with trio.move_on_after(0.0005 * 1.2**number):
                    await other.request(me.node_id, "ask", b"?", lab.PATIENCE)
                with trio.move_on_after(0.0005 * 1.2**number):
                    await other.fetch_blob(ref, [me.node_id], lab.PATIENCE)

            async def held() -> tuple[int, int, dict[str, int]]:
                """Streams that this end opened, and places that are taken for them."""
                (conn,) = other._parts.host.get_network().get_connections()
                muxed = conn.muxed_conn
                opened = sum(1 for item in muxed.streams.values() if item.is_initiator)
                return opened, 256 - muxed.stream_backlog_semaphore.value, resources(other)

            with trio.fail_after(lab.PATIENCE):
                while True:
                    opened, taken, counts = await other._call(held)
                    idle = not counts["requests asked"] and not counts["blobs fetched"]
                    if idle and opened <= 2 and taken <= opened:  # gossip's, and one more
                        break
                    await trio.sleep(0.05)
            served = await node._call(given_away(node))
            assert served["requests answered"] == served["blobs served"] == 0
            assert served["members"] == served["connections"] == 1

    trio.run(main)


def given_away(transport: Any) -> Callable[[], Any]:
    """What :func:`resources` says, in the thread of the transport."""

    async def look() -> dict[str, int]:
        with trio.fail_after(300):
            while True:
                found = resources(transport)
                if not found["requests answered"] and not found["blobs served"]:
                    return found
                await trio.sleep(0.05)

    return look


class Cutter:
    """A line between two nodes that can be cut: a proxy for TCP."""

    def __init__(self, to: int) -> None:
        self._to = to
        self._open: list[trio.SocketStream] = []
        self.made = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        with contextlib.suppress(OSError):
            async with await trio.open_tcp_stream("127.0.0.1", self._to) as far, stream:
                self._open += [stream, far]
                self.made += 1
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._copy, stream, far, nursery)
                    nursery.start_soon(self._copy, far, stream, nursery)

    async def _copy(self, here: Any, there: Any, nursery: trio.Nursery) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for data in here:
                await there.send_all(data)
        nursery.cancel_scope.cancel()

    def cut(self) -> None:
        while self._open:
            self._open.pop().socket.close()


@pytest.mark.long
def test_a_line_that_flaps_makes_nobody_deaf(lab: SimpleNamespace) -> None:
    """`make hostile` cuts it 500 times."""
    me, far, third = roster = lab.members(3)

    async def main() -> None:
        async with lab.Swarm() as swarm, trio.open_nursery() as nursery:
            line = Cutter(me.port)
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            port = listener.socket.getsockname()[1]
            nursery.start_soon(trio.serve_listeners, line.serve, [listener])
            options = {"max_connections": FEW, "reconnect_seconds": 0.05}
            node = lab.transport(me, roster, dial=[], **options)
            flapping = lab.transport(far, roster, dial=[type(me)(me.key, port), third], **options)
            other = lab.transport(third, roster, dial=[me], **options)
            await swarm.start(node, flapping, other)
            await lab.connected(node, flapping, other)
            for _ in range(3 * FEW):
                before = line.made
                line.cut()
                with trio.fail_after(lab.PATIENCE):
                    while line.made == before or len(node.peers()) < 2:  # noqa: ASYNC110
                        await trio.sleep(0.01)
            await lab.connected(node, flapping, other)
            await other.aclose()  # and who had no part in it is let in after a restart
            again = lab.transport(third, roster, dial=[me], **options)
            await swarm.start(again)
            await lab.connected(node, again)
            nursery.cancel_scope.cancel()

    trio.run(main)


# ── silence ───────────────────────────────────────────────────────────────────────────────────────


def silent(count: int, port: int, source: str) -> list[socket.socket]:
    """Sockets that say nothing."""
    return [
        socket.create_connection(("127.0.0.1", port), source_address=(source, 0))
        for _ in range(count)
    ]


def gets_in(
    lab: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    sources: Iterable[str],
    each: int,
    more: int,
) -> None:
    """A node gets in beside silent sockets, ``each`` from a source; ``more`` found no place."""
    me, peer = lab.members(2)
    for limit in ("HANDSHAKE_SECONDS", "HANDSHAKE_MOST"):
        monkeypatch.setattr(places, limit, lab.PATIENCE)  # they stay

    async def main() -> None:
        async with lab.Swarm() as swarm:
            transport = lab.transport(me, [me, peer], dial=[])
            await swarm.start(transport)
            held = [item for source in sources for item in silent(each, me.port, source)]
            try:
                await until(lambda: len(transport._parts.slots.handshakes) == HANDSHAKES, lab)
                refused = transport.stats
                await until(lambda: refused().reasons.get(TOO_MANY_HANDSHAKES, 0) >= more, lab)
                two = lab.transport(peer, [me, peer], dial=[me])
                await swarm.start(two)
                await lab.connected(transport, two)
            finally:
                for item in held:
                    item.close()

    trio.run(main)


@pytest.mark.claim("C-libp2p-7")
def test_silent_sockets_keep_out_nobody_else(
    lab: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They fill the places of two addresses, and more; a node from another one is let in."""
    gets_in(lab, monkeypatch, ("127.0.0.2", "127.0.0.3", "127.0.0.4"), HANDSHAKES, 100)


class Crowd:
    """Handshakes from addresses of their own, and what becomes of them; in virtual time."""

    def __init__(self, slots: Slots, nursery: trio.Nursery) -> None:
        self.slots, self.nursery = slots, nursery
        self.held: list[CountedSocket] = []

    async def begin(self, address: str) -> CountedSocket | None:
        """A handshake that lasts, or nothing where there is no place for it."""
        begun: list[CountedSocket] = []

        async def handle(sock: CountedSocket) -> None:
            begun.append(sock)
            await trio.sleep_forever()

        self.nursery.start_soon(self.slots.serve, stream_from(lambda: (address, 7)), handle)
        await trio.testing.wait_all_tasks_blocked()
        self.held += begun
        return begun[0] if begun else None

    async def fill(self, net: int, count: int = HANDSHAKES) -> None:
        for number in range(count):
            assert await self.begin(f"10.{net}.{number}.1")


def in_crowd(test: Callable[[Crowd], Any]) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await test(Crowd(Slots(64, Tally()), nursery))
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.claim("C-libp2p-7", "C-libp2p-28")
@pytest.mark.parametrize("renews", [True, False])
def test_silence_from_many_addresses_keeps_nobody_out(
    monkeypatch: pytest.MonkeyPatch, *, renews: bool
) -> None:
    """Unless no place is taken from who says nothing."""
    if not renews:
        monkeypatch.setattr(places, "STALE_SECONDS", 1e9)

    async def test(crowd: Crowd) -> None:
        await crowd.fill(1)
        assert await crowd.begin("10.9.0.1") is None  # none is silent for long
        crowd.held[0].stepped = trio.current_time() + STALE_SECONDS  # that one goes on
        await trio.sleep(STALE_SECONDS)
        assert (await crowd.begin("10.9.0.1") is not None) == renews
        assert [sock.closed.is_set() for sock in crowd.held[:3]] == [False, renews, False]
        assert crowd.slots.tally.reasons == {TOO_MANY_HANDSHAKES: 2}
        assert len(crowd.slots.handshakes) == HANDSHAKES

    in_crowd(test)


@pytest.mark.claim("C-libp2p-28")
def test_an_address_with_many_handshakes_takes_no_place_from_one_with_few() -> None:
    async def test(crowd: Crowd) -> None:
        await crowd.fill(1, HANDSHAKES - HANDSHAKES_EACH)
        for _ in range(HANDSHAKES_EACH):
            assert await crowd.begin("10.8.0.1")
        await trio.sleep(STALE_SECONDS)
        for _ in range(4):  # each takes the place of another from the same address
            assert await crowd.begin("10.8.0.1")
        few = crowd.held[: HANDSHAKES - HANDSHAKES_EACH]
        assert not any(sock.closed.is_set() for sock in few)

    in_crowd(test)


@pytest.mark.claim("C-libp2p-7", "C-libp2p-28")
def test_addresses_of_members_have_places_that_no_stranger_can_take() -> None:
    """Not even with handshakes from everywhere that go on and on."""

    async def test(crowd: Crowd) -> None:
        member, liar = (peer_id(bytes([number]) * 32) for number in (1, 2))
        first = await crowd.begin("192.0.2.1")
        assert first is not None
        assert crowd.slots.prove(first, member)
        first.cut()
        await crowd.fill(1)  # they are silent for no second
        assert await crowd.begin("192.0.2.2") is None  # control: of whom no member is known
        back = await crowd.begin("192.0.2.1")
        assert back is not None
        assert crowd.slots.prove(back, member)
        assert len(crowd.slots.familiar) == 0
        assert len(crowd.slots.handshakes) == HANDSHAKES
        # One address has few of them, and a liar few addresses.
        made = [await crowd.begin("192.0.2.1") for _ in range(FAMILIAR_EACH + 1)]
        assert [sock is not None for sock in made] == [True] * FAMILIAR_EACH + [False]
        for number in range(5):
            sock = CountedSocket(stream_from(lambda n=number: (f"192.0.2.{9 + n}", 7)), print)
            crowd.slots.prove(sock, liar)
        known = [address for kept in crowd.slots._addresses.values() for address in kept]
        assert known == ["192.0.2.1", "192.0.2.12", "192.0.2.13"]

    in_crowd(test)


async def trickles(crowd: Crowd, address: str) -> None:
    """One socket that says a byte of a valid start every so often, and is replaced when it ends."""
    while True:
        sock = await begun(crowd, address)
        while sock is not None and not sock.closed.is_set():
            await trio.sleep(0.4)
            sock.heard = trio.current_time()
        await trio.sleep(0.1)


async def begun(crowd: Crowd, address: str) -> CountedSocket | None:
    """A handshake that lasts, or nothing where it is refused."""
    taken = trio.Event()
    made: list[CountedSocket] = []

    async def handle(sock: CountedSocket) -> None:
        made.append(sock)
        taken.set()
        await trio.sleep_forever()

    async def serve() -> None:
        await crowd.slots.serve(stream_from(lambda: (address, 7)), handle)
        taken.set()

    crowd.nursery.start_soon(serve)
    await taken.wait()
    return made[0] if made else None


async def proves(crowd: Crowd, address: str, member: Any, round_trip: float) -> bool:
    """Whether a member that needs a round trip for each step comes to the end of them."""
    sock = await begun(crowd, address)
    if sock is None:
        return False
    for step in (places.NAMED, places.BEGUN, None):
        await trio.sleep(round_trip)
        if sock.closed.is_set():
            return False
        if step is not None:
            sock.advance(step)
    fits = crowd.slots.prove(sock, member)
    sock.cut()
    return fits


def admitted_beside_tricklers(round_trip: float, tricklers: int = 35) -> int:
    """How many of twelve tries of a member succeed, from the address of all the tricklers."""
    count = 0

    async def test(crowd: Crowd) -> None:
        nonlocal count
        member = peer_id(bytes([1]) * 32)
        assert await proves(crowd, "192.0.2.1", member, 0.01)  # it was here before
        for _ in range(tricklers):
            crowd.nursery.start_soon(trickles, crowd, "192.0.2.1")
        await trio.sleep(20)
        for _ in range(12):
            count += await proves(crowd, "192.0.2.1", member, round_trip)
            await trio.sleep(1.7)

    in_crowd(test)
    return count


@pytest.mark.claim("C-libp2p-36")
@pytest.mark.parametrize("round_trip", [0.02, 0.2, 0.9])
def test_a_member_gets_in_beside_sockets_of_its_address_that_trickle(round_trip: float) -> None:
    """It takes its steps; they only say something."""
    assert admitted_beside_tricklers(round_trip) == 12


@pytest.mark.control("C-libp2p-36")
def test_control_if_bytes_were_advance_it_would_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or only in the moment in which the time of some of them is over."""

    def silent_ones(rivals: Iterable[CountedSocket]) -> CountedSocket | None:
        rival = min(rivals, key=lambda item: item.heard, default=None)
        now = trio.current_time()
        return rival if rival and now - rival.heard >= STALE_SECONDS else None

    monkeypatch.setattr(places, "_stale", silent_ones)
    assert admitted_beside_tricklers(0.2) <= 2


@pytest.mark.claim("C-libp2p-36")
def test_of_those_that_take_no_step_who_took_fewest_makes_room() -> None:
    async def test(crowd: Crowd) -> None:
        for _ in range(HANDSHAKES_EACH):
            assert await crowd.begin("192.0.2.1")
        first, second, *_rest = crowd.held
        first.advance(places.BEGUN)
        second.advance(places.NAMED)
        await trio.sleep(STALE_SECONDS)
        for _ in range(HANDSHAKES_EACH - 2):
            assert await crowd.begin("192.0.2.1")
        for sock in (second, first):
            assert not sock.closed.is_set()
            assert await crowd.begin("192.0.2.1")
            assert sock.closed.is_set()
        assert await crowd.begin("192.0.2.1") is None  # the others have just begun

    in_crowd(test)


@pytest.mark.claim("C-libp2p-7", "C-libp2p-28")
def test_a_member_gets_in_beside_silent_sockets_from_many_addresses(
    lab: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over real sockets: each address of 127.0.0.0/8 is one of its own."""
    sources = (f"127.0.1.{number + 1}" for number in range(HANDSHAKES))
    gets_in(lab, monkeypatch, sources, each=1, more=0)


def test_a_handshake_that_is_broken_off_is_counted_once_and_a_stranger_as_one(
    lab: SimpleNamespace,
) -> None:
    """The controls: of a member, and of who proved some key, nothing else is counted."""
    me, peer, stranger = lab.members(3)

    async def main() -> None:
        async with lab.Swarm() as swarm:
            transport = lab.transport(me, [me, peer], dial=[])
            other = lab.transport(peer, [me, peer], dial=[me])
            await swarm.start(transport, other)
            await lab.connected(transport, other)
            assert transport.stats().reasons == {}, "control"
            for words in (b"", b"no handshake", b"\x13/multistream/1.0.0\n\x07/noise\n\0\x20"):
                with socket.create_connection(("127.0.0.1", me.port)) as item:
                    item.sendall(words)
            await until(lambda: transport.stats().reasons == {BROKEN_OFF: 3}, lab)
            async with lab.stock_host(stranger) as host:
                with contextlib.suppress(Exception):
                    await lab.dial(host, me)
                await until(lambda: "stranger" in transport.stats().reasons, lab)
            assert transport.stats().reasons.keys() == {BROKEN_OFF, "stranger"}
            assert transport.stats().reasons[BROKEN_OFF] == 3

    trio.run(main)


@pytest.mark.claim("C-libp2p-7")
def test_who_says_nothing_is_cut_after_a_while_and_counted(
    lab: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    me, peer = lab.members(2)
    monkeypatch.setattr(places, "HANDSHAKE_SECONDS", 0.2)

    async def main() -> None:
        async with lab.Swarm() as swarm:
            transport = lab.transport(me, [me, peer], dial=[])
            await swarm.start(transport)
            for item in silent(3, me.port, "127.0.0.1"):
                with item:
                    item.settimeout(lab.PATIENCE)
                    while await trio.to_thread.run_sync(item.recv, 4096):
                        pass  # libp2p says which protocols it speaks
            assert transport.stats().reasons == {TOO_SLOW: 3}
            await until(lambda: len(transport._parts.slots.handshakes) == 0, lab)

    trio.run(main)


@pytest.mark.claim("C-libp2p-24")
@pytest.mark.skipif(not hasattr(socket, "TCP_NOTSENT_LOWAT"), reason="no such option here")
def test_the_kernel_takes_little_that_it_does_not_send(lab: SimpleNamespace) -> None:
    """A vote would wait behind megabytes of a model there, for as long as a slow line takes."""
    roster = lab.members(2)

    async def main() -> None:
        async with lab.Swarm() as swarm:
            nodes = [lab.transport(me, roster) for me in roster]
            await swarm.start(*nodes)
            await lab.connected(*nodes)
            held = [
                sock
                for node in nodes
                for socks in node._parts.slots.members._held.values()
                for sock in socks
            ]
            assert held
            for sock in held:
                option = socket.TCP_NOTSENT_LOWAT
                found = sock.stream.socket.getsockopt(socket.IPPROTO_TCP, option)
                assert found == places.UNSENT_BYTES

    trio.run(main)


@pytest.mark.control("C-libp2p-24")
@pytest.mark.skipif(not hasattr(socket, "TCP_NOTSENT_LOWAT"), reason="no such option here")
def test_control_a_socket_as_it_comes_holds_more() -> None:
    with socket.socket() as plain:
        found = plain.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)
    assert not 0 < found <= places.UNSENT_BYTES


class Dripping:
    """A socket whose other end says something every so often, and never proves a key."""

    def __init__(self, pause: float) -> None:
        self.heard = trio.current_time()
        self.proved, self.closed = trio.Event(), trio.Event()
        self.pause = pause

    async def drip(self) -> None:
        while True:
            await trio.sleep(self.pause)
            self.heard = trio.current_time()


@pytest.mark.parametrize(
    ("pause", "cut_at"),
    [(1000.0, HANDSHAKE_SECONDS), (4.0, HANDSHAKE_MOST), (20.0, HANDSHAKE_SECONDS)],
)
def test_a_handshake_lives_while_it_goes_on_and_for_a_while(pause: float, cut_at: float) -> None:
    async def main() -> None:
        sock: Any = Dripping(pause)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sock.drip)
            assert not await places._in_time(sock)
            assert trio.current_time() == cut_at
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_handshake_that_was_not_read_meanwhile_is_given_its_time_again() -> None:
    async def main() -> None:
        sock: Any = Dripping(1000.0)
        clock: Any = trio.lowlevel.current_clock()
        async with trio.open_nursery() as nursery:

            async def freeze() -> None:
                await trio.sleep(1)
                clock.jump(10)  # this node did nothing
                await trio.sleep(HANDSHAKE_SECONDS - 1)
                sock.proved.set()

            nursery.start_soon(freeze)
            assert await places._in_time(sock)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.claim("C-libp2p-5")
def test_a_member_has_three_connections_at_most_and_loses_the_oldest(lab: SimpleNamespace) -> None:
    me, evil = lab.members(2)

    async def main() -> None:
        async with lab.Swarm() as swarm, contextlib.AsyncExitStack() as hosts:
            transport = lab.transport(me, [me, evil], dial=[])
            await swarm.start(transport)
            made = []
            for port in lab.free_ports(CONNECTIONS_EACH + 2):
                host = await hosts.enter_async_context(lab.stock_host(type(me)(evil.key, port)))
                await lab.dial(host, me)
                made.append(host.get_network())
            await until(lambda: not made[0].get_connections(), lab)
            await until(lambda: not made[1].get_connections(), lab)
            assert all(network.get_connections() for network in made[2:])
            assert len(transport._parts.slots.members) == CONNECTIONS_EACH
            assert transport.stats().reasons[TOO_MANY] == 2

    trio.run(main)


# ── dialling ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.claim("C-libp2p-10")
def test_only_the_places_of_the_roster_are_dialled() -> None:
    """Neither another place, nor that of another peer; the control is a place that is allowed."""
    peer, other = peer_id(bytes([1]) * 32), peer_id(bytes([2]) * 32)

    async def main() -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        place = f"/ip4/127.0.0.1/tcp/{listeners[0].socket.getsockname()[1]}"
        tally = Tally()
        slots = Slots(4, tally)
        tcp = TidyTCP(slots)
        tcp.allow(other, [Multiaddr(place)])
        tcp.allow(peer, [Multiaddr("/ip4/127.0.0.1/tcp/1")])
        with pytest.raises(OpenConnectionError, match="was told to dial"):
            await tcp.dial(Multiaddr(f"{place}/p2p/{peer}"))
        assert tally.reasons == {NOT_ALLOWED: 1}
        tcp.allow(peer, [Multiaddr(place)])
        conn: Any = await tcp.dial(Multiaddr(f"{place}/p2p/{peer}"))
        assert slots.prove(conn.stream, peer)
        assert len(slots.members) == 1
        tcp.close_dialled()
        assert conn.stream.closed.is_set()
        assert len(slots.members) == 0
        assert not slots.prove(conn.stream, peer)  # it closed while its key was looked at
        await listeners[0].aclose()

    trio.run(main)


def test_a_dial_that_is_cancelled_leaves_nothing(lab: SimpleNamespace) -> None:
    """At whatever moment: before, within and after a handshake that is never answered."""
    me, peer = lab.members(2)
    heard = bytearray()

    async def listen(stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            async with stream:
                async for data in stream:
                    heard.extend(data)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, listen, [listener])
            there = type(peer)(peer.key, listener.socket.getsockname()[1])
            slots = Slots(64, Tally())
            tcp = TidyTCP(slots)
            name = peer_id(peer.node_id)
            tcp.allow(name, [Multiaddr(there.listen)])
            async with lab.stock_host(me, transports=[tcp]) as host:
                for number in range(40):
                    with trio.move_on_after(0.0005 * 1.2**number), contextlib.suppress(Exception):
                        await lab.dial(host, there)
                    host.get_network().unblock_peer(name)
                await until(lambda: not tcp._dialled, lab)
                assert heard
                assert len(slots.members) == 0
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_a_stream_is_not_worth_a_dial(lab: SimpleNamespace) -> None:
    me, peer = lab.members(2)

    async def main() -> None:
        async with lab.stock_host(me) as host, lab.stock_host(peer):
            name = await lab.dial(host, peer)  # its place is remembered
            await host.get_network().close_peer(name)
            await host.new_stream(name, ["/ipfs/ping/1.0.0"])  # control: libp2p dials
            await host.get_network().close_peer(name)
            shield(host)
            with pytest.raises(SwarmException, match="not connected"):
                await host.new_stream(name, ["/ipfs/ping/1.0.0"])
            assert not host.get_network().get_connections(name)

    trio.run(main)


class Pipe:
    """A secured connection that takes its time."""

    is_initiator = True

    async def write(self, data: bytes) -> None:
        del data
        await trio.sleep(0.05)

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize(("kind", "lost"), [(ShieldedYamux, 0), (Yamux, 20)])
def test_a_stream_that_is_cancelled_while_it_opens_keeps_no_place(
    kind: type[Yamux], lost: int
) -> None:
    """The control is libp2p's own; when it fails, ``ShieldedYamux.open_stream`` may go."""

    async def main() -> None:
        pipe: Any = Pipe()
        muxed = kind(pipe, peer_id(bytes([1]) * 32), is_initiator=True)
        whole = muxed.stream_backlog_semaphore.value
        opened = []
        for _ in range(20):
            with trio.move_on_after(0.01):
                opened.append(await muxed.open_stream())
        for stream in opened:
            await stream.reset()
        assert muxed.stream_backlog_semaphore.value == whole - lost
        assert len(muxed.streams) == lost

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_place_for_a_stream_is_waited_for() -> None:
    async def main() -> None:
        pipe: Any = Pipe()
        muxed = ShieldedYamux(pipe, peer_id(bytes([1]) * 32), is_initiator=True)
        muxed.stream_backlog_semaphore = trio.Semaphore(1)
        first = await muxed.open_stream()
        with trio.move_on_after(0.2) as scope:
            await muxed.open_stream()
        assert scope.cancelled_caught
        await first.reset()
        await muxed.open_stream()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
