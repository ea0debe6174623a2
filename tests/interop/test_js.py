"""Nodes and a peer on js-libp2p: one protocol, two programs that share no code.

The Python side is used through the plugin's hook and :class:`qres_core.transport.Transport` alone.
"""

from __future__ import annotations

import hashlib
import random
import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest
from js_peer import SECONDS, JavaScriptPeer, javascript_peer
from nacl.signing import SigningKey
from qres_transport_libp2p.curves import without_fastecdsa

with warnings.catch_warnings(), without_fastecdsa():
    warnings.simplefilter("ignore")  # libp2p's own dependencies are not ours to mend
    import libp2p  # noqa: F401

from qres_transport_libp2p import Libp2p
from qres_transport_libp2p.identity import peer_id

from qres_core import ACCEPT, NodeId, NodeInfo, Verdict, reject
from qres_core.errors import TransportError
from qres_core.swarm.runtime.carrier import Announce
from qres_core.transport import BlobRef, LinkKeys, PeerChange

pytestmark = pytest.mark.interop

SWARM = "interop"
PYTHON, OTHER, SCRIPT, STRANGER = (
    SigningKey(hashlib.sha256(name).digest())
    for name in (b"python", b"other", b"javascript", b"stranger")
)
MEMBERS = (PYTHON, OTHER, SCRIPT)
FIVE_MB = random.Random(5).randbytes(5 * 10**6)


def _public(key: SigningKey) -> NodeId:
    return bytes(key.verify_key)


async def _until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(SECONDS):
        while not condition():  # noqa: ASYNC110 - a Transport tells of no change
            await anyio.sleep(0.05)


@attrs.define(eq=False)
class Side:
    """A Python node, and whom it was asked to admit."""

    transport: Any
    shown: list[tuple[NodeId, bytes]] = attrs.field(factory=list[tuple[NodeId, bytes]])
    asked: list[tuple[NodeId, bytes]] = attrs.field(factory=list[tuple[NodeId, bytes]])

    @property
    def address(self) -> str:
        return str(self.transport.addresses[0])

    async def up(self, node: NodeId) -> None:
        await _until(lambda: node in [peer.node_id for peer in self.transport.peers()])

    async def event(self, change: PeerChange) -> Any:
        with anyio.fail_after(SECONDS):
            while (event := await self.transport.event()).change is not change:
                pass
            return event


@asynccontextmanager
async def _python(
    key: SigningKey = PYTHON,
    *,
    roster: tuple[SigningKey, ...] = MEMBERS,
    verdict: Verdict = ACCEPT,
    peers: tuple[str, ...] = (),
) -> AsyncGenerator[Side]:
    keys = LinkKeys(
        _public(key), lambda statement: key.sign(statement).signature, lambda node: node
    )
    info = NodeInfo(_public(key), SWARM, tuple(sorted(map(_public, roster))), data_dir=None)

    def admission(node: NodeId, credential: bytes) -> Verdict:
        side.shown.append((node, credential))
        return verdict

    async def shout(node: NodeId, data: bytes) -> bytes:
        side.asked.append((node, data))
        return data.upper()

    plugin = Libp2p(peers=peers, reconnect_seconds=0.3, ping_seconds=1.0, readmit_seconds=0.5)
    side = Side(plugin.transport(info, admission, lambda: b"python's", keys))
    side.transport.handle("shout", shout)
    try:
        await side.transport.start()
        yield side
    finally:
        with anyio.CancelScope(shield=True):
            await side.transport.aclose()


def _script(node: str, key: SigningKey = SCRIPT) -> Any:
    return javascript_peer(
        node,
        seed=bytes(key),
        swarm=SWARM,
        credential=b"javascript's",
        roster=[_public(member) for member in MEMBERS],
    )


@pytest.fixture
def pair(node: str) -> Callable[[Callable[[Side, JavaScriptPeer], Awaitable[None]]], None]:
    """Runs a scenario between a Python node and a peer that has dialled it."""

    def run(scenario: Callable[[Side, JavaScriptPeer], Awaitable[None]]) -> None:
        async def main() -> None:
            async with _python() as python, _script(node) as script:
                assert await script.do("dial", address=python.address) == _peer(PYTHON)
                await python.up(_public(SCRIPT))
                await scenario(python, script)

        anyio.run(main)

    return run


def _peer(key: SigningKey) -> str:
    return str(peer_id(_public(key)))


async def _meshed(side: Side, script: JavaScriptPeer) -> None:
    """Broadcast until the peer hears it: gossip begins some time after admission."""
    with anyio.fail_after(SECONDS):
        number = 0
        while not any(event.get("how") == "gossip" for event in script.events):
            number += 1
            await side.transport.broadcast(b"anybody? %d" % number)
            await anyio.sleep(0.2)


