"""The round machine, driven message by message on a virtual clock."""

from __future__ import annotations

import random
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from types import ModuleType, SimpleNamespace
from typing import Any

import attrs
import numpy as np
import pytest

from qres_core import (
    ACCEPT,
    Accusation,
    Blame,
    Contribution,
    NodeId,
    RoundInfo,
    RoundStatus,
    Standing,
    Update,
    model_digest,
)
from qres_core.dialogues import DialogueMessage, Send
from qres_core.errors import RoundError
from qres_core.swarm.consensus.engine import Consensus
from qres_core.swarm.consensus.votes import Step
from qres_core.swarm.context.effects import Agreed, Refused, SatOut, SendTo
from qres_core.swarm.ledger.chain import PAST_HEADS
from qres_core.swarm.ledger.messages import (
    ContributionBody,
    decode_vote,
    encode_enough,
    encode_stop,
    encode_sync,
    goal_digest,
)
from qres_core.swarm.machine.rounds import RoundMachine


def merged(harness: ModuleType, info: RoundInfo, indices: Sequence[int]) -> list[int]:
    """The exact mean of the nodes' usual updates, half to even."""
    rows = [harness.distinct_update(index, info).vector.tolist() for index in indices]
    return [round(Fraction(sum(column), len(rows))) for column in zip(*rows, strict=True)]


def members(net: Any, index: int, which: int = 0) -> list[int]:
    """Indices of the nodes whose contributions a node's closed round merged."""
    closed = [e.outcome for e in net.nodes[index].ended if e.outcome.status is RoundStatus.CLOSED]
    return [net.index_of[sender] for sender in closed[which].members]


def kinds_to(net: Any, receiver: int) -> set[str]:
    return {message.kind for message in net.sent if message.receiver == receiver}


def votes_of(net: Any, index: int) -> dict[tuple[str, int, bytes], set[bytes | None]]:
    """What a node voted for, by kind, round and model."""
    votes: dict[tuple[str, int, bytes], set[bytes | None]] = {}
    for message in net.sent:
        if message.sender == index and message.kind in ("choice/prevote", "choice/precommit"):
            envelope = message.envelope
            key = envelope.kind, envelope.round, envelope.head
            votes.setdefault(key, set()).add(decode_vote(envelope.payload))
    return votes


# ── a round that goes well ────────────────────────────────────────────────────────────────────────


def test_a_clean_round_merges_everybodys_update(harness: ModuleType) -> None:
    net = harness.Net(4, byzantine=1)
    net.start()
    assert net.run(until=lambda: min(net.steps()) >= 1, seconds=0.9)  # all are there: no waiting
    info = net.nodes[0].witness.opened[0]
    expected = net.initial + np.array(merged(harness, info, range(4)), dtype=np.int32)
    for node in net.nodes:
        assert node.notebook.models[1] == model_digest(expected, 1)
        assert members(net, node.index) == [0, 1, 2, 3]
        assert not node.machine.kernel.rejections
    net.run(seconds=0.2)
    assert all(any(isinstance(e, Agreed) for e in node.effects) for node in net.nodes)


@pytest.mark.parametrize(("nodes", "byzantine"), [(1, 0), (2, 0), (3, 0), (4, 1), (7, 2), (10, 3)])
def test_swarms_of_every_size_make_models(harness: ModuleType, nodes: int, byzantine: int) -> None:
    net = harness.Net(nodes, byzantine=byzantine)
    net.start()
    assert net.run(until=lambda: min(net.steps()) >= 3)
    assert not net.forks()


def test_a_coordinator_proposes_every_round(harness: ModuleType) -> None:
    net = harness.Net(4, byzantine=1, options={"topology": "coordinator"})
    net.start()
    assert net.run(until=lambda: min(net.steps()) >= 3)
    assert {message.sender for message in net.sent if message.kind == "choice/proposal"} == {0}


def test_every_round_is_opened_once_and_closed_once(harness: ModuleType) -> None:
    net = harness.Net(4, byzantine=1, rule=harness.drop(sender=1, round=range(5, 9)))
    net.start()
    assert net.run(until=lambda: min(net.steps()) >= 6)
    for node in net.nodes:
        order = node.witness.order
        numbers = [number for what, number in order if what == "opened"]
        assert numbers == sorted(set(numbers))
        pairs = [(what, number) for number in numbers for what in ("opened", "closed")]
        assert order == pairs[: len(order)]
        assert len(pairs) - len(order) == 1  # the round that runs


def test_a_round_that_changes_nothing_is_a_step_all_the_same(harness: ModuleType) -> None:
    zero = Update(np.zeros(3, dtype=np.int32))
    net = harness.Net(4, byzantine=1, train=lambda _index, _info: zero)
    net.start()
    assert net.run(until=lambda: min(net.steps()) >= 3)
    assert not net.forks()
    assert len(set(net.nodes[0].notebook.models.values())) >= 3  # one name for every step
    assert np.array_equal(net.machine(0).model, net.initial)


# ── quorum and deadline ───────────────────────────────────────────────────────────────────────────


@pytest.mark.claim("C-agreement-5")
def test_below_quorum_nothing_changes_and_the_next_proposer_tries(harness: ModuleType) -> None:
    def train(index: int, info: RoundInfo) -> Update | None:
        if index == 3 and info.number == 1:
            return None
        update: Update = harness.distinct_update(index, info)
        return update

    net = harness.Net(4, quorum=4, train=train)
    net.start()
    before = net.digests()
    assert net.run(until=lambda: all(node.ended for node in net.nodes))
    for node in net.nodes:
        first = node.ended[0]
        assert first.outcome.status is RoundStatus.ABORTED
        assert first.outcome.reason == "3 contributions, quorum 4"
        assert first.outcome.model_digest in before
        assert first.merged is None
        assert np.array_equal(first.model, net.initial)
    assert net.digests() == before
    assert net.run(until=lambda: min(net.steps()) >= 1)
    proposals = [m for m in net.sent if m.kind == "choice/proposal"]
    assert {(m.sender, m.round) for m in proposals} == {(2, 2)}


def test_at_the_deadline_a_quorum_suffices(harness: ModuleType) -> None:
    net = harness.Net(
        4,
        byzantine=1,
        quorum=3,
        train=lambda i, info: harness.distinct_update(i, info) if i else None,
    )
    net.wait_for_all()
    net.start()
    assert net.run(until=lambda: min(net.steps()) >= 1)
    assert net.now - harness.START >= harness.DEADLINE  # somebody was waited for
    assert members(net, 2) == [1, 2, 3]
    assert any(isinstance(effect, SatOut) for effect in net.nodes[0].effects)
    assert net.steps()[0] == 1  # who sits out votes and merges


def test_a_silent_proposer_costs_a_round(harness: ModuleType) -> None:
    net = harness.Net(4, byzantine=1, puppets=(1,))  # proposes round 1
    net.start()
    assert net.run(until=lambda: min(net.steps()) >= 1)
    ended = [(e.outcome.status, e.outcome.reason) for e in net.nodes[0].ended]
    assert ended[:2] == [(RoundStatus.ABORTED, "no proposal"), (RoundStatus.CLOSED, "")]


def test_a_trainer_that_fails_sits_out_and_its_node_goes_on(harness: ModuleType) -> None:
    wrong = Update(np.zeros(2, dtype=np.int32))
    net = harness.Net(
        4,
        byzantine=1,
        train=lambda i, info: wrong if i == 2 else harness.distinct_update(i, info),
    )
    net.start()
    assert net.run(until=lambda: min(net.steps()) >= 1)
    reasons = [e.reason for e in net.nodes[2].effects if isinstance(e, SatOut)]
    assert reasons[0] == "the trainer returned another dimension"
    assert members(net, 2) == [0, 1, 3]


