"""Correlated noise: what it does not go with, and where it is refused."""

from __future__ import annotations

from typing import Any

import pytest
from qres_dp import Dp
from qres_dp.stream import FREE, StreamShape

from qres_core import Surroundings, Visibility
from qres_core.errors import CompatibilityError

OPTIONS: dict[str, Any] = {
    "mode": "distributed",
    "honest": 3,
    "delta": 1e-6,
    "noise": "correlated",
    "band": 4,
    "separation": 4,
    "epsilon": 4.0,
    "rounds": 6,
    "clip": 1.0,
}
AROUND = Surroundings(
    nodes=7, byzantine=0, quorum=7, scale=-4, dimension=50, visibility=Visibility.SUM, members=7
)


@pytest.mark.parametrize(
    "options",
    [
        {"rounds": 0, "noise_multiplier": 9.0},
        {"epsilon": 0.0, "noise_multiplier": 9.0},
        {"noise": "independent"},  # with a separation
    ],
)
def test_what_is_not_covered_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(CompatibilityError, match="QRES-E314"):
        Dp(**(OPTIONS | options))


@pytest.mark.claim("C-dp-31")
@pytest.mark.control("C-dp-31")
def test_in_mode_local_it_is_refused_with_what_to_use_instead() -> None:
    with pytest.raises(CompatibilityError, match="in mode local is gone") as refused:
        Dp(**(OPTIONS | {"mode": "local", "honest": 0}))
    (problem,) = refused.value.problems
    assert (problem.code, problem.where) == ("QRES-E314", "plugins.dp.noise")
    assert problem.fix.startswith('noise = "independent"')
    # The control: what it says to use instead is taken.
    Dp(**(OPTIONS | {"mode": "local", "honest": 0, "noise": "independent", "separation": 1}))
    Dp(**OPTIONS)


def test_a_stream_of_one_step_gains_nothing_and_is_refused() -> None:
    with pytest.raises(CompatibilityError, match="times that of independent noise"):
        StreamShape(1, 2, 1, 1.0, 1000, 10)


@pytest.mark.claim("C-dp-29")
def test_where_independent_noise_serves_better_it_is_said() -> None:
    with pytest.raises(CompatibilityError, match="times that of independent noise"):
        Dp(**{**OPTIONS, "separation": 1}).plan(AROUND)
    Dp(**OPTIONS).plan(AROUND)


def test_a_row_of_noise_alone_is_free() -> None:
    """Also where rounding would move a row that holds something."""
    shape = StreamShape(6, 4, 4, 2.0, 1000, 10, grain=500)
    assert shape.price_of(0) == FREE
    assert shape.price_of(1) < FREE
