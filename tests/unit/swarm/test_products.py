"""Exact inner products, against Python's integers."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from qres_core.swarm.products import (
    encode_products,
    inner_products,
    products_bytes,
    summed_products,
)

ENDS = np.array([-(2**31), 2**31 - 1, 0, -1, 1, 2**16, -(2**16)], dtype=np.int64)


def drawn(n: int, d: int, seed: int) -> np.ndarray[tuple[int, int], np.dtype[np.int32]]:
    rng = np.random.default_rng(seed)
    wide = rng.integers(-(2**31), 2**31, (n, d))
    wide[rng.random((n, d)) < 0.4] = rng.choice(ENDS)
    return wide.astype(np.int32)


@given(n=st.integers(1, 8), d=st.integers(1, 30), seed=st.integers(0, 10**6))
def test_products_are_those_of_integers(n: int, d: int, seed: int) -> None:
    rows = drawn(n, d, seed)
    lists = rows.tolist()
    expected = [[sum(a * b for a, b in zip(x, y, strict=True)) for y in lists] for x in lists]
    assert inner_products(rows).tolist() == expected


@given(
    n=st.integers(1, 8), d=st.integers(1, 30), seed=st.integers(0, 10**6), cuts=st.integers(1, 30)
)
def test_products_of_ranges_add_up_to_those_of_the_whole(
    n: int, d: int, seed: int, cuts: int
) -> None:
    rows = drawn(n, d, seed)
    cuts = min(cuts, d)
    ranges = [rows[:, i * d // cuts : (i + 1) * d // cuts] for i in range(cuts)]
    encoded = [encode_products(inner_products(part)) for part in ranges]
    assert max(map(len, encoded)) <= products_bytes(n)
    assert summed_products(encoded, n).tolist() == inner_products(rows).tolist()


def test_the_largest_sums_are_exact_over_blocks_and_fit_their_bytes() -> None:
    d = 2**21 + 3
    rows = np.full((2, d), -(2**31), dtype=np.int32)
    rows[1] = 2**31 - 1
    low, high = 2**31, 2**31 - 1
    expected = [[d * low * low, -d * low * high], [-d * low * high, d * high * high]]
    assert inner_products(rows).tolist() == expected
    extreme = np.array([[2**94, -(2**94)], [-(2**94), 2**94]], dtype=np.object_)
    octets = encode_products(extreme)
    assert len(octets) <= products_bytes(2)
    assert summed_products([octets], 2).tolist() == extreme.tolist()
