"""Colluders are counted once: secure aggregation, privacy and the solver use one number."""

from __future__ import annotations

import pytest

from qres_core.claims import most_colluders


def test_a_session_of_secure_aggregation_counts_the_colluders_that_the_solver_counts() -> None:
    secagg = pytest.importorskip("qres_secagg")
    sizing = pytest.importorskip("qres_secagg.sizing")
    options = {"bound": 8.0, "noise_room": 200.0, "corrupt": 0.3, "dropout": 0.03}
    session = sizing.sized(secagg.Secagg(**options), 60, 0, 650)
    assert session.corrupt == most_colluders(60, 0, 0.3) == 18


def test_a_share_of_nodes_is_counted_as_it_is_written() -> None:
    """One colluder too few lets a swarm start with fewer secret shares of noise than it needs."""
    assert int(0.29 * 100) == 28, "the control: in doubles it is less"
    for percent in range(50):
        for nodes in (7, 60, 100, 180, 300, 340):
            assert most_colluders(nodes, 0, percent / 100) == percent * nodes // 100
