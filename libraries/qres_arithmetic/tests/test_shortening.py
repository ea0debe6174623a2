"""Shortened vectors: on the grid they are those of Python's integers, and never too long."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from qres_arithmetic import shortened, squared_lengths

from qres_core.errors import ValueRefusedError

grids = arrays(
    np.int32,
    st.tuples(st.integers(1, 4), st.integers(1, 12)),
    elements=st.integers(-(2**31), 2**31 - 1),
)


def by_hand(row: list[int], squared_bound: Fraction) -> list[int]:
    """The definition: times ``floor(2**30 sqrt(bound / square)) / 2**30``, towards zero."""
    ratio = squared_bound / sum(x * x for x in row)
    factor = math.isqrt(math.floor(ratio * 2**60))
    return [math.trunc(Fraction(x * factor, 2**30)) for x in row]


@given(grids)
def test_lengths_on_the_grid_are_exact(rows: np.ndarray) -> None:
    assert squared_lengths(rows) == [sum(int(x) ** 2 for x in row) for row in rows]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_lengths_of_floats_are_those_of_their_values(dtype: Any) -> None:
    rows = np.random.default_rng(3).standard_normal((5, 300)).astype(dtype)
    exact = [math.fsum(float(x) ** 2 for x in row) for row in rows]
    assert squared_lengths(rows) == pytest.approx(exact, rel=1e-12)


def test_a_length_that_float64_does_not_hold_is_refused_with_its_row() -> None:
    rows = np.ones((3, 2))
    rows[1] = 1e200
    with pytest.raises(ValueRefusedError, match=r"QRES-E501 vectors: the length of row 1 is"):
        squared_lengths(rows)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_vector_that_is_not_finite_has_no_length(bad: float) -> None:
    with pytest.raises(ValueRefusedError, match="QRES-E501"):
        squared_lengths(np.array([[1.0, bad]]))


@given(grids, st.integers(1, 2**40), st.integers(1, 2**20))
def test_on_the_grid_it_is_the_definition_and_never_longer(
    rows: np.ndarray, above: int, below: int
) -> None:
    bound = Fraction(above, below)
    squares = squared_lengths(rows)
    longer = [row for row, square in enumerate(squares) if square > bound]
    before = rows.copy()
    found = shortened(rows, squares, longer, bound)
    assert found.dtype == np.int32
    assert np.array_equal(rows, before)
    for row, vector in enumerate(rows.tolist()):
        assert found[row].tolist() == (by_hand(vector, bound) if row in longer else vector)
    assert max(squared_lengths(found)) <= bound


def test_a_vector_of_several_blocks_is_shortened_in_all_of_them() -> None:
    rng = np.random.default_rng(5)
    row = rng.integers(-(2**31), 2**31, 20_000, dtype=np.int64).astype(np.int32)
    bound = Fraction(10**15)
    found = shortened(row[np.newaxis], squared_lengths(row[np.newaxis]), [0], bound)
    assert found[0].tolist() == by_hand(row.tolist(), bound)


@pytest.mark.parametrize(("dtype", "digits"), [(np.float32, 1e-6), (np.float64, 1e-14)])
def test_floats_keep_their_direction_and_get_the_length(dtype: Any, digits: float) -> None:
    rows = np.random.default_rng(7).standard_normal((3, 1000)).astype(dtype)
    found = shortened(rows, squared_lengths(rows), [0, 2], Fraction(9, 4))
    assert found.dtype == dtype
    assert np.array_equal(found[1], rows[1])
    for row in (0, 2):
        exact = [Fraction(float(x)) for x in rows[row]]
        factor = 1.5 / math.sqrt(sum(x * x for x in exact))
        assert found[row] == pytest.approx([float(x) * factor for x in exact], rel=digits)
