"""What a node knows that it contributed, and what a privacy ledger that knows less comes to."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import anyio
import attrs
import pytest

from qres_core import Claims, Needs, OwnContributions, RoundInfo, RoundStatus, hookimpl
from qres_core.errors import ConfigError
from qres_core.kernel.config import Config, parse
from qres_core.kernel.discovery import Installed, scan
from qres_core.kernel.node_ids import node_ids
from qres_core.swarm.context.effects import RoundEnded, SatOut
from qres_core.swarm.runtime.node import Event, run_node
from qres_core.training.tasks import Task, TaskConfig, make_task

SEED = 11
IDS = node_ids(4, SEED)
ALL = range(4)

pytestmark = pytest.mark.usefixtures("virtual_time")


@attrs.define(eq=False)
class Watch:
    """Notes what it is told when a round opens."""

    claims = Claims(tolerates=None)
    told: ClassVar[list[tuple[int, OwnContributions]]] = []

    @hookimpl
    def round_opened(self, round_info: RoundInfo, contributed: OwnContributions) -> None:
        self.told.append((round_info.height, contributed))


@attrs.define(eq=False)
class Keeper(Watch):
    """Keeps what must outlive the process."""

    claims = Claims(tolerates=None, needs=Needs(folder=True))


INSTALLED = {
    **scan(),
    "watch": Installed.local("watch", Watch),
    "keeper": Installed.local("keeper", Keeper),
}


def configure(folder: Path | None, plugins: dict[str, Any], name: str = "own") -> Config:
    swarm: dict[str, Any] = {"name": name, "nodes": 4, "byzantine": 1, "quorum": 3}
    swarm |= {"deadline": 5.0, "vote_timeout": 2.0, "insecure": True}
    return parse(
        {
            "swarm": swarm,
            "node": {} if folder is None else {"data_dir": str(folder)},
            "plugins": {"memory": {}, **plugins, "mean": {"unprotected": True}},
        },
        source="test",
    )


@pytest.fixture
def task() -> Task:
    config = TaskConfig(name="quadratic", dimension=12, local_epochs=1, learning_rate=0.5)
    return make_task(config, nodes=4, seed=SEED)


def play(
    config: Config,
    task: Task,
    steps: int,
    nodes: Iterable[int] = range(4),
    own: Mapping[int, Mapping[str, Any]] | None = None,
) -> dict[int, list[Event]]:
    """Events of the nodes until a model of that number, for 50 seconds at most.

    ``own``: tables of plugins that differ between nodes.
    """
    events: dict[int, list[Event]] = {}

    async def run(index: int) -> None:
        tables = {} if own is None else own[index]
        await run_node(
            attrs.evolve(config, plugins={**config.plugins, **tables}),
            node_id=IDS[index],
            roster=IDS,
            trainer=task.trainers[index],
            initial=task.initial,
            steps=steps,
            linger=0.6,
            clock=lambda: 1e9 + anyio.current_time(),
            on_event=events.setdefault(index, []).append,
            installed=INSTALLED,
        )

    async def main() -> None:
        with anyio.move_on_after(50):
            async with anyio.create_task_group() as group:
                for index in nodes:
                    group.start_soon(run, index)

    anyio.run(main)
    return events


def test_journal_and_chain_count_what_a_node_contributed(task: Task, tmp_path: Path) -> None:
    Watch.told.clear()
    config = configure(tmp_path, {"watch": {}})
    play(config, task, 2)
    play(config, task, 3)
    journals = {own.journal for _height, own in Watch.told}
    assert len(journals) == 4
    for journal in journals:
        seen = [(height, own) for height, own in Watch.told if own.journal == journal]
        counts = [own.rounds for _height, own in seen]
        assert counts == sorted(counts)
        assert counts[0] == 0
        assert counts[-1] >= 2
        assert all(own.height == height - 1 for height, own in seen)


@pytest.mark.claim("C-dp-25")
def test_a_node_that_may_keep_nothing_is_refused_where_a_plugin_must(task: Task) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        play(configure(None, {"keeper": {}}), task, 1, nodes=[0])
    (error,) = caught.value.exceptions
    assert isinstance(error, ConfigError)
    assert "QRES-E103 node.data_dir: not set, and plugins.keeper keeps" in str(error)


DP = {"mode": "local", "clip": 1.0, "delta": 1e-5, "epsilon": 50.0, "noise_multiplier": 5.0}
needs_dp = pytest.mark.skipif("dp" not in scan(), reason="qres-dp is not installed")


@pytest.mark.claim("C-dp-10")
@needs_dp
@pytest.mark.parametrize("everything", [False, True])
def test_a_node_with_a_ledger_of_before_sits_out_and_the_others_go_on(
    everything: bool,  # noqa: FBT001 - of the test's table
    task: Task,
    tmp_path: Path,
) -> None:
    """Ledger, anchor and key are set back together; or the whole folder is, and the chain knows."""
    home, copy = tmp_path / IDS[0].hex(), tmp_path / "copy"
    config = configure(tmp_path, {"dp": DP})
    play(config, task, 1)
    shutil.copytree(home, copy)
    play(config, task, 3)
    if everything:
        shutil.rmtree(home)
        shutil.copytree(copy, home)
    else:
        for path in copy.glob("dp-ledger.*"):
            shutil.copy(path, home / path.name)
    events = play(config, task, 4)
    said = [event.reason for event in events[0] if isinstance(event, SatOut)]
    source = "the swarm decided" if everything else "the node's journal knows"
    assert any("QRES-E602" in reason and source in reason for reason in said), said
    assert [event for event in events[1] if isinstance(event, RoundEnded)][-1].outcome.round_info
    assert not any("QRES-E602" in str(event) for index in (1, 2, 3) for event in events[index])


@needs_dp
def test_two_swarms_with_the_same_data_spend_one_budget(task: Task, tmp_path: Path) -> None:
    """What the first spent is spent for the second: its nodes have nothing left."""
    spare = {**DP, "rounds": 1, "epsilon": 2.0, "noise_multiplier": 0.0}
    own = {index: {"dp": {**spare, "dataset": str(tmp_path / f"data-{index}")}} for index in ALL}
    reasons: dict[str, list[str]] = {}
    for name in ("first", "second"):
        config = configure(tmp_path / name, {"dp": spare}, name)
        events = play(config, task, 1, own=own)
        reasons[name] = [event.reason for event in events[0] if isinstance(event, SatOut)]
    assert reasons["first"] == []
    assert any("QRES-E509" in reason for reason in reasons["second"])
    # Control: with ledgers of their own the second swarm goes as the first did.
    events = play(configure(tmp_path / "third", {"dp": spare}, "third"), task, 1)
    assert not any(isinstance(event, SatOut) for event in events[0])


@needs_dp
def test_a_training_that_runs_again_is_charged_again(task: Task, tmp_path: Path) -> None:
    """All but the ledgers is removed: every node begins with the first model, and has no budget."""
    config = configure(
        tmp_path, {"dp": {**DP, "rounds": 1, "epsilon": 2.0, "noise_multiplier": 0.0}}
    )
    play(config, task, 1)
    for path in tmp_path.glob("*/*"):
        if not path.name.startswith("dp-ledger."):
            path.unlink()
    events = play(config, task, 1)
    for index in ALL:
        reasons = [event.reason for event in events[index] if isinstance(event, SatOut)]
        assert any("QRES-E509" in reason for reason in reasons)
        closed = [event.outcome for event in events[index] if isinstance(event, RoundEnded)]
        assert not any(outcome.status is RoundStatus.CLOSED for outcome in closed)


@needs_dp
def test_a_node_that_lost_its_folder_after_the_chain_forgot_it_sits_out(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was in a set, and then not for as many as a head tells of: here two, to be short.

    It begins at height 0 as if it were new. A new ledger would be a new budget.
    """
    monkeypatch.setattr("qres_core.swarm.ledger.chain.SILENT", 2)
    home, config = tmp_path / IDS[0].hex(), configure(tmp_path, {"dp": DP})
    play(config, task, 2)
    play(config, task, 5, nodes=[1, 2, 3])
    shutil.rmtree(home)
    events = play(config, task, 12)
    said = [event.reason for event in events[0] if isinstance(event, SatOut)]
    assert any("QRES-E602" in reason and "ledger was begun here" in reason for reason in said), said
    assert not any("QRES-E602" in str(event) for index in (1, 2, 3) for event in events[index])
    # Control: its operator says that it is new in the swarm.
    shutil.rmtree(home)
    own = {index: {"dp": {**DP, "new_ledger": index == 0}} for index in ALL}
    events = play(config, task, 18, own=own)
    assert not any("QRES-E602" in str(event) for event in events[0])


