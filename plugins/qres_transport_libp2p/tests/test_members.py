"""Members that change while nodes run: who is added may connect, who is removed is cut off."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import anyio
import attrs
import pytest
from multiaddr import Multiaddr
from qres_lab.testing import make_round_info
from qres_transport_libp2p import Libp2p
from qres_transport_libp2p.identity import peer_id

from qres_core import NodeInfo
from qres_core.errors import ConfigError
from qres_core.transport import PeerChange


def ids(*nodes: Any) -> tuple[bytes, ...]:
    return tuple(sorted(node.node_id for node in nodes))


@pytest.mark.claim("C-libp2p-27")
def test_who_is_added_may_connect_and_is_heard_by_all(lab: SimpleNamespace) -> None:
    first, second, newcomer = everybody = lab.members(3)

    async def main() -> None:
        async with lab.Swarm() as swarm:
            # The first names the address of the later member; it is not dialled before it joins.
            one_end = lab.transport(first, [first, second], dial=[second, newcomer])
            other = lab.transport(second, [first, second])
            third = lab.transport(newcomer, everybody)
            await swarm.start(one_end, other, third)
            await lab.connected(one_end, other)
            await lab.noticed(one_end, PeerChange.REFUSED)
            assert {peer.node_id for peer in one_end.peers()} == {second.node_id}
            for node in (one_end, other):
                node.follow(ids(*everybody))
            await lab.connected(one_end, other, third)
            await third.broadcast(b"here I am")
            for node in (one_end, other):
                assert (await lab.heard(node, b"here I am")).frame == b"here I am"
            await one_end.send(newcomer.node_id, b"welcome")
            assert (await lab.heard(third, b"welcome")).link == first.node_id

    anyio.run(main)


@pytest.mark.claim("C-libp2p-27")
def test_who_is_removed_is_told_so_disconnected_and_may_come_back(
    lab: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A machine that halts meanwhile would take the time to say so.
    monkeypatch.setattr("qres_transport_libp2p.network.LEAVING_SECONDS", 20.0)
    first, second, gone = everybody = lab.members(3)

    async def main() -> None:
        async with lab.Swarm() as swarm:
            all_of_them = [lab.transport(node, everybody) for node in everybody]
            here, other, removed = all_of_them
            await swarm.start(*all_of_them)
            await lab.connected(*all_of_them)
            for node in (here, other):
                node.follow(ids(first, second))
            await here.send(gone.node_id, b"you are out")
            assert (await lab.heard(removed, b"you are out")).link == first.node_id
            for node in (here, other):
                event = await lab.noticed(node, PeerChange.DOWN)
                assert event.peer == gone.node_id

            async def speak() -> None:
                while True:  # gossip may lose what is said while its mesh forms anew
                    await removed.broadcast(b"I am still here")
                    await other.broadcast(b"after that")
                    await anyio.sleep(0.2)

            with anyio.fail_after(lab.PATIENCE):
                async with anyio.create_task_group() as group:
                    group.start_soon(speak)
                    delivery = await here.receive()
                    group.cancel_scope.cancel()
            assert delivery.frame == b"after that"
            assert {peer.node_id for peer in here.peers()} == {second.node_id}
            for node in (here, other):
                node.follow(ids(*everybody))
            await lab.connected(*all_of_them)

    anyio.run(main)


@pytest.mark.claim("C-libp2p-20")
def test_gossip_goes_on_over_the_connection_that_is_left(lab: SimpleNamespace) -> None:
    """What a peer that returned found: its old connection was over, and had not said so yet.

    Nobody says anything meanwhile, and no ping looks after anybody.
    """
    first, second = both = lab.members(2)

    async def main() -> None:
        async with lab.Swarm() as swarm:
            quiet = {"ping_seconds": 10 * lab.PATIENCE}
            dialler = lab.transport(first, list(both), **quiet)
            listener = lab.transport(second, list(both), dial=[], **quiet)
            await swarm.start(dialler, listener)
            await lab.connected(dialler, listener)
            there, here = peer_id(second.node_id), peer_id(first.node_id)

            async def again() -> None:
                network: Any = dialler._parts.host.get_network()
                await network.dial_addr(Multiaddr(second.address), there)

            async def links(node: Any, peer: Any) -> int:
                return sum(link.admitted for link in node._parts.sessions.of(peer))

            async def end_the_first() -> None:
                sessions = dialler._parts.sessions
                await sessions.abort(sessions.of(there)[0])

            async def is_reached() -> bool:
                stream = listener._parts.gossip.pubsub.peers.get(here)
                return stream is not None and not stream.muxed_conn.is_closed

            with anyio.fail_after(lab.PATIENCE):
                await dialler._call(again)
                for node, peer in ((dialler, there), (listener, here)):
                    while await node._call(links, node, peer) < 2:  # noqa: ASYNC110
                        await anyio.sleep(0.02)
                await dialler._call(end_the_first)
                while await listener._call(links, listener, here) > 1:  # noqa: ASYNC110
                    await anyio.sleep(0.02)
                while not await listener._call(is_reached):  # noqa: ASYNC110
                    await anyio.sleep(0.02)
                # Each leaves the old connection by itself, a moment sooner or later.
                await lab.connected(dialler, listener)

    anyio.run(main)


def test_what_a_new_member_says_costs_who_passes_it_on_nothing(lab: SimpleNamespace) -> None:
    """The first node is a height behind: it does not know the third, whom the second knows."""
    first, second, newcomer = everybody = lab.members(3)

    async def main() -> None:
        async with lab.Swarm() as swarm:
            behind = lab.transport(first, [first, second])
            relay = lab.transport(second, everybody)
            new = lab.transport(newcomer, everybody, dial=[second])
            await swarm.start(behind, relay, new)
            await lab.connected(behind, relay)
            await lab.connected(relay, new)
            with anyio.fail_after(lab.PATIENCE):
                while not behind.stats().reasons.get("gossip: author is no member"):
                    await new.broadcast(b"too new")
                    await anyio.sleep(0.2)
            assert (await lab.reaches(relay, behind, b"and this")).link == second.node_id
            assert {peer.node_id for peer in behind.peers()} == {second.node_id}
            assert behind.stats().malformed == 0

    anyio.run(main)


def test_the_plugin_hands_the_members_of_a_round_to_its_transport(
    lab: SimpleNamespace, caplog: Any
) -> None:
    first, second, newcomer = lab.members(3)
    plugin = Libp2p(peers=(newcomer.address,))
    plugin.round_opened(make_round_info())  # before there is a transport
    with caplog.at_level(logging.WARNING):
        transport: Any = plugin.transport(
            NodeInfo(first.node_id, "test", ids(first, second)),
            lab.admit_everybody,
            bytes,
            first.keys,
        )
    assert transport._members.peers.keys() == {second.node_id}
    round_info = attrs.evolve(make_round_info(), roster=ids(first, newcomer))
    plugin.round_opened(round_info)
    assert transport._members.peers.keys() == {newcomer.node_id}
    assert set(transport._members.nodes.values()) == {newcomer.node_id}
    before = transport._members.nodes
    plugin.round_opened(round_info)
    assert transport._members.nodes is before, "nothing is made anew where nothing changed"


def test_other_addresses_are_dialled_while_the_node_runs(lab: SimpleNamespace) -> None:
    first, second = both = lab.members(2)
    nowhere = type(second)(second.key, lab.free_ports(1)[0])

    async def main() -> None:
        async with lab.Swarm() as swarm:
            here = lab.transport(first, list(both), dial=[nowhere])
            there = lab.transport(second, list(both), dial=[])
            await swarm.start(here, there)
            await lab.noticed(here, PeerChange.FAILED)
            assert here.peers() == (), "control: the address is wrong"
            with pytest.raises(ConfigError, match="QRES-E105"):
                here.aim(attrs.evolve(here._options, peers=("/ip4/127.0.0.1/tcp/1",)))
            here.aim(attrs.evolve(here._options, peers=(second.address,)))
            await lab.connected(here, there)

    anyio.run(main)


@pytest.mark.control("C-libp2p-27")
def test_a_member_that_was_added_is_not_called_a_stranger(
    lab: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    first, second, newcomer = lab.members(3)
    here = lab.transport(first, [first, second], dial=[])
    fresh = attrs.evolve(here._options, peers=(newcomer.address,))
    here.aim(fresh)
    assert "is no member now" in caplog.text, "control: it is none yet"
    caplog.clear()
    here.follow(ids(first, second, newcomer))
    here.aim(fresh)
    assert not caplog.records
