"""Holders that lie about shares."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import pytest
from qres_secagg.dealing import Dealing
from qres_secagg.failure import PeerFault, Reason, SecaggError
from qres_secagg.messages import Kind, Unmask, decode_unmask, encode_unmask
from qres_secagg.opening import OpenedShares
from qres_secagg.sharing import Secret

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
    return attrs.evolve(unmask, shares=dict.fromkeys(unmask.shares, bytes(32)))


def assert_exact(swarm: Any, rank: int) -> None:
    (found,) = swarm.sums(rank)
    assert np.array_equal(found.total, swarm.plain(found.members))


def used(make_swarm: Make, n: int, t: int) -> set[int]:
    """Holders whose shares an honest run of that size combines."""
    swarm = make_swarm(n, t=t).run()
    swarm.sums(0)
    return set(swarm.boards[0].decided()._chosen)


@pytest.mark.claim("C-secagg-18")
def test_a_wrong_share_that_is_used_is_found_and_its_holder_named(make_swarm: Make) -> None:
    swarm = make_swarm(6, t=5).until_masked()
    swarm.state()
    swarm.unmask(tamper=changed_shares(1, wrong))
    for rank in (0, 2, 3, 4, 5):
        assert_exact(swarm, rank)
        assert swarm.boards[rank].drain() == (PeerFault(swarm.node(1), Reason.WRONG_SHARE),)


def test_a_wrong_share_that_nobody_needs_changes_nothing(make_swarm: Make) -> None:
    liar = min(set(range(6)) - used(make_swarm, 6, 4))
    swarm = make_swarm(6, t=4).until_masked()
    swarm.state()
    swarm.unmask(tamper=changed_shares(liar, wrong))
    assert_exact(swarm, 0)
    assert swarm.boards[0].drain() == ()


def test_wrong_shares_cost_a_look_at_single_ones_and_nothing_else(
    make_swarm: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No share is looked at by itself where the secrets come out; of a liar, few are."""
    looked: list[tuple[int, int]] = []
    fits = Dealing.fits

    def counted(self: Dealing, kind: Secret, holder: int, share: bytes) -> bool:
        looked.append((self.dealer, holder))
        return fits(self, kind, holder, share)

    for liar in (False, True):
        swarm = make_swarm(12, t=7).until_masked()
        swarm.state()
        swarm.unmask(tamper=changed_shares(3, wrong) if liar else lambda _s, _r, body: body)
        monkeypatch.setattr(Dealing, "fits", counted)
        assert_exact(swarm, 0)
        monkeypatch.setattr(Dealing, "fits", fits)
        # One dealer's shares show who lies; the liar's others are left out unseen.
        assert len({dealer for dealer, _ in looked}) == int(liar)


@pytest.mark.claim("C-secagg-18")
def test_a_liar_is_not_taken_for_the_dealer_where_every_share_is_needed(make_swarm: Make) -> None:
    swarm = make_swarm(6, t=6).until_masked()
    swarm.state()
    swarm.unmask(tamper=changed_shares(3, wrong))
    with pytest.raises(SecaggError) as caught:
        swarm.sums(0)
    assert caught.value.reason is Reason.BELOW_THRESHOLD
    assert swarm.boards[0].drain() == (PeerFault(swarm.node(3), Reason.WRONG_SHARE),)
    assert swarm.boards[0].decided().missing


@pytest.mark.control("C-secagg-1", "C-secagg-18")
@pytest.mark.parametrize("removed", [False, True])
def test_without_the_check_of_the_secret_nodes_open_different_sums(
    make_swarm: Make, monkeypatch: pytest.MonkeyPatch, *, removed: bool
) -> None:
    """One board hears the liar among the first, another one hears it last."""
    if removed:
        monkeypatch.setattr(OpenedShares, "_is_secret", lambda *_: True)
    swarm = make_swarm(8, t=5).until_masked()
    swarm.state()
    swarm.unmask([0, 1, 2, 4, 5, 6, 7], tamper=lambda _s, r, body: body if r else None)
    late = swarm.sums(1)[0].total
    body = changed_shares(3, wrong)(3, 0, swarm.clients[3].unmask())
    for rank in (3, 0, 1, 2, 4, 5, 6, 7):
        said = body if rank == 3 else swarm.sent.get((rank, Kind.UNMASK))
        swarm.boards[0].receive(swarm.node(rank), Kind.UNMASK, said)
    assert np.array_equal(swarm.sums(0)[0].total, late) == (not removed)


