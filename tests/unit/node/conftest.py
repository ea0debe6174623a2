from __future__ import annotations

from typing import Any

import anyio
import pytest

from qres_core.kernel.config import parse
from qres_core.kernel.node_ids import node_ids
from qres_core.node.status import StatusBoard
from qres_core.swarm.runtime.node import Node, run_node
from qres_core.training.tasks import TaskConfig, make_task

IDS = node_ids(4, 1)


@pytest.fixture(scope="module")
def reports(virtual_time_of_module: object) -> list[dict[str, Any]]:
    """The status of a node among four, at its start and after three rounds."""
    assert virtual_time_of_module
    task = make_task(TaskConfig(name="quadratic", dimension=6), nodes=4, seed=1)
    swarm = {"name": "status", "nodes": 4, "byzantine": 1, "quorum": 3, "insecure": True}
    config = parse(
        {"swarm": swarm, "plugins": {"memory": {}, "mean": {"unprotected": True}}}, source="test"
    )
    board, made = StatusBoard(clock=lambda: 5.0, name="anna"), list[dict[str, Any]]()

    def start(node: Node) -> None:
        board.node = node
        changes = node.machine.changes
        rotate = changes.roster.change("status", "rotate", IDS[0], b"\xbb" * 32)
        changes.offer(rotate.signed([rotate.statement(IDS[1], 5)]), lambda _message: True)
        made.append(board.report())

    async def item(index: int) -> None:
        own = {"on_event": board.note, "on_start": start} if index == 0 else {}
        await run_node(
            config,
            node_id=IDS[index],
            roster=IDS,
            trainer=task.trainers[index],
            initial=task.initial,
            steps=3,
            linger=1.0,
            clock=lambda: 1e9 + anyio.current_time(),
            **own,
        )

    async def all_() -> None:
        async with anyio.create_task_group() as group:
            for index in range(4):
                group.start_soon(item, index)

    anyio.run(all_)
    board.measured(3, {"loss": 0.5, "odd": float("nan")})
    made.append(board.report())
    return made
