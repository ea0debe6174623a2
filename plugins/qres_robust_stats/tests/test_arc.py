"""Adaptive clipping: how many are clipped, to which length, and what that preserves."""

from __future__ import annotations

import math
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
from qres_lab.testing import make_round_info, make_updates, merged
from qres_robust_stats import Arc, arc, trimmed_mean

from qres_core import Needs, Updates, Vector, Visibility
from qres_core.builtin.mean import Mean
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
    f = draw(st.integers(0, 4))
    shape = draw(st.integers(2 * f + 1, 2 * f + 5)), draw(st.integers(1, 5))
    return draw(arrays(np.int32, shape, elements=COORDINATE)), f


def paper_count(n: int, f: int) -> int:
    return math.floor(2 * Fraction(f, n) * (n - f))


def square(row: list[int]) -> int:
    return sum(value**2 for value in row)


def by_definition(rows: NDArray[np.int32], f: int) -> list[list[int]]:
    points = rows.tolist()
    limit = sorted(map(square, points), reverse=True)[paper_count(len(points), f)]
    clipped: list[list[int]] = []
    for row in points:
        if square(row) > limit:
            # The greatest q with q**2 |x|**2 <= 2**60 C**2, from a real root and put right.
            factor = int(2**30 * math.sqrt(Fraction(limit, square(row)))) + 2
            while factor**2 * square(row) > 2**60 * limit:
                factor -= 1
            clipped.append([int(Fraction(value * factor, 2**30)) for value in row])
        else:
            clipped.append(row)
    return clipped


@given(case=rounds())
@settings(max_examples=1000, deadline=None)
def test_equals_the_definition(case: tuple[NDArray[np.int32], int], everywhere: Everywhere) -> None:
    rows, f = case
    before = rows.copy()
    result = everywhere(lambda: arc(rows, f))
    assert result.tolist() == by_definition(rows, f)
    assert np.array_equal(rows, before)
    assert not np.shares_memory(result, rows)


@given(case=rounds())
@settings(max_examples=1000, deadline=None)
def test_no_length_exceeds_the_threshold_of_the_paper(
    case: tuple[NDArray[np.int32], int],
) -> None:
    rows, f = case
    squares = sorted(map(square, rows.tolist()), reverse=True)
    k = paper_count(len(rows), f)
    result = [square(row) for row in arc(rows, f).tolist()]
    assert max(result) == squares[k]
    changed = sum(a != b for a, b in zip(rows.tolist(), arc(rows, f).tolist(), strict=True))
    assert changed <= k
    assert f <= k <= 2 * f


def test_exactly_k_of_different_lengths_are_clipped() -> None:
    rows = np.array([[10 * i] for i in range(1, 12)], dtype=np.int32)
    for f in range(6):
        changed = (arc(rows, f) != rows).any(axis=1).sum()
        assert changed == paper_count(11, f)
        assert arc(rows, f).max() == 10 * (11 - paper_count(11, f))


@pytest.mark.claim("C-robust-12")
@given(data=st.data(), f=st.integers(1, 4))
@settings(max_examples=300, deadline=None)
def test_liars_do_not_lift_the_threshold_above_the_honest(data: st.DataObject, f: int) -> None:
    honest = data.draw(arrays(np.int32, (f + 2, 3), elements=st.integers(-50, 50)))
    lies = data.draw(arrays(np.int32, (f, 3), elements=COORDINATE))
    result = arc(np.concatenate([lies, honest]), f)
    assert max(map(square, result.tolist())) <= max(map(square, honest.tolist()))


@pytest.mark.control("C-robust-12")
def test_control_where_no_liars_are_counted_a_lie_keeps_its_length() -> None:
    rows = np.array([[HIGHEST, 0, 0], *[[50, 0, 0]] * 3], dtype=np.int32)
    assert arc(rows, 0)[0].tolist() == [HIGHEST, 0, 0]
    assert arc(rows, 1)[0].tolist() == [49, 0, 0]


@pytest.mark.claim("C-robust-16")
@given(row=arrays(np.int32, 3, elements=COORDINATE), data=st.data(), f=st.integers(1, 4))
@settings(max_examples=300, deadline=None)
def test_honest_updates_that_agree_stay_as_they_are(
    row: NDArray[np.int32], data: st.DataObject, f: int
) -> None:
    lies = data.draw(arrays(np.int32, (f, 3), elements=COORDINATE))
    rows = np.concatenate([lies, np.tile(row, (f + 1, 1))])
    assert arc(rows, f)[f:].tolist() == [row.tolist()] * (f + 1)


