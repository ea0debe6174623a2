"""Find sentences that ``style.toml`` bans: in pages, changelog fragments and the texts of errors.

    python scripts/check_style.py               all of them
    python scripts/check_style.py README.md     these files

Pages that are made from the code are checked too. Code, names in backquotes, addresses, headings
and comments are not. Docstrings of what is installed begin with a noun or a verb, and not with a
question word. Exit status 1 if something is found.
"""

from __future__ import annotations

import ast
import importlib
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import attrs

ROOT: Final = Path(__file__).resolve().parent.parent
PAGES: Final = (
    "*.md",
    "changelog.d/*.md",
    "deploy/*.md",
    "docs/**/*.md",
    "integrations/*/*.md",
    "integrations/*/changelog.d/*.md",
    "libraries/*/*.md",
    "libraries/*/changelog.d/*.md",
    "plugins/*/*.md",
    "plugins/*/changelog.d/*.md",
    "requirements/*.md",
    "qres_core/contract/errors.py",
)
PRODUCT: Final = ("qres_core", "integrations/*/qres_*", "libraries/*/qres_*", "plugins/*/qres_*")
_QUESTION: Final = re.compile(
    r"(?:Who(?:m|se|ever)?|What(?:ever)?|Whether|Which|Where|When|Why|How)\b"
)
_CODE: Final = "X"  # in the place of code and names: one word
_END: Final = re.compile(r"(?<=[.!?:;])\s+(?=[^\W_])|(?<=[.!?][)\"”])\s+(?=[A-Z])")
_NEW_SEGMENT: Final = re.compile(r"\s*(?:[-*+]|\d+\.)\s+|\s*(?=#)|\s*(?=>)")


@attrs.frozen
class Banned:
    """A construction: what finds it, what is wrong with it, and what to write instead."""

    pattern: re.Pattern[str]
    why: str
    write: str
    caught: str


@attrs.frozen
class Style:
    """All of ``style.toml``."""

    banned: tuple[Banned, ...]
    longest_sentence: int

    @classmethod
    def read(cls, path: Path = ROOT / "scripts" / "style.toml") -> Style:
        """Read the list; an unknown or missing key raises TypeError or KeyError."""
        raw = tomllib.loads(path.read_text("utf-8"))
        banned = tuple(
            Banned(**each | {"pattern": re.compile(_spaced(each["pattern"]), re.IGNORECASE)})
            for each in raw.pop("banned")
        )
        return cls(banned, **raw)

    def complaints(self, sentence: str) -> Iterator[tuple[int, str]]:
        """Where a sentence uses a banned construction, and the complaint about it."""
        for each in self.banned:
            if found := each.pattern.search(sentence):
                words = " ".join(found[0].split())
                yield found.start(), f"“{words}”: {each.why}; write: {each.write}"


def _spaced(pattern: str) -> str:
    return pattern.replace(" ", r"\s+")


def segments(text: str) -> Iterator[tuple[int, str]]:
    """Paragraphs, list items, headings and table cells of a Markdown page.

    Yields:
        the line it begins on, from 1, and its text with code, links and comments taken out.
    """
    text = _blanked(r"^ *(`{3,})[^\n]*\n.*?^ *\1`*[ ]*$", text)
    text = _blanked(r"<!--.*?-->", text)
    text = _blanked(r"(?<=::\n)\n(?: {4}[^\n]*\n|\n)+", text)  # a literal block of a docstring
    text = re.sub(r"(`+)(?:(?!\1).)+?\1", lambda code: _CODE + "\n" * code[0].count("\n"), text)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"https?://\S+", _CODE, text)
    text = text.replace("**", "")
    first, inside = 0, ""
    for number, line in enumerate(text.split("\n"), start=1):
        cells = line.lstrip().startswith("|")
        if not line.strip() or cells or _NEW_SEGMENT.match(line):
            if inside:
                yield first, inside
            inside = ""
        if cells:
            yield from ((number, cell.strip()) for cell in re.split(r"(?<!\\)\|", line))
        elif line.strip():
            stripped = _NEW_SEGMENT.sub("", line, count=1) if not inside else line.strip()
            first, inside = (first, f"{inside}\n{stripped}") if inside else (number, stripped)
    if inside:
        yield first, inside