@pytest.mark.claim("C-secagg-31")
def test_the_other_kind_of_share_is_refused(make_swarm: Make) -> None:
    """A liar opens its share of the mask key of a node that is alive."""
    liar = max(used(make_swarm, 6, 5))
    swarm = make_swarm(6, t=5).until_masked()
    swarm.state()
    other = swarm.clients[liar]._held[1][1]

    def both(unmask: Unmask) -> Unmask:
        return attrs.evolve(unmask, shares={**unmask.shares, 1: other})

    swarm.unmask(tamper=changed_shares(liar, both))
    assert_exact(swarm, 0)
    assert swarm.boards[0].drain() == (PeerFault(swarm.node(liar), Reason.WRONG_SHARE),)


def test_shares_a_node_does_not_hold_are_refused(make_swarm: Make) -> None:
    swarm = make_swarm(16, k=6, t=4).until_masked()
    swarm.state()
    near = swarm.boards[0].topology.holders[3]
    far = next(rank for rank in range(16) if rank != 3 and rank not in near)

    def foreign(unmask: Unmask) -> Unmask:
        return attrs.evolve(unmask, shares={**unmask.shares, far: os.urandom(31) + b"\0"})

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
        return attrs.evolve(unmask, shares={0: bytes(32), **unmask.shares})

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


def of_the_dropped(unmask: Unmask) -> Unmask:
    """A wrong share of the mask key of node 5, and all others as they are."""
    return attrs.evolve(unmask, shares={**unmask.shares, 5: bytes(32)})


def dropped(make_swarm: Make, t: int) -> Any:
    """A sum without node 5, and holder 1 lies about its key."""
    swarm = make_swarm(6, t=t).until_masked()
    swarm.state(range(5), range(5))
    swarm.unmask(range(5), tamper=changed_shares(1, of_the_dropped))
    return swarm


def test_a_wrong_share_of_a_mask_key_is_found_and_its_holder_named(make_swarm: Make) -> None:
    swarm = dropped(make_swarm, 4)
    assert 1 in [holder for holder in range(5) if 5 in swarm.boards[0].decided()._answers[holder]]
    assert_exact(swarm, 0)
    assert swarm.boards[0].drain() in ((), (PeerFault(swarm.node(1), Reason.WRONG_SHARE),))
    needed = dropped(make_swarm, 5)  # here its share is needed
    with pytest.raises(SecaggError) as caught:
        needed.sums(0)
    assert caught.value.reason is Reason.BELOW_THRESHOLD
    assert needed.boards[0].drain() == (PeerFault(needed.node(1), Reason.WRONG_SHARE),)


def test_shares_that_fit_and_give_another_key_open_nothing(
    make_swarm: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can deal like that. If somebody could, the sum would be another one, and is none."""
    monkeypatch.setattr(Dealing, "fits", lambda *_: True)
    swarm = dropped(make_swarm, 5)
    with pytest.raises(SecaggError) as caught:
        swarm.boards[0].decided().open_all()
    assert caught.value.reason is Reason.BAD_DEALER


def test_shares_that_give_no_number_of_a_key_are_no_secret(make_swarm: Make) -> None:
    """A liar that answers last can make them give zero, which no library multiplies by."""
    opening = dropped(make_swarm, 4).boards[0].decided()
    assert opening._is_secret(5, Secret.MASK_KEY, bytes(32)) is False


def test_what_was_enough_before_a_lie_was_found_is_not_opened(make_swarm: Make) -> None:
    swarm = make_swarm(6, t=6).until_masked()
    swarm.state()
    swarm.unmask(tamper=changed_shares(3, wrong))
    opening = swarm.boards[0].decided()
    assert not opening.missing
    assert not opening.open_all()
    assert opening.missing


def test_a_share_of_a_dealer_that_dealt_the_holder_none_is_refused(make_swarm: Make) -> None:
    """Node 5 did not hear of node 2 in time, and dealt to the others."""
    swarm = make_swarm(6, t=4)
    swarm.advertise(
        tamper=lambda sender, receiver, body: None if (sender, receiver) == (2, 5) else body
    )
    swarm.share()
    swarm.boards[5].receive(swarm.node(2), Kind.ADVERTISE, swarm.sent[2, Kind.ADVERTISE])
    swarm.acknowledge()
    swarm.list()
    swarm.mask()
    swarm.state()
    claim = changed_shares(2, of_the_dropped)
    swarm.unmask(tamper=claim)
    assert_exact(swarm, 0)
    assert swarm.boards[0].drain() == (PeerFault(swarm.node(2), Reason.FOREIGN_SHARE),)
