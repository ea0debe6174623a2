"""Multi-Krum: the mean of the best-scored updates."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qres_krum import Krum
from qres_krum.average import mean_of_rows

from qres_core import Updates, ValueRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Rows = list[list[int]]
LOWEST, HIGHEST = -(2**31), 2**31 - 1


def exact_mean(rows: Rows) -> list[int]:
    """Round the fraction half to even, as Python's ``round`` does."""
    return [round(Fraction(sum(column), len(rows))) for column in zip(*rows, strict=True)]


@st.composite
def rounds(draw: st.DrawFn) -> tuple[Rows, int, int]:
    f = draw(st.integers(0, 2))
    n = draw(st.integers(2 * f + 3, 2 * f + 7))
    select = draw(st.integers(1, n - f))
    d = draw(st.integers(1, 3))
    coordinate = draw(st.sampled_from([st.integers(LOWEST, HIGHEST), st.integers(-3, 3)]))
    row = st.lists(coordinate, min_size=d, max_size=d)
    return draw(st.lists(row, min_size=n, max_size=n)), f, select


@given(case=rounds())
@settings(deadline=None)
def test_equals_the_exact_mean_of_the_best(
    case: tuple[Rows, int, int],
    stack: Callable[..., Updates],
    paper_scores: Callable[[Sequence[Sequence[int]], int], list[int]],
) -> None:
    rows, f, select = case
    by_score = sorted(zip(paper_scores(rows, f), range(len(rows)), strict=True))
    chosen = [rows[i] for _, i in by_score[:select]]
    assert Krum(f=f, select=select).aggregate(stack(rows)).tolist() == exact_mean(chosen)


@pytest.mark.parametrize(
    ("pair", "mean"), [((0, 1), 0), ((1, 2), 2), ((-1, 0), 0), ((-2, -1), -2), ((-4, -3), -4)]
)
def test_halves_go_to_the_even_neighbour(pair: tuple[int, int], mean: int) -> None:
    assert mean_of_rows(np.array(pair, dtype=np.int32)[:, None], [0, 1]).tolist() == [mean]


@pytest.mark.parametrize("value", [LOWEST, HIGHEST])
def test_a_mean_of_extremes_does_not_wrap(value: int) -> None:
    rows = np.full((1000, 2), value, dtype=np.int32)
    assert mean_of_rows(rows, list(range(1000))).tolist() == [value, value]


@pytest.mark.parametrize("select", [1, 3])
def test_reported_weights_have_no_effect(select: int, stack: Callable[..., Updates]) -> None:
    rows = [[0], [10], [20], [31], [43]]
    rule = Krum(f=1, select=select)
    equal = rule.aggregate(stack(rows)).tolist()
    for greedy in range(5):
        weights = [2**30 if i == greedy else 1 for i in range(5)]
        assert rule.aggregate(stack(rows, weights)).tolist() == equal


def test_a_weighted_mean_would_be_hijacked() -> None:
    # The positive control of the test above: the weight does move an average that heeds it.
    chosen, weights = [0, 10, 20], [1, 1, 2**30]
    weighted = sum(w * x for w, x in zip(weights, chosen, strict=True)) / sum(weights)
    assert weighted == pytest.approx(20)
    assert exact_mean([[x] for x in chosen]) == [10]


def test_more_than_the_honest_is_refused(stack: Callable[..., Updates]) -> None:
    rows = [[i] for i in range(7)]
    Krum(f=2, select=5).aggregate(stack(rows))
    with pytest.raises(ValueRefusedError) as refusal:
        Krum(f=2, select=6).aggregate(stack(rows))
    (problem,) = refusal.value.problems
    assert problem.code == "QRES-E505"
    assert problem.where == "plugins.krum.select"
    assert "select = 6 is more than n - f = 7 - 2 = 5" in problem.what
    assert "raise swarm.quorum to 8" in problem.fix
