from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qres_secagg.graph import beacon, circulant, permutation, split, topology
from qres_secagg.levels import finest

Make = Callable[..., Any]


@given(st.integers(3, 60), st.data(), st.binary(min_size=1, max_size=4))
def test_circulants_are_regular_symmetric_and_connected(
    n: int, data: st.DataObject, seed: bytes
) -> None:
    k = data.draw(st.sampled_from([*range(2, n - 1, 2), n - 1]))
    near = circulant(n, k, seed)
    for i, around in enumerate(near):
        assert len(around) == k
        assert i not in around
        assert list(around) == sorted(set(around))
        assert all(i in near[j] for j in around)
    reached, edge = {0}, {0}
    while edge:
        edge = {j for i in edge for j in near[i]} - reached
        reached |= edge
    assert len(reached) == n


@given(st.integers(3, 60), st.integers(0, 70), st.binary(min_size=1, max_size=4))
def test_groups_part_the_roster_and_none_is_small(n: int, size: int, seed: bytes) -> None:
    groups = split(n, size, seed)
    assert sorted(rank for group in groups for rank in group) == list(range(n))
    sizes = [len(group) for group in groups]
    assert max(sizes) - min(sizes) <= 1
    assert len(groups) == (max(1, n // size) if size else 1)


def test_the_beacon_reorders_everything(make_session: Make) -> None:
    seeds = {
        beacon(b"m" * 32, b"r" * 32, b"groups"),
        beacon(b"n" * 32, b"r" * 32, b"groups"),
        beacon(b"m" * 32, b"s" * 32, b"groups"),
        beacon(b"m" * 32, b"r" * 32, b"holders"),
    }
    assert len(seeds) == 4
    assert len({permutation(50, seed) for seed in seeds}) == 4
    session = make_session(20, k=6, t=5, group_size=5)
    first = topology(session)
    for change in ({"model_digest": b"n" * 32}, {"roster": (*session.roster[:-1], b"x" * 32)}):
        other = topology(attrs.evolve(session, **change))
        assert first.groups != other.groups
        assert first.holders != other.holders


def test_a_round_of_the_same_model_is_no_new_draw(make_session: Make) -> None:
    rounds = [make_session(20, k=6, t=5, group_size=5, number=number) for number in range(50)]
    again = attrs.evolve(rounds[0], head=b"h" * 32)
    assert len({topology(session) for session in (*rounds, again)}) == 1


def test_places_are_about_uniform() -> None:
    """Where rank 0 stands in 4000 permutations of 8: chi square with 7 degrees of freedom."""
    counts = [0] * 8
    for number in range(4000):
        counts[permutation(8, beacon(number.to_bytes(32), b"", b""))[0]] += 1
    assert sum((count - 500) ** 2 / 500 for count in counts) < 40


def test_one_group_masks_against_its_holders(make_session: Make) -> None:
    found = topology(make_session(20, k=6, t=5))
    assert found.peers == found.holders
    assert not found.complete
    assert topology(make_session(8)).complete


def test_groups_mask_within_and_share_over_the_swarm(make_session: Make) -> None:
    found = topology(make_session(20, k=6, t=5, group_size=5))
    assert len(found.groups) == 4
    assert found.complete
    for rank in range(20):
        group = found.groups[found.group_of[rank]]
        assert {rank, *found.peers[rank]} == set(group)
    assert found.holders == topology(make_session(20, k=6, t=5)).holders


@pytest.mark.parametrize(("size", "counts"), [(12, (2, 4, 8, 8)), (0, (1, 2, 4, 8))])
def test_levels_halve_groups_down_to_the_least(
    make_session: Make, size: int, counts: tuple[int, ...]
) -> None:
    numbers = {"k": 6, "t": 5, "group_size": size, "min_survivors": 3}
    found = [topology(make_session(24, level=level, **numbers)) for level in range(4)]
    assert tuple(len(item.groups) for item in found) == counts


@given(
    st.integers(3, 60),
    st.integers(0, 30),
    st.integers(1, 8),
    st.integers(0, 5),
    st.binary(max_size=4),
)
def test_every_group_of_a_level_lies_within_one_of_the_level_before(
    n: int, size: int, least: int, level: int, seed: bytes
) -> None:
    before = [set(group) for group in split(n, size, seed, level=level, least=least)]
    after = split(n, size, seed, level=level + 1, least=least)
    assert sorted(rank for group in after for rank in group) == list(range(n))
    assert all(any(set(group) <= outer for outer in before) for group in after)
    assert min(map(len, after)) >= min(least, *map(len, before))
    if level >= finest(size=size, least=least, nodes=n):
        assert len(after) == len(before)
