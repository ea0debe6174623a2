"""Distances to mixtures against exact fractions, on every path."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from qres_arithmetic import accelerated, numpy_only, using_threads
from qres_robust_stats.coefficients import (
    Pairwise,
    Passes,
    as_floats,
    block_width,
    centred_gram,
    check_start,
    combination,
    geometry,
    squared_distances_to,
)

from qres_core.errors import ValueRefusedError

Everywhere = Callable[[Callable[[], NDArray[Any]]], NDArray[Any]]
LOWEST, HIGHEST = -(2**31), 2**31 - 1
COORDINATE = st.integers(LOWEST, HIGHEST) | st.sampled_from([LOWEST, HIGHEST]) | st.integers(-3, 3)


@st.composite
def placed(draw: st.DrawFn) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]:
    """Rows, a start vector and weights in 64ths, the last that of the start vector."""
    n, d = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    rows = draw(arrays(np.int32, (n, d), elements=COORDINATE))
    start = draw(arrays(np.int32, d, elements=COORDINATE))
    cuts = sorted(draw(st.lists(st.integers(0, 64), min_size=n, max_size=n)))
    weights = np.diff([0, *cuts, 64]) / 64
    return rows, start, weights


def mixed(rows: NDArray[Any], start: NDArray[Any], weights: NDArray[np.float64]) -> list[Fraction]:
    points = [*rows.tolist(), start.tolist()]
    shares = [Fraction(weight) for weight in weights.tolist()]
    return [
        sum((w * Fraction(x) for w, x in zip(shares, column, strict=True)), Fraction())
        for column in zip(*points, strict=True)
    ]


def distances(rows: NDArray[Any], point: list[Fraction]) -> list[Fraction]:
    return [
        sum(((Fraction(x) - y) ** 2 for x, y in zip(row, point, strict=True)), Fraction())
        for row in rows.tolist()
    ]


@given(case=placed())
@settings(max_examples=1000, deadline=None)
def test_exact_distances_to_a_point(
    case: tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]],
) -> None:
    rows, start, _ = case
    found = squared_distances_to(rows, start)
    assert found.tolist() == distances(rows, [Fraction(x) for x in start.tolist()])
    to_zero = squared_distances_to(rows, None)
    assert to_zero.tolist() == [sum(x * x for x in row) for row in rows.tolist()]


@pytest.mark.parametrize("reach", [5, 2**20, 2**31 - 1])
@pytest.mark.parametrize("shape", [(3, 9000), (40, 30000), (1, 70000)])
def test_exact_distances_over_many_blocks(shape: tuple[int, int], reach: int) -> None:
    generator = np.random.default_rng(reach)
    rows = generator.integers(-reach, reach, size=shape, endpoint=True, dtype=np.int32)
    point = generator.integers(-reach, reach, size=shape[1], endpoint=True, dtype=np.int32)
    wide = rows.astype(object) - point.astype(object)
    expected = (wide * wide).sum(axis=1).tolist()
    assert squared_distances_to(rows, point).tolist() == expected
    assert squared_distances_to(np.asfortranarray(rows), point).tolist() == expected
    with using_threads(1):
        assert squared_distances_to(rows, point).tolist() == expected
    with numpy_only():
        assert squared_distances_to(rows, point).tolist() == expected


@given(case=placed())
@settings(max_examples=500, deadline=None)
def test_pairwise_distances_to_a_mixture(
    case: tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]],
) -> None:
    rows, start, weights = case
    expected = distances(rows, mixed(rows, start, weights))
    found = Pairwise(rows, start).distances(weights)
    # The identity subtracts numbers as large as the greatest distance.
    scale = max([*distances(np.vstack([rows, start]), [Fraction(x) for x in start.tolist()]), 1])
    assert np.allclose(found, [float(x) for x in expected], rtol=1e-9, atol=1e-12 * float(scale))


@pytest.mark.parametrize("real", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(5, 7), (3, 9000), (30, 2000), (600, 300), (12, 90000)])
@pytest.mark.parametrize("with_start", [False, True])
def test_passes_over_every_size(
    shape: tuple[int, int], real: type[np.floating[Any]], *, with_start: bool
) -> None:
    generator = np.random.default_rng(4)
    rows = generator.standard_normal(shape).astype(real)
    start = generator.standard_normal(shape[1]).astype(real) if with_start else None
    away = np.zeros(shape[1]) if start is None else start.astype(np.float64)
    for skipped in (0, 1, shape[0] - 1, shape[0]):
        weights = generator.random(shape[0] + 1)
        weights[:skipped] = 0
        weights /= weights.sum()
        point = weights[:-1] @ rows.astype(np.float64) + weights[-1] * away
        expected = ((rows.astype(np.float64) - point) ** 2).sum(axis=1)
        for kernels in (True, False):
            if kernels and accelerated():
                place = Passes(rows, start)
                found, mixture = place.distances(weights), place.mixture(weights)
            else:
                with numpy_only():
                    place = Passes(rows, start)
                    found, mixture = place.distances(weights), place.mixture(weights)
            assert np.allclose(found, expected, rtol=1e-12)
            assert mixture.dtype == real
            assert np.allclose(mixture, point, rtol=1e-5, atol=1e-6)


@given(case=placed())
@settings(max_examples=500, deadline=None)
def test_a_combination_is_exact(
    case: tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]], everywhere: Everywhere
) -> None:
    rows, start, weights = case
    expected = [round(x) for x in mixed(rows, start, weights)]
    assert everywhere(lambda: combination(rows, weights, start)).tolist() == expected
    from_zero = [round(x) for x in mixed(rows, np.zeros_like(start), weights)]
    assert everywhere(lambda: combination(rows, weights)).tolist() == from_zero


def test_a_combination_over_many_blocks() -> None:
    generator = np.random.default_rng(1)
    rows = generator.integers(LOWEST, HIGHEST, size=(30, 9000), dtype=np.int32)
    start = generator.integers(LOWEST, HIGHEST, size=9000, dtype=np.int32)
    weights = np.array([0, *[1 / 64] * 29, 35 / 64])
    expected = [round(x) for x in mixed(rows, start, weights)]
    assert combination(rows, weights, start).tolist() == expected


def test_rows_that_are_not_finite_are_named() -> None:
    rows = np.zeros((4, 9000), dtype=np.float32)
    rows[2, 5] = np.nan
    at_start = np.array([0, 0, 0, 0, 1.0])
    for place in (Passes(rows), Passes(rows[:, :9])):
        with pytest.raises(ValueRefusedError, match=r"QRES-E501 .*row 2"):
            place.distances(at_start)
    with pytest.raises(ValueRefusedError, match=r"QRES-E501 .*row 2"):
        squared_distances_to(rows, None)


def test_what_overflows_is_infinitely_far() -> None:
    rows = np.array([[1.0], [1e200]])
    assert squared_distances_to(rows, None).tolist() == [1.0, np.inf]


def test_the_path_for_floats() -> None:
    rows = np.random.default_rng(0).standard_normal((20, 8000))
    assert isinstance(geometry(rows.astype(np.int32), None, 1), Pairwise)
    assert isinstance(geometry(rows, None, 1), Passes)
    assert isinstance(geometry(rows, None, 9), Pairwise)
    # Far rows would drown the near distances in the identity.
    rows[0] *= 1e12
    assert isinstance(geometry(rows, None, 9), Passes)


def test_a_centred_gram_matrix() -> None:
    generator = np.random.default_rng(2)
    rows = generator.standard_normal((6, 3))
    weights = generator.random(6)
    weights /= weights.sum()
    squares = ((rows[:, None] - rows) ** 2).sum(axis=2)
    centred = rows - weights @ rows
    assert np.allclose(centred_gram(squares, weights), centred @ centred.T)


def test_integers_are_rounded_once() -> None:
    values = [0, 2**53 + 1, 2**53 + 3, 2**96 - 1]
    expected = [0.0, 2.0**53, 2.0**53 + 4, 2.0**96]
    assert as_floats(np.array(values, dtype=object)).tolist() == expected
    assert as_floats(np.array(values[:3], dtype=np.int64)).tolist() == expected[:3]


@pytest.mark.parametrize("n", [1, 2, 10, 15, 16, 100, 10**6])
def test_blocks_are_never_a_power_of_two_wide(n: int) -> None:
    width = block_width(n)
    assert 16 <= width <= 8208
    assert width & (width - 1)


def test_a_start_that_does_not_fit() -> None:
    rows = np.zeros((2, 3), dtype=np.float32)
    check_start(rows, None)
    check_start(rows, np.ones(3, dtype=np.float32))
    for start, code in (
        (np.ones(3), "QRES-E503"),
        ([0, 0, 0], "QRES-E503"),
        (np.ones(4, dtype=np.float32), "QRES-E502"),
        (np.array([0, np.nan, 0], dtype=np.float32), "QRES-E501"),
    ):
        with pytest.raises(ValueRefusedError, match=code):
            check_start(rows, start)  # type: ignore[arg-type]
