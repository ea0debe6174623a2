"""Correlated noise: its sensitivity by brute force, its exactness, its law, its keys on disk."""

from __future__ import annotations

import hashlib
import itertools
import math
import stat
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from qres_dp.correlated import (
    CorrelatedNoise,
    Factor,
    KeyHistory,
    Participation,
    variance_for,
)
from qres_dp.correlated.factor import ONE, SMOOTHING_VARIANCE
from qres_dp.correlated.noise import LEAST_VARIANCE

from qres_core import CompatibilityError, ConfigError, RoundError, ValueRefusedError


def key(number: int) -> bytes:
    return hashlib.sha256(b"test" + number.to_bytes(8, "little")).digest()


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


def squared_multiplier(variance: Fraction, bound: int, squared_sensitivity: int) -> Fraction:
    """Of the one Gaussian that a stream with this variance amounts to."""
    return (variance - SMOOTHING_VARIANCE) * ONE**2 / (bound * bound * squared_sensitivity)


def stream(noise: CorrelatedNoise, keys: list[bytes]) -> NDArray[np.int64]:
    rows: list[NDArray[np.int64]] = []
    for item in keys:
        drawn = noise.draw(item)
        noise.advance(drawn)
        rows.append(drawn.astype(np.int64))
    return np.stack(rows)


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


class TestVariance:
    @given(st.floats(1e-2, 1e4), st.integers(1, 2**30), st.integers(1, 64))
    def test_the_accountant_gets_what_was_asked_for(
        self, multiplier: float, bound: int, band: int
    ) -> None:
        sensitivity = Factor(band).squared_sensitivity(50, Participation(3, 2))
        variance = variance_for(multiplier, bound, sensitivity)
        assert squared_multiplier(variance, bound, sensitivity) == Fraction(multiplier) ** 2

    def test_a_stream_costs_more_the_longer_it_is(self) -> None:
        factor, rule = Factor(16), Participation()
        full = factor.squared_sensitivity(100, rule)
        variance = variance_for(1.0, 65536, full)
        path = [
            math.sqrt(squared_multiplier(variance, 65536, factor.squared_sensitivity(t, rule)))
            for t in (1, 2, 16, 100)
        ]
        assert path == sorted(path, reverse=True)
        assert path[0] == pytest.approx(math.sqrt(full) / ONE)
        assert path[-2] == path[-1] == pytest.approx(1.0)

    def test_a_multiplier_that_is_no_number_is_refused(self) -> None:
        with pytest.raises(CompatibilityError, match="QRES-E314"):
            variance_for(math.nan, 1, ONE**2)


