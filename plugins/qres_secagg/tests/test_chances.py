"""What a swarm can count on, against counting and against draws."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qres_secagg.chances import (
    LIKELY,
    at_least,
    enough_rows,
    grouping,
    least_nodes,
    least_quorum,
    needed_inputs,
)
from qres_secagg.graph import circulant
from qres_secagg.levels import group_sizes
from qres_secagg.parameters import choose


@given(st.integers(0, 12), st.floats(0, 1), st.integers(-1, 13))
def test_the_tail_is_that_of_counting(trials: int, probability: float, count: int) -> None:
    counted = math.fsum(
        math.comb(trials, i) * probability**i * (1 - probability) ** (trials - i)
        for i in range(max(0, count), trials + 1)
    )
    assert math.isclose(at_least(trials, probability, count), counted, abs_tol=1e-12)


def test_enough_rows_are_as_likely_as_every_case_counted_says() -> None:
    sizes, least, rows, away = (3, 3, 2, 2), 2, 3, 0.3
    found = 0.0
    for here in itertools.product((0, 1), repeat=sum(sizes)):
        left, opened = iter(here), 0
        for size in sizes:
            opened += sum(itertools.islice(left, size)) >= least
        if opened >= rows:
            found += math.prod(0.7 if node else 0.3 for node in here)
    assert math.isclose(enough_rows(sizes, least, rows, away), found, rel_tol=1e-9)


def test_enough_rows_are_as_likely_as_draws_say() -> None:
    rng = np.random.default_rng(0)
    sizes = group_sizes(72, 8)
    here = rng.random((20_000, 72)) >= 0.1
    opened = np.add.reduceat(here, np.cumsum((0, *sizes[:-1])), axis=1) >= 7
    drawn = float((opened.sum(axis=1) >= 7).mean())
    assert abs(enough_rows(sizes, 7, 7, 0.1) - drawn) < 0.02
    assert enough_rows(sizes, 8, 9, 0.0) == 1.0


@pytest.mark.control("C-secagg-28")
def test_a_round_of_the_least_quorum_can_be_opened_and_one_less_fails_too_often() -> None:
    n = 100
    plan = choose(n, 10, 10)
    least = least_quorum(n, plan.k, plan.t)
    assert plan.t <= least <= n - 10  # the planned dropouts leave enough

    def cut(inputs: int) -> float:
        """Union bound over the nodes, in floats: those that are there, and those that are not."""
        gone = n - inputs

        def more(others: int, limit: int) -> float:
            """The probability that of so many others, all away, more hold shares of one node."""
            ways = (
                math.comb(others, i) * math.comb(n - 1 - others, plan.k - i)
                for i in range(limit + 1, plan.k + 1)
            )
            return sum(ways) / math.comb(n - 1, plan.k)

        return inputs * more(gone, plan.k + 1 - plan.t) + gone * more(gone - 1, plan.k - plan.t)

    assert cut(least) <= 2.0**-20 < cut(least - 1)
    near = circulant(n, plan.k, b"seed")
    rng = np.random.default_rng(0)
    for _ in range(200):
        present = set(rng.permutation(n)[:least].tolist())
        held = [(i in present) + sum(j in present for j in near[i]) for i in range(n)]
        assert min(held) >= plan.t


def test_on_the_complete_graph_the_least_quorum_is_the_threshold() -> None:
    plan = choose(40, 4, 4)
    assert least_quorum(40, plan.k, plan.t) == plan.t == 23


@given(st.integers(3, 120), st.integers(0, 6), st.integers(1, 9), st.sampled_from([0.0, 0.1, 0.2]))
def test_groups_that_would_do_do(n: int, liars: int, rows: int, away: float) -> None:
    quorum = n - min(liars, n)
    found = grouping(n, quorum, liars, rows, away)
    if found is None:
        needed = needed_inputs(liars)
        for count in range(max(2, rows), n // needed + 1):
            if needed * rows <= quorum:
                assert enough_rows(group_sizes(n, n // count), needed, rows, away) < LIKELY
        return
    sizes = group_sizes(n, found.size)
    assert liars + 2 <= found.least <= min(sizes)
    assert len(sizes) >= max(2, rows)
    assert found.least * rows <= quorum
    assert found.chance == enough_rows(sizes, found.least, rows, away) >= LIKELY


@pytest.mark.parametrize("f", [1, 2, 3])
def test_the_least_swarm_for_a_median_of_groups_is_the_first_that_does(f: int) -> None:
    least = least_nodes(f, 0.0, 2 * f + 1, 0.1)
    assert least is not None
    assert grouping(least, least - f, f, 2 * f + 1, 0.1) is not None
    assert all(grouping(n, n - f, f, 2 * f + 1, 0.1) is None for n in range(3, least))
    # A tenth of all in one group is more than one of ten groups.
    assert least_nodes(f, 0.1, 10, 0.1) is None
