"""The geometric median against points that are known."""

from __future__ import annotations

import itertools
import math
from importlib.metadata import EntryPoint
from typing import Any

import numpy as np
import pytest
from qres_core.errors import ValueRefusedError
from qres_lab.testing import make_round_info, make_updates, merged

from qres_geomedian import Geomedian, mean, weiszfeld


def geomedian(points: list[list[float]], iterations: int = 2000) -> list[float]:
    return [float(value) for value in found(np.array(points, dtype=float), iterations)]


def found(points: np.ndarray, iterations: int) -> np.ndarray:
    return mean(points, weiszfeld(points @ points.T, iterations=iterations, smoothing=1e-9))


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

    def cost(at: np.ndarray) -> float:
        return float(np.sqrt(((points - at) ** 2).sum(axis=1)).sum())

    axis = np.linspace(-2.0, 2.0, 161)
    best = min(cost(np.array([a, b])) for a in axis for b in axis)
    assert cost(found(points, 500)) <= best


def test_every_step_lowers_the_summed_distance() -> None:
    points = np.random.default_rng(2).normal(size=(9, 5))
    costs = []
    for iterations in range(1, 20):
        at = found(points, iterations)
        costs.append(float(np.sqrt(((points - at) ** 2).sum(axis=1)).sum()))
    assert costs == sorted(costs, reverse=True)


def test_liars_move_it_less_than_the_published_bound() -> None:
    rng = np.random.default_rng(3)
    for f in (1, 2, 3, 4):
        honest = rng.normal(size=(9 - f, 4))
        centre = honest.mean(axis=0)
        reach = float(np.sqrt(((honest - centre) ** 2).sum(axis=1)).max())
        lies = np.full((f, 4), 1e6)
        at = found(np.concatenate([honest, lies]), 500)
        moved = float(np.sqrt(((at - centre) ** 2).sum()))
        assert moved <= 2 * (9 - f) / (9 - 2 * f) * reach


def test_ranges_of_coordinates_give_what_whole_updates_give() -> None:
    rng = np.random.default_rng(4)
    updates, info = make_updates(rng.integers(-(2**31), 2**31, (7, 9))), make_round_info(9)
    whole = merged([Geomedian(f=3)], updates, info)
    for shards in (2, 5, 9):
        assert merged([Geomedian(f=3)], updates, info, shards=shards).tolist() == whole.tolist()


def test_too_few_updates_are_refused() -> None:
    updates = make_updates([[1], [2], [3], [4]])
    with pytest.raises(ValueRefusedError, match="QRES-E505"):
        merged([Geomedian(f=2)], updates, make_round_info())


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
