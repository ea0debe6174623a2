"""Minimum diameter averaging against all subsets, its bound, and what it refuses."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from qres_arithmetic import mean_of, squared_distances
from qres_lab.testing import AggregatorContract, make_round_info, make_updates, merged
from qres_robust_stats import Mda, mda
from qres_robust_stats.mda import least_diameter_subset

from qres_core import Needs, Visibility
from qres_core.errors import CompatibilityError, OptionError, ValueRefusedError

Everywhere = Callable[[Callable[[], NDArray[Any]]], NDArray[Any]]
LOWEST, HIGHEST = -(2**31), 2**31 - 1
COORDINATE = st.integers(LOWEST, HIGHEST) | st.sampled_from([LOWEST, HIGHEST])


class TestMda(AggregatorContract):
    @pytest.fixture(autouse=True, params=[1, 3, 5])
    def _bound(self, request: pytest.FixtureRequest) -> None:
        self.f = request.param

    def make(self) -> object:
        return Mda(f=self.f)


def first_of_all_subsets(distances: NDArray[Any], f: int) -> list[int]:
    n = len(distances)

    def diameter(subset: tuple[int, ...]) -> int:
        return max((distances[i, j] for i, j in itertools.combinations(subset, 2)), default=0)

    # `min` keeps the first, and the subsets come in lexicographic order.
    return list(min(itertools.combinations(range(n), n - f), key=diameter))


@st.composite
def matrices(draw: st.DrawFn) -> tuple[NDArray[np.int64], int]:
    """Any symmetric matrices: few values make many ties, and no triangle inequality is needed."""
    n = draw(st.integers(1, 12))
    f = draw(st.integers(0, n - 1))
    top = draw(st.sampled_from([1, 2, 4, 1000]))
    size = n * (n - 1) // 2
    values = draw(st.lists(st.integers(0, top), min_size=size, max_size=size))
    matrix = np.zeros((n, n), dtype=np.int64)
    matrix[np.triu_indices(n, 1)] = values
    return matrix + matrix.T, f


@pytest.mark.claim("C-robust-6")
@given(case=matrices())
@settings(max_examples=1000, deadline=None)
def test_the_first_subset_of_least_diameter(case: tuple[NDArray[np.int64], int]) -> None:
    matrix, f = case
    expected = first_of_all_subsets(matrix, f)
    assert least_diameter_subset(matrix, f) == expected
    assert least_diameter_subset(matrix.astype(np.float64), f) == expected
    assert least_diameter_subset(matrix.astype(object) * 2**70, f) == expected


@st.composite
def rounds(draw: st.DrawFn) -> tuple[NDArray[np.int32], int]:
    f = draw(st.integers(0, 4))
    n, d = draw(st.integers(2 * f + 1, 2 * f + 4)), draw(st.integers(1, 3))
    coordinate = draw(st.sampled_from([COORDINATE, st.integers(-2, 2)]))
    return draw(arrays(np.int32, (n, d), elements=coordinate)), f


@pytest.mark.claim("C-robust-6")
@given(case=rounds())
@settings(max_examples=300, deadline=None)
def test_equals_the_definition(case: tuple[NDArray[np.int32], int], everywhere: Everywhere) -> None:
    rows, f = case
    wide = rows.astype(object)
    distances = ((wide[:, None] - wide) ** 2).sum(axis=2)
    sums = distances.sum(axis=1).tolist()
    order = sorted(range(len(rows)), key=lambda row: (sums[row], row))
    subset = first_of_all_subsets(distances[np.ix_(order, order)], f)
    expected = mean_of(rows, [order[place] for place in subset])
    assert everywhere(lambda: mda(rows, f)).tolist() == expected.tolist()


@pytest.mark.long
@given(case=rounds(), data=st.data())
# Small rounds tie often: how many are drawn in vain is chance, and no fault.
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
def test_who_sends_what_matters_only_where_sums_of_distances_tie(
    case: tuple[NDArray[np.int32], int], data: st.DataObject
) -> None:
    rows, f = case
    wide = rows.astype(object)
    sums = ((wide[:, None] - wide) ** 2).sum(axis=(1, 2)).tolist()
    assume(len(set(sums)) == len(sums))
    order = data.draw(st.permutations(range(len(rows))))
    assert mda(rows[order], f).tolist() == mda(rows, f).tolist()


@given(case=rounds())
@settings(max_examples=300, deadline=None)
def test_the_bound_holds_for_every_honest_set(case: tuple[NDArray[np.int32], int]) -> None:
    rows, f = case
    n = len(rows)
    floats = rows.astype(np.float64)
    result = mda(rows, f).astype(np.float64)
    for honest in itertools.combinations(range(n), n - f):
        chosen = floats[list(honest)]
        diameter = max(
            (float(np.linalg.norm(a - b)) for a, b in itertools.combinations(chosen, 2)), default=0
        )
        # Half a step of rounding in each coordinate.
        allowed = 2 * f / (n - f) * diameter * (1 + 1e-12) + 0.5 * np.sqrt(rows.shape[1])
        assert np.linalg.norm(result - chosen.mean(axis=0)) <= allowed


@pytest.mark.parametrize("real", [np.float32, np.float64])
def test_floats(real: type[np.floating[Any]], everywhere: Everywhere) -> None:
    rows = np.random.default_rng(3).standard_normal((11, 40)).astype(real)
    rows[-3:] += 9
    result = everywhere(lambda: mda(rows, 3))
    assert result.dtype == real
    assert np.allclose(result, rows[:-3].astype(np.float64).mean(axis=0), atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_named(bad: float) -> None:
    rows = np.zeros((5, 30))
    rows[3, 7] = bad
    with pytest.raises(ValueRefusedError, match=r"QRES-E501 .*row 3"):
        mda(rows, 1)


def liars_among(rng: np.random.Generator, kind: str, n: int, f: int) -> NDArray[np.int32]:
    rows = 65536 * rng.standard_normal((n, 40))
    honest = rows[:-f]
    if kind == "copies of an outlier of the honest":
        rows[-f:] = honest.mean(axis=0) - 1.5 * honest.std(axis=0)
    elif kind == "copies of one honest row":
        rows[-f:] = rows[0]
    elif kind == "opposed":
        rows[-f:] = -2 * honest.mean(axis=0)
    elif kind == "blobs":
        rows = np.repeat(rows[:10] * 5, n // 10, axis=0) + 0.3 * rows
    elif kind == "ties":
        rows = rng.integers(-1, 2, size=(n, 40)).astype(np.float64)
    return np.rint(rows).astype(np.int32)


@pytest.mark.parametrize(
    "kind",
    [
        "independent",
        "copies of an outlier of the honest",
        "copies of one honest row",
        "opposed",
        "blobs",
        "ties",
    ],
)
def test_two_hundred_rows_take_few_steps(kind: str) -> None:
    n, f = 200, 40
    rows = liars_among(np.random.default_rng(5), kind, n, f)
    distances = squared_distances(rows)
    subset = least_diameter_subset(distances, f, budget=500)
    diameter = distances[np.ix_(subset, subset)].max()
    # No better one can be found by exchanging a row, nor an equal one with lower rows.
    for out, into in itertools.product(subset, sorted(set(range(n)) - set(subset))):
        other = sorted({*subset, into} - {out})
        changed = distances[into][other].max()
        if changed < diameter:
            assert distances[np.ix_(other, other)].max() >= diameter
        if into < out and changed <= diameter:
            assert distances[np.ix_(other, other)].max() > diameter


@pytest.mark.claim("C-robust-6")
def test_more_than_the_budget_is_refused_on_every_node_alike() -> None:
    # Distances 1 and 2 are a metric whatever pairs are far: any graph can come up.
    n, f = 260, 112
    far = np.triu(np.random.default_rng(0).random((n, n)) < 6 / 200, 1)
    far[200:] = far[:, 200:] = False
    distances = np.where(far | far.T, 2, 1)
    np.fill_diagonal(distances, 0)
    with pytest.raises(ValueRefusedError, match=r"QRES-E507 budget: .* 300 steps"):
        least_diameter_subset(distances, f, budget=300)


@pytest.mark.control("C-robust-6")
def test_colluders_are_left_out_and_more_than_f_are_not() -> None:
    honest = [[i, -i] for i in range(7)]
    lie = [HIGHEST, LOWEST]
    assert mda(np.array([*honest, lie, lie, lie], dtype=np.int32), 3).tolist() == [3, -3]
    crowd = np.array([*honest[:3], *[lie] * 4], dtype=np.int32)
    assert mda(crowd, 3).tolist() == lie


def test_a_common_offset_changes_nothing() -> None:
    rows = np.random.default_rng(8).integers(-50, 50, size=(12, 300), dtype=np.int32)
    shift = np.int32(2**31 - 100)
    assert (mda(rows + shift, 4) - shift).tolist() == mda(rows, 4).tolist()


@pytest.mark.claim("C-robust-19")
def test_inputs_stay_as_they_were() -> None:
    rows = np.arange(10, dtype=np.int32).reshape(5, 2)
    before = rows.copy()
    result = mda(rows, 0)
    assert np.array_equal(rows, before)
    assert not np.shares_memory(result, rows)


def test_too_few_updates() -> None:
    rows = np.zeros((4, 1), dtype=np.int32)
    with pytest.raises(ValueRefusedError, match=r"QRES-E505 .*2 f \+ 1 = 5"):
        mda(rows, 2)
    with pytest.raises(ValueRefusedError, match=r"QRES-E505 .* n = 4 updates, and it needs 5"):
        merged([Mda(f=2)], make_updates(rows), make_round_info(1))
    group = make_updates(rows, visibility=Visibility.SUM)
    with pytest.raises(CompatibilityError, match="QRES-E303"):
        Mda(f=0).aggregate(group)


def test_options() -> None:
    assert Mda(f=2).claims.needs == Needs(visibility=Visibility.GROUP, min_updates=5)
    assert Mda(f=2).claims.tolerates == 2
    with pytest.raises(
        OptionError, match=r"QRES-E105 f: must be an integer of at least 0, got True"
    ):
        Mda(f=True)
    with pytest.raises(
        OptionError, match=r"QRES-E105 budget: must be an integer of at least 1, got 0"
    ):
        Mda(f=1, budget=0)
    with pytest.raises(OptionError, match=r"budget: must be an integer"):
        mda(np.zeros((1, 1), dtype=np.int32), 0, budget=0)
    assert all(field.metadata["help"] for field in attrs.fields(Mda))
    (entry,) = entry_points(group="qres.plugins", name="mda")
    assert entry.load() is Mda
