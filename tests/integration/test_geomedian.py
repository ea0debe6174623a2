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
from qres_lab.commands.new_plugin import render
from qres_lab.testing import AggregatorContract, ContractViolationError
from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser

from qres_core import Reads, Updates, Vector, hookimpl
from qres_core.attacks.scenario import SECTIONS
from qres_core.builtin.mean import Mean
from qres_core.builtin.memory import Memory
from qres_core.errors import CompatibilityError
from qres_core.kernel.config import Config, parse
from qres_core.kernel.discovery import Installed
from qres_core.kernel.kernel import Kernel
from qres_core.lab.simulator import simulate

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "qres_geomedian"
TUTORIAL = ROOT / "docs" / "tutorials" / "write-an-aggregator.md"
FILE_BLOCK = re.compile(r"<!-- (file|append): (\S+) -->\n```\w+\n(.*?)\n```\n", re.DOTALL)


def versions_of(path: str) -> list[list[str]]:
    """The blocks of each version of a file: one begins anew, others are added to it."""
    found: list[list[str]] = []
    for how, name, block in FILE_BLOCK.findall(TUTORIAL.read_text(encoding="utf-8")):
        if name == path:
            found += [[]] if how == "file" else []
            found[-1].append(block)
    return found


def blocks_of(path: str) -> list[str]:
    return versions_of(path)[-1]


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
    assert len(regions) == 8
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


def first_step(*, claims: str = "") -> Any:
    """The class of the tutorial's first version, with other claims where they are given."""
    ((source,), _second) = versions_of("qres_geomedian/__init__.py")
    if claims:
        source, lines = re.subn(r"        return Claims\(.*\)\n", claims + "\n", source)
        assert lines == 1
    spaces: dict[str, Any] = {"Reads": Reads, "__name__": "first_step"}
    exec(source, spaces)  # noqa: S102 - text of this project
    return spaces["Geomedian"]


def shardable() -> str:
    """The lines of the tutorial's step that makes the first version shardable."""
    text = TUTORIAL.read_text(encoding="utf-8").split("## 5. Make it shardable")[1]
    imports, claims = re.findall(r"```py\n(.*?)\n```", text, re.DOTALL)[:2]
    assert imports.startswith("from qres_core import Claims, Needs, Reads, ")
    return str(claims)


def test_the_first_step_is_a_plugin_of_twenty_lines() -> None:
    ((source,), _second) = versions_of("qres_geomedian/__init__.py")
    assert len(source.splitlines()) <= 20
    assert first_step()(f=1).claims.reads is Reads.WHOLE


def test_the_first_step_is_shardable_after_the_change_of_one_word() -> None:
    kind = first_step(claims=shardable())
    assert kind(f=1).claims.reads is Reads.COORDINATES

    class Suite(AggregatorContract):
        def make(self) -> object:
            return kind(f=2)

    Suite().test_agg_22_shards()


@pytest.mark.parametrize("claims", ["", "shardable"])
def test_the_first_step_passes_the_suite(claims: str) -> None:
    kind = first_step(claims=claims and shardable())

    class Suite(AggregatorContract):
        def make(self) -> object:
            return kind(f=2)

    suite, skipped = Suite(), list[str]()
    for name in [name for name in dir(suite) if name.startswith("test_agg_")]:
        try:
            getattr(suite, name)()
        except pytest.skip.Exception as said:
            skipped.append(str(said))
    assert ("claims.reads is neither COORDINATES nor PRODUCTS" in skipped) is (not claims)


def test_the_violation_that_the_tutorial_quotes_is_what_one_sees(geomedian: Any) -> None:
    @attrs.frozen(kw_only=True)
    class TakesTheLast(geomedian):  # type: ignore[misc]
        @hookimpl
        def aggregate(self, updates: Updates) -> Vector:
            return updates.vectors[-1]

    class Suite(AggregatorContract):
        def make(self) -> object:
            return TakesTheLast(f=2)

    with pytest.raises(ContractViolationError) as caught:
        Suite().test_agg_4_sender_does_not_matter()
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
