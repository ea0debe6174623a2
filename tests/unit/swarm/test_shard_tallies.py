"""Whose word counts for a shard, and how many words are enough."""

from __future__ import annotations

import itertools

from qres_core.swarm.shard_messages import held_name
from qres_core.swarm.shard_tallies import Holders, ShardTally
from qres_core.swarm.shards import ShardPlan
from qres_core.testing import make_node_ids

MEMBERS = make_node_ids(7)
PLAN = ShardPlan.of(bytes(32), MEMBERS, 2, 70)
FIRST, SECOND = bytes([1]) * 32, bytes([2]) * 32
ALL = {member: (1 << len(PLAN.seats(member))) - 1 for member in MEMBERS}


def test_a_contribution_is_available_once_f_plus_1_of_each_committee_hold_its_shard() -> None:
    """Of five members in a row on a ring of seven, all but four hold: each committee has three."""
    holders = Holders(PLAN, 9)
    assert holders.short(FIRST) == list(range(7))
    for number, member in enumerate(MEMBERS, start=1):
        assert not holders.available(FIRST)
        holders.take(member, {held_name(FIRST): ALL[member]})
        said = set(MEMBERS[:number])
        expected = [i for i, them in enumerate(PLAN.committees) if len(said & {*them}) < 3]
        assert holders.short(FIRST) == expected
        if not expected:
            break
    assert holders.available(FIRST)
    assert not holders.available(SECOND)


def test_saying_it_twice_or_taking_it_back_changes_nothing() -> None:
    holders = Holders(PLAN, 9)
    member = PLAN.committees[0][0]
    for mask in (ALL[member], 0, ALL[member]):
        holders.take(member, {held_name(FIRST): mask})
        assert holders.of(FIRST, 0) == [member]
        assert 0 in holders.short(FIRST)


def test_holders_are_named_in_the_order_they_serve_and_by_the_shard() -> None:
    holders = Holders(PLAN, 9)
    for member in MEMBERS[::-1]:
        seats = PLAN.seats(member)
        holders.take(member, {held_name(FIRST): 1 << seats.index(3)} if 3 in seats else {})
    assert holders.of(FIRST, 3) == list(PLAN.committees[3])
    assert holders.of(FIRST, 4) == []
    assert holders.of(SECOND, 3) == []


def test_a_flood_of_names_is_not_kept_and_what_is_forgotten_counts_again_from_nothing() -> None:
    holders = Holders(PLAN, 2)
    names = [bytes([number]) * 32 for number in range(9)]
    member = PLAN.committees[0][0]
    holders.take(member, {held_name(name): ALL[member] for name in names})
    assert [bool(holders.of(name, 0)) for name in names] == [True, True] + [False] * 7
    holders.keep_only([names[1]])
    assert not holders.of(names[0], 0)
    assert holders.of(names[1], 0) == [member]
    holders.take(member, {held_name(names[2]): ALL[member]})
    assert holders.of(names[2], 0) == [member]


def test_f_plus_1_equal_results_settle_a_shard_whoever_lies() -> None:
    """Over every choice of liars, who speak first and with one voice."""
    for liars in itertools.combinations(MEMBERS, 2):
        tally = ShardTally(PLAN)
        for liar in liars:
            tally.take(liar, FIRST, dict.fromkeys(range(7), b"wrong"))
        assert {tally.settled(FIRST, index) for index in range(7)} == {None}
        for member in MEMBERS:
            tally.take(member, FIRST, dict.fromkeys(range(7), b"right"))
        for index, committee in enumerate(PLAN.committees):
            lying = [member for member in committee if member in liars]
            assert tally.settled(FIRST, index) == b"right"
            assert tally.disputed(FIRST, index) == bool(lying)
            assert sorted(tally.against(FIRST, index, b"right")) == sorted(lying)
            honest = [member for member in committee if member not in liars]
            assert tally.saying(FIRST, index, b"right") == honest


def test_only_a_committees_word_counts_and_for_one_set_of_two_phases() -> None:
    tally = ShardTally(PLAN)
    strangers = [member for member in MEMBERS if member not in PLAN.committees[0]]
    assert len(strangers) == 2
    for member in strangers:
        tally.take(member, FIRST, {0: b"x"})
    assert not tally.saying(FIRST, 0, b"x")
    voter = PLAN.committees[0][0]
    tally.take(voter, FIRST, {0: b"x"})
    tally.take(voter, SECOND, {0: b"x"})
    tally.take(voter, bytes(32), {0: b"x"})
    tally.take(voter, FIRST, {0: b"y"})
    assert tally.saying(FIRST, 0, b"x") == [voter]
    assert tally.saying(SECOND, 0, b"x") == [voter]
    assert not tally.saying(bytes(32), 0, b"x")
    assert not tally.saying(FIRST, 0, b"y")
