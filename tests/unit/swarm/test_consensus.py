"""Votes, thresholds and the rules of one instance, against what they are for."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qres_core.swarm.consensus.engine import AHEAD, BEHIND, Consensus
from qres_core.swarm.consensus.votes import (
    Action,
    Decide,
    Enter,
    Lock,
    Propose,
    Refuse,
    Show,
    Step,
    Vote,
    VoteSet,
    Wait,
)
from qres_core.swarm.context.position import vote_threshold

A, B = b"\xaa" * 32, b"\xbb" * 32
PREVOTE, PRECOMMIT = Step.PREVOTE, Step.PRECOMMIT


def engine(n: int = 4, f: int = 1, *, me: int = 0, claims: bool = False) -> Consensus[int]:
    return Consensus(me, range(n), f, lambda number: (number - 1) % n, claims=claims)


def threshold(n: int, f: int) -> int:
    return engine(n, f).threshold


swarms = st.integers(0, 60).flatmap(
    lambda f: st.tuples(st.integers(3 * f + 1, 3 * f + 40), st.just(f))
)


@pytest.mark.claim("C-agreement-8")
@given(swarms)
def test_two_quorums_share_more_nodes_than_can_lie(swarm: tuple[int, int]) -> None:
    n, f = swarm
    assert 2 * threshold(n, f) - n > f  # fewest nodes that two quorums have in common


@given(swarms)
def test_the_honest_nodes_alone_are_a_quorum(swarm: tuple[int, int]) -> None:
    n, f = swarm
    assert threshold(n, f) <= n - f


@given(swarms)
def test_no_smaller_threshold_would_do(swarm: tuple[int, int]) -> None:
    n, f = swarm
    assert 2 * (threshold(n, f) - 1) - n <= f


@given(swarms)
def test_the_honest_part_of_a_quorum_is_more_than_can_lie(swarm: tuple[int, int]) -> None:
    n, f = swarm
    assert threshold(n, f) - f > f


@pytest.mark.parametrize(
    ("n", "f", "votes"),
    [(1, 0, 1), (2, 0, 2), (3, 0, 2), (4, 0, 3), (4, 1, 3), (7, 2, 5), (20, 6, 14), (10, 3, 7)],
)
def test_thresholds(n: int, f: int, votes: int) -> None:
    assert threshold(n, f) == vote_threshold(n, f) == votes


@pytest.mark.control("C-agreement-8")
def test_with_the_threshold_of_a_majority_two_sets_could_both_be_decided() -> None:
    # Why f counts: 4 nodes, 1 liar, majority 3 is right; 7 nodes, 2 liars, majority 4 is not.
    n, f, majority = 7, 2, 4
    quorums = itertools.combinations(range(n), majority)
    assert any(len({0, 1, 2, 3} & set(other)) <= f for other in quorums)


class TestVoteSet:
    def test_has_no_winner_before_the_threshold(self) -> None:
        votes: VoteSet[int] = VoteSet(3)
        assert votes.add(1, A)
        assert votes.add(2, A)
        assert votes.winners == frozenset()
        assert votes.add(3, A)
        assert votes.winners == {A}
        assert votes.has_quorum(A)
        assert len(votes) == 3

    def test_nil_can_win(self) -> None:
        votes: VoteSet[int] = VoteSet(2)
        votes.add(1, None)
        assert not votes.has_quorum(None)
        votes.add(2, None)
        assert votes.winners == {None}

    def test_counts_the_first_vote_of_a_voter_alone(self) -> None:
        votes: VoteSet[int] = VoteSet(2)
        assert votes.add(1, A)
        assert votes.add(1, A)  # the same again is no news
        assert not votes.add(1, B)
        assert not votes.add(1, None)
        assert votes.counts() == {A: 1}
        votes.add(2, B)
        assert votes.winners == frozenset()  # the second vote of 1 did not count for B

    @given(
        st.integers(1, 4).flatmap(
            lambda f: st.tuples(
                st.just(f),
                st.lists(
                    st.tuples(st.integers(0, 3 * f), st.sampled_from([A, B, None])), max_size=60
                ),
            )
        )
    )
    def test_the_winner_is_what_counting_by_hand_gives(
        self, case: tuple[int, list[tuple[int, bytes | None]]]
    ) -> None:
        f, said = case
        least = threshold(3 * f + 1, f)
        votes: VoteSet[int] = VoteSet(least)
        first = dict[int, bytes | None]()
        for voter, value in said:
            assert votes.add(voter, value) == (first.setdefault(voter, value) == value)
            counts = {item: list(first.values()).count(item) for item in (A, B, None)}
            assert votes.winners == {item for item, count in counts.items() if count >= least}


def prevote(actions: list[Action]) -> bytes | None:
    (value,) = [a.value for a in actions if isinstance(a, Vote) and a.step is PREVOTE]
    return value


@pytest.mark.parametrize(
    ("held", "value", "proven", "allowed"),
    [
        # Algorithm 1, line 23: lockedRound = -1 or lockedValue = v.
        (None, A, 0, True),
        (None, A, 3, True),
        (Lock(A, 3), A, 0, True),
        (Lock(B, 3), A, 0, False),
        # Line 29: lockedRound <= vr or lockedValue = v.
        (Lock(B, 3), A, 2, False),
        (Lock(B, 3), A, 3, True),
        (Lock(B, 3), A, 4, True),
        (Lock(A, 3), A, 1, True),
        (Lock(B, 1), A, 0, False),
        (Lock(B, 1), A, 1, True),
    ],
)
def test_a_prevote_follows_the_lock_as_the_algorithm_says(
    held: Lock | None, value: bytes, proven: int, *, allowed: bool
) -> None:
    node = engine()
    node.restore(held, None, ())
    node.start(6)
    if proven:
        node.prove(PREVOTE, proven, value)
    node.judge(value, accepted=True)
    said = node.propose(6, value, proven)
    assert prevote(said) == (value if allowed else None)
    assert [a.lock for a in said if isinstance(a, Refuse)] == ([] if allowed else [held])


def test_a_proposal_whose_quorum_is_not_known_gets_no_vote_until_it_is() -> None:
    node = engine()
    node.start(6)
    node.judge(A, accepted=True)
    assert not node.propose(6, A, 4)
    node.prove(PREVOTE, 4, A)
    assert prevote(node.advance()) == A


def test_a_round_that_goes_well_decides() -> None:
    node = engine()
    assert node.start() == [Enter(1), Propose(1, None)]
    node.judge(A, accepted=True)
    assert prevote(node.propose(1, A)) == A
    for voter in (1, 2):
        node.vote(PREVOTE, 1, voter, A)
    assert node.advance()[0] == Vote(PRECOMMIT, 1, A)
    assert node.lock == node.valid == Lock(A, 1)
    for voter in (1, 2):
        node.vote(PRECOMMIT, 1, voter, A)
    assert node.advance() == [Decide(1, A)]
    before = node.state
    node.vote(PRECOMMIT, 1, 3, B)
    node.expire(PRECOMMIT, 1)
    node.propose(2, B)
    assert node.state.decided == before.decided
    assert node.round == 1  # it is over


def test_who_is_no_voter_follows_and_says_nothing() -> None:
    node = Consensus(9, range(4), 1, lambda number: (number - 1) % 4)
    actions = node.start()
    node.judge(A, accepted=True)
    actions += node.propose(1, A)
    for step in (PREVOTE, PRECOMMIT):
        for voter in range(3):
            node.vote(step, 1, voter, A)
    actions += node.advance()
    assert node.decided == Decide(1, A)
    assert not [action for action in actions if isinstance(action, Vote | Propose)]


@given(
    st.lists(
        st.tuples(
            st.sampled_from([PREVOTE, PRECOMMIT]),
            st.one_of(st.integers(1, 40), st.integers(0, 2**62)),
            st.sampled_from([3, 7]),
            st.sampled_from([A, B, None]),
        ),
        max_size=80,
    )
)
@example([(PREVOTE, number, 3, A) for number in (1, 1, 2, 3, 0)])
def test_what_a_liar_and_a_stranger_say_is_bounded_and_moves_nobody(
    said: list[tuple[Step, int, int, bytes | None]],
) -> None:
    node = engine()
    node.start()
    for step, number, voter, value in said:
        node.vote(step, number, voter, value)
        node.propose(number, A)
        node.advance()
    assert node.round == 1
    state = node.state
    assert node.decided is None
    assert node.lock is None
    assert {voter for _r, _s, voter, _v in state.votes} <= {0, 3}
    assert len(node.kept) <= 2 * (AHEAD + 1) + 2
    assert len(state.proposals) <= AHEAD + 1


def test_what_is_long_past_is_forgotten() -> None:
    node = engine()
    node.start()
    for number in range(1, 200):
        value = number.to_bytes(32, "big")
        node.judge(value, accepted=True)
        node.propose(number, value)
        for voter in (1, 2, 3):
            node.vote(PREVOTE, number, voter, None)
            node.vote(PRECOMMIT, number, voter, None)
        node.advance()
        for old in [item for item, _accepted in node.state.judged if item not in node.values]:
            node.forget(old)
        assert node.round == number + 1
    state = node.state
    assert len(state.own) <= 2 * (BEHIND + AHEAD + 2)
    assert len(state.proposals) <= BEHIND + AHEAD + 2
    assert len(state.judged) <= BEHIND + AHEAD + 2
    assert len(node.kept) <= 2 * (BEHIND + AHEAD + 2)


@settings(max_examples=60)
@given(st.permutations([0, 1, 2]), st.data())
def test_whatever_the_order_no_two_nodes_decide_otherwise(
    order: list[int], data: st.DataObject
) -> None:
    """Three honest nodes and a liar that tells each another story; every order is tried."""
    nodes = [engine(me=me) for me in range(3)]
    wires: list[tuple[int, int, int, int, bytes | None]] = []  # to, step, round, from, value

    def do(me: int, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Propose(number, again):
                    fresh = A if me == 0 else B
                    value = fresh if again is None else again.value
                    lock_round = 0 if again is None else again.round
                    for other in range(3):
                        do(other, nodes[other].propose(number, value, lock_round))
                case Vote(step, number, value):
                    wires.extend((to, step, number, me, value) for to in range(3) if to != me)
                case _:
                    pass

    for node, known in itertools.product(nodes, (A, B)):
        node.judge(known, accepted=True)
    for me in order:
        do(me, nodes[me].start())
    for _turn in range(60):
        what = data.draw(st.integers(0, 3))
        to = data.draw(st.integers(0, 2))
        if what == 0 and wires:
            place = data.draw(st.integers(0, len(wires) - 1))
            at, kind, number, voter, said = wires.pop(place)
            nodes[at].vote(Step(kind), number, voter, said)
            do(at, nodes[at].advance())
        elif what == 1:
            number = data.draw(st.integers(1, 3))
            lie = data.draw(st.sampled_from([A, B, None]))
            nodes[to].vote(data.draw(st.sampled_from([PREVOTE, PRECOMMIT])), number, 3, lie)
            do(to, nodes[to].advance())
        elif what == 2:
            number = nodes[to].round
            if (number - 1) % 4 == 3:
                do(to, nodes[to].propose(number, data.draw(st.sampled_from([A, B]))))
        else:
            step = data.draw(st.sampled_from(list(Step)))
            do(to, nodes[to].expire(step, nodes[to].round))
    decided = {node.decided.value for node in nodes if node.decided is not None}
    assert len(decided) <= 1


@given(st.data())
def test_a_round_that_a_quorum_may_have_won_is_told_from_one_that_none_can_have(
    data: st.DataObject,
) -> None:
    """Against every way in which the voters may have voted elsewhere, with up to ``f`` liars."""
    f = data.draw(st.integers(0, 2), label="f")
    n = data.draw(st.integers(max(2, 3 * f + 1), 7), label="n")
    me = engine(n, f)
    me.start()
    heard = data.draw(
        st.dictionaries(st.integers(1, n - 1), st.sampled_from([A, B, None])), label="heard"
    )
    for voter, value in heard.items():
        me.vote(PREVOTE, 1, voter, value)

    def won(value: bytes, liars: tuple[int, ...]) -> bool:
        """Whether a quorum may have voted for it: liars, and whoever did not vote otherwise."""
        votes = sum(voter in liars or heard.get(voter, value) == value for voter in range(n))
        return votes >= me.threshold

    unknown = b"\xcc" * 32  # a value that nobody voted for here
    every = [liars for count in range(f + 1) for liars in itertools.combinations(range(n), count)]
    possible = any(won(value, liars) for value in (A, B, unknown) for liars in every)
    assert me.may_be_won(1) is possible
    nil = engine(n, f)
    nil.start()
    for voter in range(1, nil.threshold + 1):
        nil.vote(PREVOTE, 1, voter, None)
    if nil.threshold < n:
        assert not nil.may_be_won(1), "a quorum for nil leaves no room for another"


# ── one condition of the rules at a time ──────────────────────────────────────────────────────────


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that applies without end fails the test, and does not hold it up."""
    rules, left = Consensus._apply, iter(range(1000))

    def apply(node: Consensus[int]) -> bool:
        assert next(left, None) is not None, "a rule applies without end"
        return rules(node)

    monkeypatch.setattr(Consensus, "_apply", apply)


