"""Links over hubs that come and go, and members that do."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from qres_transport_grpc import lines
from qres_transport_grpc.wire import HubPlace

from qres_core import reject
from qres_core.errors import TransportError
from qres_core.transport import LinkReason, PeerChange


async def hears(lab: SimpleNamespace, sender: Any, to: Any, frame: bytes) -> None:
    with anyio.fail_after(lab.PATIENCE):
        while True:
            await sender.send(to._info.node_id, frame)
            with anyio.move_on_after(0.5):
                while (await to.receive()).frame != frame:
                    pass
                return


async def told(lab: SimpleNamespace, end: Any, change: PeerChange) -> Any:
    with anyio.fail_after(lab.PATIENCE):
        while (event := await end.event()).change is not change:
            pass
    return event


@pytest.mark.claim("C-grpc-16")
def test_a_hub_that_was_killed_and_started_again_is_found_again(
    hub: Callable[..., Any], lab: SimpleNamespace
) -> None:
    roster = lab.members(2)
    server = hub(roster)
    ends = [lab.transport(me, roster, [server]) for me in roster]

    async def main() -> None:
        async with lab.running(*ends):
            await hears(lab, *ends, b"first")
            await anyio.to_thread.run_sync(server.kill)
            failed = await told(lab, ends[0], PeerChange.FAILED)
            assert f"hub 127.0.0.1:{server.port}" in failed.detail
            assert failed.peer is None
            await ends[0].send(roster[1].node_id, b"into the void")
            await anyio.to_thread.run_sync(server.start)
            await hears(lab, *ends, b"second")  # the link outlived the hub
            await hears(lab, *reversed(ends), b"third")

    anyio.run(main)


@pytest.mark.claim("C-grpc-16")
def test_of_two_hubs_one_may_fail_without_a_link_going_down(
    hub: Callable[..., Any], lab: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody is given up because the machine halted; pings are sent as often as ever.
    monkeypatch.setattr("qres_transport_grpc.network.SILENCES", lab.PATIENCE)
    roster = lab.members(3)
    hubs = [hub(roster), hub(roster)]
    ends = [lab.transport(me, roster, hubs, ping_seconds=1.0) for me in roster]
    blob = bytes(3 * 2**20)

    async def echo(asker: bytes, data: bytes) -> bytes:
        return asker + data

    async def main() -> None:
        async with lab.running(*ends):
            await lab.until(lambda: all(len(each.server.members) == 3 for each in hubs))
            await anyio.to_thread.run_sync(hubs[0].kill)
            await hears(lab, *ends[:2], b"over the other")
            asked = await ends[0].request(roster[2].node_id, "/echo", b"?", lab.PATIENCE)
            assert asked == roster[0].node_id + b"?"
            ref = await ends[1].publish_blob(blob)
            assert await ends[2].fetch_blob(ref, [roster[1].node_id], lab.PATIENCE) == blob
            soon = time.monotonic() + 3.0  # pings are answered, and not what was under way
            links = [peer.link for end in ends for peer in end._network.peers.values()]
            assert len(links) == 6
            await lab.until(lambda: all(link.heard > soon for link in links))
            for end in ends:
                assert len(end.peers()) == 2
                with anyio.move_on_after(0.1):
                    while True:
                        assert (await end.event()).change is not PeerChange.DOWN

    for end in ends:
        end.handle("/echo", echo)
    anyio.run(main)


def at(server: Any, host: str, port: int | None = None) -> SimpleNamespace:
    """The same hub under another address."""
    address = f"{host}:{server.port if port is None else port}"
    return SimpleNamespace(option=f"{address}#{server.identity.digest}")


@pytest.mark.claim("C-grpc-24")
@pytest.mark.control("C-grpc-24")
@pytest.mark.parametrize("counted", [1, 2], ids=["guarded", "control"])
def test_a_hub_under_two_addresses_is_one_hub(
    hub: Callable[..., Any], lab: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, counted: int
) -> None:
    """Control: as two, it has two connections of each node, and each new one ends the other."""
    if counted == 2:
        monkeypatch.setattr(
            lines, "by_digest", lambda hubs: {text: (HubPlace.of(text),) for text in hubs}
        )
    roster = lab.members(2)
    server = hub(roster)
    ends = [lab.transport(me, roster, [server, at(server, "localhost")]) for me in roster]

    async def main() -> None:
        async with lab.running(*ends):
            assert [len(end._network.lines._uplinks) for end in ends] == [counted] * 2
            if counted == 2:
                while (await told(lab, ends[0], PeerChange.FAILED)).reason is not (
                    LinkReason.REPLACED
                ):
                    pass
                return
            for number in range(20):
                await hears(lab, *ends, b"%d" % number)
            with anyio.move_on_after(0.1):
                while True:
                    assert (await ends[0].event()).change is not PeerChange.FAILED

    anyio.run(main)


def test_of_the_addresses_of_a_hub_any_does(hub: Callable[..., Any], lab: SimpleNamespace) -> None:
    """Also after a reload: the connection goes where it is named now."""
    roster = lab.members(2)
    server = hub(roster)
    places = [at(server, "127.0.0.1", 1), server]  # nobody listens at the first
    ends = [lab.transport(me, roster, places) for me in roster]

    async def main() -> None:
        async with lab.running(*ends):
            await hears(lab, *ends, b"by the second")
            assert (await told(lab, ends[0], PeerChange.FAILED)).reason is LinkReason.DIAL_FAILED
            ends[0].aim([at(server, "localhost").option])
            uplinks = ends[0]._network.lines._uplinks
            await lab.until(lambda: [it.place.host for it in uplinks.values()] == ["localhost"])
            await lab.until(lambda: all(it.up for it in uplinks.values()))
            await hears(lab, *ends, b"by its name")

    anyio.run(main)


@pytest.mark.control("C-grpc-16")
def test_a_node_that_is_silent_goes_down_and_comes_back(
    hub: Callable[..., Any], lab: SimpleNamespace
) -> None:
    roster = lab.members(2)
    server = hub(roster)
    ends = [lab.transport(me, roster, [server], ping_seconds=0.3) for me in roster]

    async def main() -> None:
        async with lab.running(*ends):
            await anyio.to_thread.run_sync(server.kill)
            down = await told(lab, ends[0], PeerChange.DOWN)
            assert (down.peer, down.reason) == (roster[1].node_id, LinkReason.TIMED_OUT)
            await lab.until(lambda: not ends[0].peers())  # that may have been before the hub ended
            with pytest.raises(TransportError, match="QRES-E904"):
                await ends[0].request(roster[1].node_id, "/echo", b"?", 1.0)
            await anyio.to_thread.run_sync(server.start)
            await lab.linked(*ends)
            await hears(lab, *ends, b"again")

    anyio.run(main)


def test_members_come_and_go_with_the_roster(hub: Callable[..., Any], lab: SimpleNamespace) -> None:
    roster = lab.members(3)
    server = hub(roster)
    first, second = (lab.transport(me, roster[:2], [server]) for me in roster[:2])
    third = lab.transport(roster[2], roster, [server])
    ids = [node.node_id for node in roster]

    async def main() -> None:
        async with lab.running(first, second):
            await third.start()
            try:
                await anyio.sleep(0.5)
                assert [peer.node_id for peer in first.peers()] == [ids[1]]
                for end in (first, second):
                    end.follow(ids)
                await lab.linked(first, second, third)
                first.follow([ids[0], ids[2]])
                down = await told(lab, first, PeerChange.DOWN)
                assert (down.peer, down.reason) == (ids[1], LinkReason.NO_MEMBER)
                left = await told(lab, second, PeerChange.DOWN)
                assert (left.peer, left.reason) == (ids[0], LinkReason.CLOSED_BY_PEER)
                await first.send(ids[1], b"no more")
                first.follow(ids)
                await lab.linked(first, second, third)
                first.enter(7)
                first.enter(7)
            finally:
                await third.aclose()

    anyio.run(main)


def test_hubs_may_change_while_the_node_runs(hub: Callable[..., Any], lab: SimpleNamespace) -> None:
    roster = lab.members(2)
    old, new = hub(roster), hub(roster)
    ends = [lab.transport(me, roster, [old]) for me in roster]

    async def main() -> None:
        async with lab.running(*ends):
            for end in ends:
                end.aim((new.option,))
            await lab.until(lambda: len(new.server.members) == 2)
            await lab.until(lambda: not old.server.members)
            await hears(lab, *ends, b"over the new")

    anyio.run(main)


@pytest.mark.claim("C-grpc-12")
def test_who_is_not_admitted_any_more_goes_down_and_is_told(
    hub: Callable[..., Any], lab: SimpleNamespace
) -> None:
    roster = lab.members(2)
    server = hub(roster)
    banned: list[bytes] = []
    shown: list[bytes] = []

    def admission(peer: bytes, credential: bytes) -> Any:
        shown.append(credential)
        return reject("banned") if peer in banned else lab.admit_everybody(peer, credential)

    first = lab.transport(roster[0], roster, [server], admission=admission, readmit_seconds=0.5)
    second = lab.transport(
        roster[1], roster, [server], credential=lambda: b"my papers", readmit_seconds=0.5
    )

    async def main() -> None:
        async with lab.running(first, second):
            assert set(shown) == {b"my papers"}
            banned.append(roster[1].node_id)
            down = await told(lab, first, PeerChange.DOWN)
            assert down.reason is LinkReason.REFUSED_HELLO
            refused = await told(lab, first, PeerChange.REFUSED)
            assert (refused.peer, refused.detail) == (roster[1].node_id, "banned")
            down = await told(lab, second, PeerChange.DOWN)
            assert down.reason is LinkReason.REFUSED_BY_PEER
            banned.clear()
            await lab.linked(first, second)

    anyio.run(main)


def test_plugins_that_fail_admit_nobody(hub: Callable[..., Any], lab: SimpleNamespace) -> None:
    roster = lab.members(2)
    server = hub(roster)

    def broken(peer: bytes, credential: bytes) -> Any:
        raise LookupError(peer, credential)

    shows = [False]

    def credential() -> bytes:
        if not shows[0]:
            raise LookupError
        return b""

    first = lab.transport(roster[0], roster, [server], admission=broken)
    second = lab.transport(roster[1], roster, [server], credential=credential)

    async def main() -> None:
        for end in (first, second):
            await end.start()
        try:
            await anyio.sleep(1.0)
            assert first.stats().refused == 0  # nothing was shown yet
            shows[0] = True
            refused = await told(lab, first, PeerChange.REFUSED)
            assert "admission failed: LookupError" in refused.detail
            assert not first.peers()
        finally:
            for end in (first, second):
                await end.aclose()

    anyio.run(main)


def test_nodes_of_other_swarms_do_not_link(hub: Callable[..., Any], lab: SimpleNamespace) -> None:
    """Even where one hub lets both in."""
    roster = lab.members(2)
    servers = [hub(roster, swarm="one of two"), hub(roster, swarm="two of two")]
    # A hub of each swarm; a wire between them that pretends to be one hub.
    first = lab.transport(roster[0], roster, [servers[0]], swarm="one of two")
    second = lab.transport(roster[1], roster, [servers[1]], swarm="two of two")

    def join(mine: Any, other: Any) -> None:
        def route(sender: bytes, to: bytes, message: bytes) -> None:
            other.server._seats[to].outbox.put(sender + message, sender)
            other.server._seats[to].more.set()

        mine.server.route = route

    async def main() -> None:
        for end in (first, second):
            await end.start()
        try:
            await lab.until(lambda: all(server.server.members for server in servers))
            join(*servers)
            join(*reversed(servers))
            await lab.until(lambda: first.stats().reasons.get("another swarm", 0) > 0)
            assert not first.peers()
        finally:
            for end in (first, second):
                await end.aclose()

    anyio.run(main)


def test_blobs_are_kept_in_the_data_folder(
    hub: Callable[..., Any], lab: SimpleNamespace, tmp_path: Path
) -> None:
    roster = lab.members(2)
    server = hub(roster)
    first = lab.transport(roster[0], roster, [server], data_dir=tmp_path)
    second = lab.transport(roster[1], roster, [server])

    async def main() -> None:
        async with lab.running(first, second):
            ref = await first.publish_blob(b"kept" * 1000)
            assert await first.publish_blob(b"kept" * 1000) == ref
            assert (tmp_path / "blobs" / ref.root.hex()).stat().st_size == 4000
            holders = [roster[0].node_id]
            assert await second.fetch_blob(ref, holders, lab.PATIENCE) == b"kept" * 1000
            assert await second.fetch_blob(ref, [], 1.0) == b"kept" * 1000

    anyio.run(main)


def test_a_handler_runs_once_however_often_a_question_comes(
    hub: Callable[..., Any], lab: SimpleNamespace
) -> None:
    roster = lab.members(2)
    server = hub(roster)
    ends = [lab.transport(me, roster, [server], retry_seconds=0.05) for me in roster]
    asked: list[bytes] = []

    async def slow(asker: bytes, data: bytes) -> bytes:
        asked.append(asker)
        await anyio.sleep(0.5)
        return data

    async def main() -> None:
        async with lab.running(*ends):
            assert await ends[0].request(roster[1].node_id, "/slow", b"?", lab.PATIENCE) == b"?"
            assert len(asked) == 1

    ends[1].handle("/slow", slow)
    anyio.run(main)


def test_requests_at_once_are_limited_on_both_sides(
    hub: Callable[..., Any], lab: SimpleNamespace
) -> None:
    roster = lab.members(2)
    server = hub(roster)
    asks = lab.transport(roster[0], roster, [server], requests_total=3)
    answers = lab.transport(roster[1], roster, [server], requests_per_peer=2)
    gate = anyio.Event()
    refused: list[str] = []

    async def slow(asker: bytes, data: bytes) -> bytes:
        del asker
        await gate.wait()
        return data

    async def ask() -> None:
        try:
            await asks.request(roster[1].node_id, "/slow", b"?", lab.PATIENCE)
        except TransportError as error:
            refused.append(error.code)
            if len(refused) == 2:
                gate.set()

    async def main() -> None:
        async with lab.running(asks, answers):
            async with anyio.create_task_group() as group:
                for _ in range(4):
                    group.start_soon(ask)
            assert refused == ["QRES-E902", "QRES-E902"]  # one here, one there

    answers.handle("/slow", slow)
    anyio.run(main)
