"""The manual's tables on secure sums are what the solver's own functions give."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from qres_core import CompatibilityError
from qres_core.kernel.config import parse
from qres_core.kernel.kernel import Kernel

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "explanation" / "secure-aggregation.md"


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sum_tables", ROOT / "scripts" / "sum_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TABLES = script()


@pytest.mark.parametrize("name", TABLES.TABLES)
def test_the_page_holds_the_table_that_the_command_prints(name: str) -> None:
    assert TABLES.TABLES[name]() in PAGE.read_text(encoding="utf-8")


def starts(nodes: int, liars: int, quorum: int, size: int, least: int) -> bool:
    """Whether a swarm would start in which a median of groups withstands the liars."""
    swarm = {"name": "s", "nodes": nodes, "byzantine": liars, "quorum": quorum}
    plugins = {
        "memory": {}, "ed25519": {}, "replay": {},
        "secagg": {"group_size": size, "min_size": least, "corrupt": 0.0},
        "median": {"f": liars},
    }  # fmt: skip
    try:
        Kernel.from_config(parse({"swarm": swarm, "plugins": plugins}, source="test"))
    except CompatibilityError:
        return False
    return True


def cells(table: str) -> list[list[int]]:
    """The whole numbers of the first columns."""
    return [[int(cell) for cell in line.split("|")[1:7]] for line in table.splitlines()[2:]]


@pytest.mark.parametrize("row", cells(TABLES.most_liars()), ids=str)
def test_so_many_liars_start_with_that_quorum_and_with_no_less(row: list[int]) -> None:
    nodes, liars, _groups, size, least, quorum = row
    assert starts(nodes, liars, quorum, size, least)
    assert quorum <= nodes - liars  # liars that are silent stop nothing
    assert not starts(nodes, liars, quorum - 1, size, least)


@pytest.mark.parametrize("row", cells(TABLES.least_swarms()), ids=str)
def test_the_least_swarm_starts_and_one_node_less_does_not(row: list[int]) -> None:
    liars, nodes, _groups, size, least, quorum = row
    assert starts(nodes, liars, quorum, size, least)
    fewer = nodes - 1
    assert not any(
        starts(fewer, liars, fewer - liars, fewer // count, smaller)
        for count in range(2 * liars + 1, fewer // (liars + 2) + 1)
        for smaller in range(liars + 2, fewer // count + 1)
    )
