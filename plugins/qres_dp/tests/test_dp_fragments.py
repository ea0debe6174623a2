"""Rounds that cover fragments of the model: each release is charged, and follows no other one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import pytest
from qres_dp import Dp

from qres_core import Surroundings, Visibility
from qres_core.errors import Problem
from qres_core.training import Fragment

AROUND = Surroundings(
    nodes=40,
    byzantine=0,
    quorum=40,
    scale=-12,
    dimension=5,
    fragments=3,
    visibility=Visibility.SUM,
    members=40,
)
USUAL: dict[str, Any] = {"clip": 0.25, "delta": 1e-6, "epsilon": 8.0, "rounds": 64}
SHARED: dict[str, Any] = {"mode": "distributed", "honest": 20}
CORRELATED = {**SHARED, "noise": "correlated", "band": 4, "separation": 16}


def refused(around: Surroundings, **options: Any) -> list[Problem]:
    found = Dp(**{"mode": "local", **USUAL, **options}).check(around)
    return [item for item in found if isinstance(item, Problem) and item.code == "QRES-E320"]


def test_correlated_noise_is_refused() -> None:
    (problem,) = refused(AROUND, **CORRELATED)
    fix = 'noise = "independent" in [plugins.dp], or swarm.fragments = 1'
    assert (problem.where, problem.fix) == ("plugins.dp.noise", fix)
    assert "swarm.fragments is 3" in problem.what
    assert not refused(attrs.evolve(AROUND, fragments=1), **CORRELATED)


@pytest.mark.parametrize("options", [{}, {"mode": "distributed", "honest": 20}])
def test_independent_noise_is_not(options: Any) -> None:
    assert not refused(AROUND, **options)
    assert Dp(**{"mode": "local", **USUAL, **options}).claims.by_fragments


def test_every_round_is_charged_whatever_it_covers_and_clipped_to_the_same_length(
    make_node: Callable[..., Any],
) -> None:
    """The budget is one of releases: that they are about other coordinates makes none cheaper."""
    parts, whole = make_node(noise_multiplier=0.001, rounds=9, opened=False), 50
    same = make_node(noise_multiplier=0.001, rounds=9, opened=False)
    long = np.full(whole, 2**24, dtype=np.int32)
    for step in range(4):
        fragment = Fragment.of_step(step, 4, whole)
        assert fragment is not None
        parts.info = attrs.evolve(parts.info, fragment=fragment, dimension=fragment.dimension)
        for each in (parts, same):
            each.next_round()
        sent = parts.send(parts.info.cut(long))
        same.send(long)
        assert sent.vector.size == fragment.dimension
        length = float(np.linalg.norm(sent.vector.astype(np.float64))) * 2.0**-20
        assert length == pytest.approx(0.01, rel=0.05)  # the clip, with hardly any noise
        assert parts.plugin.status()["releases"] == step + 1
        assert parts.plugin.status()["epsilon"] == same.plugin.status()["epsilon"] > 0
