"""Thresholds, ballots and locks, against what they are for."""

from __future__ import annotations

import itertools
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qres_core.swarm.agreement import NO_QUORUM, Lock, VoteSet, is_quorum, may_prevote

from qres_core import Envelope
from qres_core.swarm.context import vote_threshold
from qres_core.swarm.messages import CandidateSet, Member, encode_vote

MODEL = b"\x05" * 32
A, B = b"\xaa" * 32, b"\xbb" * 32


def vote(sender: int, choice: bytes | None, **changes: Any) -> Envelope:
    envelope = Envelope(
        "ward", "choice/prevote", 3, MODEL, bytes([sender]) * 32, sender, 0, encode_vote(choice)
    )
    return attrs.evolve(envelope, **changes)


swarms = st.integers(0, 60).flatmap(
    lambda f: st.tuples(st.integers(3 * f + 1, 3 * f + 40), st.just(f))
)


@given(swarms)
def test_two_quorums_share_more_nodes_than_can_lie(swarm: tuple[int, int]) -> None:
    n, f = swarm
    assert 2 * vote_threshold(n, f) - n > f  # fewest nodes that two quorums have in common


@given(swarms)
def test_the_honest_nodes_alone_are_a_quorum(swarm: tuple[int, int]) -> None:
    n, f = swarm
    assert vote_threshold(n, f) <= n - f


@given(swarms)
def test_no_smaller_threshold_would_do(swarm: tuple[int, int]) -> None:
    n, f = swarm
    assert 2 * (vote_threshold(n, f) - 1) - n <= f


@given(swarms)
def test_the_honest_part_of_a_quorum_is_more_than_can_lie(swarm: tuple[int, int]) -> None:
    n, f = swarm
    assert vote_threshold(n, f) - f > f


@pytest.mark.parametrize(
    ("n", "f", "votes"),
    [(1, 0, 1), (2, 0, 2), (3, 0, 2), (4, 0, 3), (4, 1, 3), (7, 2, 5), (20, 6, 14), (10, 3, 7)],
)
def test_thresholds(n: int, f: int, votes: int) -> None:
    assert vote_threshold(n, f) == votes


def test_with_the_threshold_of_a_majority_two_sets_could_both_be_decided() -> None:
    # Why f counts: 4 nodes, 1 liar, majority 3 is right; 7 nodes, 2 liars, majority 4 is not.
    n, f, majority = 7, 2, 4
    quorums = itertools.combinations(range(n), majority)
    assert any(len({0, 1, 2, 3} & set(other)) <= f for other in quorums)


class TestBallot:
    def test_has_no_winner_before_the_threshold(self) -> None:
        ballot = VoteSet(3)
        assert ballot.winner() is NO_QUORUM
        assert ballot.add(1 and A, vote(1, A))
        assert ballot.add(A, vote(2, A))
        assert ballot.winner() is NO_QUORUM
        assert ballot.add(A, vote(3, A))
        assert ballot.winner() == A
        assert len(ballot) == 3

    def test_none_can_win(self) -> None:
        ballot = VoteSet(2)
        ballot.add(None, vote(1, None))
        assert ballot.winner() is NO_QUORUM
        ballot.add(None, vote(2, None))
        assert ballot.winner() is None

    def test_counts_the_first_vote_of_a_sender_alone(self) -> None:
        ballot = VoteSet(2)
        assert ballot.add(A, vote(1, A))
        assert ballot.add(A, vote(1, A))  # the same again is no news
        assert not ballot.add(B, vote(1, B))
        assert not ballot.add(None, vote(1, None))
        assert len(ballot) == 1
        assert ballot.winner() is NO_QUORUM
        ballot.add(B, vote(2, B))
        assert ballot.winner() is NO_QUORUM  # the second vote of 1 did not count for B

    def test_gives_the_votes_of_a_choice_by_sender(self) -> None:
        ballot = VoteSet(2)
        for sender, choice in ((3, A), (1, A), (2, B), (4, None)):
            ballot.add(choice, vote(sender, choice))
        assert [message.sender[0] for message in ballot.messages(A)] == [1, 3]
        assert [message.sender[0] for message in ballot.messages(None)] == [4]
        assert ballot.messages(b"\xcc" * 32) == ()

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
        f, votes = case
        threshold = vote_threshold(3 * f + 1, f)
        ballot, first = VoteSet(threshold), dict[int, bytes | None]()
        for sender, choice in votes:
            assert ballot.add(choice, vote(sender, choice)) == (
                first.setdefault(sender, choice) == choice
            )
            counts = {item: list(first.values()).count(item) for item in (A, B, None)}
            winners = [item for item, count in counts.items() if count >= threshold]
            assert ballot.winner() == (winners[0] if winners else NO_QUORUM)


def lock(digest: bytes, number: int) -> Lock:
    return Lock(CandidateSet(1, (Member(b"\x01" * 32, digest),)), digest, number, ())


@pytest.mark.parametrize(
    ("held", "digest", "proven", "allowed"),
    [
        # Algorithm 1, line 23: lockedRound = -1 or lockedValue = v.
        (None, A, 0, True),
        (None, A, 3, True),
        (lock(A, 3), A, 0, True),
        (lock(B, 3), A, 0, False),
        # Line 29: lockedRound <= vr or lockedValue = v.
        (lock(B, 3), A, 2, False),
        (lock(B, 3), A, 3, True),
        (lock(B, 3), A, 4, True),
        (lock(A, 3), A, 1, True),
        (lock(B, 1), A, 0, False),
        (lock(B, 1), A, 1, True),
    ],
)
def test_may_prevote_follows_the_algorithm(
    held: Lock | None, digest: bytes, proven: int, *, allowed: bool
) -> None:
    assert may_prevote(held, digest, proven) is allowed


class TestIsQuorum:
    votes = tuple(vote(sender, A) for sender in (1, 2, 3))

    def check(self, votes: tuple[Envelope, ...], threshold: int = 3) -> bool:
        return is_quorum(votes, threshold, kind="choice/prevote", round_number=3, model=MODEL)

    def test_takes_a_quorum(self) -> None:
        assert self.check(self.votes)
        assert self.check(self.votes, threshold=2)

    def test_refuses_too_few(self) -> None:
        assert not self.check(self.votes, threshold=4)
        assert not self.check(())

    def test_refuses_one_sender_twice_even_beside_a_quorum(self) -> None:
        assert not self.check((*self.votes[:2], vote(2, A, sequence=99)))
        assert not self.check((*self.votes, vote(2, A, sequence=99)))

    @pytest.mark.parametrize(
        "changes", [{"kind": "choice/precommit"}, {"round": 4}, {"model_digest": b"\x06" * 32}]
    )
    def test_refuses_a_vote_about_something_else(self, changes: dict[str, Any]) -> None:
        assert not self.check((*self.votes[:2], vote(3, A, **changes)))
        assert not self.check((*self.votes, vote(4, A, **changes)))
