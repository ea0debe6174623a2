"""Sets on record: all nodes are told the same ones, and no set is decided that a plugin refuses."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import attrs
import numpy as np
import pytest

from qres_core import Fault, NodeId, RoundInfo, RoundStatus, Update
from qres_core.dialogues import VoidSet
from qres_core.errors import RoundError
from qres_core.swarm.context.effects import Diverged
from qres_core.swarm.contributions.merge import Merger
from qres_core.swarm.ledger.chain import Head, Link, encode_links
from qres_core.swarm.ledger.messages import CandidateSet, Member, encode_conclusion
from qres_core.swarm.ledger.misbehaviour import Misbehaviour
from qres_core.swarm.ledger.results import Conclusion, Result, Void
from qres_core.swarm.members import amendments
from qres_core.swarm.members.amendments import Amendments

PLUGINS: Mapping[str, Any] = {"opener": {}}
Senders = tuple[NodeId, ...]


@pytest.fixture(name="opener")
def _opener(harness: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets what the toy allows and refuses, for one test."""

    def script(**scripts: Any) -> None:
        for name, value in scripts.items():
            monkeypatch.setattr(harness.Opener, name, staticmethod(value))

    return script


def void_until(height: int, code: str = "QRES-E604") -> Any:
    return lambda _senders, info: code if info.height < height else ""


def without(absent: Mapping[int, Collection[int]], key: str = "height") -> Any:
    """Training in which some nodes sit out, by height or number of the round."""

    def train(index: int, info: RoundInfo) -> Update | None:
        if index in absent.get(getattr(info, key), ()):
            return None
        return Update(np.array([index, info.number, 1], dtype=np.int32))

    return train


def told(net: Any, index: int, height: int) -> tuple[VoidSet, ...]:
    found: tuple[VoidSet, ...] = net.nodes[index].plugin("opener").told[height]
    return found


def senders(net: Any, sets: tuple[VoidSet, ...]) -> list[list[int]]:
    return [[net.index_of[sender] for sender in item.senders] for item in sets]


def height(net: Any, index: int) -> int:
    return int(net.machine(index).head.height)


def at(net: Any, wanted: int, indices: Collection[int]) -> bool:
    reached = lambda: min(height(net, i) for i in indices) >= wanted  # noqa: E731 - asked often
    return bool(net.run(seconds=200, until=reached))


@pytest.mark.claim("C-secagg-13")
def test_sets_of_void_heights_are_on_record_until_there_is_a_model(
    harness: ModuleType, opener: Any
) -> None:
    opener(refuses=void_until(3))
    absent = {0: [4], 1: [2], 2: [4], 3: [1]}
    net = harness.Net(5, byzantine=1, plugins=PLUGINS, train=without(absent))
    net.start()
    assert at(net, 5, range(5))
    for index in range(5):
        assert told(net, index, 0) == ()
        assert senders(net, told(net, index, 1)) == [[0, 1, 2, 3]]
        assert senders(net, told(net, index, 2)) == [[0, 1, 2, 3], [0, 1, 3, 4]]
        assert told(net, index, 3) == told(net, index, 2)  # the first again
        assert told(net, index, 4) == ()
    assert not net.forks()


@pytest.mark.claim("C-secagg-13")
def test_a_node_that_was_away_and_one_that_was_restarted_are_told_the_same(
    harness: ModuleType, opener: Any
) -> None:
    opener(refuses=void_until(4, "QRES-E508"))
    net = harness.Net(5, byzantine=1, quorum=3, plugins=PLUGINS, train=without({2: [1]}))
    net.start()
    net.down = {4}
    assert at(net, 2, range(4))
    net.restart(2)
    assert at(net, 3, range(4))
    net.down = set()
    assert at(net, 4, range(5))
    net.restart(3)
    assert at(net, 5, range(5))
    at_three = [told(net, index, 3) for index in range(5) if 3 in told_at(net, index)]
    at_four = [told(net, index, 4) for index in range(5) if 4 in told_at(net, index)]
    assert {len(at_three), len(at_four)} <= {4, 5}
    assert len(set(at_three)) == len(set(at_four)) == 1
    assert senders(net, at_three[0])[:2] == [[0, 1, 2, 3], [0, 1, 2, 3]]  # of two mismatches
    assert [item.mismatches for item in at_four[0]] == [0, 1, 2, 3]
    assert 4 not in told_at(net, 4) or told(net, 4, 4) == at_four[0]


