"""The filter of intervals decides exactly as all exact scores do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qres_arithmetic import Integers, accelerated, exact_rows, numpy_only
from qres_krum import krum, multi_krum, selection
from qres_krum.scores import Scores, best, krum_scores
from qres_krum.selection import best_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

needs_kernels = pytest.mark.skipif(not accelerated(), reason="numba is not in use")


def exactly(rows: NDArray[np.int32], f: int, count: int) -> list[int]:
    return sorted(best(krum_scores(rows, f), count))


@st.composite
def near_ties(draw: st.DrawFn) -> tuple[NDArray[np.int32], int, int]:
    """Rows that are copies of a few, some of them one step off in one coordinate."""
    f = draw(st.integers(0, 4))
    n = draw(st.integers(2 * f + 3, 2 * f + 12))
    d = draw(st.integers(1, 6) | st.just(50))
    reach = draw(st.sampled_from([2, 50, 2**15, 2**29]))
    coordinate = st.integers(-reach, reach)
    few = draw(st.lists(st.lists(coordinate, min_size=d, max_size=d), min_size=1, max_size=4))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = np.array(few, dtype=np.int32)[generator.integers(len(few), size=n)]
    rows[np.arange(n), generator.integers(d, size=n)] += generator.choice(
        np.array([0, 0, 1, -1], dtype=np.int32), size=n
    )
    return rows, f, draw(st.integers(1, n - f))


@pytest.mark.claim("C-krum-3")
@given(
    case=near_ties(),
    error=st.sampled_from([2.0**-20, 2.0**-10, 0.1, 0.9]),
    limit=st.sampled_from([1, 4]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(deadline=None, max_examples=1000)
@pytest.mark.long
def test_any_distances_within_the_bound_decide_alike(
    case: tuple[NDArray[np.int32], int, int], error: float, limit: int, seed: int
) -> None:
    """The filter by itself, fed by distances that are off as far as they may be, or less."""
    rows, f, count = case
    expected = exactly(rows, f, count)
    generator = np.random.default_rng(seed)
    wide = rows.astype(object)
    exact = ((wide[:, None] - wide[None]) ** 2).sum(axis=2)
    # Within the bound even after the rounding of this very product.
    off = generator.choice([-error, 0.0, error], size=exact.shape) * (1 - 2.0**-24)
    approximate = exact.astype(np.float64) * (1 + off)
    assert (np.abs(approximate - exact) <= error * exact).all()
    rescored: list[int] = []

    def some_exact(_rows: NDArray[np.int32], which: Sequence[int]) -> NDArray[np.object_]:
        rescored.extend(which)
        return exact[np.asarray(which)]

    def interval_distances(_rows: NDArray[np.int32]) -> tuple[NDArray[np.float64], float]:
        return approximate, error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "_FEWEST_TO_FILTER", 0)
        patch.setattr(selection, "_DOUBT_LIMIT", limit)
        patch.setattr(selection, "accelerated", lambda: True)
        patch.setattr(selection, "interval_distances", interval_distances)
        patch.setattr(selection, "exact_rows", some_exact)
        assert best_rows(rows, f, count) == expected
    assert len(rescored) <= len(rows) // limit


@pytest.mark.claim("C-krum-3")
@needs_kernels
@given(case=near_ties(), limit=st.sampled_from([1, 4]))
@settings(deadline=None, max_examples=1000)
@pytest.mark.long
def test_the_kernels_distances_decide_alike(
    case: tuple[NDArray[np.int32], int, int], limit: int
) -> None:
    rows, f, count = case
    with numpy_only():
        expected = exactly(rows, f, count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "_FEWEST_TO_FILTER", 0)
        patch.setattr(selection, "_DOUBT_LIMIT", limit)
        assert best_rows(rows, f, count) == expected


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """Count what is computed exactly, all of it or some rows."""
    seen: dict[str, list[int]] = {"all": [], "rows": []}

    def all_exact(rows: NDArray[np.int32], f: int) -> Scores:
        seen["all"].append(len(rows))
        return krum_scores(rows, f)

    def some_exact(rows: NDArray[np.int32], which: Sequence[int]) -> Integers:
        seen["rows"].append(len(which))
        return exact_rows(rows, which)

    monkeypatch.setattr(selection, "krum_scores", all_exact)
    monkeypatch.setattr(selection, "exact_rows", some_exact)
    return seen


def cloud(n: int, d: int, seed: int = 0) -> NDArray[np.int32]:
    generator = np.random.default_rng(seed)
    return np.rint(65536 * generator.standard_normal((n, d))).astype(np.int32)


@needs_kernels
@pytest.mark.parametrize("count", [1, 7, 24])
def test_where_scores_are_apart_nothing_is_computed_twice(
    count: int, calls: dict[str, list[int]]
) -> None:
    rows = cloud(30, 50) * np.linspace(1, 2, 30)[:, None]
    vectors = rows.astype(np.int32)
    assert best_rows(vectors, 6, count) == exactly(vectors, 6, count)
    assert calls == {"all": [], "rows": []}


@needs_kernels
def test_copies_settle_themselves(calls: dict[str, list[int]]) -> None:
    # The mimic attack: six senders repeat one honest row, and all seven have the same score.
    vectors = cloud(30, 2000)
    vectors[20:26] = vectors[7]
    vectors[2] = vectors[7]
    assert best_rows(vectors, 6, 1) == [2]
    assert best_rows(vectors, 6, 3) == [2, 7, 20]
    assert calls == {"all": [], "rows": []}


@needs_kernels
def test_rows_one_step_apart_are_scored_again(calls: dict[str, list[int]]) -> None:
    vectors = cloud(30, 2000)
    vectors[20:26] = vectors[7]
    for i in range(6):
        vectors[20 + i, i] += 1
    assert best_rows(vectors, 6, 2) == exactly(vectors, 6, 2)
    assert calls == {"all": [], "rows": [7]}


@needs_kernels
def test_too_many_in_doubt_are_all_scored_exactly(calls: dict[str, list[int]]) -> None:
    vectors = np.full((30, 500), 2**20, dtype=np.int32)
    vectors[np.arange(30), np.arange(30)] += np.arange(30, dtype=np.int32) % 2 + 1
    assert best_rows(vectors, 6, 2) == exactly(vectors, 6, 2) == [0, 2]
    assert calls == {"all": [30], "rows": []}


@needs_kernels
@pytest.mark.parametrize("case", ["few rows", "beyond the kernel's range", "no kernels", "floats"])
def test_where_the_filter_has_no_place_all_is_exact(
    case: str, calls: dict[str, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors: NDArray[np.int32] | NDArray[np.float64] = cloud(30, 50)
    if case == "few rows":
        vectors = vectors[:15]
    elif case == "beyond the kernel's range":
        vectors[3, 4] = -(2**31)
    elif case == "no kernels":
        monkeypatch.setenv("QRES_NUMBA", "0")
    else:
        vectors = vectors.astype(np.float64)
    assert best_rows(vectors, 2, 3) == sorted(best(krum_scores(vectors, 2), 3))
    assert calls == {"all": [len(vectors)], "rows": []}


@pytest.mark.claim("C-krum-9")
@needs_kernels
@pytest.mark.parametrize(("n", "d"), [(16, 9000), (50, 20_011), (101, 3)])
@pytest.mark.parametrize("reach", [3, 2**16, 2**29, 2**31 - 1])
def test_kernels_and_numpy_return_the_same_bits(n: int, d: int, reach: int) -> None:
    generator = np.random.default_rng(n)
    vectors = generator.integers(-reach, reach, size=(n, d), endpoint=True, dtype=np.int32)
    vectors[n // 2] = vectors[1]
    f = n // 5
    fast = [krum(vectors, f), multi_krum(vectors, f, n - f), multi_krum(vectors, f, n // 2)]
    with numpy_only():
        slow = [krum(vectors, f), multi_krum(vectors, f, n - f), multi_krum(vectors, f, n // 2)]
    for array, other in zip(fast, slow, strict=True):
        assert array.tobytes() == other.tobytes()


def test_ties_go_to_the_lowest_row_with_the_filter_too(
    paper_scores: Callable[[Sequence[Sequence[int]], int], list[int]],
) -> None:
    # Sixteen corners of a cube in four dimensions, all with one score.
    rows = [[i >> k & 1 for k in range(4)] for i in range(16)]
    assert len(set(paper_scores(rows, 3))) == 1
    vectors = np.array(rows, dtype=np.int32)
    assert best_rows(vectors, 3, 1) == [0]
    assert best_rows(vectors, 3, 5) == [0, 1, 2, 3, 4]
