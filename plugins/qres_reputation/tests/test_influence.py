"""Weights: a power of the score, and no share above the cap."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from qres_lab.testing import make_node_ids
from qres_reputation.influence import FULL, weights
from qres_reputation.rules import UNIT

SCORES = st.lists(st.integers(0, UNIT), min_size=1, max_size=12)
EXPONENTS = st.integers(1, 8)
CAPS = st.integers(1, UNIT)


def weigh(scores: list[int], exponent: int, cap: int) -> list[int]:
    names = make_node_ids(len(scores))
    found = weights(dict(zip(names, scores, strict=True)), exponent, cap)
    return [found[name] for name in names]


def slow_limit(powers: list[int], cap: Fraction) -> Fraction | None:
    """The cap on powers by bisection; ``None`` where only equal weights keep it."""
    if cap * len(powers) <= 1:
        return None
    low, high = Fraction(0), Fraction(max(powers))
    for _ in range(80):
        middle = (low + high) / 2
        cut = [min(power, middle) for power in powers]
        if max(cut) <= cap * sum(cut):
            low = middle
        else:
            high = middle
    return high if max(powers) <= cap * sum(powers) else low


@pytest.mark.control("C-reputation-6")
@given(scores=SCORES, exponent=EXPONENTS)
def test_without_a_cap_weights_are_powers(scores: list[int], exponent: int) -> None:
    top = max(1, *scores) ** exponent
    expected = [max(1, max(1, score) ** exponent * FULL // top) for score in scores]
    assert weigh(scores, exponent, UNIT) == expected


@pytest.mark.claim("C-reputation-6")
def test_the_third_power_by_hand() -> None:
    assert weigh([UNIT, UNIT // 2, UNIT // 4, 0], 3, UNIT) == [2**32, 2**29, 2**26, 1]


@pytest.mark.claim("C-reputation-6")
@given(scores=SCORES, exponent=EXPONENTS, cap=CAPS)
@example(scores=[UNIT, UNIT, 0, 0], exponent=8, cap=UNIT // 3)
@example(scores=[UNIT, 1, 1, 1], exponent=8, cap=UNIT // 2)
def test_no_share_is_above_the_cap(scores: list[int], exponent: int, cap: int) -> None:
    found = weigh(scores, exponent, cap)
    n, share = len(scores), Fraction(cap, UNIT)
    assert all(1 <= weight <= FULL for weight in found)
    assert max(found) == FULL
    if share * n <= 1:
        assert found == [FULL] * n
    else:
        assert Fraction(max(found), sum(found)) <= share * (1 + Fraction(n, FULL))


@given(scores=SCORES, exponent=st.integers(1, 3), cap=CAPS)
def test_the_cap_cuts_no_more_than_it_must(scores: list[int], exponent: int, cap: int) -> None:
    powers = [max(1, score**exponent) for score in scores]
    limit = slow_limit(powers, Fraction(cap, UNIT))
    if limit is None or limit < 10**5:
        return  # whole powers cannot follow a limit of a few units
    for weight, power in zip(weigh(scores, exponent, cap), powers, strict=True):
        assert abs(weight - min(power, limit) / limit * FULL) <= 2


@given(scores=SCORES, exponent=EXPONENTS, cap=CAPS)
def test_a_higher_score_never_weighs_less(scores: list[int], exponent: int, cap: int) -> None:
    pairs = sorted(zip(scores, weigh(scores, exponent, cap), strict=True))
    assert [weight for _, weight in pairs] == sorted(weight for _, weight in pairs)


@pytest.mark.parametrize("cap", [1, UNIT // 10, UNIT])
def test_a_node_alone_has_full_weight(cap: int) -> None:
    assert weigh([123], 3, cap) == [FULL]