def told_at(net: Any, index: int) -> Collection[int]:
    found: Mapping[int, object] = net.nodes[index].plugin("opener").told
    return found


@pytest.mark.claim("C-secagg-13")
def test_a_member_that_joins_is_told_what_was_decided_before_it_came(
    harness: ModuleType, opener: Any
) -> None:
    opener(refuses=void_until(12))
    net = harness.Net(5, byzantine=1, members=4, plugins=PLUGINS)
    net.start(range(4))
    assert at(net, 1, range(4))
    net.hand_over(net.change("add", 4, signers=[0, 1, 3]), range(4))
    assert net.run(seconds=60, until=lambda: net.machine(0).head.roster.epoch == 1)
    net.start([4])
    assert at(net, 6, range(5))
    first = min(told_at(net, 4))
    assert first < 6
    for number in told_at(net, 4):
        assert told(net, 4, number) == told(net, 0, number)
    (before, *_after) = told(net, 4, first)
    assert before.roster == before.names == tuple(net.ids[:4])


def locks_two(message: Any) -> Any:
    """Nodes 0 and 2 are locked after round 1, the others have seen no quorum: it is aborted."""
    if message.round != 1:
        return None
    if message.kind == "choice/proposal" and message.receiver == 3:
        return ()
    lost = message.kind == "choice/prevote" and message.sender == 2 and message.receiver in (1, 3)
    return () if lost else None


@pytest.mark.claim("C-secagg-13")
def test_what_an_early_attempt_locked_and_a_late_one_decided_is_on_record(
    harness: ModuleType, opener: Any
) -> None:
    """And nothing else: the second attempt had other contributions, of which no set was decided."""
    opener(refuses=void_until(1))
    trained = without({1: [3], 2: [0]}, "number")
    net = harness.Net(4, byzantine=1, plugins=PLUGINS, train=trained, rule=locks_two)
    net.start()
    assert at(net, 1, range(4))
    number = net.nodes[1].ended[-1].outcome.round_info.number
    assert number > 1
    net.run(seconds=1)
    for index in range(4):
        assert senders(net, told(net, index, 1)) == [[0, 1, 2]]


def test_a_proposer_leaves_out_what_must_not_be_revealed(harness: ModuleType, opener: Any) -> None:
    def allows(_own: NodeId, senders: Senders, _info: RoundInfo) -> Senders:
        return tuple(sender for sender in senders if sender != net.ids[2])

    opener(allows=allows)
    net = harness.Net(4, byzantine=1, plugins=PLUGINS)
    net.start()
    assert net.run(seconds=30, until=lambda: min(net.steps()) >= 2)
    for node in net.nodes:
        for ended in node.ended:
            if ended.outcome.status is RoundStatus.CLOSED:
                assert [net.index_of[member] for member in ended.outcome.members] == [0, 1, 3]
        assert not node.refused


@pytest.mark.parametrize("judged", [True, False])
def test_a_set_that_a_liar_proposes_is_judged_by_all_who_vote(
    harness: ModuleType,
    opener: Any,
    judged: bool,  # noqa: FBT001 - False is the control
) -> None:
    def allows(own: NodeId, senders: Senders, info: RoundInfo) -> Senders:
        proposes = own == net.machine(0).proposer(info.number)
        if not judged or (proposes and info.number == 1):
            return senders
        return tuple(sender for sender in senders if sender != net.ids[2])

    opener(allows=allows)
    net = harness.Net(4, byzantine=1, plugins=PLUGINS)
    net.start()
    assert net.run(seconds=30, until=lambda: min(net.steps()) >= 1)
    (first, *later) = [
        e.outcome for e in net.nodes[3].ended if e.outcome.status is RoundStatus.CLOSED or judged
    ]
    if judged:
        assert first.status is RoundStatus.ABORTED
        assert first.reason == "a plugin would not have the set revealed"
        assert [net.index_of[member] for member in later[0].members] == [0, 1, 3]
    else:
        assert [net.index_of[member] for member in first.members] == [0, 1, 2, 3]


