"""The trimmed mean against its definition, its sharp robustness bound, and what breaks it."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from importlib.metadata import entry_points
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from qres_arithmetic import Mixture, mean_of
from qres_lab.testing import AggregatorContract, make_round_info, make_updates, merged
from qres_robust_stats import TrimmedMean, nnm, trimmed_mean

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


@st.composite
def rounds(draw: st.DrawFn) -> tuple[NDArray[np.int32], int]:
    f = draw(st.integers(0, 5))
    shape = draw(st.integers(2 * f + 1, 2 * f + 5)), draw(st.integers(1, 5))
    return draw(arrays(np.int32, shape, elements=COORDINATE)), f


def by_definition(rows: NDArray[Any], f: int) -> list[Fraction]:
    columns = [sorted(map(Fraction, column)) for column in rows.T.tolist()]
    kept = [column[f : len(column) - f] for column in columns]
    return [sum(column, Fraction()) / len(column) for column in kept]


class TestTrimmedMean(AggregatorContract):
    @pytest.fixture(autouse=True, params=[1, 3, 5])
    def _bound(self, request: pytest.FixtureRequest) -> None:
        self.f = request.param

    def make(self) -> object:
        return TrimmedMean(f=self.f)


@pytest.mark.claim("C-robust-1")
@given(case=rounds())
@settings(max_examples=1000, deadline=None)
def test_equals_the_definition(case: tuple[NDArray[np.int32], int], everywhere: Everywhere) -> None:
    rows, f = case
    expected = [round(mean) for mean in by_definition(rows, f)]
    assert everywhere(lambda: trimmed_mean(rows, f)).tolist() == expected


@pytest.mark.parametrize("n", [39, 40, 41, 42, 100])
def test_many_rows(n: int, everywhere: Everywhere) -> None:
    rows = np.random.default_rng(n).integers(LOWEST, HIGHEST, size=(n, 300), dtype=np.int32)
    for f in (0, 1, n // 5, (n - 1) // 2):
        expected = [round(mean) for mean in by_definition(rows, f)]
        assert everywhere(lambda f=f: trimmed_mean(rows, f)).tolist() == expected


@pytest.mark.parametrize("real", [np.float32, np.float64])
def test_floats(real: type[np.floating[Any]], everywhere: Everywhere) -> None:
    rows = np.random.default_rng(3).standard_normal((9, 40)).astype(real)
    result = everywhere(lambda: trimmed_mean(rows, 2))
    assert result.dtype == real
    assert np.allclose(result, [float(mean) for mean in by_definition(rows, 2)], rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_named(bad: float) -> None:
    rows = np.zeros((5, 30), dtype=np.float64)
    rows[2, 5] = bad
    with pytest.raises(ValueRefusedError, match=r"QRES-E501 .*row 2"):
        trimmed_mean(rows, 1)


@pytest.mark.claim("C-robust-1")
@given(data=st.data(), f=st.integers(1, 5))
@settings(max_examples=200, deadline=None)
def test_stays_among_the_honest(data: st.DataObject, f: int) -> None:
    honest = data.draw(arrays(np.int32, (f + 2, 3), elements=st.integers(-50, 50)))
    lies = data.draw(arrays(np.int32, (f, 3), elements=COORDINATE))
    result = TrimmedMean(f=f).aggregate(make_updates(np.concatenate([lies, honest])))
    assert (honest.min(axis=0) <= result).all()
    assert (result <= honest.max(axis=0)).all()


@pytest.mark.control("C-robust-1")
@pytest.mark.parametrize("f", [1, 2, 5])
def test_control_more_liars_than_f_do_win(f: int) -> None:
    rows = [[0]] * (2 * f) + [[HIGHEST]] * (f + 1)
    assert TrimmedMean(f=f).aggregate(make_updates(rows)).tolist()[0] > HIGHEST // (2 * f)
    held = [[0]] * (2 * f + 1) + [[HIGHEST]] * f
    assert TrimmedMean(f=f).aggregate(make_updates(held)).tolist() == [0]


def unrounded(n: int, f: int) -> int:
    """A factor that makes every mean of this plugin's rules at ``(n, f)`` an integer."""
    return (n - f) * (n - 2 * f)


@st.composite
def scattered(draw: st.DrawFn) -> tuple[NDArray[np.int32], int]:
    """Rows with at most 11 senders, a few of them far away, on which nothing is rounded."""
    f = draw(st.integers(0, 4))
    n = draw(st.integers(2 * f + 1, min(11, 2 * f + 4)))
    near = st.integers(-9, 9)
    rows = draw(arrays(np.int32, (n, 2), elements=near | st.sampled_from([-1000, 1000])))
    return rows * unrounded(n, f), f


