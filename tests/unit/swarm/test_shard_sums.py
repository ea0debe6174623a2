"""Sums of shards as bytes: each comes back, and what are no sums are none."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qres_core.swarm.shards.sums import encode_sums, joined_sums, sums_bytes

GOOD = encode_sums(np.ones((1, 2), dtype=np.int64))


@given(
    rows=st.integers(1, 4),
    widths=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    bits=st.sampled_from([8, 31, 32, 62]),
    seed=st.integers(0, 99),
)
def test_the_sums_of_all_shards_come_back(
    rows: int, widths: list[int], bits: int, seed: int
) -> None:
    d = sum(widths)
    most = 2**bits
    sums = np.random.default_rng(seed).integers(-most, most, (rows, d))
    cuts = np.cumsum([0, *widths]).tolist()
    shards = [encode_sums(sums[:, start:stop]) for start, stop in pairwise(cuts)]
    for octets, width in zip(shards, widths, strict=True):
        assert len(octets) <= sums_bytes(rows, width)
    found = joined_sums(shards, widths, rows)
    assert found is not None
    assert found.dtype == np.int64
    assert np.array_equal(found, sums)
    assert not found.flags.writeable


@pytest.mark.parametrize(
    "shards",
    [
        [b"", b""],
        [bytes(4), bytes(4)],
        [GOOD, b"\x01\x00\x00\x00\x03\x12\x00"],
        [GOOD, GOOD[:-1]],
        [GOOD, encode_sums(np.ones((2, 2), dtype=np.int64))],
        [encode_sums(np.ones((9, 2), dtype=np.int64))] * 2,
        [b"\xff\xff\xff\xff\x00"] * 2,
    ],
    ids=["nothing", "no rows", "loose", "cut off", "other rows", "rows", "very many rows"],
)
def test_what_more_than_f_liars_settle_on_is_no_sums(shards: list[bytes]) -> None:
    assert joined_sums(shards, [2, 2], 8) is None
    assert joined_sums([GOOD, GOOD], [2, 2], 8) is not None, "control"


def test_sums_take_the_bits_that_they_need() -> None:
    sums = np.random.default_rng(0).integers(-(2**19), 2**19, (8, 4096))
    assert len(encode_sums(sums)) < 1.01 * sums.size * 20 / 8
    assert len(encode_sums(sums << 8)) < 1.02 * sums.size * 20 / 8
    assert len(encode_sums(sums << 16)) < 1.01 * sums.size * 36 / 8, "the step is in the lower half"
