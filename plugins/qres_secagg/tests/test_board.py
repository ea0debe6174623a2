"""What messages prove against their senders, and lists against their leader."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qres_secagg.aggregator import Aggregator
from qres_secagg.board import SessionMessages
from qres_secagg.failure import PeerFault, Reason, SecaggError
from qres_secagg.inputs import listed
from qres_secagg.keys import KeyPair
from qres_secagg.masks import Residues
from qres_secagg.messages import (
    MAX_VARIANTS,
    Ack,
    Advert,
    Kind,
    Listing,
    Shares,
    Skip,
    Unmask,
    decode_ack,
    decode_listing,
    decode_shares,
    encode_ack,
    encode_advert,
    encode_listing,
    encode_shares,
    encode_skip,
    encode_statement,
    encode_unmask,
)

from qres_core import Companion, Contribution

Make = Callable[..., Any]


def refused(reason: Reason, action: Callable[[], object]) -> SecaggError:
    with pytest.raises(SecaggError) as caught:
        action()
    assert caught.value.reason is reason
    return caught.value


def found(board: SessionMessages, sender: bytes, kind: Kind, body: bytes) -> list[Reason]:
    board.drain()
    board.receive(sender, kind, body)
    faults = board.drain()
    assert all(fault.subject == sender for fault in faults)
    return [fault.reason for fault in faults]


def test_faults_of_messages_are_named(make_swarm: Make) -> None:
    swarm = make_swarm(6)
    swarm.advertise()
    swarm.share()
    board, sid, node = swarm.boards[0], swarm.session.sid, swarm.node(1)
    pair = KeyPair().public
    shares = decode_shares(swarm.sent[1, Kind.SHARE])[1]
    few = Shares.of(shares.seed, shares.own, {}, nonce=shares.nonce)
    deals = {holder: shares.deal(holder) for holder in shares.holders}
    stranger = Shares.of(shares.seed, shares.own, {**deals, 60_000: deals[0]}, nonce=shares.nonce)
    other_seed = attrs.evolve(shares, seed=bytes(32))
    lower = attrs.evolve(  # shared out so that one holder fewer opens it
        shares,
        seed_response=shares.seed_response[:-32],
        mask_response=shares.mask_response[:-32],
    )
    fresh = Advert(pair, KeyPair().public)
    cases = [
        (Kind.ADVERTISE, b"", Reason.MALFORMED),
        (Kind.UNMASK, bytes(700), Reason.MALFORMED),
        (
            Kind.ADVERTISE,
            encode_advert(bytes(32), fresh),
            Reason.OTHER_SESSION,
        ),
        (Kind.ADVERTISE, encode_advert(sid, Advert(pair, pair)), Reason.DUPLICATE_KEY),
        (Kind.ADVERTISE, encode_advert(sid, Advert(bytes(32), pair)), Reason.BAD_KEY),
        (Kind.ADVERTISE, encode_advert(sid, Advert(pair, b"\xff" * 32)), Reason.BAD_KEY),
        (Kind.ADVERTISE, encode_advert(sid, fresh), Reason.EQUIVOCATION),
        (Kind.SHARE, encode_shares(sid, lower), Reason.BAD_SHARES),
        (Kind.SHARE, encode_shares(sid, few), Reason.BAD_HOLDERS),
        (Kind.SHARE, encode_shares(sid, stranger), Reason.BAD_HOLDERS),
        (Kind.SHARE, encode_shares(sid, other_seed), Reason.EQUIVOCATION),
        (Kind.LIST, encode_listing(sid, Listing({})), Reason.BAD_LIST),
        (
            Kind.UNMASK,
            encode_unmask(sid, Unmask(bytes(32), {900: bytes(32)})),
            Reason.FOREIGN_SHARE,
        ),
    ]
    for kind, body, reason in cases:
        assert found(board, node, kind, body) == [reason]
    assert found(board, node, Kind.STATEMENT, encode_statement(sid, bytes(32))) == []
    assert found(board, node, Kind.STATEMENT, encode_statement(sid, b"x" * 32)) == [
        Reason.EQUIVOCATION
    ]
    assert found(board, b"?" * 32, Kind.ADVERTISE, b"") == [Reason.STRANGER]


def test_repetitions_are_no_fault_and_variants_are_few(make_swarm: Make) -> None:
    swarm = make_swarm(6)
    swarm.advertise()
    board, node = swarm.boards[0], swarm.node(1)
    assert found(board, node, Kind.ADVERTISE, swarm.sent[1, Kind.ADVERTISE]) == []
    for _ in range(MAX_VARIANTS + 20):
        advert = Advert(KeyPair().public, KeyPair().public)
        board.receive(node, Kind.ADVERTISE, encode_advert(swarm.session.sid, advert))
    assert board.drain() == (PeerFault(node, Reason.EQUIVOCATION),)
    assert len(board.adverts[1]) == MAX_VARIANTS


MUTATED = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@MUTATED
@given(data=st.data())
def test_no_message_raises_or_stops_the_others(make_swarm: Make, data: st.DataObject) -> None:
    """One node says anything at all, at any time; the others' sum is the sum of the listed."""
    swarm = make_swarm(5, t=3)
    other = make_swarm(5, t=3, number=8)

    # Keys are new for every example, and what is said with them may differ in number and in length:
    # what is drawn may not depend on either.
    anywhere = st.integers(0, 2**16)

    def noise(stage: list[bytes]) -> None:
        for _ in range(data.draw(st.integers(0, 2))):
            chosen = data.draw(anywhere)
            body = bytearray(stage[chosen % len(stage)] if stage else b"")
            for _ in range(data.draw(st.integers(0, 3))):
                place = data.draw(anywhere) % max(1, len(body))
                body[place : place + data.draw(st.integers(0, 2))] = data.draw(
                    st.binary(max_size=2)
                )
            kind = data.draw(st.sampled_from(Kind))
            for rank in range(4):
                swarm.boards[rank].receive(swarm.node(4), kind, bytes(body))

    def said() -> list[bytes]:
        return [*swarm.sent.values(), *other.sent.values()]

    other.advertise()
    noise(said())
    swarm.advertise(range(4))
    noise(said())
    swarm.share(range(4))
    noise(said())
    body = swarm.boards[0].compose()
    for rank in range(4):
        swarm.clients[rank].adopt(body)
    noise(said())
    swarm.mask(range(4))
    inputs = swarm.digests(range(4))
    swarm.send(Kind.STATEMENT, {rank: swarm.clients[rank].state(inputs) for rank in range(4)})
    noise(said())
    swarm.send(Kind.UNMASK, {rank: swarm.clients[rank].unmask() for rank in range(4)})
    noise(said())
    for rank in range(4):
        (sums,) = swarm.sums(rank)
        assert np.array_equal(sums.total, swarm.plain(sums.members))
        assert {fault.subject for fault in swarm.boards[rank].drain()} <= {swarm.node(4)}