def test_a_training_result_for_a_round_that_is_over_is_ignored(harness: ModuleType) -> None:
    net = harness.Net(4, byzantine=1)
    net.start()
    net.run(until=lambda: min(net.steps()) >= 1)
    machine = net.machine(0)
    old = machine.number - 1
    update = harness.distinct_update(0, attrs.evolve(net.nodes[0].witness.opened[0], number=old))
    head = machine.head.digest
    assert machine.trained(update, old, head, net.now) == []
    assert machine.trained(update, machine.number + 1, head, net.now) == []
    assert machine.sit_out("late", old, head, net.now) == []
    assert machine._height.round.update is None
    assert not machine._height.round.contributed


# ── what counts ───────────────────────────────────────────────────────────────────────────────────


def waiting(harness: ModuleType, **more: Any) -> Any:
    """Three nodes at the start of round 1, a puppet, and a quorum of all four."""
    net = harness.Net(4, byzantine=1, quorum=4, puppets=(3,), **more)
    net.start()
    net.run(seconds=0.5)
    assert {net.machine(i).number for i in range(3)} == {1}
    assert net.ids[3] not in net.machine(0).contributions
    return net


def contribution(value: int) -> bytes:
    return ContributionBody(1, np.full(3, value, dtype=np.int32)).to_bytes()


@pytest.mark.claim("C-agreement-3")
def test_a_second_different_contribution_is_evidence_and_does_not_count(
    harness: ModuleType,
) -> None:
    net = waiting(harness)
    model = net.machine(0).head.digest
    for value in (1, 2):
        forged = net.forge(3, "contribution", contribution(value), number=1, model=model)
        net.inject(forged, [0, 1, 2], delay=value / 100)
    net.run(seconds=0.005)
    for index in range(3):
        assert net.ids[3] not in net.machine(index).contributions
    assert net.run(until=lambda: min(net.steps()) >= 1)
    net.run(seconds=0.1)
    for index in range(3):
        node = net.nodes[index]
        facts = [(e.subject, e.fact, e.source, e.against) for e in node.witness.evidence]
        assert facts.count((net.ids[3], "equivocation", "kernel", True)) == 1
        assert {e.subject for e in node.witness.evidence if e.against} == {net.ids[3]}
    info = net.nodes[0].witness.opened[0]
    rows = [harness.distinct_update(i, info).vector.tolist() for i in range(3)] + [[1, 1, 1]]
    means = [round(Fraction(sum(column), 4)) for column in zip(*rows, strict=True)]
    expected = net.initial + np.array(means, dtype=np.int32)
    assert net.nodes[0].notebook.models[1] == model_digest(expected, 1)


def test_the_same_contribution_again_is_no_offence(harness: ModuleType) -> None:
    net = waiting(harness)
    model = net.machine(0).head.digest
    for again in range(3):
        forged = net.forge(3, "contribution", contribution(1), number=1, model=model)
        net.inject(forged, [0, 1, 2], delay=again / 1000)
    assert net.run(until=lambda: min(net.steps()) >= 1)
    for index in range(3):
        assert not [e for e in net.nodes[index].witness.evidence if e.against]


# ── proofs that are checked together ──────────────────────────────────────────────────────────────


def test_contributions_are_checked_together_once_all_are_here(harness: ModuleType) -> None:
    net = harness.Net(5, plugins={"bulk": {}})
    net.start()
    assert net.run(until=lambda: min(net.steps()) >= 2)
    for node in net.nodes:
        assert node.plugin("bulk").sizes[:2] == [5, 5]
    assert members(net, 0) == list(range(5))


def test_what_waits_is_checked_at_the_latest_before_a_proposal(harness: ModuleType) -> None:
    silent = harness.drop(kind="contribution", sender=4)
    net = harness.Net(5, byzantine=1, rule=silent, plugins={"bulk": {}})
    net.start()
    assert net.run(until=lambda: min(net.steps()[:4]) >= 1)
    for node in net.nodes[:4]:
        assert node.plugin("bulk").sizes[0] == 4
    assert members(net, 0) == list(range(4))


def test_a_bad_proof_among_those_that_wait_is_refused_by_all_and_blamed(
    harness: ModuleType,
) -> None:
    net = harness.Net(4, byzantine=1, puppets=(3,), plugins={"bulk": {}})
    net.start()
    body = ContributionBody(1, np.zeros(3, dtype=np.int32), {"bulk": b"wrong"}).to_bytes()
    model = net.machine(0).head.digest
    net.inject(net.forge(3, "contribution", body, number=1, model=model), [0, 1, 2])
    assert net.run(until=lambda: min(net.steps()[:3]) >= 1)
    assert members(net, 0) == [0, 1, 2]
    for node in net.nodes[:3]:
        facts = {(fact.subject, fact.fact) for fact in node.witness.evidence if fact.against}
        assert facts == {(net.ids[3], "bulk:bad-proof")}


def test_a_second_contribution_of_a_node_does_not_wait(harness: ModuleType) -> None:
    net = harness.Net(4, byzantine=1, puppets=(3,), plugins={"bulk": {}}, rule=None)
    net.start()
    model = net.machine(0).head.digest
    checksum = harness.Bulk.of
    for value in (1, 2):
        vector = np.full(3, value, dtype=np.int32)
        body = ContributionBody(
            1, vector, {"bulk": checksum(vector, net.machine(0).model_digest)}
        ).to_bytes()
        net.inject(net.forge(3, "contribution", body, number=1, model=model), [0, 1, 2])
    net.run(seconds=0.005)
    assert all(node.plugin("bulk").sizes[0] == 2 for node in net.nodes[:3])
    for node in net.nodes[:3]:
        facts = [(fact.subject, fact.fact) for fact in node.witness.evidence if fact.against]
        assert facts == [(net.ids[3], "equivocation")]


def test_what_waits_is_not_asked_for_and_is_given_to_who_asks(harness: ModuleType) -> None:
    """A node whose copy is lost fetches it from others, who may not have checked theirs yet."""
    net = harness.Net(5, plugins={"bulk": {}})
    proposer = net.index_of[net.machine(0).proposer(1)]
    deaf = (proposer + 1) % 5
    lost = harness.drop(kind="contribution", receiver=deaf, sender=(proposer + 2) % 5)
    net.rule = lost
    net.start()
    assert net.run(until=lambda: min(net.steps()) >= 1)
    asked = [frame for frame in net.sent if frame.kind == "fetch"]
    assert {message.sender for message in asked} == {deaf}
    assert members(net, deaf) == list(range(5))


@pytest.mark.parametrize("case", ["round before", "other model", "other swarm", "stranger's tag"])
def test_what_is_not_of_this_round_does_not_count(harness: ModuleType, case: str) -> None:
    net = waiting(harness)
    model = net.machine(0).head.digest
    if case == "round before":
        net.run(until=lambda: net.machine(0).number == 2)  # round 1 aborted: still the same model
        forged = net.forge(3, "contribution", contribution(1), number=1, model=model)
    elif case == "other model":
        forged = net.forge(3, "contribution", contribution(1), number=1, model=bytes(32))
    elif case == "other swarm":
        forged = net.forge(3, "contribution", contribution(1), number=1, model=model, swarm="bed")
    else:
        forged = net.forge(3, "contribution", contribution(1), number=1, model=model, key=2)
    net.inject(forged, [0, 1, 2])
    net.run(seconds=0.2)
    refused = {"other swarm": "other-swarm", "stranger's tag": "mac:bad-tag"}.get(case)
    for index in range(3):
        assert net.ids[3] not in net.machine(index).contributions
        assert net.nodes[index].refused == ({refused: 1} if refused else {})
    net.run(seconds=20.0)
    assert net.steps() == [0, 0, 0]


def test_a_contribution_of_the_next_round_waits_for_it(harness: ModuleType) -> None:
    net = waiting(harness)
    forged = net.forge(
        3, "contribution", contribution(1), number=2, model=net.machine(0).head.digest
    )
    net.inject(forged, [0, 1, 2])
    net.run(seconds=0.1)
    assert net.ids[3] not in net.machine(0).contributions
    assert net.run(until=lambda: min(net.steps()) >= 1)
    assert members(net, 0) == [0, 1, 2, 3]
    assert [e.outcome.round_info.number for e in net.nodes[0].ended] == [1, 2]


