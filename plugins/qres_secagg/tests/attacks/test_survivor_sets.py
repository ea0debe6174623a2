"""An adversary that decides who is told which survivor set, with and without the defences."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from qres_lab.exhibits.secagg.reading import Spoils, unmasked
from qres_secagg import survivors
from qres_secagg.aggregator import Aggregator
from qres_secagg.board import SessionMessages
from qres_secagg.client import Client
from qres_secagg.failure import Reason, SecaggError
from qres_secagg.keys import KeyPair
from qres_secagg.messages import Kind, decode_unmask
from qres_secagg.parameters import Parameters
from qres_secagg.shamir import combine, decode, encode
from qres_secagg.sharing import Secret

from qres_core.errors import CompatibilityError

Make = Callable[..., Any]


def refused(reason: Reason, action: Callable[[], object]) -> None:
    with pytest.raises(SecaggError) as caught:
        action()
    assert caught.value.reason is reason


def sole(swarm: Any, victim: int, seed: int, mask_secret: int) -> np.ndarray:
    """A victim's update from its masked input and both of its secrets."""
    both = Spoils({victim: encode(seed)}, {victim: KeyPair(mask_secret)})
    return unmasked(swarm.boards[0], {victim: swarm.masked[victim].vector}, both)


def shares_of(victim: int, bodies: dict[int, bytes]) -> dict[int, int]:
    opened = {rank: decode_unmask(body)[1].shares for rank, body in bodies.items()}
    return {
        rank + 1: int.from_bytes(shares[victim], "little")
        for rank, shares in opened.items()
        if victim in shares
    }


def fork(client: Client) -> Client:
    """A copy of a node in the middle of a session, as no honest node has one."""
    twin = copy.copy(client)
    twin.board = copy.copy(client.board)
    twin.board.opening = None
    for name in ("_statements", "_unmasks"):
        setattr(twin.board, name, dict(getattr(client.board, name)))
    twin._held = dict(client._held)
    return twin


def split_view(swarm: Any, victim: int, colluders: set[int]) -> tuple[dict[int, bytes], ...]:
    """Half of the nodes are told that the victim survived, half that it did not; colluders both.

    Returns the messages that open shares, of the first and of the second half.
    """
    everybody = swarm.digests(swarm.everybody)
    without = {node: digest for node, digest in everybody.items() if node != swarm.node(victim)}
    honest = [rank for rank in swarm.everybody if rank not in colluders]
    halves = (
        (everybody, {*honest[::2], *colluders}),
        (without, {*honest[1::2], *colluders}),
    )
    found: list[dict[int, bytes]] = []
    for inputs, half in halves:
        clients = {
            rank: fork(swarm.clients[rank]) if rank in colluders else swarm.clients[rank]
            for rank in half
        }
        stated = {rank: client.state(inputs) for rank, client in clients.items()}
        for client in clients.values():
            for rank, body in stated.items():
                client.board.receive(swarm.node(rank), Kind.STATEMENT, body)
        opened: dict[int, bytes] = {}
        for rank, client in clients.items():
            try:
                opened[rank] = client.unmask()
            except SecaggError as error:
                assert error.reason is Reason.NO_QUORUM  # noqa: PT017
        found.append(opened)
    return tuple(found)


@pytest.mark.claim("C-secagg-3")
def test_two_survivor_sets_open_nothing(make_swarm: Make) -> None:
    swarm = make_swarm(10, t=7, corrupt=2).until_masked()
    assert split_view(swarm, 9, {0, 1}) == ({}, {})


@pytest.mark.control("C-secagg-3", "C-secagg-22", "C-secagg-31")
def test_without_quorum_and_threshold_they_open_both_secrets(
    make_swarm: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SessionMessages, "quorum", property(lambda _self: 1))
    swarm = make_swarm(10, t=6, corrupt=0).until_masked()
    first, second = split_view(swarm, 9, {0, 1})
    seed, mask_secret = (
        combine(dict(list(shares_of(9, bodies).items())[:6])) for bodies in (first, second)
    )
    assert np.array_equal(sole(swarm, 9, seed, mask_secret), swarm.inputs[9])


