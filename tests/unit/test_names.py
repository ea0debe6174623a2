"""One noun, one meaning: a class name means one thing in the whole repository."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TWINS = {
    "Halves": "the state of a folding, once for each engine of the proofs' scalars",
}
"""Names that several modules define on purpose, with the one meaning they have."""


def sources() -> list[Path]:
    """The modules of all distributions."""
    folders = [ROOT / "qres_core", *ROOT.glob("plugins/*/qres_*"), *ROOT.glob("libraries/*/qres_*")]
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
