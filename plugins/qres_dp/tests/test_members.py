"""Members that change between rounds: what is charged, and what is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from qres_dp import Dp
from qres_lab.testing import make_node_ids

from qres_core import NodeInfo, OwnContributions
from qres_core.errors import CompatibilityError, RoundError

VECTOR = np.arange(50, dtype=np.int32)


def change(item: Any, nodes: int, **changes: Any) -> None:
    """The next round has so many members, this node among them."""
    others = [node for node in make_node_ids(1001) if node not in item.info.roster]
    kept = item.info.roster[:nodes]
    roster = tuple(sorted([*kept, *others[: nodes - len(kept)]]))
    item.info = attrs.evolve(item.info, **{"roster": roster, "quorum": nodes, **changes})
    item.next_round()


def spent(item: Any) -> float:
    found = item.plugin.status()["epsilon"]
    assert isinstance(found, float)
    return found


@pytest.mark.parametrize("mode", ["local", "distributed"])
def test_a_release_costs_the_same_however_many_members_there_are(
    make_node: Callable[..., Any], mode: str
) -> None:
    """What a node is promised does not depend on how many others there are."""
    options = {"mode": mode, "honest": 3} if mode == "distributed" else {"mode": mode}
    steady, moving = make_node(**options), make_node(**options)
    steady.send(VECTOR)
    moving.send(VECTOR)
    for nodes in (9, 5, 7):
        steady.next_round()
        steady.send(VECTOR)
        change(moving, nodes)
        moving.send(VECTOR)
    assert spent(moving) == spent(steady) > 0
    ledger = moving.plugin._release.ledger
    assert [record.charge.nodes for record in ledger.records] == [7, 9, 5, 7]


def test_a_delta_that_is_too_large_for_the_members_is_refused_by_name(
    make_node: Callable[..., Any],
) -> None:
    item = make_node(delta=0.001)
    item.send(VECTOR)
    before = spent(item)
    with pytest.raises(CompatibilityError, match=r"QRES-E314 plugins\.dp\.delta: .*1 / 1000"):
        change(item, 1000)
    with pytest.raises(CompatibilityError, match="QRES-E314"):
        item.send(VECTOR)
    assert spent(item) == before, "nothing is charged for what does not leave"
    change(item, 999)
    item.send(VECTOR)


def test_shares_of_noise_that_too_few_members_make_are_refused_by_name(
    make_node: Callable[..., Any],
) -> None:
    item = make_node(mode="distributed", honest=5, byzantine=1)
    item.send(VECTOR)
    before = spent(item)
    with pytest.raises(CompatibilityError, match=r"QRES-E314 plugins\.dp\.honest: .*5 secret"):
        change(item, 5)
    with pytest.raises(CompatibilityError, match="QRES-E314"):
        item.send(VECTOR)
    assert spent(item) == before
    change(item, 6)
    item.send(VECTOR)


def test_the_sums_of_a_round_are_measured_by_its_own_fault_bound(
    make_node: Callable[..., Any], arrive: Callable[..., Any]
) -> None:
    item = make_node(mode="distributed", honest=5, byzantine=1)
    updates, contributions = arrive([item.send(VECTOR) for _ in range(1)] * 6)
    whole = attrs.evolve(
        attrs.evolve(updates),
        vectors=np.array(updates.vectors[:1]),
        senders=updates.senders[:1],
        weights=np.array([6]),
        members=(updates.senders,),
        companions={},
    )
    assert item.plugin.reveal(whole, contributions, item.info) is whole
    with pytest.raises(Exception, match="QRES-E505"):
        item.plugin.reveal(whole, contributions, attrs.evolve(item.info, byzantine=2))


def test_a_node_that_joins_late_says_so_or_is_refused_by_name(
    make_node: Callable[..., Any], tmp_path: Path
) -> None:
    """A ledger that is missing may have been lost: only its operator knows that it is new."""
    veteran = make_node()
    change(veteran, 8)
    late = attrs.evolve(veteran.info, step=3)
    newcomer = next(node for node in late.roster if node != veteran.plugin._info.node_id)
    options: dict[str, Any] = {
        "mode": "local",
        "clip": 0.01,
        "delta": 1e-6,
        "epsilon": 8.0,
        "noise_multiplier": 5.0,
    }
    info = NodeInfo(newcomer, "lab", late.roster, data_dir=str(tmp_path))
    silent = Dp(**options)
    silent.setup(info)
    with pytest.raises(RoundError, match=r"QRES-E602.*new_ledger = true"):
        silent.round_opened(late, OwnContributions())
    silent.teardown()
    told = Dp(**options, new_ledger=True)
    told.setup(info)
    told.round_opened(late, OwnContributions())
    assert told.status()["releases"] == 0
    told.teardown()
