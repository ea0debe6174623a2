"""Ways in which f liars, a network or a crash broke the agreement, each with its control."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import attrs
import numpy as np
import pytest

from qres_core import Fault, NodeId, Standing, hookimpl
from qres_core.contract.errors import WireError
from qres_core.contract.types import FULL_STANDING
from qres_core.kernel.discovery import Installed
from qres_core.swarm.agreement.instances import Instance
from qres_core.swarm.agreement.outcome import OutcomeVote
from qres_core.swarm.consensus.engine import Consensus
from qres_core.swarm.consensus.votes import Proposed, Step
from qres_core.swarm.context.effects import Removed
from qres_core.swarm.ledger.messages import (
    CONTRIBUTION,
    EVIDENCE_BYTES,
    LOCK,
    OUTCOME_PRECOMMIT,
    OUTCOME_PROPOSAL,
    PRECOMMIT,
    PREVOTE,
    PROPOSAL,
    CandidateSet,
    ContributionBody,
    Member,
    Proposal,
    encode_conclusion,
    encode_vote,
)
from qres_core.swarm.ledger.misbehaviour import Misbehaviour

LIAR = 3


# ── the proof of a lock ───────────────────────────────────────────────────────────────────────────


def after_an_old_lock(harness: ModuleType) -> Any:
    """Node 2 locks in round 2 with the liar's help; nobody hears of its lock for twenty rounds.

    It does not propose meanwhile: there is a coordinator. In a large swarm it is the same.
    """
    bad = [True]

    def rule(message: Any) -> Any:
        if not bad[0]:
            return None
        if message.kind == PROPOSAL and (message.round == 1 or message.receiver == 1):
            return ()
        return () if message.kind == LOCK else None

    coordinator = {"topology": "coordinator"}
    net = harness.Net(4, byzantine=1, puppets=[LIAR], rule=rule, quorum=3, options=coordinator)
    net.wait_for_all()
    net.start()
    head = net.machine(0).head.digest
    nil = encode_vote(None)

    def reached(number: int) -> bool:
        return bool(min(net.machine(at).number for at in (0, 1)) >= number)

    for number in range(1, 22):
        assert net.run(until=lambda number=number: reached(number), seconds=60)
        if number == 2:
            found = set[bytes]()

            def proposed(found: set[bytes] = found) -> bool:
                found.update(
                    sent.envelope.payload
                    for sent in net.sent
                    if sent.kind == PROPOSAL and sent.round == 2
                )
                return bool(found)

            assert net.run(until=proposed, seconds=5)
            value = Proposal.from_bytes(found.pop(), 4).candidate.digest(head)
            told = net.forge(LIAR, PREVOTE, encode_vote(value), number=2, model=head)
            net.inject(told, [2])
            others = [0, 1]
        else:
            others = [0, 1, 2]
        net.inject(net.forge(LIAR, PREVOTE, nil, number=number, model=head), others)
        net.inject(net.forge(LIAR, PRECOMMIT, nil, number=number, model=head), [0, 1, 2])
    assert net.steps(range(3)) == [0, 0, 0]
    lock = net.machine(2)._height.choice.engine.lock
    assert lock is not None
    assert lock.round == 2
    bad[0] = False
    net.run(seconds=200, until=lambda: min(net.steps(range(3))) >= 3, events=200_000)
    assert not net.forks(range(3))
    return net


def test_a_lock_keeps_its_proof_however_many_rounds_fail(harness: ModuleType) -> None:
    net = after_an_old_lock(harness)
    assert min(net.steps(range(3))) >= 3
    facts = {fact for index in (0, 1) for fact in net.nodes[index].refused}
    assert "unproven-lock" not in facts


def test_without_the_votes_behind_an_old_lock_the_swarm_stands_still(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: votes of rounds long past are forgotten, those that made a lock too."""
    forget = Instance._forget

    def all_of_them(self: Instance) -> None:
        forget(self)
        self._heard = {key: kept for key, kept in self._heard.items() if key in self.engine.kept}

    monkeypatch.setattr(Instance, "_forget", all_of_them)
    net = after_an_old_lock(harness)
    assert net.steps(range(3)) == [0, 0, 0]


