"""Updates that take longer to come than a message may be old."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import anyio
import attrs
import numpy as np
import pytest
from qres_lab.testing import make_node_ids

from qres_core import ACCEPT, Envelope, RoundInfo, Update, Vector, Verdict, hookimpl, reject
from qres_core.builtin.memory import MemoryTransport
from qres_core.contract.transport import BlobRef
from qres_core.kernel.config import parse
from qres_core.kernel.discovery import Installed, scan
from qres_core.swarm.context.effects import RoundEnded
from qres_core.swarm.runtime.node import Event, Node, run_node

IDS = make_node_ids(4)
DIMENSION = 400_000
SECONDS = 90.0
"""What an update takes."""


@attrs.frozen
class Minute:
    """Refuses what is older, as the plugin ``replay`` does."""

    @hookimpl
    def replay_check(self, envelope: Envelope, now: float) -> Verdict:
        return ACCEPT if now - envelope.time_ms / 1000 <= 60.0 else reject("old")


@attrs.frozen
class Noise:
    """Updates that nothing packs."""

    index: int

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update:
        drawn = np.random.default_rng((self.index, round_info.step))
        return Update(drawn.integers(-(2**30), 2**30, vector.size, dtype=np.int32))

    def evaluate(self, vector: Vector) -> Mapping[str, float]:
        del vector
        return {}


def play(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """How the first round ended at each node."""
    swarm = {
        "name": "slow-line",
        "nodes": 4,
        "byzantine": 0,
        "quorum": 4,
        "deadline": 4 * SECONDS,
        "vote_timeout": 2.0,
        "insecure": True,
    }
    plugins: dict[str, Any] = {"memory": {}, "minute": {}, "mean": {}}
    config = parse({"swarm": swarm, "plugins": plugins}, source="test")
    installed = {**scan(), "minute": Installed.local("minute", Minute)}
    ended: list[str] = []
    done = anyio.Event()
    fetch = MemoryTransport.fetch_blob

    async def slowly(
        end: MemoryTransport, ref: BlobRef, holders: Sequence[bytes], within: float
    ) -> bytes:
        await anyio.sleep(SECONDS)
        return await fetch(end, ref, holders, within)

    def on_event(event: Event) -> None:
        if isinstance(event, RoundEnded):
            ended.append(event.outcome.status.value)
            if len(ended) == len(IDS):
                done.set()

    async def node(index: int) -> None:
        await run_node(
            config,
            node_id=IDS[index],
            roster=IDS,
            trainer=Noise(index),
            initial=np.zeros(DIMENSION, dtype=np.int32),
            steps=None,
            installed=installed,
            on_event=on_event,
            clock=anyio.current_time,
        )

    async def main() -> None:
        with anyio.fail_after(40 * SECONDS):
            async with anyio.create_task_group() as group:
                for index in range(len(IDS)):
                    group.start_soon(node, index)
                await done.wait()
                group.cancel_scope.cancel()

    monkeypatch.setattr(MemoryTransport, "fetch_blob", slowly)
    anyio.run(main)
    return ended


@pytest.mark.usefixtures("virtual_time")
def test_a_slow_line_makes_no_update_old(monkeypatch: pytest.MonkeyPatch) -> None:
    assert play(monkeypatch) == ["closed"] * len(IDS)


@pytest.mark.usefixtures("virtual_time")
def test_control_an_update_as_old_as_its_last_byte_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    take = Node._take

    def forgets(node: Node, item: Any) -> None:
        take(node, attrs.evolve(item, waited=0.0) if hasattr(item, "waited") else item)

    monkeypatch.setattr(Node, "_take", forgets)
    assert "closed" not in play(monkeypatch)
