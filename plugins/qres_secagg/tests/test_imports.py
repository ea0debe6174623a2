"""No secret comes from a generator that is not made for secrets."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import qres_secagg

PACKAGE = Path(qres_secagg.__file__).parent


def weak_sources(source: str) -> list[str]:
    """Names of modules or attributes in a program that are not made for secrets."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names if "random" in name.name.split(".")]
        elif isinstance(node, ast.ImportFrom):
            names = [*(node.module or "").split("."), *(name.name for name in node.names)]
            found += [name for name in names if name in {"random", "default_rng"}]
        elif isinstance(node, ast.Attribute) and node.attr in {"random", "default_rng"}:
            found.append(node.attr)
    return found


# The exhibits of the attack gallery play attackers and repeatable data, and mask nothing.
EXHIBITS = {PACKAGE / "gallery.py", *(PACKAGE / "exhibits").glob("*.py")}
MASKING = sorted(set(PACKAGE.rglob("*.py")) - EXHIBITS)


@pytest.mark.parametrize("path", MASKING, ids=lambda path: path.name)
def test_no_module_uses_a_weak_generator(path: Path) -> None:
    assert weak_sources(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "program",
    [
        "import random",
        "import numpy.random as secure",
        "from numpy import random as secure",
        "from numpy.random import default_rng",
        "import numpy as np\nnp.random.bytes(32)",
        "from random import randbytes",
    ],
)
def test_a_weak_generator_is_found(program: str) -> None:
    assert weak_sources(program)
