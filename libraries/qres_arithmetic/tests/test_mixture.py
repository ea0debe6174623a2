"""Mixed rows against the definition, one row at a time."""

from __future__ import annotations

import tracemalloc
from contextlib import nullcontext
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qres_arithmetic import (
    Blocks,
    Mixture,
    accelerated,
    nearest_mean,
    numpy_only,
    order_mean,
    using_threads,
)

from qres_core.errors import ValueRefusedError

INT32 = np.iinfo(np.int32)
IMPLEMENTATIONS = [
    pytest.param(
        nullcontext, id="kernel", marks=pytest.mark.skipif(not accelerated(), reason="no numba")
    ),
    pytest.param(numpy_only, id="numpy"),
]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20_240_601)


def _exact(rows: np.ndarray, neighbours: np.ndarray) -> list[list[int]]:
    """Mix in fractions, rounded half to even."""
    columns = rows.T.tolist()
    k = neighbours.shape[1]
    return [
        [round(Fraction(sum(column[j] for j in chosen), k)) for column in columns]
        for chosen in neighbours.tolist()
    ]


def _float(rows: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
    return np.stack([rows[chosen].astype(np.float64).mean(axis=0) for chosen in neighbours])


def _neighbours(rng: np.random.Generator, m: int, n: int, k: int) -> np.ndarray:
    return np.stack([rng.permutation(n)[:k] for _ in range(m)])


def _nearest(rows: np.ndarray, k: int) -> np.ndarray:
    wide = rows.astype(np.float64)
    distances = ((wide[:, None, :] - wide[None, :, :]) ** 2).sum(axis=2)
    return np.argsort(distances, axis=1, kind="stable")[:, :k]


@given(
    seed=st.integers(0, 2**32),
    n=st.integers(1, 20),
    m=st.integers(1, 22),
    d=st.sampled_from([1, 3, 16, 35]),
    part=st.floats(0, 1),
    wide=st.booleans(),
)
@settings(max_examples=1000, deadline=None)
def test_integer_mixing_is_the_definition(
    seed: int,
    n: int,
    m: int,
    d: int,
    part: float,
    wide: bool,  # noqa: FBT001
) -> None:
    rng = np.random.default_rng(seed)
    low, high = (INT32.min, INT32.max) if wide else (-4, 4)
    rows = rng.integers(low, high, (n, d), endpoint=True).astype(np.int32)
    mixture = Mixture(rows, _neighbours(rng, m, n, max(1, round(part * n))))
    expected = _exact(rows, mixture.neighbours)
    assert mixture.materialise().tolist() == expected
    with numpy_only():
        assert mixture.materialise().tolist() == expected


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "f"), [(11, 2), (50, 10), (90, 40)])
def test_float_mixing_is_the_definition(
    implementation: Any, dtype: type, n: int, f: int, rng: np.random.Generator
) -> None:
    rows = rng.standard_normal((n, 777)).astype(dtype)
    neighbours = _nearest(rows[:, :50], n - f)
    with implementation():
        mixed = Mixture(rows, neighbours).materialise()
    assert mixed.dtype == dtype
    tolerance = 8 * np.finfo(dtype).eps
    assert np.allclose(mixed, _float(rows, neighbours), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("huge", [1e4, 1e15, 1e37])
@pytest.mark.parametrize("liars", [1, 20])
def test_a_huge_row_that_is_no_neighbour_takes_no_digits_along(
    implementation: Any, dtype: type, huge: float, liars: int, rng: np.random.Generator
) -> None:
    # The huge rows are in all neighbourhoods but one: the kernels would have to subtract them.
    n = 50
    rows = rng.standard_normal((n, 300)).astype(dtype)
    rows[:liars] *= dtype(huge)
    neighbours = np.stack([np.arange(liars + 5)] * (n - 1) + [np.arange(liars, 2 * liars + 5)])
    with implementation():
        mixed = Mixture(rows, neighbours).materialise()
    digits = float(np.finfo(dtype).eps)
    assert np.allclose(mixed[-1], _float(rows, neighbours[-1:])[0], rtol=0, atol=4 * digits)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [np.int32, np.float32, np.float64])
