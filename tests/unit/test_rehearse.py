"""The rehearsal of a release notices builds that differ, packages of strangers, and addresses."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TINY = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "qres-tiny"
version = "1.0"

[tool.hatch.build.targets.wheel]
packages = ["qres_tiny"]
"""


@pytest.fixture(scope="module")
def rehearsal(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("rehearse")


def tree(folder: Path, text: str = "VALUE = 1\n") -> Path:
    package = folder / "qres_tiny"
    package.mkdir(parents=True)
    (folder / "pyproject.toml").write_text(TINY, "utf-8")
    (package / "__init__.py").write_text(text, "utf-8")
    return folder


def test_two_builds_of_one_tree_are_the_same_and_a_changed_file_is_noticed(
    rehearsal: ModuleType, tmp_path: Path
) -> None:
    first, second, changed = tmp_path / "1", tmp_path / "2", tmp_path / "3"
    rehearsal.build(tree(tmp_path / "a"), first, "1700000000", {}, 0o022)
    os.utime(tree(tmp_path / "other place" / "b") / "qres_tiny/__init__.py", (0, 0))
    rehearsal.build(tmp_path / "other place" / "b", second, "1700000000", rehearsal.OTHER, 0o077)
    rehearsal.build(tree(tmp_path / "c", "VALUE = 2\n"), changed, "1700000000", {}, 0o022)
    built = rehearsal.digests(first)
    assert sorted(built) == ["qres_tiny-1.0-py2.py3-none-any.whl", "qres_tiny-1.0.tar.gz"]
    assert rehearsal.differing(built, rehearsal.digests(second)) == []
    assert rehearsal.differing(built, rehearsal.digests(changed)) == sorted(built)
    assert rehearsal.differing(built, {}) == sorted(built)


def test_a_package_under_a_name_of_qres_that_was_not_built_here_is_found(
    rehearsal: ModuleType,
) -> None:
    def item(name: str, digest: str) -> dict[str, object]:
        hashes = {"archive_info": {"hashes": {"sha256": digest}}}
        return {"metadata": {"name": name, "version": "9"}, "download_info": hashes}

    report = {"install": [item("qres-core", "aa"), item("numpy", "bb"), item("qres-dp", "cc")]}
    assert rehearsal.strangers(report, {"qres_core.whl": "aa"}) == ["qres-dp 9"]
    assert rehearsal.strangers(report, {"x": "aa", "y": "cc"}) == []
    local: dict[str, Any] = {
        "metadata": {"name": "QRES-core", "version": "9"},
        "download_info": {"dir_info": {}},
    }
    assert rehearsal.strangers({"install": [local]}, {"x": "aa"}) == ["QRES-core 9"]


def test_addresses_of_an_index_are_not_printed(rehearsal: ModuleType) -> None:
    text = "Looking in indexes: https://user:word@index.example/simple, http://127.0.0.1:80/simple/"
    shown = rehearsal.without_addresses(text)
    assert shown == "Looking in indexes: https://… http://127.0.0.1:80/simple/"
    assert "example" not in rehearsal.without_addresses("http://127.0.0.1.example/simple")


def test_a_bill_of_materials_is_counted(rehearsal: ModuleType) -> None:
    components: list[dict[str, Any]] = [{"name": "qres-core", "licenses": [{}]}, {"name": "numpy"}]
    text: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "components": components,
    }
    counted = "CycloneDX 1.6: 2 components, 1 of QRES, 1 with a licence, 3 dependencies"
    edges = [{"dependsOn": ["a", "b"]}, {"dependsOn": ["c"]}, {}]
    assert rehearsal.counts(text | {"dependencies": edges}) == counted


def test_every_distribution_is_built_and_the_blocks_of_the_readme_are_there(
    rehearsal: ModuleType,
) -> None:
    found = [path.relative_to(ROOT).as_posix() for path in rehearsal.distributions(ROOT)]
    assert found[0] == "."
    assert {"plugins/qres_krum", "libraries/qres_carrier", "integrations/qres_torch"} <= set(found)
    text = (ROOT / "README.md").read_text("utf-8")
    assert rehearsal.readme_block.block(text, "release").startswith("pip install qres-core ")
    assert "qres swarm up" in rehearsal.readme_block.block(text, "nodes")


def test_a_program_that_fails_is_named(rehearsal: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(rehearsal.RehearsalError, match="ended with 3"):
        rehearsal.run([sys.executable, "-c", "raise SystemExit(3)"], tmp_path)
    assert rehearsal.run([sys.executable, "-c", "print('said')"], tmp_path) == "said\n"


def test_the_program_explains_itself() -> None:
    words = [sys.executable, str(ROOT / "scripts/rehearse.py"), "--help"]
    environment = {**os.environ, "PYTHONSAFEPATH": ""}
    done = subprocess.run(words, capture_output=True, check=True, text=True, env=environment)
    assert "--commit" in done.stdout
