"""Messages, keys and masks carried from one session, node or model to another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import pytest
from qres_secagg.board import SessionMessages
from qres_secagg.client import Client, VolatileHistory
from qres_secagg.failure import PeerFault, Reason, SecaggError
from qres_secagg.keys import KeyPair
from qres_secagg.messages import (
    Advert,
    Kind,
    Listing,
    decode_listing,
    encode_advert,
    encode_listing,
)
from qres_secagg.parameters import Parameters

from qres_core.errors import CompatibilityError

Make = Callable[..., Any]


@pytest.mark.claim("C-secagg-33")
@pytest.mark.parametrize(
    "change",
    [
        {"number": 8},
        {"t": 6},
        {"bound": 5},
        {"min_survivors": 4},
        {"prg": "chacha20"},
        {"extra": b"other"},
    ],
)
def test_messages_of_another_session_are_refused(make_swarm: Make, change: dict[str, Any]) -> None:
    here, there = make_swarm(6), make_swarm(6, **change).run()
    for (sender, kind), body in there.sent.items():
        here.boards[0].receive(here.node(sender), kind, body)
    assert {fault.reason for fault in here.boards[0].drain()} == {Reason.OTHER_SESSION}
    assert here.boards[0].adverts == here.boards[0].shares == {}


@pytest.mark.control("C-secagg-33")
def test_without_the_session_id_they_would_be_taken(make_swarm: Make) -> None:
    here, there = make_swarm(6), make_swarm(6, number=8)
    there.advertise()
    body = here.session.sid + there.sent[1, Kind.ADVERTISE][32:]
    here.boards[0].receive(here.node(1), Kind.ADVERTISE, body)
    assert here.boards[0].drain() == ()
    assert 1 in here.boards[0].adverts


def test_nodes_that_were_shown_different_models_form_no_session(make_swarm: Make) -> None:
    """Half of the swarm holds another model: no list names enough nodes, no mask is made."""
    swarm = make_swarm(8)
    other = attrs.evolve(swarm.session, model_digest=b"n" * 32)
    for rank in (4, 5, 6, 7):
        swarm.boards[rank] = SessionMessages(other, swarm.node(rank))
        swarm.clients[rank] = Client(other, swarm.node(rank), swarm.boards[rank], VolatileHistory())
    swarm.advertise()
    for client in swarm.clients.values():
        with pytest.raises(SecaggError) as caught:
            client.share()
        assert caught.value.reason is Reason.BELOW_THRESHOLD


def test_the_session_binds_the_model(make_session: Make) -> None:
    session = make_session()
    assert attrs.evolve(session, model_digest=b"n" * 32).sid != session.sid


def test_a_leader_that_names_other_keys_is_not_followed(
    make_swarm: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The leader puts a key of its own under a neighbour's, and under the node's own, name."""
    swarm = make_swarm(6)
    swarm.advertise()
    swarm.share()
    _, good = decode_listing(swarm.boards[0].compose())
    sid = swarm.session.sid
    forged = encode_advert(sid, Advert(KeyPair().public, KeyPair().public))
    from_own = Listing({**good.members, 1: (bytes(32), good.members[1][1])})
    with pytest.raises(SecaggError) as caught:
        swarm.clients[2].adopt(encode_listing(sid, from_own))
    assert caught.value.reason is Reason.LACKING
    # A node's own name: the forged message even arrived, as if it were signed.
    board = swarm.boards[1]
    board.receive(swarm.node(1), Kind.ADVERTISE, forged)
    (digest,) = set(board.adverts[1]) - {good.members[1][0]}
    own = Listing({**good.members, 1: (digest, good.members[1][1])})
    with pytest.raises(SecaggError) as caught:
        swarm.clients[1].adopt(encode_listing(sid, own))
    assert caught.value.reason is Reason.LACKING  # of acks: nobody was dealt to under that key
    monkeypatch.setattr(SessionMessages, "_unchecked", lambda *_: [])
    with pytest.raises(SecaggError) as caught:
        swarm.clients[1].adopt(encode_listing(sid, own))
    assert caught.value.reason is Reason.NOT_LISTED  # and itself knows what it said


def test_without_authentication_a_man_in_the_middle_reads_the_update(make_swarm: Make) -> None:
    """Why messages must be authentic: whoever speaks for all the others knows their inputs."""
    swarm = make_swarm(5).run()
    forged = sum(swarm.inputs[rank].astype(np.int64) for rank in range(1, 5))
    assert np.array_equal(swarm.sums()[0].total - forged, swarm.inputs[0])


