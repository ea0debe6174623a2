"""Liars inside a round: what each lie must not achieve.

The liar is a puppet: it signs whatever the test wants with its own key and with no other.
"""

from __future__ import annotations

import importlib.util
import itertools
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qres_core import Envelope, RoundStatus, canonical, model_digest
from qres_core.contract.types import FULL_STANDING
from qres_core.swarm.messages import (
    CandidateSet,
    Certificate,
    ContributionBody,
    Member,
    Proposal,
    Snapshot,
    contribution_digest,
    encode_vote,
)
from qres_core.swarm.sync import MAX_EARLY, PAST_MODELS

HARNESS = Path(__file__).parents[1] / "unit" / "swarm" / "harness.py"


@pytest.fixture(scope="module")
def harness() -> ModuleType:
    name = "swarm_harness"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, HARNESS)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # attrs looks its classes' module up
        spec.loader.exec_module(module)
    return sys.modules[name]


LIAR = 1  # proposes round 1
HONEST = (0, 2, 3)


class Stage:
    """Round 1 with everybody's contribution in it, and the liar about to propose."""

    def __init__(self, harness: ModuleType, **more: Any) -> None:
        self.net = harness.Net(4, byzantine=1, puppets=(LIAR,), **more)
        self.net.start()
        self.model: bytes = self.net.machine(0).model_digest
        self.own = self.contribution(7)
        self.net.inject(self.own, HONEST)
        self.net.run(seconds=0.5)
        self.made = {
            self.net.index_of[sender]: contribution.digest
            for sender, contribution in self.net.machine(0).contributions.items()
        }
        assert sorted(self.made) == [0, 1, 2, 3]
        assert self.net.steps() == [0, 0, 0]

    def contribution(self, value: int, *, number: int = 1) -> Envelope:
        body = ContributionBody(1, np.full(3, value, dtype=np.int32))
        forged: Envelope = self.net.forge(
            LIAR, "contribution", body.to_bytes(), number=number, model=self.model
        )
        return forged

    def set_of(self, chosen: Sequence[int] | Mapping[int, bytes], origin: int = 1) -> CandidateSet:
        pairs = chosen if isinstance(chosen, Mapping) else {i: self.made[i] for i in chosen}
        members = tuple(Member(self.net.ids[i], pairs[i]) for i in sorted(pairs))
        return CandidateSet(origin, members)

    def name(self, candidate: CandidateSet) -> bytes:
        return candidate.digest(self.net.machine(0).swarm.name, self.model)

    def propose(self, candidate: CandidateSet, to: Sequence[int], **more: Any) -> None:
        proposal = Proposal(candidate, **more)
        forged = self.net.forge(
            LIAR, "choice/proposal", proposal.to_bytes(), number=1, model=self.model
        )
        self.net.inject(forged, to)

    def vote(self, kind: str, choice: bytes | None, to: Sequence[int], number: int = 1) -> None:
        vote = self.net.vote(LIAR, kind, choice, number=number, model=self.model)
        self.net.inject(vote, to)

    def votes(
        self, kind: str, choice: bytes | None, voters: Sequence[int], *, number: int = 1
    ) -> tuple[Envelope, ...]:
        """Votes as if those nodes had made them: the test has all keys, the liar has not."""
        return tuple(
            self.net.vote(voter, kind, choice, number=number, model=self.model) for voter in voters
        )

    def goes_on(self, *, without: CandidateSet | None = None) -> None:
        """Honest nodes make models, all the same; none closed with the set."""
        target = max(self.net.steps()) + 2
        assert self.net.run(until=lambda: min(self.net.steps()) >= target, seconds=60.0)
        assert not self.net.forks(HONEST)
        if without is not None:
            for index in HONEST:
                for message in self.net.sent:
                    if message.sender == index and message.kind == "certificate":
                        told = Certificate.from_bytes(message.envelope.payload, 4)
                        assert told.candidate != without

    def refusals(self) -> set[str]:
        return {reason for index in HONEST for reason in self.net.nodes[index].refused}