def test_a_copied_key_is_found_by_its_owner(make_swarm: Make) -> None:
    swarm = make_swarm(6)
    swarm.advertise()
    copied = next(iter(swarm.boards[0].adverts[0].values())).mask
    body = encode_advert(swarm.session.sid, Advert(KeyPair().public, copied))
    assert found(swarm.boards[0], swarm.node(1), Kind.ADVERTISE, body) == [Reason.COPIED_KEY]


def test_the_leader_leaves_out_whoever_is_not_complete_or_not_single(make_swarm: Make) -> None:
    swarm = make_swarm(9, t=6)
    copied = KeyPair().public
    sid = swarm.session.sid
    swarm.advertise(range(1, 9))
    body = encode_advert(sid, Advert(KeyPair().public, KeyPair().public))
    swarm.share(range(2, 9))
    for board in swarm.boards.values():
        board.receive(swarm.node(2), Kind.ADVERTISE, body)
        board.receive(
            swarm.node(0), Kind.ADVERTISE, encode_advert(sid, Advert(KeyPair().public, copied))
        )
    listing = decode_listing(swarm.boards[8].compose())[1]
    assert list(listing.members) == [3, 4, 5, 6, 7, 8]
    swarm.boards[8].shares[8].clear()
    refused(Reason.BELOW_THRESHOLD, swarm.boards[8].compose)


