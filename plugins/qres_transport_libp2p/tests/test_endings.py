"""Why a link ended or did not come up is told, whatever the reason."""

from __future__ import annotations

import contextlib
import socket
import struct
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
import trio
from qres_transport_libp2p import frames

from qres_core import ACCEPT, Verdict, reject
from qres_core.transport import LinkReason, PeerChange


async def why(lab: SimpleNamespace, transport: Any, peer: bytes | None) -> tuple[PeerChange, Any]:
    """What is told first of a link of a peer that ended."""
    with anyio.fail_after(lab.PATIENCE):
        while True:
            event = await transport.event()
            if event.reason is not None and event.peer == peer:
                return event.change, event.reason


@pytest.mark.parametrize("case", ["close", "reset"])
def test_a_peer_that_goes_is_told_from_a_line_that_breaks(lab: SimpleNamespace, case: str) -> None:
    me, peer = lab.members(2)

    async def cut(transport: Any) -> None:
        """Break the only connection so that the other end is told by a reset."""

        async def work() -> None:
            await trio.lowlevel.checkpoint()
            (link,) = transport._parts.sessions._links.values()
            raw = link.muxed.secured_conn.conn.read_writer.read_write_closer.stream.stream
            linger = struct.pack("ii", 1, 0)
            raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            raw.socket.close()

        await transport._call(work)

    async def main() -> None:
        async with lab.Swarm() as swarm:
            first = lab.transport(me, [me, peer], dial=[])
            second = lab.transport(peer, [me, peer], dial=[me], reconnect_seconds=600.0)
            await swarm.start(first, second)
            await lab.connected(first, second)
            await (second.aclose() if case == "close" else cut(second))
            expected = LinkReason.CLOSED_BY_PEER if case == "close" else LinkReason.RESET
            assert await why(lab, first, peer.node_id) == (PeerChange.DOWN, expected)

    anyio.run(main)


def test_a_peer_that_is_away_is_a_dial_that_failed(lab: SimpleNamespace) -> None:
    me, peer = lab.members(2)

    async def main() -> None:
        async with lab.Swarm() as swarm:
            transport = lab.transport(me, [me, peer], dial=[peer])
            await swarm.start(transport)
            with anyio.fail_after(lab.PATIENCE):
                event = await transport.event()
            assert (event.change, event.peer) == (PeerChange.FAILED, peer.node_id)
            assert event.reason is LinkReason.DIAL_FAILED
            assert "refused" in event.detail.lower()

    anyio.run(main)


def test_both_ends_of_a_refused_hello_say_who_refused(lab: SimpleNamespace) -> None:
    me, peer = lab.members(2)
    verdicts = {me.node_id: ACCEPT, peer.node_id: reject("no-credential")}

    def ask(node: bytes, _shown: bytes) -> Verdict:
        return verdicts[node]

    async def main() -> None:
        async with lab.Swarm() as swarm:
            first = lab.transport(me, [me, peer], dial=[], admission=ask)
            second = lab.transport(peer, [me, peer], dial=[me], admission=ask)
            await swarm.start(first, second)
            here = await why(lab, first, peer.node_id)
            there = await why(lab, second, me.node_id)
            assert here == (PeerChange.REFUSED, LinkReason.REFUSED_HELLO)
            assert there == (PeerChange.REFUSED, LinkReason.REFUSED_BY_PEER)

    anyio.run(main)


def test_a_member_that_is_banned_is_refused_before_its_hello(lab: SimpleNamespace) -> None:
    me, peer = lab.members(2)

    def ask(_node: bytes, _shown: bytes) -> Verdict:
        return reject("banned")

    async def main() -> None:
        async with lab.Swarm() as swarm:
            first = lab.transport(me, [me, peer], dial=[], admission=ask)
            second = lab.transport(peer, [me, peer], dial=[me])
            await swarm.start(first, second)
            told = await why(lab, first, peer.node_id)
            assert told == (PeerChange.REFUSED, LinkReason.REFUSED_HELLO)

    anyio.run(main)


def test_a_peer_that_says_no_hello_let_its_deadline_pass(lab: SimpleNamespace) -> None:
    me, peer = lab.members(2)

    async def main() -> None:
        async with lab.Swarm() as swarm, lab.stock_host(peer) as host:
            transport = lab.transport(me, [me, peer], dial=[], hello_seconds=0.5)
            await swarm.start(transport)
            with contextlib.suppress(Exception):  # its time may pass while the dial goes on
                await lab.dial(host, me)
            told = await why(lab, transport, peer.node_id)
            assert told == (PeerChange.FAILED, LinkReason.TIMED_OUT)

    trio.run(main)


@pytest.mark.parametrize(
    ("size", "reason"), [(2**20, LinkReason.OVERRAN), (0, LinkReason.BROKE_PROTOCOL)]
)
def test_too_much_is_told_from_what_is_wrong(
    lab: SimpleNamespace, size: int, reason: LinkReason
) -> None:
    me, peer = lab.members(2)

    async def main() -> None:
        async with lab.Swarm() as swarm, lab.stock_host(peer) as host:
            transport = lab.transport(me, [me, peer], dial=[])
            await swarm.start(transport)
            assert await lab.greet(host, me) == b"\1"
            name = next(iter(host.get_connected_peers()))
            stream = await host.new_stream(name, [frames.PROTOCOL])
            await stream.write(size.to_bytes(4, "big"))
            # The peer was up, so that its end tells why; what it did comes first, without.
            assert (await lab.noticed(transport, PeerChange.BAD)).reason is None
            assert await why(lab, transport, peer.node_id) == (PeerChange.DOWN, reason)

    trio.run(main)
