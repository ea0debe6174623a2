"""Whose word counts for a shard, and how many words are enough."""

from __future__ import annotations

import hashlib
import itertools
import random
import tracemalloc

from qres_lab.testing import make_node_ids

from qres_core import NodeId
from qres_core.swarm.shards.committees import ShardPlan
from qres_core.swarm.shards.messages import held_name
from qres_core.swarm.shards.tallies import Holders, ShardTally

MEMBERS = make_node_ids(7)
PLAN = ShardPlan.of(bytes(32), MEMBERS, 2, 70, shards=7)
FIRST, SECOND = bytes([1]) * 32, bytes([2]) * 32
ALL = {member: (1 << len(PLAN.seats(member))) - 1 for member in MEMBERS}


def test_a_contribution_is_available_once_f_plus_1_of_each_committee_hold_its_shard() -> None:
    """Of five members in a row on a ring of seven, all but four hold: each committee has three."""
    holders = Holders(PLAN)
    assert holders.short(FIRST) == list(range(7))
    for number, member in enumerate(MEMBERS, start=1):
        assert not holders.available(FIRST)
        assert not holders.at_hand(FIRST)
        holders.take(member, {held_name(FIRST): ALL[member]})
        said = set(MEMBERS[:number])
        expected = [i for i, them in enumerate(PLAN.committees) if len(said & {*them}) < 3]
        assert holders.short(FIRST) == expected
        if not expected:
            break
    assert holders.available(FIRST)
    assert holders.at_hand(FIRST)
    assert not holders.available(SECOND)
    assert not holders.at_hand(SECOND)


def test_where_fewer_serve_first_their_word_is_enough_if_all_of_them_say_it() -> None:
    plan = ShardPlan.of(bytes(32), MEMBERS, 2, 70, shards=2, first=2)
    first, *others = plan.committees[0]
    holders, tally = Holders(plan), ShardTally(plan, 1)

    def say(member: NodeId, result: bytes = FIRST) -> None:
        mask = 1 << plan.seats(member).index(0)
        holders.take(member, {held_name(FIRST): mask})
        tally.take(member, SECOND, {0: result})

    say(first)
    say(others[2], SECOND)
    assert 0 in holders.short(FIRST)
    assert tally.settled(SECOND, 0) is None
    say(others[0])
    assert 0 not in holders.short(FIRST)
    assert tally.settled(SECOND, 0) == FIRST
    holders.hear(first, 0.0)
    for member in (others[0], others[2]):
        holders.hear(member, 9.0)
    assert holders.look(10.0, 5.0)
    assert 0 in holders.short(FIRST), "of the two one is away"
    other = ShardTally(plan, 1)
    for member in others[1:]:
        assert other.settled(SECOND, 0) is None
        other.take(member, SECOND, {0: FIRST})
    assert other.settled(SECOND, 0) == FIRST, "three of five"


def test_saying_it_twice_or_taking_it_back_changes_nothing() -> None:
    holders = Holders(PLAN)
    member = PLAN.committees[0][0]
    for mask in (ALL[member], 0, ALL[member]):
        holders.take(member, {held_name(FIRST): mask})
        assert holders.of(FIRST, 0) == [member]
        assert 0 in holders.short(FIRST)


def test_holders_are_named_in_the_order_they_serve_and_by_the_shard() -> None:
    holders = Holders(PLAN)
    for member in MEMBERS[::-1]:
        seats = PLAN.seats(member)
        holders.take(member, {held_name(FIRST): 1 << seats.index(3)} if 3 in seats else {})
    assert holders.of(FIRST, 3) == list(PLAN.committees[3])
    assert holders.of(FIRST, 4) == []
    assert holders.of(SECOND, 3) == []


def test_what_is_forgotten_counts_again_from_nothing() -> None:
    holders, member = Holders(PLAN), PLAN.committees[0][0]
    holders.take(member, {held_name(name): ALL[member] for name in (FIRST, SECOND)})
    holders.open_round([SECOND])
    assert not holders.of(FIRST, 0)
    assert holders.of(SECOND, 0) == [member]
    holders.take(member, {held_name(FIRST): ALL[member]})
    assert holders.of(FIRST, 0) == [member]


