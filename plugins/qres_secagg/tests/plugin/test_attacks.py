"""Attacks on the protocol as the plugin carries it, each beside a run in which it would succeed."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Collection

import attrs
import numpy as np
import pytest
from qres_lab.exhibits.secagg.reading import Spoils, unmasked
from qres_secagg.board import SessionMessages
from qres_secagg.client import Client
from qres_secagg.keys import KeyPair
from qres_secagg.messages import (
    MAX_LEADERS,
    MAX_VARIANTS,
    Advert,
    Kind,
    Unmask,
    decode_advert,
    decode_listing,
    decode_shares,
    decode_unmask,
    encode_advert,
    encode_listing,
    encode_unmask,
)
from qres_secagg.shamir import decode
from secagg_swarm import PluginSwarm, plain_sum

from qres_core import MAX_WEIGHT, Update
from qres_core.dialogues import DialogueMessage, Send
from qres_core.errors import QresError, ValueRefusedError, WireError

ZEROS = {"dimension": 4096}


def deviation(octets: bytes) -> float:
    """Of the bytes from uniform: chi-square on 255 degrees, in standard deviations."""
    counts = np.bincount(np.frombuffer(octets, np.uint8), minlength=256)
    expected = len(octets) / 256
    return float((((counts - expected) ** 2 / expected).sum() - 255) / np.sqrt(510))


def recorded(swarm: PluginSwarm, step: Kind) -> list[bytes]:
    """All bodies of a kind that leave any node from now on."""
    found: list[bytes] = []
    inner = swarm.carry

    def carry(sender: bytes, receiver: bytes, send: Send) -> Send | None:
        if send.step == step:
            found.append(send.body)
        return inner(sender, receiver, send)

    swarm.carry = carry
    return found


# ── who says what to whom ─────────────────────────────────────────────────────────────────────


@pytest.mark.claim("C-secagg-4")
@pytest.mark.parametrize(("n", "attack", "opened"), [(8, False, 1), (8, True, 0), (9, True, 1)])
def test_of_two_survivor_sets_at_most_one_is_opened(n: int, opened: int, *, attack: bool) -> None:
    """Half of the nodes are told that one node survived, half that another did.

    If both sets were opened, their difference would be one update minus another. Where nine nodes
    cannot be halved, the five that agree are a quorum, and the other four open nothing.
    """
    swarm = PluginSwarm(n).open()
    updates = swarm.random_updates()
    swarm.contribute(updates)
    shares = recorded(swarm, Kind.UNMASK)
    for index, node in enumerate(swarm.roster):
        dropped = swarm.roster[index % 2 if attack else 0]
        members = tuple(node for node in swarm.roster if node != dropped)
        swarm.tell(node, members)
    swarm.deliver()
    swarm.pass_time(20)
    assert len({decode_unmask(body)[1].statement for body in shares}) == opened
    assert bool(shares) == bool(opened)
    if not attack:
        assert swarm.finished() == list(swarm.roster)


@pytest.mark.claim("C-secagg-6")
@pytest.mark.control("C-secagg-6")
@pytest.mark.parametrize("agreed", [False, True])
def test_who_sends_two_contributions_costs_no_round(*, agreed: bool) -> None:
    """All state the one that was agreed on, whichever they saw first.

    The other case is the control: where each states the one it saw, no quorum says the same.
    """
    swarm = PluginSwarm(8).open()
    updates = swarm.random_updates()
    swarm.contribute(updates)
    liar = swarm.roster[4]
    other = attrs.evolve(swarm.sent[liar], vector=swarm.sent[liar].vector ^ np.int32(1))
    shares = recorded(swarm, Kind.UNMASK)
    for index, node in enumerate(swarm.roster):
        misled = index % 2 and not agreed
        swarm.tell(node, instead={liar: other} if misled else None)
    swarm.deliver()
    swarm.pass_time(10)
    assert bool(shares) == agreed
    assert swarm.finished() == (list(swarm.roster) if agreed else [])
    if agreed:
        rows = swarm.reveal(swarm.roster[1]).updates
        assert np.array_equal(rows.sums[0], plain_sum(updates, updates))


@pytest.mark.parametrize("ring", [32, 64])
@pytest.mark.parametrize("attack", [False, True])
def test_what_is_added_up_is_what_was_stated(ring: int, *, attack: bool) -> None:
    """Between statement and opening a contribution is exchanged, under the same name.

    The other case is the control: another object that says the same.
    """
    swarm = PluginSwarm(8, {"ring": ring, "bound": 8.0}).open()
    updates = swarm.random_updates()
    swarm.contribute(updates)
    swarm.decide()
    liar = swarm.roster[4]
    vector = swarm.sent[liar].vector ^ np.int32(attack)
    swarm.sent[liar] = attrs.evolve(swarm.sent[liar], vector=vector)
    if attack:
        with pytest.raises(QresError) as caught:
            swarm.reveal(swarm.roster[1])
        assert caught.value.code == "QRES-E604"
    else:
        rows = swarm.reveal(swarm.roster[1]).updates
        assert np.array_equal(rows.sums[0], plain_sum(updates, updates))


def test_a_set_of_another_round_is_not_stated() -> None:
    swarm = PluginSwarm(6).open()
    swarm.contribute(swarm.random_updates())
    statements = recorded(swarm, Kind.STATEMENT)
    for node in swarm.roster:
        swarm.tell(node, info=attrs.evolve(swarm.info, number=swarm.number - 1))
    swarm.pass_time(5)
    assert not statements
    assert not swarm.finished()
    with pytest.raises(QresError) as caught:
        swarm.reveal(swarm.roster[0])
    assert caught.value.code == "QRES-E604"


@pytest.mark.claim("C-secagg-4")
@pytest.mark.parametrize("attack", [False, True])
def test_a_leader_with_two_lists_gets_no_sum_opened(*, attack: bool) -> None:
    """The leader leaves one node out for half of the swarm, and another one for the rest."""
    swarm = PluginSwarm(10, {"dropout": 0.2})
    liar = swarm.roster[1]

    def carry(sender: bytes, receiver: bytes, send: Send) -> Send | None:
        if sender != liar or send.step != Kind.LIST:
            return send
        sid, listing = decode_listing(send.body)
        members = dict(listing.members)
        del members[2 + (swarm.roster.index(receiver) % 2 if attack else 0)]
        return attrs.evolve(send, body=encode_listing(sid, attrs.evolve(listing, members=members)))

    swarm.carry = carry
    swarm.open(seconds=6)
    ready = swarm.ready()
    updates = swarm.random_updates(nodes=ready)
    swarm.contribute(updates)
    shares = recorded(swarm, Kind.UNMASK)
    swarm.decide()
    swarm.pass_time(10)
    if attack:
        assert not shares
        assert not swarm.finished()
        # Each node gets the other half's list from that half, and so sees that there are two.
        assert Counter(swarm.accused)[liar, "two-messages-of-one-kind"] >= swarm.n - 1
    else:
        assert len(swarm.finished()) >= 9


def test_a_second_list_of_the_leader_is_held_against_it() -> None:
    swarm = PluginSwarm(6).open()
    dialogue = swarm.dialogues[swarm.roster[3]]
    sid, listing = decode_listing(dialogue._leaders.lists[0].body)
    members = {rank: hashes for rank, hashes in listing.members.items() if rank != 5}
    other = encode_listing(sid, attrs.evolve(listing, members=members))
    message = DialogueMessage(swarm.leader, int(Kind.LIST), other)
    (accusation,) = dialogue.receive(message)
    assert (accusation.subject, accusation.fact) == (swarm.leader, "two-messages-of-one-kind")


def test_only_a_node_whose_turn_may_come_may_list() -> None:
    swarm = PluginSwarm(20).open()
    dialogue = swarm.dialogues[swarm.roster[3]]
    body = dialogue._leaders.lists[0].body
    last = DialogueMessage(swarm.roster[MAX_LEADERS], int(Kind.LIST), body)
    assert dialogue.receive(last) == []
    message = DialogueMessage(swarm.roster[MAX_LEADERS + 1], int(Kind.LIST), body)
    (accusation,) = dialogue.receive(message)
    assert accusation.subject == swarm.roster[MAX_LEADERS + 1]


def test_a_leader_with_a_list_that_is_not_valid_costs_no_patience() -> None:
    swarm = PluginSwarm(12, {"min_size": 3})

    def carry(sender: bytes, _receiver: bytes, send: Send) -> Send | None:
        if send.step != Kind.LIST or sender != swarm.leader:
            return send
        sid, listing = decode_listing(send.body)
        return attrs.evolve(send, body=encode_listing(sid, attrs.evolve(listing, members={})))

    swarm.carry = carry
    swarm.open(seconds=6)
    # Its list is nobody's but its own. It costs no patience: the next leader lists at once.
    assert swarm.ready() == list(swarm.roster)
    assert {subject for subject, _ in swarm.accused} == {swarm.leader}


@pytest.mark.parametrize("attack", [False, True])
def test_a_node_that_advertises_to_the_leader_alone_leaves_nobody_out(*, attack: bool) -> None:
    """It addresses its messages to the leader, so that nobody may hand them on.

    The other case is the control: nothing is addressed, and it is listed.
    """
    swarm = PluginSwarm(8, {"dropout": 0.2})
    liar = swarm.roster[5]

    def carry(sender: bytes, receiver: bytes, send: Send) -> Send | None:
        if sender != liar or not attack or send.step not in (Kind.ADVERTISE, Kind.SHARE):
            return send
        return attrs.evolve(send, to=receiver) if receiver == swarm.leader else None

    swarm.carry = carry
    swarm.relay = lambda _holder, _receiver, author, _send: author != liar or not attack
    swarm.open(seconds=8)
    honest = [node for node in swarm.roster if node != liar]
    assert set(honest) <= set(swarm.ready())
    assert (liar in swarm.ready()) == (not attack)
    assert {subject for subject, _ in swarm.accused} == ({liar} if attack else set())


@pytest.mark.parametrize("variants", [1, 3])
def test_a_node_that_says_three_things_leaves_nobody_out(variants: int) -> None:
    """Two of them reach the others before the leader lists the third.

    The other case is the control.
    """
    swarm = PluginSwarm(8, {"dropout": 0.2})
    liar = swarm.roster[5]
    swarm.carry = lambda sender, receiver, send: (
        send if sender != liar or send.step != Kind.ADVERTISE or receiver == swarm.leader else None
    )

    def prepare(swarm: PluginSwarm) -> None:
        for node in swarm.roster:
            if node not in (liar, swarm.leader):
                sid = swarm.dialogues[node].session.sid
                for _lie in range(variants - 1):
                    advert = Advert(KeyPair().public, KeyPair().public)
                    body = encode_advert(sid, advert)
                    swarm.emit(node, swarm.rounds[node].receive(DialogueMessage(liar, 0, body)))

    swarm.prepare = prepare
    swarm.open(seconds=8)
    assert set(swarm.ready()) >= set(swarm.roster) - {liar}
    assert {subject for subject, _ in swarm.accused} == ({liar} if variants > 1 else set())


@pytest.mark.parametrize("case", ["handed on", "not handed on", "one node", "control"])
def test_who_fills_the_room_of_some_nodes_with_adverts_keeps_nobody_out(
    monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """These could not keep the advert that the leader lists. The leader hears of theirs in time.

    If nobody hands them on, too many lack the liar's shares. As many as may be corrupt are not too
    many: such a node sits out. In the control none are: the liar is listed, and the three sit out.
    """
    if case == "control":
        zeros = np.zeros(13, int)
        monkeypatch.setattr(SessionMessages, "_near", lambda _self, _members: zeros)
    swarm = PluginSwarm(13)
    liar, leader = swarm.roster[6], swarm.roster[1]
    filled = [node for node in swarm.roster if node not in (liar, leader)][-3:]
    filled = filled[:1] if case == "one node" else filled
    adverts = [Advert(KeyPair().public, KeyPair().public) for _ in range(MAX_VARIANTS)]

    def prepare(swarm: PluginSwarm) -> None:
        sid = swarm.dialogues[leader].session.sid
        for node in filled:
            for advert in adverts:
                said = Send(encode_advert(sid, advert), int(Kind.ADVERTISE))
                swarm._arrive(liar, node, said, swarm.number)

    swarm.prepare = prepare
    swarm.relay = lambda _holder, _receiver, author, send: (
        case == "handed on" or author != liar or send.step != Kind.ADVERTISE
    )
    swarm.open(seconds=8)
    honest = {node for node in swarm.roster if node != liar}
    out = filled if case in {"one node", "control"} else []
    assert set(swarm.ready()) - {liar} == honest.difference(out)
    assert {subject for subject, _ in swarm.accused} == {liar}


@pytest.mark.parametrize("attack", [False, True])
def test_who_copies_a_key_that_it_heard_takes_nobodys_place(*, attack: bool) -> None:
    """Its rank is lower than that of the node whose key it says is its own.

    The other case is the control: it says its own key as late.
    """
    swarm = PluginSwarm(8, {"dropout": 0.2})
    liar, victim = swarm.roster[3], swarm.roster[6]
    said: list[bytes] = []

    def carry(sender: bytes, _receiver: bytes, send: Send) -> Send | None:
        if sender == victim and send.step == Kind.ADVERTISE and not said:
            sid, heard = decode_advert(send.body)
            ((_, own),) = swarm.dialogues[liar].board.adverts[3].items()
            copied = Advert(own.channel, heard.mask if attack else own.mask)
            said.append(encode_advert(sid, copied))
            swarm.queue.extend((liar, node, Send(said[0], 0)) for node in swarm.roster)
        hidden = sender == liar and send.step == Kind.ADVERTISE and send.body not in said
        return None if hidden else send

    swarm.carry = carry
    swarm.relay = lambda _holder, _receiver, author, send: author != liar or send.body in said
    swarm.open(seconds=8)
    listed = swarm.dialogues[swarm.leader].board.listed().members
    assert 6 in listed
    assert (3 in listed) == (not attack)
    assert victim in swarm.ready()


# ── dead and alive ────────────────────────────────────────────────────────────────────────────


def test_an_answer_holds_one_share_of_each_node_and_of_the_kind_the_set_says() -> None:
    """Alive *and* dead cannot be said: the message names ranks, and the set names the kind."""
    swarm = PluginSwarm(8).open()
    updates = swarm.random_updates()
    swarm.contribute(updates)
    answers = recorded(swarm, Kind.UNMASK)
    held = {node: dict(dialogue._client._held) for node, dialogue in swarm.dialogues.items()}
    gone = swarm.roster[3]
    swarm.decide([node for node in swarm.roster if node != gone])
    for body in set(answers):
        _sid, unmask = decode_unmask(body)
        owner = next(
            author
            for author, step, said in swarm.held[swarm.number][swarm.roster[0]]
            if (step, said) == (Kind.UNMASK, body)
        )
        for rank, share in unmask.shares.items():
            seed_share, mask_share = held[owner][rank]
            assert share == (mask_share if rank == 3 else seed_share)
            assert share != (seed_share if rank == 3 else mask_share)


def test_a_dropped_nodes_late_input_stays_uniform_though_its_mask_key_is_open() -> None:
    swarm = PluginSwarm(8, **ZEROS).open()
    updates = {node: Update(np.zeros(4096, np.int32)) for node in swarm.roster}
    swarm.contribute(updates)  # it is dropped from the set, but everybody has what it sent
    late = swarm.roster[3]
    swarm.decide([node for node in swarm.roster if node != late])
    board = swarm.dialogues[swarm.roster[0]].board
    survivors = [node for node in swarm.roster if node != late]
    assert not swarm.reveal(swarm.roster[0], survivors).updates.sums.any()
    gone = Spoils(keys={3: KeyPair(decode(board.decided().secret(3)))})
    left = unmasked(board, {3: swarm.sent[late].vector}, gone)
    assert abs(deviation(left.tobytes())) < 6
    assert not swarm.dialogues[late]._client._seed, "the node still holds its seed"


def test_with_both_secrets_a_single_update_would_lie_open() -> None:
    """The positive control of the tests above: what opening seed and mask key of a node gives."""
    swarm = PluginSwarm(6).open()
    victim = swarm.roster[2]
    client: Client = swarm.dialogues[victim]._client
    assert client._mask is not None
    both = Spoils({2: client._seed}, {2: client._mask})
    updates = swarm.random_updates()
    swarm.contribute(updates)
    board = swarm.dialogues[victim].board
    read = unmasked(board, {2: swarm.sent[victim].vector}, both)
    assert np.array_equal(read, updates[victim].vector)


# ── replay ────────────────────────────────────────────────────────────────────────────────────


def test_messages_of_another_round_change_nothing() -> None:
    swarm = PluginSwarm(6)
    old = {kind: recorded(swarm, kind) for kind in (Kind.ADVERTISE, Kind.SHARE, Kind.UNMASK)}
    swarm.open()
    updates = swarm.random_updates()
    swarm.contribute(updates).decide()
    swarm.close()
    swarm.open(seconds=0)
    dialogue = swarm.dialogues[swarm.roster[0]]
    before = {rank: dict(kept) for rank, kept in dialogue.board.adverts.items()}
    for kind, bodies in old.items():
        for body in bodies[:12]:
            dialogue.receive(DialogueMessage(swarm.roster[4], int(kind), body))
    assert dialogue.board.adverts == before
    assert not swarm.accused  # another session may be another configuration: nobody is blamed


@pytest.mark.parametrize("attack", [True, False])
def test_who_is_on_no_list_fills_no_quorum(*, attack: bool) -> None:
    """It names the list all the same. It would be in the set, and in no sum: that has one fewer."""
    swarm = PluginSwarm(10, {"corrupt": 0.1}, byzantine=1)
    liar, *gone = swarm.roster[4], *swarm.roster[7:9]
    swarm.away = {liar}
    swarm.open(seconds=20.0)
    updates = swarm.random_updates()
    swarm.contribute({node: updates[node] for node in swarm.ready() if node not in gone})
    copied = next(iter(swarm.sent.values()))
    swarm.sent[liar] = attrs.evolve(copied, sender=liar, digest=liar[::-1])
    members = sorted(swarm.sent)
    listed = [node for node in members if node != liar]
    assert swarm.revealable(members) == tuple(listed)
    # The control: a set that was decided with it, such as by nodes that have no list, is opened.
    swarm.away |= set(gone)
    swarm.decide(members if attack else listed)
    swarm.pass_time(20.0)
    rows = swarm.reveal(swarm.roster[0], members if attack else listed).updates
    assert rows.members == (tuple(listed),)
    assert np.array_equal(rows.sums[0], plain_sum(updates, listed))


@pytest.mark.parametrize("attack", [True, False])
def test_a_claim_of_more_examples_than_may_count_is_in_no_set(*, attack: bool) -> None:
    """``swarm.weight_cap`` may be larger than ``max_weight``: then no group's sum would be open."""
    options = {"weights": "public", "max_weight": 50, "ring": 64}
    groups = {"group_size": 4, "min_size": 3, "corrupt": 0.0, "dropout": 0.1}
    swarm = PluginSwarm(12, {**options, **groups}).open()
    swarm.contribute(swarm.random_updates())
    liar, *others = swarm.roster
    swarm.sent[liar] = attrs.evolve(swarm.sent[liar], weight=MAX_WEIGHT)
    assert swarm.revealable() == tuple(others)
    # The control: a set that was decided with it.
    members = swarm.roster if attack else others
    swarm.decide(members)
    swarm.pass_time(10.0)
    if attack:
        with pytest.raises(ValueRefusedError, match=r"QRES-E506 updates\.weights"):
            swarm.reveal(others[0], members)
    else:
        assert len(swarm.reveal(others[0], members).updates) == 3


