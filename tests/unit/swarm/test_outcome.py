"""The second instance of a height: what becomes of the decided set, where nodes find otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import pytest

from qres_core import Envelope, RoundStatus, Vector
from qres_core.contract.errors import HookError, QresError, RoundError
from qres_core.swarm.consensus.votes import Step
from qres_core.swarm.context.effects import Broadcast
from qres_core.swarm.contributions.merge import Merger
from qres_core.swarm.ledger.messages import (
    Member,
    OutcomeProposal,
    decode_conclusion,
    encode_conclusion,
)
from qres_core.swarm.ledger.results import CANNOT_MERGE, UNFINISHED, Conclusion, Merged, Void

REFUSED = "QRES-E508"
merge = Merger.merge


def refusing(monkeypatch: pytest.MonkeyPatch, net: Any, codes: Mapping[int, str]) -> None:
    """Plugins of some nodes refuse to merge the first set."""
    gatherings = {
        id(net.machine(index)._collector.gathering): code for index, code in codes.items()
    }

    def judged(self: Merger, members: tuple[Member, ...], info: Any) -> Vector:
        code = gatherings.get(id(self.gathering))
        if code is not None and info.height == 0:
            raise RoundError.of(code, "plugins.toy", "no")
        return merge(self, members, info)

    monkeypatch.setattr(Merger, "merge", judged)


def first(net: Any, index: int) -> Any:
    """The outcome of a node's first height, whatever rounds it took."""
    ended = [e.outcome for e in net.nodes[index].ended]
    return next(outcome for outcome in ended if outcome.status is not RoundStatus.ABORTED)


def attempts(net: Any) -> int:
    """The most attempts at an outcome that any vote was of."""
    return max(int(m.round) for m in net.sent if m.kind == "outcome/prevote")


def heights(net: Any) -> int:
    """Heights that all nodes have behind them."""
    return min(int(node.machine.head.height) for node in net.live)


