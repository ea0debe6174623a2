"""The sampler against the exact distribution, and against itself on every machine.

Keys are fixed, so nothing here is left to chance: a statistic that passes, passes always.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import math
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Final, cast

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from qres_dp.discrete_gaussian import (
    BASE,
    BLOCK,
    LARGEST_DEVIATION,
    DiscreteGaussian,
    Level,
    Table,
    cumulative,
    discrete_gaussian,
    exp_minus,
    split,
)
from qres_dp.randomness import Keystream

from qres_core.errors import ValueRefusedError

KEY: Final = bytes(range(32))
SAMPLES: Final = 400_000
DEVIATIONS: Final = (8.0, 9.5, 57.0, 500.0, 1024.0, 1025.0, 2072.25, 65536.0, 1000000.5, 2.0**22)


def weights(variance: float, low: int, high: int) -> float:
    """The sum of exp(-k**2 / (2 v)) for k in low..high.

    For wide distributions the integral from half a step before to half a step behind, which is
    within a factor of 1 ± 1 / (12 v) of it.
    """
    if variance > 10**7:
        wide = math.sqrt(2 * variance)
        ends = math.erf((high + 0.5) / wide) - math.erf((low - 0.5) / wide)
        return ends * math.sqrt(math.pi * variance / 2)
    k = np.arange(low, high + 1, dtype=np.float64)
    return float(np.exp(-k * k / (2 * variance)).sum())


def exact_bins(deviation: float, edges: list[int]) -> NDArray[np.float64]:
    """Probabilities of (-inf, e0], (e0, e1], …, (e_last, inf)."""
    far = math.ceil(12 * deviation)
    ends = [-far - 1, *edges, far]
    mass = [weights(deviation**2, low + 1, high) for low, high in itertools.pairwise(ends)]
    return np.array(mass) / sum(mass)


# ── the tables ────────────────────────────────────────────────────────────────────────────────


@given(st.fractions(0, 40))
@settings(max_examples=50)
def test_the_exponential_is_exact(exponent: Fraction) -> None:
    with localcontext(prec=140):
        wanted = (Decimal(-exponent.numerator) / Decimal(exponent.denominator)).exp()
        assert abs(exp_minus(exponent, 384) - wanted * 2**384) < 2**8


@pytest.mark.parametrize("variance", [Fraction(1, 4), Fraction(64), Fraction(100001, 7)])
def test_the_distribution_function_is_exact(variance: Fraction) -> None:
    table = cumulative(variance)
    reach = len(table) // 2
    with localcontext(prec=120):
        double = 2 * Decimal(variance.numerator) / Decimal(variance.denominator)
        mass = [(-(Decimal(k) ** 2) / double).exp() for k in range(-reach, reach + 1)]
        tail = (-(Decimal(reach + 1) ** 2) / double).exp() * 4  # of both sides
        total, below = sum(mass), Decimal(0)
        assert tail / total < Decimal(2) ** -255
        for entry, item in zip(table, mass, strict=True):
            below += item
            assert abs(entry - below / total * 2**256) < 4
    assert table[-1] == 2**256


@pytest.mark.claim("C-dp-2")
@pytest.mark.parametrize("variance", [Fraction(64), Fraction(1024**2), Fraction(777777, 10)])
@pytest.mark.parametrize("scale", [1, 3])
def test_every_cell_and_every_boundary_of_a_table_is_where_it_belongs(
    variance: Fraction, scale: int
) -> None:
    table, exact = Table(variance, scale), cumulative(variance)

    def outcome(point: int) -> int:
        return bisect.bisect_right(exact, point) - table.reach

    first = [outcome(cell << 240) for cell in range(2**16)]
    last = [outcome((cell + 1 << 240) - 1) for cell in range(2**16)]
    words: NDArray[np.uint16] = np.arange(2**16, dtype=np.uint16)
    decided = np.empty(2**16, dtype=np.int32)
    np.take(table._cells, words, out=decided, mode="clip")
    for cell in range(2**16):
        if decided[cell] != -(2**31):
            assert first[cell] == last[cell] == decided[cell] / scale
        else:
            assert first[cell] < last[cell] or exact[first[cell] + table.reach] >> 240 == cell
    drawn = np.empty(2**16, dtype=np.int32)
    table.draw(words, drawn, Keystream(KEY))
    for cell in range(2**16):
        assert first[cell] * scale <= drawn[cell] <= last[cell] * scale


class Script:
    """A stream whose bits were chosen."""

    def __init__(self, low: int) -> None:
        self.low, self.asked = low, 0

    def bits(self, count: int) -> int:
        assert count == 192
        self.asked += 1
        return self.low


@pytest.mark.claim("C-dp-2")
@pytest.mark.parametrize("shift", [-1, 0, 1])
@pytest.mark.parametrize("boundary", [0, 1, 80, 119, 200, 237])
def test_a_tie_is_resolved_to_the_last_bit(boundary: int, shift: int) -> None:
    variance = Fraction(64)
    table, exact = Table(variance), cumulative(variance)
    boundary = min(boundary, len(exact) - 2)
    point = max(0, exact[boundary] + shift)
    script = Script(point & (2**192 - 1))
    top = np.array([point >> 192], dtype=np.uint64)
    wanted = bisect.bisect_right(exact, point) - table.reach
    assert table.invert(top, cast("Keystream", script)).tolist() == [wanted]
    # Where several boundaries share their first 64 bits the bits must have been asked for.
    if point >> 192 == exact[boundary] >> 192:
        assert script.asked == 1


# ── the split of wide noise ───────────────────────────────────────────────────────────────────


def smoothing(levels: tuple[Level, ...]) -> float:
    """The least smoothing parameter of the sums, infinite for a single part.

    Two parts of variances ``a`` and ``k**2 b`` add up to a discrete Gaussian within a factor of
    ``exp(±4 exp(-2 pi**2 s**2))`` with ``s**2 = a b / (a + k**2 b)``.
    """
    least, above = math.inf, levels[-1]
    for level in reversed(levels[:-1]):
        step = above.scale // level.scale
        whole = level.variance + step * step * above.variance
        least = min(least, math.sqrt(level.variance * above.variance / whole))
        above = Level(whole, level.scale)
    return least


@pytest.mark.claim("C-dp-2")
@given(st.fractions(64, LARGEST_DEVIATION**2, max_denominator=2**16))
@settings(max_examples=200)
@example(Fraction(279398091866112))  # a part was wider than its table by one
def test_a_split_has_the_variance_exactly_and_hides_its_steps(variance: Fraction) -> None:
    levels = split(variance)
    assert sum(level.variance * level.scale**2 for level in levels) == variance
    assert all(0 < level.variance <= (2 * BASE) ** 2 for level in levels)
    # exp(-2 pi**2 s**2) with s = 3.99 is 2**-453.
    assert smoothing(levels) > 3.99
    assert len(levels) <= 4


@pytest.mark.claim("C-dp-2")
@pytest.mark.parametrize(
    ("fine", "step", "coarse"), [(4, 3, 4), (9, 4, 9), (16, 4, 16), (36, 6, 36)]
)
def test_the_sum_of_two_parts_is_as_close_as_the_bound_says(
    fine: int, step: int, coarse: int
) -> None:
    whole = fine + step * step * coarse
    far = 8 * math.isqrt(whole)
    x, y = np.arange(-far, far + 1), np.arange(-far, far + 1)
    low = np.exp(-x * x / (2 * fine))
    high = np.exp(-y * y / (2 * coarse))
    wide = np.zeros(2 * far * step + 1)
    wide[::step] = high / high.sum()
    made = np.convolve(wide, low / low.sum())
    k = np.arange(-(far * step + far), far * step + far + 1)
    wanted = np.exp(-k * k / (2 * whole))
    wanted /= wanted.sum()
    middle = np.abs(k) <= 4 * math.isqrt(whole)
    worst = float(np.abs(np.log(made[middle] / wanted[middle])).max())
    s = smoothing((Level(Fraction(fine), 1), Level(Fraction(coarse), step)))
    bound = 4 * math.exp(-2 * math.pi**2 * s * s)
    assert bound / 10 < worst < bound


@pytest.mark.parametrize("variance", [Fraction(0), Fraction(-1), Fraction(2**52 + 1)])
def test_what_does_not_fit_is_refused(variance: Fraction) -> None:
    with pytest.raises(ValueRefusedError, match="QRES-E313"):
        DiscreteGaussian(variance)


# ── samples ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("deviation", DEVIATIONS)
def test_samples_have_the_distribution(deviation: float) -> None:
    sampler = discrete_gaussian(Fraction(deviation) ** 2)
    drawn = sampler.sample(SAMPLES, KEY).astype(np.float64)
    # Chi-square over 41 bins, and moments and tails, each as a standard normal deviate.
    edges = sorted({round(deviation * x) for x in np.linspace(-2.5, 2.5, 40)})
    expected = exact_bins(deviation, edges) * SAMPLES
    found = np.bincount(np.searchsorted(edges, drawn), minlength=len(edges) + 1)
    chi2, freedom = float(((found - expected) ** 2 / expected).sum()), len(edges)
    scores = {"chi2": (chi2 - freedom) / math.sqrt(2 * freedom)}
    unit = drawn / deviation
    scores["mean"] = float(unit.mean()) * math.sqrt(SAMPLES)
    scores["variance"] = (float((unit**2).mean()) - 1) * math.sqrt(SAMPLES / 2)
    scores["kurtosis"] = (float((unit**4).mean()) - 3) * math.sqrt(SAMPLES / 96)
    for far in (3, 4):
        edge = round(far * deviation)
        tail = exact_bins(deviation, [-edge, edge - 1])[[0, 2]].sum() * SAMPLES
        count = int((drawn <= -edge).sum() + (drawn >= edge).sum())
        scores[f"beyond {far}"] = (count - tail) / math.sqrt(tail)
    lagged = float((unit[1:] * unit[:-1]).mean())
    scores["neighbours"] = lagged * math.sqrt(SAMPLES)
    assert max(abs(score) for score in scores.values()) < 4, scores


@pytest.mark.control("C-dp-2")
@pytest.mark.parametrize("wrong", [1.01, 0.99])
def test_the_statistics_would_catch_one_percent(wrong: float) -> None:
    """Positive control of the test above."""
    drawn = discrete_gaussian(Fraction(500.0 * wrong) ** 2).sample(SAMPLES, KEY) / 500.0
    assert abs(float((drawn**2).mean()) - 1) * math.sqrt(SAMPLES / 2) > 4


def test_other_keys_give_independent_noise() -> None:
    sampler = discrete_gaussian(Fraction(65536) ** 2)
    item = sampler.sample(SAMPLES, KEY).astype(np.float64)
    other = sampler.sample(SAMPLES, bytes(32)).astype(np.float64)
    correlation = float(np.mean(item * other)) / 65536.0**2
    assert abs(correlation) * math.sqrt(SAMPLES) < 4


@pytest.mark.parametrize("size", [0, 1, 7, BLOCK - 1, BLOCK, BLOCK + 1])
def test_any_number_of_samples_can_be_drawn(size: int) -> None:
    sampler = discrete_gaussian(Fraction(2072) ** 2)
    drawn = sampler.sample(size, KEY)
    assert drawn.shape == (size,)
    assert drawn.dtype == np.int32
    assert np.array_equal(drawn, sampler.sample(size, KEY))
    assert not size or int(np.abs(drawn).max()) <= sampler.reach


KNOWN: Final = {
    "64": "813b77f21b8f98f623b424390778a1fe4a84e92f1f4aa883ec2156e3fc48dd93",
    "70001/7": "36eaacd416cc0d10ac8bee0da01bc08fcc47587705148e547d099000ab8032ea",
    "1050625": "defcdec0f0448fa048ef0ee3939d4a13b70237e2e0671d4e5af095122ee4db19",
    "4294967296": "c248ca3d94ced5697d4177a1fdd9d8ecffe60a83c4d7e8e1d9d1d9454a1d6ec0",
    "1000001000000/3": "410600628dba015d00977813e1eb98103470ad7ab506d5666fe524930be2c341",
    "17592186044416": "1b1ea753a490fccdc31fed2020ecb8ac77020196dd45ea4d883f577d4f8bbe85",
}


@pytest.mark.parametrize("variance", KNOWN)
def test_the_noise_of_a_key_stays_what_it_is(variance: str) -> None:
    """On every Python, numpy, processor and operating system."""
    drawn = DiscreteGaussian(Fraction(variance)).sample(200_003, KEY)
    assert hashlib.sha256(drawn.astype("<i4").tobytes()).hexdigest() == KNOWN[variance]
