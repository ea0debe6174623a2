"""The geometric median against points that are known."""

from __future__ import annotations

import itertools
import math
from importlib.metadata import EntryPoint
from typing import Any

import numpy as np
import pytest
from qres_core import ValueRefusedError
from qres_core.testing import host, make_round_info, make_updates

from qres_geomedian import Geomedian, weiszfeld


def geomedian(points: list[list[float]], iterations: int = 2000) -> list[float]:
    found = weiszfeld(np.array(points, dtype=float), iterations=iterations, smoothing=1e-9)
    return [float(value) for value in found]


def test_on_a_line_it_is_the_median() -> None:
    assert geomedian([[1.0], [2.0], [4.0], [50.0], [1000.0]]) == pytest.approx([4.0])


def test_at_the_fermat_point_of_a_triangle_the_sides_are_seen_at_120_degrees() -> None:
    triangle = [[0.0, 0.0], [4.0, 0.0], [1.0, 3.0]]
    x, y = geomedian(triangle)
    directions = [math.atan2(b - y, a - x) for a, b in triangle]
    for angle, other in itertools.combinations(directions, 2):
        assert math.cos(angle - other) == pytest.approx(-0.5, abs=1e-6)


def test_the_fermat_point_of_an_equilateral_triangle_is_its_centre() -> None:
    side = [[0.0, 0.0], [2.0, 0.0], [1.0, math.sqrt(3.0)]]
    assert geomedian(side) == pytest.approx([1.0, 1.0 / math.sqrt(3.0)])


def test_in_a_wide_triangle_it_is_the_wide_corner() -> None:
    # The angle at the origin is over 120 degrees. Convergence to a corner is slow.
    assert geomedian([[-5.0, 0.5], [0.0, 0.0], [5.0, 0.5]]) == pytest.approx([0.0, 0.0], abs=1e-6)


def test_in_a_convex_quadrangle_it_is_where_the_diagonals_cross() -> None:
    assert geomedian([[0.0, 0.0], [4.0, 0.0], [4.0, 4.0], [0.0, 4.0]]) == pytest.approx([2.0, 2.0])
    # diagonals y = x and y = 3 - x/2
    kite = [[0.0, 0.0], [6.0, 0.0], [5.0, 5.0], [0.0, 3.0]]
    assert geomedian(kite) == pytest.approx([2.0, 2.0], abs=1e-6)


def test_it_is_as_good_as_a_fine_grid_search() -> None:
    points = np.random.default_rng(1).normal(size=(7, 2))
    found = weiszfeld(points, iterations=500, smoothing=1e-9)

    def cost(at: np.ndarray) -> float:
        return float(np.sqrt(((points - at) ** 2).sum(axis=1)).sum())

    axis = np.linspace(-2.0, 2.0, 161)
    best = min(cost(np.array([a, b])) for a in axis for b in axis)
    assert cost(found) <= best


def test_every_step_lowers_the_summed_distance() -> None:
    points = np.random.default_rng(2).normal(size=(9, 5))
    costs = []
    for iterations in range(1, 20):
        at = weiszfeld(points, iterations=iterations, smoothing=1e-9)
        costs.append(float(np.sqrt(((points - at) ** 2).sum(axis=1)).sum()))
    assert costs == sorted(costs, reverse=True)


def test_liars_move_it_less_than_the_published_bound() -> None:
    rng = np.random.default_rng(3)
    for f in (1, 2, 3, 4):
        honest = rng.normal(size=(9 - f, 4))
        mean = honest.mean(axis=0)
        reach = float(np.sqrt(((honest - mean) ** 2).sum(axis=1)).max())
        lies = np.full((f, 4), 1e6)
        found = weiszfeld(np.concatenate([honest, lies]), iterations=500, smoothing=1e-9)
        moved = float(np.sqrt(((found - mean) ** 2).sum()))
        assert moved <= 2 * (9 - f) / (9 - 2 * f) * reach


def test_too_few_updates_are_refused() -> None:
    updates = make_updates([[1], [2], [3], [4]])
    with pytest.raises(ValueRefusedError, match="QRES-E505"):
        host(Geomedian(f=2)).hook.aggregate(updates=updates, round_info=make_round_info())


@pytest.mark.parametrize(
    "bad",
    [
        {"f": -1},
        {"f": 1, "iterations": 0},
        {"f": 1, "smoothing": 0.0},
        {"f": 1, "smoothing": math.inf},
        {"f": 1, "smoothing": math.nan},
    ],
)
def test_options_out_of_range_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=list(bad)[-1]):
        Geomedian(**bad)


def test_the_entry_point_leads_to_the_class() -> None:
    entry = EntryPoint("geomedian", "qres_geomedian:Geomedian", "qres.plugins")
    assert entry.load() is Geomedian
