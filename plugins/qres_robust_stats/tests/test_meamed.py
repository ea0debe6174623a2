"""The mean around the median against its definition, and what liars can do to it."""

from __future__ import annotations

import statistics
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
from qres_arithmetic import Mixture
from qres_lab.testing import AggregatorContract, make_round_info, make_updates, merged
from qres_robust_stats import Meamed, meamed

from qres_core import Needs, Visibility
from qres_core.errors import CompatibilityError, OptionError, ValueRefusedError

Everywhere = Callable[[Callable[[], NDArray[Any]]], NDArray[Any]]
LOWEST, HIGHEST = -(2**31), 2**31 - 1
COORDINATE = (
    st.integers(LOWEST, HIGHEST)
    | st.sampled_from([LOWEST, LOWEST + 1, HIGHEST - 1, HIGHEST])
    | st.integers(-4, 4)
)


@st.composite
def rounds(draw: st.DrawFn) -> tuple[NDArray[np.int32], int]:
    f = draw(st.integers(0, 5))
    shape = draw(st.integers(2 * f + 1, 2 * f + 5)), draw(st.integers(1, 5))
    return draw(arrays(np.int32, shape, elements=COORDINATE)), f


def by_definition(rows: NDArray[Any], f: int) -> list[Fraction]:
    """Take the ``n - f`` nearest values one by one; of equally near ones the lesser first."""
    means: list[Fraction] = []
    for column in rows.T.tolist():
        values = [Fraction(value) for value in column]
        middle = statistics.median(values)
        nearest = sorted(values, key=lambda value, middle=middle: (abs(value - middle), value))
        means.append(sum(nearest[: len(values) - f], Fraction()) / (len(values) - f))
    return means


class TestMeamed(AggregatorContract):
    @pytest.fixture(autouse=True, params=[1, 3, 5])
    def _bound(self, request: pytest.FixtureRequest) -> None:
        self.f = request.param

    def make(self) -> object:
        return Meamed(f=self.f)


@pytest.mark.claim("C-robust-1")
@given(case=rounds())
@settings(max_examples=1000, deadline=None)
def test_equals_the_definition(case: tuple[NDArray[np.int32], int], everywhere: Everywhere) -> None:
    rows, f = case
    expected = [round(mean) for mean in by_definition(rows, f)]
    assert everywhere(lambda: meamed(rows, f)).tolist() == expected


@pytest.mark.parametrize("n", [40, 41, 60])
def test_many_rows(n: int, everywhere: Everywhere) -> None:
    rows = np.random.default_rng(n).integers(-200, 200, size=(n, 300), dtype=np.int32)
    for f in (0, 1, n // 5, (n - 1) // 2):
        expected = [round(mean) for mean in by_definition(rows, f)]
        assert everywhere(lambda f=f: meamed(rows, f)).tolist() == expected


@pytest.mark.parametrize("real", [np.float32, np.float64])
def test_floats(real: type[np.floating[Any]], everywhere: Everywhere) -> None:
    rows = np.random.default_rng(3).standard_normal((9, 40)).astype(real)
    result = everywhere(lambda: meamed(rows, 2))
    assert result.dtype == real
    assert np.allclose(result, [float(mean) for mean in by_definition(rows, 2)], rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_named(bad: float) -> None:
    rows = np.zeros((5, 30), dtype=np.float32)
    rows[4, 29] = bad
    with pytest.raises(ValueRefusedError, match=r"QRES-E501 .*row 4"):
        meamed(rows, 1)


@pytest.mark.claim("C-robust-1")
@given(data=st.data(), f=st.integers(1, 5))
@settings(max_examples=200, deadline=None)
def test_liars_move_it_by_less_than_the_spread_of_the_honest(data: st.DataObject, f: int) -> None:
    honest = data.draw(arrays(np.int32, (f + 2, 3), elements=st.integers(-50, 50)))
    lies = data.draw(arrays(np.int32, (f, 3), elements=COORDINATE))
    result = Meamed(f=f).aggregate(make_updates(np.concatenate([lies, honest])))
    width = honest.max(axis=0) - honest.min(axis=0)
    assert (honest.min(axis=0) - width <= result).all()
    assert (result <= honest.max(axis=0) + width).all()


@pytest.mark.control("C-robust-1")
@pytest.mark.parametrize("f", [1, 2, 5])
def test_control_more_liars_than_f_do_win(f: int) -> None:
    rows = [[0]] * f + [[HIGHEST]] * (f + 1)
    assert Meamed(f=f).aggregate(make_updates(rows)).tolist() == [HIGHEST]
    held = [[0]] * (f + 1) + [[HIGHEST]] * f
    assert Meamed(f=f).aggregate(make_updates(held)).tolist() == [0]


@pytest.mark.claim("C-robust-20")
def test_claimed_weights_have_no_effect() -> None:
    rows = [[0], [10], [20], [31], [43]]
    equal = Meamed(f=1).aggregate(make_updates(rows)).tolist()
    for greedy in range(5):
        weights = [2**30 if i == greedy else 1 for i in range(5)]
        assert Meamed(f=1).aggregate(make_updates(rows, weights)).tolist() == equal


def test_mixtures_are_taken_as_they_are() -> None:
    rows = np.random.default_rng(4).integers(-99, 99, size=(5, 40), dtype=np.int32)
    mixture = Mixture(rows, np.array([[0, 1], [1, 2], [2, 3], [3, 4], [4, 0]]))
    assert meamed(mixture, 1).tolist() == meamed(mixture.materialise(), 1).tolist()


def test_one_update_too_few_is_refused() -> None:
    with pytest.raises(ValueRefusedError, match=r"QRES-E505 vectors: n = 4 vectors, meamed"):
        meamed(np.zeros((4, 1), dtype=np.int32), 2)
    with pytest.raises(ValueRefusedError) as refusal:
        merged([Meamed(f=2)], make_updates(np.zeros((4, 1), dtype=int)), make_round_info(1))
    assert str(refusal.value).startswith("QRES-E505 plugins.plugin_0: n = 4 updates,")


def test_groups_are_refused() -> None:
    updates = make_updates([[1]] * 3, visibility=Visibility.SUM)
    with pytest.raises(CompatibilityError, match=r"QRES-E303 .* meamed .* got only their sum"):
        Meamed(f=1).aggregate(updates)


def test_needs_and_options() -> None:
    assert Meamed(f=3).claims.needs == Needs(visibility=Visibility.GROUP, min_updates=7)
    assert Meamed(f=3).claims.tolerates == 3
    with pytest.raises(OptionError, match=r"f: must be an integer of at least 0, got -1"):
        Meamed(f=-1)
    with pytest.raises(
        OptionError, match=r"QRES-E105 f: must be an integer of at least 0, got True"
    ):
        meamed(np.zeros((3, 1), dtype=np.int32), True)  # noqa: FBT003


def test_the_entry_point_leads_here() -> None:
    (entry,) = entry_points(group="qres.plugins", name="meamed")
    assert entry.load() is Meamed
