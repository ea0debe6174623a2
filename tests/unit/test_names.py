"""One noun, one meaning: names of classes, and a name that no variable has."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TWINS = {
    "Halves": "the state of a folding, once for each engine of the proofs' scalars",
}
"""Names that several modules define on purpose, with the one meaning they have."""


def sources() -> list[Path]:
    """The modules of all distributions."""
    kinds = ("plugins", "libraries", "integrations")
    folders = [
        ROOT / "qres_core",
        *(found for kind in kinds for found in ROOT.glob(f"{kind}/*/qres_*")),
    ]
    return [module for folder in folders for module in sorted(folder.rglob("*.py"))]


def homonyms(modules: dict[str, str]) -> dict[str, list[str]]:
    """Names that more than one module gives to a class, with the modules."""
    found: dict[str, list[str]] = defaultdict(list)
    for where, text in modules.items():
        for node in ast.parse(text).body:
            if isinstance(node, ast.ClassDef):
                found[node.name.lstrip("_")].append(where)
    return {name: places for name, places in found.items() if len(places) > 1}


def test_no_two_classes_share_a_name() -> None:
    modules = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in sources()}
    assert len(modules) > 300
    found = homonyms(modules)
    assert {name: places for name, places in found.items() if name not in TWINS} == {}
    assert set(found) == set(TWINS)  # a twin that is gone leaves the list


def test_a_second_class_of_a_name_is_found() -> None:
    twice = {"a.py": "class Record: ...", "b.py": "class _Record: ...", "c.py": "class Other: ..."}
    assert homonyms(twice) == {"Record": ["a.py", "b.py"]}


BANNED = "one"
"""It says nothing of what it stands for: a node, a frame, a plugin."""
FOLDERS = (
    "qres_core",
    "plugins",
    "libraries",
    "integrations",
    "tests",
    "docs",
    "examples",
    "scripts",
    "benchmarks",
    "deploy",
)
_FENCE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def banned_in(code: str) -> list[int]:
    """Lines where a variable, a parameter or an argument has the banned name."""
    lines: list[int] = []
    if not re.search(rf"\b{BANNED}\b", code):
        return lines
    before = ""
    try:
        for token in tokenize.generate_tokens(io.StringIO(code).readline):
            if (
                token.type == tokenize.NAME
                and token.string == BANNED
                and before not in {".", "def"}
            ):
                lines.append(token.start[0])
            before = token.string
    except (tokenize.TokenError, IndentationError):
        return lines  # an excerpt of a page: what was read so far
    return lines


def fences(page: str) -> list[str]:
    """The Python blocks of a page, without the prompts of a console."""
    blocks: list[str] = _FENCE.findall(page)
    return [re.sub(r"^(>>>|\.\.\.) ?", "", block, flags=re.MULTILINE) for block in blocks]


def test_no_variable_is_called_one() -> None:
    found: list[str] = []
    pages = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
    pages += [*ROOT.glob("*.py"), *ROOT.glob("*.md")]
    read = 0
    for path in pages:
        if path.suffix not in {".py", ".md", ".jinja", ".tmpl"} or "_build" in path.parts:
            continue
        text = path.read_text(encoding="utf-8")
        read += 1
        for code in fences(text) if path.suffix == ".md" else [text]:
            found += [f"{path.relative_to(ROOT)}:{line}" for line in banned_in(code)]
    assert read > 900
    assert found == []


def test_the_banned_name_is_found_wherever_it_is_bound() -> None:
    code = "for one in x: pass\nf(lambda one: 1)\ndef g(one): ...\n[one for one in x]\nthis.one\n"
    assert banned_in(code) == [1, 2, 3, 4, 4]
    assert banned_in("# one of them\nx = 'one'\nnode.one()\ndef one(): ...\n") == []
    assert [banned_in(block) for block in fences("```python\n>>> one = 1\n```\n")] == [[1]]
