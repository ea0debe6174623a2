"""Holders and dealers that lie about shares."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import numpy as np
import pytest
from qres_secagg import client as client_module
from qres_secagg.failure import PeerFault, Reason, SecaggError
from qres_secagg.keys import X25519Pair
from qres_secagg.messages import (
    Kind,
    Shares,
    Unmask,
    decode_shares,
    decode_unmask,
    encode_shares,
    encode_unmask,
)
from qres_secagg.opening import OpenedShares
from qres_secagg.shamir import deal

Make = Callable[..., Any]


def changed_shares(
    liar: int, change: Callable[[Unmask], Unmask]
) -> Callable[[int, int, bytes], bytes]:
    def tamper(sender: int, _receiver: int, body: bytes) -> bytes:
        if sender != liar:
            return body
        sid, unmask = decode_unmask(body)
        return encode_unmask(sid, change(unmask))

    return tamper


def wrong(unmask: Unmask) -> Unmask:
    return attrs.evolve(unmask, shares=dict.fromkeys(unmask.shares, bytes(33)))


def assert_exact(swarm: Any, rank: int) -> None:
    (found,) = swarm.sums(rank)
    assert np.array_equal(found.total, swarm.plain(found.members))


def test_a_wrong_share_is_found_and_its_holder_named(make_swarm: Make) -> None:
    swarm = make_swarm(6).until_masked()
    swarm.state()
    swarm.unmask(tamper=changed_shares(3, wrong))
    for rank in (0, 1, 2, 4, 5):
        assert swarm.boards[rank].drain() == (PeerFault(swarm.node(3), Reason.WRONG_SHARE),)
        assert_exact(swarm, rank)


def test_without_commitments_an_honest_dealer_would_be_accused(
    make_swarm: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    swarm = make_swarm(6, t=6).until_masked()
    monkeypatch.setattr("qres_secagg.opening.committed", lambda *_: b"anything")
    promises = lambda item, dealer, _kind: dict.fromkeys((dealer, *item.holders), b"anything")  # noqa: E731
    monkeypatch.setattr(Shares, "promises", promises)
    swarm.state()
    swarm.unmask(tamper=changed_shares(3, wrong))
    with pytest.raises(SecaggError) as caught:
        swarm.sums(0)
    assert caught.value.reason is Reason.BAD_DEALER
    assert caught.value.blame == (swarm.node(0),)


def test_the_other_kind_of_share_is_refused(make_swarm: Make) -> None:
    """A liar opens its share of the mask key of a node that is alive."""
    swarm = make_swarm(6).until_masked()
    swarm.state()
    other = swarm.clients[3]._held[1][1]

    def both(unmask: Unmask) -> Unmask:
        return attrs.evolve(unmask, shares={**unmask.shares, 1: other})

    swarm.unmask(tamper=changed_shares(3, both))
    assert swarm.boards[0].drain() == (PeerFault(swarm.node(3), Reason.WRONG_SHARE),)
    assert_exact(swarm, 0)


def test_shares_a_node_does_not_hold_are_refused(make_swarm: Make) -> None:
    swarm = make_swarm(16, k=6, t=4).until_masked()
    swarm.state()
    near = swarm.boards[0].topology.holders[3]
    far = next(rank for rank in range(16) if rank != 3 and rank not in near)

    def foreign(unmask: Unmask) -> Unmask:
        return attrs.evolve(unmask, shares={**unmask.shares, far: os.urandom(32) + b"\0"})

    swarm.unmask(tamper=changed_shares(3, foreign))
    assert swarm.boards[0].drain() == (PeerFault(swarm.node(3), Reason.FOREIGN_SHARE),)
    assert_exact(swarm, 0)


def test_a_share_of_a_node_outside_the_list_is_refused(make_swarm: Make) -> None:
    swarm = make_swarm(6)
    swarm.advertise()
    swarm.share(range(1, 6))
    swarm.list(leader=1)
    swarm.mask()
    swarm.state()

    def foreign(unmask: Unmask) -> Unmask:
        return attrs.evolve(unmask, shares={0: bytes(33), **unmask.shares})

    swarm.unmask(tamper=changed_shares(3, foreign))
    assert PeerFault(swarm.node(3), Reason.FOREIGN_SHARE) in swarm.boards[1].drain()
    assert_exact(swarm, 1)


def test_answers_for_another_survivor_set_count_for_nothing(make_swarm: Make) -> None:
    swarm = make_swarm(6).until_masked()
    swarm.state()

    def elsewhere(unmask: Unmask) -> Unmask:
        return attrs.evolve(unmask, statement=bytes(32))

    swarm.unmask(tamper=changed_shares(3, elsewhere))
    assert_exact(swarm, 0)
    assert swarm.boards[0].drain() == ()


def test_two_different_answers_are_equivocation(make_swarm: Make) -> None:
    swarm = make_swarm(6).run()
    body = swarm.sent[3, Kind.UNMASK]
    sid, unmask = decode_unmask(body)
    board = swarm.boards[0]
    board.receive(swarm.node(3), Kind.UNMASK, body)
    assert board.drain() == ()
    board.receive(swarm.node(3), Kind.UNMASK, encode_unmask(sid, wrong(unmask)))
    assert board.drain() == (PeerFault(swarm.node(3), Reason.EQUIVOCATION),)


# -- dealers ------------------------------------------------------------------------------------


def with_dealer(
    swarm: Any, liar: int, monkeypatch: pytest.MonkeyPatch, lie: Callable[..., list[int]]
) -> None:
    """All steps to the sum, in which one dealer shares out with ``lie``."""
    swarm.advertise()
    swarm.share([rank for rank in swarm.everybody if rank != liar])
    monkeypatch.setattr(client_module, "deal", lie)
    swarm.share([liar])
    monkeypatch.setattr(client_module, "deal", deal)
    swarm.list()
    swarm.mask()


def halves(secret: bytes, threshold: int, places: Sequence[int]) -> list[int]:
    """Shares of two secrets: of the true one for even places, of another one for the others."""
    true, other = deal(secret, threshold, places), deal(os.urandom(32), threshold, places)
    return [a if place % 2 == 0 else b for place, a, b in zip(places, true, other, strict=True)]


def another(_secret: bytes, threshold: int, places: Sequence[int]) -> list[int]:
    return deal(os.urandom(32), threshold, places)


@pytest.mark.parametrize("lie", [halves, another])
@pytest.mark.parametrize("survives", [True, False])
def test_a_dealer_whose_shares_are_no_secret_is_named(
    make_swarm: Make, monkeypatch: pytest.MonkeyPatch, lie: Any, *, survives: bool
) -> None:
    swarm = make_swarm(8, t=5)
    with_dealer(swarm, 2, monkeypatch, lie)
    swarm.state([rank for rank in range(8) if survives or rank != 2])
    swarm.unmask()
    with pytest.raises(SecaggError) as caught:
        swarm.sums(0)
    assert caught.value.reason is Reason.BAD_DEALER
    assert caught.value.blame == (swarm.node(2),)
    assert PeerFault(swarm.node(2), Reason.BAD_DEALER) in swarm.boards[0].drain()


def test_a_few_bad_shares_of_a_dealer_are_stepped_over(
    make_swarm: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_bad(secret: bytes, threshold: int, places: Sequence[int]) -> list[int]:
        return [
            1 if place == 1 else share
            for place, share in zip(places, deal(secret, threshold, places), strict=True)
        ]

    swarm = make_swarm(8, t=5)
    with_dealer(swarm, 2, monkeypatch, one_bad)
    swarm.state()
    swarm.unmask()
    assert_exact(swarm, 0)
    assert swarm.boards[0].drain() == (PeerFault(swarm.node(2), Reason.BAD_DEALER),)


def test_without_the_commitment_to_the_secret_nodes_would_compute_different_sums(
    make_swarm: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two nodes that hear different holders first get different secrets, and models diverge."""
    swarm = make_swarm(8, t=4, k=6)
    swarm = make_swarm(9, t=5)

    def late(secret: bytes, threshold: int, places: Sequence[int]) -> list[int]:
        """The lowest five places share one secret, the highest five another."""
        low = sorted(places)[:4]
        true = dict(zip(places, deal(secret, threshold, places), strict=True))
        other = dict(zip(places, deal(os.urandom(32), threshold, places), strict=True))
        return [true[place] if place in low else other[place] for place in places]

    with_dealer(swarm, 2, monkeypatch, late)
    swarm.state()
    monkeypatch.setattr(OpenedShares, "_is_secret", lambda *_: True)

    def partly(sender: int, receiver: int, body: bytes) -> bytes | None:
        return None if receiver == 8 and sender < 4 else body

    swarm.unmask(tamper=partly)
    totals = [swarm.sums(rank)[0].total for rank in (0, 8)]
    assert not np.array_equal(*totals)
    monkeypatch.undo()


