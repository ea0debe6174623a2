"""Mutants of security checks are found by their form, and a test finds each of them."""

from __future__ import annotations

import builtins
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def _scripts() -> Iterator[None]:
    sys.path.insert(0, str(ROOT / "scripts"))
    yield
    sys.path.remove(str(ROOT / "scripts"))


@pytest.fixture
def finding() -> ModuleType:
    return importlib.import_module("mutants.finding")


def found_in(finding: ModuleType, text: str) -> list[str]:
    _tree, mutants = finding.switched("m", text, 1)
    return [f"{mutant.what}: {mutant.text}" for mutant in mutants]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("def f(x):\n    if x > 3 or x.y: raise E\n", ["> is >=: x > 3", "never refuses: x > 3",
            "never refuses: x.y"]),
        ("def f(x):\n    if not (x.a and x.b): raise E\n", ["not asked: x.a", "not asked: x.b"]),
        ("def f(x):\n    if x.a: return reject('x')\n", ["never refuses: x.a"]),
        ("def f(x):\n    if x.a: return x.known\n", []),
        ("def f(x):\n    if x.sender in y: continue_()\n    z()\n", ["not asked: x.sender in y"]),
        ("def f(x):\n    if x.first: z()\n", []),
        ("def f(x) -> bool:\n    return x.a and x.b < 2\n", ["not asked: x.a", "< is <=: x.b < 2",
            "not asked: x.b < 2"]),
        ("def f(x) -> bool:\n    return compare_digest(x, y)\n",
            ["always yes: compare_digest(x, y)"]),
        ("def f(x) -> bool:\n    try: g(x)\n    except E: return False\n    return True\n",
            ["caught is good: E"]),
        ("def f(x): return '' if x.good else 'bad'\n", ["not asked: x.good"]),
        ("def f(x): return Fault.OLD if x.old else ''\n", ["never refuses: x.old"]),
        ("def f(x): return [v for v in x if v.sender in roster]\n",
            ["not asked: v.sender in roster"]),
        ("def f(x): return 2 * self.byzantine + 1\n", ["by one less: 2 * self.byzantine + 1"]),
        ("def f(x): return min(x, MAX_SIZE)\n", ["no ceiling: min(x, MAX_SIZE)"]),
        ("def f(x):\n    _number(x, 1, 2, 'x')\n    verify(x)\n",
            ["not looked at: _number(x, 1, 2, 'x')", "not done: verify(x)"]),
        ("if x: raise E\n", []),  # while it is imported no switch is turned yet
        ("@compiled\ndef f(x):\n    if x: raise E\n", []),  # nothing is turned in machine code
    ],
)  # fmt: skip
def test_checks_are_found_by_their_form(finding: ModuleType, text: str, found: list[str]) -> None:
    assert found_in(finding, text) == found


@pytest.mark.parametrize(
    ("module", "found"),
    [
        ("qres_core.swarm.sync.catching_up", ["never refuses: x.sender in y"]),
        ("qres_pki.issuer", ["> is >=: now > x.end", "never refuses: now > x.end",
            "never refuses: x.sender in y"]),
    ],
)  # fmt: skip
def test_in_the_swarm_the_clock_says_when_and_elsewhere_what_is_out_of_date(
    finding: ModuleType, module: str, found: list[str]
) -> None:
    text = "def f(x, now):\n    if now > x.end or x.sender in y: raise E\n"
    _tree, mutants = finding.switched(module, text, 1)
    assert [f"{mutant.what}: {mutant.text}" for mutant in mutants] == found


GUARD = """
def taken(frame, roster, most):
    if frame[0] not in roster or len(frame) > most:
        raise ValueError
    return frame
"""


@pytest.mark.parametrize(
    ("on", "passes"),
    [
        (0, {"a.."}),
        (1, {"a..", "x.."}),  # the roster is not asked
        (2, {"a.."}),  # `>` is `>=`, and refuses a frame of three
        (3, {"a..", "a..."}),  # of any size
    ],
)
def test_a_switch_takes_out_one_check_and_leaves_the_others(
    finding: ModuleType, monkeypatch: pytest.MonkeyPatch, on: int, passes: set[str]
) -> None:
    tree, mutants = finding.switched("m", GUARD, 1)
    room: dict[str, Any] = {}
    exec(compile(tree, "m", "exec"), room)  # noqa: S102 - its text is above
    monkeypatch.setattr(
        builtins,
        finding.SWITCHES,
        [bool(on) and index == on for index in range(len(mutants) + 1)],
        raising=False,
    )
    left = set()
    for frame in ("a..", "x..", "a..."):
        try:
            left.add(room["taken"](frame, {"a"}, 3))
        except ValueError:
            continue
    assert left == (passes if on != 2 else set())


def test_every_place_has_checks_and_no_two_mutants_one_name() -> None:
    places = importlib.import_module("mutants.places").PLACES
    playing = importlib.import_module("mutants.playing")
    names: list[str] = []
    try:
        for place in places.values():
            installed = playing.Installed(place.modules())
            mine = [installed.name(i) for i in range(1, len(installed.mutants))]
            assert mine
            assert all(name in place for name in mine)
            assert all((ROOT / tests).exists() for tests in place.tests)
            names += mine
    finally:
        delattr(builtins, importlib.import_module("mutants.finding").SWITCHES)
    assert len(names) == len(set(names)) >= 150
    command = importlib.import_module("mutants.__main__")
    page = (ROOT / "docs/audit/weaknesses.md").read_text("utf-8")
    said = re.search(r"\*\*Mutants\.\*\* All are found [^.]*? in ([^.]*)\.", page)
    assert said is not None
    assert "`inbound`" in said[1]
    known = {*command.read_equivalent(), *command.read_found()}
    for whole in re.findall(r"`(\w+)`", said[1]):
        left = [name for name in names if name in places[whole] and name not in known]
        assert not left, f"no test on record: make mutants ONLY={whole}"
    explained, found = command.read_equivalent(), command.read_found()
    assert set(explained) <= set(names), "explained, and gone: correct equivalent.toml"
    assert all(len(why) > 20 for why in explained.values())
    assert not explained.keys() & found.keys()


@pytest.mark.long
def test_tests_find_mutants_of_a_sample() -> None:
    command = (sys.executable, "-P", "-m", "mutants", "--sample", "15", "--jobs", "1")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    run = subprocess.run(
        command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "15 of 15 found" in run.stdout
