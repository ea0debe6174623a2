"""Means of order statistics against sorting in Python, one column at a time."""

from __future__ import annotations

import tracemalloc
from contextlib import AbstractContextManager, nullcontext
from fractions import Fraction
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qres_arithmetic import Blocks, accelerated, numpy_only, order_mean, using_threads

from qres_core.errors import ValueRefusedError

INT32 = np.iinfo(np.int32)
VALUES = st.one_of(
    st.integers(-3, 3), st.integers(INT32.min, INT32.max), st.sampled_from([INT32.min, INT32.max])
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


class _Source:
    """Rows handed out block by block, by a stranger."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.rows.dtype

    def block(self, start: int, stop: int) -> Any:
        return self.rows[:, start:stop]


def _expected(rows: np.ndarray, low: int, high: int) -> list[int]:
    """Return the means in exact fractions; Python rounds a Fraction half to even."""
    return [
        round(Fraction(sum(sorted(column)[low:high]), high - low)) for column in rows.T.tolist()
    ]


@st.composite
def _cases(draw: st.DrawFn) -> tuple[np.ndarray, int, int]:
    n, d = draw(st.integers(1, 45)), draw(st.sampled_from([1, 2, 5, 16, 17, 40]))
    rows = draw(hnp.arrays(np.int32, (n, d), elements=VALUES))
    low = draw(st.integers(0, n - 1))
    return rows, low, draw(st.integers(low + 1, n))


@given(case=_cases())
@settings(max_examples=1000, deadline=None)
def test_integer_means_are_exact_and_rounded_half_to_even(
    case: tuple[np.ndarray, int, int],
) -> None:
    rows, low, high = case
    expected = _expected(rows, low, high)
    result = order_mean(rows, low, high)
    assert result.dtype == np.int32
    assert result.tolist() == expected
    with numpy_only():
        assert order_mean(rows, low, high).tolist() == expected


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("n", [1, 2, 7, 40, 41, 100, 333])
@pytest.mark.parametrize("dtype", [np.int32, np.float32, np.float64])
def test_medians_and_trimmed_means_of_many_rows(
    implementation: Any, n: int, dtype: type, rng: np.random.Generator
) -> None:
    rows = rng.integers(-(2**20), 2**20, (n, 300)).astype(dtype)
    rows[:, :100] //= 2**18  # many equal values
    with implementation():
        median = order_mean(rows, (n - 1) // 2, n // 2 + 1)
        trimmed = order_mean(rows, n // 5, n - n // 5)
    assert median.dtype == dtype
    wide = np.sort(rows, axis=0).astype(np.float64)
    expected = (wide[(n - 1) // 2] + wide[n // 2]) / 2
    assert np.array_equal(median, np.rint(expected) if dtype == np.int32 else expected)
    exact = [
        Fraction(sum(int(x) for x in column[n // 5 : n - n // 5]), n - 2 * (n // 5))
        for column in wide.T
    ]
    rounded = [round(x) if dtype == np.int32 else float(dtype(x)) for x in exact]
    assert trimmed.tolist() == rounded


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_the_extremes_of_int32_do_not_overflow(implementation: Any) -> None:
    least, most = INT32.min, INT32.max
    rows = np.array([[most, least, least], [most, least, most], [most, least, most]], np.int32)
    with implementation():
        assert order_mean(rows, 0, 3).tolist() == _expected(rows, 0, 3)
        assert order_mean(rows, 0, 2).tolist() == [most, least, 0]  # -1/2 is rounded to even
        assert order_mean(np.repeat(rows, 50, axis=0), 3, 147).tolist() == _expected(
            np.repeat(rows, 50, axis=0), 3, 147
        )


@pytest.mark.parametrize("dtype", [np.int32, np.float32, np.float64])
def test_the_same_bits_with_kernels_or_numpy_on_one_or_two_threads(
    dtype: type, rng: np.random.Generator
) -> None:
    rows = (rng.standard_normal((50, 21_007)) * 1000).astype(dtype)
    contexts: list[tuple[AbstractContextManager[Any], int]] = [
        (nullcontext(), 1),
        (nullcontext(), 2),
        (numpy_only(), 1),
        (numpy_only(), 2),
    ]
    results = set()
    for context, threads in contexts:
        with context, using_threads(threads):
            results.add(order_mean(rows, 10, 40).tobytes())
    assert len(results) == 1


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [np.int32, np.float32, np.float64])
@pytest.mark.parametrize("n", [11, 60])
def test_the_order_of_the_rows_leaves_no_trace(
    implementation: Any, dtype: type, n: int, rng: np.random.Generator
) -> None:
    rows = (rng.standard_normal((n, 133)) * 10.0 ** rng.integers(-3, 9, (n, 133))).astype(dtype)
    with implementation():
        first = order_mean(rows, 2, n - 2).tobytes()
        for _ in range(5):
            assert order_mean(rng.permutation(rows), 2, n - 2).tobytes() == first


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("n", [5, 50])
@pytest.mark.parametrize("width", [1, 16, 1000])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_that_are_not_finite_are_refused_by_name(
    implementation: Any, n: int, width: int, value: float, dtype: type
) -> None:
    rows = np.ones((n, width), dtype)
    rows[1, 0] = value
    rows[3, -1] = value
    with implementation(), pytest.raises(ValueRefusedError, match="rows 1, 3") as refusal:
        order_mean(rows, 2, n - 2)
    assert refusal.value.code == "QRES-E501"


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_sum_beyond_float64_is_refused(implementation: Any) -> None:
    with implementation(), pytest.raises(ValueRefusedError, match="E501"):
        order_mean(np.full((3, 5), 1.5e308), 0, 3)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("n", [4, 44])
def test_a_zero_is_positive_whatever_zeros_it_came_from(implementation: Any, n: int) -> None:
    rows = np.zeros((n, 20), np.float32)
    rows[::2] = -0.0
    with implementation():
        assert not np.signbit(order_mean(rows, 0, n)).any()
        assert not np.signbit(order_mean(-np.abs(rows), 0, 1)).any()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_any_memory_layout_and_any_source_of_blocks(
    implementation: Any, dtype: type, rng: np.random.Generator
) -> None:
    rows = (rng.standard_normal((30, 5_001)) * 1000).astype(dtype)
    padded = np.zeros((60, 10_002), dtype)
    padded[::2, ::-2] = rows
    source = _Source(rows)
    assert isinstance(source, Blocks)
    with implementation():
        expected = order_mean(rows, 3, 27).tobytes()
        assert order_mean(np.asfortranarray(rows), 3, 27).tobytes() == expected
        assert order_mean(padded[::2, ::-2], 3, 27).tobytes() == expected
        assert order_mean(source, 3, 27).tobytes() == expected


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_foreign_block_that_is_not_finite_is_refused(implementation: Any) -> None:
    rows = np.ones((4, 100))
    rows[2, 50] = np.nan
    with implementation(), pytest.raises(ValueRefusedError, match="row 2"):
        order_mean(_Source(rows), 1, 3)


@pytest.mark.claim("C-robust-19")
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_the_input_is_read_only(implementation: Any, rng: np.random.Generator) -> None:
    rows = rng.integers(-9, 9, (9, 77)).astype(np.int32)
    before = rows.copy()
    rows.flags.writeable = False
    with implementation():
        result = order_mean(rows, 1, 8)
    assert np.array_equal(rows, before)
    result[:] = 0


@pytest.mark.control("C-robust-19")
def test_control_sorting_in_place_changes_its_input() -> None:
    rows = np.array([[3], [1], [2]], dtype=np.int32)
    before = rows.copy()
    rows.sort(axis=0)
    assert not np.array_equal(rows, before)


@pytest.mark.parametrize(("low", "high"), [(-1, 2), (2, 2), (3, 1), (0, 6)])
def test_order_statistics_that_do_not_exist_are_refused(low: int, high: int) -> None:
    with pytest.raises(ValueError, match="0 <= low < high <= 5"):
        order_mean(np.zeros((5, 3), np.int32), low, high)


def test_other_arrays_are_refused() -> None:
    with pytest.raises(ValueRefusedError, match="E503"):
        order_mean(np.zeros((5, 3), np.int64), 0, 1)  # type: ignore[arg-type]
    with pytest.raises(ValueRefusedError, match="E502"):
        order_mean(np.zeros((5, 3, 1), np.int32), 0, 1)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", [(100, 100_000), (400, 25_000)])
@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_no_copy_of_the_rows_is_made(
    implementation: Any, shape: tuple[int, int], dtype: type
) -> None:
    rows = np.ones(shape, dtype)
    n = shape[0]
    with implementation():
        order_mean(rows[:, :100], 5, n - 5)  # compiled kernels and networks are no part of it
        tracemalloc.start()
        try:
            order_mean(rows, 5, n - 5)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 0.05 * rows.nbytes + 4 * shape[1]
