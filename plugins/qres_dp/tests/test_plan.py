"""Every plan keeps its budget, computed again from its integers; everything else is refused."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from qres_dp import Dp, accounting
from qres_dp.account import PrivacyAccount
from qres_dp.accounting import gaussian
from qres_dp.modes import Mode
from qres_dp.plan import PrivacyPlan

from qres_core import Surroundings, Visibility, commands
from qres_core.errors import QresError

OPTIONS: dict[str, Any] = {
    "mode": "distributed",
    "epsilon": 2.0,
    "delta": 1e-5,
    "clip": 0.5,
    "rounds": 60,
    "honest": 80,
}


def swarm(nodes: int = 100, dimension: int = 650, scale: int = 0) -> Surroundings:
    return Surroundings(
        nodes=nodes,
        byzantine=0,
        quorum=nodes,
        scale=scale,
        dimension=dimension,
        visibility=Visibility.SUM,
        members=nodes,
    )


def plan(around: Surroundings | None = None, **change: Any) -> PrivacyPlan:
    plugin = commands.structured(Dp, "plugins.dp", OPTIONS | change)
    return plugin.plan(around or swarm())


def delta_of(mu: float, epsilon: float) -> float:
    """The privacy curve by its definition: tanh-sinh quadrature, not the closed form."""
    a = epsilon / mu - mu / 2
    scale = 1.0 / (1.0 + abs(a))
    total = 0.0
    for k in range(-100, 100):
        v = k * 0.04
        x = math.exp(math.pi / 2 * math.sinh(v))
        t = scale * x
        if (a + t) ** 2 < 1400.0:
            total += -math.expm1(-mu * t) * math.exp(-((a + t) ** 2) / 2) * x * math.cosh(v)
    return total * 0.04 * math.pi / 2 * scale / math.sqrt(2 * math.pi)


def squared_mu(privacy_plan: PrivacyPlan) -> float:
    mechanism = privacy_plan.mechanism
    reach = mechanism.bound * (2 if mechanism.relation.value == "replace-one" else 1)
    variance = mechanism.share * max(1, privacy_plan.terms.honest) - 9
    return float(Fraction(privacy_plan.account.rounds * reach**2) / variance)


odd = st.sampled_from([0, 1, -1, True, None, "1", math.nan, math.inf, 2**70, 1.5, "local"])


def logs(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(math.log(low), math.log(high)).map(math.exp)


asked = st.fixed_dictionaries(
    {
        "mode": st.sampled_from(["local", "distributed"]),
        "epsilon": logs(1e-9, 1e6) | logs(0.1, 20.0) | odd,
        "delta": logs(1e-100, 1.0) | logs(1e-12, 1e-4) | odd,
        "clip": logs(2.0**-42, 2.0**42) | logs(0.1, 10.0),
        "rounds": st.integers(1, 10**9) | st.integers(1, 1000) | odd,
        "honest": st.integers(0, 300),
        "relation": st.sampled_from(["", "", "add-remove", "replace-one", "other"]),
    }
)
swarms = st.builds(
    swarm,
    nodes=st.integers(1, 70000) | st.integers(3, 300),
    dimension=st.integers(1, 2**31 - 1) | st.integers(1, 10**5),
    scale=st.integers(-32, 32) | st.just(0),
)


@pytest.mark.claim("C-dp-5")
@given(asked, swarms)
@example(OPTIONS, swarm())
@settings(max_examples=400, deadline=None)
def test_a_plan_keeps_its_budget_or_is_refused_by_name(
    options: dict[str, Any], around: Surroundings
) -> None:
    try:
        item = plan(around, **options)
    except QresError as error:
        assert error.code in {"QRES-E104", "QRES-E105", "QRES-E313", "QRES-E314"}  # noqa: PT017
        return
    budget = item.terms.budget
    assert item.epsilon <= budget.epsilon
    mu = math.sqrt(squared_mu(item))
    rounding = 1e-8 + 1e-15 * (budget.epsilon / mu + mu) * (abs(budget.epsilon / mu - mu / 2) + 1)
    assert delta_of(mu, budget.epsilon) <= budget.delta * (1.0 + rounding)
    promised = math.sqrt(item.account.rounds) / item.mechanism.noise_multiplier
    assert mu <= promised * (1 + 1e-14)
    assert math.sqrt(item.mechanism.share) >= 8.0
    assert item.mechanism.bound >= 2.0 * math.sqrt(around.dimension) * (1 - 1e-12)
    assert 0.0 < item.room <= 1.0


def test_the_plan_is_what_the_plugin_does() -> None:
    item = plan()
    plugin = Dp(mode="distributed", clip=0.5, delta=1e-5, epsilon=2.0, rounds=60, honest=80)
    assert plugin.status()["noise_multiplier"] == item.mechanism.noise_multiplier
    assert item.mechanism.bound == 2**15


def test_noise_in_real_units() -> None:
    item = plan()
    z, clip, honest, nodes = item.mechanism.noise_multiplier, 0.5, 80, 100
    assert item.noise_of_share == pytest.approx(z * clip / math.sqrt(honest), rel=1e-6)
    assert item.noise_of_sum == pytest.approx(item.noise_of_share * math.sqrt(nodes), rel=1e-12)
    assert item.noise_of_mean == pytest.approx(item.noise_of_sum / nodes, rel=1e-12)
    local = plan(mode="local", honest=0)
    assert local.noise_of_share == pytest.approx(2 * z * clip, rel=1e-6), "replace-one: 2 C"
    assert local.mechanism.mode is Mode.LOCAL


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"mode": "shuffled"}, "QRES-E105", "mode"),
    ({"relation": "none"}, "QRES-E105", "relation"),
    ({"clip": 0.0}, "QRES-E105", "clip"),
    ({"clip": math.nan}, "QRES-E105", "clip"),
    ({"clip": "1"}, "QRES-E104", "clip"),
    ({"epsilon": 0.0}, "QRES-E314", ""),
    ({"honest": 0}, "QRES-E314", "honest"),
    ({"honest": 100}, "QRES-E314", "honest"),
    ({"mode": "local"}, "QRES-E314", "honest"),
    ({"delta": 0.01}, "QRES-E105", "delta"),
    ({"mode": "local", "honest": 0, "relation": "add-remove"}, "QRES-E314", "relation"),
]
UNFIT: list[tuple[Surroundings, str, str]] = [
    (swarm(nodes=1000), "QRES-E314", "plugins.dp.delta"),
    (swarm(nodes=80), "QRES-E314", "plugins.dp.honest"),
    (swarm(dimension=10**9), "QRES-E313", "plugins.dp.clip"),
    (swarm(scale=16), "QRES-E313", "plugins.dp.clip"),
    (swarm(scale=-20), "QRES-E313", "plugins.dp.clip"),
]


@pytest.mark.parametrize(("change", "code", "where"), REFUSED, ids=str)
def test_what_cannot_be_done_is_refused_by_name(
    change: dict[str, Any], code: str, where: str
) -> None:
    with pytest.raises(QresError) as caught:
        plan(**change)
    assert caught.value.code == code
    assert where in str(caught.value.problems[0])


@pytest.mark.parametrize(("around", "code", "where"), UNFIT, ids=str)
def test_a_swarm_that_does_not_hold_it_is_refused_by_name(
    around: Surroundings, code: str, where: str
) -> None:
    with pytest.raises(QresError) as caught:
        plan(around, delta=1e-3)
    assert caught.value.code == code
    assert caught.value.problems[0].where == where


def test_a_grid_too_coarse_is_refused_with_the_scales_that_do() -> None:
    with pytest.raises(QresError) as caught:
        plan(swarm(scale=16))
    found = re.search(r"swarm\.scale in (-?\d+)\.\.(-?\d+)", caught.value.problems[0].fix)
    assert found is not None
    low, high = map(int, found.groups())
    for scale in range(-32, 33):
        try:
            plan(swarm(scale=scale))
        except QresError:
            assert not low <= scale <= high
        else:
            assert low <= scale <= high


# ── what is charged ───────────────────────────────────────────────────────────────────────────


def test_a_budget_and_a_noise_last_for_the_rounds_that_are_told() -> None:
    item = plan(rounds=0, noise_multiplier=10.0)
    rounds = item.account.rounds
    assert accounting.epsilon(10.0, rounds, 1e-5) <= 2.0
    assert accounting.epsilon(10.0, rounds + 1, 1e-5) > 2.0


def test_correlated_noise_is_charged_step_by_step() -> None:
    item = plan(swarm(dimension=1), noise="correlated", separation=20, rounds=100)
    assert item.account.rounds == 100
    assert len(item.account.charges) > 2, "not every step costs the same"
    assert 1.999 < item.epsilon <= 2.0
    told = item.to_json()["mechanism"]
    assert (told["noise"], told["band"], told["separation"]) == ("correlated", 16, 20)
    assert told["gain"] > 1.0


@pytest.mark.claim("C-dp-5")
@pytest.mark.parametrize(
    "options",
    [
        {"mode": "local", "clip": 0.01},
        {"mode": "local", "clip": 0.01, "unit": "record", "records": 3},
        {"mode": "distributed", "clip": 1.0, "honest": 5},
    ],
    ids=str,
)
def test_a_run_is_charged_what_its_plan_says(
    make_node: Callable[..., Any], options: dict[str, Any]
) -> None:
    """The ledger of all planned rounds holds the charges of the plan, and has spent its epsilon."""
    node = make_node(epsilon=8.0, rounds=6, **options)
    around = Surroundings(
        nodes=7,
        byzantine=0,
        quorum=7,
        scale=node.info.scale,
        dimension=node.info.dimension,
        visibility=Visibility.SUM,
        members=7,
    )
    made = node.plugin.plan(around)
    zero = np.zeros(node.info.dimension, dtype=np.int32)
    for _ in range(6):
        node.send(zero)
        node.next_round()
    ledger = node.plugin._release.ledger
    charged = Counter(r.charge.noise_multiplier for r in ledger.records)
    assert charged == made.account.charges
    assert ledger.spent(1e-6) == made.epsilon == made.to_json()["epsilon"]


# ── groups ────────────────────────────────────────────────────────────────────────────────────


def test_a_group_is_a_gaussian_of_so_many_times_the_mu() -> None:
    account = PrivacyAccount({8.0: 60}, 1e-5)
    mu = account.mu
    assert account.of_group(5) == pytest.approx(gaussian.epsilon(5 * mu, 1e-5), rel=1e-9)


def test_a_group_beyond_what_is_accounted_for_has_no_number() -> None:
    account = PrivacyAccount({0.005: 1}, 1e-5)
    assert account.to_json()["groups"][-1] == {"size": 10, "epsilon": None}
    with pytest.raises(QresError):
        account.of_group(10)