def test_masks_of_two_rounds_have_nothing_in_common() -> None:
    """The same input twice, with what was spent forgotten: the difference is uniform."""
    swarm = PluginSwarm(6, **ZEROS)
    sent = []
    for _ in range(2):
        swarm.open()
        swarm.contribute({node: Update(np.zeros(4096, np.int32)) for node in swarm.roster})
        sent.append(swarm.sent[swarm.roster[0]].vector.view(np.uint32))
        swarm.close("QRES-E604")
    assert abs(deviation((sent[0] - sent[1]).tobytes())) < 6
    assert deviation(np.zeros(4096, np.uint32).tobytes()) > 100  # the statistic can tell


# ── liars among the holders ───────────────────────────────────────────────────────────────────


def test_wrong_shares_are_blamed_and_the_sum_is_exact() -> None:
    swarm = PluginSwarm(9)
    liar = swarm.roster[4]

    def carry(sender: bytes, _receiver: bytes, send: Send) -> Send | None:
        if sender != liar or send.step != Kind.UNMASK:
            return send
        sid, unmask = decode_unmask(send.body)
        shares = {rank: bytes([share[0] ^ 1]) + share[1:] for rank, share in unmask.shares.items()}
        return attrs.evolve(send, body=encode_unmask(sid, Unmask(unmask.statement, shares)))

    swarm.carry = carry
    swarm.open()
    updates = swarm.random_updates()
    swarm.contribute(updates).decide()
    honest = [node for node in swarm.finished() if node != liar]
    assert len(honest) == 8
    for node in honest:
        assert np.array_equal(swarm.reveal(node).updates.sums[0], plain_sum(updates, updates))
    assert {subject for subject, _ in swarm.accused} == {liar}
    assert "opened-share-is-not-the-one-committed-to" in {fact for _, fact in swarm.accused}


