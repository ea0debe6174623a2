"""The README names every plugin and option and its examples run; examples in docstrings hold."""

from __future__ import annotations

import doctest
import importlib
import re
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import attrs
import pytest

from qres_core.kernel.assembly import assemble
from qres_core.kernel.config import parse
from qres_core.kernel.discovery import scan

DIST = Path(__file__).parents[1]
PACKAGE = DIST / "qres_robust_stats"
README = (DIST / "README.md").read_text(encoding="utf-8")
PLUGINS = {
    entry.name: entry.load()
    for entry in entry_points(group="qres.plugins")
    if entry.value.startswith("qres_robust_stats:")
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize(
    "name",
    sorted(p.stem for p in PACKAGE.glob("*.py") if ">>> " in p.read_text(encoding="utf-8")),
)
def test_examples_in_docstrings_hold(name: str) -> None:
    importlib.import_module(f"qres_robust_stats.{name}")
    # The package's own name for some modules is the function in them.
    results = doctest.testmod(sys.modules[f"qres_robust_stats.{name}"])
    assert results.attempted
    assert not results.failed


@pytest.mark.parametrize("block", blocks("python"))
def test_python_in_the_readme_runs(block: str) -> None:
    exec(compile(block, "README.md", "exec"), {})  # noqa: S102 - our own page


@pytest.mark.parametrize("name", sorted(PLUGINS))
def test_the_readme_shows_and_explains_every_option(name: str) -> None:
    kind = PLUGINS[name]
    tables = [tomllib.loads(block) for block in blocks("toml")]
    shown = [table["plugins"][name] for table in tables if name in table["plugins"]]
    assert shown
    swarm = {"name": "readme", "nodes": 99, "byzantine": 0, "quorum": 99, "insecure": True}
    for options in shown:
        config = parse({"swarm": swarm, "plugins": {name: options}}, source="README.md")
        (enabled,) = assemble(config, scan())
        assert type(enabled.instance) is kind
    _, _, section = README.partition(f"### `{name}`")
    section = section.partition("\n### ")[0].partition("\n## ")[0]
    for field in attrs.fields(kind):
        if not field.init:
            continue
        assert f"`{field.name}`" in section, field.name
        if field.default is not attrs.NOTHING and not isinstance(field.default, attrs.Factory):
            assert re.search(
                rf"`{field.name}` \|[^|\n]*\| `?{re.escape(toml(field.default))}", section
            )


def toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def test_every_plugin_of_the_dist_is_there() -> None:
    assert len(PLUGINS) == 13
    assert all(kind.__module__ == f"qres_robust_stats.{name}" for name, kind in PLUGINS.items())