def test_it_counts_as_sets_of_members_would() -> None:
    """The oracle keeps a set of members for each shard. Random words of random members."""
    for seed in range(30):
        rng = random.Random(seed)
        n, f = rng.choice([(4, 1), (7, 2), (13, 3), (20, 2)])
        members = make_node_ids(n)
        first = rng.choice([0, 0, f]) or f + 1
        silent = rng.choice([f, n // 2])
        plan = ShardPlan.of(bytes([seed]) * 32, members, f, 999, first=first, silent=silent)
        holders, said = Holders(plan), dict[tuple[bytes, int], set[NodeId]]()
        for turn in range(6 * n):
            member, name = rng.choice(members), rng.choice([FIRST, SECOND])
            mask = rng.getrandbits(len(plan.seats(member)))
            holders.take(member, {held_name(name): mask})
            holders.hear(member, float(turn))
            for place, index in enumerate(plan.seats(member)):
                if mask >> place & 1:
                    said.setdefault((name, index), set()).add(member)
        holders.look(6.0 * n, rng.choice([n, 3.0 * n, 9.0 * n]))
        for name in (FIRST, SECOND):
            them = [said.get((name, index), set()) for index in range(len(plan))]
            short = [i for i, who in enumerate(them) if not plan.suffices(i, who - holders.away)]
            full = all(plan.suffices(index, who) for index, who in enumerate(them))
            assert holders.short(name) == short
            assert holders.available(name) is full
            assert holders.at_hand(name) is (full and not short)
            for index, who in enumerate(them):
                assert holders.of(name, index) == [m for m in plan.committees[index] if m in who]


def test_what_a_thousand_members_hold_of_a_contribution_takes_less_than_a_kilobyte() -> None:
    members = make_node_ids(1000)
    plan = ShardPlan.of(bytes(32), members, 10, 10**6)
    names = [hashlib.sha256(member).digest() for member in members]
    tracemalloc.start()
    try:
        holders = Holders(plan)
        for member in members:
            seats = plan.seats(member)
            mask = sum(1 << at for at, i in enumerate(seats) if member in plan.serving(i))
            holders.take(member, {held_name(name): mask for name in names})
        octets = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert all(holders.available(name) for name in names)
    assert octets < 1000 * len(names)


def test_who_fell_silent_stays_away_in_the_next_rounds_until_it_speaks() -> None:
    """A set that is locked needs its shards later. Control: whoever forgets it sees no need."""
    holders = Holders(PLAN)
    gone = PLAN.committees[0][0]
    others = [member for member in MEMBERS if member != gone]

    def say(now: float) -> None:
        for member in others:
            holders.take(member, {held_name(FIRST): ALL[member]})
            holders.hear(member, now)

    say(0.0)
    holders.take(gone, {held_name(FIRST): ALL[gone]})
    holders.hear(gone, 0.0)
    holders.look(0.0, 5.0)
    say(9.0)
    assert holders.look(9.0, 5.0)
    assert holders.away == {gone}
    holders.open_round([FIRST])
    assert holders.away == {gone}
    forgetful, later = Holders(PLAN), Holders(PLAN, holders.away)  # at the next head
    for node in (forgetful, later):
        for member in PLAN.committees[0][:3]:
            node.take(member, {held_name(SECOND): ALL[member]})
    assert 0 not in forgetful.short(SECOND)
    assert 0 in later.short(SECOND)
    later.hear(gone, 10.0)
    assert not later.away
    assert 0 not in later.short(SECOND)


def test_who_falls_silent_between_two_rounds_is_missed_in_the_second() -> None:
    """A round may begin long after it was opened, so the time runs from the first look."""
    holders = Holders(PLAN)
    for member in MEMBERS:
        holders.take(member, {held_name(FIRST): ALL[member]})
        holders.hear(member, 0.0)
    holders.open_round([FIRST])
    assert not holders.look(500.0, 5.0), "they may speak now"
    for member in MEMBERS[3:]:
        holders.hear(member, 503.0)
    assert holders.at_hand(FIRST)
    assert holders.look(506.0, 5.0)
    assert holders.away == {*MEMBERS[:3]}
    assert holders.at_hand(FIRST) is not any(holders.short(FIRST))
    assert holders.short(FIRST)


def test_f_plus_1_equal_results_settle_a_shard_whoever_lies() -> None:
    """Over every choice of liars, who speak first and with one voice."""
    for liars in itertools.combinations(MEMBERS, 2):
        tally = ShardTally(PLAN, 2)
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
    tally = ShardTally(PLAN, 2)
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
