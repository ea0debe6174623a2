"""Measured kappa against the definition, in fractions; what the attacks of the registry send."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from qres_lab.testing import attacking, robustness
from qres_lab.testing.attacking import registered_lies
from qres_lab.testing.robustness import lower_bound, subsets, worst_kappa
from qres_lab.testing.rules import broken

from qres_core.attacks import ATTACKS, catalogue

INT32 = st.integers(-(2**31), 2**31 - 1)
Rows = NDArray[np.int64]


def ratios(rows: list[list[int]], result: list[int], size: int) -> list[tuple[Fraction, Fraction]]:
    """Squared pull and mean squared spread of every set; no allowance for rounding."""
    found: list[tuple[Fraction, Fraction]] = []
    for members in itertools.combinations(rows, size):
        mean = [Fraction(sum(column), size) for column in zip(*members, strict=True)]
        pull = sum((Fraction(a) - b) ** 2 for a, b in zip(result, mean, strict=True))
        spread = sum((a - b) ** 2 for row in members for a, b in zip(row, mean, strict=True))
        found.append((Fraction(pull), Fraction(spread) / size))
    return found


def by_definition(rows: list[list[int]], result: list[int], size: int) -> Fraction | float:
    """The largest ratio over all sets."""
    pulled = [(pull, spread) for pull, spread in ratios(rows, result, size) if pull]
    return max((pull / spread if spread else math.inf for pull, spread in pulled), default=0)


@st.composite
def rounds(draw: st.DrawFn) -> tuple[list[list[int]], list[int], int]:
    count, dimension = draw(st.integers(3, 7)), draw(st.integers(1, 3))
    small = st.integers(-3, 3)
    row = st.lists(draw(st.sampled_from([INT32, small])), min_size=dimension, max_size=dimension)
    rows = draw(st.lists(row, min_size=count, max_size=count))
    return rows, draw(row), draw(st.integers(1, (count - 1) // 2))


@given(rounds())
def test_it_is_the_definition_less_the_rounding(
    drawn: tuple[list[list[int]], list[int], int],
) -> None:
    rows, result, liars = drawn
    size = len(rows) - liars
    found = worst_kappa(np.array(rows), np.array(result), subsets(len(rows), size), 0)
    exact = by_definition(rows, result, size)
    assert found.kappa <= exact
    assert found.sets == math.comb(len(rows), size)
    # One step a coordinate is forgiven: no result that is nearer asks for more.
    if found.kappa != exact and not found.kappa:
        mean = np.array(rows)[[i for i in range(len(rows)) if i not in found.liars]].mean(axis=0)
        assert np.linalg.norm(result - mean) <= math.sqrt(len(result)) * (1 + 1e-9)


@given(rounds())
def test_wide_rounds_lose_next_to_nothing_to_rounding(
    drawn: tuple[list[list[int]], list[int], int],
) -> None:
    rows, result, liars = drawn
    size = len(rows) - liars
    found = worst_kappa(np.array(rows), np.array(result), subsets(len(rows), size), 0)
    assume(found.kappa != math.inf)
    grace = math.sqrt(len(result))
    for squared, spread in ratios(rows, result, size):  # for each set, so for the worst too
        pull = math.sqrt(squared)
        if pull > 1000 * grace and spread:
            assert float(found.kappa) >= float(squared / spread) * (1 - 3 * grace / pull)


def test_the_trimmed_mean_attains_the_lower_bound() -> None:
    count, liars = 11, 2
    rows = np.zeros((count, 1), dtype=np.int64)
    rows[count - liars :] = 2**30
    trimmed = np.sort(rows, axis=0)[liars : count - liars].sum(axis=0) // (count - 2 * liars)
    found = worst_kappa(rows, trimmed, subsets(count, count - liars), 0)
    assert float(found.kappa) == pytest.approx(float(lower_bound(count, liars)), rel=1e-8)
    assert lower_bound(count, liars) == Fraction(2, 7)


def test_the_mean_has_none() -> None:
    rows = np.zeros((11, 1), dtype=np.int64)
    rows[9:] = 2**20
    found = worst_kappa(rows, rows.sum(axis=0) // 11, subsets(11, 9), 0)
    assert not found.finite
    assert found.liars == (9, 10)


@pytest.mark.parametrize(("offset", "kappa"), [(2, 0), (3, math.inf)])
def test_a_step_for_the_grid_and_what_the_rule_asks_for_are_forgiven(
    offset: int, kappa: float
) -> None:
    rows = np.zeros((5, 1), dtype=np.int64)
    found = worst_kappa(rows, np.array([offset]), subsets(5, 4), 1)
    assert found.kappa == kappa


def test_all_sets_are_looked_at_up_to_a_number_and_a_sample_above() -> None:
    assert len(subsets(11, 6)) == 462
    many = subsets(40, 32)
    assert len(many) == robustness.MAX_SUBSETS
    assert (many.sum(axis=1) == 32).all()
    assert many[0, :32].all()
    assert many[1, 8:].all()
    assert np.array_equal(many, subsets(40, 32))


# ── the registry ──────────────────────────────────────────────────────────────────────────────


def middle(rows: Rows) -> Rows:
    return np.sort(rows, axis=0)[(len(rows) - 1) // 2]


def test_every_attack_is_played_or_named_with_the_reason() -> None:
    honest = np.random.default_rng(0).integers(-4096, 4096, size=(9, 7))
    found = {lie.attack: lie for lie in registered_lies(honest, 2, middle)}
    assert list(found)[: len(catalogue())] == list(catalogue())
    idle = {
        name: item.why for name, item in found.items() if item.rows is None and name in catalogue()
    }
    assert idle == {
        "silent": "sends nothing",
        "wrong_length": "wrong length: never reaches a rule",
        "label_flip": "poisons training data, not a call",
        "backdoor": "poisons training data, not a call",
        "backdoor_hidden": "poisons training data, not a call",
        "backdoor_aside": "poisons training data, not a call",
    }
    for item in found.values():
        assert item.rows is None or item.rows.shape == (2, 7)
    rows = found["mimic"].rows
    assert rows is not None
    assert any(np.array_equal(rows[0], row) for row in honest)


def test_attacks_that_search_try_the_rule_under_test() -> None:
    honest = 1000 + np.random.default_rng(0).integers(-4096, 4096, size=(9, 7))
    tried: list[int] = []

    def mean(rows: Rows) -> Rows:
        tried.append(len(rows))
        return rows.sum(axis=0) // len(rows)

    lies = {lie.attack: lie.rows for lie in registered_lies(honest, 2, mean)}
    assert set(tried) == {11}
    worst = lies["optimised_ipm"]
    fixed = lies["ipm"]
    assert worst is not None
    assert fixed is not None
    assert np.abs(worst).max() > 10 * np.abs(fixed).max()  # a mean lets everything through


def test_a_rule_that_breaks_while_it_is_tried_is_not_forgiven() -> None:
    def breaks(_rows: Rows) -> Rows:
        broken("QRES-AGG-12", "it raised")

    with pytest.raises(AssertionError, match="it raised"):
        list(registered_lies(np.zeros((5, 2), dtype=np.int64), 1, breaks))


def test_attacks_of_installed_distributions_are_among_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attacking, "_brought", lambda: {"theirs": ATTACKS["scaled"]})
    names = [lie.attack for lie in registered_lies(np.ones((5, 2), dtype=np.int64), 1, middle)]
    assert names[0] == "theirs"
