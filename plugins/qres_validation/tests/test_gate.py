"""The norm gate and the weight cap."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from qres_lab.testing import make_updates
from qres_validation import Validation
from qres_validation.gate import capped, cut_to_size, oversized

ROWS = st.integers(1, 9).flatmap(
    lambda n: arrays(np.int32, (n, 3), elements=st.integers(-(2**31), 2**31 - 1))
)
FACTORS = st.fractions(min_value=1, max_value=20, max_denominator=8)


@given(rows=ROWS, factor=FACTORS)
def test_exactly_those_beyond_the_factor_are_out(
    rows: np.ndarray[tuple[int, int], np.dtype[np.int32]], factor: Fraction
) -> None:
    squares = [sum(int(x) ** 2 for x in row) for row in rows]
    median = sorted(squares)[math.ceil(len(squares) / 2) - 1]
    expected = [i for i, square in enumerate(squares) if median and square > factor**2 * median]
    found = oversized(rows, factor, len(rows))
    assert found == sorted(found, key=lambda row: (-squares[row], row))
    assert sorted(found) == expected
    assert len(expected) < len(rows)


@pytest.mark.claim("C-validation-3")
def test_a_minority_of_liars_cannot_move_the_bar_past_the_honest_norms() -> None:
    honest = np.full((6, 4), 100, dtype=np.int32)
    for lie in (0, 2**31 - 1):
        rows = np.concatenate([honest, np.full((5, 4), lie, dtype=np.int32)])
        out = oversized(rows, Fraction(2), 5)
        assert out == ([] if lie == 0 else list(range(6, 11)))


def test_control_a_majority_moves_the_bar() -> None:
    honest = np.full((5, 4), 100, dtype=np.int32)
    rows = np.concatenate([honest, np.full((6, 4), 2**31 - 1, dtype=np.int32)])
    assert oversized(rows, Fraction(2), 5) == []


@pytest.mark.control("C-validation-3")
def test_control_without_the_gate_one_length_or_one_weight_owns_the_mean() -> None:
    rows = np.array([[100], [100], [2**31 - 1]], dtype=np.int32)
    assert rows.mean() > 10**8
    assert cut_to_size(rows, Fraction(2), 1).mean() < 134
    weights = np.array([1, 1, 10**9])
    assert weights[2] / weights.sum() > 0.99
    assert capped(weights, Fraction(2)).tolist() == [1, 1, 2]


@pytest.mark.claim("C-validation-3")
@given(
    honest=arrays(np.int32, (7, 2), elements=st.integers(-9, 9) | st.just(0)),
    lies=arrays(np.int32, (3, 2), elements=st.integers(-(2**31), 2**31 - 1) | st.just(0)),
    liars=st.integers(3, 12),
)
def test_nothing_is_longer_than_the_longest_honest_row_allows_even_beside_zeros(
    honest: np.ndarray[tuple[int, int], np.dtype[np.int32]],
    lies: np.ndarray[tuple[int, int], np.dtype[np.int32]],
    liars: int,
) -> None:
    most = max(int(x) ** 2 + int(y) ** 2 for x, y in honest)
    cut = cut_to_size(np.vstack([honest, lies]), Fraction(3), liars)
    assert all(int(x) ** 2 + int(y) ** 2 <= 9 * most for x, y in cut)


def test_among_zeros_a_row_is_measured_by_the_longest_that_is_surely_honest() -> None:
    rows = np.array([[0], [0], [0], [50], [60], [70], [80], [0], [0], [2**31 - 1]], dtype=np.int32)
    assert cut_to_size(rows, Fraction(10), 3).max() == 599
    assert oversized(rows, Fraction(10), 3) == [9]
    assert cut_to_size(rows, Fraction(10), 0) is rows  # who counts on no liars has no limit
    few = np.array([[0], [0], [0], [0], [7]], dtype=np.int32)
    assert not cut_to_size(few, Fraction(10), 1).any()  # it may be the liar
    assert oversized(few, Fraction(10), 1) == []  # and nobody is blamed for having data


@pytest.mark.claim("C-validation-3")
@given(weights=st.lists(st.integers(1, 2**30), min_size=1, max_size=9), limit=FACTORS)
def test_no_weight_is_above_the_limit(weights: list[int], limit: Fraction) -> None:
    before = np.array(weights, dtype=np.int64)
    after = capped(before, limit)
    median = sorted(weights)[math.ceil(len(weights) / 2) - 1]
    assert after.tolist() == [min(weight, max(1, math.floor(limit * median))) for weight in weights]
    assert before.tolist() == weights


@given(rows=ROWS, factor=FACTORS)
def test_what_is_cut_to_size_fits_and_the_rest_is_untouched(
    rows: np.ndarray[tuple[int, int], np.dtype[np.int32]], factor: Fraction
) -> None:
    before = rows.copy()
    after = cut_to_size(rows, factor, 0)
    out = oversized(rows, factor, 0)
    squares = [sum(int(x) ** 2 for x in row) for row in rows]
    median = sorted(squares)[(len(squares) - 1) // 2]
    limit = factor**2 * (median or max(squares))
    assert all(sum(int(x) ** 2 for x in after[row]) <= limit for row in out)
    kept = [row for row in range(len(rows)) if row not in out]
    assert np.array_equal(after[kept], rows[kept])
    assert np.array_equal(rows, before)


def test_the_plugin_passes_all_rows_on_shortened_and_with_weights_held() -> None:
    updates = make_updates([[10, 0], [0, 10], [6, 8], [30_000, 40_000]], [1, 2, 2, 5000])
    passed = Validation(norm_factor=2.0, weight_limit=3.0)._gated(updates, 1)
    assert passed.vectors.tolist() == [[10, 0], [0, 10], [6, 8], [11, 15]]
    assert passed.weights.tolist() == [1, 2, 2, 6]
    assert Validation()._gated(make_updates([[1], [2]]), 0).vectors.tolist() == [[1], [2]]