async def _heard(side: Side, frame: bytes) -> Any:
    with anyio.fail_after(SECONDS):
        while (delivery := await side.transport.receive()).frame != frame:
            pass
        return delivery


Pair = Callable[[Callable[[Side, JavaScriptPeer], Awaitable[None]]], None]


def test_a_seed_gives_one_identity(node: str) -> None:
    async def main() -> None:
        for key in MEMBERS:
            async with _script(node, key) as script:
                assert script.peer_id == _peer(key)

    anyio.run(main)


def test_hellos_carry_credentials_both_ways(pair: Pair) -> None:
    async def scenario(python: Side, script: JavaScriptPeer) -> None:
        # Nobody has shown anything when the handshake ends, and bans are asked about then.
        assert set(python.shown) == {(_public(SCRIPT), b""), (_public(SCRIPT), b"javascript's")}
        admitted = await script.event(event="admitted", peer=_peer(PYTHON))
        assert bytes.fromhex(admitted["credential"]) == b"python's"

    pair(scenario)


def test_the_peer_is_admitted_again_and_stays(pair: Pair) -> None:
    """Greeted anew, pinged, and looked at for its subscription, each several times."""

    async def scenario(python: Side, script: JavaScriptPeer) -> None:
        await _until(lambda: len(python.shown) >= 5)
        await anyio.sleep(6.0)
        assert not [event for event in script.events if event["event"] == "closed"]
        assert [peer.node_id for peer in python.transport.peers()] == [_public(SCRIPT)]
        assert python.transport.stats().malformed == 0

    pair(scenario)


def test_python_dials(node: str) -> None:
    async def main() -> None:
        async with _script(node) as script, _python(peers=(script.address,)) as python:
            await python.up(_public(SCRIPT))
            assert await script.event(event="admitted", by="inbound")
            told = await script.do("request", to=_peer(PYTHON), protocol="shout", data=b"a".hex())
            assert bytes.fromhex(told) == b"A"

    anyio.run(main)


def test_gossip_both_ways(pair: Pair) -> None:
    async def scenario(python: Side, script: JavaScriptPeer) -> None:
        await _meshed(python, script)
        sizes = [1, 100, 4096, python.transport.limits.frame] * 5
        frames = [bytes([number]) * size for number, size in enumerate(sizes, 1)]
        for frame in frames:
            await python.transport.broadcast(frame)
            assert await script.do("publish", frame=frame.hex()) == 1
        for frame in frames:
            told = await script.event(how="gossip", frame=frame.hex())
            assert told["link"] == told["author"] == _peer(PYTHON)
            assert (await _heard(python, frame)).link == _public(SCRIPT)
        # Each once: what js published is not handed back to it, nor delivered twice to either.
        await anyio.sleep(2.5)
        got = [event["frame"] for event in script.events if event.get("how") == "gossip"]
        assert len(got) == len(set(got))
        assert {frame.hex() for frame in frames} <= set(got)
        assert python.transport.stats().malformed == 0

    pair(scenario)


def test_frames_for_one_node_both_ways(pair: Pair) -> None:
    async def scenario(python: Side, script: JavaScriptPeer) -> None:
        for number in range(10):
            await python.transport.send(_public(SCRIPT), b"to js %d" % number)
            await script.do("send", to=_peer(PYTHON), frame=(b"to py %d" % number).hex())
        for number in range(10):
            assert await script.event(how="stream", frame=(b"to js %d" % number).hex())
            delivery = await _heard(python, b"to py %d" % number)
            assert delivery.link == _public(SCRIPT)

    pair(scenario)


def test_requests_both_ways(pair: Pair) -> None:
    async def scenario(python: Side, script: JavaScriptPeer) -> None:
        to = _public(SCRIPT)
        for size in (1, 65537, python.transport.limits.request):
            data = random.Random(size).randbytes(size)
            assert await python.transport.request(to, "reverse", data, SECONDS) == data[::-1]
            told = await script.do("request", to=_peer(PYTHON), protocol="shout", data=data.hex())
            assert bytes.fromhex(told) == data.upper()
            assert python.asked[-1] == (to, data)
        with pytest.raises(TransportError, match="E907"):
            await python.transport.request(to, "unheard-of", b"x", SECONDS)
        with pytest.raises(RuntimeError, match="no such protocol"):
            await script.do("request", to=_peer(PYTHON), protocol="unheard-of", data="00")

    pair(scenario)


