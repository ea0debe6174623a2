"""Rounding against Python's fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qres_arithmetic import round_half_even


@given(
    totals=st.lists(st.integers(-(2**62), 2**62) | st.integers(-20, 20), min_size=1, max_size=20),
    divisor=st.integers(1, 9) | st.integers(1, 2**30) | st.just(2**30) | st.just(2**62),
)
def test_equals_the_rounding_of_fractions(totals: list[int], divisor: int) -> None:
    found = round_half_even(np.array(totals, dtype=np.int64), divisor)
    assert found.tolist() == [round(Fraction(total, divisor)) for total in totals]


@given(start=st.integers(-(2**40), 2**40), divisor=st.integers(1, 50))
def test_is_unbiased_over_two_periods(start: int, divisor: int) -> None:
    totals = np.arange(2 * divisor * start, 2 * divisor * (start + 1), dtype=np.int64)
    errors = round_half_even(totals, divisor) * divisor - totals
    assert errors.sum() == 0
    assert 2 * np.abs(errors).max() <= divisor


def test_leaves_its_input_alone() -> None:
    totals = np.array([[5, 7]], dtype=np.int64)
    assert round_half_even(totals, 2).tolist() == [[2, 4]]
    assert totals.tolist() == [[5, 7]]


@pytest.mark.parametrize("divisor", [0, -1, 2**62 + 1])
def test_other_divisors_are_refused(divisor: int) -> None:
    with pytest.raises(ValueError, match="from 1 to"):
        round_half_even(np.array([1], dtype=np.int64), divisor)
