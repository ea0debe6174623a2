"""From the grid into the ring and back."""

from __future__ import annotations

from fractions import Fraction

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qres_secagg.levels import finest, group_sizes
from qres_secagg.parameters import Parameters
from qres_secagg.ring import incoming, masked_under, mean, outgoing, weighted

from qres_core import Companion
from qres_core.errors import ValueRefusedError


def parameters(ring: int, bound: int = 1000, noise: int = 0) -> Parameters:
    return Parameters(
        dimension=3,
        k=4,
        t=3,
        acks=3,
        corrupt=0,
        min_survivors=3,
        bound=bound,
        summands=5,
        noise=noise,
        ring_bits=ring,
    )


@given(
    sums=st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=20),
    weight=st.integers(1, 2**30),
)
def test_means_are_rounded_half_to_even_and_held_on_the_grid(sums: list[int], weight: int) -> None:
    row, over = mean(np.array(sums, dtype=np.int64), weight)
    exact = [round(Fraction(item, weight)) for item in sums]
    limit = 2**31 - 1
    assert row.tolist() == [max(-limit, min(limit, item)) for item in exact]
    assert over == sum(abs(item) > limit for item in exact)


@pytest.mark.parametrize("ring", [32, 64])
@given(values=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=9))
def test_ring_elements_travel_unchanged(ring: int, values: list[int]) -> None:
    kind = np.uint32 if ring == 32 else np.uint64
    masked = np.array([value % 2**ring for value in values], dtype=kind)
    vector, beside = outgoing(masked, b"L" * 32)
    assert vector.dtype == np.int32
    assert len(beside.body) == 32 + (4 * len(values) if ring == 64 else 0)
    assert masked_under({"secagg": beside}) == b"L" * 32
    shape = attrs.evolve(parameters(ring), dimension=len(values))
    back, is_right = incoming(vector, {"secagg": beside}, shape)
    assert is_right
    assert np.array_equal(back, masked)
    for start in range(len(values)):  # a range of them is that range
        back, is_right = incoming(vector[start:], {"secagg": beside}, shape, start)
        assert is_right
        assert np.array_equal(back, masked[start:])


@pytest.mark.parametrize(
    "beside",
    [None, Companion(bytes(11)), Companion(bytes(32 + 11)), Companion.of([1] * 11, 2**32)],
)
def test_high_words_that_are_missing_or_of_another_size_are_zeros(
    beside: Companion | None,
) -> None:
    companions = {} if beside is None else {"secagg": beside}
    values, is_right = incoming(np.int32([1, -1, 2]), companions, parameters(64))
    assert not is_right
    assert values.tolist() == [1, 2**32 - 1, 2]


@pytest.mark.parametrize("beside", [None, Companion(bytes(31)), Companion.of([1] * 32, 200)])
def test_a_contribution_that_names_no_list_was_masked_under_none(beside: Companion | None) -> None:
    assert masked_under({} if beside is None else {"secagg": beside}) == b""


@pytest.mark.parametrize("ring", [32, 64])
@pytest.mark.parametrize(("weight", "limit"), [(1, 1100), (10, 1010), (200, 1000)])
def test_noise_has_the_headroom_on_top_of_the_bound(ring: int, weight: int, limit: int) -> None:
    numbers = parameters(ring, bound=1000 * weight, noise=100)
    row = np.array([limit, -limit, 0], np.int32)
    assert weighted(row, weight, numbers, 1000).tolist() == [limit * weight, -limit * weight, 0]
    with pytest.raises(ValueRefusedError):
        weighted(row + np.int32(1), weight, numbers, 1000)
    with pytest.raises(ValueRefusedError):
        weighted(row - np.int32(1), weight, numbers, 1000)


def test_the_least_number_of_the_grid_is_refused_like_any_other() -> None:
    row = np.array([-(2**31), 0, 0], np.int32)
    with pytest.raises(ValueRefusedError):
        weighted(row, 1, parameters(64, bound=2**31 - 1), 2**31 - 1)


@given(st.integers(3, 3000), st.integers(3, 200))
def test_groups_are_as_large_as_they_are_said_to_be(nodes: int, size: int) -> None:
    from qres_secagg.graph import split  # noqa: PLC0415

    groups = split(nodes, size, b"seed")
    assert sorted(map(len, groups), reverse=True) == list(group_sizes(nodes, size))


@pytest.mark.parametrize(
    ("size", "least", "nodes", "level"),
    [
        (0, 8, 100, 3),
        (0, 6, 100, 4),
        (0, 8, 8, 0),
        (16, 8, 100, 1),
        (8, 8, 100, 0),
        (0, 50, 100, 1),
    ],
)
def test_halving_ends_at_the_least_size(size: int, least: int, nodes: int, level: int) -> None:
    assert finest(size=size, least=least, nodes=nodes) == level
