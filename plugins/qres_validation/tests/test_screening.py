"""Which candidates are tried, and which are named."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import attrs
import numpy as np
import pytest
from qres_lab.testing import make_round_info, make_updates
from qres_validation import Validation
from qres_validation.screening import ScreeningBudget, harmful, losses, sample

from qres_core import Update, Updates
from qres_core.training import HeldOut

Judge = Callable[..., HeldOut]


def rows(*values: int) -> Updates:
    return make_updates([[value, value] for value in values])


def test_all_are_tried_where_they_fit() -> None:
    assert sample(rows(1, 2, 3), 3, make_round_info(2)) == [0, 1, 2]


def test_a_sample_is_another_each_round_and_misses_nobody_for_ever() -> None:
    updates = rows(*range(20))
    chosen = [sample(updates, 5, make_round_info(2, number=number)) for number in range(1, 60)]
    assert all(len(set(item)) == 5 for item in chosen)
    assert {row for item in chosen for row in item} == set(range(20))
    assert chosen[0] == sample(updates, 5, make_round_info(2, number=1))


def test_time_that_is_up_stops_the_trying(judge: Judge) -> None:
    ticks = count()
    budget = ScreeningBudget(candidates=9, seconds=3.5, clock=lambda: float(next(ticks)))
    held_out = judge([10, 10])
    found = losses(rows(1, 2, 3, 4, 5, 6), list(range(6)), held_out, budget)
    assert list(found) == [0, 1, 2]
    assert held_out.calls == 3
    assert found[0] == pytest.approx(81.0)


@pytest.mark.claim("C-validation-4")
def test_the_worst_come_first_and_no_more_than_may_go() -> None:
    found = {0: 1.0, 1: 9.0, 2: float("inf"), 3: 9.0}
    assert harmful(found, 2.0, 9) == [2, 1, 3]
    assert harmful(found, 2.0, 2) == [2, 1]
    assert harmful(found, 2.0, -1) == []


def screened(judge: Judge, updates: Updates, byzantine: int, quorum: int) -> list[tuple[int, str]]:
    info = make_round_info(2, nodes=len(updates), byzantine=byzantine)
    info = attrs.evolve(info, quorum=quorum)
    found = Validation().screen(updates, judge([100, 100]), info)
    return [(updates.senders.index(fact.subject), fact.fact) for fact in found.against]


def test_harmful_and_oversized_updates_are_named(judge: Judge) -> None:
    updates = rows(10, 12, 9, 11, -90, 10, 100_000)
    assert screened(judge, updates, 2, 5) == [(6, "oversized-update"), (4, "harmful-update")]


@pytest.mark.claim("C-validation-4")
def test_never_more_than_the_liars_promised_nor_below_the_quorum(judge: Judge) -> None:
    updates = rows(10, 12, 9, 11, -90, -80, -70)
    assert screened(judge, updates, 2, 5) == [(4, "harmful-update"), (5, "harmful-update")]
    assert screened(judge, updates, 2, 6) == [(4, "harmful-update")]
    assert screened(judge, updates, 2, 7) == []
    assert screened(judge, updates, 0, 1) == []


@pytest.mark.claim("C-validation-4")
def test_of_what_is_too_long_the_longest_goes_first(judge: Judge) -> None:
    """A harmless update of twelve medians takes no place from one of ten million."""
    updates = rows(120, 10, 10, 10, 10, -(2**30), 10, 10)
    assert screened(judge, updates, 1, 6) == [(5, "oversized-update")]
    assert screened(judge, updates, 2, 6) == [(5, "oversized-update"), (0, "oversized-update")]


@pytest.mark.control("C-validation-4")
def test_control_without_a_bound_the_set_would_fall_below_the_quorum(judge: Judge) -> None:
    updates, quorum = rows(10, 12, 9, 11, -90, -80, -70), 5
    tried = losses(updates, list(range(7)), judge([100, 100]), ScreeningBudget(9, 9.0, lambda: 0.0))
    worse = harmful(tried, 12_000.0, len(updates))
    assert worse == [4, 5, 6]
    assert len(updates) - len(worse) < quorum


def test_control_with_a_larger_promise_or_a_smaller_quorum_more_would_go(judge: Judge) -> None:
    updates = rows(10, 12, 9, 11, -90, -80, -70)
    assert len(screened(judge, updates, 3, 4)) == 3
    assert len(screened(judge, updates, 2, 4)) == 2
    assert len(screened(judge, updates, 3, 6)) == 1


def test_an_update_that_gives_nan_is_the_worst() -> None:
    held_out = HeldOut(np.zeros(2, dtype=np.int32), lambda model: float("nan" if model[0] else 1))
    assert held_out.loss_with(Update(np.array([1, 1], dtype=np.int32)).vector) == float("inf")