def listing_of(swarm: Any) -> Listing:
    return decode_listing(swarm.boards[0].compose())[1]


def test_a_lying_leader_gets_no_list_adopted(make_swarm: Make) -> None:
    swarm = make_swarm(6)
    swarm.advertise()
    swarm.share()
    good = listing_of(swarm)
    sid, board = swarm.session.sid, swarm.boards[1]

    def adopt(session_id: bytes, listing: Listing) -> Callable[[], object]:
        return lambda: board.adopt(encode_listing(session_id, listing))

    few = dict(list(good.members.items())[:3])
    refused(Reason.MALFORMED, lambda: board.adopt(b"?"))
    refused(Reason.OTHER_SESSION, adopt(bytes(32), good))
    refused(
        Reason.BAD_LIST, adopt(sid, attrs.evolve(good, members={**good.members, 6: (b"", b"")}))
    )
    refused(Reason.BAD_LIST, adopt(sid, attrs.evolve(good, members={})))
    refused(Reason.BAD_LIST, adopt(sid, attrs.evolve(good, members=few)))
    lie = {**good.members, 2: (bytes(32), good.members[2][1])}
    refused(Reason.LACKING, adopt(sid, attrs.evolve(good, members=lie)))
    board.adopt(encode_listing(sid, good))
    board.adopt(encode_listing(sid, good))
    five = dict(list(good.members.items())[:5])
    refused(Reason.EQUIVOCATION, adopt(sid, attrs.evolve(good, members=five)))


def test_one_key_of_two_nodes_makes_a_list_invalid(make_swarm: Make) -> None:
    swarm = make_swarm(6)
    copied = KeyPair().public
    sid = swarm.session.sid

    def tamper(sender: int, _receiver: int, body: bytes) -> bytes:
        if sender in (1, 2):
            return encode_advert(sid, Advert(KeyPair(sender).public, copied))
        return body

    swarm.advertise(tamper=tamper)
    swarm.share()
    board = swarm.boards[0]
    members = {
        rank: (next(iter(board.adverts[rank])), next(iter(board.shares[rank]))) for rank in range(6)
    }
    body = encode_listing(sid, Listing(members))
    assert "one key twice" in str(refused(Reason.BAD_LIST, lambda: board.adopt(body)))
    assert 2 not in listing_of(swarm).members


def test_steps_of_the_board_have_an_order(make_swarm: Make) -> None:
    swarm = make_swarm(6)
    board = swarm.boards[0]
    refused(Reason.OUT_OF_ORDER, lambda: board.decide({}))
    refused(Reason.OUT_OF_ORDER, board.decided)
    swarm.until_masked()
    digests = swarm.digests(range(6))
    refused(Reason.NOT_LISTED, lambda: board.decide({**digests, b"?" * 32: bytes(32)}))
    refused(Reason.BELOW_THRESHOLD, lambda: board.decide(swarm.digests([1, 2])))
    board.decide(digests)
    board.decide(digests)
    refused(Reason.OUT_OF_ORDER, lambda: board.decide(swarm.digests(range(5))))
    refused(Reason.OUT_OF_ORDER, board.forget_list)


def test_sums_take_the_agreed_inputs_alone(make_swarm: Make) -> None:
    swarm = make_swarm(6).until_masked()
    aggregator = Aggregator(swarm.boards[0])
    vector = swarm.masked[0].vector
    refused(Reason.OUT_OF_ORDER, lambda: aggregator.add(swarm.node(0), vector))
    swarm.state(range(5))
    for sender, values in (
        (swarm.node(0), swarm.masked[1].vector),
        (swarm.node(5), swarm.masked[5].vector),
        (b"?" * 32, vector),
        (swarm.node(0), vector[:-1]),
        (swarm.node(0), vector.astype("u8")),
        (swarm.node(0), vector.astype("f4")),
        (swarm.node(0), vector.view("f4")),  # of these the bytes are the agreed ones
        (swarm.node(0), vector.view("u8")),
        (swarm.node(0), vector.reshape(-1, 1)),
    ):
        refused(Reason.WRONG_INPUT, lambda s=sender, v=values: aggregator.add(s, v))
    aggregator.add(swarm.node(0), vector.view("i4"))
    refused(Reason.WRONG_INPUT, lambda: aggregator.add(swarm.node(0), vector))
    refused(Reason.WRONG_INPUT, aggregator.finish)


