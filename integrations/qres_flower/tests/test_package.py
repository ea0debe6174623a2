"""What the distribution says of itself, and what its import costs."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import qres_flower

PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def test_the_version_is_that_of_the_project() -> None:
    project = tomllib.loads(PROJECT.read_text("utf-8"))["project"]
    assert qres_flower.__version__ == project["version"]


def test_the_import_loads_neither_flower_nor_a_numerical_library() -> None:
    heavy = "{'flwr', 'ray', 'grpc', 'numpy', 'numba', 'torch'}"
    code = f"import qres_flower, sys; print(sorted({heavy} & set(sys.modules)))"
    command = [sys.executable, "-P", "-c", code]
    said = subprocess.run(command, capture_output=True, check=True, text=True)
    assert said.stdout.strip() == "[]"
