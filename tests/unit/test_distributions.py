"""What each distribution holds: the page, the limits, and the built wheels."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
Script = Callable[[str], ModuleType]


@pytest.fixture
def tree(tmp_path: Path, script: Script) -> Path:
    """A core and a plugin, with their page."""
    for folder, name in ((".", "qres-core"), ("plugins/qres_rule", "qres-rule")):
        home = tmp_path / folder
        package = home / name.replace("-", "_")
        package.mkdir(parents=True)
        (home / "pyproject.toml").write_text(f'[project]\nname = "{name}"\nversion = "1.0"\n')
        (package / "__init__.py").write_text('"""A package."""\n')
        (package / "rule.py").write_text('"""A rule. It is one."""\n')
    (tmp_path / "docs/reference").mkdir(parents=True)
    page = script("distributions").page(tmp_path)
    (tmp_path / "docs/reference/distributions.md").write_text(page, "utf-8")
    return tmp_path


def built(tree: Path, *, extra: str = "", without: str = "") -> Path:
    folder = tree / "dist"
    folder.mkdir()
    for package in (tree / "qres_core", tree / "plugins/qres_rule/qres_rule"):
        with zipfile.ZipFile(folder / f"{package.name}-1.0-py3-none-any.whl", "w") as wheel:
            names = [f"{package.name}/{path.name}" for path in package.glob("*.py")]
            for name in {*names, extra} - {without, ""}:
                wheel.writestr(name, "")
            wheel.writestr(f"{package.name}-1.0.dist-info/METADATA", "")
    return folder


def test_this_checkout_is_as_promised(script: Script) -> None:
    assert list(script("distributions").complaints(ROOT, None)) == []


def test_a_whole_tree_and_its_wheels_have_no_complaint(tree: Path, script: Script) -> None:
    assert list(script("distributions").complaints(tree, built(tree))) == []


def test_a_stale_page_is_told(tree: Path, script: Script) -> None:
    (tree / "qres_core/more.py").write_text('"""More."""\n')
    (told,) = script("distributions").complaints(tree, None)
    assert "not up to date" in told


def test_a_core_that_grew_is_told(
    tree: Path, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script("distributions"), "MOST_LINES", 1)
    (told,) = script("distributions").complaints(tree, None)
    assert "qres-core has 2 lines, more than 1" in told


def test_an_exhibit_in_a_plugin_is_told(tree: Path, script: Script) -> None:
    (tree / "plugins/qres_rule/qres_rule/gallery.py").write_text('"""An attack."""\n')
    told = list(script("distributions").complaints(tree, None))
    assert "qres-rule holds qres_rule/gallery.py, which serves study" in told


@pytest.mark.parametrize(
    ("spoilt", "told"),
    [
        ({"extra": "tests/test_rule.py"}, "holds tests/test_rule.py, which is not in its package"),
        ({"without": "qres_core/rule.py"}, "lacks qres_core/rule.py"),
    ],
)
def test_a_wheel_with_other_files_is_told(
    tree: Path, script: Script, spoilt: dict[str, str], told: str
) -> None:
    assert told in "\n".join(script("distributions").complaints(tree, built(tree, **spoilt)))


def test_a_wheel_that_is_not_there_is_told(tree: Path, script: Script) -> None:
    (tree / "dist").mkdir()
    told = list(script("distributions").complaints(tree, tree / "dist"))
    assert told == [
        "no wheel qres_core-1.0-py3-none-any.whl",
        "no wheel qres_rule-1.0-py3-none-any.whl",
    ]