def others_say(node: Consensus[int], step: Step, value: bytes | None, count: int = 3) -> None:
    for voter in range(1, 1 + count):
        node.vote(step, node.round, voter, value)


def in_step(step: Step, *, here: bool = True) -> Consensus[int]:
    """Node 0 in round 1; it has said what it says up to that step, and A is here or not."""
    node = engine()
    node.start()
    if here:
        node.judge(A, accepted=True)
    if step > Step.PROPOSE:
        node.expire(Step.PROPOSE, 1)
    if step > PREVOTE:
        node.expire(PREVOTE, 1)
    return node


def said(actions: list[Action]) -> list[tuple[Step, int, bytes | None]]:
    return [(a.step, a.round, a.value) for a in actions if isinstance(a, Vote)]


@pytest.mark.usefixtures("ends")
class TestOneCondition:
    def test_a_proposal_far_ahead_is_not_kept(self) -> None:
        node = in_step(Step.PROPOSE)
        node.propose(1 + AHEAD + 1, A)
        assert not node.state.proposals
        node.propose(1 + AHEAD, A)
        assert len(node.state.proposals) == 1

    def test_a_proposal_that_came_early_is_there_when_its_round_begins(self) -> None:
        node = in_step(Step.PROPOSE)
        node.propose(2, A)
        for voter in (1, 2):
            node.see(voter, 2)
        assert said(node.advance()) == [(PREVOTE, 2, A)]

    def test_a_proposal_left_behind_is_forgotten(self) -> None:
        node = in_step(Step.PROPOSE)
        node.propose(2, A)
        for voter in (1, 2):
            node.see(voter, 3 + BEHIND)
        node.advance()
        assert not node.state.proposals

    def test_a_stranger_is_not_counted_among_those_who_are_ahead(self) -> None:
        node = in_step(Step.PROPOSE)
        node.see(3, 5)
        assert node.advance() == []
        node.see(9, 5)
        assert node.advance() == []
        node.see(1, 5)
        assert node.advance()[0] == Enter(5), "the control"

    def test_those_who_are_in_the_same_round_move_nobody(self) -> None:
        node = in_step(Step.PROPOSE)
        for voter in (1, 2, 3):
            node.see(voter, 1)
        assert node.advance() == []
        assert node.round == 1

    @pytest.mark.parametrize("here", [False, True])
    def test_what_is_not_here_is_not_decided(self, *, here: bool) -> None:
        node = in_step(Step.PROPOSE, here=here)
        others_say(node, PRECOMMIT, A)
        node.advance()
        assert node.decided == (Decide(1, A) if here else None)

    @pytest.mark.parametrize("here", [False, True])
    def test_what_is_not_here_is_not_locked(self, *, here: bool) -> None:
        node = in_step(PREVOTE, here=here)
        others_say(node, PREVOTE, A)
        assert said(node.advance()) == ([(PRECOMMIT, 1, A)] if here else [])
        assert node.lock == node.valid == (Lock(A, 1) if here else None)

    @pytest.mark.parametrize("step", list(Step))
    def test_a_lock_is_made_in_the_step_of_prevotes_alone(self, step: Step) -> None:
        node = in_step(step)
        others_say(node, PREVOTE, A)
        node.advance()
        assert node.lock == (Lock(A, 1) if step is PREVOTE else None)
        assert node.valid == Lock(A, 1)

    def test_a_node_prevotes_once(self) -> None:
        node = in_step(PREVOTE)
        assert said(node.propose(1, A)) == []

    def test_a_node_waits_for_the_verdict_on_what_is_here(self) -> None:
        node = in_step(Step.PROPOSE, here=False)
        node.judge(A, accepted=None)
        assert said(node.propose(1, A)) == []
        assert said(node.judge(A, accepted=True)) == [(PREVOTE, 1, A)]

    def test_a_node_precommits_nil_after_a_quorum_of_nil_alone(self) -> None:
        node = in_step(PREVOTE)
        others_say(node, PREVOTE, None, count=1)
        assert said(node.advance()) == []
        others_say(node, PREVOTE, None, count=2)
        assert said(node.advance()) == [(PRECOMMIT, 1, None)]

    def test_a_time_is_asked_for_once(self) -> None:
        node = in_step(PREVOTE)
        node.vote(PREVOTE, 1, 1, A)
        node.vote(PREVOTE, 1, 2, B)
        assert node.advance() == [Wait(PREVOTE, 1)]
        assert node.advance() == []

    def test_a_lock_is_shown_once_its_round_may_fail_and_no_sooner(self) -> None:
        node = in_step(Step.PROPOSE)
        node.propose(1, A)
        others_say(node, PREVOTE, A)
        assert node.advance() == [Vote(PRECOMMIT, 1, A)]
        others_say(node, PRECOMMIT, None, count=2)
        assert node.advance() == [Wait(PRECOMMIT, 1), Show(1, Lock(A, 1))]

    def test_a_lock_of_an_earlier_round_is_not_shown_again(self) -> None:
        node = engine()
        node.restore(Lock(A, 1), None, ())
        node.start(2)
        node.judge(A, accepted=True)
        others_say(node, PRECOMMIT, None, count=2)
        node.vote(PRECOMMIT, 2, 3, B)
        assert node.advance() == [Wait(PRECOMMIT, 2)]

    def test_a_node_stays_while_its_round_may_still_decide(self) -> None:
        node = in_step(PREVOTE)
        others_say(node, PREVOTE, A)
        node.advance()
        assert node.valid == Lock(A, 1)
        assert node.round == 1

    def test_a_node_stays_while_somebody_may_be_locked(self) -> None:
        node = in_step(PRECOMMIT)
        others_say(node, PRECOMMIT, None, count=2)
        node.advance()
        assert node.round == 1
        others_say(node, PREVOTE, None)
        assert node.advance()[-1] == Enter(2), "the control"

    @pytest.mark.parametrize("number", [1, 2])
    def test_who_has_no_value_of_its_own_claims_none(self, number: int) -> None:
        node = engine(claims=True)
        assert said(node.start(number)) == []
        assert said(node.claim(A)) == [(PREVOTE, 1, A)], "once it has one, it does"
        assert said(node.advance()) == []

    def test_who_is_no_voter_claims_nothing(self) -> None:
        node = Consensus(9, range(4), 1, lambda number: (number - 1) % 4, claims=True)
        node.claim(A)
        assert said(node.start(3)) == []

    @pytest.mark.parametrize("valid_round", [4, 5])
    def test_a_proposal_names_a_quorum_of_an_earlier_round(self, valid_round: int) -> None:
        node = engine()
        node.start(5)
        node.judge(A, accepted=True)
        node.prove(PREVOTE, valid_round, A)
        earlier = valid_round < 5  # the control
        assert said(node.propose(5, A, valid_round)) == ([(PREVOTE, 5, A)] if earlier else [])

    def test_a_time_is_asked_for_once_a_quorum_voted_or_left_the_round(self) -> None:
        node = in_step(PREVOTE)
        node.vote(PREVOTE, 1, 1, A)
        assert node.advance() == []
        node.see(2, 2)
        assert node.advance() == [Wait(PREVOTE, 1)]

    @pytest.mark.parametrize(
        ("number", "kept"),
        [(1, True), (2, False), (40 - BEHIND - 1, False), (40 - BEHIND, True), (40 + AHEAD, True)],
    )
    def test_votes_of_the_first_round_and_of_those_that_are_near_are_kept(
        self, number: int, *, kept: bool
    ) -> None:
        node = engine()
        node.start(40)
        node.vote(PREVOTE, number, 1, A)
        assert (1 in node.tally(number, PREVOTE).votes) is kept

    def test_a_quorum_that_was_quoted_may_have_won_whatever_was_said_here(self) -> None:
        node = in_step(PREVOTE)
        others_say(node, PREVOTE, None)
        assert not node.may_be_won(1)
        node.prove(PREVOTE, 1, A)
        assert node.may_be_won(1)