@pytest.mark.claim("C-robust-2")
@given(case=scattered())
@settings(max_examples=100, deadline=None)
def test_robustness_is_what_the_paper_says(
    case: tuple[NDArray[np.int32], int], worst_ratio: Ratio
) -> None:
    rows, f = case
    r = Fraction(f, len(rows) - 2 * f)
    kappa = worst_ratio(rows, trimmed_mean(rows, f), f)
    assert kappa is not None
    assert kappa <= 6 * r * (1 + r)


@pytest.mark.claim("C-robust-2")
@given(case=scattered())
@settings(max_examples=100, deadline=None)
def test_mixing_makes_it_optimal_up_to_a_constant(
    case: tuple[NDArray[np.int32], int], worst_ratio: Ratio
) -> None:
    rows, f = case
    n = len(rows)
    r = Fraction(f, n - 2 * f)
    kappa = worst_ratio(rows, trimmed_mean(nnm(rows, f), f), f)
    assert kappa is not None
    assert kappa <= Fraction(8 * f, n - f) * (6 * r * (1 + r) + 1)


@pytest.mark.claim("C-robust-2")
@pytest.mark.parametrize(("n", "f"), [(3, 1), (7, 2), (11, 2), (11, 4)])
def test_the_lower_bound_of_all_rules_is_attained(n: int, f: int, worst_ratio: Ratio) -> None:
    rows = np.array([[1]] * f + [[0]] * (n - f), dtype=np.int32) * unrounded(n, f)
    assert worst_ratio(rows, trimmed_mean(rows, f), f) == Fraction(f, n - 2 * f)


@pytest.mark.control("C-robust-2", "C-robust-14", "C-robust-16")
def test_control_the_mean_is_not_robust_at_all(worst_ratio: Ratio) -> None:
    rows = np.array([[0], [7], [-7], [0], [7 * 10**6]], dtype=np.int32) * 5
    kappa = worst_ratio(rows, mean_of(rows, range(5)), 1)
    assert kappa is not None
    assert kappa > 10**9
    agreed = np.array([[0], [0], [0], [5]], dtype=np.int32) * 4
    assert worst_ratio(agreed, mean_of(agreed, range(4)), 1) is None


@pytest.mark.claim("C-robust-20")
def test_claimed_weights_have_no_effect() -> None:
    rows = [[0], [10], [20], [31], [43]]
    equal = TrimmedMean(f=1).aggregate(make_updates(rows)).tolist()
    for greedy in range(5):
        weights = [2**30 if i == greedy else 1 for i in range(5)]
        assert TrimmedMean(f=1).aggregate(make_updates(rows, weights)).tolist() == equal


def test_mixtures_are_taken_as_they_are() -> None:
    rows = np.random.default_rng(4).integers(-99, 99, size=(5, 40), dtype=np.int32)
    mixture = Mixture(rows, np.array([[0, 1], [1, 2], [2, 3], [3, 4], [4, 0]]))
    assert trimmed_mean(mixture, 1).tolist() == trimmed_mean(mixture.materialise(), 1).tolist()


@pytest.mark.parametrize("f", [0, 1, 4])
def test_one_update_too_few_is_refused(f: int) -> None:
    rows = np.zeros((2 * f + 1, 2), dtype=np.int32)
    trimmed_mean(rows, f)
    with pytest.raises(ValueRefusedError, match=r"QRES-E505"):
        trimmed_mean(rows[1:], f)
    if f:
        with pytest.raises(ValueRefusedError) as refusal:
            merged([TrimmedMean(f=f)], make_updates(rows[1:]), make_round_info(2))
        (problem,) = refusal.value.problems
        assert problem.code == "QRES-E505"
        assert problem.what == f"n = {2 * f} updates, and it needs {2 * f + 1} or more"
        assert problem.fix.startswith(f"raise swarm.quorum to {2 * f + 1}")


def test_a_sum_is_refused() -> None:
    updates = make_updates([[1]] * 3, visibility=Visibility.SUM)
    with pytest.raises(CompatibilityError, match=r"QRES-E303 .* trimmed_mean .* only their sum"):
        TrimmedMean(f=1).aggregate(updates)


def test_needs() -> None:
    assert TrimmedMean(f=3).claims.needs == Needs(visibility=Visibility.GROUP, min_updates=7)
    assert TrimmedMean(f=3).claims.tolerates == 3


@pytest.mark.parametrize("value", [-1, True, 1.0, "1", None])
def test_a_bad_bound_is_refused_by_name(value: Any) -> None:
    with pytest.raises(OptionError, match=r"f: must be an integer of at least 0, got"):
        TrimmedMean(f=value)
    with pytest.raises(OptionError, match=r"f: must be an integer of at least 0, got"):
        trimmed_mean(np.zeros((3, 1), dtype=np.int32), value)


def test_the_entry_point_leads_here() -> None:
    (entry,) = entry_points(group="qres.plugins", name="trimmed_mean")
    assert entry.load() is TrimmedMean
