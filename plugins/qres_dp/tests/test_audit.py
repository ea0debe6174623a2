"""The audit passes the plugin and finds every fault that is put into it."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
import qres_dp
from qres_arithmetic import squared_norm
from qres_dp import accounting
from qres_dp.audit import ballots, books, exact, keys, noise, oracle, run
from qres_dp.audit.black_box import examine as black_box
from qres_dp.audit.claim import SETTINGS, AuditSetting, Claim, printed
from qres_dp.audit.faults import MUTANTS
from qres_dp.audit.finding import Finding
from qres_dp.audit.mutants import installed, loaded
from qres_dp.audit.statistics import loss_below, mean_score, rate_above, scale_score, tail_score
from qres_dp.audit.system import Rows, System, same_randomness

from qres_core import ValueRefusedError

NAMED = {setting.name: setting for setting in SETTINGS}
QUICK = [setting for setting in SETTINGS if setting.rate == 1.0]

pytestmark = pytest.mark.usefixtures("same_noise")


@pytest.fixture(scope="module")
def package() -> ModuleType:
    return installed()


def found_by(name: str) -> Finding:
    """The check that finds a fault, in the setting it is looked for."""
    with loaded(name) as package:
        claim = printed(package, NAMED[MUTANTS[name].setting])
        return next(item for item in run.examine(package, claim, 100) if not item.passed)


@pytest.fixture(autouse=True)
def _few(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer releases than an audit has, but in long tests."""
    if request.node.get_closest_marker("long") is None:
        monkeypatch.setattr(noise, "MANY", 100)
        monkeypatch.setattr(ballots, "ROUNDS", 60)


@pytest.mark.claim("C-dp-20")
@pytest.mark.parametrize("setting", QUICK, ids=lambda item: item.name)
def test_the_plugin_passes(package: ModuleType, setting: AuditSetting) -> None:
    found = list(run.examine(package, printed(package, setting), 100))
    assert all(item.passed for item in found), found
    assert {"plan", "exact distance", "noise", "independence", "ledger"} <= {f.check for f in found}


@pytest.mark.long
def test_the_whole_audit_passes_in_new_processes_too() -> None:
    found = run.audit([NAMED["distributed"], NAMED["encoded"]], runs=100)
    assert found.passed, found
    assert sum(item.check == "keys" for item in found.findings) == 2


@pytest.mark.control("C-dp-20")
@pytest.mark.parametrize(
    ("name", "check"),
    [  # one of each kind; `test_every_fault_is_found` has all of them
        ("0.9 of the noise", "noise"),
        ("half the epsilon", "plan"),
        ("clipping in floats", "exact distance"),
        ("twice the clip for a record", "exact distance"),
        ("sizes of noise twice", "independence"),
        ("second attempts for nothing", "ledger"),
        ("votes without noise", "votes"),
    ],
)
def test_a_fault_is_found_by_the_check_that_is_made_for_it(name: str, check: str) -> None:
    assert found_by(name).check == check


@pytest.mark.control("C-dp-20")
@pytest.mark.parametrize("name", sorted(MUTANTS))
@pytest.mark.long
def test_every_fault_is_found(name: str) -> None:
    (found,) = run.controls([name], runs=100)
    assert not found.passed


def test_a_key_that_others_know_is_found_by_beginning_anew(package: ModuleType) -> None:
    setting = NAMED["local"]
    claim = printed(package, setting)
    assert keys.examine(claim, [keys.first_noise(package, claim) for _ in range(3)]).passed
    with loaded("a key that the round names") as faulty:
        runs = [keys.first_noise(faulty, claim) for _ in range(2)]
    assert not keys.examine(claim, runs).passed


