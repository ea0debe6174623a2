"""Means and weighted sums against Python's fractions."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from qres_arithmetic import (
    WEIGHT_UNIT,
    accelerated,
    combine,
    mean_of,
    numpy_only,
    quantised,
    using_threads,
)

from qres_core.errors import ValueRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

LOWEST, HIGHEST = -(2**31), 2**31 - 1
COORDINATE = st.integers(LOWEST, HIGHEST) | st.sampled_from([LOWEST, HIGHEST]) | st.integers(-3, 3)
IMPLEMENTATIONS: list[Callable[[], AbstractContextManager[None]]] = [
    *([nullcontext] if accelerated() else []),
    numpy_only,
]


def integer_rows(most: int = 12) -> st.SearchStrategy[np.ndarray]:
    shape = st.tuples(st.integers(1, most), st.integers(1, 30))
    return hnp.arrays(np.int32, shape, elements=COORDINATE, fill=COORDINATE)


def fractions(rows: np.ndarray, weights: list[int], divisor: int) -> list[int]:
    return [
        round(Fraction(sum(w * x for w, x in zip(weights, column, strict=True)), divisor))
        for column in rows.T.tolist()
    ]


@given(rows=integer_rows(), data=st.data())
@settings(deadline=None)
def test_means_are_exact(rows: np.ndarray, data: st.DataObject) -> None:
    indices = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=20))
    expected = fractions(rows[indices], [1] * len(indices), len(indices))
    before = rows.tobytes()
    for context in IMPLEMENTATIONS:
        with context():
            found = mean_of(rows, indices)
        assert found.dtype == np.int32
        assert found.tolist() == expected
    assert rows.tobytes() == before


@given(rows=integer_rows(), data=st.data())
@settings(deadline=None)
def test_combinations_are_exact(rows: np.ndarray, data: st.DataObject) -> None:
    n = len(rows)
    shares = data.draw(st.lists(st.integers(0, 1000), min_size=n, max_size=n).filter(any))
    weights = np.array([share / sum(shares) for share in shares])
    whole = quantised(weights)
    expected = fractions(rows, whole.tolist(), WEIGHT_UNIT)
    for context in IMPLEMENTATIONS:
        with context():
            assert combine(rows, weights).tolist() == expected
            assert combine(rows, whole).tolist() == expected


@pytest.mark.parametrize("d", [2047, 2048, 2049, 8209])
def test_no_size_is_special(
    d: int, implementation: Callable[[], AbstractContextManager[None]]
) -> None:
    rows = np.random.default_rng(d).integers(LOWEST, HIGHEST, size=(7, d), dtype=np.int32)
    weights = np.array([0.25, 0, 0.5, 0, 0.125, 0.125, 0])
    with implementation():
        assert mean_of(rows, [0, 2, 3, 5, 6]).tolist() == fractions(
            rows[[0, 2, 3, 5, 6]], [1] * 5, 5
        )
        assert combine(rows, weights).tolist() == fractions(
            rows, quantised(weights).tolist(), WEIGHT_UNIT
        )


def test_layout_and_threads_change_no_bit(
    layouts: Callable[[np.ndarray], dict[str, np.ndarray]],
    implementation: Callable[[], AbstractContextManager[None]],
) -> None:
    integers = np.random.default_rng(1).integers(LOWEST, HIGHEST, size=(6, 180_001), dtype=np.int32)
    weights = np.random.default_rng(2).dirichlet(np.ones(6))
    for rows in (integers, integers.astype(np.float32), integers.astype(np.float64)):
        with implementation(), using_threads(1):
            mean, combined = mean_of(rows, [4, 1, 2]), combine(rows, weights)
        for arranged in layouts(rows).values():
            for count in (1, 2):
                with implementation(), using_threads(count):
                    assert mean_of(arranged, [4, 1, 2]).tobytes() == mean.tobytes()
                    assert combine(arranged, weights).tobytes() == combined.tobytes()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50).filter(lambda ws: sum(ws) > 1e-3))
def test_quantised_weights_sum_exactly_and_are_near(shares: list[float]) -> None:
    weights = np.array(shares) / sum(shares)
    whole = quantised(weights)
    assert sum(whole.tolist()) == WEIGHT_UNIT
    assert whole.min() >= 0
    assert np.abs(whole - weights * WEIGHT_UNIT).max() <= len(shares) / 2 + 1
    assert (whole[weights == 0] == 0).all()


def test_the_rest_goes_to_the_first_of_the_largest() -> None:
    assert quantised(np.array([0.2, 0.4, 0.4])).tolist() == [214748365, 429496729, 429496730]
    assert quantised(np.array([1.0])).tolist() == [WEIGHT_UNIT]


@pytest.mark.parametrize(
    "weights",
    [
        np.array([0.5, 0.6, 0.0]),
        np.array([0.5, 0.4, 0.0]),
        np.array([1.5, -0.5, 0.0]),
        np.array([np.nan, 0.5, 0.5]),
        np.array([np.inf, 0.0, 0.0]),
        np.array([1.0, 0.0, 0.0], dtype=np.float32),
        np.array([1.0]),
        np.array([1, 0, 0]),
        np.array([2**30 + 1, -1, 0]),
        np.array([2**62, -(2**62), 2**30]),
    ],
)
@pytest.mark.parametrize("dtype", [np.int32, np.float64])
def test_other_weights_are_refused(weights: np.ndarray, dtype: type) -> None:
    with pytest.raises(ValueRefusedError, match="QRES-E506 weights"):
        combine(np.zeros((3, 2), dtype=dtype), weights)


def test_more_weights_than_rounding_can_make_up_for() -> None:
    assert quantised(np.full(2**17, 2.0**-17)).sum() == WEIGHT_UNIT
    # 10034.595 units each: rounded up, they are 43 315 too many, and none is as large as that.
    with pytest.raises(ValueRefusedError, match="QRES-E506 weights: 107004 weights are too many"):
        quantised(np.full(107_004, 1 / 107_004))


# ---- floats ----


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_are_near(
    dtype: type, implementation: Callable[[], AbstractContextManager[None]]
) -> None:
    rows = np.random.default_rng(3).standard_normal((9, 3001)).astype(dtype)
    weights = np.random.default_rng(4).dirichlet(np.ones(9))
    with implementation():
        mean, combined = mean_of(rows, range(9)), combine(rows, weights)
    tolerance = 4 * float(np.finfo(dtype).eps)
    assert mean.dtype == combined.dtype == dtype
    np.testing.assert_allclose(mean, rows.mean(axis=0, dtype=np.float64), atol=tolerance)
    np.testing.assert_allclose(combined, weights @ rows.astype(np.float64), atol=tolerance)
    with implementation():
        near = combine(rows, quantised(weights))
    np.testing.assert_allclose(near, combined, atol=1e-7)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rows_that_are_read_have_to_be_finite(
    bad: float, implementation: Callable[[], AbstractContextManager[None]]
) -> None:
    rows = np.ones((6, 3000), dtype=np.float32)
    rows[2, 2999] = bad
    weights = np.array([0.5, 0.25, 0, 0.25, 0, 0])
    with implementation():
        assert combine(rows, weights).tolist() == [1.0] * 3000
        assert mean_of(rows, [0, 1, 3, 4, 5]).tolist() == [1.0] * 3000
        with pytest.raises(ValueRefusedError, match=r"QRES-E501 .* in row 2 "):
            combine(rows, weights[[0, 2, 1, 3, 4, 5]])
        with pytest.raises(ValueRefusedError, match=r"QRES-E501 .* in row 2 "):
            mean_of(rows, [2])


def test_means_of_the_largest_floats_do_not_overflow(
    implementation: Callable[[], AbstractContextManager[None]],
) -> None:
    for dtype in (np.float32, np.float64):
        rows = np.full((8, 3), np.finfo(dtype).max)
        rows[:, 1] *= -1
        with implementation():
            assert mean_of(rows, range(8)).tolist() == rows[0].tolist()
            assert combine(rows, np.full(8, 0.125)).tolist() == rows[0].tolist()


@pytest.mark.parametrize("indices", [[3], [-4], [0, 3]])
def test_rows_that_there_are_not(
    indices: list[int], implementation: Callable[[], AbstractContextManager[None]]
) -> None:
    with implementation(), pytest.raises(IndexError, match="indices"):
        mean_of(np.zeros((3, 2), dtype=np.int32), indices)


def test_the_mean_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        mean_of(np.zeros((3, 2), dtype=np.int32), [])


def test_the_result_is_new_memory(
    implementation: Callable[[], AbstractContextManager[None]],
) -> None:
    rows = np.ones((2, 3), dtype=np.int32)
    with implementation():
        for result in (mean_of(rows, [0]), combine(rows, np.array([1.0, 0.0]))):
            assert not np.shares_memory(result, rows)
            assert result.flags.writeable
