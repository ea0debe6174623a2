"""Honest nodes decide once the network is good; a part of what `make explore` looks at."""

from __future__ import annotations

import pytest
from exploration.guards import AT_ONCE, without
from exploration.nodes import LIAR, Instance, Node
from exploration.progress import Swarm, from_state, secretly_locked
from exploration.search import Explorer

from qres_core.swarm.consensus.engine import Consensus

ATTEMPTS = 5
"""The round that they are in, and one of each proposer."""


@pytest.mark.claim("C-agreement-7")
@pytest.mark.parametrize("claims", [False, True])
def test_from_every_state_of_one_attempt_the_honest_nodes_decide(*, claims: bool) -> None:
    explorer = Explorer(Instance("one", (LIAR,), claims=claims))
    explorer.run()
    node = Node(explorer.instance)
    states = list(explorer.came)[:: 7 if claims else 1]
    took = [
        from_state(node, [explorer.locals[of] for of in explorer.triple(whole)], ATTEMPTS)
        for whole in states
    ]
    assert max(took) <= ATTEMPTS


@pytest.mark.claim("C-agreement-7")
def test_a_liar_that_locks_one_node_in_each_attempt_stops_nobody() -> None:
    assert Swarm(secretly_locked(Consensus), splits=True).decides(60) <= 2 * ATTEMPTS


@pytest.mark.control("C-agreement-7")
def test_it_stops_nodes_that_leave_at_once_for_good() -> None:
    assert Swarm(secretly_locked(without(AT_ONCE)), splits=True).decides(60) == 61


@pytest.mark.control("C-agreement-7")
def test_it_stops_nodes_that_do_not_show_their_locks_for_good() -> None:
    assert Swarm(secretly_locked(Consensus), splits=True, shows=False).decides(60) == 61
