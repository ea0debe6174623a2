"""What a node holds of the others' contributions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qres_core import Contribution, Envelope
from qres_core.contract.types import FULL_STANDING, MAX_WEIGHT
from qres_core.swarm.ledger.messages import (
    CandidateSet,
    ContributionBody,
    Member,
    contribution_digest,
)
from qres_core.swarm.storage.kept_contributions import MAX_PER_SENDER, Gathering, Held

MODEL = b"\x05" * 32


def held(sender: int, value: int = 0, *, number: int = 1, weight: int = 1) -> Held:
    node = bytes([sender]) * 32
    vector = np.array([value, sender], dtype=np.int32)
    payload = ContributionBody(weight, vector).to_bytes()
    envelope = Envelope("ward", "contribution", number, MODEL, node, value, 0, payload)
    return Held(Contribution(node, contribution_digest(envelope), vector, weight), envelope)


def member(item: Held, standing: int = FULL_STANDING) -> Member:
    return Member(item.envelope.sender, item.contribution.digest, standing)


def candidate(*members: Member, origin: int = 1) -> CandidateSet:
    return CandidateSet(origin, members)


def test_what_came_since_is_told_in_its_order() -> None:
    gathering, three = Gathering(), [held(3), held(1), held(2)]
    for item in three:
        gathering.add(item)
    digests = [item.contribution.digest for item in three]
    assert [gathering.after(count) for count in range(4)] == [digests[n:] for n in range(4)]


class TestEquivocation:
    @pytest.mark.claim("C-agreement-3")
    def test_the_first_counts_and_a_second_is_told_apart(self) -> None:
        gathering = Gathering()
        first, second = held(1, 1), held(1, 2)
        assert gathering.add(first)
        assert gathering.add(first)  # again the same is no offence
        assert not gathering.add(second)
        assert gathering.of_round(1) == {first.envelope.sender: first}
        assert gathering.get(second.contribution.digest) is second

    @pytest.mark.control("C-agreement-3")
    def test_a_node_that_forgot_the_first_would_count_the_second(self) -> None:
        gathering = Gathering()
        first, second = held(1, 1), held(1, 2)
        gathering.add(first)
        gathering._first.clear()
        assert gathering.add(second)
        assert gathering.of_round(1) == {first.envelope.sender: second}

    def test_one_sender_cannot_make_a_node_hold_without_bound(self) -> None:
        gathering = Gathering()
        for value in range(100):
            gathering.add(held(1, value))
        kept = [v for v in range(100) if gathering.get(held(1, v).contribution.digest)]
        assert len(kept) == MAX_PER_SENDER
        assert gathering.add(held(2))  # others are not crowded out

    def test_one_that_comes_again_takes_no_place_of_another(self) -> None:
        gathering = Gathering()
        for _again in range(MAX_PER_SENDER + 1):
            assert gathering.add(held(1))
        second = held(1, 1)
        gathering.add(second)
        assert gathering.get(second.contribution.digest) is second

    def test_one_that_is_not_kept_is_not_of_its_round(self) -> None:
        gathering = Gathering()
        for value in range(MAX_PER_SENDER):
            gathering.add(held(1, value))
        gathering.add(held(1, number=2))
        gathering.add(held(2, number=2))
        assert set(gathering.of_round(2)) == {held(2).contribution.sender}

    def test_what_a_set_names_is_kept_however_many_a_liar_sent(self) -> None:
        gathering = Gathering()
        for value in range(100):
            gathering.add(held(1, value))
        wanted = held(1, 500)
        gathering.add(wanted, named=True)
        assert gathering.get(wanted.contribution.digest) is wanted
        assert gathering.of_round(1)[wanted.envelope.sender].envelope.sequence == 0

    def test_rounds_are_apart(self) -> None:
        gathering = Gathering()
        assert gathering.add(held(1, 1, number=1))
        assert gathering.add(held(1, 2, number=2))
        assert gathering.of_round(2)[b"\x01" * 32].contribution.vector[0] == 2
        assert gathering.of_round(3) == {}

    def test_a_new_round_keeps_what_is_named_alone(self) -> None:
        gathering = Gathering()
        for sender in (1, 2, 3):
            gathering.add(held(sender))
        gathering.keep_only([held(2).contribution.digest])
        assert gathering.get(held(1).contribution.digest) is None
        assert gathering.get(held(2).contribution.digest) is not None
        assert gathering.of_round(1) == {}  # old ones do not count as this round's
        for value in range(100):
            gathering.add(held(2, value, number=2))
        kept = [v for v in range(100) if gathering.get(held(2, v, number=2).contribution.digest)]
        assert len(kept) == MAX_PER_SENDER - 1


class TestMissing:
    def test_nothing_is_missing_of_a_set_that_is_held(self) -> None:
        gathering = Gathering()
        rows = [held(1), held(2)]
        for row in rows:
            gathering.add(row)
        assert gathering.missing(candidate(*map(member, rows))) == []

    def test_what_is_not_held_is_named_in_order(self) -> None:
        gathering = Gathering()
        gathering.add(held(2))
        rows = [held(1), held(2), held(3)]
        expected = [rows[0].contribution.digest, rows[2].contribution.digest]
        assert gathering.missing(candidate(*map(member, rows))) == expected

    def test_the_answer_follows_what_comes_and_what_is_forgotten(self) -> None:
        gathering = Gathering()
        ones = [held(sender) for sender in range(4)]
        wanted = candidate(*map(member, ones))
        other = candidate(member(ones[3]))
        here: set[int] = set()
        for number in (2, 0, 3, 1):
            gathering.add(ones[number])
            here.add(number)
            lacking = [item.contribution.digest for i, item in enumerate(ones) if i not in here]
            assert gathering.missing(wanted) == lacking
            assert gathering.missing(wanted) == lacking
            assert bool(gathering.missing(other)) == (3 not in here)
            assert gathering.missing(wanted) == lacking
        gathering.keep_only([ones[0].contribution.digest])
        assert gathering.missing(wanted) == [item.contribution.digest for item in ones[1:]]

    def test_one_contribution_cannot_stand_under_another_name(self) -> None:
        gathering = Gathering()
        liar = held(1)
        gathering.add(liar)
        digest = liar.contribution.digest
        forged = candidate(*(Member(bytes([sender]) * 32, digest) for sender in (1, 2, 3)))
        assert gathering.missing(forged) == [digest, digest]

    def test_a_contribution_of_another_round_is_not_one_of_this(self) -> None:
        gathering = Gathering()
        old = held(1, number=1)
        gathering.add(old)
        assert gathering.missing(candidate(member(old), origin=2)) == [old.contribution.digest]


class TestStack:
    def test_rows_are_in_the_order_of_the_set(self) -> None:
        gathering = Gathering()
        rows = [held(3, 30), held(1, 10), held(2, 20)]
        for row in rows:
            gathering.add(row)
        members = [member(held(sender, sender * 10)) for sender in (1, 2, 3)]
        updates = gathering.stack(members, 1)
        assert updates.senders == tuple(bytes([sender]) * 32 for sender in (1, 2, 3))
        assert updates.vectors.tolist() == [[10, 1], [20, 2], [30, 3]]
        assert updates.weights.tolist() == [1, 1, 1]

    def test_full_standings_leave_the_capped_claims(self) -> None:
        gathering = Gathering()
        rows = [held(1, weight=7), held(2, weight=MAX_WEIGHT)]
        for row in rows:
            gathering.add(row)
        assert gathering.stack([member(row) for row in rows], 100).weights.tolist() == [7, 100]

    def test_only_the_standings_of_the_set_count(self) -> None:
        gathering = Gathering()
        rows = [held(1, weight=4), held(2, weight=4)]
        for row in rows:
            gathering.add(row)
        members = [member(rows[0]), member(rows[1], FULL_STANDING // 2)]
        first, second = gathering.stack(members, 4).weights.tolist()
        assert first == 2 * second

    @settings(deadline=None, max_examples=300)
    @given(
        st.integers(1, MAX_WEIGHT),
        st.lists(
            st.tuples(st.integers(1, MAX_WEIGHT), st.integers(1, FULL_STANDING)),
            min_size=1,
            max_size=6,
        ),
    )
    def test_weights_are_claim_times_standing_on_one_scale(
        self, cap: int, rows: list[tuple[int, int]]
    ) -> None:
        gathering = Gathering()
        made = [held(i + 1, weight=weight) for i, (weight, _standing) in enumerate(rows)]
        for item in made:
            gathering.add(item)
        members = [member(item, row[1]) for item, row in zip(made, rows, strict=True)]
        weights = gathering.stack(members, cap).weights
        assert weights.min() >= 1
        assert weights.max() <= MAX_WEIGHT
        if all(standing == FULL_STANDING for _weight, standing in rows):
            assert weights.tolist() == [min(weight, cap) for weight, _standing in rows]
            return
        # The largest claim a set can hold decides the scale, so that it is the swarm's alone.
        scale = 1
        while Fraction(cap * FULL_STANDING, scale) > MAX_WEIGHT:
            scale *= 2
        for weight, (claim, standing) in zip(weights.tolist(), rows, strict=True):
            exact = Fraction(min(claim, cap) * standing, scale)
            assert weight == max(1, exact.numerator // exact.denominator)
