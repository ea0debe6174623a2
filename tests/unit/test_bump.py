"""A new version reaches everything that names it, and nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bumping(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("bump")


@pytest.fixture
def tree(bumping: ModuleType, tmp_path: Path) -> Path:
    """A copy of all files that name a version."""
    shown = [path for pattern in bumping.SHOW_THE_BOUND for path in ROOT.glob(pattern)]
    files = [path for path, _name, _version in bumping.distributions(ROOT)]
    files += [*shown, *(ROOT / name for name in bumping.VERSION_OF_CORE)]
    files += [ROOT / "qres_core/contract/version.py", ROOT / "qres_core/__init__.py"]
    files += ROOT.glob("integrations/*/qres_*/__init__.py")
    for path in files:
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    return tmp_path


def test_all_distributions_get_the_version_and_all_bounds_move(
    bumping: ModuleType, tree: Path
) -> None:
    before = {name for _path, name, _version in bumping.distributions(tree)}
    assert set(bumping.bump(tree, "9.7.0")) == before
    assert {version for _path, _name, version in bumping.distributions(tree)} == {"9.7.0"}
    for path in [*tree.rglob("*.toml"), *tree.rglob("*.md")]:
        text = path.read_text("utf-8")
        assert "<0." not in "".join(line for line in text.splitlines() if "qres-core" in line)
    assert (
        "qres-arithmetic[fast]>=9.7,<10" in (tree / "plugins/qres_krum/pyproject.toml").read_text()
    )
    assert '__version__ = "9.7.0"' in (tree / "qres_core/contract/version.py").read_text()
    assert '__version__ = "9.7.0"' in (
        (tree / "integrations/qres_flower/qres_flower/__init__.py").read_text()
    )
    assert "version: 9.7.0" in (tree / "CITATION.cff").read_text()
    assert 'appVersion: "9.7.0"' in (tree / "deploy/helm/qres/Chart.yaml").read_text()
    assert "running 9.7.0" in (tree / "docs/how-to/debug-a-load-error.md").read_text()


def test_a_single_plugin_gets_a_version_and_no_bound_moves(bumping: ModuleType, tree: Path) -> None:
    before = {path: path.read_text("utf-8") for path in tree.rglob("*") if path.is_file()}
    assert bumping.bump(tree, "9.7.0", "qres-krum") == ["qres-krum"]
    after = {path: path.read_text("utf-8") for path in tree.rglob("*") if path.is_file()}
    changed = [path.relative_to(tree).as_posix() for path in before if before[path] != after[path]]
    assert changed == ["plugins/qres_krum/pyproject.toml"]
    assert bumping.bump(tree, "0.0.1") == []


@pytest.mark.parametrize("version", ["1.0", "1.0.0rc1", "v1.0.0", ""])
def test_another_form_of_a_version_is_refused(
    bumping: ModuleType, tree: Path, version: str
) -> None:
    with pytest.raises(ValueError, match="not MAJOR"):
        bumping.bump(tree, version)


def test_every_file_that_names_the_version_of_the_core_agrees(bumping: ModuleType) -> None:
    (_path, name, version), *_others = bumping.distributions(ROOT)
    assert name == "qres-core"
    for file in bumping.VERSION_OF_CORE:
        assert version in (ROOT / file).read_text("utf-8"), file
