"""Dealers that deal badly, and holders that say so of dealers that did not.

Each lie is found before anything is masked. Where the check that finds it is taken away, the dealer
gets what it wants: the others mask, and cannot open the sum that it can.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable, Collection
from itertools import combinations
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qres_secagg import checks, complaints, dealing
from qres_secagg import client as client_module
from qres_secagg.board import SessionMessages
from qres_secagg.dealing import Dealer, Dealing, Dealt
from qres_secagg.failure import PeerFault, Reason, SecaggError
from qres_secagg.keys import KeyPair, generated, random_scalar
from qres_secagg.messages import (
    MAX_VARIANTS,
    Ack,
    Advert,
    Complaint,
    Deal,
    Kind,
    Listing,
    Shares,
    decode_advert,
    decode_complaint,
    decode_listing,
    encode_ack,
    encode_advert,
    encode_complaint,
    encode_listing,
    encode_shares,
)
from qres_secagg.parameters import choose
from qres_secagg.shamir import ORDER, combine, decode, encode, value
from qres_secagg.sharing import Secret, commitment

Make = Callable[..., Any]
Lie = Callable[[Dealer, int, Dealt], Dealt]
SID, LIAR = b"s" * 32, 2


# ── the algebra ───────────────────────────────────────────────────────────────────────────────


@attrs.frozen
class Made:
    """A dealing and everything in it."""

    dealer: Dealer
    secrets: dict[Secret, int]
    dealt: dict[int, Dealt]
    seen: Dealing


def made(nodes: int, t: int, *, lie: Lie | None = None, key: int | None = None) -> Made:
    """Node 0 deals to all; ``lie`` changes what others than itself get, ``key`` the mask key."""
    mask, channel = KeyPair(), KeyPair()
    secrets_ = {Secret.SEED: random_scalar(), Secret.MASK_KEY: key or mask.secret}
    dealer = Dealer(SID, 0, t, secrets_)
    dealt = {holder: dealer.deal(holder) for holder in range(nodes)}
    if lie is not None:
        dealt |= {holder: lie(dealer, holder, dealt[holder]) for holder in range(1, nodes)}
    deals = {
        holder: Deal(*item.promises, bytes(16), bytes(80))
        for holder, item in dealt.items()
        if holder
    }
    advert = Advert(channel.public, mask.public)
    shares = dealer.message(advert, channel, dealt[0], deals)
    return Made(dealer, secrets_, dealt, Dealing(SID, 0, advert, shares))


def fit(item: Made) -> dict[int, bool]:
    """Whose shares fit."""
    return {
        holder: item.seen.proved
        and item.seen.fits(Secret.SEED, holder, dealt.seed)
        and item.seen.fits(Secret.MASK_KEY, holder, dealt.mask)
        for holder, dealt in item.dealt.items()
    }


def by_hand(item: Made, kind: Secret, holder: int) -> int:
    """The blind of a share, from the published polynomial and the challenge's definition."""
    shares, advert = item.seen.shares, item.seen.advert
    content = b"".join((shares.seed, *shares.own, shares.records))
    promised = hashlib.sha256(b"qres-secagg/1 promised" + content).digest()
    head = SID + struct.pack("<H", 0) + advert.channel + advert.mask
    transcript = hashlib.sha256(b"qres-secagg/1 dealing" + head + promised).digest()
    if kind is Secret.SEED:
        content, response = b"qres-secagg/1 seed dealt" + transcript, shares.seed_response
    else:
        label = b"qres-secagg/1 mask key dealt"
        content = shares.nonce + advert.mask + label + transcript
        response = shares.mask_response
    challenge = int.from_bytes(hashlib.sha512(content).digest(), "little") % ORDER
    numbers = [int.from_bytes(response[i : i + 32], "little") for i in range(0, len(response), 32)]
    at_place = sum(number * (holder + 1) ** i for i, number in enumerate(numbers))
    dealt = item.dealt[holder]
    share = dealt.seed if kind is Secret.SEED else dealt.mask
    return (at_place - challenge * int.from_bytes(share, "little")) % ORDER


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 6), st.integers(0, 4))
def test_the_published_polynomial_gives_the_blinds_that_were_committed_to(
    t: int, spare: int
) -> None:
    item = made(t + spare, t)
    for holder, dealt in item.dealt.items():
        for kind, share, promise in (
            (Secret.SEED, dealt.seed, dealt.seed_promise),
            (Secret.MASK_KEY, dealt.mask, dealt.mask_promise),
        ):
            blind = by_hand(item, kind, holder)
            assert blind == value(item.dealer._made[kind].blind, holder + 1)
            assert commitment(SID, kind, 0, holder, share, encode(blind)) == promise
    assert all(fit(item).values())
    assert item.seen.is_seed(encode(item.secrets[Secret.SEED]))
    assert not item.seen.is_seed(encode(item.secrets[Secret.SEED] ^ 1))


