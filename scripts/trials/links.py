"""A hostile peer that keeps to the wire format alone: windows, gossip's control, sockets.

It is run as a program of its own, so that what it holds is not counted as a node's::

    python -P -m trials.links PLAN.json

The plan says which attack. What was sent and what came is printed as one JSON object.
"""

from __future__ import annotations

import contextlib
import json
import random
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

from qres_core.errors import QresError
from qres_core.swarm.runtime.carrier import Announce
from qres_core.transport import CHUNK, BlobRef

from .raw import MULTISTREAM, NOISE, plain_host

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
            ``resets``, ``pull``, ``hold``, ``noise``, ``fuzz``, ``trickle`` or ``silent``.
        swarm: name of the swarm.
        key: the private key file of a node of the roster; not read by ``silent``.
        targets: multiaddrs of the nodes.
        seconds: how long.
        sockets: how many ``silent`` holds.
        source: the address they come from.
        seed: of what ``fuzz`` and ``noise`` send.
    """

    mode: str
    swarm: str
    key: str
    targets: tuple[str, ...]
    seconds: float
    sockets: int = 2000
    source: str = "127.0.0.2"
    seed: int = 1


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
        self._refs: dict[bytes, int] = {}  # chunks of blobs that were announced, by root
        self._chance = random.Random(f"{plan.seed} {target}")  # noqa: S311 - bytes that mean nothing

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
            "pull": self._pull,
            "hold": self._hold,
            "noise": self._noise,
        }[self._plan.mode]
        if self._plan.mode == "record":
            self._serve_record()
        elif self._plan.mode == "hold":
            self._host.set_stream_handler(blobs.PROTOCOL, self._keep_waiting)
        network = self._host.get_network()
        while True:
            try:
                network.unblock_peer(self._peer)
                await network.close_peer(self._peer)
                with trio.fail_after(10):
                    await self._host.connect(PeerInfo(self._peer, [self._where]))
                    self._did["connected"] += 1
                    if self._plan.mode not in {"window_nohello", "noise"}:
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

    async def _pull(self) -> None:
        """Pieces that were announced, the same ones again and again, on four streams."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._join)
            for _ in range(4):
                nursery.start_soon(self._pull_again)

    async def _pull_again(self) -> None:
        stream: Any = None
        while True:
            if not self._refs:
                await trio.sleep(0.05)
                continue
            if stream is None:
                stream = await self._host.new_stream(self._peer, [blobs.PROTOCOL])
            root, chunks = self._chance.choice(list(self._refs.items())[-4:])
            index = self._chance.randrange(chunks)
            await stream.write(root + index.to_bytes(4, "big"))
            self._did["asked"] += 1
            head = await _exactly(stream, 5)
            await _exactly(stream, int.from_bytes(head[1:], "big"))
            self._did["bytes in"] += int.from_bytes(head[1:], "big")
            self._did["pieces" if head[:1] == blobs.HERE else "turned down"] += 1
            if head[:1] == blobs.BUSY:
                await trio.sleep(0.02)

    async def _hold(self) -> None:
        """Announce blobs that nobody has, and keep those that ask for them waiting."""
        stream = await self._host.new_stream(self._peer, [frames.PROTOCOL])
        while True:
            size = self._chance.randrange(1, 3 * CHUNK)
            said = Announce(BlobRef.of(self._chance.randbytes(size)), private=False).to_bytes()
            await stream.write(len(said).to_bytes(4, "big") + said)
            self._did["announced"] += 1
            await trio.sleep(0.5)

    async def _keep_waiting(self, stream: Any) -> None:
        """Half of them for ever; the others get pieces of any length, or a byte at a time."""
        with contextlib.suppress(Exception):
            while True:
                await _exactly(stream, blobs.REQUEST_BYTES)
                self._did["asked for"] += 1
                length = self._chance.choice((0, 1, 1000, CHUNK, 2**31))
                match self._chance.randrange(4):
                    case 0:
                        data = self._chance.randbytes(min(length, CHUNK))
                        await stream.write(blobs.HERE + length.to_bytes(4, "big") + data)
                    case 1:
                        await stream.write(blobs.HERE + CHUNK.to_bytes(4, "big"))
                        while True:
                            await stream.write(b"x")
                            await trio.sleep(0.5)
                    case _:
                        await trio.sleep_forever()

    async def _noise(self) -> None:
        """Below the hello: frames of yamux that are none, and lines of any length for protocols."""
        (conn,) = self._host.get_network().get_connections(self._peer)
        secured, chance = conn.muxed_conn.secured_conn, self._chance
        while not conn.muxed_conn.is_closed:  # what is written to a closed one goes nowhere
            number = chance.randrange(1001, 2**31, 2)
            match chance.randrange(4):
                case 0:  # any header
                    data = chance.randbytes(12) + chance.randbytes(chance.randrange(200))
                case 1:  # the right version, and anything behind it
                    data = b"\0" + bytes([chance.randrange(4)]) + chance.randbytes(10)
                case 2:  # a stream whose first line has any length
                    said = MULTISTREAM + any_line(chance)
                    data = _head(1, 1, number, 0) + _head(0, 0, number, len(said)) + said
                case _:  # a stream that asks for one protocol after the other
                    said = MULTISTREAM + b"".join(a_name(chance) for _ in range(200))
                    data = _head(1, 1, number, 0) + _head(0, 0, number, len(said)) + said
            await secured.write(data)
            self._did["pieces"] += 1
            self._did["bytes out"] += len(data)
            await trio.sleep(0.01)
        self._did["cut off"] += 1

    async def _join(self) -> None:
        """Hear what the swarm says."""
        self._host.set_stream_handler(GOSSIPSUB, self._listen)
        stream = await self._host.new_stream(self._peer, [GOSSIPSUB])
        topic = topic_of(self._plan.swarm)
        first = rpc_pb2.RPC(subscriptions=[rpc_pb2.RPC.SubOpts(subscribe=True, topicid=topic)])
        first.control.graft.add(topicID=topic)
        await stream.write(encode_varint_prefixed(first.SerializeToString()))
        await trio.sleep_forever()

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
                    for item in said.publish:
                        with contextlib.suppress(QresError):
                            ref = Announce.from_bytes(item.data, max_bytes=2**26).ref
                            self._refs[ref.root] = len(ref.chunks)