def test_a_member_that_a_node_lacks_is_fetched_from_the_proposer(harness: ModuleType) -> None:
    lost = harness.drop(kind="contribution", sender=3, receiver=0)
    net = harness.Net(4, byzantine=1, rule=lost)
    net.start()
    assert net.run(until=lambda: min(net.steps()) >= 1, seconds=0.9)
    assert members(net, 0) == [0, 1, 2, 3]
    asked = [m for m in net.sent if m.kind == "fetch"]
    assert {(m.sender, m.receiver) for m in asked} == {(0, 1)}
    answered = [m for m in net.sent if m.kind == "fetched"]
    assert {(m.sender, m.receiver) for m in answered} == {(1, 0)}


def test_a_member_is_fetched_from_others_where_the_proposer_does_not_answer(
    harness: ModuleType,
) -> None:
    mute = harness.chain(
        harness.drop(kind="contribution", sender=3, receiver=0),
        harness.drop(kind="fetched", sender=1),
    )
    net = harness.Net(4, byzantine=1, rule=mute)
    net.wait_for_all()
    net.start()
    assert net.run(until=lambda: min(net.steps()) >= 1, seconds=1.5)
    assert members(net, 0) == [0, 1, 2, 3]


# ── the lock ──────────────────────────────────────────────────────────────────────────────────────


def one_decides_alone(blind: int, lost: int) -> Any:
    """Node 0 alone sees the quorum of precommits in round 1, and is not heard again before 1010.

    Node ``blind`` gets no proposal and not the prevote of node ``lost``, so that it precommits
    nothing. The other two are locked.
    """

    def rule(message: Any) -> Any:
        if message.round == 1 and message.receiver == blind:
            kind, sender = message.kind, message.sender
            if kind == "choice/proposal" or (kind, sender) == ("choice/prevote", lost):
                return ()
        said = message.kind in ("contribution", "choice/prevote") and message.round == 1
        if message.sender == 0 and not said and message.now < 1010.0:
            return ()
        return None

    return rule


def round_1_locks_two(message: Any) -> Any:
    """Nodes 0 and 2 are locked after round 1, the others have seen no quorum: it is aborted."""
    if message.round != 1:
        return None
    if message.kind == "choice/proposal" and message.receiver == 3:
        return ()
    lost = message.kind == "choice/prevote" and message.sender == 2 and message.receiver in (1, 3)
    return () if lost else None


def has_decided(net: Any, index: int) -> bool:
    """Whether a node knows the set that its first height decided."""
    return 0 in net.nodes[index].notebook.sets


@pytest.mark.claim("C-agreement-1")
def test_where_one_node_decided_the_others_end_with_its_model(harness: ModuleType) -> None:
    net = harness.Net(4, byzantine=1, rule=one_decides_alone(blind=3, lost=2))
    net.start()
    assert net.run(until=lambda: has_decided(net, 0))
    assert [net.machine(index).number for index in range(4)] == [1, 1, 1, 1]
    assert not any(has_decided(net, index) for index in (1, 2, 3))
    net.run(until=lambda: net.now >= 1009.0, seconds=9.0)
    assert min(net.steps([1, 2, 3])) >= 1  # without a word from node 0
    assert [e.outcome.status for e in net.nodes[1].ended][:2] == [
        RoundStatus.ABORTED,
        RoundStatus.CLOSED,
    ]
    assert net.run(until=lambda: min(net.steps()) >= 3)
    assert not net.forks()