def plus(holders: Collection[int], *, promised: bool, seed: bool = True, mask: bool = True) -> Lie:
    """Another share for some holders, with the commitment to it or to the right one."""

    def lie(dealer: Dealer, holder: int, dealt: Dealt) -> Dealt:
        if holder not in holders:
            return dealt
        found: dict[str, bytes] = {}
        for kind, name in ((Secret.SEED, "seed"), (Secret.MASK_KEY, "mask")):
            if seed if kind is Secret.SEED else mask:
                share = encode((decode(getattr(dealt, name)) + 1) % ORDER)
                found[name] = share
                if promised:
                    blind = encode(value(dealer._made[kind].blind, holder + 1))
                    found[f"{name}_promise"] = commitment(
                        dealer._sid, kind, dealer._rank, holder, share, blind
                    )
        return attrs.evolve(dealt, **found)

    return lie


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_shares_that_fit_give_the_secrets_that_were_committed_to(data: st.DataObject) -> None:
    """Whatever the dealer changes, promised or not: among what passes, every subset agrees."""
    t = data.draw(st.integers(2, 4))
    nodes = t + data.draw(st.integers(0, 4))
    lie = plus(
        data.draw(st.sets(st.integers(1, nodes - 1))),
        promised=data.draw(st.booleans()),
        seed=data.draw(st.booleans()),
        mask=data.draw(st.booleans()),
    )
    item = made(nodes, t, lie=lie)
    for kind in Secret:
        name = "seed" if kind is Secret.SEED else "mask"
        passed = {
            holder + 1: decode(getattr(dealt, name))
            for holder, dealt in item.dealt.items()
            if item.seen.fits(kind, holder, getattr(dealt, name))
        }
        for chosen in combinations(passed, t):
            assert combine({place: passed[place] for place in chosen}) == item.secrets[kind]


def test_fewer_shares_than_the_threshold_tell_nothing() -> None:
    """For any other seed there is a dealing that looks the same to them, to the last byte.

    That is how the message can be made without the secret: of the published polynomial and a
    challenge, as whoever simulates it may choose what the hash answers.
    """
    t, nodes = 4, 7
    item = made(nodes, t)
    shares = item.seen.shares
    challenge, response = item.seen._seed_proof
    known = [1, 3, 5]  # one less than the threshold
    for guess in (1, 12345, ORDER - 1):
        points = {holder + 1: decode(item.dealt[holder].seed) for holder in known}
        others = through({0: guess, **points}, t)
        blind = [(z - challenge * f) % ORDER for z, f in zip(response, others, strict=True)]
        # The same message, the same shares of those who look, and it verifies for another secret:
        again = b"".join(
            encode((r + challenge * f) % ORDER) for r, f in zip(blind, others, strict=True)
        )
        assert again == shares.seed_response
        assert others[0] == guess
        for holder in known:
            assert encode(value(others, holder + 1)) == item.dealt[holder].seed
            assert item.seen.fits(Secret.SEED, holder, encode(value(others, holder + 1)))


def through(points: dict[int, int], t: int) -> list[int]:
    """Coefficients of the polynomial of degree ``t - 1`` through ``t`` points."""
    total = [0] * t
    for x, y in points.items():
        term, scale = [1], y
        for other in points:
            if other != x:
                term = [
                    (low - other * high) % ORDER
                    for low, high in zip([0, *term], [*term, 0], strict=True)
                ]
                scale = scale * pow(x - other, -1, ORDER) % ORDER
        total = [(a + scale * b) % ORDER for a, b in zip(total, term, strict=True)]
    return total


