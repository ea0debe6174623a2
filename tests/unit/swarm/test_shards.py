"""Shards, their committees and the tree over them, against what the page promises."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qres_lab.testing import make_node_ids

from qres_core import packing
from qres_core.errors import WireError
from qres_core.swarm.ledger.chain import Head
from qres_core.swarm.ledger.merkle import leaf_hash, merkle_path, merkle_root, proves_leaf
from qres_core.swarm.ledger.roster import Roster
from qres_core.swarm.shards.committees import ShardPlan, pack_shard, unpack_shard
from qres_core.swarm.sync.pace import MAX_EARLY

HEAD = bytes(range(32))
INPUTS = (
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
)  # fmt: skip
ROOTS = (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)
"""The leaves and roots that the implementations of Certificate Transparency are tested with."""


def test_the_tree_is_that_of_certificate_transparency() -> None:
    leaves = [leaf_hash(bytes.fromhex(text)) for text in INPUTS]
    found = [merkle_root(leaves[:size]).hex() for size in range(1, len(leaves) + 1)]
    assert found == list(ROOTS)


@given(size=st.integers(1, 70), data=st.data())
def test_a_path_proves_its_leaf_at_its_place_and_nothing_else(
    size: int, data: st.DataObject
) -> None:
    leaves = [leaf_hash(bytes([number])) for number in range(size)]
    root = merkle_root(leaves)
    index = data.draw(st.integers(0, size - 1))
    path = merkle_path(leaves, index)
    assert proves_leaf(root, leaves[index], index, size, path)
    assert not proves_leaf(root, leaf_hash(b"another"), index, size, path)
    assert not proves_leaf(root, leaves[index], index, size, (*path, bytes(32)))
    assert not proves_leaf(bytes(32), leaves[index], index, size, path)
    other = data.draw(st.integers(0, size - 1))
    if other != index:
        assert not proves_leaf(root, leaves[index], other, size, path)
    if path:
        place = data.draw(st.integers(0, len(path) - 1))
        bent = (*path[:place], bytes(32), *path[place + 1 :])
        assert not proves_leaf(root, leaves[index], index, size, bent)


def test_a_node_is_no_leaf() -> None:
    """Whoever passes two digests off as a shard's octets must not come to the same root."""
    left, right = leaf_hash(b"left"), leaf_hash(b"right")
    assert leaf_hash(left + right) != merkle_root([left, right])


def plan(n: int, f: int, d: int, shards: int | None = None, head: bytes = HEAD) -> ShardPlan:
    return ShardPlan.of(head, make_node_ids(n), f, d, shards=shards)


@given(
    f=st.integers(0, 5), spare=st.integers(0, 12), d=st.integers(1, 300), shards=st.integers(1, 40)
)
def test_shards_cover_all_coordinates_once_and_are_even(
    f: int, spare: int, d: int, shards: int
) -> None:
    made = plan(3 * f + 1 + spare, f, d, shards)
    spans = [made.bounds(index) for index in range(len(made))]
    assert [place for start, stop in spans for place in range(start, stop)] == list(range(d))
    widths = {stop - start for start, stop in spans}
    assert max(widths) - min(widths) <= 1
    assert min(widths) >= 1
    assert [made.width(index) for index in range(len(made))] == [b - a for a, b in spans]
    vector = np.random.default_rng(d).integers(-(2**31), 2**31, d, dtype=np.int64).astype(np.int32)
    cut = made.cut(vector)
    assert made.joined(cut.shards).tolist() == vector.tolist()
    assert cut.root == merkle_root([leaf_hash(bytes(shard)) for shard in cut.shards])
    for index, shard in enumerate(cut.shards):
        leaf = leaf_hash(shard)
        assert proves_leaf(cut.root, leaf, index, len(made), cut.path(index))


@given(f=st.integers(0, 6), spare=st.integers(0, 20))
def test_every_member_has_a_seat_and_serves_first_for_one_shard_at_most(f: int, spare: int) -> None:
    n = 3 * f + 1 + spare
    made = plan(n, f, 10 * n)
    assert len(made) == n // (f + 1)
    seats: Counter[bytes] = Counter()
    serves: Counter[bytes] = Counter()
    for index, committee in enumerate(made.committees):
        assert len(set(committee)) == len(committee) == 2 * f + 1
        assert made.serving(index) == committee[: f + 1]
        seats.update(committee)
        serves.update(made.serving(index))
    assert seats.keys() == {*make_node_ids(n)}
    assert max(seats.values()) <= 2
    assert set(serves.values()) == {1}
    assert len(serves) == len(made) * (f + 1) > n - (f + 1)
    for member in make_node_ids(n):
        mine = [index for index, committee in enumerate(made.committees) if member in committee]
        assert list(made.seats(member)) == mine
    assert made.seats(b"x" * 32) == ()


