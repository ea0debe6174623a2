"""Krum from inner products: the rows and the bits that whole updates give."""

from __future__ import annotations

import itertools

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from qres_krum import Bulyan, Krum
from qres_lab.testing import make_updates

from qres_core import Reads, Updates


def multiplied(rows: NDArray[np.int64]) -> NDArray[np.object_]:
    exact = rows.astype(np.object_)
    products: NDArray[np.object_] = exact @ exact.T
    return products


def ranges(rows: NDArray[np.int64], shards: int) -> list[Updates]:
    d = rows.shape[1]
    products = multiplied(rows)
    cuts = [index * d // shards for index in range(shards + 1)]
    parts = [rows[:, a:b] for a, b in itertools.pairwise(cuts)]
    return [attrs.evolve(make_updates(part), products=products) for part in parts]


@pytest.mark.parametrize(
    "rule", [Krum(f=2), Krum(f=2, select=3), Bulyan(f=1), Bulyan(f=0)], ids=repr
)
@given(n=st.integers(7, 12), seed=st.integers(0, 10**6), spread=st.sampled_from([2, 2**12, 2**31]))
def test_shards_with_products_give_the_bits_of_the_whole(
    rule: Krum | Bulyan, n: int, seed: int, spread: int
) -> None:
    """With a spread of 2 many scores are equal, so that the order of the senders decides."""
    rows = np.random.default_rng(seed).integers(-spread, spread, (n, 6))
    whole = rule.aggregate(make_updates(rows))
    for shards in range(1, 7):
        merged = [rule.aggregate(part) for part in ranges(rows, shards)]
        assert np.concatenate(merged).tolist() == whole.tolist()


def test_without_the_products_shards_choose_otherwise() -> None:
    """Control: each shard has another nearest row."""
    rows = np.random.default_rng(1).integers(-(2**20), 2**20, (9, 6))
    whole = Krum(f=2).aggregate(make_updates(rows))
    parts = [attrs.evolve(part, products=None) for part in ranges(rows, 6)]
    merged = [Krum(f=2).aggregate(part) for part in parts]
    assert np.concatenate(merged).tolist() != whole.tolist()


def test_it_says_so() -> None:
    for rule in (Krum(f=1), Bulyan(f=1)):
        assert rule.claims.reads is Reads.PRODUCTS
