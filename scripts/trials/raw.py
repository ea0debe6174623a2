"""A raw hostile peer: bytes that no node would send, from sockets and from a host of plain libp2p.

It is run as a program of its own, so that what it holds is not counted as a node's::

    python -P -m trials.raw PLAN.json

The plan names the key, the addresses of the nodes and how many pieces of each kind to send. What
was sent is printed as one JSON object.
"""

from __future__ import annotations

import contextlib
import json
import random
import secrets
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import attrs
import trio
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from multiaddr import Multiaddr
from qres_transport_libp2p.curves import without_fastecdsa

with without_fastecdsa():
    from libp2p import new_host
    from libp2p.crypto.ed25519 import create_new_key_pair
    from libp2p.peer.id import ID
    from libp2p.peer.peerinfo import PeerInfo

from qres_transport_libp2p import blobs, frames, hello, requests
from qres_transport_libp2p.places import split
from qres_transport_libp2p.services import GOSSIPSUB

MULTISTREAM: Final = b"\x13/multistream/1.0.0\n"
NOISE: Final = MULTISTREAM + b"\x07/noise\n"
STREAMS: Final = (blobs.PROTOCOL, frames.PROTOCOL, requests.PROTOCOL, GOSSIPSUB, hello.PROTOCOL)
PATIENCE: Final = 5.0
"""Seconds for one piece; a node that does not answer is left alone."""


@attrs.frozen
class Plan:
    """What to do.

    Attributes:
        swarm: name of the swarm.
        key: the private key file of a node of the roster, without a passphrase.
        targets: multiaddrs of the nodes.
        sockets: connections that send garbage or half a handshake and break off.
        held: connections that stay open and say nothing, or a byte at a time.
        frames: blocks that a node takes for frames and that are none.
        requests: requests for what nobody answers, of all sizes.
        streams: streams of every protocol on which garbage, truncated and oversized blocks are
            sent, with a new hello where the node has hung up.
        seconds: when to give up.
    """

    swarm: str
    key: str
    targets: tuple[str, ...]
    sockets: int
    held: int
    frames: int
    requests: int
    streams: int
    seconds: float


