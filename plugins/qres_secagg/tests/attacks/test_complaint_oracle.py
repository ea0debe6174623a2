"""A complaint lays a secret open. A liar wants it to be the secret of somebody else."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from nacl import bindings
from qres_lab.exhibits.secagg.reading import Spoils, unmasked
from qres_secagg.dealing import Dealer, Dealing
from qres_secagg.failure import Reason
from qres_secagg.keys import (
    KeyPair,
    generated,
    multiply,
    random_scalar,
    seal_key,
)
from qres_secagg.messages import (
    Advert,
    Complaint,
    Deal,
    Kind,
    decode_complaint,
    encode_advert,
    encode_shares,
)
from qres_secagg.shamir import combine, decode, encode
from qres_secagg.sharing import SEALED_BYTES, Secret, key_tag, unseal

Make = Callable[..., Any]
LIAR, VICTIM = 3, 6
HONEST = [rank for rank in range(8) if rank != LIAR]


def deal_under_a_key_made_of_another(swarm: Any, shift: int) -> None:
    """The liar advertises the victim's channel key plus a multiple that it knows, and seals junk.

    It signs with what it has: a key of its own.
    """
    session, board = swarm.session, swarm.boards[LIAR]
    (heard,) = board.adverts[VICTIM].values()
    mask = KeyPair()
    moved = bindings.crypto_core_ed25519_add(heard.channel, generated(shift))
    advert = Advert(moved, mask.public)
    swarm.send(Kind.ADVERTISE, {LIAR: encode_advert(session.sid, advert)})
    secrets = {Secret.SEED: random_scalar(), Secret.MASK_KEY: mask.secret}
    dealer = Dealer(session.sid, LIAR, session.parameters.t, secrets)
    deals = {
        rank: Deal(
            *dealer.deal(rank).promises,
            key_tag(next(iter(board.adverts[rank].values())).channel),
            os.urandom(SEALED_BYTES),
        )
        for rank in board.topology.holders[LIAR]
    }
    shares = dealer.message(advert, KeyPair(), dealer.deal(LIAR), deals)
    swarm.send(Kind.SHARE, {LIAR: encode_shares(session.sid, shares)})


def opened_by(
    swarm: Any, complaints: dict[int, Complaint], shift: int
) -> dict[int, tuple[bytes, bytes]]:
    """Of complaints by their authors, the shares that the victim dealt to them, as far as read."""
    sid, roster, board = swarm.session.sid, swarm.session.roster, swarm.boards[LIAR]
    (theirs,) = board.adverts[VICTIM].values()
    (dealt,) = board.shares[VICTIM].values()
    found = {}
    for rank, complaint in complaints.items():
        (own,) = board.adverts[rank].values()
        point = bindings.crypto_core_ed25519_sub(complaint.secret, multiply(shift, own.channel))
        pair = (roster[VICTIM], theirs.channel), (roster[rank], own.channel)
        deal = dealt.deal(rank)
        both = deal and unseal(seal_key(point, sid, *pair), sid, deal.sealed)
        if both:
            found[rank] = both
    return found


def read(swarm: Any, shares: dict[int, tuple[bytes, bytes]]) -> np.ndarray:
    """The victim's update, from what it sent and shares of both its secrets."""
    chosen = sorted(shares)[: swarm.session.parameters.t]
    seed, mask = (
        combine({rank + 1: decode(shares[rank][place]) for rank in chosen}) for place in (0, 1)
    )
    both = Spoils({VICTIM: encode(seed)}, {VICTIM: KeyPair(mask)})
    return unmasked(swarm.boards[LIAR], {VICTIM: swarm.masked[VICTIM].vector}, both)


@pytest.mark.parametrize("guarded", [True, False])
def test_complaints_about_a_liar_open_nothing_that_another_node_dealt(
    make_swarm: Make, monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    """The other case is the control: the liar alone reads an update, before any set is decided."""
    if not guarded:
        monkeypatch.setattr(Dealing, "owns_channel", True)
    swarm, shift = make_swarm(8, corrupt=1), random_scalar()
    swarm.advertise(HONEST)
    deal_under_a_key_made_of_another(swarm, shift)
    swarm.send(Kind.SHARE, {rank: swarm.clients[rank].share() for rank in HONEST})
    complaints: dict[int, Complaint] = {}
    for rank in HONEST:
        for kind, body in swarm.clients[rank].acknowledge():
            swarm.send(kind, {rank: body})
            if kind is Kind.COMPLAINT and rank != VICTIM:
                complaints[rank] = decode_complaint(body)[1]
    swarm.list(0)
    swarm.mask()
    assert LIAR not in swarm.listed
    found = opened_by(swarm, complaints, shift)
    assert sorted(found) == ([] if guarded else [rank for rank in HONEST if rank != VICTIM])
    if guarded:
        for rank in HONEST:
            blamed = {(item.subject, item.reason) for item in swarm.boards[rank].drain()}
            assert blamed == {(swarm.node(LIAR), Reason.BAD_KEY)}
    else:
        assert np.array_equal(read(swarm, found), swarm.inputs[VICTIM])


@pytest.mark.parametrize("change", ["sid", "dealer", "advert", "shares"])
def test_the_signature_under_the_channel_key_is_of_one_dealing(
    make_swarm: Make, change: str
) -> None:
    swarm = make_swarm(8)
    swarm.advertise()
    swarm.share()
    board = swarm.boards[0]

    def dealing(rank: int) -> Dealing:
        (advert,), (shares,) = board.adverts[rank].values(), board.shares[rank].values()
        return Dealing(swarm.session.sid, rank, advert, shares)

    first, second = dealing(1), dealing(2)
    assert first.owns_channel
    values = {"sid": bytes(32), "dealer": 2, "advert": second.advert, "shares": second.shares}
    fields = {"sid": first.sid, "dealer": 1, "advert": first.advert, "shares": first.shares}
    assert not Dealing(**{**fields, change: values[change]}).owns_channel
