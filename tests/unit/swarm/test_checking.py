"""Proofs checked by a committee: with at most ``f`` liars nothing unproved is merged."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from qres_core import Envelope, RoundStatus
from qres_core.contract import canonical
from qres_core.swarm.contributions import verification as checking
from qres_core.swarm.contributions.verification import CommitteeChecks, committees
from qres_core.swarm.ledger.messages import (
    CandidateSet,
    ContributionBody,
    Member,
    Proposal,
    contribution_digest,
    decode_attestation,
)

COMMITTEE = {"proof_checks": "committee"}


def make(harness: ModuleType, nodes: int, byzantine: int, **more: Any) -> Any:
    options = {**COMMITTEE, **more.pop("options", {})}
    return harness.Net(nodes, byzantine=byzantine, plugins={"bulk": {}}, options=options, **more)


def members(net: Any, index: int, which: int = 0) -> list[int]:
    closed = [e.outcome for e in net.nodes[index].ended if e.outcome.status is RoundStatus.CLOSED]
    return [net.index_of[sender] for sender in closed[which].members]


def unproved(net: Any, index: int, value: int = 10**6) -> Envelope:
    """A contribution of round 1 whose proof is wrong."""
    body = ContributionBody(1, np.full(3, value, dtype=np.int32), {"bulk": b"wrong"}).to_bytes()
    return net.forge(index, "contribution", body, number=1, model=net.machine(0).head.digest)


def attest(net: Any, index: int, envelope: Envelope, **more: Any) -> Envelope:
    payload = canonical.dumps([contribution_digest(envelope)])
    return net.forge(index, "attestation", payload, number=1, model=envelope.head, **more)


def checkers(net: Any, index: int, number: int = 1) -> list[int]:
    """Who checks a node's proof, by index."""
    found = committees(net.ids, net.f, number)[net.ids[index]]
    return sorted(net.index_of[item] for item in found)


def checked(net: Any, index: int) -> int:
    count: int = net.nodes[index].plugin("bulk").checked
    return count


def against(net: Any, index: int) -> set[tuple[int, str]]:
    evidence = net.nodes[index].witness.evidence
    return {(net.index_of[fact.subject], fact.fact) for fact in evidence if fact.against}


def test_each_node_checks_its_charges_and_takes_the_others_word(harness: ModuleType) -> None:
    net = make(harness, 10, 1)
    net.start()
    assert net.run(until=lambda: min(net.steps()) >= 3)
    assert members(net, 0) == list(range(10))
    everyone = harness.Net(10, byzantine=1, plugins={"bulk": {}})
    everyone.start()
    assert everyone.run(until=lambda: min(everyone.steps()) >= 3)
    for node in net.nodes:
        assert node.notebook.models[3] == everyone.nodes[node.index].notebook.models[3]
        rounds = len(node.witness.opened)
        assert checked(net, node.index) <= 3 * rounds
        assert checked(everyone, node.index) >= 10 * 3
        assert not against(net, node.index)
    sent = [frame for frame in net.sent if frame.kind == "attestation" and frame.round == 1]
    for index in range(10):
        said = {frame.frame for frame in sent if frame.sender == index}
        assert len(said) == 1
        (frame,) = said
        payload = Envelope.from_bytes(frame, max_bytes=2**20).payload
        assert len(decode_attestation(payload, 9)) == 3


@pytest.mark.claim("C-zk-15")
def test_the_word_of_f_liars_is_not_enough(harness: ModuleType) -> None:
    """One liar attests another's bad proof: it is checked, refused and blamed everywhere."""
    net = make(harness, 7, 2, puppets=(5, 6), quorum=5)
    net.start()
    bad = unproved(net, 6)
    net.inject(bad, range(5))
    for liar in (5, 6):
        net.inject(attest(net, liar, bad), range(5))
    assert net.run(until=lambda: min(net.steps(range(5))) >= 1)
    for index in range(5):
        assert members(net, index) == list(range(5))
        assert (6, "bulk:bad-proof") in against(net, index)


@pytest.mark.control("C-zk-15")
def test_a_committee_of_liars_gets_anything_in(harness: ModuleType) -> None:
    """The control: the same attack with more than f liars works. It is the bound that stops it."""
    liars = checkers(make(harness, 10, 1), 9)
    net = make(harness, 10, 1, puppets=(9, *liars), quorum=6)
    honest = [index for index in range(9) if index not in liars]
    net.start()
    bad = unproved(net, 9)
    net.inject(bad, honest)
    for liar in liars[:2]:
        net.inject(attest(net, liar, bad), honest)
    assert net.run(until=lambda: min(net.steps(honest)) >= 1)
    assert 9 in members(net, honest[0])


