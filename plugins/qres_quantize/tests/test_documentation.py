"""The README names every option with its default and its swarm starts; docstrings hold."""

from __future__ import annotations

import doctest
import importlib
import re
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import attrs
import pytest

from qres_core.kernel.config import parse
from qres_core.kernel.kernel import Kernel

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
TABLES = [tomllib.loads(text) for text in re.findall(r"```toml\n(.*?)```", README, flags=re.DOTALL)]
PLUGINS = {
    entry.name: entry.load()
    for entry in entry_points(group="qres.plugins")
    if entry.value.startswith("qres_quantize:")
}


@pytest.mark.parametrize("name", ["plugin", "rounding"])
def test_examples_in_docstrings_hold(name: str) -> None:
    results = doctest.testmod(importlib.import_module(f"qres_quantize.{name}"))
    assert results.attempted
    assert not results.failed


def test_the_swarm_of_the_readme_starts() -> None:
    (swarm,) = (table for table in TABLES if "swarm" in table)
    kernel = Kernel.from_config(parse(swarm, source="README.md"))
    assert [plugin.name for plugin in kernel.enabled][-2:] == ["quantize", "median"]


@pytest.mark.parametrize("name", sorted(PLUGINS))
def test_the_readme_shows_and_explains_every_option(name: str) -> None:
    _, _, section = README.partition(f"### `{name}`")
    section = section.partition("\n### ")[0].partition("\n## ")[0]
    (shown,) = (
        table["plugins"][name] for table in TABLES if list(table.get("plugins", {})) == [name]
    )
    defaults = {field.name: field.default for field in attrs.fields(PLUGINS[name]) if field.init}
    assert shown == defaults
    for key, value in defaults.items():
        assert re.search(
            rf"^\| `{key}` \|[^|\n]*\| {re.escape(str(value))} \|", section, re.MULTILINE
        )
