"""A thread that does not come to an end is seen from the node's, with the peer it works for."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from qres_transport_libp2p.identity import peer_id

from qres_core.node.watchdog import CODE, Watchdog
from qres_core.transport import AttendedTransport


class Said:
    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def error(self, event: str, **fields: Any) -> None:
        self.lines.append((event, fields))

    warning = error


@pytest.mark.claim("C-libp2p-35")
@pytest.mark.control("C-watchdog-1")
def test_a_thread_that_a_peer_keeps_busy_is_named_with_the_peer(
    lab: SimpleNamespace,
) -> None:
    """The thread stands in what a message of the other node set off, until this test lets it go."""
    roster = lab.members(2)
    stands, goes_on = threading.Event(), threading.Event()
    said = Said()

    async def main() -> None:
        async with lab.Swarm() as swarm:
            item, two = (lab.transport(me, roster) for me in roster)
            await swarm.start(item, two)
            await lab.connected(item, two)
            offered: object = item
            assert isinstance(offered, AttendedTransport)
            await item.attend()
            pubsub = item._parts.gossip.pubsub

            def stand_still(*_message: object) -> None:
                stands.set()
                goes_on.wait(lab.PATIENCE)

            pubsub.notify_subscriptions = stand_still
            await two.broadcast(b"the last straw")
            with anyio.fail_after(lab.PATIENCE):
                while not stands.is_set():  # noqa: ASYNC110 - of another thread
                    await anyio.sleep(0.02)
            now = 0.0
            dog = Watchdog(said, lambda: now)
            async with anyio.create_task_group() as group:
                group.start_soon(dog.run, item)
                await anyio.sleep(0.1)
                for _ in range(12):
                    now += 1.0
                    dog.look(item.doing)
                assert str(peer_id(roster[1].node_id)) in dog.trouble
                assert "stand_still" in dog.trouble
                assert dog.trouble.startswith(CODE)
                goes_on.set()
                with anyio.fail_after(lab.PATIENCE):
                    while dog.trouble:  # noqa: ASYNC110 - as above
                        await anyio.sleep(0.02)
                group.cancel_scope.cancel()

    anyio.run(main, backend="trio")
    assert [event for event, _fields in said.lines] == [
        "transport stands still",
        "transport runs again",
    ]


@pytest.mark.control("C-libp2p-35")
def test_control_a_thread_that_runs_is_not(lab: SimpleNamespace) -> None:
    roster = lab.members(2)
    said = Said()

    async def main() -> None:
        async with lab.Swarm() as swarm:
            item, two = (lab.transport(me, roster) for me in roster)
            await swarm.start(item, two)
            await lab.connected(item, two)
            now = 0.0
            dog = Watchdog(said, lambda: now)
            for _ in range(5):
                dog.asked()
                await item.attend()
                dog.answered()
                now += 1.0
                dog.look(item.doing)

    anyio.run(main, backend="trio")
    assert not said.lines


def test_it_is_said_when_a_member_that_is_away_is_dialled_next(lab: SimpleNamespace) -> None:
    here, away = lab.members(2)

    async def main() -> None:
        async with lab.Swarm() as swarm:
            item = lab.transport(here, [here, away], reconnect_seconds=30.0)
            assert not item.dials()
            await swarm.start(item)
            with anyio.fail_after(lab.PATIENCE):
                while not item.dials():  # noqa: ASYNC110 - the first try has failed by then
                    await anyio.sleep(0.02)
            assert 0 < item.dials()[away.node_id] <= 75

    anyio.run(main, backend="trio")
