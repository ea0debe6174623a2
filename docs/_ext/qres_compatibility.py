"""The page of what goes together, made from the table of modes and the solver's answers."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

SCRIPTS: Final = str(Path(__file__).resolve().parents[2] / "scripts")
INTRO: Final = """
The table shows the plugins and modes that can be combined. Every cell is the solver's answer for a
swarm that has the two and the plugins that every swarm needs. `make compatibility` plays all pairs
and triples, each in a separate swarm. `tests/compatibility` plays every supported pair and samples
of the triples.

| sign | meaning |
| --- | --- |
| ✓ | supported, in a swarm that promises to withstand a liar |
| ○ | supported, in a swarm that promises to withstand none (`swarm.byzantine = 0`) |
| ✓s, ○s | the same, with secure aggregation added, which the combination needs |
| E303 … | refused before anything starts, with that error; see [below](#refused-pairs) |
| · | modes of one plugin: a configuration has its table once |

The answer depends on the swarm: the nodes that a rule needs, the size of a group, the range of the
grid. The table asks if a swarm of 8, 16 or 24 nodes can hold both. `qres check` answers for yours.
"""


def _table(head: list[str], rows: Iterator[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines
    )


def _script(name: str) -> Any:
    if SCRIPTS not in sys.path:
        sys.path.append(SCRIPTS)
    return importlib.import_module(f"compatibility.{name}")


def compatibility_body() -> Iterator[str]:
    """The parts of ``reference/compatibility.md`` below its title."""
    matrix, labels = _script("matrix"), list(_script("modes").MODES)

    def ask(*asked: str) -> Any:
        return matrix.answer(tuple(sorted(asked, key=labels.index)))

    def cell(text: str, other: str) -> str:
        if matrix.exclusive((text, other)):
            return "·"
        found = ask(text, other)
        if not found.supported:
            return str(found.problems[0].code).removeprefix("QRES-")
        sign = "✓" if found.setting.byzantine else "○"
        return sign + ("s" if found.added else "")

    yield "## Pairs"
    yield _table(
        ["", *(str(number) for number in range(1, len(labels) + 1))],
        (
            [f"{number}. {label}", *(cell(label, other) for other in labels)]
            for number, label in enumerate(labels, start=1)
        ),
    )
    yield "## Refused pairs"
    yield "Two transports, or two rules, are refused with QRES-E302 and not listed here."
    refused = [item for item in map(matrix.answer, matrix.groups_of(2)) if not item.supported]
    yield _table(
        ["pair", "error", "reason", "remedy"],
        (
            [
                " + ".join(found.labels),
                str(problem.code),
                f"`{problem.where}`: {problem.what}",
                str(problem.fix),
            ]
            for found in refused
            for problem in found.problems
            if problem.code != "QRES-E302"
        ),
    )
    yield "## Triples"
    found = list(matrix.triples())
    unfit = [item for item in found if not item.supported]
    yield (
        f"Of the {len(found)} triples whose pairs are all supported, {len(found) - len(unfit)} are "
        "supported; every other triple contains a refused pair."
    )
    if unfit:
        yield _table(
            ["triple", "error", "reason", "remedy"],
            (
                [" + ".join(rule.labels), str(why.code), f"`{why.where}`: {why.what}", str(why.fix)]
                for rule in unfit
                for why in rule.problems
            ),
        )
