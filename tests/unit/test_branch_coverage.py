"""The coverage check measures every distribution, and refuses what falls short."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SETTINGS: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]
EXCLUDED = re.compile("|".join(SETTINGS["coverage"]["report"]["exclude_lines"]))


@pytest.fixture(scope="module")
def check(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("branch_coverage")


def percent(found: float) -> dict[str, float]:
    return {"num_statements": 100, "num_branches": 20, "percent_covered": found}


def test_every_distribution_of_the_workspace_is_measured_by_tests_that_exist(
    check: ModuleType,
) -> None:
    kinds = ("plugins", "libraries", "integrations")
    projects = [project for kind in kinds for project in ROOT.glob(f"{kind}/*/pyproject.toml")]
    assert set(check.TESTS) == {"qres_core", *(project.parent.name for project in projects)}
    assert len(check.TESTS) > 8
    for tests in check.TESTS.values():
        assert list(tests.rglob("test_*.py")), tests


@pytest.mark.parametrize(
    ("passed", "totals", "status", "complaint"),
    [
        (True, percent(95.0), 0, ""),
        (True, percent(94.9), 1, "qres_krum: 94.9 % is below 95 %"),
        (False, percent(100.0), 1, "qres_krum: a test failed"),
        (True, {}, 1, "qres_krum: 0.0 % is below 95 %"),
    ],
)
def test_a_failed_test_and_too_little_coverage_fail_the_check(
    check: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    passed: bool,  # noqa: FBT001 - a row of the table
    totals: dict[str, float],
    status: int,
    complaint: str,
) -> None:
    monkeypatch.setattr(check, "measure", lambda *_: (passed, totals))
    assert check.main(["qres_krum"]) == status
    shown = capsys.readouterr()
    assert shown.err.strip().splitlines()[:1] == ([complaint] if complaint else [])
    assert re.search(
        rf"qres_krum .* {totals.get('percent_covered', 0.0):.1f}$", shown.out, re.MULTILINE
    )


def test_one_distribution_that_falls_short_fails_all_of_them(
    check: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(name: str, *_: object) -> tuple[bool, dict[str, float]]:
        return True, percent(50.0 if name == "qres_zk" else 100.0)

    monkeypatch.setattr(check, "measure", measure)
    assert check.main([]) == 1
    shown = capsys.readouterr()
    assert shown.err == "qres_zk: 50.0 % is below 95 %\n"
    assert len(shown.out.strip().splitlines()) == 1 + len(check.USUAL)


def test_an_unknown_distribution_is_refused(
    check: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check.main(["qres_krumm"]) == 2
    assert "no distribution: qres_krumm; there are qres_core" in capsys.readouterr().out


@pytest.mark.parametrize(
    "line",
    [
        "    raise AssertionError  # pragma: no cover - older releases raise",
        "if TYPE_CHECKING:",
        "def sign(self, body: bytes) -> bytes: ...",
        "    ...",
        "@compiled(reassociate=True)",
        "@compiled",
        "@part",
        "    @intrinsic",
        "@_extending.overload(_gap)  # type: ignore[untyped-decorator]",
    ],
)
def test_what_python_cannot_run_is_not_counted(line: str) -> None:
    assert EXCLUDED.search(line)


@pytest.mark.parametrize(
    "line",
    [
        "    raise AssertionError  # pragma: no cover",
        "    return compiled(function)",
        "@cache",
        "def compiled(*, reassociate: bool = False) -> Any:",
        'log("waiting ...")',
    ],
)
def test_everything_else_is_counted(line: str) -> None:
    assert not EXCLUDED.search(line)
