"""Shards, their committees and the tree over them, against what the page promises."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qres_core.swarm.merkle import leaf_hash, merkle_path, merkle_root, proves_leaf
from qres_core.swarm.shards import ShardPlan, joined
from qres_core.testing import make_node_ids

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
    assert [made.octets(index) for index in range(len(made))] == [4 * (b - a) for a, b in spans]
    vector = np.random.default_rng(d).integers(-(2**31), 2**31, d, dtype=np.int64).astype(np.int32)
    cut = made.cut(vector)
    assert joined(cut.shards).tolist() == vector.tolist()
    assert cut.root == merkle_root([leaf_hash(bytes(shard)) for shard in cut.shards])
    for index, shard in enumerate(cut.shards):
        leaf = leaf_hash(shard)
        assert proves_leaf(cut.root, leaf, index, len(made), cut.path(index))


@given(f=st.integers(0, 6), spare=st.integers(0, 20))
def test_every_member_has_2_f_plus_1_seats_and_serves_in_f_plus_1(f: int, spare: int) -> None:
    n = 3 * f + 1 + spare
    made = plan(n, f, 10 * n)
    assert len(made) == n
    seats: Counter[bytes] = Counter()
    serves: Counter[bytes] = Counter()
    for index, committee in enumerate(made.committees):
        assert len(set(committee)) == len(committee) == 2 * f + 1
        assert made.serving(index) == committee[: f + 1]
        seats.update(committee)
        serves.update(made.serving(index))
    assert seats == dict.fromkeys(make_node_ids(n), 2 * f + 1)
    assert serves == dict.fromkeys(make_node_ids(n), f + 1)
    for member in make_node_ids(n):
        mine = [index for index, committee in enumerate(made.committees) if member in committee]
        assert list(made.seats(member)) == mine
    assert made.seats(b"x" * 32) == ()


def test_wherever_the_liars_sit_each_committee_has_f_plus_1_honest_members() -> None:
    """Over every choice of two liars of seven: what availability and correctness rest on."""
    made = plan(7, 2, 70)
    for liars in itertools.combinations(make_node_ids(7), 2):
        for index, committee in enumerate(made.committees):
            assert len(set(committee) - set(liars)) >= made.enough
            assert set(made.serving(index)) - set(liars)


def test_the_order_is_the_documented_hash_and_another_head_gives_another() -> None:
    members = make_node_ids(9)
    tagged = [
        (hashlib.sha256(b"qres/committee/v1\0" + HEAD + item).digest(), item) for item in members
    ]
    ring = [item for _digest, item in sorted(tagged)]
    made = ShardPlan.of(HEAD, members[::-1], 2, 90)
    assert [committee[0] for committee in made.committees] == ring
    assert all(
        committee == tuple((ring + ring)[place : place + 5])
        for place, committee in enumerate(made.committees)
    )
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
    made = ShardPlan.of(HEAD, members, 2, 70, banned=members[:2])
    assert len(made) == 5
    assert not {*members[:2]} & {item for committee in made.committees for item in committee}
    crowded = ShardPlan.of(HEAD, members, 2, 70, banned=members[:3])
    assert {item for committee in crowded.committees for item in committee} == {*members}


@pytest.mark.parametrize("d", [1, 2, 5])
def test_fewer_coordinates_than_members_make_fewer_shards(d: int) -> None:
    made = plan(7, 2, d)
    assert len(made) == d
    assert all(made.octets(index) == 4 for index in range(d))
