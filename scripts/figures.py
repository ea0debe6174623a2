"""Hold the measured figures of the pages against their list.

    python scripts/figures.py             print the table of all of them: a page of the manual
    python scripts/figures.py --measured  take other tables on the pages as measured today
    python scripts/figures.py --check     print the faults alone
    python scripts/figures.py --unlisted  print lines of the pages that may hold other figures

The list is ``figures.toml`` beside this script. An entry has

``page``     where the figures stand: a page, or a table as a file ``.csv`` that a page shows;
``what``     what they are of;
``text``     the figures as the page prints them, a list of texts; or
``table``    the first line of a table of figures, and ``digest``, which its numbers have;
``run``      the command that gives them;
``on``       the machine and the conditions;
``last``     the day of the last run.

Exit status 1 and a line for each fault: a page that does not print a figure, a table with other
numbers than when its command was run, a command whose script, option or target does not exist.
"""

from __future__ import annotations

import csv
import hashlib
import importlib
import re
import shlex
import sys
import tomllib
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Final

import attrs

ROOT: Final = Path(__file__).resolve().parent.parent
LIST: Final = "scripts/figures.toml"
PAGES: Final = ("README.md", "docs/*.md", "docs/[!r]*/*.md", "docs/reference/[!cfhl]*.md")
"""Where figures are looked for with ``--unlisted``. The other pages of the reference hold none."""

_NUMBER: Final = re.compile(r"\d[\d,.]*")
_FIGURE: Final = re.compile(r"\d ?(?:%|\u00d7|[mµn]?s\b|[kKMG]i?B\b|minutes?\b|times\b|points\b)")
_FENCE: Final = re.compile(r"^ *(`{3,})[^\n]*\n.*?^ *\1`*[ ]*$", re.DOTALL | re.MULTILINE)
_INTRODUCTION: Final = (
    "The pages of the project print the figures below. The command beside a figure gives it. The",
    "day is that of its last known run. Many commands run for minutes, so not all of them run",
    "again for each change. `make lint` fails if a page prints another figure than this list, or",
    "if the script or an option of a command is gone. It cannot see a figure that nobody listed.",
    "What tutorials show of a command's output is not here: `make pages` runs it.",
    "",
    "Figures of time are of two cores of an AMD EPYC, unless a row says otherwise. Run Python with",
    "`PYTHONPATH=benchmarks` for benchmarks and `PYTHONPATH=scripts` for scripts.",
)


@attrs.frozen(kw_only=True)
class Figures:
    """Figures of a page that one command gives."""

    page: str
    what: str
    run: str
    on: str
    last: date
    text: tuple[str, ...] = attrs.field(default=(), converter=tuple[str, ...])
    table: str = ""
    digest: str = ""

    @property
    def printed(self) -> str:
        """What the page prints, in a cell."""
        return "; ".join(each.strip("| ").replace(" | ", ", ") for each in self.text) or "a table"

    def tables(self, root: Path) -> list[list[str]]:
        """The rows of each table of the page with the entry's first line."""
        text = (root / self.page).read_text("utf-8")
        if self.page.endswith(".csv"):
            first, *rows = text.splitlines()
            return [[" | ".join(row) for row in csv.reader(rows)]] if first == self.table else []
        return list(_tables(text, self.table))

    def faults(self, root: Path) -> Iterator[str]:
        """What is wrong with the page or with the command."""
        where = f"{LIST}: {self.what}"
        path = root / self.page
        if not path.is_file():
            yield f"{where}: there is no page {self.page}"
        elif bool(self.text) == bool(self.table):
            yield f"{where}: needs text or table, and not both"
        elif self.table:
            if len(tables := self.tables(root)) != 1:
                yield f"{where}: {self.page} has {len(tables)} tables that begin with {self.table}"
            elif _digest(tables[0]) != self.digest:
                yield (
                    f"{where}: {self.page} prints another table than was measured on {self.last}; "
                    "after a run of the command: python -P scripts/figures.py --measured"
                )
        else:
            page = " ".join(path.read_text("utf-8").split())
            for text in self.text:
                if " ".join(text.split()) not in page:
                    yield f"{where}: {self.page} does not print {text}"
        for fault in _command_faults(root, self.run):
            yield f"{where}: {self.run}: {fault}"


def read(root: Path) -> list[Figures]:
    """The list; an unknown or missing key raises TypeError."""
    raw = tomllib.loads((root / LIST).read_text("utf-8"))
    return [Figures(**each) for each in raw["figures"]]


def measured(root: Path, today: date) -> None:
    """Write into the list what each table now has, with a day where that is something else."""
    path = root / LIST
    entries = path.read_text("utf-8").split("[[figures]]\n")
    for number, each in enumerate(read(root), start=1):
        if each.table and len(tables := each.tables(root)) == 1:
            digest = _digest(tables[0])
            if digest != each.digest:
                entry = entries[number].replace(f'"{each.digest}"', f'"{digest}"')
                entries[number] = entry.replace(f"last = {each.last}", f"last = {today}")
    path.write_text("[[figures]]\n".join(entries), encoding="utf-8")