def test_a_plugin_that_raises_about_a_set_stops_it(harness: ModuleType, opener: Any) -> None:
    def allows(own: NodeId, senders: Senders, info: RoundInfo) -> Senders:
        if info.number <= 2 and own != net.machine(0).proposer(1):
            raise RoundError.of("QRES-E604", "opener", "cannot say")
        return senders

    opener(allows=allows)
    net = harness.Net(4, byzantine=1, plugins=PLUGINS)
    net.start()
    assert net.run(seconds=60, until=lambda: min(net.steps()) >= 1)
    reasons = [ended.outcome.reason for ended in net.nodes[3].ended[:2]]
    assert "cannot say" in reasons[0]  # the first proposer proposed, and nobody voted for it
    assert reasons[1] == "no proposal"
    assert sum(node.refused["kernel:proposal-not-revealed-qres-e604"] for node in net.nodes) == 3


def test_proof_of_another_set_stops_a_node_that_decided_one(harness: ModuleType) -> None:
    """More than f lie. What it opened would not be on record where it went."""
    net = harness.Net(4, byzantine=1)
    quiet = harness.drop(kind=("outcome/prevote", "outcome/precommit"))
    net.rule = quiet
    net.start()
    machine = net.machine(0)
    assert net.run(seconds=20, until=lambda: machine._height.round.decided is not None)
    link = other_link(net, machine)
    net.rule = None
    net.inject(net.forge(1, "links", link, number=1, model=machine.head.digest), [0])
    net.run(seconds=1)
    (found,) = net.nodes[0].diverged
    assert isinstance(found, Diverged)
    assert "proof of different sets" in str(found.error)


def other_link(net: Any, machine: Any) -> bytes:
    """Encoded links: three nodes decided another set, void, at a node's height."""
    head = machine.head
    chosen = CandidateSet(1, tuple(Member(m, bytes(32)) for m in head.roster.members[1:]))
    about = Conclusion(chosen.digest(head.digest), Void("QRES-E604"))
    votes = [
        net.forge(i, "outcome/precommit", encode_conclusion(about), number=1, model=head.digest)
        for i in (1, 2, 3)
    ]
    return encode_links([Link(head, chosen, about.result, 1, tuple(votes))])


def only_the_same_again(_own: NodeId, now: Senders, info: RoundInfo) -> Senders:
    """In a sum of few nodes each one less would show one: no other set may follow."""
    before = {tuple(sorted(item.senders)) for item in info.void_sets}
    return now if not before or tuple(sorted(now)) in before else ()


