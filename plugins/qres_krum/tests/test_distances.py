"""Exactness of the pairwise squared distances against Python integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from qres_krum.distances import gram_direct, gram_halves, squared_distances

from qres_core import ValueRefusedError

LOWEST, HIGHEST = -(2**31), 2**31 - 1
COORDINATE = (
    st.integers(LOWEST, HIGHEST)
    | st.sampled_from([LOWEST, LOWEST + 1, HIGHEST - 1, HIGHEST, 2**15, 2**16 - 1, -(2**15) - 1])
    | st.integers(-2, 2)
)


def matrices(
    coordinate: st.SearchStrategy[int], most: int = 6
) -> st.SearchStrategy[NDArray[np.int32]]:
    return st.integers(1, most).flatmap(
        lambda d: st.lists(
            st.lists(coordinate, min_size=d, max_size=d), min_size=1, max_size=most
        ).map(lambda rows: np.array(rows, dtype=np.int32))
    )


def oracle(vectors: NDArray[np.int32]) -> list[list[int]]:
    rows = vectors.tolist()
    return [[sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) for y in rows] for x in rows]


def oracle_by_objects(vectors: NDArray[np.int32]) -> list[list[int]]:
    wide = vectors.astype(object)
    return [[int(((x - y) ** 2).sum()) for y in wide] for x in wide]


@given(matrices(COORDINATE))
@example(np.array([[LOWEST], [HIGHEST]], dtype=np.int32))
@example(np.zeros((3, 2), dtype=np.int32))
@settings(deadline=None)
def test_distances_equal_python_integers(vectors: NDArray[np.int32]) -> None:
    before = vectors.copy()
    assert squared_distances(vectors).tolist() == oracle(vectors)
    assert np.array_equal(vectors, before)


@given(matrices(st.integers(-(2**20), 2**20)))
@settings(deadline=None)
def test_both_paths_give_the_same_gram_matrix(vectors: NDArray[np.int32]) -> None:
    block = vectors.astype(np.float64)
    high, cross, low = gram_halves(block)
    assert np.array_equal((high << 32) + (cross << 16) + low, gram_direct(block))


def test_distances_wider_than_64_bits() -> None:
    vectors = np.array([[LOWEST] * 40, [HIGHEST] * 40, [LOWEST, HIGHEST] * 20], dtype=np.int32)
    side = 2**32 - 1
    assert squared_distances(vectors).tolist() == [
        [0, 40 * side**2, 20 * side**2],
        [40 * side**2, 0, 20 * side**2],
        [20 * side**2, 20 * side**2, 0],
    ]
    assert 40 * side**2 > 2**64


@pytest.mark.parametrize(("value", "dtype"), [(1518500249, np.int64), (1518500250, np.object_)])
def test_int64_is_used_exactly_as_far_as_it_is_proven(value: int, dtype: type) -> None:
    distances = squared_distances(np.array([[-value], [value]], dtype=np.int32))
    assert distances.dtype == dtype
    assert distances.tolist() == [[0, 4 * value**2], [4 * value**2, 0]]


@pytest.mark.parametrize("largest", [2**20, 2**20 + 1, 2**26 + 1, 2**31 - 1])
def test_many_blocks(largest: int) -> None:
    generator = np.random.default_rng(largest)
    vectors = generator.integers(-largest, largest, size=(4, 20_000), endpoint=True, dtype=np.int32)
    assert squared_distances(vectors).tolist() == oracle_by_objects(vectors)


def test_one_huge_coordinate_among_small_ones() -> None:
    generator = np.random.default_rng(7)
    vectors = generator.integers(-5, 5, size=(5, 20_000), dtype=np.int32)
    vectors[2, 11_000] = LOWEST
    assert squared_distances(vectors).tolist() == oracle_by_objects(vectors)


def test_largest_sums_the_direct_product_may_form() -> None:
    # 8192 products of 2**40 are 2**53, the last integer up to which float64 has them all.
    vectors = np.full((3, 8192), 2**20, dtype=np.int32)
    vectors[1] *= -1
    vectors[2, ::2] -= 1
    assert squared_distances(vectors).tolist() == oracle_by_objects(vectors)


def test_sums_just_beyond_the_direct_product() -> None:
    # The sum of squares is odd and above 2**53: a single float64 product would lose its last bit.
    value, d = 2**21 + 1, 8191
    vectors = np.array([[value] * d, [0] * d], dtype=np.int32)
    assert squared_distances(vectors)[0, 1] == d * value**2


def test_direct_sums_that_would_fill_int64(monkeypatch: pytest.MonkeyPatch) -> None:
    # Narrow blocks let a short vector stand for one of tens of millions of coordinates: each block
    # of 16 adds just under 2**53, and all 1100 of them together do not fit int64.
    monkeypatch.setattr("qres_krum.distances._WIDEST", 16)
    value, d = 23_726_566, 16 * 1100
    vectors = np.array([[value] * d, [-value] * d, [value - 1] * d], dtype=np.int32)
    assert 16 * value**2 <= 2**53
    assert d * value**2 > 2**63
    assert squared_distances(vectors).tolist() == [
        [0, 4 * d * value**2, d],
        [4 * d * value**2, 0, d * (2 * value - 1) ** 2],
        [d, d * (2 * value - 1) ** 2, 0],
    ]


def test_many_rows_and_rows_that_are_not_contiguous() -> None:
    generator = np.random.default_rng(11)
    vectors = generator.integers(LOWEST, HIGHEST, size=(700, 14), dtype=np.int32)[::7, ::2]
    assert squared_distances(vectors).tolist() == oracle_by_objects(vectors)


def test_dimension_beyond_the_proof_is_refused() -> None:
    endless = np.broadcast_to(np.int32(0), (3, 2**32))
    with pytest.raises(ValueRefusedError, match=r"4294967296 coordinates") as refusal:
        squared_distances(endless)
    assert refusal.value.code == "QRES-E502"
