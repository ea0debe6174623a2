"""A raw hostile peer: whatever bytes it sends, the node lives, stays small and works on."""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio
from qres_transport_libp2p import blobs, frames, hello, pubsub, requests

from qres_core.transport import PeerChange

MIB = 2**20
OURS = (blobs.PROTOCOL, frames.PROTOCOL, requests.PROTOCOL, pubsub.GOSSIPSUB, hello.PROTOCOL)
MULTISTREAM = b"\x13/multistream/1.0.0\n"
NOISE = MULTISTREAM + b"\x07/noise\n"


def resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096


def raw_frames(count: int) -> list[bytes]:
    """What a peer without a key may send: garbage after every step it gets right."""
    chance = random.Random(7)
    made: list[bytes] = []
    for number in range(count):
        head = (b"", MULTISTREAM, NOISE, NOISE + b"\x00\x20")[number % 4]
        size = chance.choice((1, 20, 100, 3000))
        made.append(head + chance.randbytes(size))
    return made


async def works(lab: SimpleNamespace, sender: Any, to: Any, frame: bytes) -> None:
    with anyio.fail_after(lab.PATIENCE):
        while True:
            await sender.broadcast(frame)
            with anyio.move_on_after(1.0):
                await lab.heard(to, frame)
                return


@pytest.mark.claim("C-transport-3")
@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_garbage_truncation_and_silence_on_the_port(lab: SimpleNamespace) -> None:
    roster = lab.members(2)

    async def main() -> None:
        async with lab.Swarm() as swarm:
            item, two = (lab.transport(me, roster) for me in roster)
            await swarm.start(item, two)
            await lab.connected(item, two)
            address = ("127.0.0.1", roster[0].port)
            before = resident()
            idle = [socket.create_connection(address) for _ in range(100)]  # half-open
            slow = [socket.create_connection(address) for _ in range(20)]
            for number, data in enumerate(raw_frames(1000)):
                with contextlib.suppress(OSError), socket.create_connection(address) as sock:
                    sock.sendall(data)
                    if number % 3 == 0:
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                if number % 50 == 0:
                    for sock in slow:  # a byte at a time
                        with contextlib.suppress(OSError):
                            sock.sendall(NOISE[number // 50 : number // 50 + 1])
                    await anyio.lowlevel.checkpoint()
            await works(lab, two, item, b"in between")
            await anyio.sleep(6)  # what libp2p gives an upgrade
            for sock in [*idle, *slow]:
                sock.close()
            await works(lab, two, item, b"at last")
            assert len(item.peers()) == 1
            assert resident() - before < 50 * MIB

    anyio.run(main)


@pytest.mark.claim("C-transport-3")
@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_garbage_on_every_stream_of_an_admitted_peer(lab: SimpleNamespace) -> None:
    """It has a key of the roster and says hello, then sends garbage, and comes again."""
    me, good, evil = roster = lab.members(3)
    chance = random.Random(11)

    async def attack(host: Any, number: int) -> None:
        peer = await lab.dial(host, me)
        stream = await host.new_stream(peer, [OURS[number % len(OURS)]])
        for _ in range(chance.choice((1, 20))):
            head = chance.choice((b"", b"\xff\xff\xff\xff", b"\0\0\0\0", b"\0\0\0\x05"))
            await stream.write(head + chance.randbytes(chance.choice((1, 35, 36, 400, 70_000))))

    async def main() -> None:
        async with lab.Swarm() as swarm, lab.stock_host(evil) as host:
            transport = lab.transport(me, roster, dial=[], read_seconds=1.0)
            two = lab.transport(good, roster, dial=[me])
            await swarm.start(transport, two)
            await lab.connected(transport, two)
            before = resident()
            greeted = 0
            for number in range(40):
                with trio.move_on_after(20), contextlib.suppress(Exception):
                    if await lab.greet(host, me) == hello.WELCOME:
                        greeted += 1
                        await attack(host, number)
            assert greeted > 20
            await works(lab, two, transport, b"at last")
            assert transport.stats().malformed > 10
            assert (await lab.noticed(transport, PeerChange.BAD)).peer == evil.node_id
            assert resident() - before < 50 * MIB

    trio.run(main)


@pytest.mark.claim("C-transport-3")
def test_oversized_blocks_are_refused_before_they_are_read(lab: SimpleNamespace) -> None:
    me, evil = roster = lab.members(2)

    async def main() -> None:
        async with lab.Swarm() as swarm, lab.stock_host(evil) as host:
            transport = lab.transport(me, roster, dial=[])
            await swarm.start(transport)
            for protocol in (frames.PROTOCOL, requests.PROTOCOL):
                assert await lab.greet(host, me) == hello.WELCOME
                peer = await lab.dial(host, me)
                stream = await host.new_stream(peer, [protocol])
                await stream.write(b"\x7f\xff\xff\xff")
                event = await lab.noticed(transport, PeerChange.BAD)
                assert "2147483647 bytes" in event.detail
                await lab.noticed(transport, PeerChange.DOWN)

    trio.run(main)


def test_streams_of_one_peer_are_limited_and_the_rest_is_told_so(lab: SimpleNamespace) -> None:
    me, evil = roster = lab.members(2)

    async def main() -> None:
        async with lab.Swarm() as swarm, lab.stock_host(evil) as host:
            transport = lab.transport(me, roster, dial=[], read_seconds=20.0)
            await swarm.start(transport)
            assert await lab.greet(host, me) == hello.WELCOME
            peer = await lab.dial(host, me)
            answers: list[bytes] = []
            for protocol, busy in ((requests.PROTOCOL, 4), (blobs.PROTOCOL, 4)):
                held = [await host.new_stream(peer, [protocol]) for _ in range(busy)]
                await trio.sleep(0.3)
                more = await host.new_stream(peer, [protocol])
                with trio.fail_after(lab.PATIENCE):
                    answers.append(await more.read(1))
                for stream in held:
                    await stream.reset()
            assert answers == [requests.BUSY, blobs.BUSY]

    trio.run(main)


def test_a_request_that_is_never_finished_is_given_up(lab: SimpleNamespace) -> None:
    me, evil = roster = lab.members(2)

    async def main() -> None:
        async with lab.Swarm() as swarm, lab.stock_host(evil) as host:
            transport = lab.transport(me, roster, dial=[], read_seconds=0.3)
            await swarm.start(transport)
            assert await lab.greet(host, me) == hello.WELCOME
            peer = await lab.dial(host, me)
            stream = await host.new_stream(peer, [requests.PROTOCOL])
            with contextlib.suppress(Exception):  # on a busy machine it is given up before that
                await stream.write(b"\0\0\0\x03ask\0\0")
            with trio.fail_after(lab.PATIENCE):
                assert await lab.last_words(stream) == b""
            assert len(transport.peers()) == 1  # slow is not malformed

    trio.run(main)
