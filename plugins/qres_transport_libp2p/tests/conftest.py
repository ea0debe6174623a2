"""Nodes on the loopback interface, with keys of their own."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import itertools
import secrets
import socket
import sys
import threading
import warnings
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import attrs
import pytest
import trio
from multiaddr import Multiaddr
from nacl.signing import SigningKey
from qres_transport_libp2p.curves import without_fastecdsa

with warnings.catch_warnings(), without_fastecdsa():
    # What libp2p's own dependencies say when they are imported is not ours to mend.
    warnings.simplefilter("ignore")
    from libp2p import new_host
    from libp2p.crypto.ed25519 import create_new_key_pair
    from libp2p.crypto.keys import KeyPair
    from libp2p.peer.id import ID
    from libp2p.peer.peerinfo import PeerInfo

from qres_transport_libp2p import Libp2p, hello
from qres_transport_libp2p.identity import peer_id
from qres_transport_libp2p.places import split
from qres_transport_libp2p.transport import Libp2pTransport

from qres_core import ACCEPT, NodeId, NodeInfo, Verdict
from qres_core.transport import Delivery, LinkKeys, PeerChange

PATIENCE = 300.0
"""Seconds that anything may take on a machine that is busy with other things."""

Admission = Callable[[NodeId, bytes], Verdict]


def admit_everybody(peer: NodeId, credential: bytes) -> Verdict:
    del peer, credential
    return ACCEPT


@attrs.frozen
class Member:
    """A key, and the address where its node will listen."""

    key: SigningKey
    port: int

    @property
    def node_id(self) -> NodeId:
        return bytes(self.key.verify_key)

    @property
    def keys(self) -> LinkKeys:
        return LinkKeys(
            self.node_id, lambda statement: self.key.sign(statement).signature, lambda node: node
        )

    @property
    def listen(self) -> str:
        return f"/ip4/127.0.0.1/tcp/{self.port}"

    @property
    def address(self) -> str:
        return f"{self.listen}/p2p/{peer_id(self.node_id)}"


# Ports of the test that runs: bound until it ends, so that nobody else is given them before its
# nodes listen. On Linux they may, since both set SO_REUSEADDR.
_held: list[socket.socket] = []


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on now, and nobody else is given before the test ends."""
    ports: list[int] = []
    for _ in range(count):
        item = socket.socket()
        _held.append(item)
        item.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        item.bind(("127.0.0.1", 0))
        ports.append(item.getsockname()[1])
    if sys.platform != "linux":
        _let_go()
    return ports


def _let_go() -> None:
    while _held:
        _held.pop().close()


@pytest.fixture(autouse=True)
def no_port_is_kept() -> Iterator[None]:
    yield
    _let_go()


def members(count: int, seed: str = "") -> list[Member]:
    """Keys, the same every time, and free ports."""
    seeds = [hashlib.sha256(f"{seed}{number}".encode()).digest() for number in range(count)]
    return [
        Member(SigningKey(seed), port) for seed, port in zip(seeds, free_ports(count), strict=True)
    ]


# Whoever is missed is dialled soon; nobody is given up because the machine is slow.
FAST: dict[str, Any] = {
    "reconnect_seconds": 0.3,
    "ping_seconds": 60.0,
    "hello_seconds": 120.0,
    "dial_seconds": 60.0,
}


def transport(
    me: Member,
    roster: list[Member],
    *,
    admission: Admission = admit_everybody,
    credential: Callable[[], bytes] = bytes,
    dial: list[Member] | None = None,
    data_dir: Path | None = None,
    swarm: str = "test",
    **options: Any,
) -> Libp2pTransport:
    """A transport of a node that dials all others, not started."""
    others = [node for node in roster if node is not me] if dial is None else dial
    plugin = Libp2p(
        **{
            "listen": me.listen,
            "peers": tuple(other.address for other in others),
            **FAST,
            **options,
        }
    )
    info = NodeInfo(
        me.node_id,
        swarm,
        tuple(sorted(node.node_id for node in roster)),
        data_dir=None if data_dir is None else str(data_dir),
    )
    made = plugin.transport(info, admission, credential, me.keys)
    assert isinstance(made, Libp2pTransport)
    return made


async def connected(*transports: Libp2pTransport) -> None:
    """Wait until each of some transports knows all the others, and gossip reaches them."""
    ids = {transport._info.node_id for transport in transports}
    with anyio.fail_after(PATIENCE):
        for item in transports:
            wanted = ids - {item._info.node_id}
            while not {peer.node_id for peer in item.peers()} >= wanted:  # noqa: ASYNC110
                await anyio.sleep(0.02)
            while not await hears_all(item, wanted):  # noqa: ASYNC110
                await anyio.sleep(0.05)


