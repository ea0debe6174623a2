"""Multi-Krum: the mean of the best-scored updates."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qres_krum import Krum, multi_krum
from qres_lab.testing import make_round_info, merged

from qres_core import Updates
from qres_core.errors import OptionError, ValueRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

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
    coordinate = draw(
        st.sampled_from(
            [
                st.integers(LOWEST, HIGHEST) | st.sampled_from([LOWEST, HIGHEST]),
                st.integers(-3, 3),
            ]
        )
    )
    row = st.lists(coordinate, min_size=d, max_size=d)
    rows = draw(st.lists(row, min_size=n, max_size=n))
    for to, source in enumerate(draw(st.lists(st.integers(0, n - 1), max_size=n // 2))):
        rows[to] = rows[source]
    return rows, f, select


@st.composite
def seeded(draw: st.DrawFn) -> tuple[Rows, int, int]:
    """Longer rows, of all magnitudes or of few values, some of them copies."""
    f = draw(st.integers(0, 2))
    n = draw(st.integers(2 * f + 3, 2 * f + 7))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    reach = draw(st.sampled_from([1, 30, 2**16, 2**30, HIGHEST]))
    rows = generator.integers(-reach, reach, size=(n, draw(st.integers(1, 80))), endpoint=True)
    if draw(st.booleans()):
        rows = rows[generator.integers(n, size=n)]
    return rows.tolist(), f, draw(st.integers(1, n - f))


@pytest.mark.claim("C-krum-4")
@given(case=rounds() | seeded())
@settings(deadline=None, max_examples=1000)
def test_equals_the_exact_mean_of_the_best(
    case: tuple[Rows, int, int],
    stack: Callable[..., Updates],
    paper_scores: Callable[[Sequence[Sequence[int]], int], list[int]],
    backends: list[Callable[[], AbstractContextManager[None]]],
) -> None:
    rows, f, select = case
    by_score = sorted(zip(paper_scores(rows, f), range(len(rows)), strict=True))
    expected = exact_mean([rows[i] for _, i in by_score[:select]])
    updates = stack(rows)
    for backend in backends:
        with backend():
            assert Krum(f=f, select=select).aggregate(updates).tolist() == expected
            assert multi_krum(updates.vectors, f, select).tolist() == expected


@pytest.mark.parametrize(
    ("pair", "mean"), [((0, 1), 0), ((1, 2), 2), ((-1, 0), 0), ((-2, -1), -2), ((-4, -3), -4)]
)
def test_halves_go_to_the_even_neighbour(
    pair: tuple[int, int], mean: int, stack: Callable[..., Updates]
) -> None:
    rows = [[pair[0]], [pair[1]], [10**6]]
    assert Krum(f=0, select=2).aggregate(stack(rows)).tolist() == [mean]


@pytest.mark.parametrize("value", [LOWEST, HIGHEST])
def test_a_mean_of_extremes_does_not_wrap(value: int, stack: Callable[..., Updates]) -> None:
    updates = stack([[value, value]] * 1000)
    assert Krum(f=0, select=1000).aggregate(updates).tolist() == [value, value]


@pytest.mark.claim("C-krum-4")
@pytest.mark.parametrize("select", [1, 3])
def test_reported_weights_have_no_effect(select: int, stack: Callable[..., Updates]) -> None:
    rows = [[0], [10], [20], [31], [43]]
    rule = Krum(f=1, select=select)
    equal = rule.aggregate(stack(rows)).tolist()
    for greedy in range(5):
        weights = [2**30 if i == greedy else 1 for i in range(5)]
        assert rule.aggregate(stack(rows, weights)).tolist() == equal


@pytest.mark.control("C-krum-4", "C-robust-20")
def test_a_weighted_mean_would_be_hijacked() -> None:
    # The positive control of the test above: the weight does move an average that heeds it.
    chosen, weights = [0, 10, 20], [1, 1, 2**30]
    weighted = sum(w * x for w, x in zip(weights, chosen, strict=True)) / sum(weights)
    assert weighted == pytest.approx(20)
    assert exact_mean([[x] for x in chosen]) == [10]


def test_more_than_the_honest_is_refused(stack: Callable[..., Updates]) -> None:
    rows = [[i] for i in range(7)]
    info = make_round_info(1)
    merged([Krum(f=2, select=5)], stack(rows), info)
    with pytest.raises(ValueRefusedError) as refusal:
        merged([Krum(f=2, select=6)], stack(rows), info)
    (problem,) = refusal.value.problems
    assert problem.code == "QRES-E505"
    assert problem.what == "n = 7 updates, and it needs 8 or more"
    assert "raise swarm.quorum to 8" in problem.fix
    vectors = stack(rows).vectors
    multi_krum(vectors, 2, 5)
    with pytest.raises(ValueRefusedError, match=r"QRES-E505 vectors: m = 6 is more than n - f"):
        multi_krum(vectors, 2, 6)


@pytest.mark.parametrize(("f", "m", "name"), [(-1, 1, "f"), (True, 1, "f"), (1, 0, "m")])
def test_a_bad_argument_is_refused_by_name(
    f: int, m: int, name: str, stack: Callable[..., Updates]
) -> None:
    with pytest.raises(OptionError, match=rf"{name}: must be an integer of at least"):
        multi_krum(stack([[i] for i in range(7)]).vectors, f, m)