@pytest.mark.parametrize(("n", "f"), [(10, 2), pytest.param(64, 20, marks=pytest.mark.long)])
def test_rules_read_a_mixture_as_they_read_its_rows(
    implementation: Any, dtype: type, n: int, f: int, rng: np.random.Generator
) -> None:
    rows = (rng.standard_normal((n, 20_011)) * 1000).astype(dtype)
    mixture = Mixture(rows, _nearest(rows[:, :50], n - f))
    assert isinstance(mixture, Blocks)
    assert mixture.shape == rows.shape
    with implementation():
        whole = mixture.materialise()
        assert np.array_equal(mixture.block(77, 1077), whole[:, 77:1077]) or dtype != np.int32
        for threads in (1, 2):
            with using_threads(threads):
                trimmed = order_mean(mixture, f, n - f)
                nearest = nearest_mean(mixture, n - f)
            if accelerated() or dtype == np.int32:
                assert trimmed.tobytes() == order_mean(whole, f, n - f).tobytes()
                assert nearest.tobytes() == nearest_mean(whole, n - f).tobytes()
            assert np.allclose(trimmed, order_mean(whole, f, n - f), rtol=1e-6, atol=1e-6)
            assert np.allclose(nearest, nearest_mean(whole, n - f), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_buckets_are_mixtures_of_few_rows(implementation: Any) -> None:
    rows = np.arange(24, dtype=np.int32).reshape(6, 4)
    mixture = Mixture(rows, np.array([[5, 0], [1, 4], [3, 2]]))
    with implementation():
        assert mixture.materialise().tolist() == [[10, 11, 12, 13]] * 3
        assert order_mean(mixture, 1, 2).tolist() == [10, 11, 12, 13]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_any_memory_layout(implementation: Any, rng: np.random.Generator) -> None:
    rows = rng.standard_normal((20, 3_003)).astype(np.float32)
    neighbours = _neighbours(rng, 20, 20, 15)
    with implementation():
        expected = Mixture(rows, neighbours).materialise()
        turned = Mixture(np.asfortranarray(rows), neighbours).materialise()
    assert np.allclose(turned, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rows_that_are_not_finite_are_refused_by_name(implementation: Any, value: float) -> None:
    rows = np.ones((9, 100), np.float32)
    rows[4, 3] = value
    rows[7, 98] = value
    mixture = Mixture(rows, np.tile(np.arange(3), (9, 1)))
    with implementation():
        for use in (
            lambda: mixture.block(0, 10),
            mixture.materialise,
            lambda: order_mean(mixture, 1, 2),
        ):
            with pytest.raises(ValueRefusedError, match="rows 4, 7"):
                use()


@pytest.mark.parametrize(
    "neighbours",
    [
        np.zeros((0, 2), np.int64),
        np.zeros(3, np.int64),
        np.zeros((2, 1)),
        np.array([[0, 3]]),
        np.array([[-1, 0]]),
        np.array([[1, 1]]),
    ],
)
def test_neighbourhoods_that_are_none_are_refused(neighbours: np.ndarray) -> None:
    with pytest.raises(ValueError, match="neighbour"):
        Mixture(np.zeros((3, 5), np.int32), neighbours)


@pytest.mark.parametrize(
    "implementation",
    [IMPLEMENTATIONS[0], pytest.param(numpy_only, id="numpy", marks=pytest.mark.long)],
)
@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_no_copy_of_the_rows_is_made(
    implementation: Any, dtype: type, rng: np.random.Generator
) -> None:
    rows = np.ones((100, 100_000), dtype)
    mixture = Mixture(rows, _neighbours(rng, 100, 100, 80))
    with implementation():
        order_mean(Mixture(rows[:, :100], mixture.neighbours), 20, 80)
        tracemalloc.start()
        try:
            order_mean(mixture, 20, 80)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 0.05 * rows.nbytes + 400_000


def test_more_rows_than_sums_are_exact_for_are_refused() -> None:
    neighbours = np.zeros((1, 1), dtype=np.int64)
    assert len(Mixture(np.ones((2**20, 1), dtype=np.int32), neighbours).materialise()) == 1
    with pytest.raises(ValueRefusedError, match="QRES-E502 rows: 1048577 rows, at most"):
        Mixture(np.ones((2**20 + 1, 1), dtype=np.int32), neighbours)
