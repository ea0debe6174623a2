"""What a newcomer reads: each refusal says where, what, and what to do, word for word.

The messages stand in ``refusals.txt``: a configuration, and what is said of it.
``python -P tests/integration/test_refusals.py`` writes what is said now into the file, to be read
before it is kept.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import attrs
import pytest
import tomli

from qres_core.cli.options import SECTIONS
from qres_core.errors import Problem, QresError
from qres_core.kernel.config import parse
from qres_core.kernel.diagnosis import diagnose
from qres_core.kernel.discovery import scan
from qres_core.kernel.inspection import hooks_of
from qres_core.kernel.remedies import enable
from qres_core.kernel.slots import SLOTS
from qres_core.lab.simulator import simulate

ROOT = Path(__file__).parents[2]
PAGE = Path(__file__).with_name("refusals.txt")
BEFORE_THE_START = ("QRES-E1", "QRES-E2", "QRES-E3", "QRES-E8")
"""Families of refusals that somebody meets who writes a configuration."""


@attrs.frozen
class Row:
    """A section of the page.

    Attributes:
        title: what is wrong, in words.
        text: the configuration.
        messages: what is said of it.
    """

    title: str
    text: str
    messages: str


def rows() -> list[Row]:
    found: list[Row] = []
    for section in PAGE.read_text(encoding="utf-8").split("\n== ")[1:]:
        title, _, rest = section.partition("\n")
        text, _, messages = rest.partition("--\n")
        found.append(Row(title, text, messages.strip()))
    return found


@cache
def problems(text: str) -> tuple[Problem, ...]:
    """What is said of a configuration before its swarm starts, or as it does."""
    try:
        raw: dict[str, Any] = tomli.loads(text)
        found = diagnose(raw, source="swarm.toml", sections=SECTIONS, installed=scan())
        if not found.problems and "simulation" in raw:
            config = parse(raw, source="swarm.toml", sections=SECTIONS)
            simulate(config, config.sections["simulation"])
    except QresError as error:
        return error.problems
    return found.problems


def said(text: str) -> str:
    return "\n".join(
        f"{problem.code} {problem.where}: {problem.what}"
        + (f"\n    fix: {problem.fix}" if problem.fix else "")
        for problem in problems(text)
    )


@pytest.mark.claim("C-composition-4")
@pytest.mark.parametrize("row", rows(), ids=lambda row: row.title)
def test_a_refusal_says_what_the_page_says(row: Row) -> None:
    assert said(row.text) == row.messages


@pytest.mark.claim("C-composition-4")
@pytest.mark.parametrize("row", rows(), ids=lambda row: row.title)
def test_a_refusal_says_where_what_and_what_to_do(row: Row) -> None:
    found = problems(row.text)
    assert found
    for item in found:
        assert re.fullmatch(r"[\w.\[\]-]+", item.where)
        assert item.what
        # A bound says by itself what to write.
        assert item.fix or re.match(r"must be |expected |\w+ must be ", item.what), item
        if item.where.startswith("plugins.dp."):
            continue
        assert not re.search(
            r"\ba (?:[aeio]|un)|\b1 \w+s\b(?! of)|  |\.$", f"{item.what} {item.fix}"
        ), item


SETTING = re.compile(r"(\w+) = (\d+) in \[plugins\.(\w+)\](?: and swarm\.(\w+) >?= (\d+))?")
"""An option, its value and its plugin, and what must be changed with it."""


@pytest.mark.control("C-composition-4")
@pytest.mark.parametrize("row", rows(), ids=lambda row: row.title)
def test_every_setting_that_a_refusal_advises_ends_it(row: Row) -> None:
    for problem in problems(row.text):
        for option, value, plugin, key, bound in SETTING.findall(problem.fix):
            raw: dict[str, Any] = tomli.loads(row.text)
            raw["plugins"][plugin][option] = int(value)
            if key:
                raw["swarm"][key] = int(bound)
            raw["swarm"]["nodes"] = max(raw["swarm"]["nodes"], raw["swarm"]["quorum"])
            left = diagnose(raw, source="swarm.toml", sections=SECTIONS, installed=scan())
            assert problem not in left.problems


BARE = re.compile(
    r"(?<![\w.])(?!swarm\.|trainer\.|simulation\.|node\.|plugins\.)([a-z_]+) (?:=|>=|<=) "
    r"(?!\S+ in \[[\w.]+\])"
)
"""A setting that a fix gives a value, without the table that it is of."""


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.title)
def test_a_fix_that_asks_for_a_setting_names_it_with_its_table(row: Row) -> None:
    for problem in problems(row.text):
        if problem.code.startswith("QRES-E3"):  # others are about the key that they name
            assert not BARE.findall(problem.fix), problem.fix


def test_settings_without_their_table_are_found() -> None:
    """The control."""
    assert BARE.findall("let it be, or min_size = 3") == ["min_size"]
    assert not BARE.findall(
        "plugins.secagg.min_size = 3, f = 2 in [plugins.krum], swarm.quorum >= 4"
    )


def test_refusals_advise_settings() -> None:
    advised = {
        (option, plugin)
        for row in rows()
        for problem in problems(row.text)
        for option, _value, plugin, _key, _bound in SETTING.findall(problem.fix)
    }
    assert {("f", "krum"), ("select", "krum"), ("size", "bucketing")} <= advised
    assert {("exponent", "reputation"), ("f", "median")} <= advised


def test_the_page_has_every_refusal_of_a_combination() -> None:
    shown = set(re.findall(r"^(QRES-E\d{3})", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    met = {f"QRES-E{number}" for number in (*range(102, 106), 201, *range(301, 315), 801)}
    # Half a family is a mistake in a plugin's code; see test_solver.py.
    assert shown >= met - {"QRES-E308"}


@pytest.mark.parametrize("family", SLOTS)
def test_the_example_of_a_family_fills_it(family: str) -> None:
    (name,) = re.findall(r"\[plugins\.(\w+)\]", enable(family))
    hooks = hooks_of(scan()[name].target)
    assert set(SLOTS[family].counted) <= set(hooks or ())


def refusals(path: Path) -> Iterator[tuple[int, str]]:
    """Lines of a module where a refusal is made without a remedy, and what it says."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        code = node.args[0]
        if name not in {"of", "Problem"} or not isinstance(code, ast.Constant):
            continue
        if not str(code.value).startswith(BEFORE_THE_START) or len(node.args) > 3:
            continue
        if "fix" not in {keyword.arg for keyword in node.keywords}:
            yield node.lineno, ast.unparse(node.args[-1])


def test_no_refusal_of_the_core_before_the_start_is_without_a_remedy() -> None:
    """Those that state a bound are the exception."""
    bare = [
        f"{path.relative_to(ROOT)}:{line}: {what}"
        for path in sorted((ROOT / "qres_core").rglob("*.py"))
        for line, what in refusals(path)
        if "must be" not in what and "str(error)" not in what
    ]
    assert not bare


def write() -> None:
    """Write what is said now."""
    head = PAGE.read_text(encoding="utf-8").split("\n== ")[0]
    sections = [f"\n== {row.title}\n{row.text}--\n{said(row.text)}\n" for row in rows()]
    PAGE.write_text("".join([head, *sections]), encoding="utf-8")


if __name__ == "__main__":
    write()
