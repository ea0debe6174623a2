"""An installed plugin that the file does not name cannot hurt; one it names must work."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from qres_core.errors import PluginError
from qres_core.kernel.config import Config, parse
from qres_core.kernel.diagnosis import diagnose
from qres_core.kernel.discovery import Installed, scan
from qres_core.kernel.kernel import Kernel

FIXTURES = Path(__file__).parents[1] / "fixtures" / "site_packages"
MODULES = ("qres_broken", "qres_exiting", "qres_future", "qres_toy")
BUILT_IN = ("mean", "memory")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A private site-packages with broken, hostile, future and working plugins, importable."""
    home = tmp_path / "site-packages"
    shutil.copytree(FIXTURES, home)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(home)
    yield home
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture
def installed(site: Path) -> Mapping[str, Installed]:
    return {
        **{name: plugin for name, plugin in scan().items() if name in BUILT_IN},
        **scan(path=[str(site)], trusted=frozenset({site.resolve()})),
    }


def configuration(**plugins: Mapping[str, Any]) -> Config:
    swarm = {"name": "isolation", "nodes": 4, "byzantine": 0, "quorum": 3, "insecure": True}
    raw = {"swarm": swarm, "plugins": {"memory": {}, **plugins}}
    return parse(raw, source="test.toml")


def traces(site: Path) -> list[str]:
    return sorted(path.name for path in site.glob("*-was-imported"))


@pytest.mark.control("C-config-6", "C-config-7")
def test_the_fixtures_are_seen(installed: Mapping[str, Installed]) -> None:
    assert {name: plugin.status.value for name, plugin in installed.items()} == {
        "mean": "installed",
        "memory": "installed",
        "broken": "installed",
        "exiting": "installed",
        "future": "incompatible",
        "toy": "installed",
        "toy-function": "installed",
        "toy-lost": "installed",
    }


@pytest.mark.claim("C-config-6")
def test_plugins_that_are_not_named_are_never_imported(
    site: Path, installed: Mapping[str, Installed]
) -> None:
    kernel = Kernel.from_config(configuration(toy={"size": 1}), installed=installed)
    assert [plugin.name for plugin in kernel.enabled] == ["memory", "toy"]
    assert "qres_toy" in sys.modules, "the named plugin comes from the same folder"
    assert not {"qres_broken", "qres_exiting", "qres_future"} & set(sys.modules)
    assert traces(site) == []


def test_a_named_plugin_that_fails_to_import_is_fatal_and_named(
    site: Path, installed: Mapping[str, Installed]
) -> None:
    with pytest.raises(PluginError) as caught:
        Kernel.from_config(configuration(mean={}, broken={}), installed=installed)
    (problem,) = caught.value.problems
    assert problem.code == "QRES-E202"
    assert problem.where == "plugins.broken"
    for part in (
        "qres-broken 1.0",
        "qres_broken:Broken",
        "RuntimeError: half of this plugin is missing",
    ):
        assert part in problem.what
    assert "qres-broken" in problem.fix
    assert traces(site) == ["broken-was-imported"]


def test_the_cause_of_a_failed_import_is_chained(installed: Mapping[str, Installed]) -> None:
    with pytest.raises(PluginError) as caught:
        Kernel.from_config(configuration(mean={}, broken={}), installed=installed)
    chain: list[BaseException] = []
    link: BaseException | None = caught.value
    while link is not None:
        chain.append(link)
        link = link.__cause__
    assert type(chain[-1]) is RuntimeError
    assert chain[-1].__traceback__ is not None


def test_a_plugin_that_exits_does_not_end_the_program(
    installed: Mapping[str, Installed],
) -> None:
    with pytest.raises(PluginError, match=r"QRES-E202 plugins\.exiting: .*SystemExit: 3"):
        Kernel.from_config(configuration(mean={}, exiting={}), installed=installed)


def test_an_incompatible_plugin_is_refused_before_it_is_imported(
    site: Path, installed: Mapping[str, Installed]
) -> None:
    with pytest.raises(PluginError, match=r"QRES-E203 .*needs qres-core>=7"):
        Kernel.from_config(configuration(mean={}, future={}), installed=installed)
    assert "qres_future" not in sys.modules
    assert traces(site) == []


def test_an_entry_point_must_lead_to_an_attrs_class(installed: Mapping[str, Installed]) -> None:
    with pytest.raises(PluginError, match=r"QRES-E206 plugins\.toy-function: .*attrs class"):
        Kernel.from_config(configuration(**{"toy-function": {}}), installed=installed)


def test_an_entry_point_must_lead_somewhere(installed: Mapping[str, Installed]) -> None:
    with pytest.raises(PluginError, match=r"QRES-E202 plugins\.toy-lost: .*AttributeError"):
        Kernel.from_config(configuration(**{"toy-lost": {}}), installed=installed)


ALL_WRONG: Mapping[str, Mapping[str, Any]] = {
    "broken": {},
    "krumm": {},
    "dp": {},
    "future": {},
    "toy": {"size": "2", "sizes": 3},
}
ALL_WRONG_CODES = [
    ("QRES-E202", "plugins.broken"),
    ("QRES-E201", "plugins.krumm"),
    ("QRES-E201", "plugins.dp"),
    ("QRES-E203", "plugins.future"),
    ("QRES-E104", "plugins.toy.size"),
    ("QRES-E102", "plugins.toy.sizes"),
]


def test_all_problems_are_reported_together(installed: Mapping[str, Installed]) -> None:
    with pytest.raises(PluginError) as caught:
        Kernel.from_config(configuration(mean={}, **ALL_WRONG), installed=installed)
    assert [(problem.code, problem.where) for problem in caught.value.problems] == ALL_WRONG_CODES
    assert isinstance(caught.value.__cause__, ExceptionGroup)
    assert len(caught.value.__cause__.exceptions) == 5


def test_a_diagnosis_adds_what_is_wrong_with_the_tables(
    installed: Mapping[str, Installed],
) -> None:
    raw = {"swarm": {"name": "x"}, "plugins": dict(ALL_WRONG), "swarn": {}}
    found = diagnose(raw, source="test.toml", sections={}, installed=installed)
    codes = [(problem.code, problem.where) for problem in found.problems]
    assert codes[-6:] == ALL_WRONG_CODES
    assert ("QRES-E102", "swarn") in codes
    assert ("QRES-E103", "swarm.nodes") in codes
    assert found.config is None
    assert found.enabled == ()
