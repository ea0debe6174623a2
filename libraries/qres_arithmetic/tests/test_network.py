"""Sorting networks against the zero-one principle: what sorts all bits sorts everything."""

from __future__ import annotations

import random

import numpy as np
import pytest
from qres_arithmetic.network import BLOCK, batcher, merges, pruned, selection


def _all_bits(n: int) -> np.ndarray:
    """Every vector of n zeros and ones, one a column."""
    return (np.arange(2**n)[None, :] >> np.arange(n)[:, None]) & 1


@pytest.mark.parametrize("n", range(1, 15))
def test_batcher_sorts_all_zeros_and_ones(n: int) -> None:
    columns = _all_bits(n)
    expected = np.sort(columns, axis=0)
    for a, b in batcher(n):
        assert 0 <= a < b < n
        columns[[a, b]] = np.minimum(columns[a], columns[b]), np.maximum(columns[a], columns[b])
    assert np.array_equal(columns, expected)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 11])
def test_a_pruned_network_brings_what_is_wanted(n: int) -> None:
    for low in range(n):
        for high in range(low + 1, n + 1):
            columns = _all_bits(n)
            expected = np.sort(columns, axis=0)[low:high]
            for a, b, lesser, greater in selection(n, low, high):
                pair = np.minimum(columns[a], columns[b]), np.maximum(columns[a], columns[b])
                # What is said not to be read is spoilt here.
                columns[a] = pair[0] if lesser else 7
                columns[b] = pair[1] if greater else 7
            assert np.array_equal(columns[low:high], expected)


def test_pruning_keeps_the_order_and_drops_what_has_no_influence() -> None:
    network = batcher(16)
    kept = [(c.a, c.b) for c in pruned(network, 7, 9)]
    left = iter(network)
    assert all(comparator in left for comparator in kept)
    assert len(kept) < len(network)
    assert len(pruned(network, 0, 16)) == len(network)


@pytest.mark.parametrize("n", [1, 4, 5, 12, 13, 16, 21, 64, 100])
def test_merging_blocks_sorts_and_selects(n: int) -> None:
    random_numbers = random.Random(n)
    blocks = -(-n // BLOCK)
    for low, high in ((0, n), ((n - 1) // 2, n // 2 + 1), (n // 5, n - n // 5), (0, 1), (n - 1, n)):
        for _ in range(20):
            values = [random_numbers.randrange(n) for _ in range(n)]
            places = [*values, *[n] * (BLOCK * blocks - n)]
            for block in range(blocks):
                first = BLOCK * block
                places[first : first + BLOCK] = sorted(places[first : first + BLOCK])
            for a, b in (merges(n, low, high) * BLOCK).tolist():
                merged = sorted(places[a : a + BLOCK] + places[b : b + BLOCK])
                places[a : a + BLOCK], places[b : b + BLOCK] = merged[:BLOCK], merged[BLOCK:]
            assert places[low:high] == sorted(values)[low:high]


def test_the_cached_network_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        merges(9, 0, 9)[0, 0] = 5