def test_wherever_the_liars_sit_each_committee_has_f_plus_1_honest_members() -> None:
    """Over every choice of two liars of seven: what availability and correctness rest on."""
    made = plan(7, 2, 70, shards=7)
    for liars in itertools.combinations(make_node_ids(7), 2):
        for index, committee in enumerate(made.committees):
            assert len(set(committee) - set(liars)) >= made.enough
            assert set(made.serving(index)) - set(liars)


def test_reserves_leave_f_plus_1_members_whoever_the_swarm_goes_on_without() -> None:
    """Over every choice of four silent members of nine, of which the quorum needs five."""
    members = make_node_ids(9)
    made = ShardPlan.of(HEAD, members, 1, 90, silent=4)
    bare = ShardPlan.of(HEAD, members, 1, 90)
    assert (len(made), made.enough) == (len(bare), bare.enough) == (4, 2)
    left = []
    for silent in itertools.combinations(members, 4):
        assert all(len(set(them) - set(silent)) >= made.enough for them in made.committees)
        left.append(min(len(set(them) - set(silent)) for them in bare.committees))
    assert min(left) == 0, "control: committees without reserves would all be silent"
    for index, committee in enumerate(bare.committees):
        assert made.serving(index) == bare.serving(index) == committee[:2]
        assert made.serving(index, 1) == committee
        assert made.serving(index, 2) == made.committees[index][:6] == made.committees[index]
        assert bare.serving(index, 40) == committee


@given(f=st.integers(0, 6), spare=st.integers(0, 20), below=st.integers(0, 20))
def test_reserves_follow_from_the_quorum_and_drawn_committees_have_none(
    f: int, spare: int, below: int
) -> None:
    n = 3 * f + 1 + spare
    quorum = max(1, n - f - below)
    roster = Roster(tuple(sorted(make_node_ids(n))), f, quorum)
    made = ShardPlan.at(Head.first("s", bytes(32), roster, bytes(32)), 10 * n)
    silent = n - max(quorum, roster.threshold)  # votes need their own quorum
    assert {len(them) for them in made.committees} == {max(2 * f, silent + f) + 1}
    assert made.enough == f + 1
    drawn = ShardPlan.of(HEAD, make_node_ids(n), f, 10 * n, committee=2 * f + 1, silent=silent)
    assert {len(them) for them in drawn.committees} == {2 * f + 1}


def test_the_order_is_the_documented_hash_and_another_head_gives_another() -> None:
    members = make_node_ids(9)
    tagged = [
        (hashlib.sha256(b"qres/committee/v1\0" + HEAD + item).digest(), item) for item in members
    ]
    ring = [item for _digest, item in sorted(tagged)]
    made = ShardPlan.of(HEAD, members[::-1], 2, 90)
    assert made.committees == tuple(tuple((ring + ring)[at : at + 5]) for at in (0, 3, 6))
    assert ShardPlan.of(bytes(32), members, 2, 90) != made


def test_no_place_in_the_order_is_anybodys_more_often() -> None:
    """The first to serve for shard 0, over many heads: near even, by a chi-squared bound."""
    members, heads = make_node_ids(10), 4000
    found = Counter(
        ShardPlan.of(number.to_bytes(32, "big"), members, 3, 10).committees[0][0]
        for number in range(heads)
    )
    expected = heads / len(members)
    statistic = sum((found[member] - expected) ** 2 / expected for member in members)
    assert statistic < 33.7  # of 9 degrees of freedom, exceeded once in 10,000


def test_banned_members_have_no_seats_unless_too_few_others_are_left() -> None:
    members = make_node_ids(7)
    made = ShardPlan.of(HEAD, members, 2, 70, banned=members[:2], shards=5)
    assert len(made) == 5
    assert not {*members[:2]} & {item for committee in made.committees for item in committee}
    crowded = ShardPlan.of(HEAD, members, 2, 70, banned=members[:3])
    assert {item for committee in crowded.committees for item in committee} == {*members}


@pytest.mark.parametrize("f", [1, 14, 40, 333])
def test_a_node_that_is_behind_keeps_all_that_a_sender_gives_it(f: int) -> None:
    """It keeps so many messages of each sender. Of ``n`` shards it would lose some."""
    members = 3 * f + 1 + f // 2
    made = plan(members, f, 10 * members)
    most = max(len(made.seats(member)) for member in make_node_ids(members))
    assert most <= 2 < MAX_EARLY - 8  # beside the header, the words and the votes
    many = plan(members, f, 10 * members, shards=members)
    assert (len(many.seats(make_node_ids(1)[0])) > MAX_EARLY) is (f >= 8)