class TestExactness:
    @pytest.mark.parametrize("band", [1, 2, 3, 16])
    @pytest.mark.parametrize("variance", [Fraction(LEAST_VARIANCE), Fraction(10**9, 7)])
    def test_it_is_the_recursion_in_python_integers(self, band: int, variance: Fraction) -> None:
        dimension, steps = 5, 40
        factor = Factor(band)
        noise = CorrelatedNoise(factor, variance, dimension, steps)
        white = CorrelatedNoise(Factor(1), variance, dimension, 1)
        got: list[list[int]] = []
        for t in range(steps):
            z = _scaled(white, key(t))
            expected = [
                math.floor(
                    Fraction(z[j] - sum(c * got[t - k][j] for k, c in _lags(factor, t)), ONE)
                    + Fraction(1, 2)
                )
                for j in range(dimension)
            ]
            drawn = noise.draw(key(t))
            noise.advance(drawn)
            assert drawn.tolist() == expected
            got.append(expected)

    @settings(max_examples=20)
    @given(st.integers(0, 2**32 - 1))
    def test_releases_are_a_function_of_the_private_sum(self, seed: int) -> None:
        # r = x + n, computed from y = 2**16 C x + z alone: the whole guarantee rests on this.
        rng = np.random.default_rng(seed)
        dimension, steps, factor = 4, 30, Factor(6)
        x = rng.integers(-(2**20), 2**20, size=(steps, dimension))
        noise = CorrelatedNoise(factor, Fraction(10**8), dimension, steps)
        white = CorrelatedNoise(Factor(1), Fraction(10**8), dimension, 1)
        z = np.array([_scaled(white, key(t)) for t in range(steps)], dtype=np.int64)
        y = matrix(factor, steps) @ x + z
        released = x + stream(noise, [key(t) for t in range(steps)])
        decoded = np.zeros_like(y)
        for t in range(steps):
            rest = y[t] - sum(c * decoded[t - k] for k, c in _lags(factor, t))
            decoded[t] = (rest + ONE // 2) >> 16
        assert np.array_equal(decoded, released)

    def test_a_draw_changes_nothing_until_the_step_is_taken(self) -> None:
        noise = CorrelatedNoise(Factor(4), Fraction(10**6), 8, 3)
        first = noise.draw(key(0))
        assert np.array_equal(noise.draw(key(0)), first)
        assert noise.taken == 0
        noise.advance(first)
        assert not np.array_equal(noise.draw(key(0)), first)  # the past has its part in it now

    def test_blocks_do_not_show(self) -> None:
        # Longer than the inner blocks; each coordinate depends on its own past only.
        wide = CorrelatedNoise(Factor(4), Fraction(10**6), 10_000, 3)
        white = CorrelatedNoise(Factor(1), Fraction(10**6), 10_000, 3)
        drawn, plain = stream(wide, [key(0), key(1)]), stream(white, [key(0), key(1)])
        rest = drawn[1] - (plain[1] - 0.5 * drawn[0])
        assert np.abs(rest).max() <= 1

    def test_a_known_answer(self) -> None:
        noise = CorrelatedNoise(Factor(16), Fraction(10**10), 64, 20)
        digest = hashlib.sha256(stream(noise, [key(t) for t in range(20)]).astype("<i8").tobytes())
        assert digest.hexdigest() == KNOWN

    def test_keys_must_be_keys(self) -> None:
        with pytest.raises(ValueRefusedError, match="QRES-E507"):
            CorrelatedNoise(Factor(4), Fraction(10**6), 8, 3).draw(b"short")

    def test_a_stream_ends(self) -> None:
        noise = CorrelatedNoise(Factor(4), Fraction(10**6), 8, 2)
        noise.replay([key(0), key(1)])
        with pytest.raises(ValueRefusedError, match="QRES-E509"):
            noise.draw(key(2))

    @pytest.mark.parametrize("variance", [Fraction(127), Fraction(2**52)])
    def test_noise_too_fine_or_too_wide_for_the_grid(self, variance: Fraction) -> None:
        with pytest.raises(ValueRefusedError, match="QRES-E313"):
            CorrelatedNoise(Factor(16), variance, 8, 100)


KNOWN = "d9c34cfea7ba1f082b81af39f5c9c7f719624c30575904be44c0662489caf3a2"


def _lags(factor: Factor, t: int) -> list[tuple[int, int]]:
    return [(k, c) for k, c in enumerate(factor.coefficients) if 0 < k <= t]


def _scaled(white: CorrelatedNoise, blob: bytes) -> list[int]:
    """z in units of 2**-16, from the parts the noise is made of."""
    coarse, fine = white.white_noise(blob)
    return [int(a) * ONE + int(b) for a, b in zip(coarse, fine, strict=True)]


class TestLaw:
    def test_covariance(self) -> None:
        steps, dimension, deviation, factor = 6, 200_000, 5000, Factor(4)
        noise = CorrelatedNoise(factor, Fraction(deviation**2), dimension, steps)
        rows = stream(noise, [key(t) for t in range(steps)]) / deviation
        inverse = np.linalg.inv(matrix(factor, steps) / ONE)
        measured = rows @ rows.T / dimension
        assert np.abs(measured - inverse @ inverse.T).max() < 6 * 2 / math.sqrt(dimension)

    def test_whitened_it_is_a_gaussian_of_the_variance_that_is_accounted(self) -> None:
        steps, dimension, factor = 20, 20_000, Factor(8)
        variance = variance_for(0.5, 300, factor.squared_sensitivity(steps, Participation()))
        noise = CorrelatedNoise(factor, variance, dimension, steps)
        rows = stream(noise, [key(t) for t in range(steps)])
        white = (matrix(factor, steps) @ rows) / ONE / math.sqrt(variance)
        count = white.size
        assert abs(white.mean()) < 5 / math.sqrt(count)
        rounding = 1 + 1 / 12 / float(variance)  # half a grid step either way, in every draw
        assert (white**2).mean() == pytest.approx(rounding, abs=6 * math.sqrt(2 / count))
        assert (white**4).mean() == pytest.approx(3 * rounding**2, abs=6 * math.sqrt(96 / count))

    @pytest.mark.claim("C-dp-24")
    @pytest.mark.control("C-dp-29")
    def test_prefix_sums_err_less_by_two_and_a_half(self) -> None:
        steps, dimension, factor, bound = 100, 2048, Factor(), 65536
        sensitivity = factor.squared_sensitivity(steps, Participation())
        noise = CorrelatedNoise(factor, variance_for(1.0, bound, sensitivity), dimension, steps)
        sums = np.cumsum(stream(noise, [key(t) for t in range(steps)]), axis=0) / bound
        error = math.sqrt(float((sums**2).mean()))
        independent = math.sqrt((steps + 1) / 2)
        assert independent / error >= 2.5
        predicted = math.sqrt(sensitivity) / ONE * factor.prefix_error(steps)
        assert error == pytest.approx(predicted, rel=0.05)

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


class TestHistory:
    def test_a_node_that_starts_again_has_the_same_noise(self, tmp_path: Path) -> None:
        noise = CorrelatedNoise(Factor(5), Fraction(10**8), 16, 12)
        history = KeyHistory(tmp_path, b"stream")
        for t in range(7):
            history.append(key(t))
            noise.advance(noise.draw(key(t)))
        history.close()
        again = CorrelatedNoise(Factor(5), Fraction(10**8), 16, 12)
        again.replay(KeyHistory(tmp_path, b"stream", released=7).keys)
        assert again.taken == 7
        assert np.array_equal(again.draw(key(7)), noise.draw(key(7)))

    def test_nobody_else_may_read_it(self, tmp_path: Path) -> None:
        KeyHistory(tmp_path / "new", b"stream").close()
        path = tmp_path / "new" / "dp-noise.sqlite"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        path.chmod(0o644)
        with pytest.raises(RoundError, match="others than the owner"):
            KeyHistory(tmp_path / "new", b"stream")

    def test_a_file_that_was_lost_is_missed(self, tmp_path: Path) -> None:
        history = KeyHistory(tmp_path, b"stream")
        history.append(key(0))
        history.close()
        (tmp_path / "dp-noise.sqlite").unlink()
        with pytest.raises(RoundError, match="0 keys, and 1 releases"):
            KeyHistory(tmp_path, b"stream", released=1)
        KeyHistory(tmp_path / "other", b"stream")  # without the ledger's word it would be new

    def test_another_stream(self, tmp_path: Path) -> None:
        KeyHistory(tmp_path, b"stream").close()
        with pytest.raises(RoundError, match="another stream"):
            KeyHistory(tmp_path, b"other")

    @pytest.mark.claim("C-dp-17")
    def test_a_key_is_used_once(self) -> None:
        history = KeyHistory(None, b"stream")
        history.append(key(0))
        for bad in (key(0), b"short"):
            with pytest.raises(RoundError, match="QRES-E602"):
                history.append(bad)

    def test_any_changed_byte_is_noticed_or_harmless(self, tmp_path: Path) -> None:
        history = KeyHistory(tmp_path, b"stream")
        for t in range(3):
            history.append(key(t))
        expected = history.keys
        history.close()
        path = tmp_path / "dp-noise.sqlite"
        sound = path.read_bytes()
        rng = np.random.default_rng(0)
        caught = 0
        for place in [*rng.integers(0, len(sound), 150), *(sound.find(key(t)) for t in range(3))]:
            damaged = bytearray(sound)
            damaged[place] ^= 0x55
            path.write_bytes(damaged)
            try:
                opened = KeyHistory(tmp_path, b"stream")
            except RoundError:
                caught += 1
            else:
                assert opened.keys == expected
                opened.close()
        assert caught >= 3

    @pytest.mark.parametrize("junk", [b"junk" * 1000, b"SQLite format 3\0" + b"\xff" * 5000])
    def test_junk(self, tmp_path: Path, junk: bytes) -> None:
        path = tmp_path / "dp-noise.sqlite"
        path.write_bytes(junk)
        path.chmod(0o600)
        with pytest.raises(RoundError, match="QRES-E602"):
            KeyHistory(tmp_path, b"stream")

    def test_a_file_whose_maker_was_killed_at_once(self, tmp_path: Path) -> None:
        # It is written beside its name and gets it when it is whole: an empty file is damage.
        path = tmp_path / "dp-noise.sqlite"
        path.with_name(f"{path.name}.new-abc").touch(mode=0o600)
        KeyHistory(tmp_path, b"stream").append(key(0))
        path.write_bytes(b"")
        with pytest.raises(RoundError, match="QRES-E602"):
            KeyHistory(tmp_path, b"stream")
