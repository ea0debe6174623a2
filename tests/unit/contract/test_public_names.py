"""``qres_core`` names what a plugin may import, once, and loads nothing before it is used."""

from __future__ import annotations

import ast
import importlib
import importlib.resources
import inspect
import re
import subprocess
import sys

import pytest

import qres_core
from qres_core.contract.moved import MOVED

HEAVY = ("numpy", "pluggy", "cbor2", "attrs", "attr", "rich", "click", "anyio")
TREE = ast.parse(inspect.getsource(qres_core))


def literal(name: str) -> object:
    """The literal assigned to a name in the source, so that nothing computed can hide."""
    for node in TREE.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return ast.literal_eval(node.value)
    raise AssertionError(name)


def type_checking_imports() -> dict[str, str]:
    """Names that type checkers see, with the module each comes from."""
    (block,) = (node for node in TREE.body if isinstance(node, ast.If))
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    found: dict[str, str] = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            # A family is named for checkers, and is no name of the top.
            assert alias.asname == (alias.name if node.module == "qres_core" else None)
            found[alias.name] = str(node.module)
    return found


def lazy_names() -> dict[str, str]:
    """Names that ``__getattr__`` provides, with the module each comes from."""
    home = literal("_HOME")
    modules = literal("_MODULES")
    assert isinstance(home, dict)
    assert isinstance(modules, tuple)
    names = {name: f"qres_core.contract.{room}" for room, own in home.items() for name in own}  # pyright: ignore[reportUnknownVariableType]
    return names | dict.fromkeys(modules, "qres_core.contract")  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def families() -> list[str]:
    """The modules that hold the other public names."""
    named = literal("_FAMILIES")
    assert isinstance(named, tuple)
    return [str(name) for name in named]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def loaded_after(statement: str) -> set[str]:
    """Which heavy modules a fresh interpreter holds after a statement."""
    script = f"import sys\n{statement}\nprint(*[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_checkers_and_the_interpreter_see_the_same_names() -> None:
    modules = dict.fromkeys(families(), "qres_core")
    assert type_checking_imports() == lazy_names() | modules
    assert set(qres_core.__all__) == set(lazy_names())


def test_no_name_is_listed_twice() -> None:
    assert len(qres_core.__all__) == len(set(qres_core.__all__))
    assert qres_core.__dir__() == sorted(qres_core.__all__)


@pytest.mark.parametrize("name", qres_core.__all__)
def test_every_name_resolves_to_the_one_of_its_module(name: str) -> None:
    found: object = getattr(qres_core, name)
    home = importlib.import_module(type_checking_imports()[name])
    assert found is getattr(home, name)
    assert found is getattr(qres_core, name)


def test_an_author_meets_few_names() -> None:
    assert len(qres_core.__all__) <= 42


@pytest.mark.parametrize("family", families())
def test_a_family_is_a_module_that_names_what_it_has(family: str) -> None:
    module = importlib.import_module(f"qres_core.{family}")
    assert getattr(qres_core, family) is module
    for name in getattr(module, "__all__", ()):
        assert getattr(module, name) is not None
        assert name not in qres_core.__all__, "one place for one name"


@pytest.mark.parametrize("module", MOVED)
def test_a_name_that_moved_is_refused_with_its_place(module: str) -> None:
    for name in MOVED[module]:
        assert name not in qres_core.__all__
        assert getattr(importlib.import_module(module), name) is not None
        said = f"`{name}` is in `{module}` since 0.3: write `from {module} import {name}`"
        with pytest.raises(ImportError, match=re.escape(said)):
            getattr(qres_core, name)
        with pytest.raises(ImportError, match=re.escape(said)):
            exec(f"from qres_core import {name}", {})  # noqa: S102 - the statement is the case


def test_what_is_public_has_one_place() -> None:
    everything = [name for names in MOVED.values() for name in names] + qres_core.__all__
    assert len(everything) == len(set(everything))


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Krum'"):
        getattr(qres_core, "Krum")  # noqa: B009 - checkers would look the name up
    assert not hasattr(qres_core, "__wrapped__")


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_after("import qres_core") == set()
    assert loaded_after("import qres_core; dir(qres_core); qres_core.__version__") == set()


def test_the_errors_do_not_pay_for_numpy() -> None:
    loaded = loaded_after("from qres_core.errors import ConfigError")
    assert not loaded & {"numpy", "pluggy", "cbor2", "rich", "click", "anyio"}


def test_a_name_loads_what_it_needs() -> None:
    assert "numpy" in loaded_after("from qres_core import Updates")
    assert "pluggy" in loaded_after("from qres_core import hookimpl")
    assert "numpy" not in loaded_after("from qres_core import hookimpl, Verdict")


def test_the_package_is_marked_as_typed() -> None:
    assert importlib.resources.files("qres_core").joinpath("py.typed").is_file()
