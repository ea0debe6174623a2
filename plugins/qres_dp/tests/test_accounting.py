"""The account against exact values, another implementation and laws it has to keep."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qres_dp import accounting
from qres_dp.accounting import gaussian, pld, rdp
from scipy.special import log_ndtr, ndtr

from qres_core import CompatibilityError, ConfigError

ORACLE: Any = json.loads(
    (Path(__file__).parent / "oracles" / "dp_accounting.json").read_text(encoding="utf-8")
)
ROWS = ORACLE["settings"]
SAMPLED = [row for row in ROWS if row["rate"] < 1.0]


def name(row: Any) -> str:
    return f"z={row['noise']} q={row['rate']} T={row['rounds']} d={row['delta']}"


# ── another implementation ────────────────────────────────────────────────────────────────────


@pytest.mark.claim("C-dp-3")
@pytest.mark.parametrize("row", ROWS, ids=name)
def test_agrees_with_dp_accounting(row: Any) -> None:
    found = accounting.epsilon(row["noise"], row["rounds"], row["delta"], sampling_rate=row["rate"])
    assert found >= row["lower"]
    assert found == pytest.approx(row["upper"], abs=1e-3)
    assert found <= row["rdp"] + 1e-9


@pytest.mark.control("C-dp-3")
def test_control_the_central_limit_is_below_an_exact_value() -> None:
    """The usual rule of thumb for sampled rounds: the bound of the oracle finds it out."""

    def thumb(row: Any) -> float:
        loss = row["rate"] * math.sqrt(row["rounds"] * math.expm1(row["noise"] ** -2))
        return gaussian.epsilon(loss, row["delta"])

    assert any(thumb(row) < row["lower"] for row in SAMPLED)


def test_the_oracle_covers_enough() -> None:
    assert len(SAMPLED) >= 12


@pytest.mark.parametrize("row", SAMPLED[::4], ids=name)
def test_delta_is_the_inverse(row: Any) -> None:
    noise, rounds, rate = row["noise"], row["rounds"], row["rate"]
    epsilon = accounting.epsilon(noise, rounds, row["delta"], sampling_rate=rate)
    delta = accounting.delta(noise, rounds, epsilon, sampling_rate=rate)
    assert delta == pytest.approx(row["delta"], rel=1e-3)


def test_the_published_example() -> None:
    assert round(accounting.epsilon(1.0, 1000, 1e-5, sampling_rate=0.01), 3) == 1.828


@pytest.mark.parametrize("row", SAMPLED[:3], ids=name)
def test_agrees_with_dp_accounting_live(row: Any) -> None:
    dp_accounting = pytest.importorskip("dp_accounting")
    event = dp_accounting.PoissonSampledDpEvent(
        row["rate"], dp_accounting.GaussianDpEvent(row["noise"])
    )
    accountant = dp_accounting.pld.PLDAccountant()
    accountant.compose(dp_accounting.SelfComposedDpEvent(event, row["rounds"]))
    found = accounting.epsilon(row["noise"], row["rounds"], row["delta"], sampling_rate=row["rate"])
    assert found == pytest.approx(accountant.get_epsilon(row["delta"]), abs=1e-3)


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


def test_one_sampled_round_has_a_closed_form() -> None:
    """Adding or removing with rate q: delta_q(log(1 + q (e^eps - 1))) = q delta(eps)."""
    for noise, rate, epsilon in ((1.0, 0.01, 1.5), (0.6, 0.2, 3.0), (3.0, 0.5, 0.4)):
        exact = rate * gaussian.delta(1.0 / noise, epsilon)
        amplified = math.log1p(rate * math.expm1(epsilon))
        found = accounting.epsilon(noise, 1, exact, sampling_rate=rate)
        assert amplified - 1e-12 <= found <= amplified + 2e-4


def convolved(noise: float, rate: float, delta: float) -> float:
    """Epsilon of two sampled rounds by brute force: a grid of outcomes, no privacy-loss grid."""
    x = np.linspace(-9 * noise, 9 * noise + 1, 1201)
    width = x[1] - x[0]
    base = np.exp(-((x / noise) ** 2) / 2) / (noise * math.sqrt(2 * math.pi)) * width
    moved = np.exp(-(((x - 1) / noise) ** 2) / 2) / (noise * math.sqrt(2 * math.pi)) * width
    mixed = (1 - rate) * base + rate * moved
    found = []
    for p, q in ((mixed, base), (base, mixed)):
        pp, qq = np.outer(p, p).ravel(), np.outer(q, q).ravel()
        low, high = 0.0, 20.0
        for _ in range(40):
            middle = (low + high) / 2
            above = np.maximum(pp - math.exp(middle) * qq, 0.0).sum() > delta
            low, high = (middle, high) if above else (low, middle)
        found.append(high)
    return max(found)


@pytest.mark.claim("C-dp-3")
def test_two_sampled_rounds_by_brute_force() -> None:
    found = pld.epsilon({(0.8, 0.1): 2}, 1e-4)
    assert found == pytest.approx(convolved(0.8, 0.1, 1e-4), abs=1e-3)


# ── laws ──────────────────────────────────────────────────────────────────────────────────────


def one_round_delta(epsilon: float, noise: float, rate: float) -> float:
    """The exact delta of one sampled round, where a node is taken out (Balle, Barthe, Gaboardi)."""
    over = epsilon + math.log1p((rate - 1.0) * math.exp(-epsilon))  # log(exp(epsilon) - 1 + rate)
    least = 0.5 + noise**2 * (over - math.log(rate))
    false = math.exp(over + log_ndtr(-least / noise))
    return float(rate * ndtr((1.0 - least) / noise) - false)


@given(
    st.floats(-1.0, 1.5),
    st.floats(-4.0, -0.05),
    st.integers(1, 3000),
    st.floats(-14.0, -2.0),
)
@settings(max_examples=6, deadline=None)
def test_sampling_costs_no_more_than_none_and_rounds_add_up(
    log_noise: float, log_rate: float, rounds: int, log_delta: float
) -> None:
    """Sampling never costs more than none, and all rounds cost no less than one exactly does."""
    noise, rate, delta = 10.0**log_noise, 10.0**log_rate, 10.0**log_delta
    found = accounting.epsilon(noise, rounds, delta, sampling_rate=rate)
    assert 0.0 <= found <= accounting.epsilon(noise, rounds, delta)
    assert one_round_delta(found, noise, rate) <= delta * (1.0 + 1e-4)


@pytest.mark.parametrize("delta", [1e-5, 1e-30, 1e-60])
def test_tiny_deltas_lose_no_precision(delta: float) -> None:
    """Nearly no sampling: the tilted transform meets the exact curve far below 1e-16."""
    found = pld.epsilon({(2.0, 1.0 - 1e-9): 50}, delta)
    exact = gaussian.epsilon(math.sqrt(50) / 2.0, delta)
    assert exact - 1e-6 <= found <= exact + 5e-3


def test_more_rounds_cost_more() -> None:
    spent = [accounting.epsilon(1.0, t, 1e-6, sampling_rate=0.02) for t in (1, 30, 900)]
    assert spent == sorted(spent)


def test_renyi_moments_of_tiny_rates_do_not_cancel() -> None:
    """``A - 1`` is about ``C(a, 2) q^2 expm1(1/z^2)``, far below the precision of 1 + x."""
    rate, noise = 1e-9, 2.0
    for order, value in zip(rdp.ORDERS[:5], rdp.curve(noise, rate)[:5], strict=True):
        leading = order * (order - 1) / 2 * rate**2 * math.expm1(1 / noise**2) / (order - 1)
        assert value == pytest.approx(leading, rel=1e-6)


@pytest.mark.parametrize(
    ("epsilon", "delta", "rounds", "rate"),
    [
        (1.0, 1e-5, 1000, 0.01),
        (8.0, 1e-5, 60, 1.0),
        (0.1, 1e-9, 10**9, 1.0),
        (1e-2, 1e-8, 10**4, 1e-4),
        (20.0, 1e-6, 10, 0.3),
    ],
)
def test_calibrated_noise_is_enough_and_little_more(
    epsilon: float, delta: float, rounds: int, rate: float
) -> None:
    noise = accounting.calibrate(epsilon, delta, rounds, sampling_rate=rate)
    assert accounting.epsilon(noise, rounds, delta, sampling_rate=rate) <= epsilon
    less = accounting.epsilon(noise * 0.999, rounds, delta, sampling_rate=rate)
    assert less > epsilon


@pytest.mark.parametrize("rate", [1.0, 1e-3, 1e-9])
@pytest.mark.parametrize("noise", [1e-3, 0.3, 1e9])
@pytest.mark.parametrize("rounds", [1, 10**9])
@pytest.mark.parametrize("delta", [1e-100, 0.5])
@pytest.mark.long
def test_extremes_give_a_bound(noise: float, rounds: int, delta: float, rate: float) -> None:
    found = accounting.epsilon(noise, rounds, delta, sampling_rate=rate)
    assert math.isfinite(found)
    assert 0.0 <= found <= accounting.epsilon(noise, rounds, delta)


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


def test_a_budget_no_noise_can_keep_is_refused_with_sampling_too() -> None:
    with pytest.raises(CompatibilityError, match="needs noise of over") as caught:
        accounting.calibrate(1e-9, 1e-100, 10**9, sampling_rate=0.9)
    assert caught.value.code == "QRES-E314"


def test_without_epsilon_the_least_delta_leaves_next_to_nothing() -> None:
    found = gaussian.mu(0.0, 1e-300)
    assert 0.0 <= found < 1e-280
    assert found == 0.0 or gaussian.delta(found, 0.0) <= 1e-300