def test_fewer_serve_first_where_not_all_of_them_can_be_liars() -> None:
    """So there are more shards, and each node downloads fewer vectors."""
    made = ShardPlan.of(HEAD, make_node_ids(100), 20, 1000, committee=9, first=2)
    assert (len(made), made.enough, made.first) == (50, 5, 2)
    committee = made.committees[7]
    assert [len(made.serving(7, turn)) for turn in (0, 1, 2)] == [2, 9, 9]
    assert made.suffices(7, committee[:2])
    assert not made.suffices(7, committee[1:5])
    assert made.suffices(7, committee[1:6])
    assert not made.suffices(8, committee[:2])
    roster = Roster(tuple(sorted(make_node_ids(1000))), 100, 900)
    head = Head.first("s", bytes(32), roster, bytes(32))
    drawn = ShardPlan.at(head, 10**4, 91)
    assert (len(drawn), drawn.enough, drawn.first) == (1000 // 26, 46, 26)
    bound = ShardPlan.at(head, 10**4)
    assert (bound.enough, bound.first) == (101, 101)


def test_a_committee_of_a_given_size_decides_by_its_majority_where_that_is_safe() -> None:
    made = ShardPlan.of(HEAD, make_node_ids(100), 20, 1000, committee=9)
    assert len(made) == 100 // 5
    assert {len(committee) for committee in made.committees} == {9}
    assert (made.enough, len(made.serving(0))) == (5, 5)
    for n, f, size in ((1000, 50, 57), (990, 50, 57), (700, 50, 101)):  # members leave
        roster = Roster(tuple(sorted(make_node_ids(n))), f, n - f)
        head = Head.first("s", bytes(32), roster, bytes(32))
        plan_of_head = ShardPlan.at(head, 10**4, 57)
        assert len(plan_of_head.committees[0]) == size
        assert ShardPlan.at(head, 10**4).enough == f + 1


@pytest.mark.parametrize("d", [1, 2, 3])
def test_fewer_coordinates_than_shards_make_fewer_shards(d: int) -> None:
    made = plan(12, 2, d)
    assert len(made) == d
    assert all(made.width(index) == 1 for index in range(d))


# ── bytes ─────────────────────────────────────────────────────────────────────────────────────────

NUMBERS = st.integers(-(2**31), 2**31 - 1) | st.integers(-9, 9)


@given(values=st.lists(NUMBERS, min_size=1, max_size=600), start=st.integers(0, 700))
def test_a_shard_comes_back_and_has_one_encoding(values: list[int], start: int) -> None:
    numbers = np.array(values, dtype=np.int32)
    octets = pack_shard(numbers, start)
    found = unpack_shard(octets, numbers.size, start)
    assert found.dtype == np.int32
    assert found.tolist() == values
    assert not found.flags.writeable
    lead = -start % packing.BLOCK
    assert octets == packing.pack(numbers[:lead]) + packing.pack(numbers[lead:])
    made = ShardPlan(start + numbers.size, ((),), 1)
    assert len(octets) <= made.most_bytes


@given(data=st.data(), width=st.integers(1, 600), start=st.integers(0, 700))
def test_no_bytes_are_anything_but_a_shard_or_refused(
    data: st.DataObject, width: int, start: int
) -> None:
    """And whatever is one is the encoding of what it says, so that it has one digest."""
    octets = bytearray(pack_shard(np.arange(width, dtype=np.int32) % 7, start))
    for place in data.draw(st.lists(st.integers(0, len(octets) - 1), max_size=2)):
        octets[place] ^= data.draw(st.integers(0, 255))
    bent = data.draw(
        st.sampled_from([bytes(octets), bytes(octets[:-1]), bytes(octets) + b"\0", b""])
    )
    with suppress(WireError):
        assert pack_shard(unpack_shard(bent, width, start), start) == bent


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_what_blocks_of_an_update_save_its_shards_save_too(bits: int) -> None:
    """Each block has a step of its own. Wherever shards are cut, their blocks are these."""
    rng, d = np.random.default_rng(bits), 10_007
    steps = np.repeat(rng.integers(2, 2**18, -(-d // packing.BLOCK)), packing.BLOCK)[:d]
    vector = (steps * rng.integers(1 - 2 ** (bits - 1), 2 ** (bits - 1), d)).astype(np.int32)
    made = plan(20, 2, d)
    shards = made.cut(vector).shards
    whole = len(packing.pack(vector))
    assert sum(map(len, shards)) <= whole + 10 * len(made)  # a block that is cut has two headers
    other = [packing.pack(made.unpack(index, octets)) for index, octets in enumerate(shards)]
    assert sum(map(len, other)) > 1.4 * whole, "control: blocks of its own have no steps"