@pytest.mark.parametrize("residues", [{}, {"zk": Residues((1,), 7)}, {"zk": Residues((1, 2), 11)}])
def test_inputs_with_other_residues_are_not_added(make_swarm: Make, residues: Any) -> None:
    swarm = make_swarm(6)
    swarm.advertise()
    swarm.share()
    swarm.list()
    usual = {"zk": Residues((1, 2), 7)}
    swarm.mask(residues={rank: residues if rank == 3 else usual for rank in range(6)})
    swarm.state()
    swarm.unmask()
    error = refused(Reason.WRONG_INPUT, swarm.sums)
    assert error.blame == (swarm.node(3),)


def test_shares_that_come_twice_are_kept_once(make_swarm: Make) -> None:
    swarm = make_swarm(6)
    swarm.advertise()
    swarm.share()
    board = swarm.boards[0]
    for _ in range(3):
        assert found(board, swarm.node(1), Kind.SHARE, swarm.sent[1, Kind.SHARE]) == []
    assert len(board.shares[1]) == 1


def test_a_list_of_more_than_there_are_asks_for_nothing_of_them(make_swarm: Make) -> None:
    board = make_swarm(6).boards[0]
    nobody = Listing({rank: (bytes(32), bytes(32)) for rank in (6, 60_000)})
    assert board.lacking(nobody) == ()
    assert board.lacking(Listing({5: (bytes(32), bytes(32))})) == (board.session.roster[5],)


def test_the_turn_moves_once_a_quorum_skipped(make_swarm: Make) -> None:
    swarm = make_swarm(6)
    board, body = swarm.boards[0], encode_skip(swarm.session.sid, Skip(2))
    for count in range(1, 7):
        board.receive(swarm.node(count - 1), Kind.SKIP, body)
        assert board.turn == (2 if count >= board.quorum else 0)


def test_all_is_here_once_all_shares_were_judged_by_all(make_swarm: Make) -> None:
    swarm = make_swarm(6)
    board = swarm.boards[0]
    swarm.advertise()
    assert not board.complete
    swarm.send(Kind.SHARE, {rank: client.share() for rank, client in swarm.clients.items()})
    assert not board.complete
    said = {rank: client.acknowledge() for rank, client in swarm.clients.items()}
    ((_kind, whole),) = said.pop(1)
    for rank, ((kind, body),) in said.items():
        swarm.send(kind, {rank: body})
    assert not board.complete
    _sid, ack = decode_ack(whole)
    some = Ack(ack.dealers[1:], ack.records[len(ack.records) // len(ack.dealers) :])
    board.receive(swarm.node(1), Kind.ACK, encode_ack(swarm.session.sid, some))
    assert not board.complete  # it found the shares of all but one to fit
    board.receive(swarm.node(1), Kind.ACK, whole)
    assert board.complete


def test_who_is_not_listed_has_no_input_whatever_list_it_names(make_swarm: Make) -> None:
    """It reads the name of the list as everybody does. A set with it could not be opened."""
    swarm = make_swarm(6, t=4)
    swarm.advertise(range(5))
    swarm.share(range(5))
    swarm.list()
    board = swarm.boards[0]
    beside = {"secagg": Companion(board.list_hash)}
    made = [
        Contribution(node, bytes(32), np.zeros(20, np.int32), 1, {}, beside)
        for node in (swarm.node(0), swarm.node(5), b"?" * 32)
    ]
    assert listed(board, made) == made[:1]