async def hears_all(libp2p_transport: Libp2pTransport, nodes: set[NodeId]) -> bool:
    """Whether gossip has a stream to, and a subscription of, some nodes."""

    async def look() -> bool:
        pubsub = libp2p_transport._parts.gossip.pubsub
        return all(pubsub.hears(peer_id(node)) for node in nodes)

    return await libp2p_transport._call(look)


async def heard(libp2p_transport: Libp2pTransport, frame: bytes) -> Delivery:
    """The delivery of a frame, whatever comes before it."""
    with anyio.fail_after(PATIENCE):
        while True:
            delivery = await libp2p_transport.receive()
            if delivery.frame == frame:
                return delivery


async def reaches(sender: Libp2pTransport, to: Libp2pTransport, words: bytes) -> Delivery:
    """Broadcast until something of it is heard: what is sent while a stream is away gets lost."""
    with anyio.fail_after(PATIENCE):
        for attempt in itertools.count():
            frame = words + b", %d" % attempt
            await sender.broadcast(frame)
            with anyio.move_on_after(1 + attempt):
                return await heard(to, frame)
    raise AssertionError


async def noticed(libp2p_transport: Libp2pTransport, change: PeerChange) -> Any:
    """The next event of a kind."""
    with anyio.fail_after(PATIENCE):
        while True:
            event = await libp2p_transport.event()
            if event.change is change:
                return event


def stock_pair(me: Member) -> KeyPair:
    """A member's key as libp2p itself keeps one."""
    return create_new_key_pair(bytes(me.key))


@asynccontextmanager
async def stock_host(me: Member, **options: Any) -> AsyncGenerator[Any]:
    """A host of libp2p as it comes, with a member's key; in a trio program."""
    host = new_host(key_pair=stock_pair(me), **options)
    async with host.run([Multiaddr(me.listen)]):
        try:
            yield host
        finally:
            with trio.move_on_after(3, shield=True):
                await host.close()


async def dial(host: Any, to: Member) -> ID:
    """Connect a stock host to a node."""
    peer, where = split(to.address)
    await host.connect(PeerInfo(peer, [where]))
    return peer


async def block(stream: Any, data: bytes) -> None:
    """Write a block as the plugin's protocols do."""
    await stream.write(len(data).to_bytes(4, "big") + data)


async def greet(host: Any, to: Member, *, swarm: str = "test", credential: bytes = b"") -> bytes:
    """Connect anew and say hello as a node does; returns the first byte of the answer."""
    peer, _where = split(to.address)
    with trio.move_on_after(2):
        await host.get_network().close_peer(peer)
    host.get_network().unblock_peer(peer)
    await dial(host, to)
    stream = await host.new_stream(peer, [hello.PROTOCOL])
    await block(stream, hello.Hello(swarm, secrets.token_bytes(16), credential).dumps())
    answer = await stream.read(1)
    with contextlib.suppress(Exception):
        await stream.read(9000)
        await stream.close()
    return bytes(answer)


async def last_words(stream: Any) -> bytes:
    """What still comes from a stream until it ends or is reset."""
    said = b""
    with contextlib.suppress(Exception):
        while data := await stream.read(100):
            said += data
    return said


class Swarm(AsyncExitStack):
    """Starts transports, and closes them at the end."""

    async def start(self, *transports: Libp2pTransport) -> None:
        for item in transports:
            self.push_async_callback(item.aclose)
            await item.start()

    async def __aexit__(self, *details: object) -> bool | None:
        with anyio.CancelScope(shield=True):
            return await super().__aexit__(*details)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def lab() -> SimpleNamespace:
    """The helpers above: test files cannot import this one."""
    return SimpleNamespace(
        PATIENCE=PATIENCE,
        Swarm=Swarm,
        block=block,
        dial=dial,
        greet=greet,
        last_words=last_words,
        stock_host=stock_host,
        stock_pair=stock_pair,
        admit_everybody=admit_everybody,
        connected=connected,
        free_ports=free_ports,
        heard=heard,
        reaches=reaches,
        members=members,
        noticed=noticed,
        transport=transport,
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """libp2p leaves the socket of a dial that is cancelled to the garbage collector."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"))


@pytest.fixture(autouse=True)
def no_socket_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Those of cancelled dials are collected here, where it is known whose they are."""
    yield
    if request.node.get_closest_marker("long"):
        gc.collect()


@pytest.fixture(autouse=True, scope="module")
def no_socket_is_left_to_another_module() -> Iterator[None]:
    """Elsewhere a socket that is left is an error of whichever test runs when it is collected."""
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    left = [
        item
        for item in threading.enumerate()
        if item not in before and item.name.startswith(("libp2p", "LastSeen"))
    ]
    for remaining in left:  # it may be about to end
        remaining.join(PATIENCE)
    assert not [remaining for remaining in left if remaining.is_alive()]