async def _exactly(stream: Any, size: int) -> bytes:
    """So many bytes. Raises OSError: the other end hung up."""
    data = bytearray()
    while len(data) < size:
        some = await stream.read(size - len(data))
        if not some:
            raise OSError
        data += some
    return bytes(data)


def any_line(chance: random.Random) -> bytes:
    """A line of multistream whose length is any number, or no number, and some of its bytes."""
    size = chance.choice((0, 1, 2**7, 2**14, 2**21, 2**31, 2**63, chance.getrandbits(70)))
    length = bytearray()
    while size >= 128:
        length.append(size & 127 | 128)
        size >>= 7
    odd = b"\xff" * chance.randrange(20) if chance.randrange(4) == 0 else b""
    return odd + bytes(length) + bytes([size]) + chance.randbytes(chance.randrange(300))


def a_name(chance: random.Random) -> bytes:
    """A whole line that names a protocol."""
    name = b"/" + bytes(chance.choices(b"abcdefgh/", k=chance.randrange(1, 60))) + b"\n"
    return bytes([len(name)]) + name


def any_start(chance: random.Random) -> bytes:
    """What a stranger sends first: nothing of it is a handshake to its end."""
    match chance.randrange(6):
        case 0:
            return chance.randbytes(chance.choice((1, 20, 3000)))
        case 1:
            return MULTISTREAM[: chance.randrange(1, len(MULTISTREAM))]
        case 2:
            return MULTISTREAM + any_line(chance)
        case 3:
            return MULTISTREAM + b"".join(a_name(chance) for _ in range(chance.randrange(500)))
        case 4:  # half a handshake of Noise, or a first message of any length
            return NOISE + chance.randrange(2**16).to_bytes(2, "big") + chance.randbytes(32)
        case _:  # a first message that is right, and then anything
            later = chance.randrange(200).to_bytes(2, "big") + chance.randbytes(300)
            return NOISE + b"\0\x20" + chance.randbytes(32) + later


def fuzz(plan: LinksPlan, did: Counter[str]) -> None:
    """Start handshakes that are none, as many as are taken, one socket after the other."""
    chance = random.Random(plan.seed)  # noqa: S311 - bytes that mean nothing
    places = [Multiaddr(target) for target in plan.targets]
    held: list[socket.socket] = []
    ends = time.monotonic() + plan.seconds
    while time.monotonic() < ends:
        place = places[did["opened"] % len(places)]
        item = socket.socket()
        item.settimeout(1.0)
        with contextlib.suppress(OSError):
            item.bind((plan.source, 0))
            address = str(place.value_for_protocol("ip4"))
            item.connect((address, int(str(place.value_for_protocol("tcp")))))
            data = any_start(chance)
            item.sendall(data)
            did["bytes out"] += len(data)
        did["opened"] += 1
        held.append(item)
        if len(held) > plan.sockets:
            held.pop(chance.randrange(len(held))).close()
        time.sleep(0.005)
    for item in held:
        item.close()


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
    elif known.mode == "fuzz":
        fuzz(known, done)
    else:
        trio.run(main, known, Path(known.key).read_bytes(), done)
    print(json.dumps(done), flush=True)
