"""The median against Python's, plain and weighted, and what liars can do to it."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from fractions import Fraction
from importlib.metadata import entry_points
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from qres_arithmetic import Mixture
from qres_lab.testing import AggregatorContract, make_round_info, make_updates, merged
from qres_robust_stats import Median, median

from qres_core import Needs, Visibility
from qres_core.errors import CompatibilityError, OptionError, ValueRefusedError

Everywhere = Callable[[Callable[[], NDArray[Any]]], NDArray[Any]]
Ratio = Callable[[NDArray[np.int32], NDArray[np.int32], int], Fraction | None]
LOWEST, HIGHEST = -(2**31), 2**31 - 1
COORDINATE = (
    st.integers(LOWEST, HIGHEST)
    | st.sampled_from([LOWEST, LOWEST + 1, HIGHEST - 1, HIGHEST])
    | st.integers(-3, 3)
)


def matrices(most: int = 14) -> st.SearchStrategy[NDArray[np.int32]]:
    shapes = st.tuples(st.integers(1, most), st.integers(1, 5))
    return shapes.flatmap(lambda shape: arrays(np.int32, shape, elements=COORDINATE))


class TestMedian(AggregatorContract):
    @pytest.fixture(autouse=True, params=[1, 3, 5])
    def _bound(self, request: pytest.FixtureRequest) -> None:
        self.f = request.param

    def make(self) -> object:
        return Median(f=self.f)


class TestWeighted(AggregatorContract):
    @pytest.fixture(autouse=True, params=[(1, 2.0), (3, 2.0), (2, 1.0), (2, 1.7)])
    def _bound(self, request: pytest.FixtureRequest) -> None:
        self.f, self.limit = request.param

    def make(self) -> object:
        return Median(f=self.f, weighted=True, weight_limit=self.limit)


@pytest.mark.claim("C-robust-1")
@given(rows=matrices())
@settings(max_examples=1000, deadline=None)
def test_equals_pythons_median(rows: NDArray[np.int32], everywhere: Everywhere) -> None:
    expected = [round(statistics.median(map(Fraction, column))) for column in rows.T.tolist()]
    assert everywhere(lambda: median(rows)).tolist() == expected


@pytest.mark.long
@given(rows=matrices(8), data=st.data())
@settings(max_examples=1000, deadline=None)
def test_a_weight_is_a_number_of_copies(
    rows: NDArray[np.int32], data: st.DataObject, everywhere: Everywhere
) -> None:
    weights = data.draw(arrays(np.int64, len(rows), elements=st.integers(1, 5)))
    copies = np.repeat(rows, weights, axis=0).T.tolist()
    expected = [round(statistics.median(map(Fraction, column))) for column in copies]
    assert everywhere(lambda: median(rows, weights)).tolist() == expected


@given(rows=matrices(8), factor=st.integers(1, 2**28), data=st.data())
@settings(max_examples=200, deadline=None)
def test_only_proportions_of_weights_count(
    rows: NDArray[np.int32], factor: int, data: st.DataObject
) -> None:
    weights = data.draw(arrays(np.int64, len(rows), elements=st.integers(1, 4)))
    assert median(rows, weights * factor).tolist() == median(rows, weights).tolist()


@given(rows=matrices(8), weight=st.integers(1, 2**30))
@settings(max_examples=200, deadline=None)
def test_equal_weights_are_none(rows: NDArray[np.int32], weight: int) -> None:
    weights = np.full(len(rows), weight, dtype=np.int64)
    assert median(rows, weights).tolist() == median(rows).tolist()


@pytest.mark.parametrize("real", [np.float32, np.float64])
@pytest.mark.parametrize("weighted", [False, True])
def test_floats(real: type[np.floating[Any]], *, weighted: bool, everywhere: Everywhere) -> None:
    generator = np.random.default_rng(3)
    for n in (1, 2, 5, 8, 41, 60):
        rows = generator.standard_normal((n, 50)).astype(real)
        weights = np.ones(n, dtype=np.int64) if weighted else None
        result = everywhere(lambda rows=rows, weights=weights: median(rows, weights))
        assert result.dtype == real
        assert np.allclose(result, np.median(rows.astype(np.float64), axis=0), rtol=1e-6)


@pytest.mark.claim("C-krum-11")
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("weights", [None, np.ones(5, dtype=np.int64)])
def test_a_row_that_is_not_finite_is_named(bad: float, weights: NDArray[np.int64] | None) -> None:
    rows = np.zeros((5, 30), dtype=np.float32)
    rows[3, 17] = bad
    with pytest.raises(ValueRefusedError, match=r"QRES-E501 .*row 3") as refusal:
        median(rows, weights)
    assert refusal.value.code == "QRES-E501"


@pytest.mark.parametrize("weights", [None, np.array([1, 2, 3])])
def test_mixtures_are_taken_as_they_are(weights: NDArray[np.int64] | None) -> None:
    rows = np.random.default_rng(4).integers(-99, 99, size=(3, 40), dtype=np.int32)
    mixture = Mixture(rows, np.array([[0, 1], [1, 2], [2, 0]]))
    assert median(mixture, weights).tolist() == median(mixture.materialise(), weights).tolist()


def test_many_blocks_of_columns() -> None:
    rows = np.random.default_rng(5).integers(LOWEST, HIGHEST, size=(7, 100_000), dtype=np.int32)
    weights = np.full(7, 3)
    assert np.array_equal(median(rows, weights), np.median(rows, axis=0).astype(np.int32))


@pytest.mark.parametrize(
    "weights", [np.ones(2, dtype=np.int64), np.ones(3), np.array([1, 0, 1]), np.array([1, -1, 1])]
)
def test_weights_that_are_none_are_refused(weights: NDArray[np.int64]) -> None:
    with pytest.raises(ValueRefusedError, match=r"QRES-E506 weights"):
        median(np.zeros((3, 1), dtype=np.int32), weights)


@pytest.mark.claim("C-robust-1")
@given(data=st.data(), f=st.integers(1, 5))
@settings(max_examples=200, deadline=None)
def test_stays_among_the_honest(data: st.DataObject, f: int) -> None:
    honest = data.draw(arrays(np.int32, (f + 1, 3), elements=st.integers(-50, 50)))
    lies = data.draw(arrays(np.int32, (f, 3), elements=COORDINATE))
    result = Median(f=f).aggregate(make_updates(np.concatenate([lies, honest])))
    assert (honest.min(axis=0) <= result).all()
    assert (result <= honest.max(axis=0)).all()


@pytest.mark.claim("C-robust-3")
@given(data=st.data(), f=st.integers(1, 3), limit=st.sampled_from([1.0, 1.5, 2.0, 4.0]))
@settings(max_examples=200, deadline=None)
def test_weighted_stays_among_the_honest_whatever_weights_are_claimed(
    data: st.DataObject, f: int, limit: float
) -> None:
    rule = Median(f=f, weighted=True, weight_limit=limit)
    n = rule.claims.needs.min_updates
    weights = data.draw(
        arrays(np.int64, n, elements=st.sampled_from([1, 2, 2**29, 2**30]) | st.integers(1, 9))
    )
    honest = data.draw(arrays(np.int32, (n - f, 3), elements=st.integers(-50, 50)))
    lies = data.draw(arrays(np.int32, (f, 3), elements=COORDINATE))
    result = rule.aggregate(make_updates(np.concatenate([lies, honest]), weights))
    assert (honest.min(axis=0) <= result).all()
    assert (result <= honest.max(axis=0)).all()


@pytest.mark.control("C-robust-1", "C-robust-17")
@pytest.mark.parametrize("f", [1, 2, 5])
def test_control_more_liars_than_f_do_win(f: int) -> None:
    rows = [[7]] * f + [[HIGHEST]] * (f + 1)
    assert Median(f=f).aggregate(make_updates(rows)).tolist() == [HIGHEST]


@pytest.mark.control("C-robust-3")
def test_control_uncapped_weights_would_be_owned_by_one_sender() -> None:
    rows = np.array([[0]] * 3 + [[HIGHEST]], dtype=np.int32)
    weights = np.array([1, 1, 1, 2**30])
    assert median(rows, weights).tolist() == [HIGHEST]
    assert Median(f=1, weighted=True).aggregate(make_updates(rows, weights)).tolist() == [0]


def test_weights_count_only_where_asked() -> None:
    updates = make_updates([[0], [10], [20], [30]], [2, 1, 1, 1])
    assert Median(f=1).aggregate(updates).tolist() == [15]
    assert Median(f=1, weighted=True).aggregate(updates).tolist() == [10]
    assert Median(f=1, weighted=True, weight_limit=1.0).aggregate(updates).tolist() == [15]


@pytest.mark.claim("C-robust-14")
@given(data=st.data(), f=st.integers(0, 3), extra=st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_robustness_is_what_the_paper_says(
    data: st.DataObject, f: int, extra: int, worst_ratio: Ratio
) -> None:
    n = 2 * f + extra
    # Twice a value is an even number: no median is rounded, and the inequality is exact.
    rows = 2 * data.draw(arrays(np.int32, (n, 2), elements=st.integers(-30, 30)))
    kappa = worst_ratio(rows, median(rows), f)
    assert kappa is not None
    assert kappa <= 4 * (1 + Fraction(f, n - 2 * f)) ** 2


@pytest.mark.claim("C-robust-17")
def test_one_update_too_few_is_refused() -> None:
    info = make_round_info(1)
    merged([Median(f=2)], make_updates(np.zeros((5, 1), dtype=int)), info)
    with pytest.raises(ValueRefusedError) as refusal:
        merged([Median(f=2)], make_updates(np.zeros((4, 1), dtype=int)), info)
    (problem,) = refusal.value.problems
    assert problem.code == "QRES-E505"
    assert problem.what == "n = 4 updates, and it needs 5 or more"
    assert problem.fix.startswith("raise swarm.quorum to 5")


def test_weights_need_more_updates() -> None:
    rule = Median(f=2, weighted=True)
    info = make_round_info(1)
    merged([rule], make_updates(np.zeros((10, 1), dtype=int)), info)
    with pytest.raises(ValueRefusedError, match="n = 9 updates, and it needs 10") as refusal:
        merged([rule], make_updates(np.zeros((9, 1), dtype=int)), info)
    assert refusal.value.code == "QRES-E505"


def test_groups_are_refused() -> None:
    updates = make_updates([[1]] * 3, visibility=Visibility.SUM)
    with pytest.raises(CompatibilityError, match=r"QRES-E303 .* median .* got only their sum"):
        Median(f=1).aggregate(updates)


@pytest.mark.parametrize(
    ("rule", "fewest"),
    [
        (Median(f=0), 1),
        (Median(f=3), 7),
        (Median(f=0, weighted=True), 1),
        (Median(f=3, weighted=True), 16),
        (Median(f=3, weighted=True, weight_limit=1.0), 10),
    ],
)
def test_needs(rule: Median, fewest: int) -> None:
    assert rule.claims.needs == Needs(visibility=Visibility.GROUP, min_updates=fewest)
    assert rule.claims.tolerates == rule.f


def test_bad_options_are_refused_by_name() -> None:
    with pytest.raises(
        OptionError, match=r"QRES-E105 f: must be an integer of at least 0, got True"
    ):
        Median(f=True)
    with pytest.raises(
        OptionError, match=r"QRES-E105 weight_limit: must be a finite number of at least 1"
    ):
        Median(f=1, weight_limit=0.5)
    with pytest.raises(OptionError, match="weighted: must be true or false, got 1"):
        Median(f=1, weighted=1)  # type: ignore[arg-type]


def test_every_option_explains_itself_and_the_entry_point_leads_here() -> None:
    assert all(field.metadata["help"] for field in attrs.fields(Median))
    (entry,) = entry_points(group="qres.plugins", name="median")
    assert entry.load() is Median
