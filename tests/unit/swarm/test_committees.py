"""Who checks whose proofs, and whose word is enough."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qres_lab.testing import make_node_ids

from qres_core.swarm.contributions.verification import Attestations, committees


@given(f=st.integers(0, 6), spare=st.integers(0, 20), number=st.integers(0, 2**40))
def test_a_committee_has_2_f_plus_1_others_and_everybody_is_in_equally_many(
    f: int, spare: int, number: int
) -> None:
    n = max(2, 3 * f + 1 + spare)
    roster = make_node_ids(n)
    found = committees(roster, f, number)
    size = min(n - 1, 2 * f + 1)
    assert list(found) == list(roster)
    for sender, checkers in found.items():
        assert len(checkers) == size
        assert sender not in checkers
        assert checkers < set(roster)
    assert all(sum(node in checkers for checkers in found.values()) == size for node in roster)


def test_committees_go_round() -> None:
    roster = make_node_ids(10)
    seen = {node: frozenset[bytes]() for node in roster}
    for number in range(1, 4):  # three others each
        for sender, checkers in committees(roster, 1, number).items():
            assert seen[sender].isdisjoint(checkers)
            seen[sender] |= checkers
    assert all(len(checkers) == 9 for checkers in seen.values())


@pytest.mark.claim("C-zk-15")
def test_any_f_plus_1_of_a_committee_hold_an_honest_node_and_the_honest_are_enough() -> None:
    """Over every choice of liars: what the docstring promises."""
    roster, f = make_node_ids(7), 2
    digest = b"\1" * 32
    sender = roster[0]
    checkers = committees(roster, f, 5)[sender]
    for liars in itertools.combinations(roster, f):
        lies = Attestations(roster, f, 3)
        lies.open_round(5)
        for liar in liars:
            lies.take(liar, [digest])
        assert not lies.suffice(sender, digest)
        for honest in checkers - set(liars):
            lies.take(honest, [digest])
        assert lies.suffice(sender, digest)
        truth = Attestations(roster, f, 3)
        truth.open_round(5)
        for honest in checkers - set(liars):
            truth.take(honest, [digest])
        assert truth.suffice(sender, digest)


def test_only_the_committees_word_counts_and_each_once_and_for_one_round() -> None:
    roster, digest = make_node_ids(10), b"\2" * 32
    sender = roster[3]
    word = Attestations(roster, 1, 3)
    word.open_round(1)
    checkers = sorted(committees(roster, 1, 1)[sender])
    for stranger in set(roster) - set(checkers):
        word.take(stranger, [digest])
    assert word.take(checkers[0], [digest]) == [digest]
    assert word.take(checkers[0], [digest, digest]) == []
    assert not word.suffice(sender, digest)
    word.take(checkers[1], [digest])
    assert word.suffice(sender, digest)
    assert not word.suffice(sender, b"\3" * 32)
    word.open_round(2)
    assert not word.suffice(sender, digest)


def test_a_flood_of_attestations_is_not_kept() -> None:
    roster = make_node_ids(10)
    word = Attestations(roster, 1, 3)
    flood = [number.to_bytes(32, "big") for number in range(100)]
    assert word.take(roster[0], flood) == flood[: word.most]
    assert word.take(roster[0], flood) == []
    assert word.take(roster[1], flood[-1:]) == flood[-1:]


@given(nodes=st.integers(2, 30), f=st.integers(0, 9))
def test_what_an_honest_checker_attests_is_below_the_limit(nodes: int, f: int) -> None:
    word = Attestations(make_node_ids(nodes), f, 3)
    word.open_round(3)
    assert all(
        word.most == 3 * len(word.charges(make_node_id)) for make_node_id in make_node_ids(nodes)
    )
