"""Timing, lost messages, nodes that sit out, and bytes of all kinds."""

from __future__ import annotations

from collections import Counter

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qres_secagg.messages import Kind
from secagg_swarm import PluginSwarm, plain_sum, recorded

from qres_core import Companion, Update
from qres_core.dialogues import Dialogue, DialogueMessage, Send
from qres_core.errors import QresError


def test_it_is_a_dialogue_and_ready_without_waiting_where_all_are_there() -> None:
    swarm = PluginSwarm(6).open(seconds=0)
    dialogue = swarm.rounds[swarm.roster[0]]
    assert isinstance(dialogue, Dialogue)
    assert swarm.ready() == list(swarm.roster)
    assert not dialogue.finished


def test_who_is_away_is_waited_for_as_long_as_patience_says() -> None:
    swarm = PluginSwarm(10, {"patience": 2.0, "dropout": 0.2})
    swarm.away = {swarm.roster[5]}
    swarm.open(seconds=2.0)
    assert not swarm.ready()
    swarm.pass_time(1.5)
    assert swarm.ready() == swarm.others()
    updates = swarm.random_updates()
    swarm.contribute(updates).decide()
    rows = swarm.reveal(swarm.roster[0]).updates
    assert np.array_equal(rows.sums[0], plain_sum(updates, updates))
    assert swarm.roster[5] not in rows.members[0]


def test_the_first_copy_of_every_message_may_be_lost() -> None:
    lost: Counter[tuple[bytes, bytes, int]] = Counter()

    def lose(sender: bytes, receiver: bytes, send: Send) -> Send | None:
        lost[sender, receiver, send.step] += 1
        return send if lost[sender, receiver, send.step] > 1 else None

    swarm = PluginSwarm(6, {"patience": 1.0}, carry=lose).open(seconds=20)
    assert swarm.ready() == list(swarm.roster)
    updates = swarm.random_updates()
    swarm.contribute(updates).decide()
    assert not swarm.finished()
    swarm.pass_time(20)
    assert swarm.finished() == list(swarm.roster)
    assert np.array_equal(
        swarm.reveal(swarm.roster[0]).updates.sums[0], plain_sum(updates, updates)
    )
    assert not swarm.accused


def test_what_the_list_names_and_a_node_lacks_it_gets_from_any_node_that_holds_it() -> None:
    swarm = PluginSwarm(8)
    poor, author = swarm.roster[3], swarm.roster[5]
    brought: set[bytes] = set()

    def carry(sender: bytes, receiver: bytes, send: Send) -> Send | None:
        lost = (sender, receiver, send.step) == (author, poor, Kind.SHARE)
        return None if lost else send

    def relay(holder: bytes, receiver: bytes, _author: bytes, _send: Send) -> bool:
        if holder == author:
            return False  # alive, but it withholds
        brought.add(receiver)
        return True

    swarm.carry, swarm.relay = carry, relay
    swarm.open(seconds=6)
    assert poor in brought
    assert swarm.ready() == list(swarm.roster)


def test_without_what_others_hold_a_withholding_author_keeps_a_node_out() -> None:
    """The control: the same loss, and nobody hands anything on."""
    swarm = PluginSwarm(8, relay=lambda *_: False)
    poor, author = swarm.roster[3], swarm.roster[5]

    def carry(sender: bytes, receiver: bytes, send: Send) -> Send | None:
        lost = (sender, receiver, send.step) == (author, poor, Kind.SHARE)
        return None if lost else send

    swarm.carry = carry
    swarm.open(seconds=6)
    assert swarm.ready() == [node for node in swarm.roster if node != poor]


def test_a_node_that_lacks_a_listed_message_sits_out_and_still_opens_the_sums() -> None:
    swarm = PluginSwarm(9, {"dropout": 0.2})
    author, node = swarm.roster[4], swarm.roster[6]

    def carry(sender: bytes, receiver: bytes, send: Send) -> Send | None:
        return None if (sender, receiver) == (author, node) else send

    def relay(_holder: bytes, receiver: bytes, wrote: bytes, _send: Send) -> bool:
        # From that author nothing comes to that node until the updates are there.
        return bool(swarm.sent) or (wrote, receiver) != (author, node)

    swarm.carry, swarm.relay = carry, relay
    swarm.open(seconds=8)
    assert node not in swarm.ready()
    assert len(swarm.ready()) == 8
    with pytest.raises(QresError):
        swarm.plugins[node].privatize(Update(np.zeros(17, np.int32)), swarm.info)
    updates = swarm.random_updates()
    swarm.contribute(updates).decide()
    swarm.pass_time(10)
    assert swarm.finished() == list(swarm.roster)
    rows = swarm.reveal(node).updates  # from what the others hold
    assert np.array_equal(rows.sums[0], plain_sum(updates, updates))
    assert node not in rows.members[0]
    assert not swarm.accused


