"""Who may import whom, where an import linter cannot say it: allow-lists and start-up cost."""

from __future__ import annotations

import ast
import graphlib
import importlib
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

import qres_core

ROOT = Path(__file__).resolve().parents[2]
CONTRACT_MAY_IMPORT = {"attrs", "cbor2", "numpy", "pluggy"}
PLUGINS = sorted(path.parent.name for path in ROOT.glob("plugins/*/pyproject.toml"))
LIBRARIES = sorted(path.parent.name for path in ROOT.glob("libraries/*/pyproject.toml"))
INTEGRATIONS = sorted(path.parent.name for path in ROOT.glob("integrations/*/pyproject.toml"))
PUBLIC = frozenset(qres_core.__all__)
STUDY = {"qres_dp_audit", "qres_lab"}
"""Libraries that look into the distributions they study, and that no node needs."""
DEFERS = {"qres_dp": {"qres_dp_audit"}}
"""What a plugin imports of them when it is asked for, or else names as absent."""
LOOKS_INSIDE = {*STUDY, "qres_hosting"}
"""Libraries that import inner modules of the core, which imports none of them."""
INNER = {"attacks", "builtin", "cli", "kernel", "lab", "node", "swarm", "training"}
FAMILIES = {
    name: frozenset(getattr(importlib.import_module(f"qres_core.{name}"), "__all__", ()))
    for name in (
        *("claims", "commands", "dialogues", "errors"),
        *("reporting", "training", "transport"),
    )
}
"""Modules of public names, with the names."""
HOSTING = frozenset(importlib.import_module("qres_hosting").__all__)
"""Names of ``qres_hosting`` that an integration may import."""
HEAVY = {"libp2p", "matplotlib", "numba", "numpy", "scipy", "sklearn", "torch"}


def imported(source: str) -> Iterator[tuple[str, int]]:
    """Every absolute module path that ``source`` names in an import, with its line.

    ``from a import b`` gives ``a.b``, as ``b`` may be a module; ``import_module("a.b")`` counts.
    """
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from ((alias.name, node.lineno) for alias in names)
            case ast.ImportFrom(module=str(module), names=names, level=0):
                yield from ((f"{module}.{alias.name}", node.lineno) for alias in names)
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__")
                | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(module)), *_],
            ):
                yield module, node.lineno
            case ast.Attribute(value=ast.Name(id="qres_core"), attr=name):
                yield f"qres_core.{name}", node.lineno
            case _:
                continue


def outside_contract(source: str) -> list[str]:
    """The imports of ``source`` that the contract may not have."""
    allowed = CONTRACT_MAY_IMPORT | sys.stdlib_module_names
    return [
        f"line {line}: {module}"
        for module, line in imported(source)
        if module.partition(".")[0] not in allowed and not module.startswith("qres_core.contract.")
    ]


def outside_plugin(source: str, own: str, *, test: bool) -> list[str]:
    """The imports of ``source`` that the plugin ``own`` may not have."""

    def allowed(module: str) -> bool:
        top, _, rest = module.partition(".")
        if top == "qres_core":
            # A plugin's tests may play it in a whole swarm; the plugin sees the contract alone.
            family, _, name = rest.partition(".")
            if (test and family in INNER) or not rest or family in PUBLIC:
                return True
            return family in FAMILIES and (not name or name in FAMILIES[family])
        if top in STUDY and not test:
            return top == own or top in DEFERS.get(own, ())
        if top == "qres_hosting" and not test:
            return own == top or (own in INTEGRATIONS and (not rest or rest in HOSTING))
        return top == own or top not in PLUGINS

    return [f"line {line}: {module}" for module, line in imported(source) if not allowed(module)]


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


@pytest.mark.parametrize("path", files(ROOT / "qres_core/contract"), ids=lambda path: path.name)
def test_contract_imports_little(path: Path) -> None:
    assert not outside_contract(path.read_text("utf-8"))


