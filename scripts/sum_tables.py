"""The tables on secure sums that the manual shows, from the functions that the solver uses.

    python -P scripts/sum_tables.py [--write]

Prints Markdown, or writes it into the page in place of the tables with the same heads.
`tests/integration/test_sum_tables.py` holds the page to it.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import tomli
from qres_secagg.chances import (
    grouping,
    least_nodes,
    least_quorum,
    needed_inputs,
)
from qres_secagg.levels import group_sizes
from qres_secagg.parameters import Parameters, choose

ROOT: Final = Path(__file__).parents[1]
PAGE: Final = ROOT / "docs" / "explanation" / "secure-aggregation.md"
AWAY: Final = (0.05, 0.1, 0.15, 0.2)
"""Shares of nodes that are away."""
PLANNED: Final = 0.1
"""The default of `plugins.secagg.dropout`, and of `corrupt`."""
SWARMS: Final = (24, 40, 72, 100, 300, 1000)
LIARS: Final = (1, 2, 3, 4, 5, 10)
ONE_SUM: Final = (10, 20, 50, 100, 200, 500, 1000)
CONFIGURATIONS: Final = (
    "examples/secagg.toml",
    "examples/full-stack.toml",
    "qres_core/cli/profiles/high-security.toml",
)


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Markdown."""
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def chance(sizes: Sequence[int], least: int, rows: int, quorum: int, away: float) -> float:
    """The probability of ``quorum`` inputs or more and enough groups with ``least`` of them."""
    found = np.ones((1, 1))  # by groups that are open, and by inputs
    for size in sizes:
        here = np.array(
            [math.comb(size, i) * (1 - away) ** i * away ** (size - i) for i in range(size + 1)]
        )
        closed = np.where(np.arange(size + 1) < least, here, 0.0)
        more = np.zeros((found.shape[0] + 1, found.shape[1] + size))
        for count, inputs in enumerate(found):
            more[count] += np.convolve(inputs, closed)
            more[count + 1] += np.convolve(inputs, here - closed)
        found = more
    return float(found[rows:, quorum:].sum())


def chances(nodes: int, size: int, least: int, rows: int, quorum: int) -> list[str]:
    """The probability that a round closes and is opened at each share of nodes that are away."""
    sizes = group_sizes(nodes, size)
    return [f"{chance(sizes, least, rows, quorum, away):.3f}" for away in AWAY]


def quorum(nodes: int, liars: int, least: int) -> int:
    """The least `swarm.quorum` with which a median of groups starts.

    It is enough to agree, for the rows of the median, and for the holders of shares.
    """
    plan = choose(nodes, liars, max(1, int(PLANNED * nodes)))
    rows = least * (2 * liars + 1)
    return max((nodes + liars) // 2 + 1, rows, least_quorum(nodes, plan.k, plan.t))


def median_row(nodes: int, liars: int) -> list[object] | None:
    """What a median of groups takes to withstand so many liars, who all collude, if it can."""
    rows = 2 * liars + 1
    plan = grouping(nodes, nodes - liars, liars, rows, PLANNED)
    if plan is None:
        return None
    count = len(group_sizes(nodes, plan.size))
    need = quorum(nodes, liars, plan.least)
    found = chances(nodes, plan.size, plan.least, rows, need)
    return [count, plan.size, plan.least, need, *found]


HEADS: Final = ("groups", "group_size", "min_size", "quorum", *(f"{away:.0%}" for away in AWAY))


def most_liars() -> str:
    """For each swarm, the most liars that a median of groups withstands."""

    def rows() -> Iterator[list[object]]:
        for nodes in SWARMS:
            liars = next(f for f in range(nodes // 3, 0, -1) if median_row(nodes, f) is not None)
            yield [nodes, liars, *(median_row(nodes, liars) or [])]

    return table(("nodes", "f at most", *HEADS), rows())


def least_swarms() -> str:
    """For each number of liars, the least swarm in which a median of groups withstands them."""

    def rows() -> Iterator[list[object]]:
        for liars in LIARS:
            nodes = least_nodes(liars, 0.0, 2 * liars + 1, PLANNED)
            if nodes is not None:
                yield [liars, nodes, *(median_row(nodes, liars) or [])]

    return table(("f", "least nodes", *HEADS), rows())


def one_sum() -> str:
    """One sum of all: the graph, and the least quorum that can be opened."""

    def rows() -> Iterator[list[object]]:
        for nodes in ONE_SUM:
            corrupt = int(PLANNED * nodes)
            plan = choose(nodes, corrupt, max(1, int(PLANNED * nodes)))
            least = needed_inputs(corrupt)
            made = Parameters(
                dimension=1, k=plan.k, t=plan.t, acks=plan.acks, corrupt=corrupt,
                min_survivors=least, bound=1, summands=nodes,
            )  # fmt: skip
            need = max(least, made.quorum(nodes), least_quorum(nodes, plan.k, plan.t))
            yield [nodes, corrupt, plan.k, plan.t, least, need]

    heads = ("nodes", "corrupt", "neighbours", "t", "min_size", "quorum at least")
    return table(heads, rows())


def configurations() -> str:
    """How often the groups of what the project ships are enough for its rule."""

    def rows() -> Iterator[list[object]]:
        for path in CONFIGURATIONS:
            read: Mapping[str, Any] = tomli.loads((ROOT / path).read_text(encoding="utf-8"))
            swarm, plugins = read["swarm"], read["plugins"]
            secagg, needed = plugins["secagg"], 2 * plugins["median"]["f"] + 1
            nodes, size, least = swarm["nodes"], secagg["group_size"], secagg["min_size"]
            share = secagg.get("corrupt", PLANNED)
            corrupt = max(swarm["byzantine"], int(share * nodes))
            count = len(group_sizes(nodes, size))
            found = chances(nodes, size, least, needed, swarm["quorum"])
            name = Path(path).stem
            yield [f"`{name}`", nodes, corrupt, f"{needed} of {count}", least, *found]

    heads = ("configuration", "nodes", "may collude", "rows needed", "min_size")
    return table((*heads, *(f"{away:.0%}" for away in AWAY)), rows())


TABLES: Final = {
    "most liars": most_liars,
    "least swarms": least_swarms,
    "one sum": one_sum,
    "configurations": configurations,
}


def main() -> int:
    """Print them all, or write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="renew the page")
    write = parser.parse_args().write
    text = PAGE.read_text(encoding="utf-8")
    for name, made in TABLES.items():
        found = made()
        old = re.escape(found.partition("\n")[0]) + r"\n(?:\|.*\n)*"
        text = re.sub(old, found.replace("\\", r"\\") + "\n", text)
        if not write:
            print(f"{name}:\n\n{found}\n")
    if write:
        PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