@pytest.mark.long
def test_a_coin_that_falls_too_often_is_found(
    package: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without printing the plan, whose convolutions take seconds."""
    monkeypatch.setattr(books, "FLIPS", 120)
    free = AuditSetting("sampled", {**NAMED["sampled"].options, "noise_multiplier": 8.0})
    claim = Claim(free, {})
    assert books.coin(package, claim).passed
    with loaded("coin that is always true") as faulty:
        assert not books.coin(faulty, claim).passed


@pytest.mark.control("C-dp-5")
def test_half_the_noise_is_found_from_releases_alone(package: ModuleType) -> None:
    claim = printed(package, NAMED["local"])
    with loaded("half the noise") as faulty:
        found = black_box(faulty, claim, runs=240)
    assert found.value > found.limit


@pytest.mark.claim("C-dp-20")
def test_the_claim_is_of_the_plan_and_not_of_what_is_audited(package: ModuleType) -> None:
    """A fault that is in the mechanism too changes both alike: the formulas of the audit tell."""
    name = "0.9 of the noise in the mechanism"
    claim = printed(package, NAMED["local"])
    with loaded(name) as faulty:
        assert not noise.examine(faulty, claim)[0].passed, "against the plan of a correct plugin"
        own = printed(faulty, NAMED["local"])
        assert noise.examine(faulty, own)[0].passed
        assert not books.plan(faulty, own).passed


def test_controls_stop_at_the_check_that_finds_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def checks(package: ModuleType, claim: Claim, runs: int) -> Iterator[Finding]:
        assert package is not qres_dp
        seen.append(claim.setting.name)
        yield Finding("first", claim.setting.name, float(runs), 7.0)
        yield Finding("second", claim.setting.name, 2.0, 1.0)
        pytest.fail("a check after the one that found it")

    monkeypatch.setattr(run, "examine", checks)
    (found,) = run.controls(["no clipping"], runs=7)
    assert (found.subject, found.passed, seen) == ("no clipping", False, ["distributed"])
    assert [item.check for item in found.findings] == ["first", "second"]


def test_a_plugin_that_refuses_what_the_audit_sends_does_not_pass(
    package: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = printed(package, NAMED["local"])

    def refusing(*_: object, **__: object) -> None:
        raise ValueRefusedError.of("QRES-E501", "update", "refused")

    monkeypatch.setattr(System, "release", refusing)
    for found in (exact.examine(package, claim), black_box(package, claim, 100)):
        assert not found.passed
        assert "QRES-E501" in found.refused


def test_a_fault_is_gone_with_its_block() -> None:
    modules = {key: value for key, value in sys.modules.items() if key.startswith("qres_dp")}
    with loaded("no clipping") as faulty:
        assert faulty is not qres_dp
        assert faulty.Dp is not qres_dp.Dp
    after = {key: value for key, value in sys.modules.items() if key.startswith("qres_dp")}
    assert after == modules
    with pytest.raises(ZeroDivisionError), loaded("half the noise"):
        _ = 1 // 0
    assert sys.modules["qres_dp"] is qres_dp


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_every_fault_changes_text_that_is_there_once(name: str) -> None:
    mutant = MUTANTS[name]
    module = importlib.import_module(f"qres_dp.{mutant.module}")
    with open(str(module.__file__), encoding="utf-8") as file:  # noqa: PTH123 - a module's text
        text = file.read()
    assert text.count(mutant.old) == 1
    compile(text.replace(mutant.old, mutant.new), name, "exec")


def test_noise_cancels_where_the_system_gives_the_same_bytes(package: ModuleType) -> None:
    item = np.arange(8, dtype=np.int32)
    sums: list[Rows] = []
    for seed in (1, 1, 2):
        with same_randomness(seed):
            sums.append(System(package, NAMED["distributed"]).sums(item, item))
    np.testing.assert_array_equal(sums[0], sums[1])
    assert (sums[0] != sums[2]).any()


def test_adversarial_vectors_lie_outside_the_ball_and_are_the_same_each_time() -> None:
    bound = 65536
    pairs = list(exact.adversarial(bound))
    norms = [math.isqrt(squared_norm(item)) for _, item in pairs]
    assert sum(norm > bound for norm in norms) > 0.9 * len(norms)
    assert any(norm < 8 * bound for norm in norms), "also a little outside"
    again = [item.tobytes() for pair in exact.adversarial(bound) for item in pair]
    assert again == [item.tobytes() for pair in pairs for item in pair]


def test_a_refusal_or_no_number_is_no_pass() -> None:
    assert Finding("x", "local", 1.0, 1.0).passed
    assert not Finding("x", "local", 1.0, 1.0, "refused").passed
    assert not Finding("x", "local", math.nan, 1.0).passed


# ── formulas and statistics ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mu", [0.2, 1.0, 4.0])
def test_the_formulas_of_the_audit_agree_with_the_accountant(mu: float) -> None:
    epsilon = oracle.epsilon_of(mu, 1e-6)
    assert epsilon == pytest.approx(accounting.epsilon(1.0 / mu, 1, 1e-6), rel=1e-6)
    assert oracle.mu_of(epsilon, 1e-6) == pytest.approx(mu, rel=1e-6)


def test_a_sampled_round_costs_what_the_accountant_says() -> None:
    known = accounting.epsilon(1.0, 1, 1e-5, sampling_rate=0.1)
    assert oracle.sampled_epsilon(1.0, 0.1, 1e-5) == pytest.approx(known, rel=1e-3)


@pytest.mark.parametrize(
    ("k", "n", "alpha", "expected"),
    [  # 1 - alpha^(1/n) for k = 0; the others by the beta quantile (scipy.stats.beta.ppf)
        (0, 100, 0.05, 1 - 0.05 ** (1 / 100)),
        (0, 350, 1e-6, 1 - 1e-6 ** (1 / 350)),
        (5, 50, 0.025, 0.21813537),
        (10, 10, 0.05, 1.0),
    ],
)
def test_upper_bounds_of_rates(k: int, n: int, alpha: float, expected: float) -> None:
    assert rate_above(k, n, alpha) == pytest.approx(expected, rel=1e-6)


def test_the_lower_bound_of_mu_holds_as_often_as_it_says() -> None:
    """True mu = 2, alpha = 0.1: at most about a tenth of the bounds lie above 2."""
    generator = np.random.default_rng(5)
    above = 0
    bounds: list[float] = []
    for _ in range(400):
        without, with_ = generator.normal(0, 1, 300), generator.normal(2, 1, 300)
        bounds.append(loss_below(without, with_, 1.0, 0.1))
        above += bounds[-1] > 2.0
    assert above <= 52  # 3 deviations above 40
    assert np.median(bounds) > 1.6, "and is not vacuous"


def test_scores_of_correct_noise_are_standard() -> None:
    generator = np.random.default_rng(6)
    scores = np.array([scale_score(generator.normal(size=64)) for _ in range(4000)])
    assert 0.9 < float(np.mean(scores**2)) < 1.1
    assert scores.max() < 5.5
    means = np.array([mean_score(generator.normal(size=64)) for _ in range(1000)])
    assert 0.85 < float(np.mean(means**2)) < 1.15
    tails = [tail_score(generator.normal(size=400), 2.0) for _ in range(400)]
    assert max(tails) < 4.5
    assert np.mean([score > 1.645 for score in tails]) < 0.15  # two tails of one in twenty


def test_independent_rows_stay_below_the_limit_and_repeated_ones_do_not() -> None:
    generator = np.random.default_rng(7)
    rows = generator.normal(size=(6, 1024))
    assert 3.0 < noise.correlation(rows) < 7.0, "the largest of some fifty thousand"
    shifted = rows.copy()
    shifted[5, 100:] = rows[0, :-100] * np.sign(generator.normal(size=924))
    assert noise.correlation(shifted) > noise.LAGS_LIMIT, "sizes alone, a hundred places on"