class Peer:
    """The hostile peer.

    Args:
        plan: what to do.
        host: of plain libp2p, with a key of the roster.
    """

    def __init__(self, plan: Plan, host: Any) -> None:
        self._plan = plan
        self._host = host
        self._chance = random.Random(5)  # noqa: S311 - bytes that mean nothing
        self._ends = time.monotonic() + plan.seconds
        self._held: list[socket.socket] = []
        self.sent: Counter[str] = Counter()

    async def run(self) -> None:
        """Everything, in the order of what a node lets pass longest."""
        self._hold()
        await self._times("sockets", self._plan.sockets, self._socket)
        await self._times("requests", self._plan.requests, self._request)
        await self._times("streams", self._plan.streams, self._stream)
        await self._times("frames", self._plan.frames, self._frame)
        for item in self._held:
            item.close()

    async def _times(self, what: str, count: int, work: Callable[[int], Awaitable[int]]) -> None:
        number = 0
        while number < 2 * count and time.monotonic() < self._ends:
            with trio.move_on_after(PATIENCE), contextlib.suppress(Exception):
                self.sent[what] += await work(number)
            number += 1
            if number % 20 == 0:
                self._drip(number)
            if self.sent[what] >= count:
                return

    # ── without a key ─────────────────────────────────────────────────────────────────────────

    def _address(self, number: int) -> tuple[str, int]:
        address = Multiaddr(self._plan.targets[number % len(self._plan.targets)])
        return str(address.value_for_protocol("ip4")), int(str(address.value_for_protocol("tcp")))

    def _hold(self) -> None:
        for number in range(self._plan.held):
            with contextlib.suppress(OSError):
                self._held.append(socket.create_connection(self._address(number), PATIENCE))
        self.sent["held"] = len(self._held)

    def _drip(self, number: int) -> None:
        """The next byte of a handshake to half of what is held."""
        at = number // 20
        for item in self._held[::2]:
            with contextlib.suppress(OSError):
                item.send(NOISE[at % len(NOISE) : at % len(NOISE) + 1])

    async def _socket(self, number: int) -> int:
        head = (b"", MULTISTREAM, NOISE, NOISE + b"\x00\x20")[number % 4]
        data = head + self._chance.randbytes(self._chance.choice((1, 20, 100, 3000)))
        stream = await trio.open_tcp_stream(*self._address(number))
        async with stream:
            await stream.send_all(data)
            if number % 3:  # half of what is sent may be read before the connection breaks
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        return 1

    # ── with a key of the roster ──────────────────────────────────────────────────────────────

    async def _connected(self, number: int) -> ID:
        """A node that has admitted this peer; with a new connection where there is none."""
        address = self._plan.targets[number % len(self._plan.targets)]
        peer, where = split(address)
        network = self._host.get_network()
        if network.connections.get(peer):
            return peer
        network.unblock_peer(peer)
        await self._host.connect(PeerInfo(peer, [where]))
        stream = await self._host.new_stream(peer, [hello.PROTOCOL])
        said = hello.Hello(self._plan.swarm, secrets.token_bytes(16), b"").dumps()
        await stream.write(len(said).to_bytes(4, "big") + said)
        answer = await stream.read(1)
        self.sent["admitted" if answer == hello.WELCOME else "turned away"] += 1
        with contextlib.suppress(Exception):
            await stream.read(9000)
            await stream.close()
        return peer

    async def _request(self, number: int) -> int:
        stream = await self._host.new_stream(await self._connected(number), [requests.PROTOCOL])
        name = self._chance.randbytes(self._chance.choice((1, 16, 200)))
        data = self._chance.randbytes(self._chance.choice((0, 10, 4000)))
        await stream.write(b"".join(len(item).to_bytes(4, "big") + item for item in (name, data)))
        if number % 4:
            await stream.read(1)
            await stream.close()
        else:
            await stream.reset()
        return 1

    async def _stream(self, number: int) -> int:
        protocol = STREAMS[number % len(STREAMS)]
        stream = await self._host.new_stream(await self._connected(number // 5), [protocol])
        for _ in range(self._chance.choice((1, 10))):
            head = (b"", b"\xff\xff\xff\xff", b"\0\0\0\0", b"\0\0\0\x05", b"\0\0\x40\0")
            size = self._chance.choice((1, 35, 36, 400, 70_000))
            await stream.write(self._chance.choice(head) + self._chance.randbytes(size))
        await stream.reset()
        return 1

    async def _frame(self, number: int) -> int:
        """A few dozen on one stream."""
        stream = await self._host.new_stream(await self._connected(number), [frames.PROTOCOL])
        count = 0
        with contextlib.suppress(Exception):
            for count in range(1, 51):  # noqa: B007 - so many were sent when it broke
                frame = self._chance.randbytes(self._chance.choice((1, 64, 900, 30_000)))
                await stream.write(len(frame).to_bytes(4, "big") + frame)
        await stream.close()
        return count


@asynccontextmanager
async def plain_host(pem: bytes) -> AsyncGenerator[Any]:
    """A host of libp2p as it comes, with a key of the roster."""
    private: Any = load_pem_private_key(pem, None)
    pair = create_new_key_pair(private.private_bytes_raw())
    host = new_host(key_pair=pair)
    async with host.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        try:
            yield host
        finally:
            with trio.move_on_after(3) as scope:
                scope.shield = True
                await host.close()


async def main(plan: Plan, pem: bytes) -> None:
    """Carry the plan out with a key."""
    async with plain_host(pem) as host:
        peer = Peer(plan, host)
        await peer.run()
        print(json.dumps(peer.sent), flush=True)


if __name__ == "__main__":
    read: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    known = Plan(**{**read, "targets": tuple(read["targets"])})
    trio.run(main, known, Path(known.key).read_bytes())