def forgets_what_it_knew(self: Consensus[Any], proposed: Proposed) -> bool:
    number = proposed.valid_round
    known = self.tally(number, Step.PREVOTE).has_quorum(proposed.value)
    return number == 0 or (number < self.round and known)


def test_a_coordinator_that_forgot_the_votes_behind_its_own_proposal_stops_the_swarm(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other control: the proposer lacks the proof of what it proposes again."""
    monkeypatch.setattr(Consensus, "_is_proven", forgets_what_it_knew)
    assert after_an_old_lock(harness).steps(range(3)) == [0, 0, 0]


def after_a_coordinator_restarts(harness: ModuleType) -> list[int]:
    """All lock in round 1, the coordinator restarts, and the liar never says a word."""

    def rule(message: Any) -> Any:
        first = message.round == 1 and message.kind in {LOCK, PRECOMMIT}
        lost = first and (message.kind == LOCK or 0 in (message.sender, message.receiver))
        return () if lost else None

    coordinator = {"topology": "coordinator"}
    net = harness.Net(4, byzantine=1, puppets=[LIAR], rule=rule, quorum=3, options=coordinator)
    net.wait_for_all()
    net.start()
    notes = [net.nodes[index].notebook for index in range(3)]
    assert net.run(until=lambda: all(note.lock is not None for note in notes), seconds=5)
    net.restart(0)
    net.run(seconds=100, until=lambda: min(net.steps(range(3))) >= 3, events=200_000)
    assert not net.forks(range(3))
    return list(net.steps(range(3)))


def test_a_coordinator_that_restarts_proposes_its_lock_and_votes_for_it(
    harness: ModuleType,
) -> None:
    assert min(after_a_coordinator_restarts(harness)) >= 3


def test_a_coordinator_that_does_not_believe_its_own_lock_stops_the_swarm(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control."""
    monkeypatch.setattr(Consensus, "_is_proven", forgets_what_it_knew)
    assert after_a_coordinator_restarts(harness) == [0, 0, 0]


# ── a proposer of an outcome that restarts ────────────────────────────────────────────────────────


def faults_of_a_proposer_that_restarts(harness: ModuleType) -> set[str]:
    """What others hold against a node that was killed after it proposed an outcome."""

    def rule(message: Any) -> Any:
        first = message.round == 1 and message.kind == OUTCOME_PRECOMMIT
        return () if first and (message.receiver - message.sender) % 3 == 1 else None

    net = harness.Net(4, byzantine=1, puppets=[LIAR], rule=rule, quorum=3)
    net.start()

    def said(kind: str) -> list[Any]:
        return [message for message in net.sent if message.kind == kind]

    assert net.run(until=lambda: bool(said(OUTCOME_PRECOMMIT)), seconds=10)
    head, nil = net.machine(0).head.digest, encode_conclusion(None)
    told = net.forge(LIAR, OUTCOME_PRECOMMIT, nil, number=1, model=head)
    net.inject(told, [0, 1, 2], delay=0.05)
    assert net.run(until=lambda: bool(said(OUTCOME_PROPOSAL)), seconds=20)
    net.restart(said(OUTCOME_PROPOSAL)[0].sender)
    net.run(seconds=60, until=lambda: min(net.steps(range(3))) >= 1)
    assert min(net.steps(range(3))) >= 1
    assert not net.forks(range(3))
    return {str(fault) for index in range(3) for fault in net.nodes[index].refused}


def test_nobody_is_blamed_for_a_restart_after_it_proposed_an_outcome(harness: ModuleType) -> None:
    assert not faults_of_a_proposer_that_restarts(harness)


def test_a_node_that_repeats_what_its_journal_says_of_a_proposal_is_blamed(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: the journal keeps the decision, which is no payload of a proposal."""
    begin = OutcomeVote.begin

    def repeat(self: OutcomeVote, chosen: bytes, origin: int, now: float) -> None:
        for number, kind, payload in self._restored:
            if kind == OUTCOME_PROPOSAL:
                self._speaker.say(kind, payload, now, round_number=number)
        begin(self, chosen, origin, now)

    monkeypatch.setattr(OutcomeVote, "begin", repeat)
    assert faults_of_a_proposer_that_restarts(harness) == {"malformed-payload"}


# ── a member that is removed ──────────────────────────────────────────────────────────────────────


def after_a_removal(harness: ModuleType, *, stays: bool) -> list[int]:
    """Node 0 is removed, and its last vote is lost. The liar is silent, so the others need it.

    ``stays``: whether node 0 goes on until it knows that others heard.
    """

    def rule(message: Any) -> Any:
        return () if message.sender == 0 and message.kind == OUTCOME_PRECOMMIT else None

    liar = 4
    net = harness.Net(5, byzantine=1, puppets=[liar], rule=rule, quorum=4)
    roster = net.machine(0).head.roster
    change = roster.change(harness.NAME, "remove", net.ids[0])
    signed = [harness.sign(who, change.statement(who, 0)) for who in net.ids[:4]]
    for index in range(4):
        machine = net.machine(index)
        machine.changes.offer(change.signed(signed), lambda _signed: True)
    net.start()
    net.run(seconds=60, until=lambda: net.machine(0).head.height >= 1)
    assert net.ids[0] not in net.machine(0).head.roster
    if not stays:
        net.machine(0).stop()
    net.run(seconds=100, until=lambda: min(net.steps([1, 2, 3])) >= 3, events=200_000)
    if stays:
        assert net.machine(0)._is_over, "it has stopped since"
        assert net.nodes[0].effects[-1] == Removed(1)
    return list(net.steps([1, 2, 3]))


def test_a_removed_member_stays_until_others_know_of_it(harness: ModuleType) -> None:
    assert min(after_a_removal(harness, stays=True)) >= 3


def test_a_removed_member_that_stops_at_once_may_stop_all(harness: ModuleType) -> None:
    """The control."""
    assert after_a_removal(harness, stays=False) == [0, 0, 0]


# ── objections that are waived ────────────────────────────────────────────────────────────────────


@attrs.define
class Trusting:
    """Everybody has full standing."""

    @hookimpl
    def reputation(self, sender: NodeId) -> Standing:
        del sender
        return Standing()


def accepts_bent(harness: ModuleType, bent: Sequence[int]) -> bool:
    """Whether a node that waived one objection after the other takes a set with these bent."""
    harness.INSTALLED["trusting"] = Installed.local("trusting", Trusting)
    net = harness.Net(7, byzantine=2, plugins={"trusting": {}}, quorum=5)
    net.start()
    choice = net.machine(0)._height.choice
    for who in net.ids[1:5]:
        choice._waivers.add([who])
    members = tuple(
        Member(who, bytes(32), 1 if index in bent else FULL_STANDING)
        for index, who in enumerate(net.ids)
    )
    return bool(choice._accepts(CandidateSet(1, members), bytes(32), choice.merger, net.now))


def test_waivers_do_not_add_up_to_more_than_f_members(harness: ModuleType) -> None:
    assert accepts_bent(harness, [])
    assert accepts_bent(harness, [1, 2]), "two of the four are waived"
    assert not accepts_bent(harness, [5]), "of this one nothing is waived"
    assert not accepts_bent(harness, [1, 2, 3]), "one too many"
    assert not accepts_bent(harness, [1, 2, 3, 4])


# ── evidence that is too large to be handed on ────────────────────────────────────────────────────


def with_evidence(harness: ModuleType, octets: int) -> CandidateSet:
    """A set with evidence against three members, of so many bytes each."""
    net = harness.Net(10, byzantine=3)
    evidence = tuple(
        Misbehaviour.of(
            Fault.MALFORMED_PAYLOAD,
            net.forge(index, PROPOSAL, bytes(octets), number=1, model=bytes(32)),
        )
        for index in range(3)
    )
    members = tuple(Member(who, bytes(32)) for who in net.ids)
    return CandidateSet(1, members, evidence)


def test_a_set_with_more_evidence_than_an_honest_proposer_adds_is_refused(
    harness: ModuleType,
) -> None:
    fits = with_evidence(harness, 80_000)
    assert CandidateSet.from_raw(fits.raw(), 10) == fits
    large = with_evidence(harness, 100_000)
    with pytest.raises(WireError, match="evidence"):
        CandidateSet.from_raw(large.raw(), 10)


# ── rounds that a node was not there for ──────────────────────────────────────────────────────────


def test_rounds_that_a_late_node_skips_waive_no_objection(harness: ModuleType) -> None:
    net = harness.Net(4, byzantine=1)
    net.start()
    choice = net.machine(0)._height.choice
    for peer in net.ids[1:3]:
        choice.engine.see(peer, 500)
    choice.begin(5, net.now)
    assert choice.engine.round == 500, "more than f others are there"
    assert choice.attempts == 0
    choice.engine.see(net.ids[1], 502)
    choice.engine.see(net.ids[2], 502)
    choice._do(choice.engine.advance(), net.now)
    assert choice.attempts == 2, "these rounds came to nothing while it was there"


# ── evidence that is larger than a message ────────────────────────────────────────────────────────


def models_after_a_large_lie(harness: ModuleType, size: int) -> tuple[int, bool, set[str]]:
    """The liar speaks once, out of turn, in a message as large as the swarm allows.

    Returns the models that the others make then, whether they ban it, and what they blame honest
    nodes for.
    """
    liar, honest = 3, [0, 1, 2]
    net = harness.Net(4, byzantine=1, puppets=[liar], options={"max_message_bytes": 6000})
    net.start()
    assert net.run(seconds=20, until=lambda: min(net.steps(honest)) >= 2)
    machine = net.machine(0)
    assert net.run(
        seconds=20,
        until=lambda: machine.proposer(machine.number) != net.ids[liar] and not machine.waits_until,
    )
    before = max(net.steps(honest))
    lie = net.forge(liar, PROPOSAL, bytes(size), number=machine.number, model=machine.head.digest)
    net.inject(lie, honest)
    net.run(seconds=5)
    faults = {
        str(item.fact)
        for index in honest
        for item in net.nodes[index].witness.evidence
        if item.subject != net.ids[liar] and item.fact in set(Fault)
    }
    return min(net.steps(honest)) - before, net.ids[liar] in machine.head.bans, faults


def test_a_lie_as_large_as_a_message_stops_nobody(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, banned, faults = models_after_a_large_lie(harness, 500)
    assert (models > 5, banned, faults) == (True, True, set()), "a small one bans its author"
    models, banned, faults = models_after_a_large_lie(harness, 5600)
    assert (models > 2, banned, faults) == (True, False, set())
    # The control: every honest proposal quotes it, is too large, and is held against its author.
    room = "qres_core.swarm.members.amendments.evidence_room"
    monkeypatch.setattr(room, lambda _most: EVIDENCE_BYTES)
    models, banned, faults = models_after_a_large_lie(harness, 5600)
    assert (models <= 1, banned, faults) == (True, False, {Fault.FRAME_TOO_LARGE.value})


def models_beside_large_contributions(harness: ModuleType, size: int) -> tuple[int, set[str]]:
    """The liar gives a contribution as large as a message to one node alone, in each round.

    Returns the models that the others make, and what they blame honest nodes for.
    """
    liar, honest = 3, [0, 1, 2]
    net = harness.Net(4, byzantine=1, puppets=[liar], options={"max_message_bytes": 6000})
    net.start()
    body = ContributionBody(1, np.array([1, 0, 0], dtype=np.int32), {"junk": bytes(size)})
    known: set[tuple[bytes, int]] = set()
    while net.now < harness.START + 20:
        for machine in map(net.machine, honest):
            place = machine.head.digest, machine.number
            if place not in known:
                known.add(place)
                said = net.forge(
                    liar, CONTRIBUTION, body.to_bytes(), number=place[1], model=place[0]
                )
                net.inject(said, [0])
        net.run(seconds=0.02)
    faults = {
        str(item.fact)
        for index in honest
        for item in net.nodes[index].witness.evidence
        if item.subject != net.ids[liar] and item.fact in set(Fault)
    }
    return min(net.steps(honest)), faults


def test_a_contribution_that_nobody_can_quote_is_not_taken(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in a swarm in which a plugin sends something large beside updates.
    monkeypatch.setattr("qres_core.kernel.intake.Intake.check_beside", lambda *_arguments: None)
    models, faults = models_beside_large_contributions(harness, 5700)
    assert not faults
    fits = "qres_core.swarm.contributions.intake.fits_quoted"
    monkeypatch.setattr(fits, lambda _envelope, _most: True)  # the control
    fewer, faults = models_beside_large_contributions(harness, 5700)
    assert faults == {Fault.FRAME_TOO_LARGE.value}
    assert fewer < models
