"""The audit passes the plugin and finds every fault that is put into it."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import qres_dp
from qres_arithmetic import clipped
from qres_dp import accounting
from qres_dp_audit import noise, plan, reference, run
from qres_dp_audit.course import Course, same_randomness
from qres_dp_audit.draw import KINDS, drawn, printed
from qres_dp_audit.faults import FAULTS
from qres_dp_audit.finding import Finding
from qres_dp_audit.mutants import installed, loaded

from qres_core.errors import ValueRefusedError


@pytest.fixture(scope="module")
def package() -> ModuleType:
    return installed()


@pytest.fixture(autouse=True)
def _few(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer releases than an audit has, but in long tests."""
    if request.node.get_closest_marker("long") is None:
        monkeypatch.setattr(noise, "NARROW", 2)
        monkeypatch.setattr(noise, "WIDE", 1)


@pytest.mark.claim("C-dp-20")
@pytest.mark.parametrize("kind", KINDS)
def test_the_plugin_passes(package: ModuleType, kind: str) -> None:
    found = list(run.examine(package, kind, 4))
    assert all(item.passed for item in found), found
    assert [item.check for item in found] == ["plan", "course"]


@pytest.mark.claim("C-dp-20")
def test_a_course_of_each_kind_compares_a_lot(package: ModuleType, tmp_path: Path) -> None:
    for kind in KINDS:
        course = Course(package, printed(package, drawn(kind, 2)), tmp_path / kind)
        course.play()
        assert not course.wrong
        assert course.compared > (20 if kind == "long" else 100)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10))
def test_whole_audits_pass(seed: int) -> None:
    found = run.audit(seed)
    assert found.passed, found
    assert {item.check for item in found.findings} == {"plan", "course", "noise"}


def test_the_same_seed_makes_the_same_audit() -> None:
    assert drawn("encoded", 7) == drawn("encoded", 7) != drawn("encoded", 8)
    with loaded("keys of two bytes") as faulty:
        found = [list(run.examine(faulty, "local", 3)) for _ in range(2)]
    assert found[0] == found[1]
    assert not found[0][-1].passed


@pytest.mark.control("C-dp-20")
@pytest.mark.parametrize(
    ("name", "kind", "seed"),
    [  # one of each sort; `test_every_fault_is_found` has all of them
        ("0.9 of the noise in the mechanism", "local", 0),
        ("groups at the price of their root", "local", 0),
        ("clipping in floats", "local", 0),
        ("keys of 40 bits", "local", 0),
        ("an anchor that stays", "local", 0),
        ("a journal that nobody asks", "local", 0),
        ("no wait after a restart", "local", 0),
        ("no clipping above 8,192 coordinates", "long", 0),
        ("noise cut at 4.4 deviations", "long", 0),
        ("half the noise of records alone", "records alone", 0),
        ("twice the clip for a record", "records alone", 0),
        ("rows from before a restart for nothing", "encoded", 0),
        ("the same data twice in a sum", "encoded", 0),
        ("one watcher whatever the colluders", "encoded", 0),
    ],
)
def test_a_fault_is_found(name: str, kind: str, seed: int) -> None:
    with loaded(name) as faulty:
        assert not all(item.passed for item in run.examine(faulty, kind, seed))


@pytest.mark.control("C-dp-20")
@pytest.mark.parametrize("name", sorted(FAULTS))
@pytest.mark.long
def test_every_fault_is_found(name: str) -> None:
    (found,) = run.controls(0, [name])
    assert not found.passed


@pytest.mark.claim("C-dp-20")
def test_the_plan_is_held_to_the_promise_and_not_to_the_mechanism(package: ModuleType) -> None:
    """A fault that is in plan and noise alike: the formulas of the audit tell."""
    with loaded("0.9 of the noise in the mechanism") as faulty:
        assert plan.lacking(printed(faulty, drawn("local", 0)))
    assert not plan.lacking(printed(package, drawn("local", 0)))


@pytest.mark.control("C-dp-5")
def test_half_the_noise_is_found_from_releases_alone() -> None:
    with loaded("half the noise") as faulty:
        found = list(noise.examine(faulty, 0))
    assert all(item.value > item.limit for item in found)


def test_controls_stop_at_the_check_that_finds_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def checks(package: ModuleType, seed: int) -> Iterator[Finding]:
        assert package is not qres_dp
        yield Finding("first", "local", seed, 8.0, 7.0)
        pytest.fail("a check after the one that found it")

    monkeypatch.setattr(run, "checks", checks)
    (found,) = run.controls(5, ["no clipping"])
    assert (found.subject, found.seed, found.passed) == ("no clipping", 5, False)


@pytest.mark.parametrize("what", [ValueRefusedError, ZeroDivisionError])
def test_a_plugin_that_fails_or_refuses_does_not_pass(
    package: ModuleType, what: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise what.of("QRES-E501", "update", "refused") if what is ValueRefusedError else what

    monkeypatch.setattr(package.Dp, "privatize", failing)
    assert not all(item.passed for item in run.examine(package, "local", 0))


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


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_every_fault_changes_text_that_is_there_once(name: str) -> None:
    fault = FAULTS[name]
    module = importlib.import_module(f"qres_dp.{fault.module}")
    with open(str(module.__file__), encoding="utf-8") as file:  # noqa: PTH123 - a module's text
        text = file.read()
    assert text.count(fault.old) == 1
    compile(text.replace(fault.old, fault.new), name, "exec")


def test_the_operating_systems_bytes_are_the_same_for_the_same_seed() -> None:
    given: list[bytes] = []
    for seed in (1, 1, 2):
        with same_randomness(seed) as source:
            assert source(32) not in (source(32), b"")
            given.append(source.given[0])
    assert given[0] == given[1] != given[2]


def test_a_refusal_or_no_number_is_no_pass() -> None:
    assert Finding("x", "local", 0, 1.0, 1.0).passed
    assert not Finding("x", "local", 0, 1.0, 1.0, "refused").passed
    assert not Finding("x", "local", 0, math.nan, 1.0).passed


# ── the reference ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mu", [0.2, 1.0, 4.0])
def test_the_formulas_of_the_audit_agree_with_the_accountant(mu: float) -> None:
    epsilon = reference.epsilon_of(mu, 1e-6)
    assert epsilon == pytest.approx(accounting.epsilon(1.0 / mu, 1, 1e-6), rel=1e-6)


def test_the_clip_of_the_reference_is_that_of_the_plugin() -> None:
    generator = np.random.default_rng(0)
    for _ in range(500):
        values = generator.integers(-(2**31), 2**31, generator.integers(1, 50))
        vector = (values >> generator.integers(0, 31)).astype(np.int32)
        bound = int(2.0 ** generator.uniform(0, 34))
        np.testing.assert_array_equal(reference.clipped(vector, bound), clipped(vector, bound))
