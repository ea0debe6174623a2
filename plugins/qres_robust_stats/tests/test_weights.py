"""Capped weights: proportions are kept, and no claims give f senders half of all weight."""

from __future__ import annotations

import itertools
import statistics
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qres_robust_stats.weights import (
    as_limit,
    capped,
    check_weights,
    fewest_weighted,
    refuse_heavy,
)

from qres_core.errors import ValueRefusedError

WEIGHT = st.integers(1, 9) | st.integers(1, 2**30) | st.sampled_from([1, 2**30])
LIMIT = st.floats(min_value=1, max_value=100).map(as_limit) | st.sampled_from(
    [Fraction(1), Fraction(2), Fraction(3, 2)]
)


@pytest.mark.claim("C-robust-3")
@given(claims=st.lists(WEIGHT, min_size=1, max_size=12), limit=LIMIT)
@settings(max_examples=1000, deadline=None)
def test_capping_equals_the_fraction(claims: list[int], limit: Fraction) -> None:
    weights = np.array(claims, dtype=np.int64)
    most = limit * statistics.median_low(claims)
    expected = [min(Fraction(claim), most) for claim in claims]
    result = capped(weights, limit)
    assert [Fraction(item, limit.denominator) for item in result.tolist()] == expected
    assert weights.tolist() == claims
    check_weights(result, len(claims))


@given(
    claims=st.lists(st.integers(1, 2**20), min_size=1, max_size=9),
    limit=LIMIT,
    factor=st.integers(1, 2**10),
)
@settings(max_examples=300, deadline=None)
def test_proportions_are_kept(claims: list[int], limit: Fraction, factor: int) -> None:
    weights = np.array(claims, dtype=np.int64)
    once = capped(weights, limit).tolist()
    assert capped(weights * factor, limit).tolist() == [factor * item for item in once]


@pytest.mark.claim("C-robust-3")
@given(data=st.data(), f=st.integers(0, 5), limit=LIMIT.filter(lambda limit: limit < 5))
@settings(max_examples=1000, deadline=None)
def test_enough_updates_are_never_refused_for_their_weights(
    data: st.DataObject, f: int, limit: Fraction
) -> None:
    n = fewest_weighted(f, limit) + data.draw(st.integers(0, 3))
    claims = data.draw(st.lists(WEIGHT, min_size=n, max_size=n))
    refuse_heavy(capped(np.array(claims, dtype=np.int64), limit), f)


@pytest.mark.control("C-robust-3")
@pytest.mark.parametrize(
    ("f", "limit"),
    [(1, Fraction(2)), (2, Fraction(2)), (3, Fraction(3, 2)), (1, Fraction(4)), (2, Fraction(5))],
)
def test_with_fewer_there_are_claims_that_win(f: int, limit: Fraction) -> None:
    n = fewest_weighted(f, limit) - 1
    # f at the cap, half of the others at the median, the rest next to nothing.
    light = (n - 1) // 2
    claims = [1] * light + [2**20] * (n - light - f) + [2**30] * f
    if n >= 2 * f + 1:
        with pytest.raises(ValueRefusedError, match=r"QRES-E505 weights: the \d+ heaviest of"):
            refuse_heavy(capped(np.array(claims), limit), f)
    else:
        assert fewest_weighted(f, limit) == 2 * f + 1


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("f", [0, 1, 2])
def test_half_of_the_weight_is_too_much(n: int, f: int) -> None:
    for claims in itertools.product([1, 2, 3], repeat=n):
        subsets = itertools.combinations(claims, min(f, n))
        heavy = f > 0 and any(2 * sum(subset) >= sum(claims) for subset in subsets)
        weights = np.array(claims)
        if heavy:
            with pytest.raises(ValueRefusedError, match=r"half of all weight or more"):
                refuse_heavy(weights, f)
        else:
            refuse_heavy(weights, f)


def test_equal_weights_need_no_more_than_without() -> None:
    assert [fewest_weighted(f, Fraction(1)) for f in range(4)] == [1, 3, 6, 10]


@pytest.mark.parametrize(
    ("value", "limit"),
    [(1, Fraction(1)), (2.0, Fraction(2)), (1.1, Fraction(11, 10)), (1.7, Fraction(17, 10))],
)
def test_the_option_is_read_as_written(value: float, limit: Fraction) -> None:
    assert as_limit(value) == limit


@pytest.mark.parametrize(
    "weights",
    [
        np.ones(3),
        np.ones(3, dtype=np.int32),
        np.ones((3, 1), dtype=np.int64),
        np.array([1, 0, 1]),
        np.array([1, -5, 1]),
        np.array([1, 1, 1001 * 2**30]),
        [1, 1, 1],
    ],
)
def test_what_is_no_weight_is_refused(weights: Any) -> None:
    with pytest.raises(ValueRefusedError, match=r"^QRES-E506 weights"):
        check_weights(weights, 3)
