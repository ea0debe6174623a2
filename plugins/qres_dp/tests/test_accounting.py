"""The account against exact values, and laws it has to keep."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qres_dp import accounting
from qres_dp.accounting import gaussian

from qres_core.errors import CompatibilityError, ConfigError

# ── exact values ──────────────────────────────────────────────────────────────────────────────

# mu, epsilon and delta = Phi(mu/2 - eps/mu) - exp(eps) Phi(-mu/2 - eps/mu), by mpmath with 80
# digits.
EXACT = json.loads(
    (Path(__file__).parent / "oracles" / "gaussian.json").read_text(encoding="utf-8")
)


@pytest.mark.claim("C-dp-3")
@pytest.mark.parametrize("row", EXACT, ids=str)
def test_the_curve_is_exact_and_never_below(row: list[float]) -> None:
    mu, epsilon, delta = row
    found = gaussian.delta(mu, epsilon)
    assert delta <= found <= delta * (1.0 + 1e-4)


@given(st.floats(-5, 3), st.floats(-20, 25))
@settings(max_examples=200, deadline=None)
def test_the_curve_and_its_inverses(log_mu: float, x: float) -> None:
    mu = 10.0**log_mu
    epsilon = max(0.0, mu * mu / 2 + x * mu)
    delta = gaussian.delta(mu, epsilon)
    if not 1e-200 < delta < 0.999 or epsilon == 0.0:
        return
    back = gaussian.epsilon(mu, delta)
    assert gaussian.delta(mu, back) <= delta
    assert back == pytest.approx(epsilon, rel=1e-6, abs=1e-9 * mu)
    found = gaussian.mu(epsilon, delta)
    assert gaussian.delta(found, epsilon) <= delta
    assert found == pytest.approx(mu, rel=1e-6)


# ── laws ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.control("C-dp-3")
def test_control_a_thousandth_less_noise_is_below_an_exact_value() -> None:
    assert any(gaussian.delta(0.999 * mu, epsilon) < delta for mu, epsilon, delta in EXACT)


def test_more_rounds_cost_more() -> None:
    spent = [accounting.epsilon(1.0, t, 1e-6) for t in (1, 30, 900)]
    assert spent == sorted(spent)


@pytest.mark.parametrize(
    ("epsilon", "delta", "rounds"), [(1.0, 1e-5, 1000), (8.0, 1e-5, 60), (0.1, 1e-9, 10**9)]
)
def test_calibrated_noise_is_enough_and_little_more(
    epsilon: float, delta: float, rounds: int
) -> None:
    noise = accounting.calibrate(epsilon, delta, rounds)
    assert accounting.epsilon(noise, rounds, delta) <= epsilon
    assert accounting.epsilon(noise * 0.999, rounds, delta) > epsilon
    assert accounting.delta(noise, rounds, epsilon) == pytest.approx(delta, rel=1e-6)


@pytest.mark.parametrize("noise", [1e-3, 0.3, 1e9])
@pytest.mark.parametrize("rounds", [1, 10**9])
@pytest.mark.parametrize("delta", [1e-100, 0.5])
def test_extremes_give_a_bound(noise: float, rounds: int, delta: float) -> None:
    found = accounting.epsilon(noise, rounds, delta)
    assert math.isfinite(found)
    assert found >= 0.0


# ── refusals ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "arguments",
    [
        (0.0, 1, 1e-5),
        (-1.0, 1, 1e-5),
        (math.nan, 1, 1e-5),
        (math.inf, 1, 1e-5),
        (1e-4, 1, 1e-5),
        (1.0, 0, 1e-5),
        (1.0, 10**10, 1e-5),
        (1.0, 1, 0.0),
        (1.0, 1, 1.0),
        (1.0, 1, 1e-200),
        (1.0, 1, math.nan),
    ],
)
def test_out_of_limits_is_refused_by_name(arguments: tuple[float, int, float]) -> None:
    with pytest.raises(CompatibilityError) as caught:
        accounting.epsilon(*arguments)
    assert caught.value.code == "QRES-E314"


@pytest.mark.parametrize("wrong", [True, "1", None, 1 + 0j])
def test_what_is_no_number_is_refused_by_name(wrong: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        accounting.epsilon(wrong, 1, 1e-5)
    assert caught.value.code == "QRES-E104"
    with pytest.raises(ConfigError):
        accounting.epsilon(1.0, 1.0, 1e-5)  # type: ignore[arg-type]


def test_a_budget_no_noise_can_keep_is_refused() -> None:
    with pytest.raises(CompatibilityError) as caught:
        accounting.calibrate(1e-9, 1e-100, 10**9)
    assert caught.value.code == "QRES-E314"


def test_without_epsilon_the_least_delta_leaves_next_to_nothing() -> None:
    found = gaussian.mu(0.0, 1e-300)
    assert 0.0 <= found < 1e-280
    assert found == 0.0 or gaussian.delta(found, 0.0) <= 1e-300