@pytest.mark.control("C-agreement-1")
def test_without_the_lock_the_same_schedule_decides_two_sets(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered = Consensus._enter

    def forgetful(self: Consensus[NodeId], number: int) -> None:
        entered(self, number)
        self.lock = self.valid = None

    monkeypatch.setattr(Consensus, "_enter", forgetful)
    monkeypatch.setattr(Consensus, "_learn", lambda _self: False)
    net = harness.Net(4, byzantine=1, rule=one_decides_alone(blind=3, lost=2))
    net.start()
    net.run(seconds=9.0)
    assert 0 in net.splits()


def test_a_model_that_one_node_alone_saw_decided_is_the_others_model_too(
    harness: ModuleType,
) -> None:
    """Node 0 goes to the next head alone, and is not heard again before 1010."""

    def rule(message: Any) -> Any:
        said = message.kind != "outcome/precommit" and message.envelope.head == first
        if message.sender == 0 and not said and message.now < 1010.0:
            return ()
        alone = message.kind == "outcome/precommit" and message.round == 1
        return () if alone and message.receiver != 0 and message.now < 1005.0 else None

    net = harness.Net(4, byzantine=1, rule=rule)
    first = net.machine(0).head.digest
    net.start()
    net.run(seconds=3.0)
    assert net.steps() == [1, 0, 0, 0]
    net.run(until=lambda: net.now >= 1009.0, seconds=9.0)
    assert min(net.steps([1, 2, 3])) >= 1  # without a word from node 0
    assert net.run(until=lambda: min(net.steps()) >= 3)
    assert not net.forks()


def test_a_locked_node_refuses_a_fresh_set_and_an_unlocked_one_takes_the_old(
    harness: ModuleType,
) -> None:
    not_shown = harness.drop(kind="choice/lock", round=1)
    rule = harness.chain(not_shown, one_decides_alone(blind=2, lost=3))
    net = harness.Net(4, byzantine=1, rule=rule)
    net.start()
    net.run(seconds=9.0)
    assert min(net.steps([1, 2, 3])) >= 1
    assert not net.forks()
    fresh = [m for m in net.sent if m.kind == "choice/proposal" and m.round == 2]
    assert {m.sender for m in fresh} == {2}  # it proposed a set of its own, in vain
    for locked in (1, 3):
        assert votes_of(net, locked)["choice/prevote", 2, fresh[0].envelope.head] == {None}
    first = next(e for e in net.nodes[2].ended if e.outcome.status is RoundStatus.CLOSED)
    assert first.outcome.round_info.number == 3  # node 3 proposed the locked set again


def test_a_lock_that_is_shown_saves_the_round_that_would_be_refused(harness: ModuleType) -> None:
    net = harness.Net(4, byzantine=1, rule=one_decides_alone(blind=2, lost=3))
    net.start()
    net.run(seconds=9.0)
    assert not net.forks()
    first = next(e for e in net.nodes[2].ended if e.outcome.status is RoundStatus.CLOSED)
    assert first.outcome.round_info.number == 2  # node 2 itself proposed the locked set


def test_a_set_dropped_with_its_round_can_be_fetched_again(harness: ModuleType) -> None:
    """Node 2 held all of the set, let it go with round 1, and must get it back to agree."""

    def rule(message: Any) -> Any:
        if message.receiver != 2 or message.round != 1:
            return None
        lost = message.kind == "choice/prevote" and message.sender == 1
        return () if lost or message.kind == "choice/lock" else None

    net = harness.Net(4, byzantine=1, puppets=(3,), rule=rule)
    head = net.machine(0).head.digest
    net.start()
    for kind in ("choice/prevote", "choice/precommit"):
        net.inject(net.vote(3, kind, None, number=1, model=head), [0, 1, 2])
    assert net.run(until=lambda: min(net.steps([0, 1, 2])) >= 1)
    assert not net.forks()
    first = next(e for e in net.nodes[2].ended if e.outcome.status is RoundStatus.CLOSED)
    assert first.outcome.round_info.number == 4  # proposed again by node 0
    asked = [m for m in net.sent if m.kind == "fetch" and m.sender == 2 and m.now < net.now]
    assert asked
    info = net.nodes[0].witness.opened[0]
    expected = net.initial + np.array(merged(harness, info, range(3)), dtype=np.int32)
    assert net.nodes[2].notebook.models[1] == model_digest(expected, 1)


# ── catching up ───────────────────────────────────────────────────────────────────────────────────


def cut_off(index: int) -> Any:
    """A rule that cuts a node off until the test sets ``net.rule`` back."""

    def rule(message: Any) -> Any:
        return () if index in (message.sender, message.receiver) else None

    return rule


def test_a_node_one_model_behind_catches_up(harness: ModuleType) -> None:
    def train(index: int, info: RoundInfo) -> Update | None:
        if net.machine(index).step == 1 and net.rule is not None:
            return None  # the others wait at their second model
        update: Update = harness.distinct_update(index, info)
        return update

    net = harness.Net(4, byzantine=1, train=train)
    net.rule = cut_off(3)
    net.start()
    net.run(seconds=10.0)
    assert net.steps() == [1, 1, 1, 0]
    net.rule = harness.drop(kind="none")
    assert net.run(until=lambda: net.steps()[3] >= 1, seconds=20.0)
    assert {"links", "model"} <= kinds_to(net, 3)
    assert not net.forks()
    net.rule = None
    assert net.run(until=lambda: min(net.steps()) >= 3)
    assert not net.forks()


def test_a_node_many_models_behind_catches_up_by_links_and_a_model(harness: ModuleType) -> None:
    net = harness.Net(4, byzantine=1)
    net.rule = cut_off(3)
    net.start()
    assert net.run(until=lambda: min(net.steps([0, 1, 2])) >= 4, seconds=90.0)
    assert net.steps()[3] == 0
    net.rule = None
    ahead = max(net.steps())
    assert net.run(until=lambda: net.steps()[3] > ahead, seconds=30.0)
    assert {"links", "model"} <= kinds_to(net, 3)
    assert 1 not in net.nodes[3].notebook.models
    assert not net.forks()
    caught = [e for e in net.nodes[3].ended if e.outcome.reason == "caught up from a snapshot"]
    assert caught
    assert caught[0].merged is None


def test_nodes_that_were_away_come_back_to_the_round_the_others_are_in(
    harness: ModuleType,
) -> None:
    """More than f of them: were they a round ahead, the others would give up theirs."""
    away = {7, 8, 9}
    net = harness.Net(10, byzantine=1, quorum=7)
    net.down = set(away)
    net.start()
    assert net.run(until=lambda: min(net.steps(range(7))) >= 1)
    net.down = set()
    assert net.run(until=lambda: min(net.steps()) >= 3)
    closed = [net.nodes[0].ended[number].outcome.status for number in range(3)]
    assert closed == [RoundStatus.CLOSED] * 3
    for index in away:
        outcomes = [ended_round.outcome for ended_round in net.nodes[index].ended]
        assert all(outcome.status is RoundStatus.CLOSED for outcome in outcomes)


def test_a_node_may_join_late(harness: ModuleType) -> None:
    net = harness.Net(4, byzantine=1)
    net.start([0, 1, 2])
    assert net.run(until=lambda: min(net.steps([0, 1, 2])) >= 3, seconds=90.0)
    net.start([3])
    ahead = max(net.steps())
    assert net.run(until=lambda: net.steps()[3] > ahead, seconds=30.0)
    assert not net.forks()
    joined = [e for e in net.nodes[3].ended if e.outcome.status is RoundStatus.CLOSED]
    assert net.ids[3] in joined[-1].outcome.members or net.run(
        until=lambda: 3 in members(net, 0, -1), seconds=30.0
    )


@pytest.mark.parametrize("head_start", [1, 3, 10, 60, 600])
def test_a_node_that_started_long_before_the_others_waits_for_them(
    harness: ModuleType, head_start: float
) -> None:
    """With one node gone for good, every other is needed, in one round at one time."""
    net = harness.Net(4, byzantine=1, puppets=(3,))
    net.start([0])
    net.run(seconds=head_start)
    net.start([1, 2])
    assert net.run(until=lambda: min(net.steps()) >= 2, seconds=20.0)


def test_when_the_liar_that_helped_falls_silent_the_lagging_node_can_still_catch_up(
    harness: ModuleType,
) -> None:
    """Nodes 0 and 1 got two models ahead with node 3's votes; now they need node 2."""
    net = harness.Net(4, byzantine=1, quorum=3)
    mute = harness.drop(kind="digest", sender=3)
    net.rule = harness.chain(cut_off(2), mute)
    net.start()
    assert net.run(until=lambda: min(net.steps([0, 1])) >= 3, seconds=60.0)
    assert net.steps()[2] == 0
    net.rule = harness.drop(sender=3)
    ahead = max(net.steps())
    assert net.run(until=lambda: min(net.steps([0, 1, 2])) >= ahead + 2, seconds=60.0)
    assert not net.forks()


def test_vouchers_that_were_lost_are_given_again(harness: ModuleType) -> None:
    """As before, but the two that are ahead never heard each other's word on the model."""
    net = harness.Net(4, byzantine=1, quorum=3)
    net.rule = harness.chain(cut_off(2), harness.drop(kind="digest"))
    net.start()
    assert net.run(until=lambda: min(net.steps([0, 1])) >= 3, seconds=60.0)
    net.rule = harness.drop(sender=3)
    ahead = max(net.steps())
    assert net.run(until=lambda: min(net.steps([0, 1, 2])) >= ahead + 2, seconds=90.0)
    assert not net.forks()


def test_after_many_models_a_node_keeps_few_of_the_past(harness: ModuleType) -> None:
    net = harness.Net(1)
    net.start()
    assert net.run(until=lambda: net.steps() >= [2 * PAST_HEADS])
    machine = net.machine(0)
    assert len(machine._history.recent) == PAST_HEADS
    assert len(machine._history.links) == 1  # no height changed the members
    assert machine._history.links[0].next == machine.head
    assert len(machine._catching_up.held) <= 1
    agreed = [effect for effect in net.nodes[0].effects if isinstance(effect, Agreed)]
    assert len(agreed) == net.steps()[0]


@pytest.mark.claim("C-agreement-2")
def test_a_node_whose_merge_differs_stops_and_the_others_go_on(harness: ModuleType) -> None:
    net = harness.Net(4, byzantine=1, broken=[3])
    net.start()
    assert net.run(until=lambda: min(net.steps([0, 1, 2])) >= 3, seconds=60.0)
    (diverged,) = net.nodes[3].diverged
    assert diverged.error.code == "QRES-E601"
    assert diverged.error.problems[0].where == "height 0"
    assert net.machine(3).step == 0  # it stays with the last model that it has in common
    assert net.machine(3).tick(net.now) == []
    assert not any(node.diverged for node in net.nodes[:3])
    assert not net.forks([0, 1, 2])


# ── memory across a restart ───────────────────────────────────────────────────────────────────────


def test_a_restarted_node_never_votes_in_an_old_round_again(harness: ModuleType) -> None:
    net = harness.Net(4, byzantine=1, rule=round_1_locks_two)
    net.start()
    assert net.run(until=lambda: bool(net.nodes[2].notebook.votes))
    voted = max(number for number, _kind, _choice in net.nodes[2].notebook.votes)
    net.restart(2)
    assert net.machine(2).number > voted
    assert net.run(until=lambda: min(net.steps()) >= 2)
    assert all(len(choices) == 1 for choices in votes_of(net, 2).values())
    assert not net.forks()


def test_a_restarted_node_does_not_contribute_twice_to_a_round(harness: ModuleType) -> None:
    """Its second training may come out differently, and honest nodes must not seem to lie."""
    lives = dict.fromkeys(range(4), 0)

    def train(index: int, info: RoundInfo) -> Update:
        vector = harness.distinct_update(index, info).vector + lives[index]
        return Update(vector.astype(np.int32))

    net = harness.Net(
        4, byzantine=1, train=train, rule=harness.drop(kind="choice/proposal", round={1})
    )
    net.start()
    assert net.run(until=lambda: any(m.kind == "contribution" and m.sender == 2 for m in net.sent))
    lives[2] = 1
    net.restart(2)
    assert net.run(until=lambda: min(net.steps()) >= 2)
    for node in net.nodes:
        assert not [e for e in node.witness.evidence if e.against]


def test_a_restarted_node_goes_on_from_its_model(harness: ModuleType) -> None:
    net = harness.Net(4, byzantine=1)
    net.start()
    net.run(until=lambda: min(net.steps()) >= 2)
    before, vector = net.machine(1).model_digest, net.machine(1).model
    net.restart(1)
    assert net.machine(1).model_digest == before
    assert np.array_equal(net.machine(1).model, vector)
    ahead = max(net.steps())
    assert net.run(until=lambda: min(net.steps()) >= ahead + 2)
    assert not net.forks()


@pytest.mark.claim("C-replay-13")
def test_sequence_numbers_are_never_used_twice(harness: ModuleType) -> None:
    net = harness.Net(4, byzantine=1)
    net.start()
    for _life in range(3):
        net.run(seconds=0.3)
        net.restart(1)
    net.run(seconds=0.5)
    numbered = {(m.envelope.sequence, m.envelope.signing_digest) for m in net.sent if m.sender == 1}
    assert len({sequence for sequence, _digest in numbered}) == len(numbered)


def test_a_node_whose_disk_takes_nothing_says_nothing_of_it(harness: ModuleType) -> None:
    """Votes and what they rest on are one commit: where it fails, neither counts."""
    net = harness.Net(4, byzantine=1)
    node = net.nodes[0]
    full = [False]

    class FullDisk(harness.Notebook):  # type: ignore[name-defined,misc]
        @contextmanager
        def together(self) -> Generator[None]:
            yield
            if full[0]:
                raise RoundError.of("QRES-E602", "journal", "the disk is full")

    node.notebook = FullDisk(initial=net.initial)
    net.remake(node)
    net.start()
    assert net.run(until=lambda: min(net.steps()) >= 1, seconds=5)
    said = len([message for message in net.sent if message.sender == 0])
    full[0] = True
    with pytest.raises(RoundError, match="QRES-E602"):
        net.run(seconds=60)
    assert len([message for message in net.sent if message.sender == 0]) == said
    full[0] = False
    machine = net.machine(0)
    assert machine.tick(net.now + 60) == []  # it is over: it does not know what it has not said
    assert machine.publish_raw(b"", machine.number, net.now) == []


def test_a_whole_swarm_that_restarts_while_locked_merges_the_locked_set(
    harness: ModuleType,
) -> None:
    """Power fails when one node has decided and the others are locked."""
    net = harness.Net(4, byzantine=1, rule=one_decides_alone(blind=3, lost=2))
    net.start()
    assert net.run(
        until=lambda: has_decided(net, 0) and all(net.nodes[i].notebook.lock for i in (1, 2))
    )
    for index in range(4):
        net.restart(index)
    net.rule = harness.drop(sender=0)
    assert net.run(until=lambda: min(net.steps([1, 2, 3])) >= 1)
    net.rule = None
    assert net.run(until=lambda: min(net.steps()) >= 3)
    assert not net.forks()


def test_a_lock_that_cannot_be_read_stops_the_node(harness: ModuleType) -> None:
    net = harness.Net(4, byzantine=1, rule=one_decides_alone(blind=3, lost=2))
    net.start()
    assert net.run(until=lambda: net.nodes[1].notebook.lock is not None)
    lock = net.nodes[1].notebook.lock
    net.nodes[1].notebook.lock = attrs.evolve(lock, head=lock.head[:-1])
    with pytest.raises(RoundError, match="a record of the height cannot be read") as caught:
        net.restart(1)
    assert caught.value.code == "QRES-E602"


# ── dialogues ─────────────────────────────────────────────────────────────────────────────────────


@attrs.define
class Greeting:
    """Says hello to every peer before, and goodbye to every member after."""

    own: NodeId
    info: RoundInfo
    heard: dict[int, set[NodeId]] = attrs.field(factory=lambda: {0: set(), 1: set()})
    members: tuple[NodeId, ...] | None = None
    agreed: tuple[Contribution, ...] = ()
    origin: RoundInfo | None = None

    @property
    def ready(self) -> bool:
        return len(self.heard[0] | {self.own}) == len(self.info.roster)

    @property
    def finished(self) -> bool:
        return self.members is not None and set(self.members) <= self.heard[1] | {self.own}

    def start(self) -> list[Send]:
        peers = [peer for peer in self.info.roster if peer != self.own]
        return [Send(b"hello", 0, peer) for peer in peers]

    def receive(self, message: DialogueMessage) -> list[Send]:
        if message.body == b"boom":
            raise ValueError(message.body)
        self.heard[message.step].add(message.sender)
        return []

    def tick(self, now: float) -> list[Send]:
        del now
        return []

    def decided(
        self,
        members: tuple[NodeId, ...],
        contributions: tuple[Contribution, ...],
        round_info: RoundInfo,
    ) -> list[Send]:
        assert self.members is None, "decided once"
        self.members, self.agreed, self.origin = members, contributions, round_info
        return [Send(b"bye", 1)]


@attrs.define
class Listener(Greeting):
    """Says nothing, waits for nothing, and notes what was agreed."""

    @property
    def ready(self) -> bool:
        return True

    @property
    def finished(self) -> bool:
        return self.members is not None

    def start(self) -> list[Send]:
        return []


def told(net: Any, index: int, number: int) -> tuple[int, list[int], list[list[int]]]:
    """What a node's dialogue of a round was told: origin, members, and the agreed vectors."""
    (talk,) = (
        dialogue
        for dialogue in net.nodes[index].plugin("talk").dialogues
        if dialogue.info.number == number
    )
    assert talk.members == tuple(sorted(talk.members)) == tuple(c.sender for c in talk.agreed)
    vectors = [item.vector.tolist() for item in talk.agreed]
    assert attrs.evolve(talk.origin, number=number) == talk.info
    return talk.origin.number, [net.index_of[member] for member in talk.members], vectors


def talking(harness: ModuleType, monkeypatch: pytest.MonkeyPatch, **more: Any) -> Any:
    monkeypatch.setattr(harness.Talk, "script", staticmethod(Greeting))
    return harness.Net(4, byzantine=1, plugins={"talk": {}}, **more)


def test_a_dialogue_runs_from_before_the_update_to_after_the_agreement(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = talking(harness, monkeypatch)
    net.start()
    assert net.run(until=lambda: min(net.steps()) >= 3)
    assert not net.forks()
    for node in net.nodes:
        calls = node.plugin("talk").calls
        assert len([call for call in calls if call[0] == "reveal"]) >= 3
        assert {call for call in calls if call[0] == "privatize"} == {("privatize", True, False)}
        assert {call for call in calls if call[0] == "reveal"} == {("reveal", True, True)}
    kinds = {message.kind for message in net.sent}
    assert {*(f"dialogue/talk/0/{index}" for index in range(4)), "dialogue/talk/1"} <= kinds


def test_what_a_dialogue_finds_out_is_evidence_and_never_against_a_stranger(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    @attrs.define
    class Accusing(Greeting):
        def receive(self, message: DialogueMessage) -> list[Any]:
            sends = super().receive(message)
            accused = (message.sender, b"\xee" * 32, self.own)
            return [*sends, *(Accusation(node, "too-loud") for node in accused)]

    monkeypatch.setattr(harness.Talk, "script", staticmethod(Accusing))
    net = harness.Net(4, byzantine=1, plugins={"talk": {}})
    net.start()
    assert net.run(until=lambda: min(net.steps()) >= 1)
    for node in net.nodes:
        told = {(e.sender, e.reason) for e in node.effects if isinstance(e, Refused)}
        accused = {subject for subject, reason in told if reason == "talk:too-loud"}
        assert accused
        assert accused <= {other.node_id for other in net.nodes} - {node.node_id}
        assert node.refused["talk:too-loud"] > 0


def test_privatize_waits_for_ready_and_reveal_for_finished(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(message: Any) -> Any:
        spoken = message.kind.startswith(("dialogue", "relayed"))
        return [(0.4, message.frame)] if spoken else None

    net = talking(harness, monkeypatch, rule=slow)
    net.start()
    assert net.run(until=lambda: min(net.steps()) >= 1)
    contributed = [m.now for m in net.sent if m.kind == "contribution" and m.round == 1]
    assert min(contributed) == pytest.approx(harness.START + 0.4)
    assert net.now >= harness.START + 0.8
    assert all(call[2] for node in net.nodes for call in node.plugin("talk").calls[1:2])


def test_a_dialogue_that_never_gets_ready_makes_its_node_sit_out(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = talking(
        harness,
        monkeypatch,
        rule=harness.drop(kind={"dialogue/talk/0/2", "relayed"}, receiver=2, round={1}),
    )
    net.wait_for_all()
    net.start()
    assert net.run(until=lambda: min(net.steps()) >= 2)
    reasons = [e.reason for e in net.nodes[2].effects if isinstance(e, SatOut)]
    assert reasons == ["a dialogue was not ready by the deadline"]
    assert members(net, 0) == [0, 1, 3]
    assert members(net, 0, 1) == [0, 1, 2, 3]


@pytest.mark.claim("C-agreement-9")
def test_a_dialogue_that_never_finishes_ends_the_height_and_changes_nothing(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = talking(
        harness, monkeypatch, rule=harness.drop(kind={"dialogue/talk/1", "relayed"}, round={1})
    )
    net.start()
    assert net.run(until=lambda: all(node.ended for node in net.nodes))
    for node in net.nodes:
        outcome = node.ended[0].outcome
        assert outcome.status is RoundStatus.VOID
        assert outcome.code == "QRES-E604"
        assert len(outcome.members) == 4
        assert np.array_equal(node.ended[0].model, net.initial)
    assert net.run(until=lambda: min(net.steps()) >= 2)
    assert not net.forks()


@pytest.mark.control("C-agreement-9")
def test_a_node_whose_dialogue_alone_does_not_finish_comes_back(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = harness.drop(kind={"dialogue/talk/1", "relayed"}, round={1}, receiver=3)
    net = talking(harness, monkeypatch, rule=lost)
    net.start()
    assert net.run(until=lambda: min(net.steps()) >= 4, seconds=120.0)
    assert not net.forks()


def test_who_knows_the_set_and_cannot_merge_it_takes_the_model_of_those_who_could(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not wait for the end of the round: what its dialogue lacks will not come any more."""
    lost = harness.drop(kind={"dialogue/talk/1", "relayed"}, round={1}, receiver=3)
    net = talking(harness, monkeypatch, rule=lost, options={"deadline": 50.0})
    net.start()
    assert net.run(until=lambda: net.machine(3).step >= 1, seconds=10.0)
    (ended,) = net.nodes[3].ended
    assert ended.outcome.status is RoundStatus.CLOSED
    assert ended.merged is None
    assert "model" in kinds_to(net, 3)
    assert ended.outcome.round_info.number == 1
    assert not [frame for frame in net.sent if frame.kind == "certificate" and frame.receiver == 3][
        1:
    ]


def test_a_dialogue_is_told_the_agreed_contributions_and_not_those_that_came_first(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A liar shows half of the nodes another contribution; all are told the one agreed on."""
    monkeypatch.setattr(harness.Talk, "script", staticmethod(Listener))
    net = waiting(harness, plugins={"talk": {}})
    model = net.machine(0).head.digest
    for value, victims in ((1, [1]), (2, [0, 2])):
        forged = net.forge(3, "contribution", contribution(value), number=1, model=model)
        net.inject(forged, victims)
    assert net.run(until=lambda: min(net.steps()) >= 1)
    info = net.nodes[0].witness.opened[0]
    rows = [harness.distinct_update(i, info).vector.tolist() for i in range(3)]
    for index in range(3):
        assert told(net, index, 1) == (1, [0, 1, 2, 3], [*rows, [1, 1, 1]])  # the proposer's
    first = [net.nodes[i].refused["equivocation"] for i in range(3)]
    assert first == [1, 0, 1], "they had seen the other one"


def test_a_dialogue_is_told_contributions_that_came_after_the_certificate(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rule(message: Any) -> Any:
        hidden = {"contribution", "choice/proposal", "choice/prevote", "choice/precommit"}
        lost = message.round == 1 and message.receiver == 3 and message.kind in hidden
        return () if lost else None

    monkeypatch.setattr(harness.Talk, "script", staticmethod(Listener))
    net = harness.Net(4, byzantine=1, rule=rule, plugins={"talk": {}})
    net.start()
    assert net.run(until=lambda: net.steps()[3] >= 1)
    asked = {m.kind for m in net.sent if m.sender == 3 and m.round == 1}
    assert "fetch" in asked
    assert told(net, 3, 1) == told(net, 0, 1)
    assert told(net, 3, 1)[0] == 1


def test_a_dialogue_is_told_in_which_round_a_locked_set_was_made(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness.Talk, "script", staticmethod(Listener))
    net = harness.Net(4, byzantine=1, rule=round_1_locks_two, plugins={"talk": {}})
    net.start()
    assert net.run(until=lambda: min(net.steps()) >= 1)
    closed = [e.outcome.round_info.number for e in net.nodes[0].ended][-1]
    assert closed == 2
    for index in range(4):
        origin, agreed, vectors = told(net, index, 2)
        made = [
            harness.distinct_update(i, attrs.evolve(net.nodes[0].witness.opened[0], number=1))
            for i in agreed
        ]
        assert origin == 1
        assert vectors == [item.vector.tolist() for item in made]


def test_a_dialogue_that_falls_over_what_was_agreed_costs_the_round_and_no_more(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    @attrs.define
    class Fragile(Listener):
        def decided(
            self,
            members: tuple[NodeId, ...],
            contributions: tuple[Contribution, ...],
            round_info: RoundInfo,
        ) -> list[Send]:
            if self.info.number == 1:
                raise ValueError("odd")
            return super().decided(members, contributions, round_info)

    monkeypatch.setattr(harness.Talk, "script", staticmethod(Fragile))
    net = harness.Net(4, byzantine=1, plugins={"talk": {}})
    net.start()
    assert net.run(until=lambda: min(net.steps()) >= 1)
    for node in net.nodes:
        assert [e.outcome.code for e in node.ended][:1] == ["QRES-E604"]
        assert node.refused == {"talk:dialogue-raised-valueerror": 1}
        assert not [e for e in node.witness.evidence if e.against]


def test_a_message_that_breaks_a_dialogue_breaks_nothing_else(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = talking(harness, monkeypatch)
    net.start()
    model = net.machine(0).head.digest
    for kind in ("dialogue/talk/0", "dialogue/talk/99", "dialogue/talk/x", "dialogue/nobody/0"):
        net.inject(net.forge(3, kind, b"boom", number=1, model=model), [0, 1, 2], delay=0.005)
    assert net.run(until=lambda: min(net.steps()) >= 2)
    for index in range(3):
        assert net.nodes[index].refused == {
            "talk:dialogue-raised-valueerror": 2,
            "unknown-dialogue": 2,
        }
        # The dialogue may be at fault, or this node may lack the plugin: nobody is to blame.
        assert not [e for e in net.nodes[index].witness.evidence if e.against]


def test_the_toy_of_the_harness_refuses_forgery(harness: ModuleType) -> None:
    net = harness.Net(4, byzantine=1)
    forged = net.forge(0, "choice/prevote", b"\xf6", number=1, model=bytes(32), key=1)
    mac = net.nodes[0].plugin("mac")
    assert mac.authenticate(forged).blame is Blame.LINK
    assert mac.authenticate(harness.sign(net.ids[0], forged)) is ACCEPT


# ── chance ────────────────────────────────────────────────────────────────────────────────────────


def play(harness: ModuleType, seed: int, *, restarts: bool, interval: float = 0.0) -> None:
    """A bad network with liars: nobody honest may fork; once it is good, all must go on."""
    rng = random.Random(seed)
    nodes, byzantine = rng.choice([(4, 1), (4, 1), (7, 2)])
    plugins: dict[str, dict[str, Any]] = {"bulk": {}} if seed % 3 else {}
    options: dict[str, Any] = {"proof_checks": "committee"} if seed % 3 == 2 else {}
    options["interval"] = interval
    net = harness.Net(nodes, byzantine=byzantine, plugins=plugins, options=options)
    liars = {
        index: rng.choice(harness.LIES)
        for index in rng.sample(range(nodes), rng.randint(0, byzantine))
    }
    honest = [index for index in range(nodes) if index not in liars]
    heals = harness.START + rng.choice([5.0, 10.0, 15.0])
    net.rule = harness.Chaos(net, rng, liars, heals=heals)
    net.start()
    if restarts:
        for _ in range(rng.randint(1, 6)):
            net.run(seconds=rng.uniform(0.0, 1.5))
            for index in rng.sample(honest, rng.choice([1, 1, len(honest)])):
                net.restart(index)
    net.run(seconds=max(0.0, heals - net.now))
    assert not net.forks(honest), "fork in the bad network"
    target = max(net.steps(honest)) + 2
    assert net.run(until=lambda: min(net.steps(honest)) >= target, seconds=60.0), (
        f"stall: steps {net.steps(honest)}, target {target}"
    )
    assert not net.forks(honest), "fork after the network healed"
    assert not any(net.nodes[index].diverged for index in honest)
    assert all(gap >= interval for gap in gaps(net, honest))
    for index in honest:
        assert all(len(choices) == 1 for choices in votes_of(net, index).values())
        # The network's duplicates are held against the link; nothing else against an honest node.
        honest_ids = {net.ids[honest_node] for honest_node in honest}
        against = [e for e in net.nodes[index].witness.evidence if e.against]
        assert {e.fact for e in against if e.subject in honest_ids} <= {"replayed"}


def gaps(net: Any, honest: Sequence[int]) -> list[float]:
    """Seconds between models, each counted from when the first honest node had it."""
    first: dict[int, float] = {}
    for index in honest:
        for step, at in net.nodes[index].made_at.items():
            first[step] = min(at, first.get(step, at))
    return [first[step + 1] - first[step] for step in first if step and step + 1 in first]


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("seed", range(200, 224))
@pytest.mark.long
def test_random_networks_keep_their_interval_and_go_on(
    harness: ModuleType, seed: int, *, restarts: bool
) -> None:
    play(harness, seed, restarts=restarts, interval=3.0)


def test_so_long_lies_between_two_models_and_the_first_does_not_wait(harness: ModuleType) -> None:
    net = harness.Net(4, byzantine=1, options={"interval": 5.0})
    net.start()
    assert net.run(until=lambda: min(net.steps()) >= 4, seconds=60.0)
    assert net.nodes[0].made_at[1] < harness.START + 1.0
    found = gaps(net, range(4))
    assert all(5.0 <= gap < 5.5 for gap in found[:3])
    assert not any(e.outcome.status is RoundStatus.ABORTED for n in net.nodes for e in n.ended)
    # While they wait they say nothing of the round, and train nothing.
    quiet = [message for message in net.sent if 1.0 < message.now - net.nodes[0].made_at[1] < 4.9]
    assert not quiet


def test_nodes_whose_clocks_differ_begin_together_once_more_than_f_have(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a dialogue that needs all of them. The second to begin takes the slow ones along."""
    net = talking(harness, monkeypatch, options={"interval": 60.0})
    waits = [57.5, 58.0, 60.0, 90.0]  # the deadline is one second
    for node, wait in zip(net.nodes, waits, strict=True):
        node.machine.swarm = attrs.evolve(node.machine.swarm, interval=wait)
    net.start()
    assert net.run(until=lambda: min(net.steps()) >= 6, seconds=400.0)
    assert not any(e.outcome.status is RoundStatus.ABORTED for n in net.nodes for e in n.ended)
    assert all(57.5 <= gap < 59.0 for gap in gaps(net, range(4)))
    assert all(len(e.outcome.members) == 4 for n in net.nodes for e in n.ended)


def test_one_liar_alone_does_not_shorten_the_interval(harness: ModuleType) -> None:
    net = harness.Net(4, byzantine=1, options={"interval": 20.0})
    hasty = net.nodes[3]
    hasty.machine.swarm = attrs.evolve(hasty.machine.swarm, interval=0.0)
    net.start()
    assert net.run(until=lambda: min(net.steps([0, 1, 2])) >= 4, seconds=200.0)
    assert all(gap >= 20.0 for gap in gaps(net, range(4)))
    assert not net.forks()


def test_a_liar_and_a_node_that_waits_in_a_later_round_do_not_shorten_the_interval(
    harness: ModuleType,
) -> None:
    """Node 0 aborted a round more than the others before it had the model."""
    net = harness.Net(4, byzantine=1, puppets=[3], options={"interval": 20.0})
    ahead = net.machine(0)
    net.start()
    went_on = ahead._go_on

    def later(*arguments: Any) -> None:
        here = ahead._position
        here.number += 1
        here.info = attrs.evolve(here.info, number=here.number)
        went_on(*arguments)

    ahead._go_on = later
    assert net.run(until=lambda: min(net.steps([0, 1, 2])) >= 1, seconds=30.0)
    net.run(seconds=1.0)
    numbers = [net.machine(index).number for index in range(3)]
    assert numbers[0] > numbers[1] == numbers[2]
    model = ahead.head.digest
    for other in net.ids[1:3]:
        asked = ahead._speaker.make("sync", encode_sync(1, 0), net.now)
        net.apply(net.nodes[0], [SendTo(other, asked.to_bytes())])
    net.inject(net.forge(3, "sync", encode_sync(1, 0), number=10**9, model=model), [0, 1, 2])
    net.run(seconds=1.0)
    assert [net.machine(index).number for index in range(3)] == numbers
    assert all(net.machine(index).waits_until is not None for index in range(3))
    assert net.run(until=lambda: min(net.steps([0, 1, 2])) >= 2, seconds=60.0)
    assert all(gap >= 20.0 for gap in gaps(net, range(3)))
    for node in net.live:
        assert all("overtaken" not in ended.outcome.reason for ended in node.ended)


def test_a_node_that_is_killed_while_all_wait_is_there_for_the_next_model(
    harness: ModuleType,
) -> None:
    net = harness.Net(4, byzantine=1, options={"interval": 20.0})
    net.start()
    net.run(until=lambda: min(net.steps()) >= 2, seconds=100.0)
    net.run(seconds=15.0)
    net.restart(0)  # alone it would wait for twenty seconds again
    assert net.run(until=lambda: min(net.steps()) >= 3, seconds=9.0)
    assert len(net.nodes[1].ended[-1].outcome.members) == 4
    # All at once forget how long ago the model was made: they wait the whole interval.
    net.run(seconds=10.0)
    for index in range(4):
        net.restart(index)
    assert net.run(until=lambda: min(net.steps()) >= 4, seconds=30.0)
    assert all(gap >= 20.0 for gap in gaps(net, range(4)))


def test_what_the_plugins_open_they_close_though_others_were_quicker(harness: ModuleType) -> None:
    net = harness.Net(4, byzantine=1, options={"interval": 10.0}, rule=harness.drop(receiver=3))
    net.start()
    net.run(until=lambda: min(net.steps([0, 1, 2])) >= 3, seconds=60.0)
    net.rule = None  # node 3 takes models of the others, in rounds that it never began itself
    assert net.run(until=lambda: min(net.steps()) >= 5, seconds=60.0)
    for node in net.nodes:
        numbers = [number for what, number in node.witness.order if what == "opened"]
        pairs = [(what, number) for number in numbers for what in ("opened", "closed")]
        assert node.witness.order == pairs[: len(node.witness.order)]
        assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize(
    "seed", [*range(12), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(12, 44))]
)
def test_random_networks_with_liars_neither_fork_nor_stall(harness: ModuleType, seed: int) -> None:
    play(harness, seed, restarts=False)


@pytest.mark.parametrize("seed", range(100, 120))
@pytest.mark.long
def test_random_restarts_neither_fork_nor_stall(harness: ModuleType, seed: int) -> None:
    play(harness, seed, restarts=True)


@pytest.mark.parametrize("banned", [True, False])
def test_nobody_waits_for_a_node_that_is_banned(harness: ModuleType, *, banned: bool) -> None:
    """The control: who is not banned and says nothing holds a round up to its deadline."""
    plain = harness.Net(4, byzantine=1)
    proposer = plain.index_of[plain.machine(0).proposer(1)]
    mute = (proposer + 1) % 4
    net = harness.Net(4, byzantine=1, puppets=[mute])

    def standing(sender: NodeId) -> Standing:
        return Standing(banned=banned and sender == net.ids[mute])

    for node in net.live:
        object.__setattr__(node.machine.kernel, "standing", standing)
    net.wait_for_all()
    net.start()
    started = net.now
    assert net.run(until=lambda: min(net.steps()) >= 1, seconds=60)
    assert (net.now - started < harness.DEADLINE) == banned


@pytest.mark.parametrize(
    ("is_over", "number", "head", "is_of_now"),
    [
        (False, 3, b"here", True),
        (True, 3, b"here", False),
        (False, 2, b"here", False),
        (False, 3, b"there", False),
    ],
)
def test_what_was_trained_is_of_now_in_this_round_and_at_this_head(
    number: int, head: bytes, *, is_over: bool, is_of_now: bool
) -> None:
    here = SimpleNamespace(head=SimpleNamespace(digest=b"here"))
    machine: Any = SimpleNamespace(_is_over=is_over, number=3, _context=here)
    assert RoundMachine._is_of_now(machine, number, head) is is_of_now


def test_what_comes_back_to_its_author_is_nothing_new(harness: ModuleType) -> None:
    net = harness.Net(4, byzantine=1, puppets=(1, 2, 3))
    net.start()
    head = net.machine(0).head.digest
    for index in (0, 1):
        body = net.vote(index, "choice/prevote", None, number=9, model=head)
        net.machine(0).receive(body.to_bytes(), net.ids[1], net.now)
    assert net.machine(0)._pace.at(head) == {net.ids[1]: 9}


def test_what_is_of_another_head_counts_nothing_here(harness: ModuleType) -> None:
    net = harness.Net(4, byzantine=1, puppets=(1, 2, 3))
    net.start()
    for head in (bytes(32), net.machine(0).head.digest):
        assert net.machine(0)._height.choice.engine.tally(1, Step.PREVOTE).counts() == {}
        vote = net.vote(1, "choice/prevote", bytes(32), number=1, model=head)
        net.machine(0).receive(vote.to_bytes(), net.ids[1], net.now)
    assert net.machine(0)._height.choice.engine.tally(1, Step.PREVOTE).counts() == {bytes(32): 1}, (
        "control"
    )


def test_what_is_malformed_is_refused_and_what_nobody_signed_too(harness: ModuleType) -> None:
    net = harness.Net(4, byzantine=1, puppets=(1, 2, 3))
    net.start()
    head = net.machine(0).head.digest
    odd = net.forge(1, "sync", b"\xff", number=1, model=head)
    forged = net.forge(2, "sync", b"\xff", number=1, model=head, key=1)
    for envelope in (odd, forged):
        effects = net.machine(0).receive(envelope.to_bytes(), net.ids[1], net.now)
        assert [type(effect) for effect in effects] == [Refused]
    assert net.nodes[0].refused == {"malformed-payload": 1, "mac:bad-tag": 1}


GOAL = goal_digest("loss < 1.0")


def test_fewer_than_decide_a_vote_cannot_say_that_it_is_enough(harness: ModuleType) -> None:
    net = harness.Net(4, byzantine=1, puppets=[3], options={"until": "loss < 1"})
    net.start()

    def say(index: int, payload: bytes) -> None:
        model = net.machine(0).head.digest
        net.inject(net.forge(index, "enough", payload, number=1, model=model), [0, 1, 2])

    say(3, b"\xf5")  # no number
    net.run(seconds=0.5)
    assert sum(net.nodes[0].refused.values()) == 1
    details = [effect.detail for effect in net.nodes[0].effects if isinstance(effect, Refused)]
    assert len(details) == 1
    assert "enough" in details[0]
    say(3, encode_enough(1, GOAL))
    say(3, encode_enough(2, GOAL))
    net.apply(net.nodes[0], net.machine(0).enough(1, net.now))
    net.run(seconds=0.5)
    assert not any(net.machine(index).has_enough for index in range(3))  # a word counts once
    net.apply(net.nodes[1], net.machine(1).enough(1, net.now))
    net.run(seconds=0.5)
    assert all(net.machine(index).has_enough for index in range(3))
    mute = harness.Net(4, byzantine=1, puppets=[3])
    mute.start()
    mute.inject(
        mute.forge(
            3, "enough", encode_enough(1, GOAL), number=1, model=mute.machine(0).head.digest
        ),
        [0],
    )
    mute.run(seconds=0.3)
    assert mute.nodes[0].refused["unknown-kind"] == 1


def test_a_liar_that_says_enough_to_some_alone_strands_nobody(harness: ModuleType) -> None:
    """Nodes 0 and 1 stop by the word of liar 3; node 2 never finds a model good enough."""
    net = harness.Net(4, byzantine=1, puppets=[3], options={"until": "loss < 1"})

    def say(*nodes: int) -> None:
        for index in nodes:
            net.apply(net.nodes[index], net.machine(index).enough(1, net.now))

    net.start()
    say(0, 1)
    net.run(seconds=3.0)
    assert not any(net.machine(index).has_enough for index in range(3))  # two of four do not decide
    lie = net.forge(3, "enough", encode_enough(1, GOAL), number=1, model=net.machine(0).head.digest)
    net.inject(lie, [0, 1])
    # What nodes 0 and 1 say of it at once gets lost.
    net.rule = harness.drop(kind="stop", receiver=2)
    net.run(seconds=0.5)
    assert [net.machine(index).has_enough for index in range(3)] == [True, True, False]
    net.rule = None
    assert net.run(until=lambda: net.machine(2).has_enough, seconds=20.0)
    net.restart(2)  # it forgets, and is told again
    assert not net.machine(2).has_enough
    assert net.run(until=lambda: net.machine(2).has_enough, seconds=20.0)


def test_a_stop_that_is_not_proven_stops_nobody(harness: ModuleType) -> None:
    net = harness.Net(4, byzantine=1, puppets=[1, 2, 3], options={"until": "loss < 1"})
    net.start()
    model = net.machine(0).head.digest

    def enough(
        index: int, *, goal: bytes = GOAL, kind: str = "enough", key: int | None = None
    ) -> Any:
        payload = encode_enough(1, goal)
        return net.forge(index, kind, payload, number=1, model=model, key=key)

    def stop(*quoted: Any) -> bool:
        net.inject(net.forge(3, "stop", encode_stop(quoted), number=1, model=model), [0])
        net.run(seconds=0.1)
        return net.machine(0).has_enough

    other = goal_digest("loss < 2.0")
    assert not stop()
    assert not stop(enough(1), enough(3))  # too few
    assert not stop(enough(1), enough(3), enough(3))
    assert not stop(enough(1), enough(3), enough(2, key=3))  # not signed by node 2
    assert not stop(enough(1), enough(3), enough(2, goal=other))  # said in an earlier life
    assert not stop(enough(1), enough(3), enough(2, kind="choice/prevote"))
    assert net.nodes[0].refused["unproven-stop"] == 6
    net.inject(enough(2, goal=other), [0])
    net.run(seconds=0.1)
    assert net.nodes[0].refused["other-goal"] == 1
    assert stop(enough(1), enough(3), enough(2))  # the control