@pytest.mark.parametrize("path", files(ROOT / "qres_core/reporting"), ids=lambda path: path.name)
def test_reporting_needs_attrs_alone(path: Path) -> None:
    modules = {module for module, _line in imported(path.read_text("utf-8"))}
    own = {module for module in modules if module.startswith("qres_core.reporting")}
    assert {module.partition(".")[0] for module in modules - own} <= {
        "attrs",
        *sys.stdlib_module_names,
    }


@pytest.mark.parametrize("plugin", PLUGINS)
def test_plugin_imports_public_names_only(plugin: str) -> None:
    found = files(ROOT / "plugins" / plugin / plugin)
    assert found
    offending = {
        str(path): lines
        for path in found
        if (lines := outside_plugin(path.read_text("utf-8"), plugin, test=False))
    }
    assert not offending


@pytest.mark.parametrize("library", sorted({*LIBRARIES} - LOOKS_INSIDE))
def test_library_imports_public_names_and_no_plugin(library: str) -> None:
    found = files(ROOT / "libraries" / library / library)
    assert found
    offending = {
        str(path): lines
        for path in found
        if (lines := outside_plugin(path.read_text("utf-8"), library, test=False))
    }
    assert not offending


def test_the_core_imports_nothing_that_looks_into_it() -> None:
    for path in files(ROOT / "qres_core"):
        modules = {module for module, _line in imported(path.read_text("utf-8"))}
        assert not {module.partition(".")[0] for module in modules} & LOOKS_INSIDE, path


def test_hosting_imports_neither_a_plugin_nor_what_serves_study() -> None:
    for path in files(ROOT / "libraries/qres_hosting/qres_hosting"):
        modules = {module for module, _line in imported(path.read_text("utf-8"))}
        others = {*PLUGINS, *INTEGRATIONS, *LIBRARIES} - {"qres_hosting"}
        assert not {module.partition(".")[0] for module in modules} & others, path


@pytest.mark.parametrize(
    ("source", "own", "refused"),
    [
        ("import qres_hosting as hosting", "qres_flower", False),
        ("from qres_hosting import Host", "qres_flower", False),
        ("from qres_hosting.retold import Retold", "qres_flower", True),
        ("from qres_hosting import Host", "qres_krum", True),
    ],
)
def test_an_integration_alone_imports_public_names_of_hosting(
    source: str, own: str, *, refused: bool
) -> None:
    assert bool(outside_plugin(source, own, test=False)) is refused


@pytest.mark.parametrize("integration", INTEGRATIONS)
def test_integration_imports_public_names_and_no_plugin(integration: str) -> None:
    folder = ROOT / "integrations" / integration
    for path in files(folder / integration):
        assert not outside_plugin(path.read_text("utf-8"), integration, test=False), path
    for path in files(folder / "tests"):
        assert not outside_plugin(path.read_text("utf-8"), integration, test=True), path


@pytest.mark.parametrize("plugin", PLUGINS)
def test_plugin_tests_do_not_reach_for_other_plugins(plugin: str) -> None:
    offending = {
        str(path): lines
        for path in files(ROOT / "plugins" / plugin / "tests")
        if (lines := outside_plugin(path.read_text("utf-8"), plugin, test=True))
    }
    assert not offending


@pytest.mark.parametrize(
    "source",
    [
        "import qres_core.kernel",
        "import qres_core.contract.types as t",
        "from qres_core.contract import types",
        "from qres_core.contract.types import Update",
        "from qres_core import kernel",
        "from qres_core import _HOME",
        "from qres_lab.testing import AggregateContract",
        "from qres_core.training import table",
        "from qres_core.training.table import make_work",
        "from qres_core.transport import on_demand",
        "import importlib\nimportlib.import_module('qres_core.builtin.mean')",
        "import qres_core\nqres_core.lab",
        "def late():\n    from qres_core.swarm.machine import rounds",
        "from qres_other import secret",
    ],
)
def test_plugin_check_sees(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "PLUGINS", ["qres_krum", "qres_other"])
    assert outside_plugin(source, "qres_krum", test=False)


