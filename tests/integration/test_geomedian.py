"""The worked example of a third-party plugin, and the tutorial that builds it."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import attrs
import pytest
from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser

from qres_core import CompatibilityError, Updates, Vector, hookimpl
from qres_core.cli.new_plugin import render
from qres_core.kernel.config import Config, parse
from qres_core.kernel.discovery import Installed
from qres_core.kernel.kernel import Kernel
from qres_core.lab.simulator import simulate
from qres_core.lab.trainer import SECTIONS
from qres_core.swarm.mean import Mean
from qres_core.swarm.memory import Memory
from qres_core.testing import AggregatorContract, ContractViolationError

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "qres_geomedian"
TUTORIAL = ROOT / "docs" / "tutorials" / "write-an-aggregator.md"
FILE_BLOCK = re.compile(r"<!-- (?:file|append): (\S+) -->\n```\w+\n(.*?)\n```\n", re.DOTALL)


def blocks_of(path: str) -> list[str]:
    text = TUTORIAL.read_text(encoding="utf-8")
    return [block for name, block in FILE_BLOCK.findall(text) if name == path]


def read(path: str) -> str:
    return (EXAMPLE / path).read_text(encoding="utf-8")


@pytest.fixture
def geomedian(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield importlib.import_module("qres_geomedian").Geomedian
    del sys.modules["qres_geomedian"]


@pytest.fixture
def installed(geomedian: Any) -> dict[str, Installed]:
    classes = {"geomedian": geomedian, "mean": Mean, "memory": Memory}
    return {name: Installed.local(name, kind) for name, kind in classes.items()}


def trial(**plugins: Any) -> Config:
    (text,) = blocks_of("swarm.toml")
    config = parse(tomllib.loads(text), source="swarm.toml", sections=SECTIONS)
    return attrs.evolve(config, plugins=plugins or config.plugins)


@pytest.mark.long
def test_the_example_passes_its_own_tests() -> None:
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLE), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("PYTEST_ADDOPTS", None)  # meant for the run that this is a part of
    done = subprocess.run(
        [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=EXAMPLE,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_tutorial_builds_the_example_word_for_word() -> None:
    module = "\n\n\n".join(blocks_of("qres_geomedian/__init__.py")) + "\n"
    assert module == read("qres_geomedian/__init__.py")
    (contract,) = blocks_of("tests/test_contract.py")
    assert contract + "\n" == read("tests/test_contract.py")


def test_the_code_of_the_tutorial_runs() -> None:
    document = Sybil(parsers=[PythonCodeBlockParser()]).parse(TUTORIAL)
    regions = list(document.examples())
    assert len(regions) == 5
    for region in regions:
        region.evaluate()


def test_the_packaging_is_what_the_scaffold_makes() -> None:
    ours = tomllib.loads(read("pyproject.toml"))
    made = tomllib.loads(render("geomedian", "aggregate")["pyproject.toml"])
    for project in (ours["project"], made["project"]):
        del project["description"], project["keywords"]
    assert ours == made
    assert read("LICENSE") == (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert (EXAMPLE / "qres_geomedian" / "py.typed").read_text(encoding="utf-8") == ""


def test_the_violation_that_the_tutorial_quotes_is_what_one_sees(geomedian: Any) -> None:
    @attrs.frozen(kw_only=True)
    class Unchecked(geomedian):  # type: ignore[misc]
        @hookimpl
        def aggregate(self, updates: Updates) -> Vector:
            return updates.vectors[0]

    class Suite(AggregatorContract):
        def make(self) -> object:
            return Unchecked(f=2)

    with pytest.raises(ContractViolationError) as caught:
        Suite().test_agg_5_too_few_refused()
    assert f"```text\n{caught.value}\n```" in TUTORIAL.read_text(encoding="utf-8")


def test_the_swarm_of_the_tutorial_withstands_its_liars(installed: dict[str, Installed]) -> None:
    pytest.importorskip("sklearn")
    config = trial()
    scenario = attrs.evolve(config.sections["simulation"], rounds=2)
    result = simulate(config, scenario, installed=installed)
    accuracy = result.final("accuracy")
    assert result.unanimous
    assert accuracy is not None
    assert accuracy > 0.85

    meaning = attrs.evolve(trial(memory={}, mean={}), swarm=attrs.evolve(config.swarm, byzantine=0))
    accuracy = simulate(meaning, scenario, installed=installed).final("accuracy")
    assert accuracy is not None
    assert accuracy < 0.05


@pytest.mark.parametrize("plugins", [{"geomedian": {"f": 2}}, {"mean": {}}])
def test_a_rule_for_fewer_liars_than_promised_is_refused(
    plugins: dict[str, Any], installed: dict[str, Installed]
) -> None:
    with pytest.raises(CompatibilityError, match="byzantine promises 3"):
        Kernel.from_config(trial(memory={}, **plugins), installed=installed)