def test_strangers_are_not_heard(make_swarm: Make) -> None:
    swarm = make_swarm(6).until_masked()
    board, stranger = swarm.boards[0], b"?" * 32
    for (_, kind), body in list(swarm.sent.items()):
        board.receive(stranger, kind, body)
    assert board.drain() == (PeerFault(stranger, Reason.STRANGER),)
    with pytest.raises(SecaggError) as caught:
        board.decide({**swarm.digests(range(6)), stranger: bytes(32)})
    assert caught.value.blame == (stranger,)


@pytest.mark.claim("C-secagg-16")
def test_equal_inputs_of_two_rounds_have_unrelated_masks(
    make_swarm: Make, deviation: Callable[[bytes], float]
) -> None:
    vectors = {rank: np.full(20_000, 7, np.int32) for rank in range(5)}
    sent = []
    for number in (7, 8):
        swarm = make_swarm(5, number=number, dimension=20_000)
        swarm.advertise()
        swarm.share()
        swarm.list()
        swarm.mask(vectors=vectors)
        sent.append(swarm.masked[2].vector)
    assert abs(deviation((sent[0] - sent[1]).tobytes())) < 6
    assert abs(deviation(sent[0].tobytes())) < 6


@pytest.mark.control("C-secagg-15", "C-secagg-16")
def test_with_keys_and_session_kept_the_difference_is_laid_open(
    make_swarm: Make, monkeypatch: pytest.MonkeyPatch, deviation: Callable[[bytes], float]
) -> None:
    """The control: what fresh keys and used-up session ids prevent."""
    made: list[int] = []

    def same() -> KeyPair:
        made.append(0)
        return KeyPair(8 * (len(made) % 10 + 1))

    monkeypatch.setattr("qres_secagg.client.KeyPair", same)
    monkeypatch.setattr("qres_secagg.client.random_scalar", lambda: 7)
    sent = []
    for value in (7, 9):
        swarm = make_swarm(5, dimension=20_000)
        swarm.advertise()
        swarm.share()
        swarm.list()
        swarm.mask(vectors={rank: np.full(20_000, value, np.int32) for rank in range(5)})
        sent.append(swarm.masked[2].vector)
    assert set((sent[1] - sent[0]).tolist()) == {2}
    assert deviation((sent[1] - sent[0]).tobytes()) > 6


@pytest.mark.claim("C-secagg-23")
def test_sums_that_could_wrap_are_refused_before_any_message(make_swarm: Make) -> None:
    with pytest.raises(CompatibilityError) as caught:
        make_swarm(8, bound=2**28)
    assert caught.value.code == "QRES-E313"
    assert str(8 * 2**28) in str(caught.value)


@pytest.mark.control("C-secagg-2", "C-secagg-23")
def test_without_the_check_sums_wrap_unseen(
    make_swarm: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Parameters, "__attrs_post_init__", lambda _self: None)
    swarm = make_swarm(8, bound=2**28)
    swarm.advertise()
    swarm.share()
    swarm.list()
    swarm.mask(vectors={rank: np.full(20, 2**28, np.int32) for rank in range(8)})
    swarm.state()
    swarm.unmask()
    assert set(swarm.sums()[0].total.tolist()) == {-(2**31)}


def test_an_equivocating_leader_opens_nothing(make_swarm: Make) -> None:
    """Two halves adopt two lists: their survivor sets differ and neither finds a quorum."""
    swarm = make_swarm(8)
    swarm.advertise()
    swarm.share()
    body = swarm.boards[0].compose()
    sid, good = decode_listing(body)
    members = {rank: hashes for rank, hashes in good.members.items() if rank != 7}
    other = encode_listing(sid, Listing(members))
    for rank in range(7):
        swarm.clients[rank].adopt(body if rank % 2 else other)
    swarm.mask(range(7))
    inputs = swarm.digests(range(7))
    swarm.send(Kind.STATEMENT, {rank: swarm.clients[rank].state(inputs) for rank in range(7)})
    for rank in range(7):
        with pytest.raises(SecaggError) as caught:
            swarm.clients[rank].unmask()
        assert caught.value.reason is Reason.NO_QUORUM