def test_the_threshold_alone_holds_against_a_split_view(
    make_swarm: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2 t > k + 1 + c: one of the two secrets stays closed, whatever was stated."""
    monkeypatch.setattr(SessionMessages, "quorum", property(lambda _self: 1))
    swarm = make_swarm(10, t=7, corrupt=2).until_masked()
    counts = [len(shares_of(9, bodies)) for bodies in split_view(swarm, 9, {0, 1})]
    assert min(counts) < 7


@pytest.mark.claim("C-secagg-31")
def test_an_answer_holds_one_kind_of_share_per_node(make_swarm: Make) -> None:
    """A node cannot be called alive and dead: the message says nothing about kinds."""
    swarm = make_swarm(8).until_masked()
    swarm.state(range(6))
    swarm.unmask()
    for holder in swarm.everybody:
        shares = decode_unmask(swarm.sent[holder, Kind.UNMASK])[1].shares
        assert list(shares) == swarm.everybody
        for dealer in shares:
            expected = Secret.SEED if dealer < 6 else Secret.MASK_KEY
            assert swarm.boards[0].decided().wanted(dealer) is expected
    assert all(board.drain() == () for board in swarm.boards.values())


@pytest.mark.control("C-secagg-15")
def test_a_node_that_forgets_what_it_opened_opens_both(make_swarm: Make) -> None:
    """Why a session id is used once, also over a restart: copies of nodes answer again."""
    swarm = make_swarm(6, t=4).until_masked()
    copies = {rank: fork(swarm.clients[rank]) for rank in range(5)}
    swarm.state()
    swarm.unmask()
    inputs = swarm.digests(range(5))
    stated = {rank: client.state(inputs) for rank, client in copies.items()}
    for client in copies.values():
        for rank, body in stated.items():
            client.board.receive(swarm.node(rank), Kind.STATEMENT, body)
    second = {rank: client.unmask() for rank, client in copies.items()}
    first = {rank: swarm.sent[rank, Kind.UNMASK] for rank in range(5)}
    seed, mask_secret = (
        combine(dict(list(shares_of(5, bodies).items())[:4])) for bodies in (first, second)
    )
    assert np.array_equal(sole(swarm, 5, seed, mask_secret), swarm.inputs[5])
    # The defence: the node that comes back finds the session in its history.
    again = Client(swarm.session, swarm.node(0), SessionMessages(swarm.session), swarm.histories[0])
    refused(Reason.SID_REUSE, again.advertise)


@pytest.mark.claim("C-secagg-7")
def test_sums_of_few_are_refused(make_swarm: Make) -> None:
    swarm = make_swarm(5, t=3, min_survivors=4).until_masked()
    inputs = swarm.digests([0, 1, 2])
    for client in swarm.clients.values():
        refused(Reason.BELOW_THRESHOLD, lambda c=client: c.state(inputs))
    with pytest.raises(CompatibilityError, match="QRES-E314"):
        make_swarm(5, t=3, min_survivors=2)


@pytest.mark.control("C-secagg-7")
def test_without_the_least_number_a_sum_is_an_update(
    make_swarm: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Parameters, "__attrs_post_init__", lambda _self: None)
    monkeypatch.setattr(survivors, "exposed", lambda *_: [])
    swarm = make_swarm(5, t=3, min_survivors=1).until_masked()
    swarm.state([2])
    swarm.unmask()
    assert np.array_equal(swarm.sums()[0].total, swarm.inputs[2])


def test_a_group_with_too_few_survivors_stays_closed(make_swarm: Make) -> None:
    swarm = make_swarm(20, k=8, t=6, group_size=5).until_masked()
    group = swarm.boards[0].topology.groups[0]
    alive = [rank for rank in swarm.everybody if rank not in group[2:]]
    swarm.state(alive)
    swarm.unmask()
    for holder in swarm.everybody:
        opened = decode_unmask(swarm.sent[holder, Kind.UNMASK])[1].shares
        assert not set(opened) & set(group)
    assert {found.group for found in swarm.sums()} == {1, 2, 3}


def test_the_own_input_cannot_be_replaced(make_swarm: Make) -> None:
    swarm = make_swarm(6).until_masked()
    inputs = swarm.digests(range(6))
    refused(Reason.OWN_INPUT, lambda: swarm.clients[0].state({**inputs, swarm.node(0): bytes(32)}))
    swarm.clients[0].state(inputs)
    refused(Reason.OUT_OF_ORDER, lambda: swarm.clients[0].state(swarm.digests(range(5))))


def test_an_input_nobody_made_cannot_be_claimed(make_swarm: Make) -> None:
    swarm = make_swarm(6)
    swarm.advertise()
    swarm.share()
    swarm.list()
    swarm.mask(range(1, 6))
    inputs = {**swarm.digests(range(1, 6)), swarm.node(0): bytes(32)}
    refused(Reason.OWN_INPUT, lambda: swarm.clients[0].state(inputs))


@pytest.mark.control("C-secagg-4")
def test_the_protocol_alone_opens_two_sums_that_differ_by_one_update(make_swarm: Make) -> None:
    """Why there is a record of sums: see ``plugin/test_on_record.py``."""
    first = make_swarm(5).run()
    second = make_swarm(5, number=8)
    second.advertise()
    second.share()
    second.list()
    second.mask(vectors=first.inputs)
    second.state([0, 1, 2, 3])
    second.unmask()
    difference = first.sums()[0].total - second.sums()[0].total
    assert np.array_equal(difference, first.inputs[4])


def test_below_the_threshold_the_sum_stays_masked(
    make_swarm: Make, deviation: Callable[[bytes], float]
) -> None:
    """All inputs are zero, so whatever is not uniform would show."""
    swarm = make_swarm(6, dimension=20_000)
    swarm.advertise()
    swarm.share()
    swarm.list()
    swarm.mask(vectors={rank: np.zeros(20_000, np.int32) for rank in range(6)})
    swarm.state(range(5))
    swarm.unmask(range(3))
    board = swarm.boards[0]
    assert board.decided().missing == 6
    aggregator = Aggregator(board)
    for rank in range(5):
        aggregator.add(swarm.node(rank), swarm.masked[rank].vector)
    refused(Reason.BELOW_THRESHOLD, aggregator.finish)
    masked_sum = np.sum([swarm.masked[rank].vector for rank in range(5)], axis=0, dtype=np.uint32)
    for octets in (
        masked_sum.tobytes(),
        swarm.masked[5].vector.tobytes(),
        *(swarm.masked[rank].vector.tobytes() for rank in range(5)),
    ):
        assert abs(deviation(octets)) < 6
    # One more answer and the sum is there: the test would see zeros.
    swarm.unmask([3])
    assert not swarm.sums()[0].total.any()
    assert deviation(bytes(80_000)) > 6


@pytest.mark.claim("C-secagg-7")
def test_a_late_input_stays_masked_though_its_mask_key_is_open(
    make_swarm: Make, deviation: Callable[[bytes], float]
) -> None:
    swarm = make_swarm(6, t=4, dimension=20_000)
    swarm.advertise()
    swarm.share()
    swarm.list()
    swarm.mask(vectors={rank: np.zeros(20_000, np.int32) for rank in range(6)})
    swarm.state(range(5))
    seed_shares = {rank + 1: swarm.clients[rank]._held[5][0] for rank in range(4)}
    swarm.unmask()
    board, sent = swarm.boards[0], {5: swarm.masked[5].vector}
    gone = {5: KeyPair(decode(board.decided().secret(5)))}
    late = unmasked(board, sent, Spoils(keys=gone))
    assert abs(deviation(late.tobytes())) < 6
    # With the seed, which no honest holder opens any more, nothing would be left.
    seed = combine({place: int.from_bytes(share, "little") for place, share in seed_shares.items()})
    assert not unmasked(board, sent, Spoils({5: encode(seed)}, gone)).any()