def test_a_node_that_came_too_late_for_everything_opens_the_sums_from_what_others_hold() -> None:
    swarm = PluginSwarm(9, {"dropout": 0.2})
    late = swarm.roster[6]

    def carry(sender: bytes, receiver: bytes, send: Send) -> Send | None:
        if swarm.sent or late not in (sender, receiver):
            return send
        return None

    swarm.carry = carry
    swarm.relay = lambda holder, receiver, *_: bool(swarm.sent) or late not in (holder, receiver)
    swarm.open(seconds=8)
    assert late not in swarm.ready()
    updates = swarm.random_updates(nodes=swarm.ready())
    swarm.contribute(updates).decide()
    swarm.pass_time(20)
    assert late in swarm.finished()
    assert np.array_equal(swarm.reveal(late).updates.sums[0], plain_sum(updates, updates))


def test_a_key_counts_for_the_node_that_signed_it_and_for_no_other() -> None:
    """A leader that says another node's key, or makes one up for it, says it of itself."""
    swarm = PluginSwarm(6)
    keys = recorded(swarm, Kind.ADVERTISE)
    swarm.open()
    dialogue = swarm.dialogues[swarm.roster[2]]
    before = {rank: set(kept) for rank, kept in dialogue.board.adverts.items()}
    (body,) = {body for sender, body in keys if sender == swarm.roster[3]}
    dialogue.receive(DialogueMessage(swarm.roster[0], int(Kind.ADVERTISE), body))
    after = {rank: set(kept) for rank, kept in dialogue.board.adverts.items()}
    assert after.pop(0) >= before.pop(0)
    assert after == before


def test_acks_that_come_after_the_list_keep_nobody_out() -> None:
    swarm = PluginSwarm(8, {"dropout": 0.2, "corrupt": 0.13})
    late, victim = set(swarm.roster[4:7]), swarm.roster[7]

    def arrives(receiver: bytes, author: bytes, send: Send) -> bool:
        held_back = send.step == Kind.ACK and author in late and receiver == victim
        return not held_back or swarm.now >= 1003.0

    swarm.carry = lambda sender, receiver, send: send if arrives(receiver, sender, send) else None
    swarm.relay = lambda _holder, receiver, author, send: arrives(receiver, author, send)
    swarm.open(seconds=2)
    assert swarm.ready() == [node for node in swarm.roster if node != victim]
    swarm.pass_time(4)
    assert swarm.ready() == list(swarm.roster)


def test_a_contribution_of_a_node_that_is_not_listed_does_not_count() -> None:
    swarm = PluginSwarm(10, {"dropout": 0.2})
    stranger = swarm.roster[5]

    def carry(sender: bytes, _receiver: bytes, send: Send) -> Send | None:
        return None if sender == stranger else send

    swarm.carry = carry
    swarm.relay = lambda _holder, _receiver, author, _send: author != stranger
    swarm.open(seconds=8)
    updates = swarm.random_updates(nodes=[node for node in swarm.ready() if node != stranger])
    swarm.contribute(updates)
    swarm.publish(stranger, Update(np.full(17, 12345, np.int32)))
    swarm.decide()
    rows = swarm.reveal(swarm.roster[0]).updates
    assert stranger not in rows.members[0]
    assert np.array_equal(rows.sums[0], plain_sum(updates, updates))


@pytest.mark.parametrize("named", [None, b"", b"?" * 32])
def test_what_was_not_masked_under_the_list_does_not_count(named: bytes | None) -> None:
    """The leader told one node another list, of the same nodes: as if that node had dropped out."""
    swarm = PluginSwarm(6).open()
    updates = swarm.random_updates()
    swarm.contribute(updates)
    other = swarm.roster[3]
    beside = {} if named is None else {"secagg": Companion(named)}
    swarm.sent[other] = attrs.evolve(swarm.sent[other], companions=beside)
    for node in swarm.roster:
        if node != other:
            swarm.tell(node)
    swarm.deliver()
    del updates[other]
    rows = swarm.reveal(swarm.roster[0]).updates
    assert rows.members == (tuple(sorted(updates)),)
    assert np.array_equal(rows.sums[0], plain_sum(updates, updates))


# ── bytes ─────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=80, deadline=None)
@given(step=st.integers(0, 99), body=st.binary(max_size=400), fits=st.booleans())
def test_no_bytes_make_it_raise(step: int, body: bytes, *, fits: bool) -> None:
    swarm = PluginSwarm(4).open(seconds=0)
    dialogue = swarm.dialogues[swarm.roster[0]]
    head = dialogue.session.sid if fits else b""
    dialogue.receive(DialogueMessage(swarm.roster[3], step, head + body))
    dialogue.tick(2000.0)


@pytest.mark.parametrize("more", [-1, 0])
def test_a_node_opens_the_sums_once_it_heard_a_quorum_state_their_set(more: int) -> None:
    """It may have all the shares before: others heard the quorum earlier."""
    swarm = PluginSwarm(8).open()
    node = swarm.roster[0]
    unheard = set(swarm.roster[swarm.dialogues[node].board.quorum + more :])

    def hears(author: bytes, send: Send) -> bool:
        return author not in unheard or send.step != Kind.STATEMENT

    swarm.carry = lambda sender, receiver, send: (
        send if receiver != node or hears(sender, send) else None
    )
    swarm.relay = lambda _holder, receiver, author, send: receiver != node or hears(author, send)
    swarm.contribute(swarm.random_updates())
    swarm.decide()
    assert swarm.finished() == list(swarm.roster[0 if more == 0 else 1 :])