@pytest.mark.claim("C-secagg-19")
@pytest.mark.parametrize("kind", Secret)
@pytest.mark.parametrize("promised", [False, True])
def test_a_share_that_is_not_on_the_polynomial_does_not_fit(
    kind: Secret, *, promised: bool
) -> None:
    lie = plus({3}, promised=promised, seed=kind is Secret.SEED, mask=kind is Secret.MASK_KEY)
    found = fit(made(6, 3, lie=lie))
    assert found == {holder: holder != 3 for holder in range(6)}


def test_the_key_that_is_shared_out_is_the_one_that_was_advertised() -> None:
    assert not any(fit(made(6, 3, key=random_scalar())).values())


@pytest.mark.control("C-secagg-19")
def test_without_the_proof_another_key_would_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dealing, "proved", True)
    item = made(6, 3, key=random_scalar())
    assert all(fit(item).values())
    assert generated(item.secrets[Secret.MASK_KEY]) != item.seen.advert.mask


@pytest.mark.parametrize("bound", [True, False])
def test_a_challenge_must_come_after_the_commitments(
    monkeypatch: pytest.MonkeyPatch, *, bound: bool
) -> None:
    """Where it does not, shares of no polynomial pass: the blinds are computed backwards."""
    if not bound:
        monkeypatch.setattr(dealing, "_transcript", lambda sid, _dealer, _advert, _shares: sid)
    item = made(6, 3)
    challenge = item.seen._seed_proof[0]
    response = item.seen._seed_proof[1]
    deals = {}
    lies = {holder: encode(random_scalar()) for holder in range(1, 6)}
    for holder, share in lies.items():
        blind = (value(response, holder + 1) - challenge * decode(share)) % ORDER
        promise = commitment(SID, Secret.SEED, 0, holder, share, encode(blind))
        deals[holder] = Deal(promise, item.dealt[holder].mask_promise, bytes(16), bytes(80))
    first = item.seen.shares
    forged = attrs.evolve(
        Shares.of(first.seed, first.own, deals, nonce=first.nonce),
        seed_response=first.seed_response,
        mask_response=first.mask_response,
    )
    seen = attrs.evolve(item.seen, shares=forged)
    passed = [seen.fits(Secret.SEED, holder, share) for holder, share in lies.items()]
    assert passed == [not bound] * 5


def test_a_dealing_is_of_its_session_dealer_and_keys() -> None:
    item = made(6, 3)
    other = KeyPair().public
    for change in (
        {"sid": b"t" * 32},
        {"dealer": 1},
        {"advert": attrs.evolve(item.seen.advert, channel=other)},
        {"advert": attrs.evolve(item.seen.advert, mask=other)},
    ):
        seen = attrs.evolve(item.seen, **change)
        assert not seen.proved
        assert not seen.fits(Secret.MASK_KEY, 3, item.dealt[3].mask)
        assert not seen.fits(Secret.SEED, 3, item.dealt[3].seed) or change.keys() == {"mask"}


@pytest.mark.parametrize("share", [ORDER, 2**256 - 1])
def test_a_share_beyond_the_order_does_not_fit(share: int) -> None:
    item = made(4, 2)
    assert not item.seen.fits(Secret.SEED, 1, share.to_bytes(32, "little"))
    low = decode(item.dealt[1].seed)
    assert not item.seen.fits(Secret.SEED, 1, (low + ORDER).to_bytes(32, "little"))


def test_the_bound_that_the_manual_gives() -> None:
    plan = choose(1000, 100, 100)
    assert plan.k == 102
    sets = math.comb(plan.k + 1, plan.t + 1)
    assert sets < 2**88
    assert (sets << 60) < 2 ** (252 - 100)
    assert math.comb(251, 156) << 60 > 2**252


# ── in a session ──────────────────────────────────────────────────────────────────────────────


def crooked(lie: Lie, key: int | None = None) -> type[Dealer]:
    class CrookedDealer(Dealer):
        def __init__(
            self, sid: bytes, rank: int, threshold: int, secrets: dict[Secret, int]
        ) -> None:
            changed = secrets if key is None else {**secrets, Secret.MASK_KEY: key}
            super().__init__(sid, rank, threshold, changed)

        def deal(self, holder: int) -> Dealt:
            dealt = super().deal(holder)
            return dealt if holder == LIAR else lie(self, holder, dealt)

    return CrookedDealer


