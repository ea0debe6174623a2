"""``qres new-plugin``: what it generates is complete, clean and passes its own tests."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from qres_lab.commands.new_plugin import (
    HOOKS,
    OTHERS,
    SCAFFOLDS,
    command,
    core_requirement,
    render,
    scaffold_of,
    write,
)

from qres_core import __version__
from qres_core.errors import LabError
from qres_core.kernel.assembly import assemble
from qres_core.kernel.config import parse
from qres_core.kernel.discovery import Installed
from qres_core.kernel.slots import ALL_HOOKS

ROOT = Path(__file__).parents[4]
MADE = (*SCAFFOLDS, *OTHERS)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


def files_of(folder: Path) -> list[str]:
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    )


def in_subprocess(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("PYTEST_ADDOPTS", None)  # meant for the run that this is a part of
    return subprocess.run(
        [sys.executable, "-P", "-m", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "hook",
    [
        *MADE[:2],
        *(pytest.param(hook, marks=pytest.mark.long) for hook in MADE[2:]),
    ],
)
def test_generated_plugin_passes_its_own_tests(hook: str, tmp_path: Path) -> None:
    result = run("acme-thing", "--hook", hook, "--directory", str(tmp_path))
    assert result.exit_code == 0, result.output
    folder = tmp_path / "qres_acme_thing"
    assert files_of(folder) == [
        "CHANGELOG.md",
        "LICENSE",
        "README.md",
        "pyproject.toml",
        "qres_acme_thing/__init__.py",
        "qres_acme_thing/py.typed",
        *(["swarm.toml"] if hook == "trainer" else []),
        "tests/test_qres_acme_thing.py",
    ]
    done = in_subprocess(folder, "pytest", "-q", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout


@pytest.mark.parametrize("hook", SCAFFOLDS)
def test_generated_hooks_are_those_announced(hook: str) -> None:
    tree = ast.parse(render("acme", hook)["qres_acme/__init__.py"])
    found = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and any(
            isinstance(item, ast.Name) and item.id == "hookimpl" for item in node.decorator_list
        )
    }
    assert found == set(SCAFFOLDS[hook].hooks)
    assert hook in found


@pytest.mark.parametrize("name", ["acme", "acme-of-a-rather-long-name"])
def test_generated_code_is_clean(name: str, tmp_path: Path) -> None:
    pytest.importorskip("ruff")
    for hook in MADE:
        write(render(name, hook), tmp_path / hook)
    for arguments in (["check"], ["format", "--check"]):
        done = in_subprocess(tmp_path, "ruff", *arguments, "--no-cache", ".")
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("hook", SCAFFOLDS)
def test_the_kernel_takes_the_generated_plugin_with_the_options_of_its_readme(
    hook: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = render("acme", hook)
    write(files, tmp_path / "dist")
    spec = importlib.util.spec_from_file_location(
        "qres_acme", tmp_path / "dist" / "qres_acme" / "__init__.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "qres_acme", module)
    spec.loader.exec_module(module)
    options = files["README.md"].split("```toml\n")[1].split("```")[0].replace("…", "5a" * 32)
    swarm = {"name": "s", "nodes": 4, "byzantine": 1, "quorum": 4, "insecure": True}
    config = parse({"swarm": swarm, **tomllib.loads(options)}, source="README.md")
    (enabled,) = assemble(config, {"acme": Installed.local("acme", module.Acme)})
    assert set(enabled.hooks) == set(SCAFFOLDS[hook].hooks)


@pytest.mark.parametrize("hook", MADE)
def test_generated_metadata_is_sound(hook: str) -> None:
    files = render("acme-thing", hook)
    project = tomllib.loads(files["pyproject.toml"])["project"]
    assert project["name"] == "qres-acme-thing"
    group = scaffold_of(hook).group
    entry = {"acme_thing": "qres_acme_thing:AcmeThing"}
    assert project.get("entry-points", {}) == ({group: entry} if group else {})
    assert f"qres-core{core_requirement(__version__)}" in project["dependencies"]
    imported = "import numpy" in files["qres_acme_thing/__init__.py"]
    assert any(dependency.startswith("numpy") for dependency in project["dependencies"]) == imported
    assert files["LICENSE"] == (ROOT / "LICENSE").read_text(encoding="utf-8")
    readme = files["README.md"]
    table = readme.split("```toml\n")[1].split("```")[0]
    used = {
        "attack": {"simulation": {"attack": "acme_thing", "attackers": 2}},
        "trainer": {"trainer": {"entry": "qres_acme_thing:make"}},
    }
    read = tomllib.loads(table)
    assert list(read.get("plugins", ())) == ["acme_thing"] or read == used[hook]
    assert not any("$" in content for path, content in files.items() if path != "LICENSE")


def test_every_hook_has_a_scaffold_but_transport() -> None:
    without = {"transport", "identity", "key_index", "link_keys", "credential", "approve"}
    without |= {"verify_all", "revealable", "reveal_shard", "verify_shard"}
    assert set(HOOKS) == set(ALL_HOOKS) - without
    for hook, scaffold in HOOKS.items():
        assert hook in SCAFFOLDS[scaffold].hooks


@pytest.mark.parametrize("hook", ["revealable", "reveal_shard"])
def test_a_hook_of_what_opens_sums_names_where_to_look(hook: str) -> None:
    done = run("acme", "--hook", hook)
    assert done.exit_code == 2
    assert "opens sums in 'reveal'; see qres-secagg" in " ".join(done.output.split())


def test_the_hook_of_an_authority_names_where_to_look() -> None:
    done = run("acme", "--hook", "approve")
    assert done.exit_code == 2
    assert "knows the swarm's authority; see qres-pki" in " ".join(done.output.split())


@pytest.mark.parametrize("name", ["update", "none", "true", "verdict", "test-contract", "any"])
def test_names_of_what_the_code_imports_make_other_class_names(name: str) -> None:
    for hook in MADE:
        for path, content in render(name, hook).items():
            if path.endswith(".py"):
                compile(content, path, "exec")
    source = render(name, "verify")[f"qres_{name.replace('-', '_')}/__init__.py"]
    assert "Plugin:\n" in source


def test_json_lists_what_was_made(tmp_path: Path) -> None:
    result = run("acme", "--hook", "sign", "--directory", str(tmp_path), "--json")
    report = json.loads(result.output)
    assert report["hooks"] == ["sign", "authenticate"]
    assert report["files"] == files_of(Path(report["directory"]))
    assert report["distribution"] == "qres-acme"


def test_next_steps_are_printed(tmp_path: Path) -> None:
    result = run("acme", "--hook", "aggregate", "--directory", str(tmp_path / "new" / "folders"))
    assert 'python -m pip install -e ".[test]"' in result.output
    assert "[plugins.acme]\n  f = 1" in result.output


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "qres_acme"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    result = run("acme", "--hook", "aggregate", "--directory", str(tmp_path))
    assert isinstance(result.exception, LabError)
    assert result.exception.code == "QRES-E803"
    assert files_of(folder) == ["mine.txt"]


@pytest.mark.parametrize(
    "name",
    [
        "Acme",
        "1acme",
        "acme__thing",
        "acme_",
        "acme-",
        "-acme",
        "a b",
        "",
        "../x",
        "a" * 41,
        "a.b",
        "é",
    ],
)
def test_bad_names_are_refused(name: str, tmp_path: Path) -> None:
    result = run("--hook", "aggregate", "--directory", str(tmp_path), "--", name)
    assert result.exit_code == 2
    assert "lower-case" in result.output
    assert list(tmp_path.iterdir()) == []


def test_words_may_be_joined_by_either_mark() -> None:
    assert render("acme_thing", "aggregate") == render("acme-thing", "aggregate")


@pytest.mark.parametrize("name", ["sign_flip", "sign-flip", "mimic", "double_vote"])
def test_names_of_the_attacks_of_qres_are_refused(name: str, tmp_path: Path) -> None:
    result = run(name, "--hook", "attack", "--directory", str(tmp_path))
    assert result.exit_code == 2
    assert "there is an attack" in result.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["trimmed-mean", "robust_stats", "krum", "mean", "memory", "core", "transport-libp2p"]
)
def test_names_of_qres_itself_are_refused(name: str, tmp_path: Path) -> None:
    result = run(name, "--hook", "aggregate", "--directory", str(tmp_path))
    assert result.exit_code == 2
    assert "of QRES itself" in result.output


def test_a_misspelt_hook_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    result = run("acme", "--hook", "agregate", "--directory", str(tmp_path))
    assert result.exit_code == 2
    assert "did you mean 'aggregate'?" in " ".join(result.output.split())


def test_a_transport_is_refused_with_what_to_do(tmp_path: Path) -> None:
    result = run("acme", "--hook", "transport", "--directory", str(tmp_path))
    assert result.exit_code == 2
    assert "no scaffold for 'transport'" in result.output


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    result = run("acme", "--hook", "aggregate", "--directory", str(tmp_path / "file" / "below"))
    assert result.exit_code == 1
    assert "cannot write" in result.output


@pytest.mark.parametrize(
    ("version", "requirement"),
    [("0.1.0", ">=0.1,<0.2"), ("0.9.12", ">=0.9,<0.10"), ("1.0.0", ">=1.0,<2")],
)
def test_plugins_pin_the_contract_they_were_made_for(version: str, requirement: str) -> None:
    assert core_requirement(version) == requirement
