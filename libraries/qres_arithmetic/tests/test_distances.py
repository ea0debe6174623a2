"""Distances and norms against Python integers, and the ways peers get float distances wrong."""

from __future__ import annotations

import tracemalloc
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from qres_arithmetic import (
    accelerated,
    distances_of_products,
    distances_with_norms,
    exact_rows,
    gram,
    numpy_only,
    squared_distances,
    squared_norms,
    using_threads,
)
from qres_arithmetic.gram import gram_direct, gram_halves

from qres_core.errors import ValueRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

LOWEST, HIGHEST = -(2**31), 2**31 - 1
FULL_RANGE = st.integers(LOWEST, HIGHEST) | st.sampled_from(
    [LOWEST, LOWEST + 1, HIGHEST - 1, HIGHEST, 2**15, 2**16 - 1, -(2**15) - 1, 2**22]
)
COORDINATE = st.one_of(FULL_RANGE, st.integers(-2, 2), st.integers(-(2**21), 2**21))
IMPLEMENTATIONS: list[Callable[[], AbstractContextManager[None]]] = [
    *([nullcontext] if accelerated() else []),
    numpy_only,
]


@st.composite
def integer_rows(draw: st.DrawFn) -> np.ndarray:
    n, d = draw(st.integers(1, 12)), draw(st.integers(1, 300))
    return draw(hnp.arrays(np.int32, (n, d), elements=COORDINATE, fill=FULL_RANGE))


def by_objects(rows: np.ndarray) -> list[list[int]]:
    """Return the distances in Python integers, fast enough for many columns."""
    wide = rows.astype(object)
    return [[int(((x - y) ** 2).sum()) for y in wide] for x in wide]


def same(first: Any, second: Any) -> bool:
    return first.dtype == second.dtype and first.tolist() == second.tolist()


# ---- integers: exact ----


@pytest.mark.claim("C-krum-2")
@given(rows=integer_rows())
@settings(deadline=None, max_examples=150)
def test_integers_are_exact_and_alike_in_both_implementations(
    rows: np.ndarray, pairs: Callable[[list[list[int]]], list[list[int]]]
) -> None:
    before = rows.tobytes()
    expected = pairs(rows.tolist())
    norms = [sum(x * x for x in row) for row in rows.tolist()]
    for context in IMPLEMENTATIONS:
        with context():
            distances, with_them = distances_with_norms(rows)
            assert distances.tolist() == expected
            assert with_them.tolist() == norms
            assert same(squared_distances(rows), distances)
            assert same(squared_norms(rows), with_them)
        fits = max(max(row) for row in expected) < 2**63
        assert distances.dtype == (np.int64 if fits else np.object_)
        assert with_them.dtype == (np.int64 if max(norms) < 2**63 else np.object_)
    assert rows.tobytes() == before


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 11, 50])
@pytest.mark.parametrize("d", [511, 512, 513, 2049])
def test_no_size_is_special(
    n: int, d: int, implementation: Callable[[], AbstractContextManager[None]]
) -> None:
    generator = np.random.default_rng(n * d)
    rows = generator.integers(-(2**21), 2**21, size=(n, d), dtype=np.int32)
    rows[generator.integers(n, size=5), generator.integers(d, size=5)] = LOWEST
    with implementation():
        assert squared_distances(rows).tolist() == by_objects(rows)


@pytest.mark.parametrize("reach", [2**22 - 1, 2**22, 2**22 + 1])
@pytest.mark.parametrize("offset", [0, 2**30, LOWEST])
def test_either_side_of_what_a_float64_tile_may_sum(
    reach: int, offset: int, implementation: Callable[[], AbstractContextManager[None]]
) -> None:
    # 512 squares of 2**22 sum to 2**53, the last integer up to which float64 has them all.
    rows = np.full((9, 600), offset, dtype=np.int32)
    rows[1:8] += reach
    rows[4, ::2] -= 1
    with implementation():
        assert squared_distances(rows).tolist() == by_objects(rows)


def test_more_rows_than_the_tiles_take(
    implementation: Callable[[], AbstractContextManager[None]],
) -> None:
    generator = np.random.default_rng(2)
    rows = generator.integers(LOWEST, HIGHEST, size=(140, 30), dtype=np.int32)
    with implementation():
        assert squared_distances(rows).tolist() == by_objects(rows)


@pytest.mark.claim("C-krum-9")
@pytest.mark.long
def test_threads_and_layout_change_no_bit(
    layouts: Callable[[np.ndarray], dict[str, np.ndarray]],
    implementation: Callable[[], AbstractContextManager[None]],
) -> None:
    generator = np.random.default_rng(3)
    integers = generator.integers(-(2**21), 2**21, size=(7, 150_001), dtype=np.int32)
    integers[3, ::5000] = HIGHEST
    for rows in (integers, integers[:, :20_001].astype(np.float32), integers.astype(np.float64)):
        with implementation(), using_threads(1):
            expected, norms = distances_with_norms(rows)
            alone = squared_norms(rows)
        for name, arranged in layouts(rows).items():
            for count in (1, 2):
                with implementation(), using_threads(count):
                    found, found_norms = distances_with_norms(arranged)
                    assert same(found, expected), (rows.dtype, name, count)
                    assert same(found_norms, norms)
                    if rows.dtype == np.int32:
                        assert same(squared_norms(arranged), alone)


