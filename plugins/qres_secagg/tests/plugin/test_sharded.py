"""Sharded rounds under masks: committees open ranges of the sums, and the models are the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from qres_secagg.client import Client
from qres_secagg.revelation import open_sums

from qres_core.attacks.scenario import Scenario
from qres_core.errors import RoundError
from qres_core.kernel.config import parse
from qres_core.lab.record import SimulationResult
from qres_core.lab.simulator import simulate
from qres_core.training.tasks import TaskConfig

GROUPS = {"group_size": 4, "min_size": 3, "corrupt": 0.05}


def played(
    aggregation: str,
    secagg: Mapping[str, Any],
    rule: Mapping[str, Any],
    *,
    nodes: int = 7,
    quorum: int = 5,
    **scenario: Any,
) -> SimulationResult:
    swarm = {
        "name": "hidden",
        "nodes": nodes,
        "byzantine": 1,
        "quorum": quorum,
        "deadline": 8.0,
        "vote_timeout": 1.0,
        "aggregation": aggregation,
    }
    masks = {"patience": 0.4, "dropout": 0.05, **secagg}
    plugins = {"memory": {}, "ed25519": {}, "replay": {}, "secagg": masks, **rule}
    config = parse({"swarm": swarm, "plugins": plugins}, source="test")
    task = TaskConfig(name="quadratic", dimension=40)
    return simulate(config, Scenario(**{"rounds": 1, **scenario}), task=task)


@pytest.mark.parametrize(
    ("secagg", "rule", "nodes", "quorum"),
    [
        ({}, {"mean": {"unprotected": True}}, 7, 5),
        ({"ring": 64}, {"mean": {"unprotected": True}}, 7, 5),
        (GROUPS, {"geometric_median": {"f": 1}}, 14, 12),
    ],
    ids=["one sum", "a wide ring", "groups, and a rule without a claim"],
)
def test_a_sharded_round_makes_the_model_of_one_where_all_merge_all(
    secagg: Mapping[str, Any], rule: Mapping[str, Any], nodes: int, quorum: int
) -> None:
    whole, sharded = (
        played(how, secagg, rule, nodes=nodes, quorum=quorum) for how in ("everyone", "sharded")
    )
    assert sharded.unanimous
    assert sharded.model_digests == whole.model_digests
    assert [r.model_digest for r in sharded.closed] == [r.model_digest for r in whole.closed]
    shown = [result.rounds[0].plugins["secagg"] for result in (whole, sharded)]
    assert shown[0] == shown[1]


def test_nodes_that_drop_out_leave_one_model() -> None:
    mean = {"mean": {"unprotected": True}}
    result = played("sharded", {}, mean, nodes=9, quorum=6, rounds=2, dropout=0.15, seed=2)
    assert result.unanimous
    assert len(result.closed) >= 2


def test_a_node_knows_its_own_input_by_all_coordinates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a set with another input in its name would be stated."""
    named: list[bool] = []
    usual = Client.goes_by

    def watched(self: Client, digest: bytes, name: bytes) -> None:
        usual(self, digest, name)
        named.append(self._digest == name)
        usual(self, bytes(32), b"another")
        assert self._digest == name

    monkeypatch.setattr(Client, "goes_by", watched)
    played("sharded", {}, {"mean": {"unprotected": True}})
    assert len(named) >= 7
    assert all(named)


def test_sums_of_other_groups_than_were_opened_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More than ``f`` members of a committee lied: nothing is made of that."""
    seen: list[str] = []

    def refusing(board: Any, inputs: Any, opened: Any = None, **options: Any) -> Any:
        more = np.concatenate([opened, opened])
        with pytest.raises(RoundError, match="1 groups were opened, and committees have sums of 2"):
            open_sums(board, inputs, more, **options)
        seen.append("refused")
        return open_sums(board, inputs, opened, **options)

    monkeypatch.setattr("qres_secagg.revelation.open_sums", refusing)
    assert played("sharded", {}, {"mean": {"unprotected": True}}).unanimous
    assert len(seen) >= 5