@needs_dp
@pytest.mark.parametrize("waits", [True, False])
def test_a_node_that_was_put_back_by_a_height_does_not_contribute_to_it_again(
    waits: bool,  # noqa: FBT001 - of the test's table
    task: Task,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It hears of the others first. The control does not wait: two releases, and one is charged."""
    home, copy = tmp_path / IDS[0].hex(), tmp_path / "copy"
    config = configure(tmp_path, {"dp": DP})
    if not waits:
        keeping = pytest.importorskip("qres_dp.keeping")
        monkeypatch.setattr(keeping.Start, "waits", lambda *_arguments: False)
    play(config, task, 1)
    shutil.copytree(home, copy)
    play(config, task, 2)
    (lost,) = charges(home)[1:]
    shutil.rmtree(home)
    shutil.copytree(copy, home)
    events = play(config, task, 4)
    again = [item for item in charges(home) if item.height == lost.height]
    if not waits:
        (item,) = again
        assert (item.round, item.head) == (lost.round, lost.head)
        assert item.content != lost.content
        assert not any(isinstance(event, SatOut) for event in events[0])
        return
    assert again == []
    said = [event.reason for event in events[0] if isinstance(event, SatOut)]
    assert any("QRES-E507" in reason and "starts again" in reason for reason in said)
    # What it was charged for is lost. The chain names it, until another set is decided.
    assert len(charges(home)) < 4


def charges(home: Path) -> list[Any]:
    """What a node's ledger was charged with."""
    ledger = pytest.importorskip("qres_dp.ledger").PrivacyLedger
    return [record.charge for record in ledger.read(home)[1]]