@pytest.fixture(name="looks_ahead", params=[True, False])
def _looks_ahead(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether nodes ask what a set leaves to decide on; the controls do not."""
    if not request.param:
        monkeypatch.setattr(Amendments, "leave_sets", lambda *_: True)
    return bool(request.param)


def test_a_removal_before_a_void_height_leaves_a_set_to_decide_on(
    harness: ModuleType,
    opener: Any,
    looks_ahead: bool,  # noqa: FBT001 - False is the control
) -> None:
    opener(allows=only_the_same_again, refuses=void_until(2))
    net = harness.Net(5, byzantine=1, plugins=PLUGINS)
    net.start()
    net.hand_over(net.change("remove", 2, signers=[0, 1, 3, 4]), range(5))
    stay = [0, 1, 3, 4]
    made = bool(net.run(seconds=60, until=lambda: min(net.steps(stay)) >= 2))
    assert net.machine(0).head.roster.epoch == 1
    assert made == looks_ahead
    if looks_ahead:
        assert senders(net, told(net, 0, 1)) == [stay]


def test_a_removal_after_a_void_height_waits_for_a_model(
    harness: ModuleType,
    opener: Any,
    looks_ahead: bool,  # noqa: FBT001 - False is the control
) -> None:
    opener(allows=only_the_same_again, refuses=void_until(3))
    net = harness.Net(5, byzantine=1, plugins=PLUGINS)
    net.start()
    assert at(net, 1, range(5))
    net.hand_over(net.change("remove", 2, signers=[0, 1, 3, 4]), range(5))
    stay = [0, 1, 3, 4]
    made = bool(net.run(seconds=60, until=lambda: min(net.steps(stay)) >= 3))
    assert net.machine(0).head.roster.epoch == 1
    assert made == looks_ahead
    if looks_ahead:
        closed = [e.outcome for e in net.nodes[0].ended if e.outcome.status is RoundStatus.CLOSED]
        assert len(closed[0].members) == 5, "the member is in the model that it waits for"
        assert len(closed[-1].members) == 4


def test_a_ban_after_a_void_height_waits_for_a_model(
    harness: ModuleType,
    opener: Any,
    looks_ahead: bool,  # noqa: FBT001 - False is the control
) -> None:
    opener(allows=only_the_same_again, refuses=void_until(9))
    net = harness.Net(5, byzantine=1, plugins=PLUGINS)
    net.start()
    assert at(net, 1, range(5))
    net.rule = harness.Chaos(net, random.Random(1), {4: "double votes"}, heals=0.0)
    made = bool(net.run(seconds=60, until=lambda: min(net.steps(range(4))) >= 2))
    assert made == looks_ahead
    if not looks_ahead:
        assert net.machine(0).head.bans == (net.ids[4],)


def test_a_ban_that_waits_holds_with_the_model_of_its_set(
    harness: ModuleType,
    opener: Any,
    waits: bool,  # noqa: FBT001 - False is the control
) -> None:
    opener(allows=only_the_same_again, refuses=void_until(5))
    net = harness.Net(5, byzantine=1, plugins=PLUGINS)
    net.start()
    assert at(net, 1, range(5))
    net.rule = harness.Chaos(net, random.Random(1), {4: "double votes"}, heals=0.0)
    assert at(net, 6, range(4))
    links = net.machine(0)._history.recent.values()
    assert all(link.next.bans == () for link in links if link.head.height < 5)
    (made,) = [link for link in links if link.head.height == 5]
    assert made.next.bans == ((net.ids[4],) if waits else ())


@pytest.mark.parametrize("kept", [True, False])
def test_a_ban_that_waits_is_not_lost_although_its_evidence_is_too_old(
    harness: ModuleType,
    opener: Any,
    monkeypatch: pytest.MonkeyPatch,
    kept: bool,  # noqa: FBT001 - False is the control
) -> None:
    """The member lies at one height. The model comes when nobody could carry the proof again."""
    opener(allows=only_the_same_again, refuses=void_until(6))
    if not kept:
        lossless = Head.after

        def after(self: Head, chosen: CandidateSet, result: Result) -> Head:
            return attrs.evolve(lossless(self, chosen, result), waiting=())

        monkeypatch.setattr(Head, "after", after)
    net = harness.Net(5, byzantine=1, plugins=PLUGINS)
    net.start()
    assert at(net, 1, range(5))
    for vote in double_vote(net, 4).messages:
        net.inject(vote, range(4))
    assert at(net, 4, range(5))
    net.restart(2)
    assert at(net, 7, range(4))
    links = net.machine(0)._history.recent.values()
    carry = [(link.head.height, link.chosen.waits) for link in links if link.chosen.evidence]
    assert carry[0] == (1, True)
    assert max(carry)[0] <= 2, "once it is known that the ban waits, nobody carries it again"
    assert all(link.next.bans == () for link in links if link.head.height < 6)
    assert net.machine(2).head.bans == ((net.ids[4],) if kept else ())
    assert not net.forks()


def test_a_ban_at_once_is_not_carried_where_one_that_waits_leaves_too_few(
    harness: ModuleType,
    opener: Any,
) -> None:
    """A model would make both hold, and six of seven must be in a set: five would be left."""
    opener(refuses=void_until(9))
    net = harness.Net(7, byzantine=2, quorum=6, plugins=PLUGINS)
    net.start()
    assert at(net, 1, range(7))
    machine = net.machine(0)
    carried = machine._height.choice._amendments
    senders = tuple(Member(member, bytes(32)) for member in machine.head.roster.members)
    chosen = CandidateSet(1, senders, (double_vote(net, 5),))
    merger = cast("Merger", SimpleNamespace(remain=all_but_the_banned))
    assert carried.leave_sets(chosen, merger)
    machine._context.head = attrs.evolve(machine.head, waiting=(net.ids[6],))
    assert not carried.leave_sets(chosen, merger)
    assert not carried.leave_sets(attrs.evolve(chosen, waits=True), merger)
    machine._context.head = attrs.evolve(machine.head, waiting=(net.ids[5],))
    assert carried.leave_sets(chosen, merger), "it is the same member"


def all_but_the_banned(
    members: tuple[Member, ...], head: Head, names: object
) -> tuple[NodeId, ...]:
    del names
    return tuple(member.sender for member in members if member.sender not in head.bans)


def double_vote(net: Any, liar: int) -> Misbehaviour:
    machine = net.machine(0)
    facts = {"number": machine.number, "model": machine.head.digest}
    said = (None, bytes(32))
    votes = (net.vote(liar, "choice/prevote", value, **facts) for value in said)
    return Misbehaviour.of(Fault.EQUIVOCATION, *votes)


@pytest.mark.parametrize("asks", [True, False])
def test_a_change_after_which_sets_could_be_decided_and_not_merged_waits_too(
    harness: ModuleType,
    opener: Any,
    asks: bool,  # noqa: FBT001 - False is the control
) -> None:
    """Sums of other groups than those on record would be too few for the rule."""

    def allows(_own: NodeId, now: Senders, info: RoundInfo) -> Senders:
        drawn_anew = any(item.roster != info.roster for item in info.void_sets)
        return () if asks and info.ahead and drawn_anew else now

    def refuses(_senders: Senders, info: RoundInfo) -> str:
        drawn_anew = any(item.roster != info.roster for item in info.void_sets)
        return "QRES-E505" if drawn_anew or info.height < 2 else ""

    opener(allows=allows, refuses=refuses)
    net = harness.Net(5, byzantine=1, plugins=PLUGINS)
    net.start()
    net.hand_over(net.change("remove", 2, signers=[0, 1, 3, 4]), range(5))
    stay = [0, 1, 3, 4]
    made = net.run(seconds=30, until=lambda: min(net.steps(stay)) >= 1 or height(net, 0) >= 9)
    assert made
    assert (min(net.steps(stay)) >= 1) == asks
    net.run(seconds=1, until=lambda: height(net, 0) > 9)
    assert net.machine(0).head.roster.epoch == 1


@pytest.mark.parametrize("far", [True, False])
def test_a_removal_after_which_a_later_height_could_decide_nothing_waits_too(
    harness: ModuleType,
    opener: Any,
    monkeypatch: pytest.MonkeyPatch,
    far: bool,  # noqa: FBT001 - False is the control
) -> None:
    """After a removal a sum is divided once, and what is left of it not a second time."""
    if not far:
        near: Any = lambda head, remain: len(remain(head)) >= head.roster.quorum  # noqa: E731
        monkeypatch.setattr(amendments, "goes_on", near)

    def allows(_own: NodeId, now: Senders, info: RoundInfo) -> Senders:
        drawn_anew = any(item.roster != info.roster for item in info.void_sets)
        divided = {item.mismatches for item in info.void_sets if item.roster == info.roster}
        return () if drawn_anew and len({*divided, info.mismatches}) > 1 else now

    opener(allows=allows, refuses=void_until(3, "QRES-E508"))
    net = harness.Net(5, byzantine=1, plugins=PLUGINS)
    net.start()
    net.hand_over(net.change("remove", 2, signers=[0, 1, 3, 4]), range(5))
    stay = [0, 1, 3, 4]
    made = bool(net.run(seconds=30, until=lambda: min(net.steps(stay)) >= 1))
    assert made == far
    net.run(seconds=1)
    assert net.machine(0).head.roster.epoch == 1, "it holds, at once or with the model"


@pytest.mark.parametrize("action", ["add", "remove"])
def test_a_change_holds_with_the_next_model_where_no_set_would_be_left_without_it(
    harness: ModuleType,
    opener: Any,
    action: str,
    waits: bool,  # noqa: FBT001 - False is the control
) -> None:
    """A quorum of all: who joins is in no set yet, and who leaves cannot be left out of one."""
    opener(allows=only_the_same_again, refuses=void_until(2))
    net = harness.Net(6, members=5, byzantine=1, quorum=5, plugins=PLUGINS)
    net.start(range(5))
    member = 5 if action == "add" else 2
    net.hand_over(net.change(action, member, signers=[0, 1, 3, 4]), range(5))
    assert at(net, 2, range(5))
    for index in range(5):
        machine = net.machine(index)
        assert senders(net, told(net, index, 1)) == [[0, 1, 2, 3, 4]]
        assert machine.head.roster.epoch == 0, "no model was made"
        assert len(machine._history.links) == 1, "no link is kept for it"
    net.restart(1)
    stay = [0, 1, 3, 4]
    net.run(seconds=60, until=lambda: min(net.steps(stay)) >= 3)
    assert {net.machine(index).head.roster.epoch for index in stay} == {int(waits)}
    assert not net.forks()