@st.composite
def scattered(draw: st.DrawFn) -> tuple[NDArray[np.int32], int]:
    f = draw(st.integers(1, 4))
    n = draw(st.integers(2 * f + 1, min(11, 2 * f + 3)))
    near = st.integers(-9, 9)
    rows = draw(arrays(np.int32, (n, 2), elements=near | st.sampled_from([-60, 60])))
    return rows * 2**20, f


@pytest.mark.claim("C-robust-16")
@given(case=scattered())
@settings(max_examples=100, deadline=None)
def test_robustness_of_the_rule_behind_grows_by_little(
    case: tuple[NDArray[np.int32], int], worst_ratio: Ratio
) -> None:
    rows, f = case
    r = Fraction(f, len(rows) - 2 * f)
    kappa = worst_ratio(rows, trimmed_mean(arc(rows, f), f), f)
    assert kappa is not None
    # Clipped lengths are rounded to the grid: a millionth of the least spread there can be.
    assert kappa <= (6 * r * (1 + r) + 2 * r) * (1 + Fraction(1, 1000))


@pytest.mark.parametrize("real", [np.float32, np.float64])
def test_floats(real: type[np.floating[Any]]) -> None:
    rows = np.array([[3, 4], [0, 1], [0, 10], [-900, 0]], dtype=real)
    result = arc(rows, 1)
    assert result.dtype == real
    assert np.allclose(result, [[3, 4], [0, 1], [0, 10], [-10, 0]], rtol=1e-6)
    assert rows[3].tolist() == [-900, 0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_named(bad: float) -> None:
    rows = np.zeros((5, 30), dtype=np.float32)
    rows[1, 29] = bad
    with pytest.raises(ValueRefusedError, match=r"QRES-E501 .*row 1"):
        arc(rows, 1)


def test_all_zero() -> None:
    rows = np.zeros((5, 3), dtype=np.int32)
    assert arc(rows, 2).tolist() == rows.tolist()


@given(case=rounds())
@settings(max_examples=200, deadline=None)
def test_the_wrapper_hands_on_the_same(case: tuple[NDArray[np.int32], int]) -> None:
    rows, f = case
    updates = make_updates(rows, range(1, len(rows) + 1))
    seen: list[Updates] = []

    def proceed(clipped: Updates) -> Vector:
        seen.append(clipped)
        return clipped.vectors[0]

    Arc(f=f).wrap_aggregate(proceed, updates)
    (clipped,) = seen
    assert np.array_equal(clipped.vectors, arc(rows, f))
    assert clipped.senders == updates.senders
    assert clipped.weights.tolist() == updates.weights.tolist()
    assert np.array_equal(updates.vectors, rows)


def test_one_update_too_few_is_refused() -> None:
    with pytest.raises(ValueRefusedError, match=r"QRES-E505 vectors: n = 4 vectors, arc"):
        arc(np.zeros((4, 1), dtype=np.int32), 2)
    four = make_updates(np.zeros((4, 1), dtype=int))
    with pytest.raises(ValueRefusedError) as refusal:
        merged([Arc(f=2), Mean(unprotected=True)], four, make_round_info(1))
    assert str(refusal.value).startswith("QRES-E505 plugins.plugin_0: n = 4 updates,")


def test_groups_are_refused() -> None:
    updates = make_updates([[1]] * 3, visibility=Visibility.SUM)
    with pytest.raises(CompatibilityError, match=r"QRES-E303 .* arc .* got only their sum"):
        Arc(f=1).wrap_aggregate(lambda update: update.vectors[0], updates)


def test_needs_and_options() -> None:
    assert Arc(f=3).claims.needs == Needs(visibility=Visibility.GROUP, min_updates=7)
    assert Arc(f=3).claims.tolerates == 3
    with pytest.raises(OptionError, match=r"f: must be an integer of at least 0, got -1"):
        Arc(f=-1)
    assert all(field.metadata["help"] for field in attrs.fields(Arc))
    (entry,) = entry_points(group="qres.plugins", name="arc")
    assert entry.load() is Arc