def _blanked(pattern: str, text: str) -> str:
    """The text with what the pattern finds taken out, and the line breaks kept."""
    return re.sub(
        pattern,
        lambda found: "\n" * found[0].count("\n"),
        text,
        flags=re.DOTALL | re.MULTILINE,
    )


def strings(source: str) -> Iterator[tuple[int, str]]:
    """The paragraphs of all string constants of a Python module, with their lines."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from ((node.lineno + line - 1, text) for line, text in segments(node.value))


def sentences(segment: str) -> list[str]:
    """The sentences of a segment, and the parts that colons and semicolons divide."""
    return _END.split(segment)


def check(name: str, text: str, style: Style) -> Iterator[str]:
    """What is wrong with a file, as ``name:line: complaint``."""
    found = strings(text) if name.endswith(".py") else segments(text)
    for first, segment in found:
        if segment.startswith("#"):
            continue
        begin, words = 0, 0
        for sentence in sentences(segment):
            offset = segment.index(sentence, begin)
            begin = offset + len(sentence)
            for where, complaint in style.complaints(sentence):
                line = first + segment.count("\n", 0, offset + where)
                yield f"{name}:{line}: {complaint}"
            words += len(re.findall(r"[^\W_][\w'.-]*", sentence))
            if not sentence.endswith((":", ";")):
                if words > style.longest_sentence:
                    line = first + segment.count("\n", 0, offset)
                    yield f"{name}:{line}: a sentence of {words} words; write: shorter sentences"
                words = 0
        if words > style.longest_sentence:
            yield f"{name}:{first}: a sentence of {words} words; write: shorter sentences"


def docstrings(name: str, source: str) -> Iterator[str]:
    """Complaints about docstrings of a module that begin with a question word."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found = _QUESTION.match(ast.get_docstring(node) or "")
            if found:
                where = f"{name}:{node.body[0].lineno}"
                yield f"{where}: a docstring begins with “{found[0]}”; write: a noun or a verb"


def modules() -> list[Path]:
    """Every module of what is installed."""
    folders = [folder for pattern in PRODUCT for folder in ROOT.glob(pattern)]
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


def files(names: Iterable[str]) -> list[Path]:
    """The files named, or all that are checked."""
    if named := [ROOT / name for name in names]:
        return named
    found = {path for pattern in PAGES for path in ROOT.glob(pattern)}
    return sorted(path for path in found if "_build" not in path.parts)


def texts(names: Iterable[str]) -> dict[str, str]:
    """The text of each file that is checked; of pages made from the code, as they would be made."""
    found = {str(path.relative_to(ROOT)): path.read_text("utf-8") for path in files(names)}
    if names:
        return found
    sys.path.append(str(ROOT / "docs" / "_ext"))
    pages = importlib.import_module("qres_pages")
    # The sentences of claims and figures are checked where they stand.
    listed = {"docs/reference/claims.md", "docs/reference/figures.md"}
    made = {name: make() for name, make in pages.PAGES.items() if name not in listed}
    made[pages.HOOKS] = pages.hooks_page()
    return {name: text for name, text in (found | made).items() if name not in listed}


def main(arguments: list[str]) -> int:
    """Check the files named, or all of them."""
    style = Style.read()
    complaints = [
        complaint
        for name, text in texts(arguments).items()
        for complaint in check(name, text, style)
    ]
    for path in () if arguments else modules():
        complaints += docstrings(str(path.relative_to(ROOT)), path.read_text("utf-8"))
    print(*complaints, sep="\n", end="\n" if complaints else "")
    return bool(complaints)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
