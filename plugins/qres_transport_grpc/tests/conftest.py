"""Hubs and nodes on the loopback interface, with keys of their own."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import attrs
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from qres_transport_grpc import Grpc
from qres_transport_grpc.identity import HubIdentity
from qres_transport_grpc.roster import HubRoster
from qres_transport_grpc.server import HubServer

from qres_core import ACCEPT, NodeId, NodeInfo, Verdict
from qres_core.transport import LinkKeys

PATIENCE = 300.0
"""Seconds that anything may take on a machine that is busy with other things."""

Admission = Callable[[NodeId, bytes], Verdict]

# Whoever is missed is greeted soon; nobody is given up because the machine is slow.
FAST: dict[str, Any] = {
    "reconnect_seconds": 0.2,
    "ping_seconds": 60.0,
    "hello_seconds": 120.0,
    "dial_seconds": 60.0,
    "retry_seconds": 0.5,
}


def admit_everybody(peer: NodeId, credential: bytes) -> Verdict:
    del peer, credential
    return ACCEPT


@attrs.frozen
class Someone:
    """A key."""

    key: Ed25519PrivateKey

    @property
    def node_id(self) -> NodeId:
        return self.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    @property
    def keys(self) -> LinkKeys:
        return LinkKeys(self.node_id, self.key.sign, lambda node: node)


def members(count: int, seed: str = "") -> list[Someone]:
    """Keys, the same every time."""
    seeds = [hashlib.sha256(f"{seed}{number}".encode()).digest() for number in range(count)]
    return [Someone(Ed25519PrivateKey.from_private_bytes(seed)) for seed in seeds]


class HubLoop:
    """The loop of all hubs of the tests: gRPC's asynchronous half likes one in a process."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="hubs", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(PATIENCE)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


def kept_port() -> socket.socket:
    """A free port, kept from others while its hub is not there. The hub may listen at it."""
    kept = socket.socket()
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    kept.bind(("127.0.0.1", 0))
    return kept


MakeHub = Callable[..., HubServer]


class RunningHub:
    """A hub that may be killed and started again at its port."""

    def __init__(
        self, loop: HubLoop, folder: Path, roster: Sequence[Someone], swarm: str, kind: MakeHub
    ) -> None:
        self._loop, self._kind = loop, kind
        folder.mkdir(parents=True, exist_ok=True)
        self.config = folder / "swarm.toml"
        self.write(roster, swarm)
        self.identity = HubIdentity.read(folder / "hub.pem")
        self._kept = kept_port()
        self.port: int = self._kept.getsockname()[1]
        self.server: Any = None
        self.start()

    def write(self, roster: Sequence[Someone], swarm: str) -> None:
        ids = ", ".join(f'"{node.node_id.hex()}"' for node in roster)
        self.config.write_text(f'[swarm]\nname = "{swarm}"\nroster = [{ids}]\n', encoding="utf-8")

    def start(self) -> None:
        async def start() -> int:
            self.server = self._kind(self.identity, HubRoster(self.config))
            port: int = await self.server.start(f"127.0.0.1:{self.port}")
            return port

        assert self._loop.run(start()) == self.port

    def kill(self) -> None:
        if self.server is not None:
            self._loop.run(self.server.stop())
            self.server = None

    def end(self) -> None:
        self.kill()
        self._kept.close()

    @property
    def option(self) -> str:
        return f"127.0.0.1:{self.port}#{self.identity.digest}"


@pytest.fixture(scope="session")
def hub_loop() -> Iterator[HubLoop]:
    loop = HubLoop()
    yield loop
    loop.close()


@pytest.fixture
def hub(hub_loop: HubLoop, tmp_path: Path) -> Iterator[Callable[..., RunningHub]]:
    """Makes hubs, and ends them."""
    made: list[RunningHub] = []

    def make(
        roster: Sequence[Someone], swarm: str = "test", kind: MakeHub = HubServer
    ) -> RunningHub:
        made.append(RunningHub(hub_loop, tmp_path / f"hub-{len(made)}", roster, swarm, kind))
        return made[-1]

    yield make
    for item in made:
        item.end()


def transport(
    me: Someone,
    roster: Sequence[Someone],
    hubs: Sequence[RunningHub],
    *,
    admission: Admission = admit_everybody,
    credential: Callable[[], bytes] = bytes,
    data_dir: Path | None = None,
    swarm: str = "test",
    **options: Any,
) -> Any:
    """A transport of a node, not started."""
    plugin = Grpc(**{"hubs": tuple(item.option for item in hubs), **FAST, **options})
    info = NodeInfo(
        me.node_id,
        swarm,
        tuple(sorted(node.node_id for node in roster)),
        data_dir=None if data_dir is None else str(data_dir),
    )
    return plugin.transport(info, admission, credential, me.keys)


async def until(done: Callable[[], bool]) -> None:
    """Wait for a condition."""
    with anyio.fail_after(PATIENCE):
        while not done():  # noqa: ASYNC110 - a transport tells nobody
            await anyio.sleep(0.02)


async def linked(*transports: Any) -> None:
    """Wait until each of some transports knows all the others."""
    ids = {item._info.node_id for item in transports}
    for item in transports:
        wanted = ids - {item._info.node_id}
        await until(lambda item=item, wanted=wanted: {p.node_id for p in item.peers()} >= wanted)


@contextlib.asynccontextmanager
async def running(*transports: Any) -> Any:
    """Started, linked, and closed at the end."""
    try:
        for item in transports:
            await item.start()
        await linked(*transports)
        yield transports
    finally:
        with anyio.CancelScope(shield=True):
            for item in transports:
                await item.aclose()


@pytest.fixture(scope="session")
def lab() -> SimpleNamespace:
    """The helpers above: test files cannot import this one."""
    return SimpleNamespace(
        PATIENCE=PATIENCE,
        admit_everybody=admit_everybody,
        kept_port=kept_port,
        linked=linked,
        members=members,
        running=running,
        transport=transport,
        until=until,
    )
