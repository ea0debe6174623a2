"""Hold what the pages promise against the tests.

    python scripts/claims.py            print all promises with their tests: a page of the manual
    python scripts/claims.py --check    print the faults alone

Behind a sentence of a page stands a comment, which no reader sees:

``<!-- C-secagg-3 -->``     the sentence is a claim. A test marked ``claim("C-secagg-3")`` attacks
                            it. One marked ``control("C-secagg-3")`` shows that the attack works
                            without the defence, that the test sees a breach, or that good input
                            passes where the first test is of a refusal;
``<!-- A-secagg-1 -->``     the sentence is an assumption or a limit, and no test can show it;
``<!-- as C-secagg-3 -->``  the sentence repeats claims or assumptions (several: with commas).

Exit status 1 and a line for each fault: a claim without a test or a control, an id that is unknown
or stands twice, a sentence that is both, a row of a table of claims without a mark.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import attrs

ROOT: Final = Path(__file__).resolve().parent.parent
PAGES: Final = (
    "README.md",
    "docs/WHITEPAPER.md",
    "docs/audit/evidence.md",
    "docs/explanation/threat-model.md",
    "integrations/*/README.md",
    "libraries/*/README.md",
    "plugins/*/README.md",
)
TESTS: Final = ("tests", "libraries/*/tests", "plugins/*/tests", "integrations/*/tests")
MARKED: Final = {"attack: effect", "claim", "defence", "promise", "threat", "what is protected"}
"""A table with one of these as its first head, or heads, has a mark in every row."""
WHOLE: Final = "docs/explanation/threat-model.md"
"""On this page every item of a list has a mark too."""

_ID: Final = r"[CA]-[a-z0-9]+(?:-[a-z0-9]+)*-[0-9]+"
_MARK: Final = re.compile(rf"(as )?({_ID}(?:, {_ID})*)")
_COMMENT: Final = re.compile(r"<!-- *((?:as |[CA]-).*?) *-->", re.DOTALL)
_FENCE: Final = re.compile(r"^ *(`{3,})[^\n]*\n.*?^ *\1`*[ ]*$", re.DOTALL | re.MULTILINE)
_NEW: Final = re.compile(r"\s*(?:[-*+]|\d+\.) |\s*#|\s*>")
_SENTENCE: Final = re.compile(r"(?<=[.!?])\)?\s+(?=[^\Wa-z_]|[`“(])")
_INTRODUCTION: Final = (
    "Each sentence below stands on a page of the project and promises something. A test attacks",
    "it. Its control shows that the attack works without the defence, that the test sees a breach,",
    "or that good input passes.",
    "Assumptions and limits follow: no test can show them. `make lint` fails if a claim loses its",
    "test or its control. It cannot see a promise that nobody marked.",
)


@attrs.frozen
class Said:
    """A sentence of a page and one id behind it; ``again`` if the id is defined elsewhere."""

    name: str
    sentence: str
    page: str
    line: int
    again: bool

    @property
    def place(self) -> str:
        """The page and the line, as compilers write them."""
        return f"{self.page}:{self.line}"


@attrs.frozen
class Marker:
    """A marker of pytest: its kind, ``claim`` or ``control``, one id, and the test that has it."""

    kind: str
    name: str
    test: str


@attrs.define
class Book:
    """All that pages and tests say, and what is wrong with it."""

    said: list[Said] = attrs.field(factory=list[Said])
    markers: list[Marker] = attrs.field(factory=list[Marker])
    faults: list[str] = attrs.field(factory=list[str])

    @classmethod
    def read(cls, root: Path) -> Book:
        """Read the pages and the tests below a folder. No test is imported."""
        book = cls()
        for path in _paths(root, PAGES):
            book.page(str(path.relative_to(root)), path.read_text("utf-8"))
        for folder in _paths(root, TESTS):
            for path in sorted(folder.rglob("test_*.py")):
                book.tests(str(path.relative_to(root)), path.read_text("utf-8"))
        book.compare()
        return book

    def page(self, name: str, text: str) -> None:
        """Take the marks of a page."""
        for line, cells, owed in _segments(text, items=name == WHOLE):
            marked = False
            for number, (head, cell) in enumerate(cells):
                before = f"{_plain(cells[0][1])}: " if number else ""
                if number > 1:
                    before += "".join(f"{it}: {_plain(each)}; " for it, each in cells[1:number])
                    before += f"{head}: "
                marked |= self._cell(name, line, before, cell, whole=len(cells) > 1)
            if owed and not marked:
                self.faults.append(
                    f"{name}:{line}: a row or an item without a mark: {_plain(cells[0][1])}"
                )

    def _cell(self, page: str, first: int, before: str, text: str, *, whole: bool) -> bool:
        """Take the marks of a paragraph or a cell; whether there are any."""
        start, sentence, kinds = 0, "", ""
        for found in _COMMENT.finditer(text):
            line = first + text.count("\n", 0, found.start())
            if not text[: found.start()].rpartition("\n")[2].strip():
                self.faults.append(f"{page}:{line}: a mark begins a line, which ends the paragraph")
            body = text[start : found.start()]
            start = found.end()
            if words := _plain(body):
                words = words if whole else _SENTENCE.split(words)[-1]
                sentence, kinds = (before + words).strip(), ""
            mark = _MARK.fullmatch(" ".join(found[1].split()))
            if not mark:
                self.faults.append(f"{page}:{line}: no mark: {found[1]}")
                continue
            for name in mark[2].split(", "):
                self.said.append(Said(name, sentence, page, line, again=bool(mark[1])))
                kinds += name[0]
            if len(set(kinds)) > 1:
                self.faults.append(f"{page}:{line}: a sentence is both claim and assumption")
        return start > 0

    def tests(self, name: str, source: str) -> None:
        """Take the markers of a module of tests."""
        for test, decorator in _decorators(ast.parse(source), name):
            kind = ast.unparse(decorator.func).removeprefix("pytest.mark.")
            if kind not in {"claim", "control"}:
                continue
            for argument in decorator.args:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    self.markers.append(Marker(kind, argument.value, test))
                else:
                    self.faults.append(f"{test}: an id is a text: {ast.unparse(argument)}")

    def compare(self) -> None:
        """Hold pages and tests against each other."""
        defined: dict[str, Said] = {}
        for each in self.said:
            if each.again:
                continue
            if twice := defined.get(each.name):
                self.faults.append(f"{each.place}: {each.name} stands at {twice.place} too")
            defined[each.name] = each
        for each in self.said:
            if each.name not in defined:
                self.faults.append(f"{each.place}: no page defines {each.name}")
        for marker in self.markers:
            if marker.name not in defined:
                self.faults.append(f"{marker.test}: no page defines {marker.name}")
            elif marker.name.startswith("A-"):
                self.faults.append(f"{marker.test}: {marker.name} is an assumption: it has no test")
        have = {(marker.kind, marker.name) for marker in self.markers}
        for name, each in defined.items():
            for kind, what in (("claim", "test that attacks it"), ("control", "control")):
                if name.startswith("C-") and (kind, name) not in have:
                    self.faults.append(f"{each.place}: {name} has no {what}: {each.sentence}")

    def written(self) -> str:
        """The page of all claims and assumptions."""
        defined = sorted((it for it in self.said if not it.again), key=lambda it: _key(it.name))
        tests = len({it.test for it in self.markers})
        claims = [each for each in defined if each.name.startswith("C-")]
        lines = [
            "# Claims",
            "",
            "<!-- Made by scripts/claims.py, which says how the marks are written. -->",
            "",
            *_INTRODUCTION,
            "",
            f"{len(claims)} claims, {tests} tests, {len(defined) - len(claims)} assumptions.",
        ]
        topic = ""
        for each in claims:
            if (now := each.name.split("-", 1)[1].rpartition("-")[0]) != topic:
                topic = now
                lines += ["", f"## {topic}", ""]
            lines += [*self._entry(each)]
        lines += ["", "## Assumptions and limits", ""]
        for each in defined:
            if each.name.startswith("A-"):
                lines += [*self._entry(each)]
        return "\n".join([*lines, ""])

    def _entry(self, each: Said) -> Iterator[str]:
        yield f"- `{each.name}` (`{each.page}`): {each.sentence}"
        for kind, title in (("claim", "attack"), ("control", "control")):
            tests = [it.test for it in self.markers if (it.kind, it.name) == (kind, each.name)]
            if tests:
                yield f"  - {title}: {', '.join(f'`{test}`' for test in sorted(set(tests)))}"
        if places := sorted({it.page for it in self.said if it.again and it.name == each.name}):
            yield f"  - repeated: {', '.join(f'`{place}`' for place in places)}"


def _paths(root: Path, patterns: Iterable[str]) -> list[Path]:
    return sorted({path for pattern in patterns for path in root.glob(pattern)})


def _key(name: str) -> tuple[str, int]:
    topic, _, number = name.rpartition("-")
    return topic, int(number)


def _plain(text: str) -> str:
    """A text in one line without marks, links, bold letters and the sign of a list's item."""
    text = re.sub(r"<!--.*?-->", " ", text, flags=re.DOTALL)
    text = re.sub(r"\A\s*(?:[-*+]|\d+\.) ", "", text)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text).replace("**", "")
    return " ".join(text.split())


