"""The watch's arithmetic against Python integers and fractions."""

from __future__ import annotations

import statistics
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from qres_reputation import outliers
from qres_reputation.outliers import far_rows, sample_columns, squared_distances

LOWEST, HIGHEST = -(2**31), 2**31 - 1
VALUES = st.integers(LOWEST, HIGHEST) | st.sampled_from([LOWEST, HIGHEST, 0]) | st.integers(-3, 3)


@st.composite
def matrices(draw: st.DrawFn, least: int = 1) -> NDArray[np.int32]:
    d = draw(st.integers(1, 5))
    row = st.lists(VALUES, min_size=d, max_size=d)
    return np.array(draw(st.lists(row, min_size=least, max_size=9)), dtype=np.int32)


def slow_distances(vectors: NDArray[np.int32]) -> list[int]:
    """In half steps, one coordinate at a time."""
    rows = vectors.tolist()
    medians = [statistics.median(Fraction(x) for x in column) for column in zip(*rows, strict=True)]
    return [sum(int(2 * (x - m)) ** 2 for x, m in zip(row, medians, strict=True)) for row in rows]


@given(vectors=matrices())
@settings(deadline=None)
def test_distances_are_exact(vectors: NDArray[np.int32]) -> None:
    assert squared_distances(vectors) == slow_distances(vectors)


def test_distances_over_many_blocks() -> None:
    generator = np.random.default_rng(3)
    vectors = generator.integers(LOWEST, HIGHEST, size=(5, 9000), endpoint=True, dtype=np.int32)
    assert squared_distances(vectors) == slow_distances(vectors)
    columns = np.arange(1, 9000, 2)
    assert squared_distances(vectors, columns) == slow_distances(vectors[:, columns])


def test_the_farthest_possible_does_not_wrap() -> None:
    vectors = np.array([[LOWEST] * 9, [HIGHEST] * 9, [HIGHEST] * 9], dtype=np.int32)
    assert squared_distances(vectors) == [9 * (2 * (2**32 - 1)) ** 2, 0, 0]


@given(vectors=matrices(least=3), factor=st.sampled_from([1.0, 1.5, 4.0, 2.0**20]))
@settings(deadline=None)
def test_far_is_farther_than_the_factor_times_the_median(
    vectors: NDArray[np.int32], factor: float
) -> None:
    distances = slow_distances(vectors)
    yardstick = max(statistics.median_high(distances), 4 * vectors.shape[1])
    expected = [distance > Fraction(factor) ** 2 * yardstick for distance in distances]
    assert far_rows(vectors, Fraction(factor)) == expected


@given(vectors=matrices(least=3), data=st.data())
@settings(deadline=None)
def test_who_is_far_does_not_depend_on_the_order(
    vectors: NDArray[np.int32], data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(vectors))))
    moved = far_rows(vectors[order], Fraction(2))
    assert moved == [far_rows(vectors, Fraction(2))[i] for i in order]


def test_exactly_the_factor_is_not_far() -> None:
    # Distances to the median 0 are 10, 10, 0, 10 and 40.
    rows = np.array([[-10], [10], [0], [-10], [40]], dtype=np.int32)
    rows[1] = 10
    assert squared_distances(rows) == [400, 400, 0, 400, 6400]
    assert far_rows(rows, Fraction(4)) == [False] * 5
    rows[4] = 41
    assert far_rows(rows, Fraction(4)) == [False] * 4 + [True]


def test_a_rounding_step_sets_nobody_apart() -> None:
    rows = np.zeros((6, 4), dtype=np.int32)
    rows[0] = 4
    assert far_rows(rows, Fraction(4)) == [False] * 6
    rows[0] = 5
    assert far_rows(rows, Fraction(4)) == [True] + [False] * 5


@pytest.mark.parametrize("n", [1, 2])
def test_two_have_no_majority(n: int) -> None:
    rows = np.array([[0], [HIGHEST]], dtype=np.int32)[:n]
    assert far_rows(rows, Fraction(1)) == [False] * n


@pytest.mark.parametrize("liars", [1, 3, 4])
def test_liars_below_a_half_are_far_and_nobody_else(liars: int) -> None:
    generator = np.random.default_rng(liars)
    rows = generator.normal(0, 1000, size=(9, 300)).astype(np.int32)
    rows[:liars] *= -100
    assert far_rows(rows, Fraction(4)) == [True] * liars + [False] * (9 - liars)


# ── the sample ────────────────────────────────────────────────────────────────────────────────────


@given(d=st.integers(1, 400), count=st.integers(0, 50), seed=st.integers(0, 2**16))
@settings(deadline=None)
def test_the_sample_is_one_of_each_stretch(d: int, count: int, seed: int) -> None:
    vectors = np.random.default_rng(seed).integers(-9, 9, size=(3, d), dtype=np.int32)
    columns = sample_columns(vectors, bytes(32), count)
    if count == 0 or d <= count:
        assert columns is None
        return
    assert columns is not None
    assert columns.shape == (count,)
    for j, column in enumerate(columns.tolist()):
        assert j * d // count <= column < (j + 1) * d // count


@pytest.mark.control("C-reputation-5")
def test_the_sample_depends_on_the_round_and_on_every_update() -> None:
    vectors = np.zeros((3, 1000), dtype=np.int32)
    drawn = {}
    for name, digest, at in [("", b"a", None), ("model", b"b", None), ("update", b"a", 2)]:
        changed = vectors.copy()
        if at is not None:
            changed[at, 999] = 1
        columns = sample_columns(changed, digest * 32, 64)
        assert columns is not None
        drawn[name] = columns.tolist()
    assert len({tuple(key) for key in drawn.values()}) == 3
    again = sample_columns(vectors, b"a" * 32, 64)
    assert again is not None
    assert again.tolist() == drawn[""]


@pytest.mark.claim("C-reputation-5")
def test_the_sample_is_the_same_on_every_machine() -> None:
    columns = sample_columns(np.arange(3000, dtype=np.int32).reshape(3, 1000), bytes(32), 8)
    assert columns is not None
    assert columns.tolist() == PINNED


PINNED = [3, 170, 301, 467, 551, 637, 802, 967]


def test_the_sample_reaches_every_coordinate() -> None:
    vectors = np.zeros((3, 40), dtype=np.int32)
    seen: set[int] = set()
    for step in range(200):
        columns = sample_columns(vectors, step.to_bytes(32, "big"), 4)
        assert columns is not None
        seen.update(columns.tolist())
    assert seen == set(range(40))


@pytest.mark.claim("C-reputation-12")
@pytest.mark.control("C-reputation-12")
def test_lies_in_few_coordinates_may_miss_the_sample_and_not_a_full_look() -> None:
    # What the documentation admits, and what `outlier_sample = 0` is for.
    generator = np.random.default_rng(5)
    rows = generator.normal(0, 100, size=(9, 2000)).astype(np.int32)
    columns = sample_columns(rows, bytes(32), 50)
    assert columns is not None
    unseen = next(i for i in range(2000) if i not in set(columns.tolist()))
    rows[0, unseen] = HIGHEST
    assert not any(far_rows(rows, Fraction(4), columns))
    assert far_rows(rows, Fraction(4)) == [True] + [False] * 8
    assert outliers.FEWEST == 3
