"""The small parts: squares, exact sums, clipping, the transcript, the options' arithmetic."""

from __future__ import annotations

import hashlib
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qres_arithmetic import clipped, squared_norm
from qres_zk.challenges import cross_factors, fold_factors, link_weights
from qres_zk.exact import inner
from qres_zk.group import ORDER, integers
from qres_zk.options import direction_of, threshold_of
from qres_zk.squares import four_squares
from qres_zk.transcript import Transcript

ENTRIES = st.lists(st.integers(-(2**31) + 1, 2**31 - 1), min_size=1, max_size=40)


@given(st.one_of(st.integers(0, 2000), st.integers(0, 2**100)))
@settings(max_examples=150, deadline=None)
def test_four_squares(n: int) -> None:
    found = four_squares(n)
    assert sum(item * item for item in found) == n
    assert min(found) >= 0


@pytest.mark.parametrize("n", [4**20, 7 * 4**20, 2**61 - 1, 399, 400, 401])
def test_four_squares_of_awkward_numbers(n: int) -> None:
    assert sum(four_square * four_square for four_square in four_squares(n)) == n
    with pytest.raises(ValueError, match="a negative number is no sum"):
        four_squares(-n)


@given(ENTRIES)
def test_norms_are_exact(entries: list[int]) -> None:
    expected = sum(entry * entry for entry in entries)
    assert squared_norm(np.array(entries, dtype=np.int32)) == expected
    wide = [entry * 4 for entry in entries]
    assert squared_norm(np.array(wide, dtype=np.int64)) == 16 * expected


def test_norms_do_not_wrap() -> None:
    vector = np.full(10**5, -(2**31), dtype=np.int64)
    assert squared_norm(vector) == 10**5 * 2**62


@given(ENTRIES, st.randoms(use_true_random=False))
def test_products_are_exact(entries: list[int], random: object) -> None:
    rng = np.random.default_rng(getattr(random, "randrange")(2**32))  # noqa: B009
    direction = rng.integers(-32767, 32768, len(entries)).astype(np.int16)
    expected = sum(int(g) * entry for g, entry in zip(direction, entries, strict=True))
    assert inner(direction, np.array(entries, dtype=np.int32)) == expected


@given(ENTRIES, st.integers(1, 2**31 - 1))
def test_clipping_never_leaves_the_ball_and_seldom_shortens_more(
    entries: list[int], bound: int
) -> None:
    vector = np.array(entries, dtype=np.int64)
    short = clipped(vector, bound)
    squared = sum(int(number) ** 2 for number in short)
    assert squared <= bound**2
    if sum(entry * entry for entry in entries) <= bound**2:
        assert short is vector
        return
    # Every entry is at most one step and 2**-29 of itself short of the scaled one.
    scale = Fraction(bound << 40, math.isqrt(sum(entry * entry for entry in entries) << 80))
    for entry, made in zip(entries, short.tolist(), strict=True):
        assert made * entry >= 0
        assert abs(entry) * scale * (1 - Fraction(1, 2**29)) - 1 < abs(made)


def test_the_transcript_is_one_hash_of_all_items() -> None:
    made = Transcript()
    made.absorb("a", b"xy")
    answer = made.challenge("c", 5)
    data = bytes([1, 0, 0, 0, 2, 0, 0, 0]) + b"axy"
    data += bytes([9, 0, 0, 0, 5, 0, 0, 0]) + b"challenge" + b"c" + bytes([5, 0, 0, 0])
    assert answer == hashlib.shake_256(data).digest(5)
    assert made.challenge("c", 5) != answer


ITEMS = st.lists(st.tuples(st.text("ab", max_size=3), st.binary(max_size=4)), max_size=4)


@given(ITEMS, ITEMS)
def test_other_items_give_other_challenges(
    left: list[tuple[str, bytes]], right: list[tuple[str, bytes]]
) -> None:
    answers = []
    for items in (left, right):
        made = Transcript()
        for label, data in items:
            made.absorb(label, data)
        answers.append(made.challenge("c", 32))
    assert (answers[0] == answers[1]) == (left == right)


def test_challenges_are_in_range_and_long_ones_begin_alike() -> None:
    made = Transcript()
    assert 0 <= made.scalar("x") < ORDER
    assert all(integer >> 117 == 0 for integer in made.integers("y", 50, 117))


def test_folding_factors() -> None:
    x, y = 3, 5
    of_values, of_weights = fold_factors([x, y])
    assert of_values == [1, y, x, x * y]
    assert of_weights == [x * y, x, y, 1]
    assert cross_factors([x, y]) == ([y, x * x * y, 1, y * y], x * y)
    assert cross_factors([]) == ([], 1)


def test_link_weights_are_exact() -> None:
    rng = np.random.default_rng(5)
    bits = rng.integers(0, 2, (128, 9))
    link = [2**128 - 1 - n for n in range(128)]
    expected = [sum(w for w, bit in zip(link, column, strict=True) if bit) for column in bits.T]
    assert integers(link_weights(bits, link)) == [*expected, *link]


@given(
    st.fractions(-1000, 1000, max_denominator=1000),
    st.lists(st.integers(-32767, 32767), min_size=1, max_size=8).filter(any),
)
def test_thresholds_are_the_least_integers_that_are_enough(
    value: Fraction, entries: list[int]
) -> None:
    direction = np.array(entries, dtype=np.int16)
    found = threshold_of(float(value), direction, 0)
    along, squared = Fraction(float(value)) * 2**16, sum(entry * entry for entry in entries)

    def reaches(t: int) -> bool:  # t >= along * sqrt(squared), without a root
        if (t >= 0) != (along >= 0):
            return t >= 0
        return (t * t >= along**2 * squared) if t >= 0 else (t * t <= along**2 * squared)

    assert reaches(found)
    assert not reaches(found - 1)


def test_a_direction_keeps_where_it_points() -> None:
    assert direction_of(np.array([1.0, -2.0, 0.0])).tolist() == [16384, -32767, 0]