@pytest.mark.parametrize(
    "source",
    [
        "import qres_core\nqres_core.Update",
        "from qres_core import Update, hookimpl, fixed",
        "from qres_core.errors import Problem, ValueRefusedError",
        "from qres_core.training import Trainer, partition",
        "import qres_core\nqres_core.transport.Transport",
        "from qres_krum.scores import krum_scores",
        "from . import scores",
        "import numpy as np\nfrom scipy import stats",
    ],
)
def test_plugin_check_lets_pass(source: str) -> None:
    assert not outside_plugin(source, "qres_krum", test=False)


@pytest.mark.parametrize("source", ["import scipy", "from qres_core import Update", "import click"])
def test_contract_check_sees(source: str) -> None:
    assert outside_contract(source)


def keeps_its_own_database(source: str) -> bool:
    """Whether ``source`` opens databases without the policy of ``qres_core.stores``."""
    return any(module.partition(".")[0] == "sqlite3" for module, _line in imported(source))


@pytest.mark.parametrize("room", ["qres_core", *(f"plugins/{name}/{name}" for name in PLUGINS)])
def test_every_database_is_opened_by_the_one_store(room: str) -> None:
    owner = ROOT / "qres_core/contract/stores/database.py"
    found = {path for path in files(ROOT / room) if keeps_its_own_database(path.read_text("utf-8"))}
    assert found == ({owner} if room == "qres_core" else set())


def test_the_check_for_databases_sees() -> None:
    assert keeps_its_own_database("def late():\n    from sqlite3 import connect")
    assert not keeps_its_own_database("from qres_core import stores")


# ── circles ───────────────────────────────────────────────────────────────────────────────────────


def late(source: str) -> Iterator[str]:
    """Patterns of what ``source`` may import by name; none if it never calls ``import_module``."""
    if "import_module" in source:
        for node in ast.walk(ast.parse(source)):
            match node:
                case ast.Constant(value=str(name)):
                    yield re.escape(name)
                case ast.JoinedStr(values=[ast.Constant(), *_] as parts):
                    texts = [part.value if isinstance(part, ast.Constant) else "" for part in parts]
                    yield "".join(re.escape(str(text)) if text else r"[a-z]\w*" for text in texts)
                case _:
                    continue


def needed(module: str, sources: Mapping[str, str]) -> set[str]:
    """The modules of ``sources`` that one of them imports, at any depth, or may import by name.

    With the packages they lie in, whose ``__init__`` runs first. A module does not import the
    packages it lies in itself, unless it asks for what is in their ``__init__``.
    """
    found: set[str] = set()
    for name, _line in imported(sources[module]):
        found |= {name} & sources.keys() or {name.rpartition(".")[0]} & sources.keys()
    for pattern in late(sources[module]):
        found |= {name for name in sources if "." in name and re.fullmatch(pattern, name)}
    around = {name for name in sources if any(item.startswith(f"{name}.") for item in found)}
    inside = {name for name in sources if module.startswith(f"{name}.")}
    return (found | around - inside) - {module}


def circle(sources: Mapping[str, str]) -> list[str]:
    """Modules of which each imports the next, and the last is the first; empty if there is none."""
    graph = {module: needed(module, sources) for module in sources}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(reversed(error.args[1]))
    return []


def modules_in(folders: Iterable[Path]) -> dict[str, str]:
    """The source of every module in folders, which are packages, or hold packages and modules."""
    found: dict[str, str] = {}
    for folder in folders:
        root = folder.parent if (folder / "__init__.py").exists() else folder
        for path in files(folder):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = path.read_text("utf-8")
    return found


def every_module() -> dict[str, str]:
    """The source of every module of every distribution."""
    kinds = ("plugins", "libraries", "integrations")
    packages = (found for kind in kinds for found in ROOT.glob(f"{kind}/*/qres_*"))
    return modules_in([ROOT / "qres_core", *packages])