@pytest.mark.parametrize(("value", "dtype"), [(1518500249, np.int64), (1518500250, np.object_)])
def test_int64_is_used_exactly_as_far_as_the_values_fit(
    value: int, dtype: type, implementation: Callable[[], AbstractContextManager[None]]
) -> None:
    with implementation():
        distances = squared_distances(np.array([[-value], [value]], dtype=np.int32))
    assert distances.dtype == dtype
    assert distances.tolist() == [[0, 4 * value**2], [4 * value**2, 0]]


def test_dimension_beyond_the_proof_is_refused() -> None:
    endless = np.broadcast_to(np.int32(0), (3, 2**32))
    for function in (squared_distances, squared_norms, distances_with_norms):
        with pytest.raises(ValueRefusedError, match=r"QRES-E502 .* 4294967296 coordinates"):
            function(endless)


@pytest.mark.claim("C-krum-2")
@pytest.mark.parametrize("rows", [[[LOWEST] * 300] * 3, [[LOWEST], [HIGHEST]], [[LOWEST]]])
def test_the_ends_of_the_range(
    rows: list[list[int]],
    implementation: Callable[[], AbstractContextManager[None]],
    pairs: Callable[[list[list[int]]], list[list[int]]],
) -> None:
    with implementation():
        distances, norms = distances_with_norms(np.array(rows, dtype=np.int32))
    assert distances.tolist() == pairs(rows)
    assert norms.tolist() == [sum(x * x for x in row) for row in rows]


@pytest.mark.skipif(not accelerated(), reason="numba is not installed")
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_extra_memory_is_a_few_per_cent(order: str, dtype: type) -> None:
    rows = np.zeros((20, 400_000), dtype=dtype, order="C" if order == "C" else "F")
    distances_with_norms(rows[:, :9000])
    tracemalloc.start()
    try:
        distances_with_norms(rows)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= rows.nbytes / 20


# ---- the products that numpy alone forms ----


@given(
    block=hnp.arrays(
        np.int64, st.tuples(st.integers(1, 6), st.integers(1, 40)), elements=FULL_RANGE
    )
)
@settings(deadline=None)
def test_halves_are_the_gram_matrix(block: np.ndarray) -> None:
    high, cross, low = (part.astype(object) for part in gram_halves(block.astype(np.float64)))
    wide = block.astype(object)
    assert (high * 2**32 + cross * 2**16 + low == wide @ wide.T).all()


def test_largest_sums_the_direct_product_may_form() -> None:
    # 8192 products of 2**40 are 2**53.
    rows = np.full((3, 8192), 2**20, dtype=np.int32)
    rows[1] *= -1
    rows[2, ::2] -= 1
    with numpy_only():
        assert squared_distances(rows).tolist() == by_objects(rows)
    assert gram_direct(rows[:1].astype(np.float64)).tolist() == [[2**53]]


def test_sums_just_beyond_the_direct_product() -> None:
    # The sum of squares is odd and above 2**53: a single float64 product would lose its last bit.
    value, d = 2**21 + 1, 8191
    with numpy_only():
        distances = squared_distances(np.array([[value] * d, [0] * d], dtype=np.int32))
    assert distances[0, 1] == d * value**2


def test_direct_sums_that_would_fill_int64(monkeypatch: pytest.MonkeyPatch) -> None:
    # Narrow blocks let a short vector stand for one of tens of millions of coordinates: each block
    # of 16 adds just under 2**53, and all 1100 of them together do not fit int64.
    monkeypatch.setattr(gram, "_WIDEST", 16)
    value, d = 23_726_566, 16 * 1100
    rows = np.array([[value] * d, [-value] * d, [value - 1] * d], dtype=np.int32)
    assert 16 * value**2 <= 2**53
    assert d * value**2 > 2**63
    with numpy_only():
        assert squared_distances(rows).tolist() == by_objects(rows)


def test_distances_that_fit_where_norms_do_not(
    implementation: Callable[[], AbstractContextManager[None]],
) -> None:
    rows = np.full((2, 5), HIGHEST, dtype=np.int32)
    rows[1, 0] -= 3
    with implementation():
        distances, norms = distances_with_norms(rows)
    assert distances.dtype == np.int64
    assert distances.tolist() == [[0, 9], [9, 0]]
    assert norms.tolist() == [5 * HIGHEST**2, 4 * HIGHEST**2 + (HIGHEST - 3) ** 2]


# ---- floats ----


def reference(rows: np.ndarray) -> np.ndarray:
    wide = rows.astype(np.float64)
    with np.errstate(over="ignore"):
        return np.array([[((x - y) ** 2).sum() for y in wide] for x in wide])