def nothing(_dealer: Dealer, _holder: int, dealt: Dealt) -> Dealt:
    return dealt


def flipped(key: bytes, sid: bytes, seed_share: bytes, mask_share: bytes) -> bytes:
    sealed = bytearray(complaints_seal(key, sid, seed_share, mask_share))
    sealed[0] ^= 1
    return bytes(sealed)


complaints_seal = client_module.seal
EVERYBODY = range(20)
LIES: dict[str, dict[str, Any]] = {
    "another share than promised": {"Dealer": crooked(plus(EVERYBODY, promised=False))},
    "shares of no polynomial": {"Dealer": crooked(plus({1, 4, 7}, promised=True))},
    "shares of another key": {"Dealer": crooked(nothing, key=random_scalar())},
    "garbage seals": {"seal": flipped},
}


def deal(swarm: Any, lie: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody shares; one of them lies."""
    swarm.advertise()
    others = [rank for rank in swarm.everybody if rank != LIAR]
    swarm.send(Kind.SHARE, {rank: swarm.clients[rank].share() for rank in others})
    with monkeypatch.context() as patch:
        for name, instead in lie.items():
            patch.setattr(client_module, name, instead)
        swarm.send(Kind.SHARE, {LIAR: swarm.clients[LIAR].share()})
    swarm.acknowledge(others)


@pytest.mark.claim("C-secagg-19")
@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_bad_dealer_is_left_out_before_anything_is_masked_and_everybody_sees_why(
    make_swarm: Make, monkeypatch: pytest.MonkeyPatch, lie: dict[str, Any]
) -> None:
    swarm = make_swarm(10, t=6, acks=7, corrupt=1)
    deal(swarm, lie, monkeypatch)
    for rank in swarm.everybody:
        if rank != LIAR:
            found = swarm.boards[rank].drain()
            assert found == (PeerFault(swarm.node(LIAR), Reason.BAD_SHARES),)
            assert swarm.boards[rank].complaints.convicted == {LIAR}
    # Who takes no part, and holds no share, judges the same.
    bystander = SessionMessages(swarm.session)
    for (sender, kind), body in swarm.sent.items():
        bystander.receive(swarm.node(sender), kind, body)
    assert bystander.drain() == (PeerFault(swarm.node(LIAR), Reason.BAD_SHARES),)
    body = swarm.boards[0].compose()
    assert sorted(decode_listing(body)[1].members) == [0, 1, 3, 4, 5, 6, 7, 8, 9]
    for rank in swarm.everybody:
        if rank != LIAR:
            swarm.clients[rank].adopt(body)


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_leader_cannot_list_a_bad_dealer(
    make_swarm: Make, monkeypatch: pytest.MonkeyPatch, lie: dict[str, Any]
) -> None:
    swarm = make_swarm(10, t=6, acks=9, corrupt=1)
    deal(swarm, lie, monkeypatch)
    body = forced(swarm)
    with pytest.raises(SecaggError) as caught:
        swarm.clients[0].adopt(body)
    assert caught.value.reason is Reason.LACKING


def forced(swarm: Any) -> bytes:
    """A list of everybody, whatever was found."""
    board = swarm.boards[0]
    members = {
        rank: (next(iter(board.adverts[rank])), next(iter(board.shares[rank])))
        for rank in swarm.everybody
    }
    return encode_listing(swarm.session.sid, Listing(members))


@pytest.mark.parametrize("checked", [True, False])
def test_the_unfair_abort(
    make_swarm: Make, monkeypatch: pytest.MonkeyPatch, *, checked: bool
) -> None:
    """A dealer of bad shares knows its own seed: without the acks it alone opens the exact sum."""
    if not checked:
        monkeypatch.setattr(SessionMessages, "_unchecked", lambda *_: [])
    swarm = make_swarm(10, t=6, acks=7, corrupt=1)
    deal(swarm, LIES["another share than promised"], monkeypatch)
    seed = swarm.clients[LIAR]._seed
    if checked:
        swarm.sent.clear()
        body = swarm.boards[0].compose()
        for rank in swarm.everybody:
            swarm.boards[rank].adopt(body)
            if rank != LIAR:
                swarm.clients[rank].adopt(body)
        swarm.mask()
        swarm.state()
        swarm.unmask()
        for rank in swarm.listed:
            (found,) = swarm.sums(rank)
            assert np.array_equal(found.total, swarm.plain(found.members))
            assert swarm.node(LIAR) not in found.members
        return
    body = forced(swarm)
    for rank in swarm.everybody:
        swarm.clients[rank].adopt(body)
    swarm.mask()
    swarm.state()
    swarm.unmask()
    for rank in swarm.everybody:
        with pytest.raises(SecaggError):
            swarm.sums(rank)
    swarm.boards[LIAR].decided()._secrets[LIAR] = seed  # what the liar knows anyway
    (found,) = swarm.sums(LIAR)
    assert np.array_equal(found.total, swarm.plain(found.members))


def test_acks_of_who_holds_no_share_or_is_not_listed_do_not_count(make_swarm: Make) -> None:
    swarm = make_swarm(10, t=6, acks=9)
    swarm.advertise()
    swarm.share()
    good = decode_listing(swarm.boards[0].compose())[1]
    few = dict(list(good.members.items())[:8])
    with pytest.raises(SecaggError) as caught:
        swarm.boards[1].adopt(encode_listing(swarm.session.sid, attrs.evolve(good, members=few)))
    assert caught.value.reason is Reason.LACKING  # eight of the eight, and nine are needed
    swarm.boards[1].adopt(swarm.boards[0].compose())


def named(swarm: Any) -> dict[int, tuple[bytes, bytes]]:
    """Hashes of the advert and the shares of every node, by rank."""
    board = swarm.boards[0]
    return {
        rank: (next(iter(board.adverts[rank])), next(iter(board.shares[rank])))
        for rank in swarm.everybody
    }


def test_acks_are_of_two_messages(make_swarm: Make) -> None:
    """A dealer that says another thing later has no acks for that."""
    swarm = make_swarm(8, t=5, acks=5)
    swarm.advertise()
    swarm.share()
    board = swarm.boards[0]
    said = named(swarm)
    assert board.acks.count(said).tolist() == [8] * 8
    for other in ((said[0][0], bytes(32)), (bytes(32), said[0][1])):
        assert board.acks.count({0: other}).tolist() == [1, *[0] * 7]


def test_said_twice_an_ack_counts_once(make_swarm: Make) -> None:
    swarm = make_swarm(8, t=5, acks=5)
    swarm.advertise()
    swarm.share()
    board = swarm.boards[0]
    single = named(swarm)
    for sender in range(1, 8):
        board.receive(swarm.node(sender), Kind.ACK, swarm.sent[sender, Kind.ACK])
    assert board.acks.count(single).tolist() == [8] * 8
    assert board.drain() == ()


@pytest.mark.parametrize("bound", [True, False])
def test_a_dealer_with_two_adverts_is_not_listed_with_the_one_that_nobody_checked(
    make_swarm: Make, monkeypatch: pytest.MonkeyPatch, *, bound: bool
) -> None:
    """The leader hears the advert that the shares do not fit, and the others the one they do.

    The other case is the control: the liar is listed, and nobody holds a share of it.
    """
    if not bound:
        for module in ("client", "checks"):
            monkeypatch.setattr(f"qres_secagg.{module}.ack_tag", lambda _advert, dealt: dealt[:16])
    swarm, leader = make_swarm(8, t=5, acks=6, corrupt=1), 0
    other = encode_advert(swarm.session.sid, Advert(KeyPair().public, KeyPair().public))
    swarm.advertise(
        tamper=lambda sender, receiver, body: (
            other if (sender, receiver) == (LIAR, leader) else body
        )
    )
    swarm.share()
    for rank in swarm.everybody:
        if rank != leader:
            swarm.boards[rank].receive(swarm.node(LIAR), Kind.ADVERTISE, other)
    body = swarm.boards[leader].compose()
    assert (LIAR in decode_listing(body)[1].members) == (not bound)
    for rank in set(swarm.everybody) - {LIAR}:
        swarm.clients[rank].adopt(body)
        assert LIAR not in swarm.clients[rank]._held


@pytest.mark.parametrize("order", [1, -1])
def test_acks_count_alike_on_every_node_in_whatever_order_a_liar_says_them(
    make_swarm: Make, order: int
) -> None:
    """It says one thing to the leader first, and another to the others, who then hear both."""
    swarm = make_swarm(8, t=5, acks=8)
    swarm.advertise()
    swarm.send(Kind.SHARE, {rank: swarm.clients[rank].share() for rank in swarm.everybody})
    swarm.acknowledge([rank for rank in swarm.everybody if rank != LIAR])
    ((_, true),) = swarm.clients[LIAR].acknowledge()
    false = encode_ack(swarm.session.sid, Ack.of({rank: bytes(16) for rank in (0, 1, 3)}))
    for rank in set(swarm.everybody) - {LIAR}:
        for body in (true, false)[:: 1 if rank == 0 else order]:
            swarm.boards[rank].receive(swarm.node(LIAR), Kind.ACK, body)
    body = swarm.boards[0].compose()
    assert len(decode_listing(body)[1].members) == 8
    for rank in set(swarm.everybody) - {LIAR}:
        swarm.clients[rank].adopt(body)


def test_a_flood_of_acks_is_kept_to_what_a_node_may_say(make_swarm: Make) -> None:
    swarm = make_swarm(8, t=5, acks=5)
    board = swarm.boards[0]
    for number in range(3 * MAX_VARIANTS):
        tags = {rank: number.to_bytes(16, "little") for rank in range(1, 8)}
        board.receive(swarm.node(0), Kind.ACK, encode_ack(swarm.session.sid, Ack.of(tags)))
    assert len(board.acks._records[0]) == MAX_VARIANTS * 7 * 18


def test_who_copies_a_key_and_is_heard_first_takes_nobodys_place(make_swarm: Make) -> None:
    """It cannot deal what fits; it asks for no complaint either, as it names keys of nobody."""
    swarm, victim = make_swarm(8, t=5, acks=5, corrupt=1), 6
    others = [rank for rank in swarm.everybody if rank != LIAR]
    bodies = {rank: swarm.clients[rank].advertise() for rank in others}
    heard = decode_advert(bodies[victim])[1].channel
    liar = made(8, 5)
    deals = {rank: Deal(*liar.dealt[rank].promises, bytes(16), bytes(80)) for rank in others}
    advert = Advert(heard, liar.seen.advert.mask)
    shares = liar.dealer.message(advert, KeyPair(), liar.dealt[LIAR], deals)
    swarm.send(Kind.ADVERTISE, {LIAR: encode_advert(swarm.session.sid, advert)})
    swarm.send(Kind.ADVERTISE, bodies)
    swarm.send(Kind.SHARE, {LIAR: encode_shares(swarm.session.sid, shares)})
    swarm.send(Kind.SHARE, {rank: swarm.clients[rank].share() for rank in others})
    swarm.acknowledge(others)
    assert sorted(decode_listing(swarm.boards[0].compose())[1].members) == others


# ── complaints ────────────────────────────────────────────────────────────────────────────────


def complaint_of(swarm: Any, author: int, dealer: int) -> Complaint:
    """An honest complaint, of one who has nothing to complain about."""
    board, client = swarm.boards[author], swarm.clients[author]
    advert, dealt = next(iter(board.adverts[dealer])), next(iter(board.shares[dealer]))
    found = client._complaint(dealer, advert, dealt)
    assert isinstance(found, Complaint)
    return found


@pytest.fixture(name="shared")
def _shared(make_swarm: Make) -> Any:
    swarm = make_swarm(8, t=5, acks=5)
    swarm.advertise()
    swarm.share()
    return swarm


def judged(swarm: Any, author: int, complaint: Complaint) -> list[tuple[int, Reason]]:
    board = swarm.boards[0]
    board.drain()
    body = encode_complaint(swarm.session.sid, complaint)
    assert decode_complaint(body) == (swarm.session.sid, complaint)
    board.receive(swarm.node(author), Kind.COMPLAINT, body)
    return [(swarm.session.rank[fault.subject], fault.reason) for fault in board.drain()]


@pytest.mark.claim("C-secagg-19")
def test_a_complaint_about_shares_that_fit_falls_on_its_author(shared: Any) -> None:
    assert judged(shared, 4, complaint_of(shared, 4, 6)) == [(4, Reason.FALSE_COMPLAINT)]
    assert shared.boards[0].complaints.convicted == set()


FORGED: dict[str, Callable[[Complaint], Complaint]] = {
    "another point": lambda c: attrs.evolve(c, secret=KeyPair().public),
    "no point": lambda c: attrs.evolve(c, secret=b"\x02" + bytes(31)),
    "the identity": lambda c: attrs.evolve(c, secret=b"\x01" + bytes(31)),
    "another challenge": lambda c: attrs.evolve(c, challenge=encode(7)),
    "no challenge": lambda c: attrs.evolve(c, challenge=bytes(32)),
    "a challenge beyond the order": lambda c: attrs.evolve(c, challenge=b"\xff" * 32),
    "another response": lambda c: attrs.evolve(c, response=encode(7)),
    "no response": lambda c: attrs.evolve(c, response=bytes(32)),
}


@pytest.mark.claim("C-secagg-19")
@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)
def test_a_forged_complaint_falls_on_its_author(
    shared: Any, forge: Callable[[Complaint], Complaint]
) -> None:
    forged = forge(complaint_of(shared, 4, 6))
    assert judged(shared, 4, forged) == [(4, Reason.FALSE_COMPLAINT)]


@pytest.mark.control("C-secagg-19")
def test_without_the_proof_of_the_point_an_honest_dealer_is_framed(
    shared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(complaints, "proves_point", lambda *_: True)
    forged = FORGED["another point"](complaint_of(shared, 4, 6))
    assert judged(shared, 4, forged) == [(6, Reason.BAD_SHARES)]


def test_who_floods_others_with_complaints_is_looked_at_once(
    shared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A false one, and a true one about a dealer that is convicted, end it."""
    looked: list[int] = []
    check = checks.dealer_lied

    def counted(session: Any, holder: int, *rest: Any) -> bool | None:
        looked.append(holder)
        return check(session, holder, *rest)

    monkeypatch.setattr(checks, "dealer_lied", counted)
    for dealer in (5, 6, 7):
        judged(shared, 4, complaint_of(shared, 4, dealer))
    assert looked == [4]
    board = shared.boards[0]
    board.complaints.convicted.add(7)
    judged(shared, 2, complaint_of(shared, 2, 7))
    assert looked == [4]


def test_another_nodes_complaint_proves_nothing(shared: Any) -> None:
    assert judged(shared, 5, complaint_of(shared, 4, 6)) == []  # it names the keys of another
    stolen = attrs.evolve(
        complaint_of(shared, 4, 6), own_advert=next(iter(shared.boards[0].adverts[5]))
    )
    assert judged(shared, 5, stolen) == []  # the first one stands
    assert judged(shared, 3, attrs.evolve(stolen, dealer=60_000)) == [(3, Reason.BAD_HOLDERS)]


@pytest.mark.parametrize("tagged", [True, False])
def test_who_says_two_keys_frames_nobody(
    shared: Any, monkeypatch: pytest.MonkeyPatch, *, tagged: bool
) -> None:
    """It complains with another key than it showed the dealer: nothing was sealed under that."""
    if not tagged:
        monkeypatch.setattr(complaints, "key_tag", lambda _key: found.key)
    second = KeyPair()
    advert = encode_advert(shared.session.sid, Advert(second.public, KeyPair().public))
    shared.boards[0].receive(shared.node(4), Kind.ADVERTISE, advert)
    own = next(reversed(shared.boards[0].adverts[4]))
    shares, theirs = (
        next(iter(kept[6])) for kept in (shared.boards[0].shares, shared.boards[0].adverts)
    )
    against = Dealing(
        shared.session.sid,
        6,
        shared.boards[0].adverts[6][theirs],
        shared.boards[0].shares[6][shares],
    )
    found = against.shares.deal(4)
    assert found is not None
    framed = complaints.complain(shared.session, 4, second, against, (shares, theirs, own))
    assert judged(shared, 4, framed) == ([] if tagged else [(6, Reason.BAD_SHARES)])


def test_a_complaint_waits_for_the_messages_it_names(
    make_swarm: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    swarm = make_swarm(8, t=5, acks=5)
    deal(swarm, LIES["garbage seals"], monkeypatch)
    late = SessionMessages(swarm.session)
    order = (Kind.COMPLAINT, Kind.ACK, Kind.SHARE, Kind.ADVERTISE)
    for kind in order:
        assert late.complaints.convicted == set()
        for (sender, said), body in swarm.sent.items():
            if said is kind:
                late.receive(swarm.node(sender), kind, body)
    assert late.complaints.convicted == {LIAR}
    assert late.drain() == (PeerFault(swarm.node(LIAR), Reason.BAD_SHARES),)


def test_a_complaint_opens_what_the_two_dealt_each_other_and_nothing_else(
    make_swarm: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    swarm = make_swarm(8, t=5, acks=5)
    deal(swarm, LIES["garbage seals"], monkeypatch)
    secret = decode_complaint(swarm.sent[4, Kind.COMPLAINT])[1].secret
    board = swarm.boards[0]
    opens: list[tuple[int, int]] = []
    for dealer in swarm.everybody:
        ((_, advert),) = board.adverts[dealer].items()
        ((_, shares),) = board.shares[dealer].items()
        seen = Dealing(swarm.session.sid, dealer, advert, shares)
        for holder in swarm.everybody:
            channel = next(iter(board.adverts[holder].values())).channel
            if complaints.opened(swarm.session, seen, holder, channel, secret) is not None:
                opens.append((dealer, holder))
    assert opens == [(4, LIAR)]  # which the liar had


def test_a_second_encoding_of_a_proof_is_none(make_session: Make) -> None:
    item, pair, session = made(6, 3), KeyPair(), make_session()
    told = complaints.complain(session, 3, pair, item.seen, (bytes(32),) * 3)

    def proves(complaint: Complaint) -> bool:
        return complaints.proves_point(session.sid, 3, pair.public, item.seen, complaint)

    assert proves(told)
    for field in ("challenge", "response"):
        number = decode(getattr(told, field))
        for other in (number + ORDER, 0, ORDER):
            assert not proves(attrs.evolve(told, **{field: encode(other)}))


def test_a_complaint_about_a_dealer_that_dealt_nothing_to_its_author_is_false(
    make_session: Make,
) -> None:
    item, pair, session = made(6, 3), KeyPair(), make_session()
    told = complaints.complain(session, 7, pair, item.seen, (bytes(32),) * 3)
    assert complaints.dealer_lied(session, 7, pair.public, item.seen, told) is False


def beyond(dealer: Dealer, holder: int, dealt: Dealt) -> Dealt:
    """The right share, written as a number that is larger by the order, and so promised."""
    share = encode(decode(dealt.seed) + ORDER)
    blind = encode(value(dealer._made[Secret.SEED].blind, holder + 1))
    promise = commitment(dealer._sid, Secret.SEED, dealer._rank, holder, share, blind)
    return attrs.evolve(dealt, seed=share, seed_promise=promise)


@pytest.mark.parametrize("zero", [False, True])
def test_a_share_that_no_message_can_open_does_not_fit(
    monkeypatch: pytest.MonkeyPatch, *, zero: bool
) -> None:
    """Its holder would be blamed for what the dealer did: such a number is in no answer."""
    if zero:  # of holder 1, which is at place 2: its number is then the order itself
        half = pow(2, -1, ORDER)
        monkeypatch.setattr(
            dealing, "polynomial", lambda secret, _threshold: [secret, -secret * half % ORDER]
        )
    item = made(4, 2, lie=beyond)
    assert (decode(item.dealt[1].seed) == ORDER) is zero
    assert not item.seen.fits(Secret.SEED, 1, item.dealt[1].seed)


def test_a_complaint_is_new_once(make_session: Make) -> None:
    item, pair, session = made(6, 3), KeyPair(), make_session()
    told = complaints.complain(session, 3, pair, item.seen, (bytes(32),) * 3)
    box = checks.Complaints(session)
    assert [box.take(3, told), box.take(3, told), box.take(4, told)] == [True, False, True]
