"""What links, models and the messages of others tell a node that lags: one check at a time."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

import attrs
import numpy as np
import pytest
from qres_lab.testing import make_envelope

from qres_core import Envelope, Fault, Vector
from qres_core.swarm.context.effects import Refused, SendTo
from qres_core.swarm.ledger.chain import Link, decode_links, encode_links
from qres_core.swarm.ledger.messages import (
    HEAD,
    LINKS,
    OUTCOME_PRECOMMIT,
    encode_conclusion,
    encode_model,
    encode_sync,
)
from qres_core.swarm.ledger.results import Void
from qres_core.swarm.machine.departure import Departure
from qres_core.swarm.sync.catching_up import Ahead, CatchingUp
from qres_core.swarm.sync.pace import MAX_EARLY, Pace

FIVE = [0, 1, 2, 3, 4]
OTHERS = [0, 1, 3, 4]
BEHIND = 2
CAME_AND_WENT = [("add", 5), ("remove", 5)]


def history(harness: ModuleType, *changes: tuple[str, int]) -> Any:
    """Members change while node 2 is away; at least one height after the last change is done."""
    net = harness.Net(6, byzantine=1, members=5)
    net.start(FIVE)
    assert net.run(until=lambda: min(net.steps(FIVE)) >= 1)
    net.down = {BEHIND}
    for number, (action, member) in enumerate(changes, 1):
        net.hand_over(net.change(action, member, signers=OTHERS), OTHERS)
        assert net.run(until=lambda wanted=number: epochs(net) == {wanted})
        if action == "add":
            net.start([member])
    goal = max(net.steps(OTHERS)) + 1
    assert net.run(until=lambda: min(net.steps(OTHERS)) >= goal)
    assert len(true_links(net)) == len(changes) + 1
    return net


def epochs(net: Any) -> set[int]:
    return {net.machine(index).head.roster.epoch for index in OTHERS}


@pytest.fixture(name="net")
def _net(harness: ModuleType) -> Any:
    return history(harness, *CAME_AND_WENT)


def catching_up(net: Any, index: int = BEHIND) -> CatchingUp:
    found = net.machine(index)._catching_up
    assert isinstance(found, CatchingUp)
    return found


def true_links(net: Any) -> tuple[Link, ...]:
    return net.machine(0)._history.links


def told(net: Any, by: int, *links: Link) -> Ahead | None:
    """What a node that lags learns from links that another shows it."""
    shown = net.forge(by, LINKS, encode_links(links), number=1, model=bytes(32))
    return catching_up(net).take_links(shown, net.now)


def unproven(net: Any) -> int:
    return int(net.nodes[BEHIND].refused[Fault.UNPROVEN_LINK])


def blamed(net: Any) -> set[bytes]:
    evidence = net.nodes[BEHIND].witness.evidence
    return {item.subject for item in evidence if item.fact == Fault.UNPROVEN_LINK}


def said(net: Any, index: int) -> list[Envelope]:
    """What a node sent to one other since it was asked last."""
    effects = net.machine(index)._outlet.take()
    frames = [effect.frame for effect in effects if isinstance(effect, SendTo)]
    return [Envelope.from_bytes(frame, max_bytes=2**26) for frame in frames]


def links_of(messages: list[Envelope]) -> list[list[bytes]]:
    """The heads that links were told of, by message."""
    heads = []
    for message in messages:
        assert message.kind == LINKS
        heads.append([link.head.digest for link in decode_links(message.payload)])
    return heads


# ── links ─────────────────────────────────────────────────────────────────────────────────────────


def test_who_showed_a_link_without_votes_is_blamed_once_and_not_heard_again(net: Any) -> None:
    first, *rest = true_links(net)
    bare = attrs.evolve(first, precommits=())
    assert told(net, 4, bare) is None
    assert (unproven(net), blamed(net)) == (1, {net.ids[4]})
    assert told(net, 4, bare) is None
    assert told(net, 4, first, *rest) is None
    assert unproven(net) == 1
    assert told(net, 3, first, *rest) is not None, "control"


def test_links_of_other_members_are_refused_and_nobody_is_blamed(net: Any) -> None:
    """Who tells of them may know more than this node."""
    assert told(net, 4, *true_links(net)[1:]) is None
    assert (unproven(net), blamed(net)) == (1, set())
    effects = catching_up(net)._outlet.take()
    (refused,) = [item for item in effects if isinstance(item, Refused)]
    assert "swarm.roster of a new node" in refused.detail


def test_a_history_in_parts_is_put_together_and_told_once(net: Any) -> None:
    first, *rest = true_links(net)
    assert told(net, 4, first) is not None
    whole = told(net, 4, *rest)
    assert whole is not None
    assert [link.head.digest for link in whole.links] == [
        link.head.digest for link in true_links(net)
    ]
    assert told(net, 3, first, *rest) is None, "it leads no further"
    assert catching_up(net).pending is whole


def test_who_shows_a_removal_is_counted_and_who_shows_an_older_link_is_not(
    harness: ModuleType,
) -> None:
    net = history(harness, ("remove", BEHIND))
    node, links = catching_up(net), true_links(net)
    assert told(net, 4, *links) is not None
    assert node.told_removed_by == {net.ids[4]}
    assert told(net, 1, node._history.links[-1]) is None, "it was a member there"
    assert node.told_removed_by == {net.ids[4]}
    assert told(net, 3, *links) is None
    assert node.told_removed_by == {net.ids[4], net.ids[3]}


@pytest.mark.parametrize("proven", [False, True], ids=["unproven", "control"])
def test_another_decision_stops_a_node_if_it_is_proven(net: Any, *, proven: bool) -> None:
    last = net.machine(BEHIND)._history.last
    assert last is not None
    other = attrs.evolve(last, result=Void("QRES-E508"), precommits=())
    if proven:
        vote = encode_conclusion(other.decision)
        where = {"number": other.round, "model": other.head.digest}
        votes = [net.forge(index, OUTCOME_PRECOMMIT, vote, **where) for index in OTHERS]
        other = attrs.evolve(other, precommits=tuple(sorted(votes, key=lambda vote: vote.sender)))
    assert told(net, 4, other) is None
    assert catching_up(net).diverged is proven
    assert blamed(net) == (set() if proven else {net.ids[4]})


# ── models ────────────────────────────────────────────────────────────────────────────────────────


def test_the_model_that_links_name_is_kept_once_and_no_other(net: Any) -> None:
    node = catching_up(net)

    def given(vector: Vector) -> bool:
        model = net.forge(4, "model", encode_model(vector), number=1, model=bytes(32))
        return node.take_model(model, None)

    right = net.machine(0).model
    assert not given(right), "nobody asked for it"
    assert told(net, 4, *true_links(net)) is not None
    assert not given(right + np.int32(1))
    assert not node.held
    assert given(right)
    assert not given(right)
    assert list(node.held) == [net.machine(0).head.model]


def test_a_node_holds_its_own_model_and_none_that_it_was_not_given(net: Any) -> None:
    machine = net.machine(BEHIND)
    assert machine.find_model(machine.model_digest) is machine.model
    assert machine.find_model(net.machine(0).model_digest) is None


def test_who_was_removed_is_no_member(net: Any) -> None:
    assert not net.machine(5).is_member
    assert net.machine(BEHIND).is_member, "control"


@pytest.mark.parametrize("named", [True, False])
def test_a_node_expects_its_removal_where_a_later_head_does_not_name_it(*, named: bool) -> None:
    left: list[int] = []
    here: Any = SimpleNamespace(
        _context=SimpleNamespace(node_id=b"me", is_member=True),
        begin=lambda height, _now: left.append(height),
        since=7,
    )
    after: Any = SimpleNamespace(roster=[b"me"] if named else [b"you"], height=9)
    Departure.expect(here, after, 0.0)
    assert (here.since, left) == ((None, []) if named else (7, [9]))


# ── helping ───────────────────────────────────────────────────────────────────────────────────────


def test_what_is_about_a_head_that_is_unknown_is_not_about_a_past_one(net: Any) -> None:
    node = catching_up(net, 0)
    for later in (0.0, 60.0):
        where = {"number": 1, "model": bytes(32)}
        assert not node.help_if_past(net.forge(4, "x", b"", **where), net.now + later)
    past = next(iter(node._history.recent))
    assert node.help_if_past(net.forge(4, "x", b"", number=1, model=past), net.now), "control"


def test_who_is_at_a_known_head_is_told_of_no_other_history(net: Any) -> None:
    machine = net.machine(0)
    said(net, 0)

    def asked(head: bytes) -> list[str]:
        payload = encode_sync(machine.head.height, machine.head.roster.epoch)
        message = net.forge(4, "sync", payload, number=1, model=head)
        catching_up(net, 0).answer_sync(message, net.now)
        return [message.kind for message in said(net, 0)]

    assert asked(machine.head.digest) == []
    assert asked(next(iter(net.machine(0)._history.recent))) == []
    assert asked(bytes(32)) == [HEAD], "control"


def test_links_come_in_parts_from_the_epoch_that_is_asked_for_and_no_part_twice_soon(
    net: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qres_core.swarm.sync.catching_up.MAX_LINKS", 1)
    first, second, last = ([link.head.digest] for link in true_links(net))
    said(net, 0)

    def asked(epoch: int, later: float = 0.0) -> list[list[bytes]]:
        message = net.forge(4, "sync", encode_sync(0, epoch), number=1, model=bytes(32))
        catching_up(net, 0).answer_sync(message, net.now + later)
        return links_of(said(net, 0))

    assert asked(0) == [first]
    assert asked(0) == []
    assert asked(1) == [second]
    assert asked(2) == [], "the members of now: it was told all that changed them"
    assert asked(2, later=60.0) == [last]


def test_who_is_removed_is_told_the_links_since_it_was_a_member(net: Any) -> None:
    machine, (first, second, last) = net.machine(0), true_links(net)
    said(net, 0)
    assert net.ids[5] in second.head.roster
    catching_up(net, 0).tell_removed(second.head.roster, net.now)
    assert links_of(said(net, 0)) == [[second.head.digest, last.head.digest]]
    for same in (first.head.roster, machine.head.roster):
        catching_up(net, 0).tell_removed(same, net.now)
        assert said(net, 0) == []


# ── the rounds of others ──────────────────────────────────────────────────────────────────────────


def test_what_a_node_said_first_of_its_highest_round_counts() -> None:
    pace, here, there = Pace(), b"h" * 32, b"t" * 32
    for number, head in ((5, here), (5, there), (4, there)):
        message = make_envelope(round_number=number, head=head)
        pace.heard(message)
        assert pace.at(here) == {message.sender: 5}
        assert pace.at(there) == {}
        assert (pace.begun(5, here), pace.begun(1, there)) == (1, 0)
    pace.heard(make_envelope(round_number=6, head=there))
    assert (pace.at(here), pace.begun(6, there)) == ({}, 1)


def test_so_many_early_messages_of_a_sender_are_kept_and_none_that_is_too_large() -> None:
    pace = Pace()
    pace.keep(make_envelope(payload=bytes(2**20 + 9)), 1)
    for number in range(MAX_EARLY + 1):
        pace.keep(make_envelope(sequence=number), 1)
    assert [message.sequence for message in pace.take()] == list(range(MAX_EARLY))
