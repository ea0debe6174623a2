"""Correlated noise: its sensitivity by brute force, and what it gains in sums of rounds."""

from __future__ import annotations

import hashlib
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from qres_dp.correlated import Factor, Participation, decode
from qres_dp.correlated.factor import ONE
from qres_dp.discrete_gaussian import discrete_gaussian

from qres_core import Vector
from qres_core.errors import ConfigError


def matrix(factor: Factor, steps: int) -> NDArray[np.int64]:
    """C in units of 2**-16."""
    result = np.zeros((steps, steps), dtype=np.int64)
    for lag, coefficient in enumerate(factor.coefficients[:steps]):
        result += np.diag(np.full(steps - lag, coefficient), -lag)
    return result


def patterns(steps: int, rule: Participation) -> list[tuple[int, ...]]:
    return [
        chosen
        for times in range(1, rule.times + 1)
        for chosen in itertools.combinations(range(steps), times)
        if all(b - a >= rule.separation for a, b in itertools.pairwise(chosen))
    ]


class TestFactor:
    def test_its_square_is_the_matrix_of_ones(self) -> None:
        # (1 - s)**(-1/2) squared is 1 / (1 - s); what is left is the rounding of coefficients.
        root = matrix(Factor(64), 64) / ONE
        assert np.abs(root @ root - np.tri(64)).max() < 64 * 2 / ONE

    @pytest.mark.parametrize("band", range(1, 65))
    def test_the_theorem_of_repeated_participation_applies(self, band: int) -> None:
        coefficients = Factor(band).coefficients
        assert coefficients[0] == ONE
        assert all(a >= b >= 0 for a, b in itertools.pairwise(coefficients))
        assert len(coefficients) == band

    @pytest.mark.claim("C-dp-17")
    @pytest.mark.parametrize("band", [1, 2, 4, 9])
    @pytest.mark.parametrize("times", [1, 2, 3, 9])
    @pytest.mark.parametrize("separation", [1, 2, 3, 5])
    def test_no_pattern_of_participation_does_worse(
        self, band: int, times: int, separation: int
    ) -> None:
        steps, rule, factor = 9, Participation(times, separation), Factor(band)
        root = matrix(factor, steps)
        # The entries are not negative, so equal updates are the worst for a given pattern.
        worst = max(int((root[:, list(p)].sum(axis=1) ** 2).sum()) for p in patterns(steps, rule))
        assert factor.squared_sensitivity(steps, rule) == worst

    @settings(max_examples=50)
    @given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 4), st.integers(1, 8))
    def test_no_update_does_worse(self, seed: int, times: int, separation: int, band: int) -> None:
        rng = np.random.default_rng(seed)
        steps, rule, factor = 8, Participation(times, separation), Factor(band)
        allowed = patterns(steps, rule)
        chosen = list(allowed[rng.integers(len(allowed))])
        updates = np.zeros((steps, 3))
        for step in chosen:
            direction = rng.normal(size=3)
            updates[step] = direction / np.linalg.norm(direction)
        moved = float(((matrix(factor, steps) @ updates) ** 2).sum())
        assert moved <= factor.squared_sensitivity(steps, rule) * (1 + 1e-12)

    @pytest.mark.control("C-dp-17")
    def test_who_takes_part_twice_moves_more_than_once(self) -> None:
        # The control: what is accounted for one participation does not hold for two.
        factor = Factor(16)
        once = factor.squared_sensitivity(100, Participation())
        assert factor.squared_sensitivity(100, Participation(2, 16)) == 2 * once
        assert factor.squared_sensitivity(100, Participation(2, 1)) > 3 * once

    def test_independent_noise_is_a_band_of_one(self) -> None:
        factor = Factor(1)
        assert factor.squared_sensitivity(100, Participation(100)) == 100 * ONE**2
        assert factor.prefix_error(100) == pytest.approx(math.sqrt(50.5))

    def test_long_streams_are_exact(self) -> None:
        steps = 2**18
        rule, factor = Participation(steps), Factor(64)
        sums = list(itertools.accumulate(factor.coefficients))
        expected = sum(s * s for s in sums) + (steps - 64) * sums[-1] ** 2
        assert factor.squared_sensitivity(steps, rule) == expected

    @pytest.mark.parametrize("band", [0, 65, True, 2.0])
    def test_bands_out_of_range(self, band: int) -> None:
        with pytest.raises(ConfigError, match="QRES-E105"):
            Factor(band)

    @pytest.mark.parametrize("steps", [0, -1, 2**20 + 1, True, 2.0])
    def test_streams_of_no_length_or_too_long(self, steps: int) -> None:
        with pytest.raises(ConfigError, match=r"QRES-E105 plugins\.dp\.rounds"):
            Factor(2).squared_sensitivity(steps, Participation(times=1, separation=2))

    def test_who_takes_part_in_no_round_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="QRES-E105"):
            Participation(times=0)


class TestGain:
    @pytest.mark.claim("C-dp-24")
    @pytest.mark.control("C-dp-29")
    def test_prefix_sums_err_less_by_two_and_a_half(self) -> None:
        """White noise of rows, decoded as a swarm does, against independent noise."""
        steps, dimension, factor = 100, 2048, Factor()
        sensitivity = factor.squared_sensitivity(steps, Participation()) / ONE**2
        white, changes = discrete_gaussian(Fraction(10_000**2)), list[Vector]()
        for step in range(steps):
            row = white.sample(dimension, hashlib.sha256(b"%d" % step).digest())
            changes.insert(0, decode(factor, row, changes[: factor.band - 1]))
        sums = np.cumsum(np.stack(changes[::-1]), axis=0) / 10_000
        error = math.sqrt(float((sums**2).mean()))
        assert error == pytest.approx(factor.prefix_error(steps), rel=0.05)
        # At equal privacy: rows get as much more noise as a node moves all of them farther.
        assert math.sqrt((steps + 1) / 2) / (error * math.sqrt(sensitivity)) >= 2.5

    @pytest.mark.control("C-dp-24")
    def test_who_takes_part_in_every_round_gains_nothing(self) -> None:
        # Stated in the documentation: then the sensitivity eats up what the correlation saves.
        steps, every = 100, Participation(100, 1)
        errors = {
            band: math.sqrt(Factor(band).squared_sensitivity(steps, every))
            / ONE
            * Factor(band).prefix_error(steps)
            for band in (1, 16)
        }
        assert errors[16] > errors[1]
