"""A node that the members removed stops in order, and the others go on without it."""

from __future__ import annotations

import anyio

from qres_core.kernel.config import parse
from qres_core.kernel.node_ids import node_ids
from qres_core.node.status import StatusBoard
from qres_core.swarm.context.effects import Removed
from qres_core.swarm.machine.rounds import RoundMachine
from qres_core.swarm.runtime.node import Event, Node, run_node
from qres_core.training.tasks import TaskConfig, make_task

IDS = node_ids(5, 1)
LEAVES = IDS[4]
ROUNDS = 6


def test_the_node_returns_and_its_status_says_why(virtual_time: object) -> None:
    assert virtual_time
    task = make_task(TaskConfig(name="quadratic", dimension=6), nodes=5, seed=1)
    swarm = {"name": "leave", "nodes": 5, "byzantine": 1, "quorum": 4, "insecure": True}
    plugins = {"memory": {}, "mean": {"unprotected": True}}
    config = parse({"swarm": swarm, "plugins": plugins}, source="test")
    board, told = StatusBoard(clock=lambda: 5.0), list[Event]()
    ended: dict[bytes, RoundMachine] = {}

    async def item(index: int) -> None:
        def start(node: Node) -> None:
            changes = node.machine.changes
            change = changes.roster.change("leave", "remove", LEAVES)
            signed = change.signed([change.statement(member, 5) for member in IDS[:4]])
            changes.offer(signed, lambda _message: True)
            if IDS[index] == LEAVES:
                board.node = node

        ended[IDS[index]] = await run_node(
            config,
            node_id=IDS[index],
            roster=IDS,
            trainer=task.trainers[index],
            initial=task.initial,
            steps=ROUNDS,
            linger=1.0,
            clock=lambda: 1e9 + anyio.current_time(),
            on_event=told.append if IDS[index] == LEAVES else None,
            on_start=start,
            on_end=lambda _node: board.rest() if IDS[index] == LEAVES else None,
        )

    async def all_() -> None:
        async with anyio.create_task_group() as group:
            for index in range(5):
                group.start_soon(item, index)

    anyio.run(all_)
    assert [event for event in told if isinstance(event, Removed)] == [told[-1]]
    gone = ended.pop(LEAVES)
    assert not gone.is_member
    assert gone.step < ROUNDS
    assert {machine.step for machine in ended.values()} == {ROUNDS}
    report = board.report()
    assert report["removed"]
    assert report["swarm"]["nodes"] == len(report["members"]) == 4
    assert LEAVES.hex() not in {member["id"] for member in report["members"]}