def test_sealed_shares_that_do_not_open_are_the_dealers_fault(make_swarm: Make) -> None:
    """The holder goes on without them; the secret is opened by the others."""
    swarm = make_swarm(6)
    swarm.advertise()

    def broken(sender: int, _receiver: int, body: bytes) -> bytes:
        if sender != 2:
            return body
        sid, shares = decode_shares(body)
        deals = {holder: shares.deal(holder) for holder in shares.holders}
        deals[0] = attrs.evolve(deals[0], sealed=bytes(82))
        deals[1] = attrs.evolve(deals[1], seed=bytes(32))
        return encode_shares(sid, type(shares).of(shares.seed, shares.own, deals))

    swarm.share([0, 1, 3, 4, 5])
    body = broken(2, 0, swarm.clients[2].share())
    swarm.boards[2].shares[2].clear()
    swarm.clients[2]._own.pop()
    swarm.clients[2]._own.append(client_module.body_hash(Kind.SHARE, body))
    for board in swarm.boards.values():
        board.receive(swarm.node(2), Kind.SHARE, body)
    swarm.list()
    for rank in (0, 1):
        assert swarm.boards[rank].drain() == (PeerFault(swarm.node(2), Reason.BAD_SEAL),)
    swarm.mask()
    swarm.state()
    swarm.unmask()
    assert_exact(swarm, 0)
    assert all(swarm.boards[rank].drain() == () for rank in swarm.everybody)


def test_a_dealer_with_another_mask_key_is_named(
    make_swarm: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shares that belong together, of a key that is not the advertised one."""
    other = X25519Pair().secret

    def of_other(_secret: bytes, threshold: int, places: Sequence[int]) -> list[int]:
        return deal(other, threshold, places)

    swarm = make_swarm(8, t=5)
    with_dealer(swarm, 2, monkeypatch, of_other)
    swarm.state([rank for rank in range(8) if rank != 2])
    swarm.unmask()
    with pytest.raises(SecaggError, match="shares do not give the secret"):
        swarm.sums(0)
