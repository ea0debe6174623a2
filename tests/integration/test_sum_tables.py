"""The manual's tables on secure sums are what the solver's own functions give."""

from __future__ import annotations

import importlib.util
import itertools
import math
import random
from collections.abc import Collection, Sequence
from pathlib import Path
from types import ModuleType

import pytest
from qres_secagg.graph import circulant, split
from qres_secagg.parameters import choose

from qres_core.errors import CompatibilityError
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


@pytest.mark.parametrize("away", [0.05, 0.1, 0.2])
@pytest.mark.parametrize("row", [row for row in cells(TABLES.most_liars()) if 64 < row[0] < 200])
def test_so_often_rounds_close_and_are_opened_with_acks_and_holders_counted(
    row: list[int], away: float
) -> None:
    """By draws of who is away: from the start, or when the shares are dealt."""
    nodes, liars, _groups, size, least, quorum = row
    rows, plan, draws = 2 * liars + 1, choose(nodes, liars, nodes // 10), 1000
    near, rng = circulant(nodes, plan.k, b"seed"), random.Random(nodes)

    def opened(present: set[int], groups: Sequence[Collection[int]]) -> list[Collection[int]]:
        return [group for group in groups if sum(rank in present for rank in group) >= least]

    early = late = 0
    for _ in range(draws):
        groups = split(nodes, size, rng.randbytes(8))
        here = {rank for rank in range(nodes) if rng.random() >= away}
        if len(here) < quorum or len(opened(here, groups)) < rows:
            continue
        listed = here
        while (acked := {i for i in listed if 1 + len(listed & {*near[i]}) >= plan.acks}) != listed:
            listed = acked
        early += len(listed) >= quorum and len(opened(listed, groups)) >= rows
        # Those that are gone dealt before, and secrets of open groups are opened, theirs too.
        members = [rank for group in opened(here, groups) for rank in group]
        late += all((i in here) + len(here & {*near[i]}) >= plan.t for i in members)
    told = TABLES.chance(TABLES.group_sizes(nodes, size), least, rows, quorum, away)
    assert early / draws == pytest.approx(told, abs=0.06)
    assert late / draws == pytest.approx(told, abs=0.06)


def test_the_chance_is_that_of_every_case_counted() -> None:
    sizes, least, rows, quorum, away = (3, 3, 2), 2, 2, 5, 0.3
    found = 0.0
    for here in itertools.product((0, 1), repeat=sum(sizes)):
        left = iter(here)
        open_groups = sum(sum(itertools.islice(left, size)) >= least for size in sizes)
        if open_groups >= rows and sum(here) >= quorum:
            found += math.prod(0.7 if node else 0.3 for node in here)
    assert TABLES.chance(sizes, least, rows, quorum, away) == pytest.approx(found)