@pytest.mark.control("C-zk-15")
def test_where_one_word_is_enough_one_liar_gets_anything_in(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control for the count: without it, the attack that must fail succeeds."""

    def any_word(self: Any, _sender: bytes, digest: bytes) -> bool:
        return bool(self._attestors.get(digest))

    monkeypatch.setattr(checking.Attestations, "suffice", any_word)
    net = make(harness, 7, 2, puppets=(5, 6), quorum=5)
    net.start()
    bad = unproved(net, 6)
    net.inject(bad, range(5))
    net.inject(attest(net, 5, bad), range(5))
    assert net.run(until=lambda: min(net.steps(range(5))) >= 1)
    assert 6 in members(net, 0)


@pytest.mark.claim("C-zk-15")
def test_nobody_can_attest_in_anothers_name(harness: ModuleType) -> None:
    net = make(harness, 7, 2, puppets=(5, 6), quorum=5)
    net.start()
    bad = unproved(net, 6)
    net.inject(bad, range(5))
    for honest in checkers(net, 6):
        others = [index for index in range(5) if index != honest]
        net.inject(attest(net, honest, bad, key=6), others, link=6)
    assert net.run(until=lambda: min(net.steps(range(5))) >= 1)
    assert members(net, 0) == list(range(5))


@pytest.mark.claim("C-zk-15")
def test_a_lying_proposer_gets_no_votes_for_what_is_not_proved(harness: ModuleType) -> None:
    net = make(harness, 4, 1, puppets=(1,))
    assert net.machine(0).proposer(1) == net.ids[1]
    net.start()
    bad = unproved(net, 1)
    net.inject(bad, [0, 2, 3])
    net.inject(attest(net, 1, bad), [0, 2, 3])

    def all_contributed() -> bool:
        return len({frame.sender for frame in net.sent if frame.kind == "contribution"}) == 3

    assert net.run(until=all_contributed)
    made = {frame.sender: frame.envelope for frame in net.sent if frame.kind == "contribution"}
    made[1] = bad
    chosen = tuple(
        Member(net.ids[index], contribution_digest(envelope))
        for index, envelope in sorted(made.items())
    )
    payload = Proposal(CandidateSet(1, chosen)).to_bytes()
    model = net.machine(0).head.digest
    net.inject(net.forge(1, "choice/proposal", payload, number=1, model=model), [0, 2, 3])
    assert net.run(until=lambda: min(net.steps([0, 2, 3])) >= 1)
    for index in (0, 2, 3):
        assert members(net, index) == [0, 2, 3]
        assert (1, "bulk:bad-proof") in against(net, index)


@pytest.mark.claim("C-zk-15")
def test_checkers_that_say_nothing_cost_no_round(harness: ModuleType) -> None:
    net = make(harness, 7, 2, rule=harness.drop(kind="attestation"))
    net.start()
    assert net.run(until=lambda: min(net.steps()) >= 2)
    assert all(node.ended[0].outcome.status is RoundStatus.CLOSED for node in net.nodes)
    assert members(net, 0) == list(range(7))


def test_a_node_that_heard_no_attestation_merges_what_the_others_decide(
    harness: ModuleType,
) -> None:
    net = make(harness, 7, 2, rule=harness.drop(kind="attestation", receiver=0))
    net.start()
    assert net.run(until=lambda: min(net.steps()) >= 1)
    assert net.nodes[0].ended[0].outcome.status is RoundStatus.CLOSED
    assert members(net, 0) == list(range(7))
    assert checked(net, 0) == 5


def test_what_is_proposed_and_not_attested_in_time_a_node_checks_itself(
    harness: ModuleType,
) -> None:
    others = {0, *range(2, 7)}
    net = make(harness, 7, 2, rule=harness.drop(kind="attestation", receiver=others))
    assert net.machine(0).proposer(1) == net.ids[1]
    net.start()
    assert net.run(until=lambda: min(net.steps()) >= 1)
    assert net.now < harness.START + harness.DEADLINE
    assert checked(net, 1) == 5
    assert {checked(net, index) for index in others} == {7}


def test_where_some_are_missing_checkers_do_not_wait_for_them(harness: ModuleType) -> None:
    """Half-way to the deadline they attest what is there, and nobody has to check it all."""
    net = make(harness, 10, 1, rule=harness.drop(kind="contribution", sender=9))
    net.start()
    assert net.run(until=lambda: min(net.steps(range(9))) >= 1)
    assert members(net, 0) == list(range(9))
    assert max(checked(net, index) for index in range(9)) <= 3
    first = min(frame.now for frame in net.sent if frame.kind == "attestation")
    assert first < harness.START + harness.DEADLINE


@pytest.mark.parametrize("mended", [True, False])
def test_checkers_do_not_wait_for_who_was_not_drawn(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch, *, mended: bool
) -> None:
    """``swarm.participants``: the others contribute nothing. The control waits for half a round."""
    if not mended:
        original = CommitteeChecks.open_round

        def open_round(checks: Any, named: Any) -> None:
            original(checks, named)
            checks._charges = checks._attestations.charges(checks._context.node_id)

        monkeypatch.setattr(CommitteeChecks, "open_round", open_round)
    net = make(harness, 8, 1, quorum=5, options={"participants": 6})
    net.start()
    assert net.run(until=lambda: min(net.steps()) >= 1)
    assert (net.now < harness.START + harness.DEADLINE / 2) is mended


def test_a_charge_that_others_attested_first_is_not_waited_for(harness: ModuleType) -> None:
    """It comes last, attested: what the checker thinks of the rest does not wait half the round."""
    net = make(harness, 7, 2)
    checker, *others = checkers(net, 6)

    def late(message: Any) -> Any:
        slow = (message.kind, message.sender, message.receiver) == ("contribution", 6, checker)
        return [(0.2, message.frame)] if slow else None

    net.rule = harness.chain(late, harness.drop(kind="attestation", receiver=checker))
    net.start()
    mine = [index for index in range(6) if checker in checkers(net, index)]

    def of_6() -> list[Envelope]:
        return [m.envelope for m in net.sent if (m.kind, m.sender) == ("contribution", 6)]

    assert net.run(until=lambda: bool(of_6()))
    for other in others[:3]:
        net.inject(attest(net, other, of_6()[0]), [checker])

    def said() -> bool:
        return any((m.kind, m.sender) == ("attestation", checker) for m in net.sent)

    assert net.run(until=said, seconds=harness.DEADLINE / 2 - 0.1)
    assert checked(net, checker) == len(mine) == 4


def test_what_waits_for_others_word_is_handed_to_who_asks(harness: ModuleType) -> None:
    net = make(harness, 7, 2)
    proposer = net.index_of[net.machine(0).proposer(1)]
    deaf = (proposer + 1) % 7
    net.rule = harness.drop(kind="contribution", receiver=deaf, sender=(proposer + 2) % 7)
    net.start()
    assert net.run(until=lambda: min(net.steps()) >= 1)
    assert members(net, deaf) == list(range(7))


def test_contributions_of_one_sender_do_not_pile_up(harness: ModuleType) -> None:
    net = make(harness, 7, 2, puppets=(6,))
    net.start()
    for value in range(40):
        net.inject(unproved(net, 6, value), range(6))
    net.run(seconds=0.005)
    for index in range(6):
        assert len(net.machine(index)._collector.checks) <= 1
        assert (6, "bulk:bad-proof") in against(net, index)


@pytest.mark.parametrize("good", [True, False])
def test_what_waits_when_a_round_closes_is_checked_and_goes_with_it(
    harness: ModuleType, *, good: bool
) -> None:
    """A contribution that no set names, and nobody attests: blamed if it is bad, never kept."""
    net = make(harness, 7, 2, puppets=(6,))
    (waits,) = set(range(6)) - set(checkers(net, 6))  # the one that is not in charge of it
    model = net.machine(0).head.digest

    def contribute(value: int, *, good: bool = True) -> Envelope:
        vector = np.full(3, value, dtype=np.int32)
        proof = harness.Bulk.of(vector, net.machine(0).model_digest) if good else b"wrong"
        body = ContributionBody(1, vector, {"bulk": proof}).to_bytes()
        made: Envelope = net.forge(6, "contribution", body, number=1, model=model)
        net.inject(made, range(6))
        return made

    net.start()
    contribute(1)
    assert net.run(until=lambda: any(frame.kind == "choice/proposal" for frame in net.sent))
    net.rule = harness.drop(kind="attestation", receiver=waits)
    late = contribute(10**6, good=good)
    assert net.run(until=lambda: min(net.steps(range(6))) >= 1)
    for index in range(6):
        assert members(net, index) == list(range(7))
        assert against(net, index) == {(6, "equivocation" if good else "bulk:bad-proof")}
        assert net.machine(index)._collector.gathering.get(contribution_digest(late)) is None


@pytest.mark.parametrize("payload", [b"", b"\xff", canonical.dumps([]), canonical.dumps([b"x"])])
def test_an_attestation_that_is_none_is_refused(harness: ModuleType, payload: bytes) -> None:
    net = make(harness, 4, 1, puppets=(3,))
    net.start()
    model = net.machine(0).head.digest
    net.inject(net.forge(3, "attestation", payload, number=1, model=model), [0])
    net.run(seconds=0.005)
    assert net.nodes[0].refused
    assert {fact for _who, fact in against(net, 0)}


def test_where_everybody_checks_an_attestation_is_no_message(harness: ModuleType) -> None:
    net = harness.Net(4, byzantine=1, puppets=(3,), plugins={"bulk": {}})
    net.start()
    bad = unproved(net, 3)
    net.inject(attest(net, 3, bad), [0])
    net.run(seconds=0.005)
    assert net.nodes[0].refused["unknown-kind"] == 1


def test_a_node_alone_checks_itself(harness: ModuleType) -> None:
    net = make(harness, 1, 0)
    net.start()
    assert net.run(until=lambda: min(net.steps()) >= 1, seconds=harness.DEADLINE / 2)
    assert checked(net, 0) >= 1
