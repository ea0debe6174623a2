"""Classes of the swarm stay small enough to be read in one go."""

from __future__ import annotations

import ast
from pathlib import Path

import qres_core.swarm

LINES = 300


def test_no_class_of_the_swarm_is_longer_than_three_hundred_lines() -> None:
    folder = Path(qres_core.swarm.__file__).parent
    sizes = {
        node.name: (node.end_lineno or 0) - node.lineno + 1
        for path in folder.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    }
    assert "RoundMachine" in sizes, "control: the classes are found"
    assert {name: size for name, size in sizes.items() if size > LINES} == {}
