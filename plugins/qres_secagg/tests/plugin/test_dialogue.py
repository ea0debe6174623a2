"""Timing, lost messages, nodes that sit out, and bytes of all kinds."""

from __future__ import annotations

import os
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qres_secagg.asking import (
    QUOTE,
    WANT,
    Quote,
    Want,
    decode_quote,
    decode_want,
    encode_quote,
    encode_want,
)
from qres_secagg.messages import Kind
from secagg_swarm import PluginSwarm, plain_sum

from qres_core import Dialogue, DialogueMessage, QresError, Send, Update, WireError


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


def test_what_the_list_names_and_a_node_lacks_it_gets_from_the_author() -> None:
    poor: list[bytes] = []
    asked: list[bytes] = []

    def carry(sender: bytes, receiver: bytes, send: Send) -> Send | None:
        if send.step == WANT:
            asked.append(receiver)
        broadcast = send.to is None
        lost = receiver in poor and sender == poor[1] and broadcast and send.step == Kind.SHARE
        return None if lost else send

    swarm = PluginSwarm(8, carry=carry)
    poor += [swarm.roster[3], swarm.roster[5]]
    poor_node, author = poor
    poor[:] = [poor_node, author]
    swarm.open(seconds=6)
    assert asked
    assert set(asked) == {author}
    assert swarm.ready() == list(swarm.roster)


def test_a_node_that_lacks_a_listed_message_sits_out_and_still_opens_the_sums() -> None:
    poor: list[bytes] = []

    def carry(sender: bytes, receiver: bytes, send: Send) -> Send | None:
        # From that author to that node nothing ever comes through.
        return None if poor == [sender, receiver] else send

    swarm = PluginSwarm(9, {"dropout": 0.2}, carry=carry)
    author, node = swarm.roster[4], swarm.roster[6]
    poor += [author, node]
    swarm.open(seconds=8)
    assert node not in swarm.ready()
    assert len(swarm.ready()) == 8
    with pytest.raises(QresError):
        swarm.plugins[node].privatize(Update(np.zeros(17, np.int32)), swarm.info)
    updates = swarm.random_updates()
    swarm.contribute(updates).decide()
    swarm.pass_time(10)
    assert swarm.finished() == list(swarm.roster)
    rows = swarm.reveal(node).updates  # from quotes of the others, which the list vouches for
    assert np.array_equal(rows.sums[0], plain_sum(updates, updates))
    assert node not in rows.members[0]
    assert not swarm.accused


def test_a_node_that_came_too_late_for_everything_opens_the_sums_from_quotes() -> None:
    swarm = PluginSwarm(9, {"dropout": 0.2})
    late = swarm.roster[6]

    def carry(sender: bytes, receiver: bytes, send: Send) -> Send | None:
        if swarm.sent or late not in (sender, receiver):
            return send
        return None

    swarm.carry = carry
    swarm.open(seconds=8)
    assert late not in swarm.ready()
    updates = swarm.random_updates(nodes=swarm.ready())
    swarm.contribute(updates).decide()
    swarm.pass_time(20)
    assert late in swarm.finished()
    assert np.array_equal(swarm.reveal(late).updates.sums[0], plain_sum(updates, updates))


def test_quotes_are_not_good_enough_to_mask_with() -> None:
    """A leader that makes up a key for a node cannot pass it off as that node's by quoting it."""
    swarm = PluginSwarm(6).open()
    dialogue = swarm.dialogues[swarm.roster[2]]
    quote = Quote(Kind.ADVERTISE, 3, dialogue._own[Kind.ADVERTISE])
    before = {rank: set(kept) for rank, kept in dialogue.board.adverts.items()}
    body = encode_quote(dialogue.session.sid, quote)
    dialogue.receive(DialogueMessage(swarm.roster[0], QUOTE, body))
    assert {rank: set(kept) for rank, kept in dialogue.board.adverts.items()} == before


