"""What a node asks of its folder and its plugins before it starts, and how it ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import anyio
import attrs
import numpy as np
import pytest
from qres_lab.testing import make_node_ids

from qres_core import Claims, Needs, RoundInfo, Update, Vector, hookimpl
from qres_core.builtin.mean import Mean
from qres_core.builtin.memory import Memory
from qres_core.errors import ConfigError, RoundError
from qres_core.kernel.config import Config, parse
from qres_core.kernel.discovery import Installed
from qres_core.swarm.runtime.node import Node, _forget_in, _memory, _while_stopping, run_node
from qres_core.swarm.storage.model_file import KEPT, SwarmModel

IDS = make_node_ids(4)
VECTOR: Vector = np.zeros(3, dtype=np.int32)


def config(**plugins: Mapping[str, Any]) -> Config:
    swarm = {"name": "ward", "nodes": 4, "byzantine": 1, "quorum": 3, "insecure": True}
    tables = {"memory": {}, "mean": {"unprotected": True}, **plugins}
    return parse({"swarm": swarm, "plugins": tables}, source="test")


@attrs.frozen
class Keeps:
    """Keeps what must outlive the process."""

    claims: ClassVar[Claims] = Claims(tolerates=None, needs=Needs(folder=True))

    @hookimpl
    def round_closed(self) -> None:
        """Has a hook, as every plugin."""


class Trains:
    def fit(self, vector: Vector, round_info: RoundInfo) -> Update:
        del round_info
        return Update(vector)

    def evaluate(self, vector: Vector) -> Mapping[str, float]:
        del vector
        return {}


class Four:
    """A roster of four members."""

    quorum = 3

    def __len__(self) -> int:
        return 4


async def refused(config: Config, roster: list[bytes]) -> str:
    with pytest.raises(ConfigError) as caught:
        await run_node(
            config,
            node_id=IDS[0],
            roster=roster,
            trainer=Trains(),
            initial=VECTOR,
            steps=1,
            installed={
                "keeps": Installed.local("keeps", Keeps),
                "memory": Installed.local("memory", Memory),
                "mean": Installed.local("mean", Mean),
            },
        )
    return caught.value.problems[0].where


def test_a_plugin_that_keeps_something_needs_a_folder() -> None:
    assert anyio.run(refused, config(keeps={}), list(IDS)) == "node.data_dir"


@pytest.mark.parametrize("roster", [[*IDS, IDS[0]], list(IDS[1:])], ids=["twice", "too few"])
def test_a_roster_names_each_member_once_and_all_of_them(roster: list[bytes]) -> None:
    assert anyio.run(refused, config(), roster) == "swarm.roster"


@pytest.mark.parametrize(
    ("linked", "begins"),
    [
        ((0.0, 2.0, 3.0), 3.0),  # the last one is waited for
        ((0.0, 2.0, 9.0), 4.0),  # as long again as a quorum took
        ((0.0, 0.0, 9.0), 0.0),  # no time at all, where that took none
        ((0.0, 9.0, 9.0), 5.0),  # control: never longer than it may
    ],
)
@pytest.mark.usefixtures("virtual_time")
def test_a_node_that_begins_waits_for_the_last_as_long_as_for_a_quorum(
    linked: Sequence[float], begins: float
) -> None:
    """Who links later does not hear what is said before, and is sent it one by one."""

    async def main() -> float:
        origin = anyio.current_time()

        def peers() -> list[float]:
            return [at for at in linked if at <= anyio.current_time() - origin]

        node: Any = SimpleNamespace(
            is_through=False,
            machine=SimpleNamespace(is_member=True, head=SimpleNamespace(roster=Four())),
            transport=SimpleNamespace(peers=peers),
            meet=5.0,
        )
        node._have_met = partial(Node._have_met, node)
        await Node._meet(node)
        return anyio.current_time() - origin

    assert anyio.run(main) == pytest.approx(begins, abs=0.2)


def test_a_model_without_a_journal_is_no_beginning(tmp_path: Path) -> None:
    """A node that begins anew in the folder of one that voted could vote again."""
    with _memory(config(), IDS[0], VECTOR, tmp_path / "fresh") as journal:
        assert journal.resume() is None, "control"
    SwarmModel("ward", 1, 0, VECTOR).keep(tmp_path)
    with (
        pytest.raises(RoundError, match="QRES-E602"),
        _memory(config(), IDS[0], VECTOR, tmp_path),
    ):
        pass


def test_only_a_model_that_was_disowned_is_removed(tmp_path: Path) -> None:
    model = SwarmModel("ward", 1, 0, VECTOR)
    model.keep(tmp_path)
    _forget_in(tmp_path, frozenset([b"other" * 8]))
    assert (tmp_path / KEPT).exists()
    _forget_in(tmp_path, frozenset([model.digest]))
    assert not (tmp_path / KEPT).exists()


@pytest.mark.parametrize("reason", [None, KeyboardInterrupt()], ids=repr)
def test_what_fails_in_cleaning_up_is_raised_where_nothing_failed_before(
    reason: BaseException | None,
) -> None:
    with pytest.raises(ZeroDivisionError), _while_stopping(reason):
        raise ZeroDivisionError
    first = ValueError("first")
    with _while_stopping(first):
        raise ZeroDivisionError
    assert "ZeroDivisionError" in first.__notes__[0]


class Hurried:
    """A machine whose clock matters sooner than it said, by nothing that went through it."""

    swarm = SimpleNamespace(max_message_bytes=2**20, byzantine=1, memory=0)
    has_enough, step = False, 0

    def __init__(self) -> None:
        self.looks, self.ticks = 0, list[float]()

    @property
    def next_tick(self) -> float:
        self.looks += 1
        assert self.looks < 100, "the node spins"
        return 1e9 if self.looks == 1 else 0.0

    def start(self, now: float) -> list[Any]:
        del now
        return []

    def tick(self, now: float) -> list[Any]:
        self.ticks.append(now)
        raise StopIteration


@pytest.mark.anyio
async def test_a_machine_is_asked_anew_when_its_clock_matters() -> None:
    machine: Any = Hurried()
    transport: Any = SimpleNamespace(limits=SimpleNamespace(frame=1024))
    trainer: Any = None
    node = Node(machine=machine, transport=transport, trainer=trainer, clock=lambda: 5.0)
    outlet, inputs = anyio.create_memory_object_stream[Any](1)
    with outlet, inputs, pytest.raises(RuntimeError, match="StopIteration"):
        await node._drive(inputs)
    assert len(machine.ticks) == 1
