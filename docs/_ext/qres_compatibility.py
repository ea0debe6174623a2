"""The page of what goes together, made from the table of modes and the solver's answers."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
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


def _alone(answers: Mapping[str, Any]) -> str:
    """Why single modes are refused."""
    return _table(
        ["mode", "error", "reason", "remedy"],
        (
            [label, str(why.code), f"`{why.where}`: {why.what}", str(why.fix)]
            for label, found in answers.items()
            for why in found.problems
        ),
    )


def script(name: str) -> Any:
    """A module of ``scripts/``."""
    if SCRIPTS not in sys.path:
        sys.path.append(SCRIPTS)
    return importlib.import_module(name)


def compatibility_body() -> Iterator[str]:
    """The parts of ``reference/compatibility.md`` below its title."""
    matrix, labels = script("compatibility.matrix"), list(script("compatibility.modes").MODES)

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
    for title, options, where, reason in _SWARMS:
        yield f"## {title}"
        answers = {label: matrix.in_swarm(label, options) for label in labels}
        yield from _by_mode(where, reason, answers)
    yield "## Inside a framework"
    yield from _by_mode(*_FRAMEWORK, {label: matrix.in_framework(label) for label in labels})
    yield "## Only declared"
    yield _DECLARED


_SWARMS: Final = (
    (
        "Sharded rounds",
        "sharded",
        'With [`swarm.aggregation = "sharded"`](../explanation/sharded-rounds.md) ',
        "need whole updates of other nodes, or no vote on a set before they judge it",
    ),
    (
        "Little memory",
        "memory",
        "With [`swarm.memory`](configuration.md) set, ",
        "look at more than one coordinate of an update at a time",
    ),
    (
        "A sample of participants",
        "participants",
        "With [`swarm.participants`](configuration.md) set, ",
        "add up what all members send",
    ),
    (
        "A coordinator of rounds",
        "coordinator",
        'With [`swarm.topology = "coordinator"`](configuration.md), ',
        "",
    ),
)
_FRAMEWORK: Final = (
    "Around a strategy of [Flower](../how-to/use-qres-inside-flower.md), ",
    "need nodes that talk to each other, heights, or word of what became of an update",
)
_DECLARED: Final = (
    "The simulator plays all swarms on its own network. So the cells of `libp2p` and `grpc` rest "
    "on what these plugins declare. Their tests play them between processes, with a few other "
    "plugins. The sections on other swarms and on frameworks have single modes, not pairs. Of "
    "combinations of these sections the tests play none. `qres check` answers for yours."
)


def _by_mode(where: str, reason: str, answers: Mapping[str, Any]) -> Iterator[str]:
    unfit = [found for found in answers.values() if not found.supported]
    others = f" The others {reason}:" if unfit else ""
    yield f"{where}{len(answers) - len(unfit)} of the {len(answers)} modes are supported.{others}"
    if unfit:
        yield _alone(answers)
