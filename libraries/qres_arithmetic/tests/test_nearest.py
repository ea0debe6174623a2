"""The mean of the nearest to the median, against all choices of values there are."""

from __future__ import annotations

from contextlib import nullcontext
from fractions import Fraction
from itertools import combinations
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qres_arithmetic import accelerated, nearest_mean, numpy_only, order_mean, using_threads

from qres_core.errors import ValueRefusedError

INT32 = np.iinfo(np.int32)
VALUES = st.one_of(
    st.integers(-4, 4), st.integers(INT32.min, INT32.max), st.sampled_from([INT32.min, INT32.max])
)
IMPLEMENTATIONS = [
    pytest.param(
        nullcontext, id="kernel", marks=pytest.mark.skipif(not accelerated(), reason="no numba")
    ),
    pytest.param(numpy_only, id="numpy"),
]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20_240_601)


def _twice_median(column: list[int]) -> int:
    ordered = sorted(column)
    return ordered[(len(column) - 1) // 2] + ordered[len(column) // 2]


def _brute_force(column: list[int], count: int) -> int:
    """Take of all subsets the one with the least distances, of several the least values."""
    twice = _twice_median(column)
    best = min(
        combinations(sorted(column), count),
        key=lambda chosen: (sorted(abs(2 * x - twice) for x in chosen), sorted(chosen)),
    )
    return round(Fraction(sum(best), count))


def _by_sorting(column: list[int], count: int) -> int:
    twice = _twice_median(column)
    nearest = sorted(column, key=lambda x: (abs(2 * x - twice), x))[:count]
    return round(Fraction(sum(nearest), count))


@st.composite
def _cases(draw: st.DrawFn, rows: int) -> tuple[np.ndarray, int]:
    n, d = draw(st.integers(1, rows)), draw(st.sampled_from([1, 3, 16, 18]))
    return draw(hnp.arrays(np.int32, (n, d), elements=VALUES)), draw(st.integers(1, n))


@given(case=_cases(7))
@settings(max_examples=300, deadline=None)
def test_it_is_the_best_of_all_subsets(case: tuple[np.ndarray, int]) -> None:
    rows, count = case
    expected = [_brute_force(column, count) for column in rows.T.tolist()]
    assert nearest_mean(rows, count).tolist() == expected
    with numpy_only():
        assert nearest_mean(rows, count).tolist() == expected


@given(case=_cases(45))
@settings(max_examples=1000, deadline=None)
def test_integer_means_are_exact_and_rounded_half_to_even(case: tuple[np.ndarray, int]) -> None:
    rows, count = case
    expected = [_by_sorting(column, count) for column in rows.T.tolist()]
    assert nearest_mean(rows, count).tolist() == expected
    with numpy_only():
        assert nearest_mean(rows, count).tolist() == expected


@pytest.mark.parametrize("dtype", [np.int32, np.float32, np.float64])
@pytest.mark.parametrize("count", [1, 9, 40, 50])
def test_the_same_bits_with_kernels_or_numpy_on_one_or_two_threads(
    dtype: type, count: int, rng: np.random.Generator
) -> None:
    rows = (rng.standard_normal((50, 21_007)) * 1000).astype(dtype)
    results = set()
    for context in (nullcontext(), numpy_only()):
        with context:
            for threads in (1, 2):
                with using_threads(threads):
                    results.add(nearest_mean(rows, count).tobytes())
    assert len(results) == 1


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [np.int32, np.float32, np.float64])
@pytest.mark.parametrize("n", [12, 61])
def test_the_order_of_the_rows_leaves_no_trace(
    implementation: Any, dtype: type, n: int, rng: np.random.Generator
) -> None:
    rows = (rng.standard_normal((n, 133)) * 10.0 ** rng.integers(-3, 9, (n, 133))).astype(dtype)
    with implementation():
        first = nearest_mean(rows, n - 3).tobytes()
        for _ in range(5):
            assert nearest_mean(rng.permutation(rows), n - 3).tobytes() == first


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("n", [9, 60])
@pytest.mark.parametrize("huge", [-1e300, 1e300])
def test_a_huge_value_that_is_left_out_takes_no_digits_along(
    implementation: Any, n: int, huge: float, rng: np.random.Generator
) -> None:
    honest = rng.standard_normal((n - 2, 40))
    rows = np.vstack([honest, np.full((2, 40), huge)])
    with implementation():
        result = nearest_mean(rows, n - 2)
    assert np.allclose(result, honest.mean(axis=0), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_all_of_them_are_the_mean_and_one_is_the_lower_middle(
    implementation: Any, rng: np.random.Generator
) -> None:
    rows = rng.integers(INT32.min, INT32.max, (44, 90)).astype(np.int32)
    with implementation():
        assert np.array_equal(nearest_mean(rows, 44), order_mean(rows, 0, 44))
        assert np.array_equal(nearest_mean(rows, 1), np.sort(rows, axis=0)[21])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_refused_by_name(implementation: Any, value: float) -> None:
    rows = np.ones((50, 100))
    rows[49, 99] = value
    with implementation(), pytest.raises(ValueRefusedError, match="row 49"):
        nearest_mean(rows, 30)


@pytest.mark.parametrize("count", [0, -1, 6])
def test_a_count_that_does_not_exist_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="from 1 to 5"):
        nearest_mean(np.zeros((5, 3), np.int32), count)
