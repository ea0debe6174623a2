"""``qres certify`` as a user meets it: real processes, installed plugins, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

QRES = str(Path(sys.executable).with_name("qres"))

RULES = '''
import attrs
import numpy as np
from qres_core import Claims, Needs, hookimpl
from qres_core.errors import ValueRefusedError


@attrs.frozen
class Largest:
    """The greatest of every coordinate: any liar owns it."""

    f: int = 1

    @property
    def claims(self):
        return Claims(tolerates=self.f, needs=Needs(min_updates=2 * self.f + 1))

    @hookimpl
    def aggregate(self, updates):
        if len(updates) < 2 * self.f + 1:
            raise ValueRefusedError.of("QRES-E505", "updates", "too few")
        return updates.vectors.max(axis=0)
'''


def certify(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}
    return subprocess.run(
        [QRES, "certify", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=environment,
        timeout=900,
    )


@pytest.mark.claim("C-attack-6")
def test_krum_is_certified(tmp_path: Path) -> None:
    result = certify("krum", "--option", "f=2", "--html", "krum.html", cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.startswith("Certified: ")
    assert "krum (qres-krum " in result.stdout
    assert "QRES-AGG-21" in result.stdout
    assert "optimised_alie" in result.stdout
    assert "to reproduce: qres certify krum --option f=2 --nodes 11 --seed 0" in result.stdout
    text = (tmp_path / "krum.html").read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert "Certified: " in text


def test_the_mean_cannot_even_be_asked(tmp_path: Path) -> None:
    result = certify("mean", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stdout.startswith("Not certified: claims.tolerates is 0")
    assert "claims.tolerates declares no liars" in result.stdout
    refused = certify("mean", "--option", "f=2", cwd=tmp_path)
    assert refused.returncode == 2
    assert "QRES-E102 plugins.mean.f" in refused.stderr


@pytest.mark.control("C-attack-6")
def test_a_broken_rule_of_the_working_directory_fails_with_its_ids(tmp_path: Path) -> None:
    (tmp_path / "own_rules.py").write_text(RULES, encoding="utf-8")
    result = certify("own_rules:Largest", "--json", cwd=tmp_path)
    assert result.returncode == 1, result.stderr
    report = json.loads(result.stdout)
    failed = {rule["rule"] for rule in report["rules"] if rule["outcome"] == "failed"}
    assert {"QRES-AGG-10", "QRES-AGG-11", "QRES-AGG-12", "QRES-AGG-13"} <= failed
    assert not failed & {"QRES-AGG-1", "QRES-AGG-2", "QRES-AGG-5", "QRES-AGG-6", "QRES-AGG-14"}
    assert report["parts"][0]["target"] == "own_rules:Largest"
    assert report["robustness"]["measured"] == "unbounded"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["crum", "--option", "f=2"], "QRES-E201"),
        (["krum"], "QRES-E103"),
        (["krum", "--option", "f=two"], "QRES-E101"),
        (["krum", "--option", "f=2", "--nodes", "6"], "QRES-E505"),
        (["krum", "--option", "f=2", "--claim", "kapa=2"], "QRES-E102"),
        (["nowhere:Rule"], "QRES-E202"),
        (["memory"], "QRES-E301"),
    ],
)
def test_what_cannot_be_tested_is_named_and_ends_with_2(
    arguments: list[str], code: str, tmp_path: Path
) -> None:
    result = certify(*arguments, "--json", cwd=tmp_path)
    assert result.returncode == 2, result.stdout + result.stderr
    assert json.loads(result.stdout)["problems"][0]["code"] == code
