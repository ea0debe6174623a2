"""Nodes that judge a set by held-out examples of their own before they vote for it."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from qres_core import RoundInfo, RoundStatus, Standing, Update, Vector
from qres_core.errors import CompatibilityError
from qres_core.swarm.agreement.choice import objections
from qres_core.swarm.ledger.messages import CandidateSet, Member
from qres_core.training import Screening

HARMFUL = 1_000


@pytest.fixture(autouse=True, params=[None, 0.01])
def _judging(harness: ModuleType, request: pytest.FixtureRequest) -> Iterator[None]:
    """The machine waits for the trainer, as in a simulation, or goes on, as a real node does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harness.Net, "judging", request.param)
        yield


def training(liars: set[int]) -> Any:
    """Honest updates of 1 in every coordinate, liars' of 1000."""

    def train(index: int, _info: RoundInfo) -> Update:
        return Update(np.full(3, HARMFUL if index in liars else 1, dtype=np.int32))

    return train


def far(_index: int, model: Vector) -> float:
    """Positive where the model is farther than any honest update takes it."""
    return 1.0 if int(np.abs(model - [10, 20, 30]).max()) > 50 else 0.0


def statuses(net: Any, index: int) -> set[RoundStatus]:
    return {ended.outcome.status for ended in net.nodes[index].ended}


def test_what_the_proposer_screens_out_is_not_merged_and_told(harness: ModuleType) -> None:
    net = harness.Net(4, byzantine=1, train=training({3}), plugins={"critic": {}}, validate=far)
    net.start()
    assert net.run(until=lambda: min(net.steps()) >= 1, seconds=5)
    proposers = [node for node in net.nodes if "screen" in node.plugin("critic").judged]
    assert len(proposers) == 1
    facts = [(fact.fact, net.index_of[fact.subject]) for fact in proposers[0].witness.evidence]
    assert ("critic:harmful", 3) in facts
    for node in net.nodes:
        assert node.machine.model.tolist() == [11, 21, 31]
    assert len(net.digests()) == 1


@pytest.mark.claim("C-validation-2")
def test_a_set_that_no_quorum_endorses_changes_nothing(harness: ModuleType) -> None:
    """A lying proposer that screens nothing gets no votes, and the model stays as it was."""
    net = harness.Net(
        4,
        byzantine=1,
        quorum=4,  # the liar cannot be left out: every set holds its update
        train=training({3}),
        plugins={"critic": {}},
        validate=far,
    )
    for node in net.nodes:
        object.__setattr__(node.machine.kernel, "screen", lambda *_arguments: (Screening(), ()))
    net.start()
    net.run(seconds=8)
    for node in net.nodes:
        assert statuses(net, node.index) == {RoundStatus.ABORTED}
        assert node.machine.model.tolist() == [10, 20, 30]
        assert node.machine.kernel.rejections["critic:worse"] >= 1
    assert not net.forks()


@pytest.mark.control("C-validation-2", "C-validation-11")
def test_without_judges_the_same_set_is_merged(harness: ModuleType) -> None:
    net = harness.Net(4, byzantine=1, quorum=4, train=training({3}))
    net.start()
    assert net.run(until=lambda: min(net.steps()) >= 1, seconds=5)
    assert net.machine(0).model.tolist() == [261, 271, 281]


@pytest.mark.claim("C-validation-2")
def test_one_dissenter_follows_the_quorum(harness: ModuleType) -> None:
    """Opinions decide votes only: who was outvoted merges what was agreed, the same bits."""

    def validate(index: int, model: Vector) -> float:
        return 1.0 if index == 3 else far(index, model)

    net = harness.Net(
        4, byzantine=1, train=training(set()), plugins={"critic": {}}, validate=validate
    )
    net.start()
    assert net.run(until=lambda: min(net.steps()) >= 3, seconds=60)
    assert not net.forks()
    assert net.machine(3).kernel.rejections["critic:worse"] >= 1
    assert "endorse" in net.nodes[3].plugin("critic").judged


@pytest.mark.claim("C-validation-2")
@pytest.mark.parametrize("hook", ["screen", "endorse"])
def test_a_broken_judge_withholds_and_does_not_crash(harness: ModuleType, hook: str) -> None:
    net = harness.Net(
        4,
        byzantine=1,
        train=training(set()),
        plugins={"critic": {"broken": hook}},
        validate=far,
    )
    net.start()
    net.run(seconds=10)
    assert max(net.steps()) == 0
    rejections = sum(
        (node.machine.kernel.rejections for node in net.nodes),
        start=type(net.machine(0).kernel.rejections)(),
    )
    assert any(hook in reason for reason in rejections), rejections


def test_a_proposer_is_shown_what_its_set_merges_to_and_proposes_nothing_it_refuses(
    harness: ModuleType,
) -> None:
    for broken in ("check", ""):
        net = harness.Net(
            4,
            byzantine=1,
            train=training({3}),
            plugins={"critic": {"broken": broken}},
            validate=far,
        )
        net.start()
        net.run(until=lambda net=net: min(net.steps()) >= 1, seconds=5)
        critics = [node.plugin("critic") for node in net.nodes]
        # Without the harmful update of node 3, which screening left out.
        assert [1, 1, 1] in [merged for critic in critics for merged in critic._merged]
        refused = [n.machine.kernel.rejections["kernel:not-screened-qres-e701"] for n in net.nodes]
        assert (max(net.steps()) == 0) == (max(refused) > 0) == bool(broken)


@pytest.mark.claim("C-validation-11")
def test_a_judge_without_examples_is_refused_at_start(harness: ModuleType) -> None:
    with pytest.raises(CompatibilityError, match=r"QRES-E311 plugins\.critic"):
        harness.Net(4, byzantine=1, plugins={"critic": {}})


@pytest.mark.claim("C-validation-9")
def test_a_judge_beside_one_who_reveals_after_the_vote_is_refused(harness: ModuleType) -> None:
    with pytest.raises(CompatibilityError, match=r"QRES-E312 plugins\.critic: .*plugins\.talk"):
        harness.Net(4, byzantine=1, plugins={"critic": {}, "talk": {}}, validate=far)


def test_what_a_proposer_lets_count_less_counts_less_everywhere(harness: ModuleType) -> None:
    """Shares travel in the agreed set as standings do: every node merges the same bits."""
    net = harness.Net(
        4,
        byzantine=1,
        train=lambda index, _info: Update(np.full(3, 40 * (index == 0), dtype=np.int32)),
        plugins={"critic": {"share": 2**31}},
        validate=lambda _index, _model: 0.0,
    )
    net.start()
    assert net.run(until=lambda: min(net.steps()) >= 1, seconds=5)
    # Half a share of 40 and three full shares of 0: 20 / 3.5, to the nearest step.
    assert net.machine(0).model.tolist() == [16, 26, 36]
    assert len(net.digests()) == 1


def test_a_share_above_the_standing_is_not_voted_for(harness: ModuleType) -> None:
    """A lying proposer may let others count less, and nobody more."""
    net = harness.Net(4, byzantine=1, plugins={"critic": {}}, validate=far)
    machine = net.machine(1)
    sender, other = net.ids[0], net.ids[2]
    members = (Member(sender, bytes(32), 2**31), Member(other, bytes(32), 2**32))
    candidate = CandidateSet(1, tuple(sorted(members, key=lambda member: member.sender)))
    assert objections(machine._context, candidate) == {}
    held = net.machine(1).kernel
    object.__setattr__(held, "standing", lambda _sender: Standing(2**31))
    assert objections(machine._context, candidate) == {other: "standing-bent"}