def test_what_a_rule_refuses_at_all_nodes_is_void_by_agreement(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = harness.Net(4, byzantine=1)
    refusing(monkeypatch, net, dict.fromkeys(range(4), REFUSED))
    net.start()
    assert net.run(until=lambda: heights(net) >= 1, seconds=3.0)
    for index in range(4):
        outcome = first(net, index)
        assert (outcome.status, outcome.code) == (RoundStatus.VOID, REFUSED)
        assert net.machine(index).step == 0
        assert net.machine(index).model.tolist() == net.initial.tolist()
    assert len({node.machine.head.digest for node in net.nodes}) == 1
    assert attempts(net) == 1
    assert net.run(until=lambda: min(net.steps()) >= 2)  # the next height is another try
    assert not net.forks()


@pytest.mark.claim("C-agreement-2")
@pytest.mark.parametrize(
    "codes",
    [
        {0: REFUSED},
        {0: REFUSED, 1: REFUSED},
        {0: REFUSED, 1: REFUSED, 2: REFUSED},
        {0: REFUSED, 1: "QRES-E509", 2: "QRES-E507"},
        {0: REFUSED, 1: "QRES-E509"},
        {0: REFUSED, 1: "QRES-E509", 2: "QRES-E507", 3: "QRES-E506"},
    ],
    ids=str,
)
def test_nodes_that_find_otherwise_agree_within_few_attempts(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch, codes: dict[int, str]
) -> None:
    net = harness.Net(4, byzantine=1)
    refusing(monkeypatch, net, codes)
    net.start()
    assert net.run(until=lambda: heights(net) >= 1, seconds=20.0)
    assert attempts(net) <= 4
    assert not net.forks()
    ends = {(first(net, index).status, first(net, index).code) for index in range(4)}
    assert len(ends) == 1
    ((status, code),) = ends
    found = set(codes.values())
    if len(codes) == 1:  # three found the model
        assert status is RoundStatus.CLOSED
    elif len(codes) > 2:
        assert status is RoundStatus.VOID
        # Where no reason is more than a liar's, one stands for all of them.
        assert code == (REFUSED if len(found) == 1 else UNFINISHED)
    assert net.run(until=lambda: min(net.steps()) >= 2)
    assert not net.forks()


@pytest.mark.claim("C-agreement-2")
def test_who_found_no_model_takes_that_of_the_others(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = harness.Net(4, byzantine=1)
    refusing(monkeypatch, net, {0: REFUSED})
    net.start()
    assert net.run(until=lambda: heights(net) >= 1, seconds=20.0)
    assert net.steps() == [1, 1, 1, 1]
    assert {m.sender for m in net.sent if m.kind == "fetch-model"} == {0}
    (ended,) = net.nodes[0].ended
    assert (ended.outcome.status, ended.merged) == (RoundStatus.CLOSED, None)
    assert len(net.digests()) == 1


@pytest.mark.parametrize(
    ("byzantine", "lacking"), [(0, (0,)), (0, (0, 1, 2)), (1, (0,)), (1, (0, 1))], ids=str
)
def test_who_cannot_merge_claims_what_others_found(
    harness: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    byzantine: int,
    lacking: tuple[int, ...],
) -> None:
    net = harness.Net(4, byzantine=byzantine)
    refusing(monkeypatch, net, dict.fromkeys(lacking, CANNOT_MERGE))
    net.start()
    assert net.run(until=lambda: heights(net) >= 1, seconds=20.0)
    assert {first(net, index).status for index in range(4)} == {RoundStatus.CLOSED}
    claims = [m for m in net.sent if (m.kind, m.round) == ("outcome/prevote", 1)]
    made = [
        decode_conclusion(m.envelope.payload) for m in claims if m.envelope.head == first_head(net)
    ]
    assert {type(item.result) for item in made if item is not None} == {Merged}
    ends = [first(net, index) for index in range(4)]
    assert [end.merged for end in ends] == [index not in lacking for index in range(4)]
    # What the round added to the model is known to who merged and to who did not.
    for end in ends:
        assert end.change is not None
        assert end.change.tolist() == ends[3].change.tolist()
    assert len({node.machine.head.digest for node in net.nodes}) == 1


@pytest.mark.claim("C-agreement-9")
def test_where_no_more_than_f_can_merge_there_is_no_model(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One claim may be a liar's: nobody follows it, and the swarm goes on all the same."""
    net = harness.Net(4, byzantine=1)
    refusing(monkeypatch, net, dict.fromkeys(range(3), CANNOT_MERGE))
    net.start()
    assert net.run(until=lambda: heights(net) >= 1, seconds=60.0)
    end = first(net, 0)
    assert (end.status, end.code, end.change) == (RoundStatus.VOID, UNFINISHED, None)
    assert net.run(until=lambda: min(net.steps()) >= 2)


def test_a_model_is_accepted_only_once_it_is_held(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two found it, which is more than can lie; the two others cannot get it."""
    net = harness.Net(4, byzantine=1, rule=harness.drop(kind="model"))
    refusing(monkeypatch, net, {0: REFUSED, 1: REFUSED})
    net.start()
    assert net.run(until=lambda: heights(net) >= 1, seconds=30.0)
    assert {m.sender for m in net.sent if m.kind == "fetch-model"} == {0, 1}
    assert {first(net, index).status for index in range(4)} == {RoundStatus.VOID}
    for message in net.sent:
        if message.kind in ("outcome/prevote", "outcome/precommit") and message.sender in (0, 1):
            said = decode_conclusion(message.envelope.payload)
            if said is not None and message.round and message.envelope.head == first_head(net):
                assert isinstance(said.result, Void)


def first_head(net: Any) -> bytes:
    """The digest of the head that the swarm began with."""
    head: bytes = net.sent[0].envelope.head
    return head


def test_a_node_that_is_late_with_its_result_still_says_it(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two found a model and one found none. The fourth hears of the set when it is attempt 2."""

    def rule(message: Any) -> Any:
        late = message.receiver == 3 and message.now < harness.START + 2.0
        hidden = message.kind in ("choice/prevote", "choice/precommit", "certificate")
        slow = message.kind == "outcome/precommit" and message.now < harness.START + 4.0
        return () if slow or (late and hidden) else None

    net = harness.Net(4, byzantine=1, rule=rule)
    refusing(monkeypatch, net, {0: REFUSED})
    net.start()
    assert net.run(until=lambda: heights(net) >= 1, seconds=30.0)
    said = [m for m in net.sent if (m.sender, m.kind, m.round) == (3, "outcome/prevote", 1)]
    claims = {decode_conclusion(m.envelope.payload) for m in said}
    assert {type(item.result) for item in claims if item is not None} == {Merged}
    assert net.steps() == [1, 1, 1, 1]
    assert not net.forks()


@pytest.mark.parametrize("lie", [Merged(b"\x66" * 32), Void(REFUSED), Void("QRES-E999")], ids=str)
def test_a_liar_tips_no_honest_majority(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch, lie: Merged | Void
) -> None:
    """Three honest nodes; one of them found none. The liar says something else to each."""
    net = harness.Net(4, byzantine=1, puppets=(3,))
    refusing(monkeypatch, net, {0: "QRES-E509"})
    net.start()
    head = net.machine(0).head.digest
    assert net.run(until=lambda: all(net.machine(i)._height.outcome.chosen for i in range(3)))
    about = Conclusion(net.machine(0)._height.outcome.chosen, lie)
    for number in range(1, 8):
        for kind in ("outcome/prevote", "outcome/precommit"):
            payload = encode_conclusion(about)
            net.inject(net.forge(3, kind, payload, number=number, model=head), [0, 1, 2])
        payload = OutcomeProposal(about).to_bytes()
        sent = net.forge(3, "outcome/proposal", payload, number=number, model=head)
        net.inject(sent, [0, 1, 2])
    assert net.run(until=lambda: heights(net) >= 1, seconds=30.0)
    assert net.steps() == [1, 1, 1]
    assert not net.forks([0, 1, 2])
    assert not any(node.diverged for node in net.live)


def test_an_outcome_of_another_set_is_accepted_by_nobody(harness: ModuleType) -> None:
    net = harness.Net(4, byzantine=1)
    net.start()
    assert net.run(until=lambda: bool(net.machine(0)._height.outcome.own))
    outcome = net.machine(0)._height.outcome
    foreign = Conclusion(b"\x66" * 32, outcome.own.result)
    for sender in (1, 2, 3):
        payload = encode_conclusion(foreign)
        number, head = 1, net.machine(0).head.digest
        sent = net.forge(sender, "outcome/prevote", payload, number=number, model=head)
        outcome.take(sent, net.now)
    assert not outcome._accepts(foreign)
    assert outcome._accepts(outcome.own)


# ── one question at a time ────────────────────────────────────────────────────────────────────────

SET = b"s" * 32


def alone(harness: ModuleType) -> tuple[Any, Any]:
    """Node 0, which knows the decided set, and its second instance; the test speaks for others."""
    net = harness.Net(4, byzantine=1, puppets=(1, 2, 3))
    net.start()
    outcome = net.machine(0)._height.outcome
    outcome.begin(SET, 1, net.now)
    return net, outcome


def proposed(net: Any, outcome: Any, number: int, *, off: int = 0, **lock: Any) -> None:
    """Give node 0 a proposal of an attempt, by whose turn it is or by somebody after it."""
    others = [index for index in range(4) if net.ids[index] != outcome._proposer(number)]
    by = others[off - 1] if off else net.index_of[outcome._proposer(number)]
    payload = OutcomeProposal(Conclusion(SET, Void(REFUSED)), **lock).to_bytes()
    head = net.machine(0).head.digest
    made = net.forge(by, "outcome/proposal", payload, number=number, model=head)
    outcome.take(made, net.now)


def test_a_liar_s_attempts_far_ahead_are_not_kept(harness: ModuleType) -> None:
    net, outcome = alone(harness)
    for number in (2, 10**6, 10**6 + 1):
        proposed(net, outcome, number)
    assert list(outcome._proposals) == [2]
    assert not net.nodes[0].refused
    outcome._entered(1, net.now)
    assert list(outcome._proposals) == [2], "it is still near"


def test_who_may_not_propose_an_outcome_is_refused(harness: ModuleType) -> None:
    net, outcome = alone(harness)
    proposed(net, outcome, 2, off=3)
    assert not outcome._proposals
    assert net.nodes[0].refused["not-the-proposer"] == 1


@pytest.mark.parametrize("voters", [2, 3])
def test_an_outcome_is_locked_where_a_quorum_voted_for_it(harness: ModuleType, voters: int) -> None:
    net, outcome = alone(harness)
    vote, head = encode_conclusion(Conclusion(SET, Void(REFUSED))), net.machine(0).head.digest
    prevotes = tuple(
        net.forge(index, "outcome/prevote", vote, number=1, model=head)
        for index in range(1, 1 + voters)
    )
    proposed(net, outcome, 2, lock_round=1, prevotes=prevotes)
    assert list(outcome._proposals) == ([2] if voters == 3 else [])
    assert net.nodes[0].refused["unproven-lock"] == (0 if voters == 3 else 1)


def test_that_nobody_found_a_model_is_believed_of_more_than_f(harness: ModuleType) -> None:
    net, outcome = alone(harness)
    none, head = Conclusion(SET, Void(UNFINISHED)), net.machine(0).head.digest
    for sender, code, common in ((1, REFUSED, False), (2, "QRES-E509", True)):
        vote = encode_conclusion(Conclusion(SET, Void(code)))
        made = net.forge(sender, "outcome/prevote", vote, number=1, model=head)
        outcome.take(made, net.now)
        assert outcome._is_common(none) is common


def test_a_node_that_was_started_again_says_its_vote_again(harness: ModuleType) -> None:
    net = harness.Net(4, byzantine=1, puppets=(1, 2, 3))
    net.start()
    machine = net.machine(0)
    outcome = machine._height.outcome
    vote = encode_conclusion(Conclusion(SET, Void(REFUSED)))
    outcome.restore(1, ((1, "outcome/prevote", vote), (1, "outcome/proposal", vote)), None)
    machine._outlet.take()
    outcome.begin(SET, 1, net.now)
    frames = [e.frame for e in machine._outlet.take() if isinstance(e, Broadcast)]
    said = [Envelope.from_bytes(frame, max_bytes=2**20) for frame in frames]
    assert [(item.kind, item.round, item.payload) for item in said] == [
        ("outcome/prevote", 1, vote)
    ]
    assert machine.node_id in outcome._heard[1, Step.PREVOTE]


def test_the_errors_that_void_a_height_are_the_plugins_own() -> None:
    """The code of a void is one of the list, so that people find what it means."""
    assert issubclass(RoundError, QresError)
    assert issubclass(HookError, QresError)
    assert "QRES-E604" in Void(UNFINISHED).reason
    assert Void("QRES-X").reason == "QRES-X"
