"""Every link is cut again and again: all meet again, however long the machine takes for it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import network_flap
import pytest
from trials.routed_swarm import RoutedSwarm


def test_each_link_is_cut_once_in_a_turn_and_mended_at_its_end() -> None:
    chance = random.Random(3)
    for _ in range(200):
        happens = list(network_flap.turn(chance))
        assert [at for at, *_rest in happens] == sorted(at for at, *_rest in happens)
        for pair in network_flap.PAIRS:
            (begin, first), (end, last) = [(at, cut) for at, of, cut in happens if of == pair]
            assert (first, last) == (True, False)
            least, most = network_flap.CUTS
            assert least <= end - begin <= most


@pytest.mark.long
def test_nodes_meet_again_after_every_cut(routed: Callable[..., Any], tmp_path: Path) -> None:
    pytest.importorskip("qres_transport_libp2p")
    network = routed(network_flap.NODES)
    with RoutedSwarm.of(network_flap.tables(), network, tmp_path / "box") as swarm:
        found = network_flap.flap(swarm, 10, seed=1)
    assert found.cuts == 10
    assert found.agreed
    assert found.cut_packets > 0
    assert found.lost > 0  # cuts that only TCP noticed would be none