# ── proposals ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("half", [(0,), (2,), (3,), (0, 2), (0, 3), (2, 3)])
@pytest.mark.parametrize("told", [(0,), (2,), (3,), (0, 2), ()])
def test_two_sets_to_two_halves_split_nobody(
    harness: ModuleType, half: tuple[int, ...], told: tuple[int, ...]
) -> None:
    stage = Stage(harness)
    rest = tuple(index for index in HONEST if index not in half)
    sets = (stage.set_of([0, 1, 2, 3]), stage.set_of([0, 1, 2]))
    for candidate, to in zip(sets, (half, rest), strict=True):
        stage.propose(candidate, to)
        stage.vote("choice/prevote", stage.name(candidate), to)
        stage.vote("choice/precommit", stage.name(candidate), [i for i in to if i in told])
        stage.vote("choice/precommit", None, [i for i in to if i not in told])
    stage.goes_on()


def test_two_sets_to_everybody_are_evidence(harness: ModuleType) -> None:
    stage = Stage(harness)
    stage.propose(stage.set_of([0, 1, 2, 3]), HONEST)
    stage.net.run(until=lambda: any(stage.net.machine(i)._round.voting.proposal for i in HONEST))
    stage.propose(stage.set_of([0, 1, 2]), HONEST)
    stage.goes_on()
    for index in HONEST:
        evidence = stage.net.nodes[index].witness.evidence
        assert (stage.net.ids[LIAR], "equivocation") in {(e.subject, e.fact) for e in evidence}


def bend(candidate: CandidateSet, standing: int) -> CandidateSet:
    first, *rest = candidate.members
    return attrs.evolve(candidate, members=(attrs.evolve(first, standing=standing), *rest))


