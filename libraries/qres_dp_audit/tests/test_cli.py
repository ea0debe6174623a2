"""``qres dp audit``: what it prints, and how it ends."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result
from qres_dp.cli import dp
from qres_dp_audit import Audit, Finding


def run(*arguments: object) -> Result:
    return CliRunner().invoke(dp, [str(argument) for argument in arguments])


@pytest.mark.long
def test_the_audit_tells_what_it_measured_and_its_seed() -> None:
    results = [run("audit", "--seed", 3).output for _ in range(2)]
    assert results[0] == results[1]
    assert results[0].startswith("seed 3\n")
    assert results[0].count("holds") == 34
    assert "FAILS" not in results[0]


def test_every_audit_of_a_run_has_a_seed_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def audit(seed: int) -> Audit:
        asked.append(seed)
        return Audit("correct", seed, ())

    monkeypatch.setattr("qres_dp_audit.cli.audit", audit)
    run("audit", "--seed", 7, "--runs", 3)
    for _ in range(2):
        run("audit")
    assert asked[:3] == [7, 8, 9]
    assert asked[3] != asked[4]


def test_a_failed_audit_ends_with_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Audit("correct", 5, (Finding("noise", "local", 5, 9.0, 6.0),))
    monkeypatch.setattr("qres_dp_audit.cli.audit", lambda *_: found)
    result = run("audit")
    assert result.exit_code == 1
    assert "FAILS" in result.output


def test_a_fault_that_is_missed_ends_with_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    """The faults are the audit's own test: blind checks must not go unnoticed."""
    blind = Audit("half the noise", 5, (Finding("white box", "local", 5, 1.0, 5.5),))
    monkeypatch.setattr("qres_dp_audit.cli.controls", lambda *_: [blind])
    held = Audit("correct", 5, (Finding("noise", "local", 5, 1.0, 6.0),))
    monkeypatch.setattr("qres_dp_audit.cli.audit", lambda *_: held)
    result = run("audit", "--faults")
    assert result.exit_code == 1
    assert "MISSED" in result.output


def test_the_audit_in_json_and_in_words_tells_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    holds = Audit("correct", 5, (Finding("white box", "local", 5, 1.0, 5.5),))
    alarm = Audit("correct", 5, (Finding("white box", "local", 5, 6.0, 5.5),))
    caught = Audit("no clipping", 5, (Finding("exact clip", "local", 5, 9.0, 1.0),))
    audits = iter([holds, alarm, holds] * 2)
    monkeypatch.setattr("qres_dp_audit.cli.audit", lambda *_: next(audits))
    monkeypatch.setattr("qres_dp_audit.cli.controls", lambda *_: [caught])

    result = run("audit", "--runs", 3, "--faults", "--json")
    assert result.exit_code == 1
    told = json.loads(result.output)
    assert (told["runs"], told["alarms"], told["missed"]) == (3, 1, [])
    assert [case["passed"] for case in told["audits"]] == [False]
    assert told["faults"][0]["subject"] == "no clipping"
    assert told["faults"][0]["findings"][0]["passed"] is False

    result = run("audit", "--runs", 3, "--faults")
    assert result.exit_code == 1
    assert "1 alarms in 3 audits" in result.output
    assert "found by exact clip (local)" in result.output
