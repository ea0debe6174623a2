"""Votes behind digests: quorums that somebody quotes, what is kept of them, and what is shown."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qres_core import Envelope
from qres_core.swarm.consensus.votes import Lock, Step
from qres_core.swarm.ledger.messages import (
    CandidateSet,
    Member,
    OutcomeProposal,
    Proposal,
    encode_conclusion,
    encode_vote,
)
from qres_core.swarm.ledger.results import Conclusion, Merged

LIAR = 1
VALUE = b"\x44" * 32


def staged(harness: ModuleType) -> Any:
    """Round 1 with no proposal yet."""
    net = harness.Net(4, byzantine=1, puppets=(LIAR,))
    net.wait_for_all()
    net.start()
    net.run(seconds=0.5)
    return net


def votes(net: Any, voters: Sequence[int], value: bytes = VALUE, **more: Any) -> list[Envelope]:
    where = {"number": 1, "model": net.machine(0).head.digest, **more}
    kind = where.pop("kind", "choice/prevote")
    return [net.vote(voter, kind, value, **where) for voter in voters]


def ask(net: Any, quoted: Sequence[Envelope], by: int = LIAR) -> bool:
    choice = net.machine(0)._height.choice
    found: bool = choice.quoted(Step.PREVOTE, 1, VALUE, quoted, net.ids[by], net.now)
    return found


@given(data=st.data())
def test_a_quoted_quorum_counts_exactly_if_enough_of_it_is_authentic(
    harness: ModuleType, data: st.DataObject
) -> None:
    """Against counting by hand, in whatever order, with whatever beside it."""
    net = shared(harness)
    net.machine(0)._height.choice._liars.clear()
    good = data.draw(st.sets(st.integers(0, 3)))
    junk = [
        *votes(net, [0, 2], value=b"\x55" * 32),
        *votes(net, [0, 3], number=2),
        *votes(net, [0, 2], model=b"\x66" * 32),
        *votes(net, [2, 3], kind="choice/precommit"),
        net.forge(2, "choice/prevote", votes(net, [2])[0].payload, number=1,
                  model=net.machine(0).head.digest, key=LIAR),
        *votes(net, sorted(good)),
    ]  # fmt: skip
    quoted = data.draw(st.permutations([*votes(net, sorted(good)), *junk]))
    engine = net.machine(0)._height.choice.engine
    engine._tallies.pop((1, Step.PREVOTE), None)
    net.machine(0)._height.choice._proofs.clear()
    assert ask(net, quoted) == (len(good) >= 3)
    kept = net.machine(0)._height.choice.quorum(Step.PREVOTE, 1, VALUE)
    if len(good) >= 3:
        senders = [net.index_of[vote.sender] for vote in kept]
        assert len(senders) == 3 == len({*senders} & good)
        assert senders == sorted(senders)
    else:
        assert kept == ()


_net: list[Any] = []


def shared(harness: ModuleType) -> Any:
    """A swarm that many examples ask."""
    if not _net:
        _net.append(staged(harness))
    return _net[0]


def test_who_quoted_none_is_not_asked_again_at_this_height_and_is_at_the_next(
    harness: ModuleType,
) -> None:
    net = staged(harness)
    assert not ask(net, votes(net, [0, 2]))
    assert not ask(net, votes(net, [0, 2, 3])), "it had its chance"
    assert ask(net, votes(net, [0, 2, 3]), by=2)
    assert ask(net, (), by=LIAR), "what is known needs no proof"
    assert net.run(until=lambda: min(net.steps()) >= 1)
    assert net.ids[LIAR] not in net.machine(0)._height.choice._liars
    assert ask(net, votes(net, [0, 2, 3]))


def test_votes_of_who_the_swarm_banned_are_left_out(harness: ModuleType) -> None:
    net = harness.Net(4, byzantine=1, puppets=(LIAR, 3))
    net.start()
    head = net.machine(0).head.digest
    for choice in (None, VALUE):
        net.inject(net.vote(3, "choice/prevote", choice, number=1, model=head), [0, 2])
    _propose_all(net)
    assert net.run(until=lambda: bool(net.machine(0).head.bans), seconds=20.0)
    assert not ask(net, votes(net, [0, LIAR, 3]))
    assert ask(net, [*votes(net, [0, LIAR, 3]), *votes(net, [2])], by=2)


def _propose_all(net: Any) -> None:
    """The liar contributes and votes as it should, so that three are a quorum."""
    honest = net.rule

    def rule(message: Any) -> Any:
        if message.sender == 0 and message.receiver == 2:
            envelope = message.envelope
            echoed = envelope.kind.startswith(("choice/pre", "outcome/pre"))
            if echoed or envelope.kind == "contribution":
                said = net.forge(
                    LIAR, envelope.kind, envelope.payload, number=envelope.round,
                    model=envelope.head,
                )  # fmt: skip
                net.inject(said, [0, 2], delay=0.001)
        return None if honest is None else honest(message)

    net.rule = rule


@pytest.mark.parametrize("instance", ["choice", "outcome"])
def test_a_lock_that_is_told_is_known_and_can_be_told_on(
    harness: ModuleType, instance: str
) -> None:
    net = staged(harness)
    machine = net.machine(0)
    head = machine.head.digest
    if instance == "choice":
        candidate = CandidateSet(1, tuple(Member(i, VALUE) for i in net.ids[:3]))
        value, prefix = candidate.digest(head), "choice/"
        quoted = tuple(votes(net, [0, 1, 2], value=value))
        payload = Proposal(candidate, 1, quoted).to_bytes()
    else:
        about = Conclusion(VALUE, Merged(VALUE))
        value, prefix = about.digest, "outcome/"
        said = encode_conclusion(about)
        quoted = tuple(
            net.forge(i, "outcome/prevote", said, number=1, model=head) for i in (0, 1, 2)
        )
        payload = OutcomeProposal(about, 1, quoted).to_bytes()
    told = net.forge(LIAR, prefix + "lock", payload, number=1, model=head)
    net.inject(told, [0])
    net.run(seconds=0.001)
    instance_of = getattr(machine._height, instance)
    assert instance_of.engine.tally(1, Step.PREVOTE).has_quorum(value)
    proof = instance_of.quorum(Step.PREVOTE, 1, value)
    assert {vote.sender for vote in proof} == set(net.ids[:3])
    assert instance_of._proposal(Lock(value, 1), proof) == payload
    assert not net.nodes[0].refused


@pytest.mark.parametrize("kind", ["choice/lock", "outcome/lock"])
def test_a_lock_of_no_round_or_without_a_quorum_is_refused(harness: ModuleType, kind: str) -> None:
    net = staged(harness)
    head = net.machine(0).head.digest
    candidate = CandidateSet(1, tuple(Member(i, VALUE) for i in net.ids[:3]))
    about = Conclusion(VALUE, Merged(VALUE))
    for number in (0, 1):
        told = (
            Proposal(candidate, number).to_bytes()
            if kind == "choice/lock"
            else OutcomeProposal(about, number).to_bytes()
        )
        net.inject(net.forge(LIAR, kind, told, number=1, model=head), [0])
    net.run(seconds=0.001)
    assert net.nodes[0].refused == {"unproven-lock": 2}


@pytest.mark.parametrize("replaced", [True, False])
def test_votes_of_a_replaced_key_prove_nothing_and_blame_nobody(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch, *, replaced: bool
) -> None:
    """Whoever kept them is honest. Without another key the same lock blames who shows it."""
    net = staged(harness)
    kernel, head = net.machine(0).kernel, net.machine(0).head.digest
    monkeypatch.setattr(kernel, "authentic", lambda *_of: False)
    monkeypatch.setattr(kernel.intake, "key_index", lambda who: int(replaced and who == net.ids[2]))
    candidate = CandidateSet(1, tuple(Member(i, VALUE) for i in net.ids[:3]))
    quoted = tuple(votes(net, [0, 1, 2], value=candidate.digest(head)))
    shown = Proposal(candidate, 1, quoted).to_bytes()
    net.inject(net.forge(LIAR, "choice/lock", shown, number=1, model=head), [0])
    net.run(seconds=0.001)
    assert net.nodes[0].refused == {"unproven-lock": 1}
    blamed = {e.subject for e in net.nodes[0].witness.evidence if e.against}
    assert blamed == (set() if replaced else {net.ids[LIAR]})


def test_a_lock_outlives_a_restart_with_its_proof(harness: ModuleType) -> None:
    """A locked node that restarts proposes what it is locked on, and the others believe it."""

    def rule(message: Any) -> Any:
        if message.round != 1:
            return None
        if message.kind == "choice/proposal" and message.receiver == 3:
            return ()
        lost = message.kind == "choice/prevote" and message.sender == 2
        shown = message.kind == "choice/lock"
        return () if shown or (lost and message.receiver in (1, 3)) else None

    net = harness.Net(4, byzantine=1, rule=rule)
    net.start()
    assert net.run(until=lambda: net.nodes[2].notebook.lock is not None)
    locked = net.machine(2)._height.choice.engine.lock
    net.restart(2)
    assert net.machine(2)._height.choice.engine.lock == locked
    assert net.run(until=lambda: min(net.steps()) >= 1, seconds=20.0)
    assert not net.forks()
    sent = [m for m in net.sent if m.kind == "choice/proposal" and m.sender == 2]
    proposal = Proposal.from_bytes(sent[0].envelope.payload, 4)
    assert proposal.lock_round == 1
    assert len(proposal.prevotes) == 3
    assert {node.refused["unproven-lock"] for node in net.nodes} == {0}
    (link,) = [net.machine(0)._history.links[0]]
    assert link.chosen == proposal.candidate


@pytest.mark.parametrize(
    ("voters", "forged", "counts"),
    [
        ((0, 2, 3), (), True),  # the control
        ((0, 2, 3), (2,), True),
        ((0, 3), (2,), False),
        ((0, 0, 3), (), False),
        ((0, 3), (), False),
        ((3,), (0, 2), False),
    ],
)
def test_votes_that_are_quoted_count_if_who_they_name_made_them(
    harness: ModuleType, voters: tuple[int, ...], forged: tuple[int, ...], *, counts: bool
) -> None:
    net = staged(harness)
    head, payload = net.machine(0).head.digest, encode_vote(VALUE)
    made_up = [
        net.forge(voter, "choice/prevote", payload, number=1, model=head, key=LIAR)
        for voter in forged
    ]
    assert ask(net, [*made_up, *votes(net, voters)]) is counts
    kept = net.machine(0)._height.choice.quorum(Step.PREVOTE, 1, VALUE)
    assert [net.index_of[vote.sender] for vote in kept] == ([0, 2, 3] if counts else [])


def test_a_second_vote_is_refused_and_held_against_its_sender(harness: ModuleType) -> None:
    net = staged(harness)
    net.inject(votes(net, [3])[0], [0])
    net.run(seconds=0.001)
    assert not net.nodes[0].refused, "control"
    net.inject(votes(net, [3], value=b"\x55" * 32)[0], [0])
    net.run(seconds=0.001)
    assert net.nodes[0].refused == {"equivocation": 1}
    assert {e.subject for e in net.nodes[0].witness.evidence if e.against} == {net.ids[3]}
