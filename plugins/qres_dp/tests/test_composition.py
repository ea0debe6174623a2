"""Rounds of several kinds together: exact, and never below the truth."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from qres_dp import accounting
from qres_dp.accounting.composition import delta_of, spent
from qres_dp.accounting.limits import Kind

from qres_core.errors import CompatibilityError

ORACLE: Any = json.loads(
    (Path(__file__).parent / "oracles" / "composition.json").read_text(encoding="utf-8")
)


def kinds_of(row: Any) -> Counter[Kind]:
    kinds: Counter[Kind] = Counter()
    for noise, rounds in row["kinds"]:
        kinds[noise] += rounds
    return kinds


def name(row: Any) -> str:
    return " ".join(f"{n}x{z:g}" for z, n in row["kinds"][:3])


@pytest.mark.claim("C-dp-4")
@pytest.mark.parametrize("row", ORACLE["settings"], ids=name)
def test_rounds_are_exact_to_sixty_digits(row: Any) -> None:
    found = spent(kinds_of(row), row["delta"])
    assert row["epsilon"] <= found <= row["epsilon"] * (1.0 + 1e-9)


@pytest.mark.control("C-dp-4")
def test_basic_composition_would_cost_more_than_half_as_much_again() -> None:
    kinds = {20.0: 10, 10.0: 3, 30.0: 50}
    basic = sum(spent({kind: n}, 1e-5 / 3) for kind, n in kinds.items())
    assert spent(kinds, 1e-5) < basic / 1.5


def test_delta_of_mixed_kinds_is_the_inverse() -> None:
    kinds = {15.0: 20, 3.0: 3, 9.0: 5}
    assert delta_of(kinds, spent(kinds, 1e-6)) == pytest.approx(1e-6, rel=1e-6)


def test_no_rounds_cost_nothing() -> None:
    assert spent({}, 1e-5) == spent({1.0: 0}, 1e-5) == 0.0
    assert delta_of({}, 1.0) == 1e-100


@pytest.mark.parametrize("kind", [1e-4, math.nan, -1.0])
def test_a_kind_out_of_limits_is_refused_by_name(kind: Kind) -> None:
    for count in (spent, delta_of):
        with pytest.raises(CompatibilityError) as caught:
            count({kind: 1, 1.0: 1}, 1e-5)
        assert caught.value.code == "QRES-E314"


def test_more_noise_than_any_limit_costs_nothing() -> None:
    kinds = {3.0: 4, 1e150: 9}
    assert spent(kinds, 1e-5) == pytest.approx(accounting.epsilon(3.0, 4, 1e-5), rel=1e-9)
