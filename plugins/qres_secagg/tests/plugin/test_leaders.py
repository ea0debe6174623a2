"""Leaders in turn: one that is silent, one that serves some, and nodes that lie about skipping."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qres_secagg.board import SessionMessages
from qres_secagg.failure import Reason
from qres_secagg.leaders import Leaders
from qres_secagg.messages import (
    MAX_LEADERS,
    Kind,
    Listing,
    Skip,
    decode_statement,
    encode_listing,
    encode_skip,
)
from qres_secagg.session import Session
from secagg_swarm import PluginSwarm, plain_sum

from qres_core.dialogues import DialogueMessage, Send

PATIENCE = 2.0


def silent(swarm: PluginSwarm, *leaders: bytes) -> None:
    """These take part in everything, and tell nobody a list."""

    def carry(sender: bytes, _receiver: bytes, send: Send) -> Send | None:
        return None if sender in leaders and send.step == Kind.LIST else send

    swarm.carry = carry
    swarm.relay = lambda _holder, _receiver, author, send: (
        author not in leaders or send.step != Kind.LIST
    )


@pytest.mark.claim("C-secagg-5")
def test_a_silent_leader_costs_one_patience_and_not_the_round() -> None:
    swarm = PluginSwarm(8, {"patience": PATIENCE, "dropout": 0.2})
    liar = swarm.roster[1]
    silent(swarm, liar)
    swarm.open(seconds=PATIENCE - 0.5)
    assert not [node for node in swarm.ready() if node != liar]
    swarm.pass_time(1.5)
    assert swarm.ready() == list(swarm.roster)  # it leaves its own list, too
    updates = swarm.random_updates()
    swarm.contribute(updates).decide()
    swarm.pass_time(5)
    assert set(updates) <= set(swarm.finished())
    rows = swarm.reveal(swarm.roster[0]).updates
    assert np.array_equal(rows.sums[0], plain_sum(updates, updates))
    assert rows.members == (tuple(sorted(updates)),)


@pytest.mark.control("C-secagg-5")
def test_control_without_turns_the_round_has_no_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Leaders, "is_last", True)
    swarm = PluginSwarm(8, {"patience": PATIENCE, "dropout": 0.2})
    silent(swarm, swarm.roster[1])
    swarm.open(seconds=30)
    assert swarm.ready() == [swarm.roster[1]]


def test_three_silent_leaders_cost_three_patiences() -> None:
    swarm = PluginSwarm(10, {"patience": PATIENCE, "dropout": 0.3, "corrupt": 0.0})
    liars = swarm.roster[1:4]
    silent(swarm, *liars)
    swarm.open(seconds=3 * PATIENCE + 1.5)
    assert swarm.ready() == list(swarm.roster)


def test_a_leader_that_is_away_from_the_start_costs_one_patience_more_than_another_node() -> None:
    needed = []
    for away in (1, 5):
        swarm = PluginSwarm(8, {"patience": PATIENCE, "dropout": 0.2})
        swarm.away = {swarm.roster[away]}
        swarm.open(seconds=0.5)
        while not swarm.ready():
            swarm.pass_time(0.5)
        assert swarm.ready() == swarm.others()
        needed.append(swarm.now)
    assert needed[0] - needed[1] <= PATIENCE + 0.5


def skips(swarm: PluginSwarm, liars: list[bytes], leaders: int) -> None:
    for node, opened in swarm.rounds.items():
        for liar in liars:
            if liar != node:
                body = encode_skip(swarm.dialogues[node].session.sid, Skip(leaders))
                swarm.emit(node, opened.receive(DialogueMessage(liar, int(Kind.SKIP), body)))


@pytest.mark.claim("C-secagg-5")
@pytest.mark.parametrize(("liars", "moved"), [(2, False), (7, True)])
def test_as_many_liars_as_are_planned_for_skip_nobody(liars: int, *, moved: bool) -> None:
    """The other case is the control: a quorum of liars gives the turn to the next leader."""
    swarm = PluginSwarm(10, {"patience": PATIENCE, "corrupt": 0.2, "dropout": 0.1})

    def prepare(opened: PluginSwarm) -> None:
        skips(opened, list(opened.roster[3 : 3 + liars]), MAX_LEADERS - 1)

    swarm.prepare = prepare
    swarm.open(seconds=1)
    board = swarm.dialogues[swarm.roster[0]].board
    assert board.quorum == 7
    assert (board.turn > 0) is moved
    assert (swarm.ready() == list(swarm.roster)) is not moved


@pytest.mark.claim("C-secagg-5")
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_two_lists_never_both_come_to_a_sum(data: st.DataObject) -> None:
    """Lists and skips reach whom they reach, when they reach them; two of nine nodes lie.

    The liars skip at once, and state what they are asked to, whatever they said before.
    """
    swarm = PluginSwarm(9, {"patience": PATIENCE, "corrupt": 0.23, "dropout": 0.2})
    liars = {swarm.roster[1], swarm.roster[5]}  # the first leads
    nodes = st.sets(st.sampled_from(swarm.roster))
    served = {turn: data.draw(nodes) for turn in (1, 2, 3)}
    heard = data.draw(nodes)
    late = {turn: data.draw(st.floats(0, 8)) for turn in (1, 2, 3)}
    stated: dict[bytes, set[bytes]] = {}

    def arrives(receiver: bytes, author: bytes, send: Send) -> bool:
        turn = swarm.roster.index(author)
        if send.step == Kind.LIST and turn in served:
            return receiver in served[turn] and swarm.now >= 1000.0 + late[turn]
        return send.step != Kind.SKIP or receiver in heard or swarm.now > 1006.0

    def carry(sender: bytes, receiver: bytes, send: Send) -> Send | None:
        if send.step == Kind.STATEMENT:
            stated.setdefault(decode_statement(send.body)[1], set()).add(sender)
        return send if arrives(receiver, sender, send) else None

    swarm.carry = carry
    swarm.relay = lambda _holder, receiver, author, send: arrives(receiver, author, send)
    swarm.prepare = lambda opened: skips(opened, sorted(liars), 2)
    swarm.open(seconds=12)
    swarm.contribute(swarm.random_updates())
    if not swarm.sent:
        return
    swarm.decide()
    swarm.pass_time(6)
    quorum = swarm.dialogues[swarm.roster[0]].board.quorum
    backed = [digest for digest, who in stated.items() if len(who | liars) >= quorum]
    assert len(backed) <= 1
    honest = Counter(node for who in stated.values() for node in who if node not in liars)
    assert all(count == 1 for count in honest.values())
    names = {swarm.dialogues[node].board.list_hash for node in swarm.finished()}
    assert len(names) <= 1
    for node in swarm.finished():
        rows = swarm.reveal(node).updates
        assert {rows.members} == {swarm.reveal(swarm.finished()[0]).updates.members}


def test_who_skipped_a_leader_states_nothing_under_its_list() -> None:
    """The list came late; the others had not skipped, and it masks with them."""
    swarm = PluginSwarm(8, {"patience": PATIENCE, "dropout": 0.2})
    late, stating = swarm.roster[4], set()

    def carry(sender: bytes, receiver: bytes, send: Send) -> Send | None:
        if send.step == Kind.STATEMENT:
            stating.add(sender)
        return None if receiver == late and send.step == Kind.LIST and swarm.now < 1004 else send

    swarm.carry = carry
    swarm.relay = lambda _holder, receiver, _author, send: (
        receiver != late or send.step != Kind.LIST or swarm.now >= 1004
    )
    swarm.open(seconds=7)
    assert swarm.ready() == list(swarm.roster)
    updates = swarm.random_updates()
    swarm.contribute(updates).decide()
    assert stating == set(swarm.roster) - {late}
    assert swarm.finished() == list(swarm.roster)
    rows = swarm.reveal(late).updates
    assert np.array_equal(rows.sums[0], plain_sum(updates, updates))


@pytest.mark.parametrize("guarded", [True, False])
@pytest.mark.parametrize(("after", "served"), [(1.0, 6), (1.0, 7), (1.5, 9)])
def test_a_leader_that_tells_some_nodes_its_list_as_its_patience_ends_costs_no_round(
    after: float, served: int, *, guarded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others have skipped it when the list is handed on to them, and it states nothing itself.

    The other case is the control: everybody masks, and no quorum can state a set.
    """
    if not guarded:
        monkeypatch.setattr(SessionMessages, "hopeless", lambda *_: False)
    swarm = PluginSwarm(13, {"patience": PATIENCE})
    liar = swarm.roster[1]
    told = [node for node in swarm.roster if node != liar][:served]

    def arrives(receiver: bytes, author: bytes, send: Send) -> bool:
        if author == liar and send.step == Kind.LIST:
            return swarm.now >= 1000 + after + (receiver not in told)
        return author != liar or send.step not in (Kind.STATEMENT, Kind.SKIP)

    swarm.carry = lambda sender, receiver, send: send if arrives(receiver, sender, send) else None
    swarm.relay = lambda _holder, receiver, author, send: arrives(receiver, author, send)
    swarm.open(seconds=6)
    honest = [node for node in swarm.ready() if node != liar]
    assert len(honest) == 12
    updates = swarm.random_updates(nodes=honest)
    swarm.contribute(updates).decide()
    swarm.pass_time(5)
    assert set(swarm.finished()) >= set(honest) if guarded else not swarm.finished()
    if guarded:
        rows = swarm.reveal(honest[0]).updates
        assert np.array_equal(rows.sums[0], plain_sum(updates, updates))


