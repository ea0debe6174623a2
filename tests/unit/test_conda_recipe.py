"""The conda recipe follows the projects."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def conda(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("conda_recipe")


def test_the_recipe_is_up_to_date(conda: ModuleType) -> None:
    assert conda.RECIPE.read_text("utf-8") == conda.recipe(ROOT), "run scripts/conda_recipe.py"


def test_every_distribution_has_a_package_except_those_that_are_named(conda: ModuleType) -> None:
    projects = [ROOT / "pyproject.toml", *ROOT.glob("*/qres_*/pyproject.toml")]
    names = {tomllib.loads(path.read_text("utf-8"))["project"]["name"] for path in projects}
    made = re.findall(r"^      name: (\S+)$", conda.RECIPE.read_text("utf-8"), re.MULTILINE)
    assert len(made) == len(set(made))
    assert set(made) == names - conda.LACKING
    assert not conda.LACKING - names


@pytest.mark.parametrize(
    ("pip", "written"),
    [
        ("PyNaCl>=1.6.2", "pynacl >=1.6.2"),
        ("prometheus-client>=0.21", "prometheus_client >=0.21"),
        ("qres-arithmetic[fast]>=0.1,<0.2", "qres-arithmetic >=0.1,<0.2"),
        ("attrs", "attrs"),
    ],
)
def test_requirements_are_written_as_conda_does(conda: ModuleType, pip: str, written: str) -> None:
    assert conda.requirement(pip) == written


def test_what_conda_cannot_say_is_refused(conda: ModuleType) -> None:
    with pytest.raises(ValueError, match="conda cannot say"):
        conda.requirement("tomli>=2; python_version < '3.11'")
