"""Attacks on what leads a node that lags to the present: old links, links with junk, other swarms.

Every attack has a control: without the one guard that stops it, it succeeds.
"""

from __future__ import annotations

from itertools import filterfalse
from types import ModuleType
from typing import Any, ClassVar

import attrs
import numpy as np
import pytest

from qres_core import ACCEPT, Envelope, Fault, NodeInfo, Verdict, hookimpl, reject
from qres_core.kernel.discovery import Installed
from qres_core.swarm.context.effects import Removed
from qres_core.swarm.ledger import chain
from qres_core.swarm.ledger.chain import Head, Link, decode_links, encode_links, follow
from qres_core.swarm.ledger.messages import (
    OUTCOME_PRECOMMIT,
    CandidateSet,
    Member,
    encode_conclusion,
    encode_model,
    encode_sync,
)
from qres_core.swarm.ledger.results import Merged
from qres_core.swarm.machine.departure import QUIET, Departure
from qres_core.swarm.machine.rounds import RoundMachine
from qres_core.swarm.sync.catching_up import CatchingUp

FIVE = [0, 1, 2, 3, 4]


def epochs(net: Any, indices: list[int], wanted: int) -> bool:
    """Whether all of these come to the roster of a number."""

    def there() -> bool:
        return all(net.machine(index).head.roster.epoch >= wanted for index in indices)

    return bool(net.run(seconds=60, until=there))


def grows(net: Any, indices: list[int], models: int = 2) -> bool:
    goal = max(net.steps(indices)) + models
    return bool(net.run(seconds=60, until=lambda: min(net.steps(indices)) >= goal))


# ── the first half of the truth ───────────────────────────────────────────────────────────────────


def shown_its_removal(harness: ModuleType, *, with_model: bool, kept: bool = False) -> Any:
    """Node 2 was removed and added again while it was away; the liar shows it the first half.

    ``kept``: the liar gives it the messages with which all others told it then that it is removed.
    """
    liar, others = 4, [0, 1, 3, 4]
    net = harness.Net(5, byzantine=1)
    net.start()
    assert grows(net, FIVE)
    net.down = {2}
    net.hand_over(net.change("remove", 2, signers=others), others)
    model = None
    for _tick in range(600):
        net.run(seconds=0.05)
        machine = net.machine(0)
        if model is None and machine.head.roster.epoch == 1:
            model = machine.model
            net.hand_over(net.change("add", 2, signers=others), others)
        if machine.head.roster.epoch == 2:
            break
    assert model is not None
    assert grows(net, others)
    removal = net.machine(liar)._history.links[0]
    assert net.ids[2] not in removal.next.roster
    net.down = set()
    facts = {"number": net.machine(liar).number, "model": net.machine(liar).head.digest}
    if kept:
        told = [m for m in net.sent if m.kind == "links" and m.receiver == 2 and m.sender != liar]
        assert {message.sender for message in told} == {0, 1, 3}
        for message in told:
            assert net.ids[2] not in decode_links(message.envelope.payload)[-1].next.roster
            net.inject(message.envelope, [2], link=liar)
    net.inject(net.forge(liar, "links", encode_links([removal]), **facts), [2])
    if with_model:
        net.inject(net.forge(liar, "model", encode_model(model), **facts), [2], delay=0.001)
    net.run(seconds=20, until=lambda: net.machine(2).head.roster.epoch == 2)
    return net