def _segments(text: str, *, items: bool) -> Iterator[tuple[int, list[tuple[str, str]], bool]]:
    """Paragraphs, items of lists and rows of tables, without code blocks.

    Yields:
        the first line, the cells with the heads of their columns (one of a paragraph), and whether
        there must be a mark: in tables of claims and, if ``items``, in every item of a list.
    """
    text = _FENCE.sub(lambda block: "\n" * block[0].count("\n"), text)
    first, inside = 0, ""
    heads: list[str] = []
    for number, line in enumerate([*text.split("\n"), ""], start=1):
        row = line.startswith("|")
        if inside and (row or not line.strip() or _NEW.match(line)):
            yield first, [("", inside)], items and inside.startswith("- ")
            inside = ""
        if row:
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip()[1:-1])]
            if heads and set(line) - set("|-: "):
                owed = bool({heads[0], ": ".join(heads[:2])} & MARKED)
                yield number, list(zip(heads, cells, strict=False)), owed
            heads = heads or cells
        elif line.strip():
            first = first if inside else number
            inside += line + "\n"
        heads = heads if row else []


def _decorators(tree: ast.AST, name: str) -> Iterator[tuple[str, ast.Call]]:
    """The decorators with arguments of all classes and functions, with the ids of their tests."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            inner = f"{name}::{node.name}"
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Call):
                    yield inner, decorator
            yield from _decorators(node, inner)


def main(arguments: list[str]) -> int:
    """Print the faults, and without ``--check`` the page before them; 1 if there is a fault."""
    book = Book.read(ROOT)
    if arguments != ["--check"]:
        print(book.written())
    print(*book.faults, sep="\n", end="\n" if book.faults else "")
    return int(bool(book.faults))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
