"""Which keys the TLS of a hub agrees on, as read off the wire between a node and the hub."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, Final

import anyio
import attrs
import pytest

X25519: Final = 0x001D
X25519MLKEM768: Final = 0x11EC
"""RFC 8446's registry; X25519 and ML-KEM-768 of FIPS 203, both of which must be broken."""
KEY_SHARE: Final = 51
CLIENT_HELLO, SERVER_HELLO = 1, 2
PUBLIC_BYTES: Final = {X25519: 32, X25519MLKEM768: 1184 + 32}
ANSWER_BYTES: Final = {X25519: 32, X25519MLKEM768: 1088 + 32}


class Wire:
    """A port that passes everything on to another one, and keeps what went over each connection."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.connections: list[tuple[bytearray, bytearray]] = []  # from who dialled, and back
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._open: list[socket.socket] = [self._listening]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _address = self._listening.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self._open += [near, far]
                kept = bytearray(), bytearray()
                self.connections.append(kept)
                for source, sink, copy in ((near, far, kept[0]), (far, near, kept[1])):
                    work = (source, sink, copy)
                    threading.Thread(target=self._carry, args=work, daemon=True).start()

    @staticmethod
    def _carry(source: socket.socket, sink: socket.socket, copy: bytearray) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(2**16):
                copy += data
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        for item in self._open:
            with contextlib.suppress(OSError):
                item.shutdown(socket.SHUT_RDWR)
            item.close()


@pytest.fixture
def wires() -> Iterator[Callable[[int], Wire]]:
    made: list[Wire] = []

    def make(port: int) -> Wire:
        made.append(Wire(port))
        return made[-1]

    yield make
    for item in made:
        item.close()


@attrs.frozen
class Hello:
    """What a first message of TLS 1.3 says (RFC 8446, 4.1)."""

    kind: int
    shares: dict[int, int]  # bytes of each key, by group


def hello(stream: bytes) -> Hello:
    """The first handshake message of a direction, over as many records as it takes."""
    message, rest = b"", stream
    while len(message) < 4 or len(message) < 4 + int.from_bytes(message[1:4], "big"):
        kind, _version, length = struct.unpack("!BHH", rest[:5])
        assert kind == 22, "no handshake"
        message, rest = message + rest[5 : 5 + length], rest[5 + length :]
    kind, at = message[0], 4 + 2 + 32
    at += 1 + message[at]  # the session
    if kind == CLIENT_HELLO:
        at += 2 + int.from_bytes(message[at : at + 2], "big")  # ciphers
        at += 1 + message[at]  # compression
    else:
        at += 3
    shares: dict[int, int] = {}
    end = at + 2 + int.from_bytes(message[at : at + 2], "big")
    at += 2
    while at < end:
        name, length = struct.unpack("!HH", message[at : at + 4])
        body, at = message[at + 4 : at + 4 + length], at + 4 + length
        if name != KEY_SHARE:
            continue
        place = 2 if kind == CLIENT_HELLO else 0
        while place < len(body):
            group, size = struct.unpack("!HH", body[place : place + 4])
            shares[group], place = size, place + 4 + size
    return Hello(kind, shares)


def agreed(wire: Wire) -> list[tuple[Hello, Hello]]:
    """The hellos of every connection over which both ends said something."""
    return [
        (hello(bytes(out)), hello(bytes(back))) for out, back in wire.connections if out and back
    ]


@pytest.mark.claim("C-grpc-28")
def test_nodes_and_hub_agree_on_keys_with_a_hybrid_group(
    hub: Callable[..., Any], wires: Callable[[int], Wire], lab: SimpleNamespace
) -> None:
    """Each node offers the hybrid group and the hub picks it, on all connections of both nodes."""
    roster = lab.members(2)
    server = hub(roster)
    between = [wires(server.port) for _ in roster]
    through = [
        SimpleNamespace(option=f"127.0.0.1:{wire.port}#{server.identity.digest}")
        for wire in between
    ]
    first, second = (
        lab.transport(me, roster, [place]) for me, place in zip(roster, through, strict=True)
    )

    async def main() -> None:
        async with lab.running(first, second):
            pass

    anyio.run(main)
    for wire in between:
        *_fetched, last = agreed(wire)  # the certificate is fetched before, over one that ends
        offered, picked = last
        assert offered.kind == CLIENT_HELLO
        assert offered.shares[X25519MLKEM768] == PUBLIC_BYTES[X25519MLKEM768]
        assert picked.kind == SERVER_HELLO
        assert picked.shares == {X25519MLKEM768: ANSWER_BYTES[X25519MLKEM768]}


@pytest.mark.control("C-grpc-28")
def test_control_who_offers_another_group_alone_is_seen_to_agree_on_that(
    hub: Callable[..., Any], wires: Callable[[int], Wire], lab: SimpleNamespace
) -> None:
    server = hub(lab.members(1))
    wire = wires(server.port)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    context.set_ecdh_curve("X25519")
    with (
        socket.create_connection(("127.0.0.1", wire.port)) as plain,
        context.wrap_socket(plain) as made,
    ):
        assert made.version() == "TLSv1.3"
    ((offered, picked),) = agreed(wire)
    assert set(offered.shares) == set(picked.shares) == {X25519}
