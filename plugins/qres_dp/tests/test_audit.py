"""The audit passes the plugin and finds every fault that is put into it."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from qres_arithmetic import squared_norm
from qres_dp.audit import black_box, exact, run, white_box
from qres_dp.audit.faults import FAULTS, Z, fault, silent
from qres_dp.audit.finding import Finding
from qres_dp.audit.run import audit
from qres_dp.audit.statistics import loss_below, mean_score, rate_above, scale_score
from qres_dp.audit.system import Sum, System
from qres_dp.clip import clip
from qres_dp.discrete_gaussian import discrete_gaussian
from qres_dp.modes import Mode
from qres_dp.releases import local

from qres_core import ValueRefusedError, Vector

NOISE = {"half the noise", "0.9 of the noise", "noise used again", "tail without noise"}
NOISE |= {"forgotten z"}
CLIP = {"no clipping", "clipping by layer", "clipping by coordinate", "clipping in floats"}
CLIP |= {"norm that wraps"}
LOUD = {"half the noise", "no clipping", "clipping by layer", "clipping by coordinate"}
LOUD |= {"noise used again", "tail without noise"}


def test_the_plugin_passes() -> None:
    found = audit(runs=200)
    assert found.passed, found
    assert len(found.findings) == 6


def test_the_ten_faults_are_all_there() -> None:
    assert set(FAULTS) == NOISE | CLIP
    assert len(FAULTS) == 10


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("name", sorted(NOISE))
def test_the_white_box_finds_faults_of_the_noise(name: str, mode: Mode) -> None:
    with fault(name):
        assert not white_box.examine(System(mode, Z)).passed


@pytest.mark.parametrize("name", sorted(CLIP))
def test_the_exact_check_finds_faults_of_clipping(name: str) -> None:
    with fault(name):
        found = exact.examine(System(Mode.DISTRIBUTED, Z))
    assert found.value > 1.0, "by what it measured, not because the plugin refused"


@pytest.mark.parametrize("name", sorted(LOUD))
@pytest.mark.long
def test_the_black_box_finds_loud_faults_by_releases_alone(name: str) -> None:
    with fault(name):
        found = black_box.examine(System(Mode.DISTRIBUTED, Z), runs=240)
    assert found.value > found.limit


class Refusing(System):
    """A plugin that releases nothing."""

    def release(self, vectors: Sequence[Vector]) -> Sum:
        raise ValueRefusedError.of("QRES-E501", "update", f"{len(vectors)} refused")


def test_a_plugin_that_refuses_an_update_of_the_audit_does_not_pass() -> None:
    for examine in (exact.examine, black_box.examine):
        found = examine(Refusing(Mode.LOCAL, Z))
        assert not found.passed
        assert "QRES-E501" in found.refused


def test_controls_audit_the_plugin_with_one_fault_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    altered = {"half the noise": local.discrete_gaussian, "no clipping": local.clip}
    seen = []

    def checks(mode: Mode, runs: int) -> Iterator[Finding]:
        now = {"half the noise": local.discrete_gaussian, "no clipping": local.clip}
        seen.append({name for name, was in altered.items() if now[name] is not was})
        yield Finding("white box", mode.value, float(runs), 5.0)

    monkeypatch.setattr(run, "examine", checks)
    found = list(run.controls(runs=7))
    assert [case.subject for case in found] == list(FAULTS)
    assert not any(case.passed for case in found)
    assert {case.findings[0].mode for case in found} == {"distributed"}
    for name, changed in zip(FAULTS, seen, strict=True):
        if name in altered:
            assert changed == {name}
    assert (local.discrete_gaussian, local.clip) == tuple(altered.values())


def test_a_fault_is_gone_with_its_block() -> None:
    with fault("no clipping"), fault("half the noise"):
        assert local.clip is not clip
        assert local.discrete_gaussian is not discrete_gaussian
    assert local.clip is clip
    assert local.discrete_gaussian is discrete_gaussian
    with pytest.raises(ZeroDivisionError), fault("no clipping"):
        _ = 1 // 0
    assert local.clip is clip


@pytest.mark.parametrize("mode", list(Mode))
def test_a_silent_plugin_releases_the_clipped_sum(mode: Mode) -> None:
    system = System(mode, Z)
    item = np.arange(8, dtype=np.int32) * 100_000
    with silent():
        released = system.release([item] * system.inputs)
    expected = clip(item, system.bound).vector.astype(np.int64) * system.inputs
    np.testing.assert_array_equal(released, expected)


def test_adversarial_vectors_lie_outside_the_ball() -> None:
    bound = 65536
    norms = [math.isqrt(squared_norm(item)) for _, item in exact.adversarial(bound)]
    outside = [norm > bound for norm in norms]
    assert sum(outside) > 0.9 * len(outside)
    assert any(norm < 8 * bound for norm in norms), "also a little outside"


def test_a_refusal_or_no_number_is_no_pass() -> None:
    assert Finding("x", "local", 1.0, 1.0).passed
    assert not Finding("x", "local", 1.0, 1.0, "refused").passed
    assert not Finding("x", "local", math.nan, 1.0).passed


# ── statistics ────────────────────────────────────────────────────────────────────────────────


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
    above, bounds = 0, []
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


def test_vectors_of_the_audit_do_not_depend_on_a_seed() -> None:
    random.seed(1)
    first = [array.tobytes() for pair in exact.adversarial(1000) for array in pair]
    random.seed(2)
    assert first == [array.tobytes() for pair in exact.adversarial(1000) for array in pair]
