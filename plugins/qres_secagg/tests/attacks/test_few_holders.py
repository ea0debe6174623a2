"""A dealer that deals to few, and opens nothing: it would keep the sum for itself.

It deals to just so many that it is listed. Honest dealers do so, too, with who is late, and nobody
can complain of shares that it did not get. When as many of its holders are away as may be, nobody
opens its secret. All others are open by then, so the liar alone has the exact sum. In the controls
the rule is as it was: so many acks, and no word on who is missing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import attrs
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from qres_lab.testing import make_node_ids
from qres_secagg.board import SessionMessages
from qres_secagg.client import Client
from qres_secagg.failure import Reason, SecaggError
from qres_secagg.messages import (
    Ack,
    Advert,
    Kind,
    Listing,
    Shares,
    ack_tag,
    decode_listing,
    encode_listing,
)
from qres_secagg.parameters import GraphParameters, Parameters, choose
from qres_secagg.session import Session

Make = Callable[..., Any]
LIAR = 2


def nobody_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many acks are enough, whoever lacks shares: the rule as it was."""
    monkeypatch.setattr(
        SessionMessages, "_near", lambda self, _members: np.zeros(len(self.session.roster), int)
    )


# ── played ────────────────────────────────────────────────────────────────────────────────────


def few(swarm: Any, monkeypatch: pytest.MonkeyPatch, held: int) -> list[int]:
    """The liar deals to so few that ``held`` nodes have its shares; those others."""
    asked = Client._holders_keys
    chosen = random.Random(1).sample([rank for rank in swarm.everybody if rank != LIAR], held - 1)

    def holders_keys(self: Client) -> dict[int, tuple[bytes, bytes]]:
        keys = asked(self)
        return {rank: keys[rank] for rank in chosen} if self._rank == LIAR else keys

    monkeypatch.setattr(Client, "_holders_keys", holders_keys)
    return chosen


def opens(swarm: Any, rank: int) -> bool:
    """Whether a node opens the exact sum."""
    try:
        (found,) = swarm.sums(rank)
    except SecaggError:
        return False
    return bool(np.array_equal(found.total, swarm.plain(found.members)))


class Ended(NamedTuple):
    """How a round ended."""

    listed: bool  # the liar
    all_open: bool  # every honest node that is there opens the sum
    liar_opens: bool
    blamed: bool  # anybody


def ended(swarm: Any, chosen: list[int], away: int) -> Ended:
    """After the inputs so many of the liar's holders fail, and the liar opens no share."""
    swarm.advertise()
    swarm.share()
    body, liar = swarm.boards[0].compose(), swarm.clients[LIAR]
    listed = LIAR in decode_listing(body)[1].members
    for rank in swarm.everybody:
        swarm.boards[rank].adopt(body)
        if rank in swarm.listed:
            swarm.clients[rank].adopt(body)
    seed = liar._seed
    swarm.mask()
    swarm.state()
    gone = {LIAR, *chosen[:away]}
    swarm.unmask([rank for rank in swarm.listed if rank not in gone])
    there = [rank for rank in swarm.listed if rank not in gone]
    all_open = all(opens(swarm, rank) for rank in there)
    if LIAR in swarm.boards[LIAR].decided()._awaited:
        swarm.boards[LIAR].decided()._secrets[LIAR] = seed  # what it knows anyway
    return Ended(listed, all_open, opens(swarm, LIAR), any(swarm.boards[0].drain()))


@pytest.mark.claim("C-secagg-34")
@pytest.mark.parametrize("away", [0, 1, 2])
@pytest.mark.parametrize("n", [13, 14])
def test_who_deals_to_few_is_not_listed_and_the_others_have_their_sum(
    make_swarm: Make, monkeypatch: pytest.MonkeyPatch, n: int, away: int
) -> None:
    plan = choose(n, 1, 2)
    swarm = make_swarm(n, t=plan.t, acks=plan.acks, corrupt=1)
    end = ended(swarm, few(swarm, monkeypatch, plan.acks), away)
    assert end == Ended(listed=False, all_open=True, liar_opens=True, blamed=False)


