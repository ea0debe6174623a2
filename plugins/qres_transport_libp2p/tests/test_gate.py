"""Who is let in, and what is served before that: nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import anyio
import pytest
import trio
from libp2p.custom_types import TProtocol
from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID, InsecureTransport
from qres_transport_libp2p import blobs, frames, hello, pubsub, requests

from qres_core import ACCEPT, reject
from qres_core.errors import RoundError
from qres_core.transport import LinkReason, PeerChange

OURS = (blobs.PROTOCOL, frames.PROTOCOL, requests.PROTOCOL, pubsub.GOSSIPSUB)


def plaintext(lab: SimpleNamespace, me: Any) -> dict[Any, Any]:
    return {TProtocol(PLAINTEXT_PROTOCOL_ID): InsecureTransport(lab.stock_pair(me))}


@pytest.mark.claim("C-transport-1")
def test_plaintext_is_refused(lab: SimpleNamespace) -> None:
    me, peer, other = lab.members(3)

    async def main() -> None:
        async with lab.Swarm() as swarm, lab.stock_host(peer, sec_opt=plaintext(lab, peer)) as host:
            async with lab.stock_host(other):  # control: libp2p as it comes accepts it
                await lab.dial(host, other)
            transport = lab.transport(me, [me, peer], dial=[])
            await swarm.start(transport)
            with pytest.raises(Exception, match="unable to connect"):
                await lab.dial(host, me)
            assert transport.peers() == ()

    trio.run(main)


@pytest.mark.claim("C-transport-1")
def test_a_stranger_is_refused_before_it_has_a_stream(lab: SimpleNamespace) -> None:
    me, peer, stranger = lab.members(3)

    async def main() -> None:
        async with lab.Swarm() as swarm, lab.stock_host(stranger) as host:
            transport = lab.transport(me, [me, peer], dial=[])
            await swarm.start(transport)
            with pytest.raises(Exception):  # noqa: B017, PT011 - libp2p says it in several ways
                await lab.greet(host, me)
            event = await lab.noticed(transport, PeerChange.REFUSED)
            assert event.peer is None
            assert event.reason is LinkReason.REFUSED_KEY
            assert "no key of the roster" in event.detail
            assert transport.stats().refused >= 1
            assert transport.peers() == ()

    trio.run(main)


def test_a_node_that_is_not_who_it_should_be_is_not_connected_to(lab: SimpleNamespace) -> None:
    me, peer, stranger = lab.members(3)

    async def main() -> None:
        async with lab.Swarm() as swarm, lab.stock_host(stranger):
            impostor = type(peer)(peer.key, stranger.port)  # the address of one, the key of another
            transport = lab.transport(me, [me, peer], dial=[impostor])
            await swarm.start(transport)
            await trio.sleep(2)
            assert transport.peers() == ()

    trio.run(main)


@pytest.mark.claim("C-libp2p-3")
@pytest.mark.long
def test_nothing_is_served_before_the_hello(lab: SimpleNamespace) -> None:
    me, peer = lab.members(2)
    asked: list[bytes] = []

    async def handler(_node: bytes, data: bytes) -> bytes:
        asked.append(data)
        return data

    async def main() -> None:
        async with lab.Swarm() as swarm, lab.stock_host(peer) as host:
            transport = lab.transport(me, [me, peer], dial=[], hello_seconds=5.0)
            transport.handle("ask", handler)
            await swarm.start(transport)
            ref = await transport.publish_blob(b"secret")
            name = await lab.dial(host, me)
            streams = {our: await host.new_stream(name, [our]) for our in OURS}
            await lab.block(streams[requests.PROTOCOL], b"ask")
            await lab.block(streams[requests.PROTOCOL], b"!")
            await lab.block(streams[frames.PROTOCOL], b"frame")
            await streams[blobs.PROTOCOL].write(ref.root + bytes(4))
            for protocol, stream in streams.items():
                with trio.fail_after(lab.PATIENCE):
                    assert await lab.last_words(stream) == b"", protocol
            assert transport.peers() == ()
            assert not asked
            with trio.fail_after(lab.PATIENCE):  # and who says nothing is not kept
                while host.get_network().get_connections(name):  # noqa: ASYNC110
                    await trio.sleep(0.05)

    trio.run(main)


@pytest.mark.claim("C-transport-1")
@pytest.mark.parametrize("case", ["credential", "swarm"])
def test_a_node_of_the_roster_may_be_turned_away(lab: SimpleNamespace, case: str) -> None:
    me, peer = lab.members(2)
    said = {"credential": {"credential": b"forged"}, "swarm": {"swarm": "other"}}[case]

    async def main() -> None:
        async with lab.Swarm() as swarm, lab.stock_host(peer) as host:
            transport = lab.transport(
                me,
                [me, peer],
                dial=[],
                admission=lambda _node, shown: ACCEPT if shown != b"forged" else reject("forged"),
            )
            await swarm.start(transport)
            assert await lab.greet(host, me, **said) == hello.REFUSED
            event = await lab.noticed(transport, PeerChange.REFUSED)
            assert event.peer == peer.node_id
            assert event.detail.startswith("forged" if case == "credential" else "of another swarm")
            assert transport.stats().refused == 1
            assert transport.peers() == ()

    trio.run(main)


@pytest.mark.control("C-libp2p-3", "C-transport-1")
def test_control_the_same_host_is_let_in_with_the_right_words(lab: SimpleNamespace) -> None:
    me, peer = lab.members(2)

    async def main() -> None:
        async with lab.Swarm() as swarm, lab.stock_host(peer) as host:
            transport = lab.transport(me, [me, peer], dial=[])
            await swarm.start(transport)
            assert await lab.greet(host, me) == hello.WELCOME
            assert (await lab.noticed(transport, PeerChange.UP)).peer == peer.node_id

    trio.run(main)


def test_both_credentials_are_shown_and_both_ends_decide(lab: SimpleNamespace) -> None:
    roster = lab.members(2)
    seen: list[tuple[bytes, bytes]] = []

    def admission(node: bytes, shown: bytes) -> Any:
        seen.append((node, shown))
        return ACCEPT

    async def main() -> None:
        async with lab.Swarm() as swarm:
            both = [
                lab.transport(
                    me, roster, admission=admission, credential=lambda me=me: me.node_id * 2
                )
                for me in roster
            ]
            await swarm.start(*both)
            await lab.connected(*both)

    anyio.run(main)
    hellos = {(node, shown) for node, shown in seen if shown}  # the gate asks before any is shown
    assert hellos == {(me.node_id, me.node_id * 2) for me in roster}


@pytest.mark.claim("C-transport-1")
def test_admission_is_asked_again_and_a_ban_ends_the_connection(lab: SimpleNamespace) -> None:
    roster = lab.members(2)
    banned: list[bytes] = []

    def admission(node: bytes, _shown: bytes) -> Any:
        return reject("banned") if node in banned else ACCEPT

    async def main() -> None:
        async with lab.Swarm() as swarm:
            transport = lab.transport(roster[0], roster, admission=admission, readmit_seconds=0.5)
            two = lab.transport(roster[1], roster, readmit_seconds=0.5)
            await swarm.start(transport, two)
            await lab.connected(transport, two)
            banned.append(roster[1].node_id)
            assert (await lab.noticed(transport, PeerChange.REFUSED)).peer == roster[1].node_id
            await lab.noticed(two, PeerChange.DOWN)
            banned.clear()
            await lab.connected(transport, two)

    anyio.run(main)


@pytest.mark.claim("C-transport-1")
@pytest.mark.parametrize("reason", sorted(hello.LASTING))
@pytest.mark.parametrize("inbound", [True, pytest.param(False, marks=pytest.mark.long)])
def test_who_is_banned_or_revoked_does_not_get_as_far_as_a_hello(
    lab: SimpleNamespace,
    reason: str,
    inbound: bool,  # noqa: FBT001 - the case
) -> None:
    """Also where that happens while the node runs; the control is another reason."""
    me, peer = lab.members(2)
    why: list[str] = []

    def admission(_node: bytes, shown: bytes) -> Any:
        # As a plugin that knows certificates: what is revoked is one of them, and not the key.
        return reject(why[0]) if why and (shown or why[0] == "banned") else ACCEPT

    async def main() -> None:
        async with lab.Swarm() as swarm:
            options = {"admission": admission, "readmit_seconds": 0.5}
            transport = lab.transport(me, [me, peer], dial=[] if inbound else [peer], **options)
            card = {"credential": lambda: b"card"}
            two = lab.transport(peer, [me, peer], dial=[me] if inbound else [], **card)
            await swarm.start(transport, two)
            await lab.connected(transport, two)
            why.append("another")
            event = await lab.noticed(transport, PeerChange.REFUSED)
            assert event.detail.startswith("another (127.0.0.1:")  # by its hello
            why[0] = reason
            while not (await lab.noticed(transport, PeerChange.REFUSED)).detail.startswith(
                f"{reason} (before its hello)"
            ):
                pass
            asked = transport.stats().reasons["not admitted"]
            for _ in range(2):
                event = await lab.noticed(transport, PeerChange.REFUSED)
                assert event.detail == f"{reason} (before its hello)"
            assert transport.stats().reasons["not admitted"] == asked
            assert transport.stats().reasons["barred"] >= 3
            why.clear()
            await lab.connected(transport, two)

    anyio.run(main)


def test_a_node_that_cannot_be_asked_bars_everybody(lab: SimpleNamespace) -> None:
    """Its loop is busy for longer than a handshake may take; afterwards all is well."""
    me, peer = lab.members(2)

    async def main() -> None:
        async with lab.Swarm() as swarm, lab.stock_host(peer) as host:
            transport = lab.transport(me, [me, peer], dial=[])
            await swarm.start(transport)

            async def never(*_asked: object) -> Any:
                raise TimeoutError

            ask = transport._network.greeter.caller.ask
            transport._network.greeter.caller.ask = never
            with pytest.raises(Exception, match="unable to connect"):
                await lab.dial(host, me)
            event = await lab.noticed(transport, PeerChange.REFUSED)
            assert event.detail == "this node is busy (before its hello)"
            transport._network.greeter.caller.ask = ask
            assert await lab.greet(host, me) == hello.WELCOME

    trio.run(main)


def test_an_admission_that_fails_admits_nobody(lab: SimpleNamespace) -> None:
    roster = lab.members(2)

    def admission(_node: bytes, _shown: bytes) -> Any:
        raise LookupError

    async def main() -> None:
        async with lab.Swarm() as swarm:
            transport = lab.transport(roster[0], roster, admission=admission)
            await swarm.start(transport, lab.transport(roster[1], roster))
            assert "LookupError" in (await lab.noticed(transport, PeerChange.REFUSED)).detail
            assert transport.peers() == ()

    anyio.run(main)


@pytest.mark.claim("C-libp2p-4")
@pytest.mark.control("C-libp2p-4")
def test_two_nodes_do_not_share_a_port(lab: SimpleNamespace) -> None:
    me, peer = lab.members(2)
    here = type(peer)(peer.key, me.port)

    async def main() -> None:
        async with lab.Swarm() as swarm:
            await swarm.start(lab.transport(me, [me, peer], dial=[]))
            with pytest.raises(RoundError, match=r"QRES-E603.*in use"):
                await swarm.start(lab.transport(here, [me, peer], dial=[]))
            # control: libp2p as it comes listens on the port of another host
            async with lab.stock_host(here) as host:
                assert any(str(me.port) in str(get_addr) for get_addr in host.get_addrs())

    trio.run(main)
