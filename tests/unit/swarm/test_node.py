"""What a node asks of its folder and its plugins before it starts, and how it ends."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import anyio
import attrs
import numpy as np
import pytest

from qres_core import Claims, ConfigError, Needs, RoundError, RoundInfo, Update, Vector, hookimpl
from qres_core.kernel.config import Config, parse
from qres_core.kernel.discovery import Installed
from qres_core.swarm.mean import Mean
from qres_core.swarm.memory import Memory
from qres_core.swarm.model_file import KEPT, SwarmModel
from qres_core.swarm.node import _forget_in, _memory, _while_stopping, run_node
from qres_core.testing import make_node_ids

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
