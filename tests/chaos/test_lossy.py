"""Frames that are lost, late, doubled and overtaken, a partition and restarts, in one process.

What joins the processes are streams, which lose nothing: here frames really are lost. The time is
virtual: no machine is too slow for it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from trials import invariants, witness

from qres_core.builtin.memory import MemoryTransport
from qres_core.kernel.config import Config, parse
from qres_core.swarm.runtime.node import run_node
from qres_core.training.tasks import TaskConfig, make_task

NAME = "lossy"
NODES = 4
STEPS = 6
PATIENCE = 600.0
"""Seconds of virtual time for what takes about 30."""
WEATHER = {"loss": 0.05, "delay": 0.1, "jitter": 0.05, "duplicate": 0.05, "seed": 1}


pytestmark = pytest.mark.usefixtures("virtual_time")


def key_file(folder: Path, number: int) -> tuple[Path, bytes]:
    # The weather follows from the identities: with other keys it would be another one.
    key = Ed25519PrivateKey.from_private_bytes(bytes([number + 1]) * 32)
    path = folder / f"{number}.key"
    path.touch(0o600)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path, key.public_key().public_bytes_raw()


def configuration(data: Path, key: Path) -> Config:
    swarm = {"name": NAME, "nodes": NODES, "byzantine": 1, "quorum": NODES - 1}
    return parse(
        {
            "swarm": {**swarm, "deadline": 1.5, "vote_timeout": 1.0},
            "node": {"data_dir": str(data)},
            "plugins": {
                "memory": WEATHER,
                "ed25519": {"key": str(key)},
                "replay": {"window": 2048},
                "reputation": {"ban_rounds": 0},
                "median": {"f": 1},
            },
        },
        source="test",
    )


@attrs.define(eq=False)
class Seats:
    """The nodes, and what runs them."""

    configs: list[Config]
    roster: list[bytes]
    group: Any
    paths: list[Path]
    scopes: dict[int, anyio.CancelScope] = attrs.field(factory=dict)

    def start(self, index: int) -> None:
        self.scopes[index] = anyio.CancelScope()
        self.group.start_soon(self._run, index)

    async def _run(self, index: int) -> None:
        task = make_task(TaskConfig(name="quadratic", dimension=8), nodes=NODES, seed=1)
        with self.scopes[index]:
            await run_node(
                self.configs[index],
                node_id=self.roster[index],
                roster=self.roster,
                trainer=task.trainers[index],
                initial=task.initial,
                steps=None,
                clock=lambda: 1e9 + anyio.current_time(),
            )

    def steps(self) -> list[int]:
        return [invariants.newest(path)[0] for path in self.paths]

    async def until(self, what: Callable[[], bool]) -> None:
        while not what():  # noqa: ASYNC110 - what is waited for is in files
            await anyio.sleep(0.1)

    async def made(self, more: int) -> None:
        goal = max(self.steps()) + more
        await self.until(lambda: min(self.steps()) >= goal)


@pytest.mark.claim("C-transport-8")
def test_what_is_lost_doubled_and_late_costs_time_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (witnesses := tmp_path / "witnesses").mkdir()
    witness.install(witness.Writer(witnesses), monkeypatch.setattr)
    keys = [key_file(tmp_path, number) for number in range(NODES)]
    roster = [identity for _path, identity in keys]
    configs = [configuration(tmp_path / f"data-{n}", path) for n, (path, _id) in enumerate(keys)]
    paths = [witnesses / f"{identity.hex()}.jsonl" for identity in roster]

    async def main() -> None:
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                seats = Seats(configs, roster, group, paths)
                for index in range(NODES):
                    seats.start(index)
                await seats.made(2)
                hub = MemoryTransport.hub(NAME)
                hub.partition([roster[:2]])
                await anyio.sleep(1)  # what is under way still arrives
                parted = seats.steps()
                await anyio.sleep(3)
                # Two of four are no quorum: nobody goes on. Who is behind may catch up.
                assert max(seats.steps()) == max(parted)
                hub.heal()
                await seats.made(1)
                hub.partition([roster[:1]])
                seats.scopes[1].cancel()
                await anyio.sleep(2)
                hub.heal()
                seats.start(1)
                await seats.made(2)
                group.cancel_scope.cancel()

    anyio.run(main)
    testimony = {path.stem: invariants.read(path) for path in paths}
    assert invariants.check(testimony) == []
    assert all(invariants.newest(path)[0] >= 5 for path in paths)
    assert sum(line["kind"] == "start" for line in testimony[roster[1].hex()]) == 2
