"""Noise of every mode against what the accounting assumes, and the grid it has to fit."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qres_dp import accounting, grid
from qres_dp.modes import Mechanism, Mode, Relation, relation_of, steps

from qres_core.errors import CompatibilityError

mechanisms = st.builds(
    Mechanism,
    mode=st.sampled_from(Mode),
    relation=st.sampled_from(Relation),
    bound=st.integers(1, 2**24),
    noise_multiplier=st.floats(1e-3, 1e6),
    honest=st.integers(1, 1000),
)


@pytest.mark.claim("C-dp-14")
@given(mechanisms)
def test_the_shares_of_the_honest_add_up_to_what_is_accounted_for(item: Mechanism) -> None:
    wanted = (Fraction(item.noise_multiplier) * item.sensitivity) ** 2
    assert item.honest * item.share - 9 >= wanted
    # … and not to much more: 9 for the lemma, and rounding up.
    assert item.honest * item.share <= wanted + 9 + Fraction(item.honest + 1, 2**16) + Fraction(
        1, 2**16
    )


@pytest.mark.control("C-dp-12", "C-dp-14")
@pytest.mark.parametrize("known", [1, 12, 18])
def test_control_shares_that_colluders_know_are_missing_from_a_sum(known: int) -> None:
    """A sum of 42 whose noise is counted on 42 shares; who knows some of them takes them off."""

    def left(honest: int) -> Fraction:
        made = Mechanism(Mode.DISTRIBUTED, Relation.ADD_REMOVE, 65536, 1.0, honest)
        return (42 - known) * made.share / (Fraction(made.noise_multiplier) * made.sensitivity) ** 2

    assert left(42) < 1
    assert left(42 - known) >= 1  # what is counted on if those who may collude are counted


@pytest.mark.control("C-dp-21")
def test_control_a_share_that_is_seen_alone_costs_several_times_the_budget() -> None:
    noise = accounting.calibrate(8.0, 1e-6, 3)
    made = Mechanism(Mode.DISTRIBUTED, Relation.ADD_REMOVE, 65536, noise, 5)
    alone = math.sqrt(made.share) / made.sensitivity
    assert accounting.epsilon(noise, 3, 1e-6) <= 8.0
    assert accounting.epsilon(alone, 3, 1e-6) > 2 * 8.0


@given(mechanisms)
def test_replacing_costs_twice_the_deviation_of_adding(item: Mechanism) -> None:
    add = attrs.evolve(item, relation=Relation.ADD_REMOVE)
    replace = attrs.evolve(item, relation=Relation.REPLACE_ONE)
    assert (add.sensitivity, replace.sensitivity) == (item.bound, 2 * item.bound)
    assert math.isclose(replace.variance - 9, 4 * (add.variance - 9), rel_tol=1e-3, abs_tol=1e-3)


@given(st.floats(2.0**-40, 2.0**40), st.integers(-32, 32))
def test_a_length_never_grows_on_the_grid(length: float, scale: int) -> None:
    whole = steps(length, scale)
    assert whole * Fraction(2) ** (scale - 16) <= Fraction(length)
    assert Fraction(length) < (whole + 1) * Fraction(2) ** (scale - 16)


def test_each_mode_has_its_relation() -> None:
    assert relation_of(Mode.LOCAL, "") is Relation.REPLACE_ONE
    assert relation_of(Mode.DISTRIBUTED, "") is Relation.ADD_REMOVE
    assert relation_of(Mode.DISTRIBUTED, "replace-one") is Relation.REPLACE_ONE
    with pytest.raises(CompatibilityError, match="QRES-E314"):
        relation_of(Mode.LOCAL, "add-remove")


# ── the grid ──────────────────────────────────────────────────────────────────────────────────


def mechanism(**fields: Any) -> Mechanism:
    usual = Mechanism(Mode.LOCAL, Relation.ADD_REMOVE, 65536, 1.0)
    return attrs.evolve(usual, **fields)


def found(item: Mechanism, *, dimension: int = 100, nodes: int = 10) -> list[str]:
    return [problem.what for problem in grid.problems(item, dimension=dimension, nodes=nodes)]


def test_the_bound_has_two_steps_for_a_coordinate() -> None:
    assert not found(mechanism(bound=2000), dimension=10**6)
    (what,) = found(mechanism(bound=1999), dimension=10**6)
    assert "1999 in steps" in what
    assert "1000000 coordinates" in what
    assert grid.least_bound(10**6) == 2000
    assert grid.least_bound(10**6 + 1) == 2001


def test_a_share_has_eight_steps() -> None:
    # 2048 / sqrt(65536) = 8
    assert not found(mechanism(bound=2048, honest=65536), dimension=1)
    (what,) = found(mechanism(bound=2048, honest=65540), dimension=1)
    assert "8 are needed" in what


def test_how_often_noise_does_not_fit() -> None:
    beyond = math.erfc(grid.HEADROOM / math.sqrt(2))
    assert 2.0**-108 < beyond < 2.0**-107
    assert beyond * 2**31 * 10**6 < 2.0**-50


@pytest.mark.parametrize("nodes", [1, 10, 1000])
def test_sums_and_their_noise_have_room(nodes: int) -> None:
    share = mechanism(mode=Mode.DISTRIBUTED, honest=1, noise_multiplier=0.001)
    fits = [
        bits for bits in range(16, 32) if not found(attrs.evolve(share, bound=2**bits), nodes=nodes)
    ]
    most = 2 ** max(fits)
    deviation = most * 0.001
    assert nodes * most + 12 * deviation * math.sqrt(nodes) < 2**31
    assert 2 * (nodes * most + 12 * deviation * math.sqrt(nodes)) > 0.9 * 2**31


@pytest.mark.parametrize(
    ("clip", "scale", "z", "dimension"),
    [
        (1.0, 10, 1.0, 10**4),  # rounded to nothing
        (100.0, -16, 30.0, 100),  # does not fit
        (2.0**-20, 0, 1.0, 4),  # not even one step
        (1.0, 0, 1e-4, 100),  # noise too fine
    ],
)
def test_a_refusal_names_scales_that_do(clip: float, scale: int, z: float, dimension: int) -> None:
    item = mechanism(bound=max(1, steps(clip, scale)), noise_multiplier=z)
    with pytest.raises(CompatibilityError, match="QRES-E313") as refused:
        grid.check(item, clip, dimension=dimension, nodes=10)
    fix = refused.value.problems[0].fix
    assert fix.startswith("swarm.scale in ")
    low, high = map(int, fix.removeprefix("swarm.scale in ").split(".."))
    for better in (low, high):
        finer = attrs.evolve(item, bound=steps(clip, better))
        grid.check(finer, clip, dimension=dimension, nodes=10)


def test_where_no_scale_does_it_is_said() -> None:
    item = mechanism(bound=65536, noise_multiplier=10**5)
    with pytest.raises(CompatibilityError, match=r"no swarm\.scale does"):
        grid.check(item, 1.0, dimension=10**7, nodes=10)
