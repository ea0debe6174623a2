"""Approximate distances stay within their proven error."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from qres_arithmetic import (
    INTERVAL_LIMIT,
    accelerated,
    exact_rows,
    interval_distances,
    numpy_only,
    using_threads,
)

from qres_core.errors import ValueRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

pytestmark = pytest.mark.skipif(not accelerated(), reason="numba is not installed")

BELOW = INTERVAL_LIMIT - 1
COORDINATE = st.integers(-BELOW, BELOW) | st.sampled_from([-BELOW, BELOW, 0, 1, 2**24 + 1])


def assert_within(rows: np.ndarray) -> None:
    found = interval_distances(rows)
    assert found is not None
    approximate, error = found
    assert approximate.dtype == np.float64
    assert (approximate == approximate.T).all()
    wide = rows.astype(object)
    for i, row in enumerate(wide):
        for j, other in enumerate(wide):
            exact = int(((row - other) ** 2).sum())
            assert abs(Fraction(float(approximate[i, j])) - exact) <= Fraction(error) * exact
    assert error < 1e-4


@pytest.mark.claim("C-arithmetic-2")
@given(
    rows=hnp.arrays(
        np.int32,
        st.tuples(st.integers(1, 12), st.integers(1, 300)),
        elements=COORDINATE,
        fill=COORDINATE,
    )
)
@settings(deadline=None, max_examples=80)
def test_bounds_contain_the_exact_value(rows: np.ndarray) -> None:
    assert_within(rows)


@pytest.mark.parametrize("d", [1023, 1024, 1025, 9000])
def test_one_large_and_many_small_squares(d: int) -> None:
    # The order of the sum matters most where a small square falls below half a last place.
    rows = np.ones((9, d), dtype=np.int32)
    rows[4] = 0
    rows[4, 0] = 2**14
    rows[5] = np.arange(d) % 4099
    assert_within(rows)


@pytest.mark.control("C-arithmetic-2")
def test_squares_that_all_round_the_same_way() -> None:
    # (2**24 + 3) is rounded on conversion, and its square again, always alike.
    rows = np.zeros((5, 4000), dtype=np.int32)
    rows[1:] = 2**24 + 3
    rows[3:] = 2**29 + 2**5 + 1
    assert_within(rows)


@pytest.mark.parametrize("value", [INTERVAL_LIMIT, -INTERVAL_LIMIT, -(2**31), 2**31 - 1])
@pytest.mark.parametrize("place", [(0, 0), (4, 1024), (8, 2999)])
def test_larger_coordinates_are_left_to_exact_arithmetic(
    value: int, place: tuple[int, int]
) -> None:
    rows = np.full((9, 3000), BELOW, dtype=np.int32)
    assert interval_distances(rows) is not None
    rows[place] = value
    assert interval_distances(rows) is None


def test_a_large_coordinate_in_either_half_is_found() -> None:
    for column in (0, 199_999):
        rows = np.zeros((6, 200_000), dtype=np.int32)
        rows[5, column] = INTERVAL_LIMIT
        for count in (1, 2):
            with using_threads(count):
                assert interval_distances(rows) is None


def test_without_the_kernels_there_are_none() -> None:
    with numpy_only():
        assert interval_distances(np.zeros((3, 4), dtype=np.int32)) is None


def test_layout_and_threads_change_no_bit(
    layouts: Callable[[np.ndarray], dict[str, np.ndarray]],
) -> None:
    rows = np.random.default_rng(1).integers(-BELOW, BELOW, size=(7, 150_001), dtype=np.int32)
    with using_threads(1):
        expected = interval_distances(rows)
    assert expected is not None
    for arranged in layouts(rows).values():
        for count in (1, 2):
            with using_threads(count):
                found = interval_distances(arranged)
            assert found is not None
            assert found[1] == expected[1]
            assert found[0].tobytes() == expected[0].tobytes()


def test_floats_are_refused() -> None:
    for function in (interval_distances, lambda rows: exact_rows(rows, [0])):
        with pytest.raises(ValueRefusedError, match="QRES-E503"):
            function(np.zeros((3, 2)))


@pytest.mark.parametrize("which", [[3], [-4]])
def test_rows_that_there_are_not(
    which: list[int], implementation: Callable[[], AbstractContextManager[None]]
) -> None:
    with implementation(), pytest.raises(IndexError):
        exact_rows(np.zeros((3, 2), dtype=np.int32), which)


def test_many_rows_few_wanted(
    implementation: Callable[[], AbstractContextManager[None]],
) -> None:
    generator = np.random.default_rng(8)
    rows = generator.integers(-(2**21), 2**21, size=(23, 1100), dtype=np.int32)
    rows[7] = -(2**31)
    wide = rows.astype(object)
    expected = [[int(((wide[i] - y) ** 2).sum()) for y in wide] for i in (7, 22, 0, -1)]
    with implementation():
        assert exact_rows(rows, [7, 22, 0, -1]).tolist() == expected