def _tables(text: str, head: str) -> Iterator[list[str]]:
    """The rows below each line that is the head."""
    lines = text.split("\n")
    for number, line in enumerate(lines):
        if line == head:
            end = number
            while end < len(lines) and lines[end].startswith("|"):
                end += 1
            yield lines[number + 2 : end]


def _digest(rows: Iterable[str]) -> str:
    """Eight characters that follow from the numbers of a table, and not from its words."""
    numbers = "\n".join(" ".join(_NUMBER.findall(row)) for row in rows)
    return hashlib.sha256(numbers.encode()).hexdigest()[:8]


@cache
def _commands() -> str:
    """The help of all commands, as the manual has it."""
    sys.path.append(str(ROOT / "docs" / "_ext"))
    return str(importlib.import_module("qres_pages").cli_page())


def _command_faults(root: Path, command: str) -> Iterator[str]:
    """What a command names and the repository does not have."""
    words = [word for word in shlex.split(command) if not re.match(r"[A-Z_]+=", word)]
    if words[:1] == ["make"]:
        makefile = (root / "Makefile").read_text("utf-8")
        if not re.search(rf"^{re.escape(words[1])}:", makefile, re.MULTILINE):
            yield f"no target {words[1]}"
        return
    if words[:1] == ["qres"]:
        known = _commands()
        projects = [each.read_text("utf-8") for each in root.glob("plugins/*/pyproject.toml")]
        if not re.search(rf"^#+ qres {words[1]}$", known, re.MULTILINE) and not any(
            re.search(rf'^{words[1]} = ".*cli:', each, re.MULTILINE) for each in projects
        ):
            yield f"no command qres {words[1]}"
    elif scripts := [root / word for word in words if word.endswith(".py")]:
        known = "".join(path.read_text("utf-8") for path in scripts if path.is_file())
        known += (root / "benchmarks/harness.py").read_text("utf-8")
    elif "-m" in words:
        package = root / "scripts" / words[words.index("-m") + 1]
        known = "".join(path.read_text("utf-8") for path in sorted(package.glob("*.py")))
        if not known:
            yield f"no package {package.name}"
    else:
        yield "neither a script, nor a target of make, nor a command of qres"
        return
    for word in words[1:]:
        if word.endswith((".py", ".toml")) and "/" in word and not (root / word).is_file():
            yield f"no file {word}"
        if word.startswith("--") and word.partition("=")[0] not in known:
            yield f"no option {word}"


def _title(root: Path, page: str) -> str:
    text = (root / page).read_text("utf-8")
    title = text.partition("# ")[2].partition("\n")[0]
    if not page.startswith("docs/") or page.endswith(".csv"):
        return f"`{page}`"
    up = "../" + page.removeprefix("docs/")
    return f"[{title}]({up.replace('../reference/', '')})"


def written(root: Path, figures: Iterable[Figures]) -> str:
    """The table of all figures, page by page in the order of the list."""
    lines = [
        "# Figures",
        "",
        f"<!-- Made by scripts/figures.py from {LIST}. -->",
        "",
        *_INTRODUCTION,
    ]
    for page, entries in groupby(figures, key=lambda each: each.page):
        lines += ["", f"## {_title(root, page)}", ""]
        lines += [
            "| figures | printed | command | conditions | last run |",
            "|---|---|---|---|---|",
        ]
        for each in entries:
            cells = [each.what, each.printed, f"`{each.run}`", each.on, f"{each.last:%Y-%m-%d}"]
            lines.append(f"| {' | '.join(' '.join(cell.split()) for cell in cells)} |")
    return "\n".join([*lines, ""])


def unlisted(root: Path, figures: Iterable[Figures]) -> Iterator[str]:
    """Lines with a number and a unit that no entry names. Many are bounds, and not measured."""
    listed = list(figures)
    for path in sorted({path for pattern in PAGES for path in root.glob(pattern)}):
        page = str(path.relative_to(root))
        text = _FENCE.sub(lambda block: "\n" * block[0].count("\n"), path.read_text("utf-8"))
        for each in listed:
            if each.page == page:
                for words in each.text:
                    blank = re.escape(words).replace(r"\ ", r"\s+")
                    text = re.sub(blank, lambda found: "\n" * found[0].count("\n"), text)
                for rows in _tables(text, each.table) if each.table else ():
                    text = text.replace("\n".join(rows), "\n" * (len(rows) - 1))
        for number, line in enumerate(text.split("\n"), start=1):
            if _FIGURE.search(line):
                yield f"{page}:{number}: {line}"


def main(arguments: list[str]) -> int:
    """Print the faults, and without ``--check`` the table before them; 1 if there is a fault."""
    if arguments == ["--measured"]:
        measured(ROOT, datetime.now(UTC).date())
    figures = read(ROOT)
    if arguments == ["--unlisted"]:
        print(*unlisted(ROOT, figures), sep="\n")
        return 0
    faults = [fault for each in figures for fault in each.faults(ROOT)]
    if not arguments:
        print(written(ROOT, figures))
    print(*faults, sep="\n", end="\n" if faults else "")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
