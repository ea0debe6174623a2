"""Adaptive clipping against the paper's formulas in other arithmetic, and to convergence."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qres_dp.adaptive import (
    FINE,
    MAX_RADIUS,
    UNIT,
    AdaptiveClip,
    split,
)

from qres_core import CompatibilityError, ConfigError, ValueRefusedError

RADII = st.integers(1, MAX_RADIUS)


class TestMove:
    @pytest.mark.claim("C-dp-15")
    @given(
        RADII,
        st.floats(-3, 3),
        st.integers(1, 10_000),
        st.floats(0.1, 0.9),
        st.floats(0.001, 1.0),
    )
    def test_the_formula_of_the_paper(
        self, radius: int, share: float, voters: int, quantile: float, rate: float
    ) -> None:
        rule = AdaptiveClip(quantile=quantile, rate=rate)
        votes = math.floor(share * voters * UNIT)  # of those that do not fit
        below = min(max(1 - votes / (voters * UNIT), 0.0), 1.0)
        expected = radius * math.exp(-rate * (below - quantile))
        moved = rule.move(radius * FINE, [(votes, voters)]) / FINE
        assert moved == pytest.approx(min(max(expected, 1.0), MAX_RADIUS), rel=1e-9, abs=2 / FINE)

    @given(RADII, st.integers(-(2**40), 2**40), st.integers(1, 2000))
    def test_more_fits_never_move_it_up(self, radius: int, votes: int, voters: int) -> None:
        rule = AdaptiveClip()
        fewer = rule.move(radius * FINE, [(votes - UNIT, voters)])
        assert fewer <= rule.move(radius * FINE, [(votes, voters)])

    def test_a_known_answer(self) -> None:
        # 65536000000 * exp(0.1) and * exp(-0.1) to forty digits, rounded down.
        rule = AdaptiveClip(quantile=0.5, rate=0.2)
        start = 1_000_000 * FINE
        assert rule.move(start, [(7 * UNIT, 7)]) == 72428481287
        assert rule.move(start, [(0, 7)]) == 59299425028

    @pytest.mark.claim("C-dp-15")
    @pytest.mark.control("C-dp-15")
    def test_liars_in_fewer_than_half_of_the_groups_do_not_choose_it(self) -> None:
        rule = AdaptiveClip()
        honest = [(2 * UNIT, 10), (4 * UNIT, 10), (6 * UNIT, 10)]
        least, most = (rule.move(FINE * 1000, [item]) for item in (honest[0], honest[-1]))
        for lie in (-(2**40), 2**40):
            assert least <= rule.move(FINE * 1000, [*honest, (lie, 10), (lie, 10)]) <= most
        # The control: in half of the groups they do.
        assert rule.move(FINE * 1000, [*honest, *[(2**40, 10)] * 5]) > most

    def test_it_stays_within_grid_and_ring(self) -> None:
        rule = AdaptiveClip(lowest=100, highest=200)
        low, high = 100 * FINE, 200 * FINE
        for _round in range(20):
            low, high = rule.move(low, [(0, 9)]), rule.move(high, [(9 * UNIT, 9)])
        assert (low, high) == (100 * FINE, 200 * FINE)

    def test_without_a_voter_nothing_moves(self) -> None:
        for sums in ([], [(0, 0)]):
            with pytest.raises(ValueRefusedError, match="QRES-E505"):
                AdaptiveClip().move(FINE, sums)


@pytest.mark.parametrize("factor", [1 / 30, 30.0])
@pytest.mark.parametrize("quantile", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_finds_the_quantile_from_far_away(factor: float, quantile: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    nodes, radius = 100, 200_000
    norms = radius * rng.lognormal(0.0, 0.5, size=(200, nodes))
    truth = radius * float(np.quantile(norms / radius, quantile))
    rule = AdaptiveClip(quantile=quantile)
    deviation = split(1.0, nodes).votes * UNIT
    bound = round(truth * factor) * FINE
    path: list[float] = []
    for row in norms:
        votes = sum(rule.vote(round(norm) ** 2, bound) for norm in row)
        # The bound of *before* the move is the one that was voted on.
        bound = rule.move(bound, [(votes + round(rng.normal(0, deviation)), nodes)])
        path.append(rule.radius(bound) / truth)
    assert np.mean(path[-40:]) == pytest.approx(1.0, abs=0.08)
    assert all(0.8 < ratio < 1.25 for ratio in path[-40:])


class TestVote:
    def test_norm_on_the_radius_fits(self) -> None:
        assert AdaptiveClip.vote(25, 5 * FINE) == 0
        assert AdaptiveClip.vote(26, 5 * FINE) == UNIT
        assert AdaptiveClip.vote(26, 5 * FINE + FINE - 1) == UNIT  # the radius is an integer

    @given(st.integers(0, 2**90), RADII)
    def test_a_zero_update_votes_as_a_node_that_is_not_there(self, norm: int, radius: int) -> None:
        assert AdaptiveClip.vote(0, radius * FINE) == 0
        assert abs(AdaptiveClip.vote(norm, radius * FINE)) <= UNIT


class TestSplit:
    @given(st.floats(1e-3, 1e4), st.integers(1, 10**6))
    def test_it_is_never_less_than_asked_for(self, multiplier: float, nodes: int) -> None:
        parts = split(multiplier, nodes)
        assert multiplier <= parts.together <= multiplier * (1 + 1e-9)
        assert parts.vector <= multiplier * 1.1548

    def test_figures_of_the_paper(self) -> None:
        # Theorem 1 with sigma_b = n / 20, where a vote moves the sum by 1 and not by 1/2.
        assert split(1.0, 200).vector == pytest.approx(1.005, abs=1e-3)
        assert split(1.0, 20).vector == pytest.approx(1.1547, abs=1e-4)

    @pytest.mark.parametrize("multiplier", [0.0, -1.0, math.nan, math.inf])
    def test_nonsense_is_refused(self, multiplier: float) -> None:
        with pytest.raises(CompatibilityError, match="QRES-E314"):
            split(multiplier, 10)

    def test_noise_of_nobody_is_refused_and_that_of_a_single_node_is_not(self) -> None:
        assert split(1.0, 1).votes == 2.0
        with pytest.raises(CompatibilityError, match="QRES-E314"):
            split(1.0, 0)


class TestAgreed:
    def test_what_more_than_the_liars_say(self) -> None:
        assert AdaptiveClip.agreed([7, 7, 7, 8, 9], liars=2) == 7

    def test_liars_alone_do_not_make_a_bound(self) -> None:
        with pytest.raises(ValueRefusedError, match="QRES-E505"):
            AdaptiveClip.agreed([8, 8], liars=2)
        assert AdaptiveClip.agreed([8, 8], liars=1) == 8  # where they are taken for honest, it does

    def test_two_such_bounds_are_refused(self) -> None:
        with pytest.raises(ValueRefusedError, match="2 clipping bounds"):
            AdaptiveClip.agreed([7, 7, 8, 8], liars=1)


@pytest.mark.parametrize(
    "options", [{"quantile": 0.05}, {"quantile": math.nan}, {"rate": 0.0}, {"rate": math.inf}]
)
def test_options_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="QRES-E105"):
        AdaptiveClip(**options)  # type: ignore[arg-type]


def test_options_at_the_edges_are_taken() -> None:
    for quantile, rate in ((0.1, 0.001), (0.9, 1.0)):
        assert AdaptiveClip(quantile=quantile, rate=rate).quantile == quantile


@pytest.mark.parametrize(
    ("lowest", "highest"), [(200, 100), (0, 100), (1, MAX_RADIUS + 1), (-1, MAX_RADIUS)]
)
def test_a_grid_without_room_for_any_bound(lowest: int, highest: int) -> None:
    with pytest.raises(CompatibilityError, match="QRES-E313"):
        AdaptiveClip(lowest=lowest, highest=highest)


@pytest.mark.parametrize("radius", [1, 100, MAX_RADIUS])
def test_room_for_one_bound_is_room(radius: int) -> None:
    rule = AdaptiveClip(lowest=radius, highest=radius)
    assert rule.move(radius * FINE, [(0, 1)]) == radius * FINE