@pytest.mark.claim("C-secagg-34")
@pytest.mark.parametrize("n", [13, 14])
def test_who_leaves_out_as_many_as_may_be_is_listed_and_gains_nothing(
    make_swarm: Make, monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    """One honest node lacks its shares, as it could say of any dealer if it lied."""
    plan = choose(n, 1, 2)
    swarm = make_swarm(n, t=plan.t, acks=plan.acks, corrupt=1)
    end = ended(swarm, few(swarm, monkeypatch, n - 1), away=2)
    assert end == Ended(listed=True, all_open=True, liar_opens=True, blamed=False)


@pytest.mark.control("C-secagg-34")
@pytest.mark.parametrize(("away", "open_"), [(0, True), (1, False), (2, False)])
@pytest.mark.parametrize("n", [13, 14])
def test_where_so_many_acks_are_enough_one_that_is_away_leaves_the_sum_to_the_liar(
    make_swarm: Make, monkeypatch: pytest.MonkeyPatch, n: int, away: int, *, open_: bool
) -> None:
    nobody_is_missed(monkeypatch)
    plan = choose(n, 1, 2)
    swarm = make_swarm(n, t=plan.t, acks=plan.t + 1, corrupt=1)
    end = ended(swarm, few(swarm, monkeypatch, plan.t + 1), away)
    assert end == Ended(listed=True, all_open=open_, liar_opens=True, blamed=False)


@pytest.mark.parametrize("fails", [0, 1, 2])
def test_holders_that_ack_nobody_keep_no_dealer_out(make_swarm: Make, fails: int) -> None:
    """Some deal and fail before they ack, and the liar acks nobody either, nor all but one."""
    for acked in ([], [0]):
        plan = choose(14, 1, 2)
        swarm = make_swarm(14, t=plan.t, acks=plan.acks, corrupt=1)
        swarm.advertise()
        swarm.send(Kind.SHARE, {rank: swarm.clients[rank].share() for rank in swarm.everybody})
        failed = [5, 9][:fails]
        swarm.acknowledge([r for r in swarm.everybody if r not in {LIAR, *failed}])
        board = swarm.boards[0]
        tags = {rank: said(board, rank) for rank in acked}
        swarm.boards[0].acks.take(LIAR, Ack.of(tags))
        listed = set(decode_listing(board.compose())[1].members)
        assert set(swarm.everybody) - {LIAR, *failed} <= listed
        # One silent node may be a liar that is silent about honest dealers: it may stay.
        assert len(listed) == 14 - fails


def said(board: SessionMessages, rank: int) -> bytes:
    return ack_tag(next(iter(board.adverts[rank])), next(iter(board.shares[rank])))


# ── every matrix of acks ──────────────────────────────────────────────────────────────────────


def heard(
    n: int, plan: GraphParameters, corrupt: int, acks: Mapping[int, Iterable[int]]
) -> SessionMessages:
    """A node that heard of dealings by all and of these acks, by holder."""
    parameters = Parameters(
        dimension=3, k=plan.k, t=plan.t, acks=plan.acks, corrupt=corrupt,
        min_survivors=max(3, corrupt + 2), bound=1000, summands=n,
    )  # fmt: skip
    board = SessionMessages(Session("acks", 1, bytes(32), make_node_ids(n), parameters))
    for rank in range(n):
        name, key = rank.to_bytes(32, "little"), (b"c%5d" % rank, b"m%5d" % rank)
        board.adverts[rank] = {name: Advert(*key)}
        holders = board.topology.holders[rank]
        board.shares[rank] = {name: Shares(b"", (b"", b""), holders, b"", b"")}
    for holder, dealers in acks.items():
        near = board.topology.holders[holder]
        tags = {rank: said(board, rank) for rank in dealers if rank in near}
        board.acks.take(holder, Ack.of(tags))
    return board


def breaks(board: SessionMessages, acks: Mapping[int, Iterable[int]], listed: set[int]) -> bool:
    """The rule in its own words, as an oracle: whether a list breaks it."""
    parameters = board.session.parameters
    for dealer in listed:
        holders = listed.intersection(board.topology.holders[dealer])
        found = {holder for holder in holders if dealer in acks.get(holder, ())}
        if 1 + len(found) < parameters.acks:
            return True
        if parameters.corrupt and len(holders - found) > parameters.corrupt:
            return True
    return len(listed) < max(parameters.min_survivors, board.quorum)


def list_of(board: SessionMessages, ranks: Iterable[int]) -> bytes:
    names = {r: (next(iter(board.adverts[r])), next(iter(board.shares[r]))) for r in sorted(ranks)}
    return encode_listing(board.session.sid, Listing(names))


@attrs.frozen
class Matrix:
    """Who acked whom."""

    n: int
    corrupt: int
    dropped: int
    liars: frozenset[int]
    away: frozenset[int]  # honest nodes that dealt, and acked some or nobody
    acks: Mapping[int, frozenset[int]]  # by holder

    @property
    def honest(self) -> set[int]:
        return set(range(self.n)) - self.liars - self.away


@st.composite
def matrices(draw: st.DrawFn) -> Matrix:
    """As few or as many as may be lie about everything, and others fail before they ack."""
    corrupt, dropped = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    least = next(n for n in range(4, 64) if can(n, corrupt, dropped))
    n = draw(st.integers(least, least + 12))
    order = draw(st.permutations(range(n)))
    liars = frozenset(order[: draw(st.integers(0, corrupt))])
    fails = draw(st.integers(0, dropped))
    away = frozenset(order[corrupt : corrupt + fails])
    rng = random.Random(draw(st.integers(0, 2**32)))
    acks: dict[int, frozenset[int]] = {}
    for holder in range(n):
        others = set(range(n)) - {holder}
        if holder in away:
            acks[holder] = frozenset()
            continue
        true = others - liars  # and of a liar those that it dealt to
        some = {dealer for dealer in others if rng.random() < rng.choice((0.0, 0.3, 0.9, 1.0))}
        acks[holder] = frozenset(some if holder in liars else true | (some & liars))
    return Matrix(n, corrupt, dropped, liars, away, acks)


def can(n: int, corrupt: int, dropped: int) -> bool:
    return n - dropped >= max(2, (n + corrupt) // 2 + 1) + corrupt


@given(matrices())
def test_every_honest_dealer_is_listed_and_can_be_opened_and_all_take_the_list(m: Matrix) -> None:
    plan = choose(m.n, m.corrupt, m.dropped)
    # Liars that ack nobody count as nodes that are away, where the numbers leave no more room.
    assume(len(m.honest) >= max(plan.acks, (m.n + m.corrupt) // 2 + 1, m.corrupt + 2))
    leader = heard(m.n, plan, m.corrupt, m.acks)
    body = leader.compose()
    listed = set(decode_listing(body)[1].members)
    assert m.honest <= listed
    for _node in range(2):
        heard(m.n, plan, m.corrupt, m.acks).adopt(body)
    left = m.dropped - len(m.away)  # of the honest, so many may yet fail
    for dealer in listed:
        able = {rank for rank in m.honest if rank == dealer or dealer in m.acks[rank]}
        if m.n - m.dropped - 2 * m.corrupt >= plan.t:
            assert len(able) - left >= plan.t
        told = {rank for rank in listed - m.liars if rank == dealer or dealer in m.acks[rank]}
        assert len(told) >= plan.acks - m.corrupt, "whoever lists"


@given(matrices(), st.data())
def test_a_list_is_taken_if_it_keeps_the_rule_and_only_then(m: Matrix, data: st.DataObject) -> None:
    plan = choose(m.n, m.corrupt, m.dropped)
    if m.n > 20 and data.draw(st.booleans()):
        plan = GraphParameters(10, 7, 8)
    board = heard(m.n, plan, m.corrupt, m.acks)
    out = data.draw(st.sets(st.sampled_from(range(m.n)), max_size=m.n // 3))
    listed = set(range(m.n)) - out
    if breaks(board, m.acks, listed):
        with pytest.raises(SecaggError) as caught:
            board.adopt(list_of(board, listed))
        assert caught.value.reason in {Reason.LACKING, Reason.BAD_LIST}
    else:
        board.adopt(list_of(board, listed))
        assert board.listed().members.keys() == listed


def test_a_list_at_the_edge_of_the_rule_is_taken_and_one_past_it_is_not() -> None:
    """Of thirteen with two that may lie, two may lack shares of a dealer, and three may not."""
    n, plan = 13, GraphParameters(12, 8, 8)
    for lacking in (2, 3):
        acks = {h: {d for d in range(n) if d not in {h, *([0] * (h > n - 1 - lacking))}}
                for h in range(n)}  # fmt: skip
        board = heard(n, plan, 2, acks)
        assert breaks(board, acks, set(range(n))) is (lacking == 3)
        if lacking == 2:
            board.adopt(list_of(board, range(n)))
            continue
        with pytest.raises(SecaggError) as caught:
            board.adopt(list_of(board, range(n)))
        assert caught.value.reason is Reason.LACKING
        board.adopt(list_of(board, range(1, n)))
