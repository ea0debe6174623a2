"""Who is found out by failed sums, and that honest nodes never are."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qres_zk.suspicion import Suspicion

NODES = [bytes([n]) * 32 for n in range(12)]


def note(made: Suspicion, *rows: tuple[int, ...], liars: int) -> list[int]:
    found = made.note([tuple(NODES[n] for n in row) for row in rows], liars)
    return [NODES.index(item) for item in found]


def test_a_row_of_one_names_its_member() -> None:
    assert note(Suspicion(), (3,), liars=2) == [3]


def test_two_rows_with_one_in_common_name_it_if_there_is_one_liar() -> None:
    made = Suspicion()
    assert note(made, (1, 2, 3), liars=1) == []
    assert note(made, (3, 4, 5), liars=1) == [3]
    assert len(made) == 0


def test_they_do_not_if_there_may_be_two() -> None:
    """1 and 4 may have framed 3."""
    made = Suspicion()
    assert note(made, (1, 2, 3), (3, 4, 5), liars=2) == []
    assert note(made, (3, 6, 7), liars=2) == [3]


def test_two_liars_at_work_are_both_found() -> None:
    made = Suspicion()
    rows = [(1, 2, 3), (4, 5, 6), (1, 5, 7), (4, 2, 8), (1, 6, 9), (4, 3, 10)]
    assert note(made, *rows, liars=2) == [1, 4]


@pytest.mark.claim("C-zk-13")
@settings(max_examples=150, deadline=None)
@given(
    liars=st.sets(st.integers(0, 11), min_size=1, max_size=3),
    rows=st.lists(st.sets(st.integers(0, 11), min_size=1, max_size=4), max_size=14),
)
def test_nobody_honest_is_named_and_the_answer_is_the_exact_one(
    liars: set[int], rows: list[set[int]]
) -> None:
    """Every failed row has a liar; the oracle tries every set of liars of that size."""
    failed = [tuple(sorted(row)) for row in rows if row & liars]
    named = set(note(Suspicion(), *failed, liars=len(liars)))
    assert named <= liars
    explanations = [
        set(some)
        for some in combinations(range(12), len(liars))
        if all(set(row) & set(some) for row in failed)
    ]
    assert named == (set.intersection(*explanations) if failed else set())


def test_more_liars_than_the_swarm_is_made_for_explain_nothing() -> None:
    made = Suspicion()
    assert note(made, (1, 2), (3, 4), (5, 6), liars=2) == []
    assert note(made, (7,), liars=2) == []
    assert len(made.suspects) == 7


def test_too_long_a_search_names_nobody() -> None:
    made = Suspicion()
    wide = [bytes([n, m]) * 16 for n in range(64) for m in range(64)]
    rows = [tuple(wide[(37 * k + 101 * j) % len(wide)] for j in range(40)) for k in range(200)]
    made.note(rows, 60)
    assert len(made) == 200


def test_a_failure_with_somebody_who_left_does_not_frame_who_stayed() -> None:
    """Node 1 lied and was removed; 5 came and lies. Both times 3 was with them."""
    made = Suspicion()
    assert note(made, (1, 3), liars=1) == []
    made.follow(frozenset(NODES[2:]))
    assert len(made) == 0
    assert note(made, (3, 5), liars=1) == []


@pytest.mark.control("C-zk-13")
def test_control_without_a_change_of_members_it_names_who_was_in_both() -> None:
    made = Suspicion()
    assert note(made, (1, 3), liars=1) == []
    made.follow(frozenset(NODES))
    assert note(made, (3, 5), liars=1) == [3]


def test_a_failure_among_those_who_stayed_counts_on() -> None:
    made = Suspicion()
    assert note(made, (3, 4), (1, 6), liars=2) == []
    made.follow(frozenset(NODES[2:]))
    assert made.suspects == {NODES[3], NODES[4]}
    assert note(made, (4, 7), liars=1) == [4]