def test_the_peer_pulls_an_announced_blob(pair: Pair) -> None:
    async def scenario(python: Side, script: JavaScriptPeer) -> None:
        await _meshed(python, script)
        ref = await python.transport.publish_blob(FIVE_MB)
        frame = Announce(ref, private=False).to_bytes()
        await python.transport.broadcast(frame)
        told = await script.event(how="gossip", frame=frame.hex())
        got = await script.do("fetch", announcement=told["frame"], **{"from": told["author"]})
        assert got == {"size": len(FIVE_MB), "sha256": hashlib.sha256(FIVE_MB).hexdigest()}
        absent = Announce(BlobRef.of(b"never published"), private=False).to_bytes()
        with pytest.raises(RuntimeError, match="not here"):
            await script.do("fetch", announcement=absent.hex(), **{"from": _peer(PYTHON)})

    pair(scenario)


def test_python_pulls_a_blob_of_the_peer(pair: Pair, tmp_path: Path) -> None:
    async def scenario(python: Side, script: JavaScriptPeer) -> None:
        file = tmp_path / "blob"
        file.write_bytes(FIVE_MB)
        frame = bytes.fromhex(await script.do("hold", file=str(file)))
        announced = Announce.from_bytes(frame, max_bytes=len(FIVE_MB))
        assert announced.ref == BlobRef.of(FIVE_MB)
        assert announced.to_bytes() == frame
        data = await python.transport.fetch_blob(announced.ref, [_public(SCRIPT)], SECONDS)
        assert data == FIVE_MB

    pair(scenario)


def test_a_wrong_chunk_of_the_peer_is_noticed(pair: Pair, tmp_path: Path) -> None:
    async def scenario(python: Side, script: JavaScriptPeer) -> None:
        file = tmp_path / "blob"
        file.write_bytes(FIVE_MB)
        frame = bytes.fromhex(await script.do("hold", file=str(file), spoil=4 * 10**6))
        ref = Announce.from_bytes(frame, max_bytes=len(FIVE_MB)).ref
        with pytest.raises(TransportError, match="E906"):
            await python.transport.fetch_blob(ref, [_public(SCRIPT)], SECONDS)
        assert (await python.event(PeerChange.BAD)).peer == _public(SCRIPT)

    pair(scenario)


@pytest.mark.claim("C-transport-4")
def test_the_peer_relays_between_nodes(node: str) -> None:
    """Two Python nodes that know only the peer between them: it passes gossip on."""

    async def main() -> None:
        async with AsyncExitStack() as stack:
            script = await stack.enter_async_context(_script(node))
            sides = [
                await stack.enter_async_context(_python(key, peers=(script.address,)))
                for key in (PYTHON, OTHER)
            ]
            for side in sides:
                await side.up(_public(SCRIPT))
            first, second = sides
            with anyio.move_on_after(SECONDS) as late:
                number = 0
                async with anyio.create_task_group() as group:

                    async def listen() -> None:
                        delivery = await second.transport.receive()
                        assert delivery.frame.startswith(b"passed on")
                        assert delivery.link == _public(SCRIPT)
                        assert delivery.author == _public(PYTHON)
                        group.cancel_scope.cancel()

                    group.start_soon(listen)
                    while True:
                        number += 1
                        await first.transport.broadcast(b"passed on %d" % number)
                        await anyio.sleep(0.2)
            assert not late.cancelled_caught

    anyio.run(main)


@pytest.mark.parametrize("known", [True, False])
def test_only_keys_of_the_roster_connect(node: str, known: bool) -> None:  # noqa: FBT001
    key = SCRIPT if known else STRANGER

    async def main() -> None:
        async with _python() as python, _script(node, key) as script:
            if known:
                assert await script.do("dial", address=python.address)
                assert await python.event(PeerChange.UP)
                return
            with pytest.raises(RuntimeError):
                await script.do("dial", address=python.address)
            refused = await python.event(PeerChange.REFUSED)
            assert refused.peer is None
            assert _peer(STRANGER) in refused.detail
            assert not python.shown
            assert not python.transport.peers()
            assert python.transport.stats().refused >= 1

    anyio.run(main)


def test_the_peer_refuses_keys_outside_its_roster(node: str) -> None:
    async def main() -> None:
        everybody = (*MEMBERS, STRANGER)
        async with _python(STRANGER, roster=everybody) as python, _script(node) as script:
            with pytest.raises(RuntimeError):
                await script.do("dial", address=python.address)
            assert not python.transport.peers()

    anyio.run(main)


def test_who_is_not_admitted_gets_nothing(node: str) -> None:
    async def main() -> None:
        no = reject("revoked")
        async with _python(verdict=no) as python, _script(node) as script:
            with pytest.raises(RuntimeError, match="refused"):
                await script.do("dial", address=python.address)
            event = await python.event(PeerChange.REFUSED)
            assert event.peer == _public(SCRIPT)
            assert "revoked" in event.detail
            assert await script.event(event="closed", peer=_peer(PYTHON))
            assert not python.asked
            assert not python.transport.peers()

    anyio.run(main)