def test_without_its_leader_a_round_has_no_list_and_the_next_one_has() -> None:
    swarm = PluginSwarm(6)
    swarm.away = {swarm.roster[1]}
    swarm.open(seconds=10)
    assert not swarm.ready()
    swarm.decide([])
    assert not swarm.finished()
    swarm.close("QRES-E604")
    swarm.open(seconds=10)
    assert swarm.ready() == swarm.others()


def test_a_contribution_of_a_node_that_is_not_listed_does_not_count() -> None:
    swarm = PluginSwarm(10, {"dropout": 0.2})
    stranger = swarm.roster[5]

    def carry(sender: bytes, _receiver: bytes, send: Send) -> Send | None:
        return None if sender == stranger else send

    swarm.carry = carry
    swarm.open(seconds=8)
    updates = swarm.random_updates(nodes=[one for one in swarm.ready() if one != stranger])
    swarm.contribute(updates)
    swarm.publish(stranger, Update(np.full(17, 12345, np.int32)))
    swarm.decide()
    rows = swarm.reveal(swarm.roster[0]).updates
    assert stranger not in rows.members[0]
    assert np.array_equal(rows.sums[0], plain_sum(updates, updates))


def test_a_peer_is_answered_a_few_times_and_not_without_end() -> None:
    swarm = PluginSwarm(6).open()
    dialogue = swarm.dialogues[swarm.roster[0]]
    want = encode_want(dialogue.session.sid, Want(0))
    message = DialogueMessage(swarm.roster[4], WANT, want)
    answers = [len(dialogue.receive(message)) for _ in range(10)]
    assert answers == [2] * 4 + [0] * 6
    quotes = encode_want(dialogue.session.sid, Want(2, tuple(range(6))))
    many = [
        len(dialogue.receive(DialogueMessage(swarm.roster[4], WANT, quotes))) for _ in range(10)
    ]
    assert many == [12] * 4 + [0] * 6


# ── bytes ─────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=80, deadline=None)
@given(step=st.integers(0, 99), body=st.binary(max_size=400), fits=st.booleans())
def test_no_bytes_make_it_raise(step: int, body: bytes, *, fits: bool) -> None:
    swarm = PluginSwarm(4).open(seconds=0)
    dialogue = swarm.dialogues[swarm.roster[0]]
    head = dialogue.session.sid if fits else b""
    dialogue.receive(DialogueMessage(swarm.roster[3], step, head + body))
    dialogue.tick(2000.0)


@given(what=st.sampled_from([0, 1]))
def test_requests_come_back_as_they_were(what: int) -> None:
    assert decode_want(encode_want(b"s" * 32, Want(what))) == (b"s" * 32, Want(what))


@given(st.lists(st.integers(0, 65535), min_size=1, max_size=64, unique=True))
def test_requests_for_quotes_come_back_as_they_were(ranks: list[int]) -> None:
    want = Want(2, tuple(sorted(ranks)))
    assert decode_want(encode_want(b"s" * 32, want)) == (b"s" * 32, want)


@given(st.sampled_from([0, 1, 2]), st.integers(0, 65534), st.binary(max_size=90))
def test_quotes_come_back_as_they_were(kind: int, rank: int, body: bytes) -> None:
    quote = Quote(Kind(kind), rank, body)
    assert decode_quote(encode_quote(b"s" * 32, quote)) == (b"s" * 32, quote)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_request_and_a_quote_or_one_named_error(body: bytes) -> None:
    for decode, encode in ((decode_want, encode_want), (decode_quote, encode_quote)):
        try:
            sid, value = decode(body)
        except WireError:
            continue
        assert encode(sid, value) == body


def test_unsorted_ranks_and_other_kinds_are_refused() -> None:
    sid = os.urandom(32)
    for body in (
        sid + b"\x02\x02\x00\x01\x00\x01\x00",
        sid + b"\x00\x01\x00\x01\x00",
        sid + b"\x03\x00\x00",
        sid + b"\x02\x00\x00",
    ):
        with pytest.raises(WireError):
            decode_want(body)
    with pytest.raises(WireError):
        decode_quote(sid + bytes([Kind.UNMASK]) + bytes(2))
