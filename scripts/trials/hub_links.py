"""A hostile peer at a hub: a stranger at its port, or a member that attacks the others over it.

It is run as a program of its own, so that what it holds is not counted as a node's::

    python -P -m trials.hub_links PLAN.json

The plan says which attack. What was sent and what came is printed as one JSON object.
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
import ssl
import struct
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import anyio
import attrs
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from qres_transport_grpc import Grpc
from qres_transport_grpc.blobs import PIECE
from qres_transport_grpc.dial import GRPC, certificate, channel
from qres_transport_grpc.exchanges import ANSWERED
from qres_transport_grpc.network import FRAME
from qres_transport_grpc.wire import METHOD, HubPlace

from qres_core import ACCEPT, NodeInfo
from qres_core.errors import QresError, TransportError
from qres_core.swarm.runtime.carrier import Announce
from qres_core.transport import CHUNK, BlobRef, LinkKeys

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SOCKETS: Final = 100
"""Of strangers, open at once."""
CALLS: Final = 24
"""Calls of strangers, open at once."""
PULLS: Final = 64
"""Questions for pieces at a time, to each node."""


@attrs.frozen
class HubPlan:
    """What to do.

    Attributes:
        mode: ``hub_fuzz``, ``hub_calls``, ``hub_junk``, ``hub_pull`` or ``hub_hold``.
        swarm: name of the swarm.
        key: the private key file of a node of the roster; not read by the first two.
        hub: ``HOST:PORT#SHA256``.
        roster: identities of all nodes, in hexadecimal.
        seconds: how long.
        seed: of what is drawn.
    """

    mode: str
    swarm: str
    key: str
    hub: str
    roster: tuple[str, ...]
    seconds: float
    seed: int = 1


# ── strangers ─────────────────────────────────────────────────────────────────────────────────────


def _any_frames(chance: random.Random) -> bytes:
    """Frames of HTTP/2 of any length, kind and content."""
    made = bytearray()
    for _ in range(chance.randrange(1, 20)):
        body = chance.randbytes(chance.randrange(300))
        length = chance.choice((len(body), chance.randrange(2**24)))
        number = chance.randrange(2**31)
        kind, flags = chance.randrange(12), chance.randrange(256)
        made += length.to_bytes(3, "big") + struct.pack("!BBI", kind, flags, number) + body
    return bytes(made)


def fuzz(plan: HubPlan, did: Counter[str], ends: float) -> None:
    """Bytes that are no TLS, half handshakes, and over TLS what is no HTTP/2, or frames of it."""
    chance, place = random.Random(plan.seed), HubPlace.of(plan.hub)  # noqa: S311 - no secrets
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    held: list[socket.socket] = []
    while time.monotonic() < ends:
        item = socket.socket()
        item.settimeout(2.0)
        kind = did["opened"] % 4
        with contextlib.suppress(OSError, ValueError):
            item.connect((place.host, place.port))
            if kind == 0:
                item.sendall(chance.randbytes(chance.choice((1, 50, 3000))))
            elif kind == 1:  # the head of a ClientHello, of any length
                length = chance.randrange(2**14).to_bytes(2, "big")
                item.sendall(b"\x16\x03\x01" + length + b"\x01" + chance.randbytes(60))
            else:
                item = context.wrap_socket(item)
                said = PREFACE + _any_frames(chance) if kind == 3 else chance.randbytes(2000)
                item.sendall(said)
        did["opened"] += 1
        held.append(item)
        if len(held) > SOCKETS:
            held.pop(chance.randrange(len(held))).close()
        time.sleep(0.005)
    for item in held:
        item.close()


def calls(plan: HubPlan, did: Counter[str], ends: float) -> None:
    """Calls whose first message is no proof, or that say nothing."""
    place = HubPlace.of(plan.hub)
    pem = certificate(place, 10.0)

    def call_again(number: int) -> None:
        chance = random.Random(plan.seed + number)  # noqa: S311 - no secrets
        made = channel(place, pem)
        while time.monotonic() < ends:
            over = threading.Event()

            def words(over: threading.Event = over) -> Any:
                if chance.randrange(3):
                    yield chance.randbytes(chance.choice((0, 1, 120, 5000)))
                over.wait(max(0.0, ends - time.monotonic()))

            did["calls"] += 1
            try:
                for _message in made.stream_stream(METHOD)(words()):
                    did["answers"] += 1
            except GRPC.RpcError as error:
                did[str(error.code().name)] += 1
            finally:
                over.set()
        made.close()

    threads = [threading.Thread(target=call_again, args=(n,), daemon=True) for n in range(CALLS)]
    for thread in threads:
        thread.start()
    time.sleep(max(0.0, ends - time.monotonic()))


# ── a member ──────────────────────────────────────────────────────────────────────────────────────


class HubAttacker:
    """A member that is linked to all others, as a node is, and then breaks the rules.

    Args:
        plan: what to do.
        did: what was sent and what came.
    """

    def __init__(self, plan: HubPlan, did: Counter[str]) -> None:
        private: Any = load_pem_private_key(Path(plan.key).read_bytes(), None)
        me = private.public_key().public_bytes_raw()
        self._others = [node for node in map(bytes.fromhex, plan.roster) if node != me]
        self._plan, self._did = plan, did
        self._chance = random.Random(plan.seed)  # noqa: S311 - bytes that mean nothing
        self._refs: list[bytes] = []
        plugin = Grpc(hubs=(plan.hub,), reconnect_seconds=0.2)
        keys = LinkKeys(me, private.sign, lambda node: node)
        roster = tuple(sorted([me, *self._others]))
        self._node: Any = plugin.transport(
            NodeInfo(me, plan.swarm, roster), lambda _node, _shown: ACCEPT, bytes, keys
        )

    async def run(self) -> None:
        """Connect, and attack until cancelled."""
        work = {"hub_junk": self._junk, "hub_pull": self._pull, "hub_hold": self._hold}
        await self._node.start()
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._listen)
                while len(self._node.peers()) < len(self._others):  # noqa: ASYNC110
                    await anyio.sleep(0.05)
                self._did["connected"] += 1
                await work[self._plan.mode]()
        finally:
            with anyio.CancelScope(shield=True):
                await self._node.aclose()

    async def _listen(self) -> None:
        while True:
            delivery = await self._node.receive()
            self._did["bytes in"] += len(delivery.frame)
            with contextlib.suppress(QresError):
                ref = Announce.from_bytes(delivery.frame, max_bytes=2**26).ref
                self._refs += [ref.root]

    async def _junk(self) -> None:
        """To each node: bytes that nobody sealed, and sealed ones that no node sends."""
        network, chance = self._node._network, self._chance  # noqa: SLF001 - hostile

        async def once() -> None:
            for node in self._others:
                peer = network.peers[node]
                network.lines.pass_on(peer, chance.randbytes(chance.choice((1, 30, 1000, 8000))))
                if chance.randrange(10) == 0 and peer.up:
                    network.say(peer, chance.choice((FRAME, 1, 2, 200)), chance.randbytes(40))
                self._did["pieces"] += 1

        while True:
            await self._node._call(once)  # noqa: SLF001 - hostile
            await anyio.sleep(0.02)

    async def _pull(self) -> None:
        """The same pieces again and again, as many at a time as are taken."""
        exchanges = self._node._exchanges  # noqa: SLF001 - hostile

        def came(_status: int, data: bytes, _took: float) -> None:
            self._did["pieces" if data else "turned down"] += 1
            self._did["bytes in"] += len(data)

        async def once() -> None:
            for node in self._others:
                flying = len(exchanges._pieces.get(node, ()))  # noqa: SLF001 - hostile
                for _ in range(PULLS - flying):
                    body = self._chance.choice(self._refs[-4:]) + bytes(5)
                    if exchanges.want(node, body, came) is not None:
                        self._did["asked"] += 1

        while True:
            if self._refs:
                await self._node._call(once)  # noqa: SLF001 - hostile
            await anyio.sleep(0.01)

    async def _hold(self) -> None:
        """Announce blobs that nobody has; answer never, or with pieces of any length."""
        exchanges, chance = self._node._exchanges, self._chance  # noqa: SLF001 - hostile
        plain = exchanges._serve_piece  # noqa: SLF001 - hostile
        lengths = (0, 1, 1000, PIECE - 1, PIECE, PIECE + 1, CHUNK)

        def serve(peer: Any, number: int, attempt: int, body: bytes) -> None:
            self._did["asked for"] += 1
            if chance.randrange(2):
                plain(peer, number, attempt, body)

        exchanges._serve_piece = serve  # noqa: SLF001 - hostile
        exchanges._piece = lambda _body: (ANSWERED, chance.randbytes(chance.choice(lengths)))  # noqa: SLF001
        while True:
            size = chance.randrange(1, 3 * CHUNK)
            said = Announce(BlobRef.of(chance.randbytes(size)), private=False).to_bytes()
            with contextlib.suppress(TransportError):
                await self._node.broadcast(said)
                self._did["announced"] += 1
            await anyio.sleep(0.5)


async def attack(plan: HubPlan, did: Counter[str]) -> None:
    """Carry the plan out with a key."""
    with anyio.move_on_after(plan.seconds):
        await HubAttacker(plan, did).run()


if __name__ == "__main__":
    read: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    known = HubPlan(**{**read, "roster": tuple(read["roster"])})
    done: Counter[str] = Counter()
    if known.mode in {"hub_fuzz", "hub_calls"}:
        work = fuzz if known.mode == "hub_fuzz" else calls
        work(known, done, time.monotonic() + known.seconds)
    else:
        anyio.run(attack, known, done)
    print(json.dumps(done), flush=True)