BAD_SETS: dict[str, tuple[Callable[[Stage], CandidateSet], str]] = {
    "below quorum": (lambda stage: stage.set_of([0, 1]), "set-below-quorum"),
    "a stranger": (
        lambda stage: attrs.evolve(
            stage.set_of([0, 1, 2]),
            members=tuple(
                sorted(
                    (*stage.set_of([0, 1, 2]).members, Member(b"\x77" * 32, stage.made[1])),
                    key=lambda member: member.sender,
                )
            ),
        ),
        "set-names-stranger",
    ),
    "another round": (lambda stage: stage.set_of([0, 1, 2, 3], origin=2), "set-of-other-round"),
    "a bent standing": (
        lambda stage: bend(stage.set_of([0, 1, 2, 3]), FULL_STANDING // 2),
        "standing-bent",
    ),
}


@pytest.mark.parametrize("case", BAD_SETS)
def test_a_proposer_may_not_name_what_breaks_a_rule(harness: ModuleType, case: str) -> None:
    make, reason = BAD_SETS[case]
    stage = Stage(harness)
    candidate = make(stage)
    stage.propose(candidate, HONEST)
    stage.vote("choice/prevote", stage.name(candidate), HONEST)
    stage.vote("choice/precommit", stage.name(candidate), HONEST)
    stage.goes_on(without=candidate)
    assert reason in stage.refusals()
    for index in HONEST:
        blamed = {e.subject for e in stage.net.nodes[index].witness.evidence if e.fact == reason}
        assert blamed == {stage.net.ids[LIAR]}


@pytest.mark.parametrize("victims", [(0, 2, 3), (0,), (3,)])
def test_one_contribution_cannot_be_merged_under_several_names(
    harness: ModuleType, victims: tuple[int, ...]
) -> None:
    """Three copies of one vector would pass any robust rule: they are each other's neighbours."""
    stage = Stage(harness)
    named = {i: stage.made[LIAR] if i in victims else stage.made[i] for i in range(4)}
    candidate = stage.set_of(named)
    stage.propose(candidate, HONEST)
    stage.vote("choice/prevote", stage.name(candidate), HONEST)
    stage.vote("choice/precommit", stage.name(candidate), HONEST)
    stage.net.run(seconds=0.3)
    assert stage.net.steps() == [0, 0, 0]
    stage.goes_on(without=candidate)


def test_a_contribution_of_an_old_round_cannot_pass_for_one_of_this(harness: ModuleType) -> None:
    """The set keeps an old contribution alive; a fresh set must not take it in."""
    stage = Stage(harness)
    good = stage.set_of([0, 1, 2, 3])
    stage.propose(good, HONEST)
    stage.vote("choice/prevote", stage.name(good), HONEST)
    stage.net.rule = harness.drop(kind="choice/precommit", round={1})
    assert stage.net.run(until=lambda: stage.net.machine(0).number == 2)
    gathering = stage.net.machine(0)._parts.collector.gathering
    assert gathering.get(stage.made[0]) is not None
    fresh = stage.set_of(stage.made, origin=2)
    assert gathering.missing(fresh) == list(stage.made.values())
    stage.net.rule = None
    stage.goes_on(without=fresh)


def test_a_member_that_only_one_node_was_given_is_fetched_from_that_one(
    harness: ModuleType,
) -> None:
    stage = Stage(harness)
    secret = stage.contribution(99)
    digest = contribution_digest(secret)
    stage.net.inject(secret, [2])
    stage.net.run(seconds=0.01)
    candidate = stage.set_of({**stage.made, LIAR: digest})
    stage.propose(candidate, HONEST)
    stage.vote("choice/prevote", stage.name(candidate), HONEST)
    assert stage.net.run(until=lambda: min(stage.net.steps()) >= 1, seconds=5.0)
    assert not stage.net.forks(HONEST)
    for index in (0, 3):
        first = stage.net.nodes[index].ended[0].outcome
        assert first.status is RoundStatus.CLOSED
        assert stage.net.ids[LIAR] in first.members
    # It made two contributions, and is known for it where both arrived.
    assert "equivocation" in stage.refusals()


def test_a_member_that_nobody_can_get_is_not_voted_for(harness: ModuleType) -> None:
    stage = Stage(harness)
    candidate = stage.set_of({**stage.made, LIAR: b"\x99" * 32})
    stage.propose(candidate, HONEST)
    stage.vote("choice/prevote", stage.name(candidate), HONEST)
    stage.goes_on(without=candidate)


def test_a_member_with_a_bad_proof_is_not_voted_for(harness: ModuleType) -> None:
    net = harness.Net(4, byzantine=1, puppets=(LIAR,), plugins={"checksum": {}})
    net.start()
    model = net.machine(0).model_digest
    body = ContributionBody(1, np.zeros(3, dtype=np.int32), {"checksum": b"wrong"})
    bad = net.forge(LIAR, "contribution", body.to_bytes(), number=1, model=model)
    net.inject(bad, HONEST)
    net.run(seconds=0.5)
    made = {
        net.index_of[s]: contribution.digest
        for s, contribution in net.machine(0).contributions.items()
    }
    assert sorted(made) == [0, 2, 3]
    members = {**made, LIAR: contribution_digest(bad)}
    candidate = CandidateSet(1, tuple(Member(net.ids[i], members[i]) for i in range(4)))
    forged = net.forge(
        LIAR, "choice/proposal", Proposal(candidate).to_bytes(), number=1, model=model
    )
    net.inject(forged, HONEST)
    assert net.run(until=lambda: min(net.steps()) >= 2)
    assert not net.forks(HONEST)
    for index in HONEST:
        closed = [e for e in net.nodes[index].ended if e.outcome.status is RoundStatus.CLOSED]
        assert net.ids[LIAR] not in closed[0].outcome.members
        facts = {(e.subject, e.fact, e.source) for e in net.nodes[index].witness.evidence}
        assert (net.ids[LIAR], "checksum:bad-proof", "checksum") in facts


def test_only_the_proposer_of_the_round_may_propose(harness: ModuleType) -> None:
    net = harness.Net(4, byzantine=1, puppets=(3,))
    net.start()
    net.run(seconds=0.5)
    made = {
        net.index_of[s]: contribution.digest
        for s, contribution in net.machine(0).contributions.items()
    }
    candidate = CandidateSet(1, tuple(Member(net.ids[i], made[i]) for i in sorted(made)))
    forged = net.forge(
        3,
        "choice/proposal",
        Proposal(candidate).to_bytes(),
        number=1,
        model=net.machine(0).model_digest,
    )
    net.inject(forged, [0, 1, 2])
    net.run(seconds=0.1)
    assert net.steps() == [0, 0, 0]
    assert all(net.nodes[index].refused["not-the-proposer"] == 1 for index in range(3))


# ── votes and what they prove ─────────────────────────────────────────────────────────────────────


def test_votes_in_another_name_do_not_count(harness: ModuleType) -> None:
    stage = Stage(harness)
    candidate = stage.set_of([0, 1, 2, 3])
    digest = stage.name(candidate)
    stage.propose(candidate, [0])
    stage.vote("choice/precommit", digest, [0])
    for victim, kind in itertools.product((2, 3), ("choice/prevote", "choice/precommit")):
        forged = stage.net.forge(
            victim, kind, encode_vote(digest), number=1, model=stage.model, key=LIAR
        )
        stage.net.inject(forged, [0], link=LIAR)
    stage.net.run(seconds=0.1)
    assert stage.net.steps() == [0, 0, 0]
    node = stage.net.nodes[0]
    assert node.refused["mac:bad-tag"] == 4
    # The forger is to blame and not those it claimed to be.
    assert {e.subject for e in node.witness.evidence if e.against} == {stage.net.ids[LIAR]}


def test_a_second_vote_of_a_sender_does_not_count_and_is_evidence(harness: ModuleType) -> None:
    stage = Stage(harness)
    candidate = stage.set_of([0, 1, 2, 3])
    stage.vote("choice/precommit", None, HONEST)
    stage.net.run(seconds=0.01)
    stage.vote("choice/precommit", stage.name(candidate), HONEST)
    stage.net.run(seconds=0.01)
    for index in HONEST:
        assert (
            stage.net.machine(index)._round.voting.precommits.messages(stage.name(candidate)) == ()
        )
        assert stage.net.nodes[index].refused["equivocation"] == 1
    stage.goes_on()


def certificate_cases(stage: Stage) -> dict[str, Certificate]:
    candidate = stage.set_of([0, 1, 2, 3])
    digest = stage.name(candidate)
    good = stage.votes("choice/precommit", digest, [0, 1, 2])
    other = stage.name(stage.set_of([0, 1, 2]))
    forged = stage.net.forge(
        3, "choice/precommit", encode_vote(digest), number=1, model=stage.model, key=LIAR
    )
    again = stage.net.vote(1, "choice/precommit", digest, number=1, model=stage.model)
    elsewhere = stage.net.vote(2, "choice/precommit", digest, number=1, model=bytes(32))
    return {
        "genuine": Certificate(candidate, 1, good),
        "too few": Certificate(candidate, 1, good[:2]),
        "none": Certificate(candidate, 1, ()),
        "one twice": Certificate(candidate, 1, (*good[:2], again)),
        "one twice beside a quorum": Certificate(candidate, 1, (*good, again)),
        "one forged": Certificate(candidate, 1, (*good[:2], forged)),
        "prevotes": Certificate(candidate, 1, stage.votes("choice/prevote", digest, [0, 1, 2])),
        "of another round": Certificate(candidate, 2, good),
        "of mixed rounds": Certificate(
            candidate, 1, (*good[:2], *stage.votes("choice/precommit", digest, [2], number=2))
        ),
        "for another set": Certificate(
            candidate, 1, stage.votes("choice/precommit", other, [0, 1, 2])
        ),
        "for nothing": Certificate(candidate, 1, stage.votes("choice/precommit", None, [0, 1, 2])),
        "for another model": Certificate(candidate, 1, (*good[:2], elsewhere)),
        "of another swarm": Certificate(
            candidate,
            1,
            (
                *good[:2],
                stage.net.forge(
                    2,
                    "choice/precommit",
                    encode_vote(digest),
                    number=1,
                    model=stage.model,
                    swarm="bed",
                ),
            ),
        ),
    }


CERTIFICATES = (
    "genuine",
    "too few",
    "none",
    "one twice",
    "one twice beside a quorum",
    "one forged",
    "prevotes",
    "of another round",
    "of mixed rounds",
    "for another set",
    "for nothing",
    "for another model",
    "of another swarm",
)


@pytest.mark.parametrize("case", CERTIFICATES)
def test_a_certificate_proves_a_decision_or_is_refused(harness: ModuleType, case: str) -> None:
    stage = Stage(harness)
    cases = certificate_cases(stage)
    assert tuple(cases) == CERTIFICATES
    forged = stage.net.forge(
        LIAR, "certificate", cases[case].to_bytes(), number=1, model=stage.model
    )
    stage.net.inject(forged, [0])
    stage.net.run(seconds=0.01)
    if case == "genuine":  # the control: nothing but the flaw is why the others are refused
        assert stage.net.steps() == [1, 0, 0]
        assert not stage.net.nodes[0].refused
    else:
        assert stage.net.steps() == [0, 0, 0]
        assert stage.net.nodes[0].refused == {"unproven-certificate": 1}
        (fact,) = [e for e in stage.net.nodes[0].witness.evidence if e.against]
        assert fact.subject == stage.net.ids[LIAR]


@pytest.mark.parametrize("case", ["genuine", "too few", "twice", "forged", "other set", "late"])
def test_a_lock_is_proven_by_a_quorum_of_prevotes_or_refused(
    harness: ModuleType, case: str
) -> None:
    stage = Stage(harness, rule=harness.drop(kind="choice/proposal"))
    assert stage.net.run(until=lambda: stage.net.machine(0).number == 5)  # the liar's next turn
    target = stage.net.machine(0)
    candidate = stage.set_of([0, 1, 2, 3])
    digest = stage.name(candidate)
    votes = stage.votes("choice/prevote", digest, [0, 1, 2])
    number = 1
    if case == "too few":
        votes = votes[:2]
    elif case == "twice":
        votes = (
            *votes[:2],
            stage.net.vote(1, "choice/prevote", digest, number=1, model=stage.model),
        )
    elif case == "forged":
        forged = stage.net.forge(
            3, "choice/prevote", encode_vote(digest), number=1, model=stage.model, key=LIAR
        )
        votes = (*votes[:2], forged)
    elif case == "other set":
        votes = stage.votes("choice/prevote", stage.name(stage.set_of([0, 1, 2])), [0, 1, 2])
    elif case == "late":
        votes, number = stage.votes("choice/prevote", digest, [0, 1, 2], number=5), 5
    proposal = Proposal(candidate, number, votes)
    assert target.model_digest == stage.model
    sent = stage.net.forge(
        LIAR, "choice/proposal", proposal.to_bytes(), number=5, model=stage.model
    )
    before = dict(stage.net.nodes[0].refused)
    stage.net.inject(sent, [0])
    stage.net.run(seconds=0.001)
    accepted = target._round.voting.proposal is not None
    assert accepted is (case == "genuine")
    if not accepted:
        new = {k: v - before.get(k, 0) for k, v in stage.net.nodes[0].refused.items()}
        expected = "set-of-other-round" if case == "late" else "unproven-lock"
        assert new[expected] == 1


def snapshot_cases(stage: Stage, vector: Any) -> dict[str, Snapshot]:
    net, step = stage.net, 5
    digest = model_digest(vector, step)

    def voucher(index: int, **more: Any) -> Envelope:
        values = {"number": 9, "model": b"\x55" * 32, **more}
        payload = canonical.dumps(values.pop("says", digest))
        forged: Envelope = net.forge(index, values.pop("kind", "digest"), payload, **values)
        return forged

    good = (voucher(2), voucher(3))
    return {
        "genuine": Snapshot(step, vector, good),
        "the liar alone": Snapshot(step, vector, (voucher(LIAR),)),
        "nobody": Snapshot(step, vector, ()),
        "one twice": Snapshot(step, vector, (voucher(LIAR), voucher(LIAR))),
        "one twice beside enough": Snapshot(step, vector, (*good, voucher(3))),
        "one forged": Snapshot(step, vector, (voucher(LIAR), voucher(2, key=LIAR))),
        "another model": Snapshot(step, vector, (good[0], voucher(3, says=b"\x66" * 32))),
        "another step": Snapshot(step + 1, vector, good),
        "another vector": Snapshot(step, vector + 1, good),
        "mixed parents": Snapshot(step, vector, (good[0], voucher(3, model=b"\x66" * 32))),
        "votes": Snapshot(step, vector, (good[0], voucher(3, kind="choice/prevote"))),
        "another swarm": Snapshot(step, vector, (good[0], voucher(3, swarm="bed"))),
    }


SNAPSHOTS = (
    "genuine",
    "the liar alone",
    "nobody",
    "one twice",
    "one twice beside enough",
    "one forged",
    "another model",
    "another step",
    "another vector",
    "mixed parents",
    "votes",
    "another swarm",
)


@pytest.mark.parametrize("case", SNAPSHOTS)
def test_a_snapshot_is_vouched_for_by_more_than_can_lie_or_refused(
    harness: ModuleType, case: str
) -> None:
    stage = Stage(harness)
    vector = np.array([1, 2, 3], dtype=np.int32)
    cases = snapshot_cases(stage, vector)
    assert tuple(cases) == SNAPSHOTS
    forged = stage.net.forge(LIAR, "snapshot", cases[case].to_bytes(), number=1, model=b"\x55" * 32)
    stage.net.inject(forged, [0])
    stage.net.run(seconds=0.001)
    machine = stage.net.machine(0)
    if case == "genuine":
        assert (machine.step, machine.number) == (5, 10)
        assert np.array_equal(machine.model, vector)
    else:
        assert (machine.step, machine.number) == (0, 1)
        assert stage.net.nodes[0].refused == {"unproven-snapshot": 1}
        (fact,) = [e for e in stage.net.nodes[0].witness.evidence if e.against]
        assert fact.subject == stage.net.ids[LIAR]


def test_a_snapshot_that_is_not_newer_changes_nothing(harness: ModuleType) -> None:
    stage = Stage(harness)
    stage.goes_on()
    step = stage.net.steps()[0]
    old = np.zeros(3, dtype=np.int32)
    says = canonical.dumps(model_digest(old, step))
    vouchers = tuple(
        stage.net.forge(i, "digest", says, number=9, model=b"\x55" * 32) for i in (2, 3)
    )
    payload = Snapshot(step, old, vouchers).to_bytes()
    before = stage.net.machine(0).model_digest
    sent = stage.net.forge(LIAR, "snapshot", payload, number=1, model=b"\x55" * 32)
    stage.net.apply(
        stage.net.nodes[0],
        stage.net.machine(0).receive(sent.to_bytes(), stage.net.ids[LIAR], stage.net.now),
    )
    assert stage.net.machine(0).model_digest == before


def test_a_voucher_with_the_last_of_all_rounds_does_not_carry_a_node_there(
    harness: ModuleType,
) -> None:
    """A node in round 2**63 could send nothing any more."""
    net = harness.Net(4, byzantine=1, puppets=(LIAR,))
    net.rule = harness.drop(receiver=0)
    net.start()
    assert net.run(until=lambda: min(net.steps([2, 3])) >= 0, seconds=1.0)
    vector = np.array([1, 2, 3], dtype=np.int32)
    says = canonical.dumps(model_digest(vector, 5))
    vouchers = tuple(
        net.forge(index, "digest", says, number=number, model=b"\x55" * 32)
        for index, number in ((LIAR, 2**63 - 1), (2, 9))
    )
    payload = Snapshot(5, vector, vouchers).to_bytes()
    net.inject(net.forge(LIAR, "snapshot", payload, number=1, model=b"\x55" * 32), [0])
    net.run(seconds=0.1)
    assert (net.machine(0).step, net.machine(0).number) == (5, 10)
    net.run(seconds=5.0)  # it goes on speaking


def test_a_round_number_out_of_reach_carries_nobody_away(harness: ModuleType) -> None:
    stage = Stage(harness)
    for number in (1000, 2**62, 2**63 - 1):
        stage.vote("choice/prevote", None, HONEST, number=number)
    stage.net.run(seconds=0.1)
    assert {stage.net.machine(index).number for index in HONEST} == {1}
    stage.goes_on()
    assert max(stage.net.machine(index).number for index in HONEST) < 100


def test_a_voucher_for_a_model_nobody_has_makes_nobody_stop(harness: ModuleType) -> None:
    stage = Stage(harness)
    says = canonical.dumps(b"\x66" * 32)
    lie = stage.net.forge(LIAR, "digest", says, number=1, model=stage.model)
    stage.net.inject(lie, HONEST)
    stage.goes_on()
    assert not any(stage.net.nodes[index].diverged for index in HONEST)


# ── keeping a node behind ─────────────────────────────────────────────────────────────────────────


def test_a_liar_with_many_faces_cannot_keep_a_node_from_the_agreed_one(
    harness: ModuleType,
) -> None:
    """Node 3 is sent every contribution of the liar's but the one that is agreed on."""
    stage = Stage(harness)
    agreed = stage.contribution(500)
    digest = contribution_digest(agreed)
    stage.net.inject(agreed, [0, 2])
    for value in range(100, 130):
        stage.net.inject(stage.contribution(value), [3])
    stage.net.run(seconds=0.01)
    candidate = stage.set_of({**stage.made, LIAR: digest})
    stage.propose(candidate, HONEST)
    stage.vote("choice/prevote", stage.name(candidate), HONEST)
    assert stage.net.run(until=lambda: min(stage.net.steps()) >= 1, seconds=5.0)
    for index in HONEST:
        assert stage.net.nodes[index].ended[0].outcome.status is RoundStatus.CLOSED
    assert not stage.net.forks(HONEST)


def test_a_certificate_from_one_who_gives_no_contributions_does_not_block_a_node(
    harness: ModuleType,
) -> None:
    """The liar proves the decision to node 3 and then says nothing; the others must help."""
    stage = Stage(harness)
    extra = stage.contribution(77)
    stage.net.inject(extra, [0, 2])
    stage.net.run(seconds=0.001)
    candidate = stage.set_of({**stage.made, LIAR: contribution_digest(extra)})
    digest = stage.name(candidate)
    stage.net.rule = harness.drop(receiver=3)
    stage.propose(candidate, [0, 2])
    stage.vote("choice/prevote", digest, [0, 2])
    stage.vote("choice/precommit", digest, [0, 2])
    votes = stage.votes("choice/precommit", digest, [0, 1, 2])
    proof = Certificate(candidate, 1, votes).to_bytes()
    stage.net.inject(stage.net.forge(LIAR, "certificate", proof, number=1, model=stage.model), [3])
    stage.net.run(seconds=0.2)
    assert stage.net.steps() == [1, 1, 0]
    assert stage.net.machine(3)._parts.promises.pending is not None
    stage.net.run(seconds=5.0)
    stage.net.rule = None
    stage.goes_on()


def test_a_liar_who_claims_to_be_ahead_does_not_keep_a_node_from_asking_others(
    harness: ModuleType,
) -> None:
    """Node 3, behind, first hears of an unknown model from the liar, who never answers."""
    net = harness.Net(4, byzantine=1)
    cut = harness.chain(harness.drop(receiver=3), harness.drop(sender=3))
    net.rule = cut
    net.start()
    assert net.run(until=lambda: min(net.steps([0, 1, 2])) >= 3, seconds=60.0)
    number = net.machine(3).number
    for ahead in range(20):
        lie = net.forge(LIAR, "choice/prevote", b"\xf6", number=number + ahead, model=b"\x77" * 32)
        net.inject(lie, [3])
    net.run(seconds=0.1)
    net.rule = harness.drop(sender=LIAR)
    goal = max(net.steps()) + 2
    assert net.run(until=lambda: min(net.steps([0, 2, 3])) >= goal, seconds=60.0)
    assert not net.forks()


def test_a_quoted_contribution_must_be_its_senders_own(harness: ModuleType) -> None:
    stage = Stage(harness)
    body = ContributionBody(1, np.full(3, 5, dtype=np.int32)).to_bytes()
    for quoted in (
        stage.net.forge(2, "contribution", body, number=1, model=stage.model, key=LIAR),
        stage.net.forge(2, "contribution", body, number=1, model=stage.model, swarm="bed"),
        stage.net.forge(2, "contribution", body, number=1, model=bytes(32)),
    ):
        sent = stage.net.forge(LIAR, "fetched", quoted.to_bytes(), number=1, model=stage.model)
        stage.net.inject(sent, [0])
    stage.net.run(seconds=0.01)
    node = stage.net.nodes[0]
    assert node.refused == {"unproven-contribution": 3}
    assert {e.subject for e in node.witness.evidence if e.against} == {stage.net.ids[LIAR]}
    assert stage.net.machine(0).contributions[stage.net.ids[2]].digest == stage.made[2]


def test_everything_said_twice_is_heard_once(harness: ModuleType) -> None:
    """A recorder replays the whole traffic, later and from elsewhere."""

    def echo(message: Any) -> Any:
        return [(0.01, message.frame), (0.05, message.frame), (3.0, message.frame)]

    net = harness.Net(4, byzantine=1, rule=echo)
    net.start()
    assert net.run(until=lambda: min(net.steps()) >= 3)
    assert not net.forks()
    for node in net.nodes:
        assert set(node.refused) == {"replayed"}


# ── filling a node up, or knocking it over ────────────────────────────────────────────────────────


def test_messages_of_rounds_and_models_to_come_are_kept_in_bounds(harness: ModuleType) -> None:
    stage = Stage(harness)
    rng = random.Random(1)
    frames: list[Envelope] = []
    for number in range(2, 500):
        frames.append(
            stage.net.vote(LIAR, "choice/prevote", None, number=number, model=stage.model)
        )
        junk = rng.randbytes(32)
        frames.append(stage.net.vote(LIAR, "choice/prevote", None, number=number, model=junk))
        says = canonical.dumps(rng.randbytes(32))
        frames.append(stage.net.forge(LIAR, "digest", says, number=number, model=junk))
    for frame in frames:
        stage.net.inject(frame, HONEST)
    stage.net.run(seconds=0.01)
    for index in HONEST:
        machine = stage.net.machine(index)
        assert sum(map(len, machine._parts.pace.early.values())) <= MAX_EARLY * 4
        assert len(machine._parts.pace.early[stage.net.ids[LIAR]]) <= MAX_EARLY
        assert len(machine._parts.vouchers.by_parent) <= PAST_MODELS
        assert len(machine._parts.catching_up.ahead) <= 4
    stage.goes_on()


KINDS = (
    "contribution",
    "choice/proposal",
    "choice/prevote",
    "choice/precommit",
    "certificate",
    "digest",
    "fetch",
    "fetched",
    "sync",
    "snapshot",
    "dialogue/none/1",
    "dialogue/none/1/2",
    "holding",
    "relayed",
    "unknown",
)
payloads = st.one_of(
    st.binary(max_size=200),
    st.recursive(
        st.one_of(
            st.none(),
            st.integers(-5, 2**63),
            st.binary(min_size=32, max_size=32),
            st.binary(max_size=20),
        ),
        lambda inner: st.lists(inner, max_size=5),
        max_leaves=15,
    ).map(canonical.dumps),
)


@settings(deadline=None, max_examples=120)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(KINDS), payloads, st.integers(0, 4), st.sampled_from(["own", "junk"])
        ),
        max_size=12,
    )
)
def test_no_signed_payload_of_any_kind_makes_a_node_raise(
    harness: ModuleType, messages: list[tuple[str, bytes, int, str]]
) -> None:
    net = harness.Net(4, byzantine=1, puppets=(LIAR,))
    net.start([0])
    machine, node = net.machine(0), net.nodes[0]
    for kind, payload, number, which in messages:
        model = machine.model_digest if which == "own" else b"\x77" * 32
        forged = net.forge(LIAR, kind, payload, number=number, model=model)
        node.effects.extend(machine.receive(forged.to_bytes(), net.ids[LIAR], net.now))
        net.now += 0.3
        node.effects.extend(machine.tick(net.now))
    assert machine.step == 0
    assert np.array_equal(machine.model, net.initial)


@settings(deadline=None, max_examples=80)
@given(st.binary(max_size=300))
def test_no_frame_makes_a_node_raise(harness: ModuleType, frame: bytes) -> None:
    net = harness.Net(4, byzantine=1, puppets=(LIAR,))
    net.start([0])
    net.machine(0).receive(frame, net.ids[LIAR], net.now)
    assert {e.subject for e in net.nodes[0].witness.evidence} == {net.ids[LIAR]}
