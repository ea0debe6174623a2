"""Members that change between rounds: graph, threshold and groups follow those of the round."""

from __future__ import annotations

import attrs
import numpy as np
import pytest
from qres_lab.testing import make_node_ids, make_round_info
from qres_secagg import Secagg
from secagg_swarm import PluginSwarm, plain_sum

from qres_core import NodeInfo
from qres_core.errors import CompatibilityError, RoundError

NEW = b"\1" * 32


def summed(swarm: PluginSwarm, seed: int = 0) -> None:
    """One whole round, against the sum of what was masked."""
    swarm.open()
    assert set(swarm.ready()) == set(swarm.roster)
    updates = swarm.random_updates(seed)
    swarm.contribute(updates).decide()
    swarm.pass_time(5.0)
    for node in swarm.finished():
        sums = swarm.reveal(node).updates.sums
        assert sums is not None
        np.testing.assert_array_equal(sums.sum(axis=0), plain_sum(updates, list(updates)))
    assert set(swarm.finished()) == set(swarm.roster)
    swarm.close()


def parameters(swarm: PluginSwarm) -> list[tuple[int, int, int]]:
    found = [dialogue.session.parameters for dialogue in swarm.dialogues.values()]
    return [(numbers.k, numbers.t, numbers.summands) for numbers in found]


def test_a_member_that_joins_and_one_that_leaves_are_in_and_out_of_the_next_sum() -> None:
    swarm = PluginSwarm(7, {"corrupt": 0.2, "dropout": 0.2}, byzantine=1)
    summed(swarm, 1)
    before = parameters(swarm)
    swarm.change([*swarm.roster, NEW])
    summed(swarm, 2)
    with_new = parameters(swarm)
    assert len(set(before)) == len(set(with_new)) == 1
    assert [before[0][0], with_new[0][0]] == [6, 7], "the complete graph of the members"
    assert NEW in swarm.dialogues[NEW].session.roster
    gone = swarm.roster[3]
    swarm.change([node for node in swarm.roster if node != gone])
    summed(swarm, 3)
    assert gone not in swarm.rounds
    assert parameters(swarm)[0] == before[0]


def test_groups_are_those_of_the_members_of_the_round() -> None:
    swarm = PluginSwarm(8, {"group_size": 4, "min_size": 3, "corrupt": 0.0, "dropout": 0.1})
    summed(swarm, 1)
    swarm.open()
    swarm.contribute(swarm.random_updates(2)).decide()
    swarm.pass_time(5.0)
    assert len(swarm.reveal(swarm.roster[0]).updates) == 2
    swarm.close()
    swarm.change(make_node_ids(12))
    swarm.open()
    swarm.contribute(swarm.random_updates(3)).decide()
    swarm.pass_time(5.0)
    revealed = swarm.reveal(swarm.roster[0]).updates
    assert len(revealed) == 3
    assert {node for row in revealed.members for node in row} == set(swarm.roster)


def test_a_session_with_other_members_is_not_gone_on_with() -> None:
    """It is another height: no set of an earlier one can be decided in it."""
    swarm = PluginSwarm(7, byzantine=1)
    swarm.open().contribute(swarm.random_updates(1))
    made = swarm.abort()
    kept = swarm.plugins[swarm.roster[0]]._kept
    assert [item.session.round for item in kept] == [made.info.number]
    swarm.change([*swarm.roster, NEW])
    swarm.open()
    assert all(opened.of(made.info) is None for opened in swarm.rounds.values())
    swarm.close("QRES-E604")
    swarm.change(made.info.roster)
    summed(swarm, 2)


def test_control_a_session_with_the_same_members_is_gone_on_with() -> None:
    swarm = PluginSwarm(7, byzantine=1)
    swarm.open().contribute(swarm.random_updates(1))
    made = swarm.abort()
    swarm.open()
    assert all(opened.of(made.info) is not None for opened in swarm.rounds.values())


def test_a_round_with_too_few_members_for_the_groups_is_refused_by_name() -> None:
    swarm = PluginSwarm(8, {"group_size": 8, "min_size": 4})
    summed(swarm, 1)
    swarm.change(swarm.roster[:7])
    with pytest.raises(CompatibilityError, match=r"QRES-E314 .*7 nodes make no group of 8"):
        swarm.open()


def test_a_node_that_is_no_member_has_no_session() -> None:
    roster = make_node_ids(4)
    plugin = Secagg()
    plugin.setup(NodeInfo(roster[0], "testing", roster))
    round_info = attrs.evolve(make_round_info(nodes=4), roster=(*roster[1:], b"\xff" * 32))
    with pytest.raises(RoundError, match=r"QRES-E604 secagg: this node is no member"):
        plugin.round_opened(round_info)


def test_finer_groups_are_no_finer_than_the_members_allow() -> None:
    swarm = PluginSwarm(16, {"bisect": True, "min_size": 4, "corrupt": 0.0})
    for _ in range(3):
        swarm.open()
        swarm.close("QRES-E508")
    swarm.open()
    assert {plugin.status()["level"] for plugin in swarm.plugins.values()} == {2}
    swarm.close("QRES-E508")
    swarm.change(swarm.roster[:8])
    summed(swarm, 1)
