"""Static clipping in exact integers: the bound always holds, and little more is cut."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from importlib.metadata import entry_points
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from qres_lab.testing import make_round_info, make_updates
from qres_robust_stats import Clipping, clip

from qres_core import Needs, Updates, Vector, Visibility
from qres_core.errors import CompatibilityError, OptionError, ValueRefusedError

Everywhere = Callable[[Callable[[], NDArray[Any]]], NDArray[Any]]
LOWEST, HIGHEST = -(2**31), 2**31 - 1
COORDINATE = (
    st.integers(LOWEST, HIGHEST)
    | st.sampled_from([LOWEST, LOWEST + 1, HIGHEST - 1, HIGHEST])
    | st.integers(-99, 99)
)
ROWS = st.tuples(st.integers(1, 5), st.integers(1, 6)).flatmap(
    lambda shape: arrays(np.int32, shape, elements=COORDINATE)
)
BOUND = (
    st.integers(1, 2**40)
    | st.fractions(min_value=Fraction(1, 10**6), max_value=10**6)
    | st.floats(min_value=1e-12, max_value=1e12)
)


def factor_by_search(square: int, squared_bound: Fraction) -> int:
    """The greatest ``q`` with ``q**2 square <= 2**60 bound**2``, by halving."""
    low, high = 0, 2**30
    while low < high:
        middle = (low + high + 1) // 2
        if middle**2 * square <= 2**60 * squared_bound:
            low = middle
        else:
            high = middle - 1
    return low


def by_definition(rows: NDArray[np.int32], bound: float | Fraction) -> list[list[int]]:
    squared_bound = Fraction(bound) ** 2
    clipped: list[list[int]] = []
    for row in rows.tolist():
        square = sum(value**2 for value in row)
        if square > squared_bound:
            factor = factor_by_search(square, squared_bound)
            # int() of a fraction cuts towards zero.
            clipped.append([int(Fraction(value * factor, 2**30)) for value in row])
        else:
            clipped.append(row)
    return clipped


@given(rows=ROWS, bound=BOUND)
@example(rows=np.full((1, 6), LOWEST, dtype=np.int32), bound=1)
@example(rows=np.array([[LOWEST]], dtype=np.int32), bound=2**31 - 1)
@settings(max_examples=1000, deadline=None)
def test_equals_the_definition(
    rows: NDArray[np.int32], bound: float | Fraction, everywhere: Everywhere
) -> None:
    before = rows.copy()
    result = everywhere(lambda: clip(rows, bound))
    assert result.tolist() == by_definition(rows, bound)
    assert np.array_equal(rows, before)
    assert not np.shares_memory(result, rows)


@pytest.mark.claim("C-robust-12")
@pytest.mark.long
@given(rows=ROWS, bound=BOUND)
@settings(max_examples=1000, deadline=None)
def test_the_bound_holds_and_no_more_is_cut_than_said(
    rows: NDArray[np.int32], bound: float | Fraction
) -> None:
    squared_bound = Fraction(bound) ** 2
    d = rows.shape[1]
    for row, clipped in zip(rows.tolist(), clip(rows, bound).tolist(), strict=True):
        before = sum(value**2 for value in row)
        after = sum(value**2 for value in clipped)
        assert after <= squared_bound
        assert all(a * b >= 0 and abs(b) <= abs(a) for a, b in zip(row, clipped, strict=True))
        if before > squared_bound:
            # bound <= |y| + sqrt(d) + |x| / 2**30, in floats with room for their rounding.
            shortest = float(after) ** 0.5 + d**0.5 + float(before) ** 0.5 / 2**30
            assert float(bound) <= shortest * (1 + 1e-9)
        else:
            assert clipped == row


def test_long_vectors_in_many_blocks() -> None:
    rows = np.random.default_rng(1).integers(LOWEST, HIGHEST, size=(2, 50_000), dtype=np.int32)
    rows[1] >>= 20
    result = clip(rows, 10**7)
    assert result.tolist() == by_definition(rows, 10**7)
    assert result[1].tolist() == rows[1].tolist()


@pytest.mark.parametrize("real", [np.float32, np.float64])
def test_floats(real: type[np.floating[Any]]) -> None:
    rows = np.array([[3, 4], [30, -40], [0, 0]], dtype=real)
    result = clip(rows, 5.0)
    assert result.dtype == real
    assert np.allclose(result, [[3, 4], [3, -4], [0, 0]], rtol=1e-6)
    assert rows[1].tolist() == [30, -40]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_named(bad: float) -> None:
    rows = np.zeros((5, 30), dtype=np.float32)
    rows[1, 29] = bad
    with pytest.raises(ValueRefusedError, match=r"QRES-E501 .*row 1"):
        clip(rows, 1)


def test_a_length_beyond_float64_is_refused_too() -> None:
    rows = np.array([[0.0, 1.0], [1e300, 1e300]])
    with pytest.raises(ValueRefusedError, match=r"QRES-E501"):
        clip(rows, 1)


@pytest.mark.parametrize("bound", [0, -1, float("nan"), float("inf"), True])
def test_a_bound_that_is_none_is_refused(bound: float) -> None:
    with pytest.raises(ValueError, match=r"^bound must be a finite number above 0, got"):
        clip(np.zeros((1, 1), dtype=np.int32), bound)
    with pytest.raises(OptionError, match=r"bound: must be a finite number above 0"):
        Clipping(bound=bound)


@given(rows=ROWS, bound=st.floats(min_value=1e-6, max_value=1e6), scale=st.integers(-32, 32))
@settings(max_examples=300, deadline=None)
def test_the_wrapper_reads_the_bound_in_model_units(
    rows: NDArray[np.int32], bound: float, scale: int
) -> None:
    updates = make_updates(rows, range(1, len(rows) + 1))
    seen: list[Updates] = []

    def proceed(clipped: Updates) -> Vector:
        seen.append(clipped)
        return clipped.vectors[-1]

    info = make_round_info(rows.shape[1], scale=scale)
    result = Clipping(bound=bound).wrap_aggregate(proceed, updates, info)
    (clipped,) = seen
    # A step is 2**(scale - 16) model units.
    steps = Fraction(bound) * 2**16 / Fraction(2) ** scale
    assert clipped.vectors.tolist() == by_definition(rows, steps)
    assert clipped.senders == updates.senders
    assert clipped.weights.tolist() == updates.weights.tolist()
    assert np.array_equal(updates.vectors, rows)
    assert result.tolist() == clipped.vectors[-1].tolist()


def test_a_sum_is_refused() -> None:
    updates = make_updates([[1]] * 3, visibility=Visibility.SUM)
    with pytest.raises(CompatibilityError, match=r"QRES-E303 .* clipping .* got only their sum"):
        Clipping(bound=1.0).wrap_aggregate(
            lambda update: update.vectors[0], updates, make_round_info()
        )


def test_needs_and_options() -> None:
    assert Clipping(bound=1.0).claims.needs == Needs(visibility=Visibility.GROUP)
    assert all(field.metadata["help"] for field in attrs.fields(Clipping))
    (entry,) = entry_points(group="qres.plugins", name="clipping")
    assert entry.load() is Clipping
