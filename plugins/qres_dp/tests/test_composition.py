"""Rounds of several kinds together: never below the truth, and little above it."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qres_dp import accounting
from qres_dp.accounting import composition, pld
from qres_dp.accounting.composition import delta_of, joined, spent
from qres_dp.accounting.limits import Kind

from qres_core import CompatibilityError

ORACLE: Any = json.loads(
    (Path(__file__).parent / "oracles" / "composition.json").read_text(encoding="utf-8")
)
MIXED = [
    row for row in ORACLE["settings"] if len({(z, q) for z, q, _ in row["kinds"] if q < 1.0}) > 1
]


def kinds_of(row: Any) -> Counter[Kind]:
    kinds: Counter[Kind] = Counter()
    for noise, rate, rounds in row["kinds"]:
        kinds[noise, rate] += rounds
    return kinds


def name(row: Any) -> str:
    return " ".join(f"{n}x({z:g},{q:g})" for z, q, n in row["kinds"][:3])


def test_the_oracle_has_sixty_settings_and_twenty_that_are_mixed() -> None:
    assert len(ORACLE["settings"]) >= 60
    assert len(MIXED) >= 20


@pytest.mark.parametrize(
    "row",
    [row for row in ORACLE["settings"] if all(q == 1.0 for _, q, _ in row["kinds"])],
    ids=name,
)
def test_rounds_without_sampling_are_exact_to_sixty_digits(row: Any) -> None:
    found = spent(kinds_of(row), row["delta"])
    assert row["lower"] <= found <= row["lower"] * (1.0 + 1e-9)


# A part of them, for the time: `make dp-oracle` takes all.
CHEAP = [row for row in MIXED if len(row["kinds"]) <= 3]


@pytest.mark.claim("C-dp-4")
@pytest.mark.parametrize("row", CHEAP[::3], ids=name)
def test_mixed_kinds_are_never_below_the_truth_and_within_a_twentieth(row: Any) -> None:
    found = spent(kinds_of(row), row["delta"])
    assert row["lower"] <= found <= 1.05 * row["lower"]


@pytest.mark.control("C-dp-4")
def test_basic_composition_would_cost_more_than_half_as_much_again() -> None:
    kinds = {(2.0, 0.1): 10, (2.0, 1.0): 1, (3.0, 0.2): 5}
    basic = sum(spent({kind: n}, 1e-5 / 3) for kind, n in kinds.items())
    assert spent(kinds, 1e-5) < basic / 1.5


def test_nearly_no_sampling_meets_the_exact_account_of_mixed_noise() -> None:
    """The joint grid of two kinds against the closed form, far into the tail."""
    rate = 1.0 - 1e-9
    for delta in (1e-5, 1e-40):
        found = pld.epsilon({(4.0, rate): 10, (7.0, rate): 40, (30.0, 1.0): 1}, delta)
        exact = spent({(4.0, 1.0): 10, (7.0, 1.0): 40, (30.0, 1.0): 1}, delta)
        assert exact * (1.0 - 1e-6) <= found <= exact * 1.01


def test_kinds_that_hardly_differ_cost_as_one() -> None:
    alike = spent({(1.0, 0.01): 500, (1.0 + 1e-9, 0.01): 300, (1.0, 0.01 - 1e-11): 200}, 1e-5)
    assert alike == pytest.approx(spent({(1.0, 0.01): 1000}, 1e-5), rel=1e-4)


def test_delta_of_mixed_kinds_is_the_inverse() -> None:
    kinds = {(1.5, 0.05): 20, (3.0, 0.4): 3, (9.0, 1.0): 5}
    assert delta_of(kinds, spent(kinds, 1e-6)) == pytest.approx(1e-6, rel=1e-3)


def test_no_rounds_cost_nothing() -> None:
    assert spent({}, 1e-5) == spent({(1.0, 0.5): 0}, 1e-5) == 0.0
    assert delta_of({}, 1.0) == 1e-100


@given(
    st.dictionaries(
        st.tuples(st.floats(0.5, 50.0), st.floats(1e-3, 0.9)), st.integers(1, 9), min_size=40
    ),
    st.integers(1, 32),
)
@settings(max_examples=30, deadline=None)
def test_groups_are_few_and_have_no_more_noise_and_no_less_rate(
    kinds: dict[Kind, int], most: int
) -> None:
    """So each round counts as one that costs no less."""
    few = joined(kinds, most)
    assert len(few) <= most
    assert sum(few.values()) == sum(kinds.values())
    for noise, rate in kinds:
        assert any(z <= noise and q >= rate for z, q in few)


def test_thousands_of_kinds_stay_bounded_and_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger in which no two charges are alike: grouped, it costs a little more, and not less."""
    kinds = {(20.0 + i / 1000, 0.1 + i / 100_000): 1 for i in range(3000)}
    monkeypatch.setattr(composition, "_CONVOLVED", 4)
    monkeypatch.setattr(composition, "_SUMMED", 16)
    few = joined(kinds, 4)
    assert len(few) <= 4
    found = spent(kinds, 1e-5)
    least = spent({(23.0, 0.1): 3000}, 1e-5)
    most = spent({(20.0, 0.13): 3000}, 1e-5)
    assert least < found < most


@pytest.mark.parametrize("kind", [(1e-4, 1.0), (1e10, 0.5), (1.0, 1e-10), (math.nan, 1.0)])
def test_a_kind_out_of_limits_is_refused_by_name(kind: Kind) -> None:
    for count in (spent, delta_of):
        with pytest.raises(CompatibilityError) as caught:
            count({kind: 1, (1.0, 0.1): 1}, 1e-5)
        assert caught.value.code == "QRES-E314"


def test_more_noise_than_any_limit_costs_nothing_without_sampling() -> None:
    kinds = {(3.0, 1.0): 4, (1e150, 1.0): 9}
    assert spent(kinds, 1e-5) == pytest.approx(accounting.epsilon(3.0, 4, 1e-5), rel=1e-9)