def test_skips_of_the_corrupt_alone_are_never_enough_to_leave_a_list() -> None:
    swarm = PluginSwarm(10, {"patience": PATIENCE, "corrupt": 0.2}).open()
    board, sid = (
        swarm.dialogues[swarm.roster[0]].board,
        swarm.dialogues[swarm.roster[0]].session.sid,
    )
    for count, node in enumerate(swarm.roster[7:], start=1):
        board.receive(node, Kind.SKIP, encode_skip(sid, Skip(1)))
        assert board.hopeless(0) is (count > 2)
    assert not board.hopeless(1)


def test_lists_of_strangers_and_of_who_has_no_turn_are_held_against_them(
    make_session: Callable[..., Session],
) -> None:
    session = make_session(20)
    leaders, body = Leaders(session, PATIENCE), encode_listing(session.sid, Listing({}))
    assert leaders.take(b"?" * 32, body) is Reason.BAD_LIST
    for turn in (MAX_LEADERS, MAX_LEADERS + 1):
        assert leaders.take(leaders.who(turn), body) is Reason.BAD_LIST
    assert leaders.take(leaders.who(MAX_LEADERS - 1), body) is None
    assert list(leaders.lists) == [MAX_LEADERS - 1]


@pytest.mark.parametrize(("nodes", "last"), [(8, 7), (20, MAX_LEADERS - 1)])
def test_the_last_leader_is_the_last_of_the_roster_or_of_those_that_may_come(
    make_session: Callable[..., Session], nodes: int, last: int
) -> None:
    leaders = Leaders(make_session(nodes), PATIENCE)
    for turn in (0, last - 1, last):
        leaders.turn = turn
        assert leaders.is_last is (turn == last)