@pytest.mark.parametrize("attack", [False, True])
def test_a_dealer_that_commits_to_another_seed_than_it_deals_stops_nothing(
    *, attack: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its shares give is the seed: the sum is opened, and everybody knows of the lie."""
    swarm = PluginSwarm(7)
    liar = swarm.roster[4]

    def prepare(swarm: PluginSwarm) -> None:
        client = swarm.dialogues[liar]._client
        honest = client.share

        def share() -> bytes:
            with monkeypatch.context() as patch:
                patch.setattr("qres_secagg.dealing.seed_commitment", lambda *_: bytes(32))
                return honest()

        if attack:
            client.share = share

    swarm.prepare = prepare
    swarm.open()
    updates = swarm.random_updates()
    swarm.contribute(updates).decide()
    swarm.pass_time(5)
    blamed = {(liar, "shares-do-not-give-the-secret-committed-to")}
    assert set(swarm.accused) == (blamed if attack else set())
    assert swarm.finished() == list(swarm.roster)
    for node in swarm.roster:
        assert np.array_equal(swarm.reveal(node).updates.sums[0], plain_sum(updates, updates))


# ── thresholds ────────────────────────────────────────────────────────────────────────────────


def _silence(swarm: PluginSwarm, nodes: Collection[bytes], step: Kind) -> None:
    inner = swarm.carry

    def carry(sender: bytes, receiver: bytes, send: Send) -> Send | None:
        return None if sender in nodes and send.step == step else inner(sender, receiver, send)

    def relay(_holder: bytes, _receiver: bytes, author: bytes, send: Send) -> bool:
        return not (author in nodes and send.step == step)  # it says that to nobody

    swarm.carry, swarm.relay = carry, relay


@pytest.mark.parametrize("silent", [3, 4])
def test_with_too_few_answers_the_round_ends_and_what_was_sent_stays_uniform(silent: int) -> None:
    swarm = PluginSwarm(8, **ZEROS).open()
    threshold = swarm.dialogues[swarm.roster[0]].session.parameters.t
    assert threshold == 5  # of 8: three may be silent and a node counts itself
    updates = {node: Update(np.zeros(4096, np.int32)) for node in swarm.roster}
    swarm.contribute(updates)
    _silence(swarm, swarm.roster[-silent:], Kind.UNMASK)
    swarm.decide()
    swarm.pass_time(10)
    judge = swarm.roster[0]
    if silent == 3:
        assert not swarm.reveal(judge).updates.sums.any()
        return
    assert judge not in swarm.finished()
    with pytest.raises(QresError) as caught:
        swarm.reveal(judge)
    assert caught.value.code == "QRES-E604"
    total = np.sum([frame.vector.view(np.uint32) for frame in swarm.sent.values()], axis=0)
    assert abs(deviation(total.astype(np.uint32).tobytes())) < 6


def test_too_few_survivors_are_never_opened() -> None:
    swarm = PluginSwarm(8, {"min_size": 6, "dropout": 0.3}).open()
    updates = swarm.random_updates()
    swarm.contribute(updates)
    shares = recorded(swarm, Kind.UNMASK)
    statements = recorded(swarm, Kind.STATEMENT)
    swarm.decide(swarm.roster[:5])
    swarm.pass_time(10)
    assert not shares
    assert not statements
    # Positive control: with one more the same nodes open it.
    again = PluginSwarm(8, {"min_size": 6, "dropout": 0.3}).open()
    again.contribute(again.random_updates()).decide(again.roster[:6])
    assert again.finished()


@pytest.mark.parametrize("survivors", [1, 2])
def test_the_sum_of_one_or_two_is_never_opened(survivors: int) -> None:
    swarm = PluginSwarm(5, {"min_size": 3, "corrupt": 0.0}).open()
    swarm.contribute(swarm.random_updates())
    shares = recorded(swarm, Kind.UNMASK)
    swarm.decide(swarm.roster[:survivors])
    swarm.pass_time(10)
    assert not shares


def test_statements_below_the_quorum_open_nothing() -> None:
    swarm = PluginSwarm(9).open()
    swarm.contribute(swarm.random_updates())
    quorum = swarm.dialogues[swarm.roster[0]].board.quorum
    shares = recorded(swarm, Kind.UNMASK)
    _silence(swarm, swarm.roster[quorum - 1 :], Kind.STATEMENT)
    for node in swarm.roster[: quorum - 1]:
        swarm.tell(node)
    swarm.deliver()
    assert not shares
    late = swarm.roster[quorum]
    swarm.carry = lambda _sender, _receiver, send: send
    shares = recorded(swarm, Kind.UNMASK)
    swarm.tell(late)
    swarm.deliver()
    assert shares


def test_a_node_that_sees_its_own_input_replaced_states_nothing() -> None:
    swarm = PluginSwarm(6).open()
    updates = swarm.random_updates()
    swarm.contribute(updates)
    victim = swarm.roster[2]
    dialogue = swarm.dialogues[victim]
    forged = attrs.evolve(swarm.sent[victim], vector=swarm.sent[victim].vector + np.int32(1))
    swarm.tell(victim, instead={victim: forged})
    assert not swarm.queue
    assert "replaced" in dialogue.refusal


def _holders(body: bytes) -> set[int] | None:
    try:
        return set(decode_shares(body)[1].holders)
    except WireError:
        return None


def test_ranks_of_a_share_message_name_only_holders() -> None:
    """A dealer cannot make an outsider of the share graph its holder: k-regular, n = 70."""
    swarm = PluginSwarm(70, {"corrupt": 0.02, "dropout": 0.05}, dimension=3)
    swarm.open(seconds=0)
    board = swarm.dialogues[swarm.roster[0]].board
    assert not board.topology.complete
    holders = set(board.topology.holders[0])
    outsider = next(rank for rank in range(1, 70) if rank not in holders)
    (body,) = {
        said
        for author, step, said in swarm.held[swarm.number][swarm.roster[0]]
        if (author, step) == (swarm.roster[0], Kind.SHARE)
    }
    sid, shares = decode_shares(body)
    form, last = struct.Struct("<H"), max(shares.holders)
    found = [at for at in range(len(body)) if body.startswith(form.pack(last), at)]
    # Random keys may hold the same two bytes: the rank is where a change of it changes the holders.
    changed = next(
        made
        for made in (body[:at] + form.pack(outsider) + body[at + 2 :] for at in found)
        if _holders(made) != set(shares.holders)
    )
    assert sid
    receiver = swarm.dialogues[swarm.roster[1]]
    before = set(receiver.board.shares.get(0, {}))
    receiver.receive(DialogueMessage(swarm.roster[0], int(Kind.SHARE), changed))
    assert set(receiver.board.shares.get(0, {})) == before
