"""Tell what the tests cost, from ``scripts/costs.tsv``, and which tests a change can break.

    python -P scripts/costs.py                    the dearest tests, and what the gate alone plays
    python -P scripts/costs.py --tests qres_krum  paths of the tests that a change of it can break

``make costs`` measures: processor seconds of each case, with its fixtures and its children.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
COSTS: Final = ROOT / "scripts" / "costs.tsv"
FOUND: Final = ROOT / "scripts" / "mutants" / "found.tsv"
BUDGET: Final = 1.0
"""As ``conftest.py`` has it."""


def costs() -> dict[str, float]:
    """Processor seconds by case."""
    rows = (line.split("\t", 1) for line in COSTS.read_text("utf-8").splitlines())
    return {case: float(seconds) for seconds, case in rows}


def found_by_the_gate_alone(dear: set[str]) -> tuple[int, int]:
    """How many mutants only dear cases are known to find, and how many are found in all."""
    rows = [line.split("\t") for line in FOUND.read_text("utf-8").splitlines() if "\t" in line]
    return sum(row[1] in dear for row in rows), len(rows)


def distributions() -> dict[str, tuple[Path, set[str]]]:
    """Folder of each distribution by its module's name, and the modules that it requires."""
    found: dict[str, tuple[Path, set[str]]] = {"qres_core": (ROOT, set())}
    for project in sorted(ROOT.glob("*/*/pyproject.toml")):
        if project.parent.parent.name not in {"libraries", "plugins", "integrations"}:
            continue
        table = tomllib.loads(project.read_text("utf-8"))["project"]
        names = (re.match(r"[\w-]+", each) for each in table.get("dependencies", ()))
        needs = {each[0].replace("-", "_") for each in names if each}
        found[project.parent.name] = project.parent, needs
    return found


def tests_of(module: str) -> Iterator[Path]:
    """Tests that a change of a distribution can break: its own, and those that name it.

    With those of every distribution that requires it, directly or not. Raises SystemExit where
    there is no such distribution.
    """
    known = distributions()
    if module not in known:
        sys.exit(f"{module}: no such distribution; one of {', '.join(known)}")
    changed = {module}
    while more := {name for name, (_, needs) in known.items() if needs & changed} - changed:
        changed |= more
    for name in sorted(changed):
        yield known[name][0] / "tests"
    if module == "qres_core":
        return
    short = module.removeprefix("qres_")
    named = re.compile(rf"\b({module}|plugins\.{short}|\"{short}\")\b")
    folders = {known[name][0] / "tests" for name in changed}
    for path in sorted(ROOT.glob("**/tests/**/test_*.py")):
        if any(folder in path.parents for folder in folders) or ".venv" in str(path):
            continue
        if named.search(path.read_text("utf-8")):
            yield path


def main(words: list[str]) -> None:
    """Print what was asked for."""
    if words[:1] == ["--tests"]:
        print(*(path.relative_to(ROOT) for word in words[1:] for path in tests_of(word)))
        return
    known = costs()
    by_function = Counter[str]()
    for case, seconds in known.items():
        by_function[case.partition("[")[0]] += seconds
    for function, seconds in by_function.most_common(30):
        print(f"{seconds:7.1f} s  {function}")
    dear = {case for case, seconds in known.items() if seconds > BUDGET}
    alone, every = found_by_the_gate_alone(dear)
    print(f"{len(dear)} cases take {sum(known[case] for case in dear):.0f} s in the gate alone")
    print(f"{alone} of {every} mutants are known to be found by these alone")


if __name__ == "__main__":
    main(sys.argv[1:])
