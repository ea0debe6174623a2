"""Whole nodes over libp2p: with signatures, replay checks and krum they agree on one model."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from qres_core.kernel.config import parse
from qres_core.swarm.runtime.node import Node, run_node
from qres_core.training.tasks import TaskConfig, make_task

STEPS = 3


def key_file(folder: Path, me: Any) -> str:
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415
        Ed25519PrivateKey,
    )

    path = folder / f"{me.port}.key"
    pem = Ed25519PrivateKey.from_private_bytes(bytes(me.key)).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.touch(0o600)
    path.write_bytes(pem)
    return str(path)


def configure(folder: Path, me: Any, roster: list[Any]) -> Any:
    raw = {
        "swarm": {
            "name": "over-libp2p",
            "nodes": len(roster),
            "byzantine": 0,
            "quorum": len(roster),
            "deadline": 20.0,
            "vote_timeout": 5.0,
        },
        "node": {"data_dir": str(folder)},
        "plugins": {
            "libp2p": {
                "listen": me.listen,
                "peers": [node.address for node in roster if node is not me],
                "reconnect_seconds": 0.3,
            },
            "ed25519": {"key": key_file(folder, me)},
            "replay": {},
            "krum": {"f": 0},
        },
    }
    return parse(raw, source="test")


@pytest.mark.parametrize(("dimension", "backend"), [(12, "asyncio"), (50_000, "trio")])
def test_four_nodes_reach_one_model(
    lab: SimpleNamespace, tmp_path: Path, dimension: int, backend: str
) -> None:
    """The larger model does not fit into frames: its updates travel as blobs."""
    roster = lab.members(4, "nodes")
    ids = sorted(node.node_id for node in roster)
    settings = TaskConfig(name="quadratic", dimension=dimension, local_epochs=1, learning_rate=0.5)
    task = make_task(settings, nodes=4, seed=3)
    machines: list[Any] = []
    nodes: list[Node] = []
    errors: list[BaseException] = []

    async def stop(mine: Node) -> None:
        """Have a node help the others until all are through."""
        while len(nodes) < 4 or any(node.machine.step < STEPS for node in nodes):  # noqa: ASYNC110
            await anyio.sleep(0.05)
        mine.stop()

    async def node(index: int, me: Any) -> None:
        async with anyio.create_task_group() as group:

            def started(made: Node) -> None:
                nodes.append(made)
                group.start_soon(stop, made)

            machines.append(
                await run_node(
                    configure(tmp_path, me, roster),
                    node_id=me.node_id,
                    roster=ids,
                    trainer=task.trainers[index],
                    initial=task.initial,
                    steps=STEPS,
                    linger=lab.PATIENCE,
                    on_start=started,
                )
            )

    def run(index: int, me: Any) -> None:
        try:
            with_deadline = partial(within, 6 * lab.PATIENCE, partial(node, index, me))
            anyio.run(with_deadline, backend=backend)
        except BaseException as error:  # noqa: BLE001 - asserted below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(index, me)) for index, me in enumerate(roster)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(machines) == 4
    assert {machine.step for machine in machines} == {STEPS}
    assert len({machine.model_digest for machine in machines}) == 1


async def within(seconds: float, work: Any) -> None:
    with anyio.fail_after(seconds):
        await work()
