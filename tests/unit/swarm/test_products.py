"""Exact inner products and their bytes, against Python's integers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qres_lab.testing import make_updates

from qres_core import Updates
from qres_core.contract.products import inner_products
from qres_core.errors import ValueRefusedError
from qres_core.swarm.shards.products import encode_products, products_bytes, summed_products

Rows = np.ndarray[tuple[int, int], np.dtype[np.int32]]

ENDS = np.array([-(2**31), 2**31 - 1, 0, -1, 1, 2**16, -(2**16)], dtype=np.int64)
REACHES = st.sampled_from([2, 2**12, 2**31])
"""Rows with small numbers are multiplied in another way than rows with large ones."""


def drawn(n: int, d: int, seed: int, reach: int = 2**31) -> Rows:
    rng = np.random.default_rng(seed)
    wide = rng.integers(-reach, reach, (n, d))
    if reach == 2**31:
        wide[rng.random((n, d)) < 0.4] = rng.choice(ENDS)
    return wide.astype(np.int32)


def by_one(rows: Rows) -> list[list[int]]:
    """The oracle: one number after the other."""
    lists = rows.tolist()
    return [[sum(a * b for a, b in zip(x, y, strict=True)) for y in lists] for x in lists]


def added_by_one(encoded: Sequence[bytes], n: int) -> list[list[int]]:
    """The oracle: each number is read and added by itself."""
    total = [[0] * n for _ in range(n)]
    for octets in encoded:
        width, place = octets[0], 1
        for row in range(n):
            for column in range(row + 1):
                value = int.from_bytes(octets[place : place + width], "little", signed=True)
                place += width
                total[row][column] += value
                total[column][row] += value if column < row else 0
        assert place == len(octets)
    return total


@given(n=st.integers(1, 8), d=st.integers(1, 30), seed=st.integers(0, 10**6), reach=REACHES)
def test_products_are_those_of_integers(n: int, d: int, seed: int, reach: int) -> None:
    rows = drawn(n, d, seed, reach)
    assert inner_products(rows).tolist() == by_one(rows)


def test_blocks_of_columns_that_are_small_and_large_add_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("qres_core.contract.products._BLOCK", 12)
    rows = np.concatenate([drawn(3, 9, 1, 2), drawn(3, 9, 2), drawn(3, 3, 3, 2**12)], axis=1)
    assert inner_products(rows).tolist() == by_one(rows)


@given(
    n=st.integers(1, 8),
    d=st.integers(1, 30),
    seed=st.integers(0, 10**6),
    cuts=st.integers(1, 30),
    reach=REACHES,
)
def test_products_of_ranges_add_up_to_those_of_the_whole(
    n: int, d: int, seed: int, cuts: int, reach: int
) -> None:
    rows = drawn(n, d, seed, reach)
    cuts = min(cuts, d)
    ranges = [rows[:, i * d // cuts : (i + 1) * d // cuts] for i in range(cuts)]
    encoded = [encode_products(part) for part in ranges]
    assert max(map(len, encoded)) <= products_bytes(n)
    assert summed_products(encoded).tolist() == by_one(rows) == added_by_one(encoded, n)


def test_the_largest_sums_are_exact_over_blocks() -> None:
    d = 2**21 + 3
    rows = np.full((2, d), -(2**31), dtype=np.int32)
    rows[1] = 2**31 - 1
    low, high = 2**31, 2**31 - 1
    expected = [[d * low * low, -d * low * high], [-d * low * high, d * high * high]]
    assert inner_products(rows).tolist() == expected
    assert summed_products([encode_products(rows)]).tolist() == expected


def test_the_largest_sums_of_any_vectors_fit_their_bytes() -> None:
    """2**32 coordinates of -2**31, and as many of 2**31: said to be of 4,096 shards."""
    part = 2**94 // 2**12
    values = [part, -part, part]  # below the diagonal, row by row
    octets = bytes([11]) + b"".join(value.to_bytes(11, "little", signed=True) for value in values)
    assert len(octets) <= products_bytes(2)
    assert summed_products([octets] * 2**12).tolist() == [[2**94, -(2**94)], [-(2**94), 2**94]]
    whole = bytes([12]) + b"".join(
        (2**12 * it).to_bytes(12, "little", signed=True) for it in values
    )
    assert len(whole) == products_bytes(2)
    assert summed_products([whole]).tolist() == [[2**94, -(2**94)], [-(2**94), 2**94]]


@pytest.mark.parametrize(
    "encoded",
    [
        [b""],
        [b"\0"],
        [bytes([1])],
        [bytes([2, 1, 0, 1])],
        [bytes([1, 1, 1])],  # two numbers are no triangle
        [bytes([13, *range(13)])],
        [bytes([1, 1]), bytes([1, 1, 1, 1])],
    ],
    ids=repr,
)
def test_bytes_of_which_nothing_adds_up_are_refused(encoded: list[bytes]) -> None:
    """More liars than a committee withstands could have them settled; a node goes on."""
    with pytest.raises(ValueRefusedError) as caught:
        summed_products(encoded)
    assert caught.value.code == "QRES-E502"


def test_updates_have_products_whether_given_or_not() -> None:
    whole = make_updates([[1, 2, 3], [4, 5, 6]])
    products = whole.inner_products()
    assert products.tolist() == [[14, 32], [32, 77]]
    part = Updates(whole.vectors[:, :1], whole.senders, whole.weights, products=products)
    assert part.inner_products() is products
