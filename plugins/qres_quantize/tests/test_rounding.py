"""Random rounding: the mean is right, the size is small, and feedback cannot grow for ever."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from qres_quantize import BITS, rounded
from qres_quantize.rounding import most_level

from qres_core import fixed, packing

thorough = settings(deadline=None, max_examples=60)
Whole = NDArray[np.int64]


def key(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def normal(seed: int, size: int, deviation: float) -> Whole:
    found = np.rint(np.random.default_rng(seed).normal(0, deviation, size))
    return found.astype(np.int64)


@st.composite
def targets(draw: st.DrawFn) -> Whole:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = draw(st.integers(1, 3 * packing.BLOCK))
    most = draw(st.sampled_from([0, 1, 7, 1000, 2**20, 2**31 - 1, 2**32]))
    found = rng.integers(-most, most, size, endpoint=True)
    found[rng.random(size) < draw(st.sampled_from([0.0, 0.5, 0.99]))] //= 1000
    return found


@thorough
@given(targets(), st.sampled_from(BITS), st.integers(0, 99))
def test_every_block_has_few_levels_and_takes_few_bits(
    target: Whole, bits: int, number: int
) -> None:
    made = rounded(target, bits, key(number))
    assert made.dtype == np.int32
    assert made.shape == target.shape
    assert np.abs(made.astype(np.int64)).max() <= fixed.LIMIT
    for first in range(0, made.size, packing.BLOCK):
        block = made[first : first + packing.BLOCK].astype(np.int64)
        step = np.gcd.reduce(block)
        assert np.abs(block).max() <= most_level(bits) * step
        allowed = 5 + -(-block.size * bits // 8)
        assert len(packing.pack(block.astype(np.int32))) <= allowed


@pytest.mark.control("C-quantize-4")
@thorough
@given(targets(), st.sampled_from(BITS), st.integers(0, 99))
def test_the_same_key_rounds_alike_and_blocks_do_not_depend_on_those_behind(
    target: Whole, bits: int, number: int
) -> None:
    made = rounded(target, bits, key(number))
    assert np.array_equal(made, rounded(target, bits, key(number)))
    longer = np.concatenate([target, np.ones(packing.BLOCK - target.size % packing.BLOCK)])
    again = rounded(longer.astype(np.int64), bits, key(number))
    whole = target.size // packing.BLOCK * packing.BLOCK
    assert np.array_equal(made[:whole], again[:whole])


@pytest.mark.control("C-quantize-3")
def test_another_key_rounds_otherwise() -> None:
    target = normal(1, 5000, 10_000)
    makes = {rounded(target, 4, key(number)).tobytes() for number in range(20)}
    assert len(makes) == 20


@pytest.mark.claim("C-quantize-3")
@pytest.mark.parametrize("bits", [8, 4])
def test_the_mean_over_the_keys_is_the_target(bits: int) -> None:
    """Within six deviations of the mean of so many draws."""
    target, draws = normal(2, 600, 1000), 600
    made = np.stack([rounded(target, bits, key(number)) for number in range(draws)])
    step = 2 * np.abs(target).max() / most_level(bits)
    off = np.abs(made.mean(axis=0) - target)
    assert off.max() < 6 * step / np.sqrt(4 * draws)
    assert abs(float((made - target).mean())) < 6 * step / np.sqrt(4 * draws * target.size)


def test_numbers_that_fit_are_not_touched() -> None:
    target = np.arange(-7, 8, dtype=np.int64)
    for factor in (1, 3, 10_000):
        assert np.array_equal(rounded(target * factor, 4, key(0)), target * factor)


@pytest.mark.parametrize("extreme", [fixed.LIMIT, -fixed.LIMIT, 2 * fixed.LIMIT, -(2**33)])
@pytest.mark.parametrize("bits", BITS)
def test_the_largest_numbers_stay_on_the_grid(bits: int, extreme: int) -> None:
    target = np.array([extreme, 0, extreme // 2, -extreme], dtype=np.int64)
    made = rounded(target, bits, key(3)).astype(np.int64)
    assert np.abs(made).max() <= fixed.LIMIT
    assert abs(int(made[0])) > 0.8 * fixed.LIMIT or bits == 2


def awkward(kind: str, seed: int) -> Whole:
    """Blocks of different shapes."""
    rng, size = np.random.default_rng(seed), 4 * packing.BLOCK
    if kind == "normal":
        return normal(seed, size, 10_000)
    if kind == "spike":
        found = rng.integers(-600, 601, size)
        found[:: packing.BLOCK] = 10_000
        return found
    if kind == "equal":
        return np.full(size, 7777, dtype=np.int64)
    return np.rint(rng.laplace(0, 5_000, size)).astype(np.int64)


@pytest.mark.parametrize("kind", ["normal", "spike", "equal", "laplace"])
@pytest.mark.parametrize("bits", BITS)
def test_rounding_takes_away_less_than_there_is(bits: int, kind: str) -> None:
    """Else feedback would grow without end. On average, over keys."""
    for seed in range(3):
        target = awkward(kind, seed)
        lost = [
            float(((rounded(target, bits, key(number)) - target).astype(np.float64) ** 2).sum())
            for number in range(8)
        ]
        assert np.mean(lost) < 0.95 * float((target.astype(np.float64) ** 2).sum())


def test_without_cutting_two_bits_would_take_away_more_than_there_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The control of the test above: levels that always reach as far as the largest number."""
    monkeypatch.setattr("qres_quantize.rounding._REACHES", {2: (64,)})
    target = awkward("normal", 0)
    lost = ((rounded(target, 2, key(0)) - target).astype(np.float64) ** 2).sum()
    assert lost > (target.astype(np.float64) ** 2).sum()


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("kind", ["normal", "spike", "equal", "laplace"])
def test_what_is_fed_back_stays_small(bits: int, kind: str) -> None:
    """Of a constant update for many rounds; so the mean of what is sent comes to the update."""
    update, left = awkward(kind, 5), np.zeros(4 * packing.BLOCK, dtype=np.int64)
    total = np.zeros_like(left)
    length = np.linalg.norm(update)
    for number in range(100):
        made = rounded(update + left, bits, key(number)).astype(np.int64)
        left = update + left - made
        total += made
        assert np.linalg.norm(left) < (40 if bits == 2 else 1) * length
    assert np.array_equal(total + left, 100 * update)
