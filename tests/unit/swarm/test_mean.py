"""The weighted mean against exact rational arithmetic."""

from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from qres_lab.testing import make_updates

from qres_core import Needs
from qres_core.builtin.mean import Mean, weighted_mean

LOW, HIGH = -(2**31), 2**31 - 1
HEAVY = 2**30
thorough = settings(deadline=None, max_examples=400)

coordinates = st.one_of(
    st.integers(LOW, HIGH), st.sampled_from([LOW, LOW + 1, -1, 0, 1, HIGH - 1, HIGH])
)
weights = st.one_of(st.integers(1, HEAVY), st.sampled_from([1, 2, 3, HEAVY - 1, HEAVY]))
cases = st.tuples(st.integers(1, 6), st.integers(1, 5)).flatmap(
    lambda shape: st.tuples(
        st.lists(
            st.lists(coordinates, min_size=shape[1], max_size=shape[1]),
            min_size=shape[0],
            max_size=shape[0],
        ),
        st.lists(weights, min_size=shape[0], max_size=shape[0]),
    )
)


def oracle(rows: Sequence[Sequence[int]], heavy: Sequence[int]) -> list[int]:
    """``round`` of a Fraction rounds half to even."""
    total = sum(heavy)
    return [
        round(Fraction(sum(w * v for w, v in zip(heavy, column, strict=True)), total))
        for column in zip(*rows, strict=True)
    ]


def mean(rows: Sequence[Sequence[int]], heavy: Sequence[int]) -> list[int]:
    result = weighted_mean(np.array(rows, dtype=np.int32), np.array(heavy, dtype=np.int64))
    assert result.dtype == np.int32
    assert not result.flags.writeable
    return [int(value) for value in result]


@thorough
@given(cases)
@example(([[LOW], [LOW]], [HEAVY, HEAVY]))
@example(([[HIGH], [HIGH]], [HEAVY, HEAVY]))
@example(([[HIGH], [LOW]], [HEAVY, HEAVY]))
@example(([[0], [1]], [1, 1]))
@example(([[0], [-1]], [1, 1]))
@example(([[1], [2]], [1, 1]))
@example(([[-1], [-2]], [1, 1]))
@example(([[HIGH], [HIGH - 1]], [HEAVY, HEAVY]))
@example(([[LOW], [LOW + 1]], [HEAVY, HEAVY]))
def test_equals_the_exact_mean_rounded_half_to_even(
    case: tuple[list[list[int]], list[int]],
) -> None:
    rows, heavy = case
    assert mean(rows, heavy) == oracle(rows, heavy)


@thorough
@given(cases, st.randoms(use_true_random=False))
def test_the_order_of_nodes_does_not_matter(
    case: tuple[list[list[int]], list[int]], rng: random.Random
) -> None:
    rows, heavy = case
    order = list(range(len(rows)))
    rng.shuffle(order)
    assert mean([rows[i] for i in order], [heavy[i] for i in order]) == mean(rows, heavy)


@given(st.lists(coordinates, min_size=1, max_size=4), st.lists(weights, min_size=1, max_size=6))
def test_the_mean_of_equal_vectors_is_the_vector(row: list[int], heavy: list[int]) -> None:
    assert mean([row] * len(heavy), heavy) == row


@thorough
@given(cases)
def test_lies_between_the_least_and_the_greatest(
    case: tuple[list[list[int]], list[int]],
) -> None:
    rows, heavy = case
    for value, column in zip(mean(rows, heavy), zip(*rows, strict=True), strict=True):
        assert min(column) <= value <= max(column)


@given(st.lists(coordinates, min_size=1, max_size=5), weights)
def test_weighing_all_alike_is_weighing_none(column: list[int], weight: int) -> None:
    rows = [[value] for value in column]
    assert mean(rows, [weight] * len(rows)) == mean(rows, [1] * len(rows))


@pytest.mark.parametrize("limit", [100, 2**31 - 1])
def test_many_nodes_and_more_columns_than_a_block(limit: int) -> None:
    # Spans blocks of which some need the wide division and some do not.
    rng = np.random.default_rng(limit)
    vectors = rng.integers(-limit, limit, (5, 20_011)).astype(np.int32)
    vectors[:, :9000] %= 50
    heavy = rng.integers(1, HEAVY, 5)
    result = weighted_mean(vectors, heavy)
    weigh = [int(value) for value in heavy]
    for column in (0, 8207, 8208, 8209, 16_415, 16_416, 20_010, *range(9000, 20_000, 531)):
        rows = [[int(value)] for value in vectors[:, column]]
        assert [int(result[column])] == oracle(rows, weigh)


def test_the_largest_swarm_at_the_largest_weights_does_not_overflow() -> None:
    n = 2**16
    vectors = np.full((n, 2), HIGH, dtype=np.int32)
    vectors[:, 1] = LOW
    result = weighted_mean(vectors, np.full(n, HEAVY, dtype=np.int64))
    assert result.tolist() == [HIGH, LOW]


def test_a_block_just_past_what_float64_holds_exactly() -> None:
    # |value| * total is 2**53 here: the first product that may not take the float path.
    rows: list[list[int]] = [[2**23], [2**23 - 1], [-(2**23)]]
    heavy = [2**30 - 1, 2**29, 1]
    assert mean(rows, heavy) == oracle(rows, heavy)


def test_the_plugin_is_the_mean_by_weight() -> None:
    updates = make_updates([[0, 10], [4, 20]], [1, 3])
    assert Mean().aggregate(updates).tolist() == [3, 18]  # 17.5 goes to the even 18


def test_the_plugin_says_that_it_withstands_nobody() -> None:
    assert Mean().claims.needs == Needs()
    assert Mean().claims.tolerates == 0
    assert Mean(unprotected=True).claims.needs == Needs()
    assert Mean(unprotected=True).claims.tolerates is None