@pytest.mark.claim("C-arithmetic-2")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "d"), [(1, 1), (2, 3), (5, 1023), (9, 1025), (12, 5000), (31, 70)])
def test_floats_are_near_and_symmetric(
    dtype: type, n: int, d: int, implementation: Callable[[], AbstractContextManager[None]]
) -> None:
    rows = np.random.default_rng(n + d).standard_normal((n, d)).astype(dtype)
    with implementation():
        distances, norms = distances_with_norms(rows)
        alone = squared_norms(rows)
    assert distances.dtype == norms.dtype == alone.dtype == np.float64
    np.testing.assert_allclose(distances, reference(rows), rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(norms, (rows.astype(np.float64) ** 2).sum(axis=1), rtol=1e-6)
    np.testing.assert_allclose(alone, (rows.astype(np.float64) ** 2).sum(axis=1), rtol=1e-14)
    assert (distances == distances.T).all()
    assert (distances.diagonal() == 0).all()


@pytest.mark.claim("C-arithmetic-2")
@pytest.mark.parametrize("size", [1e-19, 1e-21, 1e-22, 1e-23, 1e-30])
def test_squares_that_underflow_add_no_more_than_their_number_of_last_places(
    size: float, implementation: Callable[[], AbstractContextManager[None]]
) -> None:
    rows = (np.random.default_rng(3).standard_normal((5, 64)) * size).astype(np.float32)
    with implementation():
        distances = squared_distances(rows)
    exact = reference(rows)
    assert (np.abs(distances - exact) <= exact * 1032 * 2.0**-24 + 64 * 2.0**-149).all()


def test_a_large_common_part_does_not_cancel(
    implementation: Callable[[], AbstractContextManager[None]],
) -> None:
    # Weights of size 1 with updates of 1e-4: a float32 Gram matrix is noise here.
    generator = np.random.default_rng(4)
    weights = generator.standard_normal(20_000)
    rows = (weights + 1e-4 * generator.standard_normal((12, 20_000))).astype(np.float32)
    others = ~np.eye(12, dtype=np.bool_)
    with implementation():
        found = squared_distances(rows)
    exact = reference(rows)
    assert np.abs(found[others] / exact[others] - 1).max() <= 1e-6
    squares = (rows**2).sum(axis=1)
    careless = squares[:, None] + squares - 2 * rows @ rows.T
    assert np.abs(careless[others] / exact[others] - 1).max() > 1e-3


@pytest.mark.claim("C-arithmetic-3")
@pytest.mark.parametrize(("dtype", "huge"), [(np.float32, 3e38), (np.float64, 1e200)])
def test_a_huge_sender_spoils_no_distance_but_its_own(
    dtype: type, huge: float, implementation: Callable[[], AbstractContextManager[None]]
) -> None:
    rows = np.random.default_rng(5).standard_normal((9, 1500)).astype(dtype)
    rows[3] = huge
    rows[4, 7] = -huge
    honest = [0, 1, 2, 5, 6, 7, 8]
    with implementation():
        distances, norms = distances_with_norms(rows)
    near = np.ix_(honest, honest)
    np.testing.assert_allclose(distances[near], reference(rows)[near], rtol=1e-6)
    assert not np.isnan(distances).any()
    assert distances[np.ix_([3, 4], honest)].min() > 1e70
    assert (distances.diagonal() == 0).all()
    assert (norms[[3, 4]] > 1e70).all()
    if dtype is np.float32:
        np.testing.assert_allclose(distances, reference(rows), rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(0, 0), (4, 2000), (8, 1024)])
def test_rows_that_are_not_finite_are_refused(
    dtype: type,
    bad: float,
    place: tuple[int, int],
    implementation: Callable[[], AbstractContextManager[None]],
) -> None:
    rows = np.ones((9, 2001), dtype=dtype)
    rows[5] = np.finfo(dtype).max
    rows[place] = bad
    for function in (squared_distances, distances_with_norms, squared_norms):
        with (
            implementation(),
            pytest.raises(ValueRefusedError, match=rf"QRES-E501 .* in row {place[0]} "),
        ):
            function(rows)


def test_copies_are_at_distance_zero() -> None:
    if not accelerated():
        pytest.skip("numba is not installed")
    rows = np.random.default_rng(6).standard_normal((1, 3000)).astype(np.float32).repeat(6, axis=0)
    assert (squared_distances(rows) == 0).all()


# ---- from inner products ----


@given(rows=integer_rows())
@settings(deadline=None, max_examples=60)
def test_inner_products_give_the_same_distances(rows: np.ndarray) -> None:
    wide = rows.astype(object)
    assert same(distances_of_products(wide @ wide.T), squared_distances(rows))


# ---- some rows ----


@given(rows=integer_rows(), data=st.data())
@settings(deadline=None, max_examples=60)
def test_some_rows_of_the_matrix(rows: np.ndarray, data: st.DataObject) -> None:
    n = len(rows)
    which = data.draw(st.lists(st.integers(0, n - 1), max_size=n))
    expected = [by_objects(rows)[i] for i in which]
    found = []
    for context in IMPLEMENTATIONS:
        with context():
            found.append(exact_rows(rows, which))
        assert found[-1].tolist() == expected
        assert found[-1].shape == (len(which), n)
        assert found[-1].dtype == found[0].dtype