def test_no_modules_import_each_other_in_a_circle() -> None:
    sources = every_module()
    assert len(sources) > 300
    assert " imports ".join(circle(sources)) == ""


def test_no_scripts_import_each_other_in_a_circle() -> None:
    sources = modules_in([ROOT / "scripts"])
    assert {"swarm_simulation.world", "trials.links", "soak"} <= sources.keys()
    assert " imports ".join(circle(sources)) == ""


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("import qres_a.second", "from qres_a import first"),
        ("def late():\n    from qres_a.second import name", "import qres_a.first as first"),
        ("import importlib\nimportlib.import_module('qres_a.second')", "import qres_a.first"),
        (
            "from importlib import import_module\nimport_module({1: 'qres_a.second'}[1])",
            "import qres_a.first",
        ),
        (
            "import importlib\ndef get(name):\n    importlib.import_module(f'qres_a.{name}')",
            "import qres_a.first",
        ),
        (
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import qres_a.second",
            "import qres_a.first",
        ),
    ],
)
def test_the_check_for_circles_sees(first: str, second: str) -> None:
    sources = {"qres_a": "", "qres_a.first": first, "qres_a.second": second}
    assert set(circle(sources)) == {"qres_a.first", "qres_a.second"}


def test_the_check_for_circles_sees_one_through_a_package() -> None:
    package = {"qres_a": "from qres_a.first import name", "qres_a.first": "from qres_a import x"}
    assert circle(package)
    through = {
        "qres_a.inner": "from qres_a.inner.first import name",
        "qres_a.inner.first": "import qres_a.second",
        "qres_a.inner.third": "",
        "qres_a.second": "import qres_a.inner.third",
    }
    assert circle(through)


def test_the_check_for_circles_lets_pass() -> None:
    sources = {
        "qres_a": "from qres_a.first import name",
        "qres_a.first": "import numpy\nfrom qres_a.second import name",
        "qres_a.second": "WHERE = 'qres_a.first'",
    }
    assert not circle(sources)


def loaded_by(code: str) -> set[str]:
    """The top-level modules a fresh interpreter holds after ``code``."""
    report = (
        "import sys; print('\\n'.join(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    run = subprocess.run(
        [sys.executable, "-P", "-c", f"{code}\n{report}"],
        capture_output=True,
        check=True,
        text=True,
    )
    return set(run.stdout.split())


def test_the_public_names_load_neither_the_kernel_nor_the_lab() -> None:
    code = (
        "import sys, qres_core\n"
        "for name in qres_core.__all__: getattr(qres_core, name)\n"
        "rooms = {name.split('.')[1] for name in sys.modules if name.startswith('qres_core.')}\n"
        "assert rooms == {'contract'}, rooms\n"
        f"families = {sorted(FAMILIES)!r}\n"
        "for family in families: getattr(qres_core, family)\n"
        "rooms = {name.split('.')[1] for name in sys.modules if name.startswith('qres_core.')}\n"
        "assert rooms == {'contract', *families}, rooms"
    )
    assert not loaded_by(code) & {"cattrs", "click", "tomli"}


def command(*arguments: str) -> str:
    """A program that runs ``qres`` with ``arguments`` and fails if that fails."""
    return (
        "import contextlib, io, sys\n"
        "from qres_core.cli import main\n"
        f"sys.argv = {['qres', *arguments]!r}\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        "    try:\n"
        "        main()\n"
        "    except SystemExit as done:\n"
        "        assert not done.code, done.code\n"
    )


def test_importing_the_facade_loads_no_numerical_library() -> None:
    assert not loaded_by("import qres_core") & HEAVY


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_command_line_starts_without_numerical_libraries(arguments: list[str]) -> None:
    assert not loaded_by(command(*arguments)) & HEAVY


def test_listing_plugins_loads_none_of_them() -> None:
    assert not loaded_by(command("plugins")) & ((HEAVY - {"numpy"}) | set(PLUGINS))