@pytest.mark.parametrize("with_model", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_member_that_was_added_again_is_not_stopped_by_its_removal(
    harness: ModuleType, *, with_model: bool
) -> None:
    net = shown_its_removal(harness, with_model=with_model)
    assert net.machine(2).is_member
    net.run(seconds=QUIET * 0.5 + 0.5)
    assert grows(net, FIVE, 1)
    assert not [effect for effect in net.nodes[2].effects if isinstance(effect, Removed)]


def test_a_member_that_believes_the_first_to_show_its_removal_is_stopped_by_one_liar(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control."""

    def at_once(self: Departure, after: Head, now: float) -> None:
        del now
        if self._context.is_member and self._context.node_id not in after.roster:
            self.stop(after.height)

    monkeypatch.setattr(Departure, "expect", at_once)
    net = shown_its_removal(harness, with_model=False)
    assert [effect for effect in net.nodes[2].effects if isinstance(effect, Removed)]


@pytest.mark.parametrize("with_model", [False, pytest.param(True, marks=pytest.mark.long)])
@pytest.mark.parametrize("asks", [True, False])
def test_what_all_said_of_a_removal_then_does_not_stop_a_member_that_was_added_again(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch, *, with_model: bool, asks: bool
) -> None:
    """Somebody kept their words until now. They were true, so the node asks whether they still are.

    The control believes what more than f said, and does not ask.
    """
    if not asks:
        begin = Departure.begin

        def believes(self: Departure, height: int, now: float) -> None:
            begin(self, height, now)
            self._sure_at = now

        monkeypatch.setattr(Departure, "begin", believes)
    net = shown_its_removal(harness, with_model=with_model, kept=True)
    stopped = [effect for effect in net.nodes[2].effects if isinstance(effect, Removed)]
    assert bool(stopped) != asks
    if asks:
        assert net.machine(2).is_member
        net.run(seconds=QUIET * 0.5 + 0.5)
        assert grows(net, FIVE, 1)
        assert not [effect for effect in net.nodes[2].effects if isinstance(effect, Removed)]


def test_what_was_said_of_a_removal_is_nothing_to_a_member_whose_roster_is_later(
    harness: ModuleType,
) -> None:
    net = shown_its_removal(harness, with_model=False)
    assert net.machine(2).head.roster.epoch == 2
    for message in [m for m in net.sent if m.kind == "links" and m.receiver == 2]:
        net.inject(message.envelope, [2], link=4)
    net.run(seconds=QUIET * 0.5 + 0.5)
    assert grows(net, FIVE, 1)
    assert net.machine(2).is_member


def catches_up(harness: ModuleType, *, liar_speaks: bool) -> bool:
    """Whether node 2 comes back, while the liar shows it the same old link over and over."""
    liar, others = 4, [0, 1, 3, 4]
    net = harness.Net(6, byzantine=1, members=5)
    net.start(FIVE)
    assert grows(net, FIVE)
    net.down = {2}
    net.hand_over(net.change("add", 5, signers=others), others)
    assert epochs(net, others, 1)
    net.start([5])
    assert grows(net, [*others, 5])
    net.down = set()
    old = net.machine(liar)._history.links[:1]
    facts = {"number": 1, "model": net.machine(liar).head.digest}
    for place in range(1200 if liar_speaks else 0):
        told = net.forge(liar, "links", encode_links(old), **facts)
        net.inject(told, [2], delay=0.005 * place)
    return bool(net.run(seconds=6, until=lambda: net.machine(2).head.roster.epoch == 1))


def test_an_old_link_does_not_make_a_node_forget_a_later_one(harness: ModuleType) -> None:
    assert catches_up(harness, liar_speaks=True)


def test_a_node_that_goes_back_to_what_it_was_told_last_is_held_for_ever_by_one_liar(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: the model that it asked for is not the one that it waits for when it comes."""
    height = property(lambda self: self._context.head.height)
    monkeypatch.setattr(CatchingUp, "_proven_height", height)
    assert catches_up(harness, liar_speaks=False)
    assert not catches_up(harness, liar_speaks=True)


def sent_back(harness: ModuleType) -> tuple[Any, int]:
    """The liar shows all others a true link of an old head, and behind it one that is made up.

    The made up link is of earlier members, so that it is left out, as in an answer that is late.
    Returns the swarm, and how far it was.
    """
    liar, others = 4, [0, 1, 2, 3, 5]
    net = harness.Net(6, byzantine=1, members=5)
    net.start(FIVE)
    net.hand_over(net.change("add", 5, signers=FIVE), FIVE)
    assert epochs(net, FIVE, 1)
    net.start([5])
    assert grows(net, range(6), 1)
    recent = list(net.machine(0)._history.recent.values())
    assert grows(net, range(6), 4)
    first, old = recent[0], recent[-1]
    assert (first.head.roster.epoch, old.head.roster.epoch) == (0, 1)
    made_up = attrs.evolve(first, head=attrs.evolve(first.head, height=10**6))
    height = min(net.machine(index).head.height for index in others)
    told = net.forge(liar, "links", encode_links([old, made_up]), number=1, model=bytes(32))
    net.inject(told, others)
    return net, height


def test_no_link_leads_a_node_back_to_a_head_where_it_has_voted(harness: ModuleType) -> None:
    net, height = sent_back(harness)
    net.run(seconds=0.001)
    assert min(net.machine(index).head.height for index in range(4)) >= height
    assert net.machine(0).kernel.rejections[Fault.UNPROVEN_LINK] == 1
    assert grows(net, [0, 1, 2, 3, 5])
    assert not net.forks([0, 1, 2, 3, 5])


def test_where_the_last_link_may_be_left_out_one_liar_sends_all_others_back(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: they vote again at the old height, and what they voted there is forgotten."""
    monkeypatch.setattr(RoundMachine, "_is_ahead", lambda _self, _after: True)
    monkeypatch.setattr("qres_core.swarm.sync.catching_up.dropwhile", filterfalse)
    net, height = sent_back(harness)
    net.run(seconds=0.001)
    assert max(net.machine(index).head.height for index in (0, 1, 2, 3, 5)) < height


# ── the second half of the truth ──────────────────────────────────────────────────────────────────


def woken(harness: ModuleType, *, added: bool, returns: bool) -> Any:
    """Node 2 slept while the members removed it; what all told it of that comes when it wakes.

    ``added``: a member was added first, so that what they told begins after what it knows;
    ``returns``: the members added it again before it woke.
    """
    others = [0, 1, 3, 4]
    net = harness.Net(6, byzantine=1, members=5)
    net.start(FIVE)
    assert grows(net, FIVE, 1)
    net.down = {2}
    changes = [("add", 5)] * added + [("remove", 2)] + [("add", 2)] * returns
    for number, (action, who) in enumerate(changes, 1):
        net.hand_over(net.change(action, who, signers=others), others)
        assert epochs(net, others, number)
        if who == 5:
            net.start([5])
            others.append(5)
            assert grows(net, others, 1)
    told = [message for message in net.sent if message.kind == "links" and message.receiver == 2]
    assert {message.sender for message in told} == set(others)
    net.down = set()
    for message in told:
        net.inject(message.envelope, [2], link=message.sender)
    net.run(seconds=0.001)
    return net


def file_them_as_liars(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a node did before: nobody is heard who told it of members that it does not know."""
    take = CatchingUp.take_links

    def filed(self: CatchingUp, envelope: Envelope, now: float) -> object:
        kernel = self._context.kernel
        before = kernel.rejections[Fault.UNPROVEN_LINK]
        ahead = take(self, envelope, now)
        if kernel.rejections[Fault.UNPROVEN_LINK] > before:
            self._liars.add(envelope.sender)
        return ahead

    monkeypatch.setattr(CatchingUp, "take_links", filed)


def stops_as_removed(net: Any) -> bool:
    effects = net.nodes[2].effects
    return bool(
        net.run(seconds=60, until=lambda: any(isinstance(item, Removed) for item in effects))
    )


def test_a_member_that_slept_through_one_change_is_told_of_it(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two, what it was told began where it did not know the members. Of one it always did."""
    assert stops_as_removed(woken(harness, added=False, returns=False))
    file_them_as_liars(monkeypatch)
    assert stops_as_removed(woken(harness, added=False, returns=False))


@pytest.mark.parametrize("guard", [False, pytest.param(True, id="control")])
def test_a_member_that_slept_through_two_changes_hears_of_the_third(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch, *, guard: bool
) -> None:
    """Of the second one it is told what it cannot follow yet, and nobody hears it until it is back.

    So it does not stop as removed: that is what the manual says, too.
    """
    if guard:
        file_them_as_liars(monkeypatch)
    net = woken(harness, added=True, returns=False)
    assert net.machine(2).kernel.rejections[Fault.UNPROVEN_LINK] == 4, "of all that it knows"
    others = [0, 1, 3, 4, 5]
    assert grows(net, others, 1)
    assert not [effect for effect in net.nodes[2].effects if isinstance(effect, Removed)]
    net.hand_over(net.change("add", 2, signers=others), others)
    assert epochs(net, others, 3)
    assert net.run(seconds=20, until=lambda: net.machine(2).head.roster.epoch == 3) is not guard


@pytest.mark.parametrize("guard", [False, pytest.param(True, id="control")])
def test_a_swarm_goes_on_where_a_member_that_came_back_replaces_a_liar(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch, *, guard: bool
) -> None:
    """Six members, one of whom lies. The others are enough, if the one that slept is heard."""
    if guard:
        file_them_as_liars(monkeypatch)
    net = woken(harness, added=True, returns=True)
    net.down = {4}
    assert grows(net, [0, 1, 2, 3, 5]) is not guard
    if guard:  # it has the words of all, and stands still with all others
        assert net.machine(2).head.roster.epoch == 0


# ── what hangs on a link ──────────────────────────────────────────────────────────────────────────


def link_with_junk(harness: ModuleType) -> tuple[Link, Link]:
    """A link that changed the members, and what is kept of it by a node that a liar gave it to."""
    net = harness.Net(6, byzantine=1, members=5)
    net.start(FIVE)
    assert grows(net, FIVE)
    net.down, others = {2}, [0, 1, 3, 4]
    net.hand_over(net.change("add", 5, signers=others), others)
    assert epochs(net, others, 1)
    net.start([5])
    assert grows(net, others)
    first, *rest = net.machine(0)._history.links
    change = first.chosen.change
    junk = {f"x{index}": bytes(4096) for index in range(8)}
    signed = tuple(change.statement(net.ids[i], 0).with_auth(junk) for i in FIVE)
    bent = attrs.evolve(
        first,
        chosen=attrs.evolve(first.chosen, change=attrs.evolve(change, signatures=signed)),
        precommits=(
            *first.precommits,
            net.forge(4, "x", bytes(10_000), number=1, model=bytes(32)),
        ),
    )
    net.down = set()
    told = net.forge(4, "links", encode_links([bent, *rest]), number=1, model=bytes(32))
    net.inject(told, [2])
    assert epochs(net, [2], 1)
    return first, net.machine(2)._history.links[0]


def test_nothing_that_a_liar_hangs_on_a_link_travels_on(harness: ModuleType) -> None:
    """Not on a link in the middle either, and no signature of a change."""
    link, kept = link_with_junk(harness)
    assert kept.to_bytes() == link.to_bytes()
    assert link.chosen.change is not None
    assert not link.chosen.change.signatures


def test_a_link_that_is_kept_as_it_came_grows_with_each_liar(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control."""
    proven = Link.proven
    monkeypatch.setattr(
        Link, "proven", lambda self, authentic: self if proven(self, authentic) else None
    )
    link, kept = link_with_junk(harness)
    assert len(kept.to_bytes()) > len(link.to_bytes()) + 150_000


def newcomer_of_a_long_history(harness: ModuleType, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether node 6 joins, where all changes since the first roster are more than a message."""
    monkeypatch.setattr("qres_core.swarm.sync.catching_up.ENVELOPE_OVERHEAD", 512)
    most = 6000
    net = harness.Net(7, byzantine=1, members=4, options={"max_message_bytes": most})
    now = [0, 1, 2]
    net.start(now)
    for out, heir in ((3, 4), (4, 5), (5, 3), (3, 4), (4, 5), (5, 6)):
        net.hand_over(net.change("rotate", out, heir, signers=now), now)
        assert epochs(net, now, net.machine(0).head.roster.epoch + 1)
    assert len(encode_links(net.machine(0)._history.links)) > most
    net.start([6])
    return bool(net.run(seconds=30, until=lambda: net.machine(6).is_member))


def test_a_history_longer_than_a_message_comes_in_parts(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert newcomer_of_a_long_history(harness, monkeypatch)


def test_a_history_in_one_message_that_is_too_large_keeps_everybody_out(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control."""
    monkeypatch.setattr(CatchingUp, "_first_of", lambda _self, links: links)
    assert not newcomer_of_a_long_history(harness, monkeypatch)


def answers_to_a_greedy_liar(harness: ModuleType) -> int:
    """How often a node gives links to one that asks nine times, from all epochs."""
    options = {"vote_timeout": 5.0}
    net = harness.Net(5, members=4, quorum=2, puppets=[3], options=options)
    now = [0, 1, 2]
    net.start(now)
    for index in range(4):  # the liar's seat stays
        action = "remove" if index % 2 else "add"
        net.hand_over(net.change(action, 4, signers=now), now)
        assert epochs(net, now, index + 1)
    before = len(net.sent)
    for epoch in (0, 1, 2, 3, 4, 5, 2, 1, 0):
        asked = net.forge(3, "sync", encode_sync(0, epoch), number=1, model=bytes(32))
        net.inject(asked, [0])
    net.run(seconds=0.5)
    return sum(
        (message.kind, message.receiver, message.sender) == ("links", 3, 0)
        for message in net.sent[before:]
    )


def test_however_a_liar_asks_it_is_given_the_history_once_in_a_while(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert answers_to_a_greedy_liar(harness) == 1
    helps = CatchingUp._help

    def forgetful(self: CatchingUp, peer: bytes, epoch: int, now: float) -> None:
        self._helped.clear()
        helps(self, peer, epoch, now)

    monkeypatch.setattr(CatchingUp, "_help", forgetful)  # the control
    assert answers_to_a_greedy_liar(harness) == 9


def checks_of_forged_links(harness: ModuleType, times: int) -> int:
    """Signatures that a node checks, whom a liar shows other decisions of a head it left."""
    net = harness.Net(4, byzantine=1, puppets=[3])
    net.start()
    assert grows(net, [0, 1, 2])
    link = net.machine(0)._history.links[-1]
    other = attrs.evolve(link, result=Merged(bytes(32)))
    about = encode_conclusion(other.decision)
    votes = tuple(
        net.forge(index, OUTCOME_PRECOMMIT, about, number=1, model=link.head.digest, key=3)
        for index in (0, 1, 2)
    )
    told = encode_links([attrs.evolve(other, round=1, precommits=votes)])
    checked = 0
    kernel = net.machine(0).kernel
    authentic = kernel.authentic

    def count(vote: Envelope, now: float, members: Any = None) -> bool:
        nonlocal checked
        checked += vote.payload == about
        return bool(authentic(vote, now, members))

    kernel.authentic = count
    for _time in range(times):
        net.inject(net.forge(3, "links", told, number=1, model=link.head.digest), [0])
    net.run(seconds=0.001)
    return checked


def test_who_shows_a_forged_decision_is_not_believed_a_second_time(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = checks_of_forged_links(harness, 1)
    assert once
    assert checks_of_forged_links(harness, 5) == once
    monkeypatch.setattr(CatchingUp, "_unproven", lambda *_given: None)  # the control
    assert checks_of_forged_links(harness, 5) == 5 * once


# ── another swarm of the same members ─────────────────────────────────────────────────────────────


def begun_again(harness: ModuleType) -> tuple[Any, list[int]]:
    """The members begin again from another model, under the same name; a liar kept the old votes.

    Returns the new swarm, and the heights of its nodes before the liar speaks.
    """
    old = harness.Net(4, byzantine=1)
    old.start()
    assert grows(old, [0, 1, 2, 3], 8)
    links, model = old.machine(0)._history.links, old.machine(0).model
    net = harness.Net(4, byzantine=1, puppets=[3])
    net.initial = np.array([1, 2, 3], dtype=np.int32)
    for node in net.nodes[:3]:
        node.notebook, node.changes = harness.Notebook(initial=net.initial), None
        net.remake(node)
    net.wait_for_all()
    net.start()
    assert grows(net, [0, 1, 2])
    before = [net.machine(index).head.height for index in range(3)]
    facts = {"number": 1, "model": net.machine(0).head.digest}
    net.inject(net.forge(3, "links", encode_links(links), **facts), [0, 1, 2])
    for index in range(20):
        told = net.forge(3, "model", encode_model(model), **facts)
        net.inject(told, [0, 1, 2], delay=0.05 * index)
    net.run(seconds=1.0)
    return net, before


def test_a_swarm_that_begins_from_another_model_does_not_go_back_to_the_one_before(
    harness: ModuleType,
) -> None:
    net, before = begun_again(harness)
    assert [net.machine(index).head.height for index in range(3)] == before
    assert grows(net, [0, 1, 2])


def test_where_no_head_names_the_first_model_one_liar_brings_the_old_model_back(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control."""
    monkeypatch.setattr(chain, "beginning", lambda settings, _model: settings)
    net, before = begun_again(harness)
    heights = [net.machine(index).head.height for index in range(3)]
    assert min(heights) > max(before) + 3


# ── keys of former members ────────────────────────────────────────────────────────────────────────


def test_stolen_keys_of_former_members_convince_only_who_begins_before_they_left(
    harness: ModuleType,
) -> None:
    """No guard helps who knows only the first members: this is why operators give a later roster.

    The thief never had more than one key of the members of a height, at that height.
    """
    net = harness.Net(7, byzantine=1, members=4)
    now = [0, 1, 2, 3]
    net.start(now)
    for out, heir in ((0, 4), (1, 5), (2, 6)):
        signers = [index for index in now if index != out]
        net.hand_over(net.change("rotate", out, heir, signers=signers, known_to=3), signers)
        now = [*signers, heir]
        wanted = net.machine(3).head.roster.epoch + 1
        assert epochs(net, signers, wanted)
        net.start([heir])
        assert grows(net, now)
    kernel, later = net.machine(3).kernel, net.machine(3).head.roster
    first = net.machine(3)._history.links[0].head
    assert not set(net.ids[:3]).intersection(later.members)

    def forged(head: Head) -> Link:
        chosen = CandidateSet(1, tuple(Member(who, bytes(32)) for who in head.roster.members))
        link = Link(head, chosen, Merged(bytes(32)), 1, ())
        about = encode_conclusion(link.decision)
        votes = (
            net.forge(index, OUTCOME_PRECOMMIT, about, number=1, model=head.digest)
            for index in (0, 1, 2)
        )
        return attrs.evolve(link, precommits=tuple(sorted(votes, key=lambda it: it.sender)))

    def authentic(vote: Envelope, members: tuple[bytes, ...]) -> bool:
        return bool(kernel.authentic(vote, net.now, members))

    high = attrs.evolve(first, height=10**6, step=10**6)
    assert follow(first.roster, [forged(high)], authentic)
    assert not follow(later, [forged(high)], authentic)
    assert not follow(later, [forged(attrs.evolve(net.machine(3).head))], authentic)


# ── what not all see ──────────────────────────────────────────────────────────────────────────────


@attrs.define
class BlindOffice:
    """An authority of which some nodes do not know, or no more."""

    blind: ClassVar[set[bytes]] = set()
    _own: bytes = attrs.field(default=b"", init=False)

    @hookimpl
    def setup(self, node_info: NodeInfo) -> None:
        self._own = node_info.node_id

    @hookimpl
    def approve(self, digest: bytes, approval: bytes) -> Verdict:
        seen = self._own not in self.blind and approval == b"approved " + digest
        return ACCEPT if seen else reject("not-approved")


def blamed_for_an_approval(harness: ModuleType, monkeypatch: pytest.MonkeyPatch) -> set[bytes]:
    """Whom nodes blame that do not see an approval as the proposer does; nobody lies."""
    office = Installed.local("blind_office", BlindOffice)
    monkeypatch.setitem(harness.INSTALLED, "blind_office", office)
    net = harness.Net(
        5, byzantine=1, members=4, options={"authority": "ca"}, plugins={"blind_office": {}}
    )
    monkeypatch.setattr(BlindOffice, "blind", set(net.ids[2:4]))
    four = [0, 1, 2, 3]
    net.start(four)
    change = net.change("add", 4)
    net.hand_over(attrs.evolve(change, approval=b"approved " + change.digest), [0])
    assert grows(net, four, 6)
    assert net.machine(0).head.roster.epoch == 0
    assert net.nodes[2].refused[Fault.UNPROVEN_CHANGE]
    return {item.subject for index in four for item in net.nodes[index].witness.evidence
            if item.fact in set(Fault)}  # fmt: skip


def test_nobody_is_blamed_for_a_change_that_not_all_see_approved(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert blamed_for_an_approval(harness, monkeypatch) == set()


@pytest.mark.control("C-composition-6", "C-reputation-1")
def test_where_it_counts_as_a_lie_an_honest_proposer_is_blamed(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control."""
    monkeypatch.setattr(Fault.UNPROVEN_CHANGE, "own_view", False)
    assert len(blamed_for_an_approval(harness, monkeypatch)) == 1
