from __future__ import annotations

import hashlib
import itertools
import math
import random
from fractions import Fraction

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qres_lab.testing import make_node_ids
from qres_secagg import parameters
from qres_secagg.graph import beacon, circulant, permutation
from qres_secagg.parameters import (
    MAX_NODES,
    GraphParameters,
    Parameters,
    at_most,
    choose,
    corrupt_in_windows,
    tail_above,
)
from qres_secagg.session import roster_root

from qres_core.errors import CompatibilityError, ConfigError

# (corrupt, dropped) in percent; degrees and thresholds of the exact search at 40 and 20 bits.
SHARES = ((5, 5), (10, 10), (20, 10))
TABLE = {  # degree, threshold, acks
    64: ((12, 9, 9), (22, 15, 17), (38, 26, 33)),
    100: ((18, 13, 14), (34, 23, 26), (66, 44, 57)),
    300: ((40, 29, 31), (72, 50, 57), (190, 126, 164)),
    1000: ((56, 40, 43), (102, 71, 81), (420, 278, 362)),
    5000: ((68, 48, 51), (116, 81, 92)),
}


@pytest.mark.claim("C-secagg-22")
@pytest.mark.parametrize("n", TABLE)
def test_the_published_table_is_found_again(n: int) -> None:
    for (corrupt, dropped), expected in zip(SHARES, TABLE[n], strict=False):
        plan = choose(n, n * corrupt // 100, n * dropped // 100, complete_up_to=0)
        assert (plan.k, plan.t, plan.acks) == expected


def _in_two_windows(circle: list[bool], window: int) -> int:
    """Most marked places in two windows that are apart."""
    n, twice = len(circle), [*circle, *circle]
    held = [sum(twice[place : place + window]) for place in range(n)]
    return max(
        held[place] + held[(place + step) % n]
        for place in range(n)
        for step in range(window, n - window + 1)
    )


@pytest.mark.claim("C-secagg-12")
@pytest.mark.control("C-secagg-12")
def test_whoever_chooses_its_key_chooses_among_circles_and_the_bound_counts_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The model is known, as after a void height, and a corrupt node tries out keys.

    With few bits, so that 300 keys are many. The control counts one draw, and that is too few.
    """
    n, k, corrupt = 100, 20, 20
    members = make_node_ids(n)
    others, model, found = members[1:], bytes(32), list[int]()
    for number in range(300):
        key = hashlib.sha256(bytes([number >> 8, number & 255])).digest()
        roster = tuple(sorted((*others, key)))
        order = permutation(n, beacon(model, roster_root(roster), b"holders"))
        lies = {key, *others[: corrupt - 1]}
        found.append(_in_two_windows([roster[rank] in lies for rank in order], k // 2))
    monkeypatch.setattr(parameters, "SECURITY_BITS", 0)
    bounds: list[int] = []
    for bits in (0, 9):
        monkeypatch.setattr(parameters, "DRAW_BITS", bits)
        bounds.append(corrupt_in_windows.__wrapped__(n, k, corrupt))
    assert found[0] <= bounds[0] < max(found) <= bounds[1] < corrupt


@given(st.integers(1, 9), st.data())
def test_the_tail_is_that_of_counting_every_draw(population: int, data: st.DataObject) -> None:
    marked = data.draw(st.integers(0, population))
    draws = data.draw(st.integers(0, population))
    limit = data.draw(st.integers(-1, population))
    every = list(itertools.combinations(range(population), draws))
    above = sum(sum(i < marked for i in draw) > limit for draw in every)
    assert Fraction(*tail_above(population, marked, draws, limit)) == Fraction(above, len(every))


def test_small_swarms_use_the_complete_graph() -> None:
    assert choose(10, 1, 2) == GraphParameters(9, 6, 7)
    assert choose(64, 6, 6).k == 63
    assert choose(65, 6, 6).k < 64


def _read(n: int, corrupt: int, plan: GraphParameters) -> Fraction:
    """Bound of the chance that some node has as many corrupt holders as open a secret."""
    ways = (
        math.comb(corrupt, c) * math.comb(n - 1 - corrupt, plan.k - c)
        for c in range(plan.t, plan.k + 1)
    )
    return Fraction(n * sum(ways), math.comb(n - 1, plan.k))


@pytest.mark.claim("C-secagg-12")
@pytest.mark.control("C-secagg-12")
def test_so_it_gets_no_node_with_enough_corrupt_holders_to_open_both_secrets() -> None:
    """The control is the least degree that is safe for one draw: 2**80 of them are too many."""
    n, corrupt, dropped = 295, 30, 5
    plan, one_draw = choose(n, corrupt, dropped), GraphParameters(36, 29, 33)
    assert 2**80 * _read(n, corrupt, plan) <= Fraction(1, 2**41)
    assert _read(n, corrupt, one_draw) <= Fraction(1, 2**41)
    assert 2**80 * _read(n, corrupt, one_draw) > Fraction(1, 2**20)


@pytest.mark.claim("C-secagg-22")
@given(st.integers(3, 400), st.data())
def test_every_plan_keeps_its_promises_exactly(n: int, data: st.DataObject) -> None:
    corrupt = data.draw(st.integers(0, n // 2))
    dropped = data.draw(st.integers(0, n // 2))
    try:
        plan = choose(n, corrupt, dropped)
    except CompatibilityError as error:
        # Refused only where everybody who stays, without the corrupt, could not open a sum.
        assert error.code == "QRES-E314"  # noqa: PT017
        assert n - dropped - corrupt < max(2, (n + corrupt) // 2 + 1)
        return
    k, t = plan.k, plan.t
    assert 2 * t > k + 1
    if k == n - 1:
        assert 2 * t > n + corrupt
        # All honest nodes but those away are enough, or liars that say nothing count as away.
        room = max(t + corrupt, n - dropped - corrupt)
        assert plan.acks == (min(room, t + corrupt + dropped) if corrupt else t)
        assert n - dropped >= plan.acks >= t + corrupt
        return
    lying = sum(
        math.comb(corrupt, c) * math.comb(n - 1 - corrupt, k - c)
        for c in range(k + 1)
        if plan.acks - c < t
    )
    absent = sum(
        math.comb(dropped, u) * math.comb(n - 1 - dropped, k - u)
        for u in range(k + 1)
        if k + 1 - u < plan.acks
    )
    assert 2 * lying <= math.comb(n - 1, k)
    assert 2**13 * absent <= math.comb(n - 1, k)
    assert _read(n, corrupt, plan) <= Fraction(1, 2**121)
    exposed = sum(
        math.comb(corrupt, c) * math.comb(n - 1 - corrupt, k - c)
        for c in range(k + 1)
        if 2 * t <= k + 1 + c
    )
    lost = sum(
        math.comb(dropped, u) * math.comb(n - 1 - dropped, k - u) for u in range(k + 1) if k - u < t
    )
    whole = math.comb(n - 1, k)
    assert Fraction(n * exposed, whole) <= Fraction(1, 2**41)
    assert Fraction(n * lost, whole) <= Fraction(1, 2**20)


def listed(plan: GraphParameters, there: set[int], seed: bytes, n: int) -> int:
    """How many are left when each must have the acks of so many that are left."""
    near = circulant(n, plan.k, seed)
    left, leave = there, {-1}
    while leave:
        leave = {rank for rank in left if 1 + len(left.intersection(near[rank])) < plan.acks}
        left = left - leave
    return len(left)


@pytest.mark.parametrize("n", [72, 200])
def test_where_as_many_as_planned_are_away_the_others_are_listed(n: int) -> None:
    """In the control a few more acks are asked for: the circle melts from its weakest stretch."""
    away, chance = n // 10, random.Random(7)
    plan = choose(n, away, away)
    strict = attrs.evolve(plan, acks=plan.acks + 4)
    counts = {plan: 0, strict: 0}
    for draw in range(60):
        there = set(chance.sample(range(n), n - away))
        for numbers in counts:
            found = listed(numbers, there, draw.to_bytes(8, "little"), n)
            counts[numbers] += found >= (n + away) // 2 + 1
    assert counts[plan] >= 59
    assert counts[strict] <= 54


@pytest.mark.claim("C-secagg-22")
def test_a_swarm_nobody_could_unmask_is_refused_with_the_numbers() -> None:
    with pytest.raises(CompatibilityError) as caught:
        choose(10, 1, 4)
    assert caught.value.code == "QRES-E314"
    assert "7 must stay" in str(caught.value)
    assert "at most 3 dropouts" in str(caught.value)


@pytest.mark.parametrize(
    "numbers", [(2, 0, 0), (10, -1, 0), (10, 10, 0), (10, 0, 10), (70_000, 1, 1)]
)
def test_numbers_out_of_range_are_refused(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError) as caught:
        choose(*numbers)
    assert caught.value.code == "QRES-E105"


def sound() -> Parameters:
    return Parameters(
        dimension=10, k=9, t=7, acks=9, corrupt=2, min_survivors=4, bound=1 << 16, summands=10
    )


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"ring_bits": 48}, "QRES-E105"),
        ({"prg": "mt19937"}, "QRES-E105"),
        ({"dimension": 0}, "QRES-E105"),
        ({"noise": -1}, "QRES-E105"),
        ({"t": 5}, "QRES-E314"),
        ({"t": 11}, "QRES-E314"),
        ({"acks": 6}, "QRES-E314"),
        ({"acks": 11}, "QRES-E314"),
        ({"min_survivors": 2}, "QRES-E314"),
        ({"min_survivors": 2, "corrupt": 0}, "QRES-E314"),
        ({"min_survivors": 3}, "QRES-E314"),  # two of them may be corrupt
        ({"bound": 2**31 // 10 + 1}, "QRES-E313"),
        ({"noise": 2**31 - 10 * 2**16}, "QRES-E313"),
    ],
)
def test_unsafe_parameters_are_refused(change: dict[str, object], code: str) -> None:
    with pytest.raises((ConfigError, CompatibilityError)) as caught:
        attrs.evolve(sound(), **change)
    assert caught.value.code == code


def test_parameters_at_the_edges_are_made() -> None:
    whole = attrs.evolve(sound(), t=10, acks=10)
    assert (whole.t, whole.acks) == (whole.k + 1, whole.k + 1)
    assert attrs.evolve(sound(), dimension=1, bound=1, corrupt=0, min_survivors=3, noise=0)
    fewest = attrs.evolve(sound(), k=2, t=2, acks=2, corrupt=0, min_survivors=3)
    assert 2 * fewest.t > fewest.k + 1


def test_swarms_at_the_edges_have_a_plan() -> None:
    assert choose(3, 0, 0) == GraphParameters(2, 2, 2)
    assert choose(MAX_NODES, 0, 0, complete_up_to=MAX_NODES).k == MAX_NODES - 1
    # As many stay as are needed, and with one node fewer there is no plan.
    assert choose(10, 1, 3) == GraphParameters(9, 6, 7)
    with pytest.raises(CompatibilityError, match="for 12 nodes"):
        choose(10, 1, 4)


def test_the_ring_is_full_at_one_less() -> None:
    assert attrs.evolve(sound(), noise=2**31 - 10 * 2**16 - 1)
    assert attrs.evolve(sound(), bound=2**31 - 1, ring_bits=64).dtype == np.uint64


@given(st.integers(3, 200), st.integers(0, 60))
def test_two_quorums_share_an_honest_node(nodes: int, corrupt: int) -> None:
    parameters = attrs.evolve(sound(), corrupt=corrupt, min_survivors=corrupt + 3)
    assert 2 * parameters.quorum(nodes) - nodes > corrupt


@given(st.integers(3, 300), st.data())
def test_a_plan_leaves_a_quorum(n: int, data: st.DataObject) -> None:
    corrupt, dropped = data.draw(st.integers(0, n // 3)), data.draw(st.integers(0, n // 4))
    try:
        choose(n, corrupt, dropped)
    except CompatibilityError:
        return
    assert n - dropped >= attrs.evolve(sound(), corrupt=corrupt, min_survivors=corrupt + 3).quorum(
        n
    )


def test_a_chance_may_be_as_large_as_the_limit_and_no_larger() -> None:
    assert at_most((1, 8), -3, 1)
    assert not at_most((1, 8), -3, 2)


@pytest.mark.parametrize("n", [70, 100, 1000])
def test_a_circle_holds_together_where_the_exact_bound_says_so(n: int) -> None:
    found: set[bool] = set()
    for k, gone in itertools.product(range(2, n // 2, 8), range(1, n // 2, 9)):
        pairs = Fraction(n * (n - k - 1) * math.comb(gone, k), 2 * math.comb(n, k))
        holds = k > gone or pairs < Fraction(1, 2**41)
        assert parameters._connected(n, k, gone) is holds
        found.add(holds)
    assert found == {False, True}


def test_a_circle_that_may_fall_apart_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose.__wrapped__(100, 10, 10, complete_up_to=0).k == 34
    monkeypatch.setattr(parameters, "_connected", lambda *_: False)
    assert choose.__wrapped__(100, 10, 10, complete_up_to=0).k == 99
