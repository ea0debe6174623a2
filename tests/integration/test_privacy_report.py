"""The privacy report of real nodes, while they run and afterwards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import pytest
from click.testing import CliRunner
from qres_dp import accounting
from qres_dp.cli import dp

from qres_core import RoundStatus
from qres_core.kernel.config import load
from qres_core.kernel.node_ids import node_ids
from qres_core.swarm.context.effects import RoundEnded
from qres_core.swarm.runtime.node import Event, run_node
from qres_core.training.tasks import TaskConfig, make_task

pytestmark = pytest.mark.usefixtures("virtual_time")

ROUNDS = 3
TASK = TaskConfig(name="quadratic", dimension=12, local_epochs=1, learning_rate=0.5)
IDS = node_ids(4, 11)
SWARM = """
[swarm]
name = "hospitals"
nodes = 4
byzantine = 1
quorum = 3
insecure = true

[node]
data_dir = "{folder}"

[plugins.memory]

[plugins.mean]
unprotected = true

[plugins.dp]
mode = "local"
clip = 0.5
delta = 1e-5
epsilon = 20.0
rounds = 3
"""


def report(path: Path, index: int, *arguments: str) -> Any:
    place = path.parent / "data" / IDS[index].hex()
    asked = ["report", str(path), "--dimension", "12", "--ledger", str(place), *arguments]
    result = CliRunner().invoke(dp, asked)
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.output) if "--json" in arguments else result.output


@pytest.mark.claim("C-dp-6")
def test_the_report_tells_what_a_node_spent_while_it_runs_and_when_it_is_over(
    tmp_path: Path,
) -> None:
    path = tmp_path / "swarm.toml"
    path.write_text(SWARM.format(folder=tmp_path / "data"), encoding="utf-8")
    config = load(path)
    task = make_task(TASK, nodes=4, seed=11)
    running: list[Any] = []

    def on_event(event: Event) -> None:
        closed = isinstance(event, RoundEnded) and event.outcome.status is RoundStatus.CLOSED
        if closed and len(running) < ROUNDS:
            running.append(report(path, 0, "--json"))

    async def swarm() -> None:
        async with anyio.create_task_group() as group:
            for index in range(4):
                group.start_soon(
                    lambda index=index: run_node(
                        config,
                        node_id=IDS[index],
                        roster=IDS,
                        trainer=task.trainers[index],
                        initial=task.initial,
                        steps=ROUNDS,
                        linger=0.6,
                        clock=lambda: 1e9 + anyio.current_time(),
                        on_event=on_event if index == 0 else lambda _: None,
                    )
                )

    anyio.run(swarm)
    multiplier = accounting.calibrate(20.0, 1e-5, ROUNDS)
    spent = [accounting.epsilon(multiplier, count, 1e-5) for count in range(1, ROUNDS + 1)]
    told = [item["spent"]["epsilon"] for item in running]  # a round ahead of those that ended
    assert told == sorted(told)
    assert len(told) == ROUNDS
    assert set(told) <= set(spent)
    for index in range(4):
        found = report(path, index, "--json")
        assert found["ledger"]["holds"]
        assert found["spent"]["epsilon"] == spent[-1] <= found["plan"]["budget"]["epsilon"]
        assert found["spent"]["rounds_left"] == 0
        assert found["spent"]["charges"] == found["plan"]["charges"]
        (row,) = found["spent"]["on"]
        assert (row["swarm"], row["node"], row["releases"]) == ("hospitals", IDS[index].hex(), 3)
    page = report(path, 0)
    assert page.startswith("# Privacy report: hospitals\n")
    assert "epsilon 20 in 3 releases" in page
