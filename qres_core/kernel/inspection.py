"""Facts on a plugin or a command, read from its source without importing it.

``qres plugins`` must list what a plugin does, and ``qres --help`` what its commands do, without
running any of it. A name is followed through ``from … import`` statements, and a class through its
bases; what cannot be followed is reported as unknown, never guessed.
"""

from __future__ import annotations

import ast
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TypeAlias

import attrs

from qres_core.kernel.slots import ALL_HOOKS

_MAX_STEPS = 8


def hooks_of(target: str) -> tuple[str, ...] | None:
    """The hooks that the class at ``module:Class``, or a base of it, marks with ``@hookimpl``.

    ``target``: value of the entry point. Returns hook names in the order of the life cycle, or
    ``None`` if the source was not found, or does not show them: a base cannot be followed, or the
    hooks are marked in another way.
    """
    marked = _hooks(*_split(target), _MAX_STEPS)
    return tuple(hook for hook in ALL_HOOKS if marked and hook in marked) or None


def summary_of(target: str) -> str:
    """The first line of what ``module:name`` says of itself, without the full stop at its end.

    ``target``: value of the entry point: a class, or the function of a click command, of which
    ``short_help`` or ``help`` comes before the docstring. Returns one line; empty if the source
    does not show it.
    """
    found = _find(*_split(target))
    if found is None:
        return ""
    node = found[1]
    text = ast.get_docstring(node) or ""
    calls = [item for item in node.decorator_list if isinstance(item, ast.Call)]
    given = {key.arg: key.value for call in calls if _names_verb(call) for key in call.keywords}
    for option in ("help", "short_help"):
        value = given.get(option)
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            text = value.value
    return text.strip().partition("\n")[0].strip().removesuffix(".").replace("``", "`")


def _names_verb(call: ast.Call) -> bool:
    """True if it is ``click.command(...)``, ``group.command(...)`` or the like, and no option."""
    return isinstance(call.func, ast.Attribute) and call.func.attr in {"command", "group"}


_Node: TypeAlias = ast.ClassDef | ast.FunctionDef


def _split(target: str) -> tuple[str, str]:
    module, _, name = target.partition(":")
    return module, name


def _find(module: str, name: str) -> tuple[_Module, _Node] | None:
    """The class or function of that name, in the module where it is written."""
    for _step in range(_MAX_STEPS):
        read = _read(module)
        if read is None:
            return None
        for node in read.tree.body:
            if isinstance(node, _Node) and node.name == name:
                return read, node
        step = _imported_from(read, name)
        if step is None:
            return None
        module, name = step
    return None


def _hooks(module: str, name: str, steps: int) -> set[str] | None:
    """Hooks of a class and its bases; ``None`` if a base cannot be followed."""
    found = _find(module, name)
    if found is None or not steps:
        return None
    read, node = found
    if not isinstance(node, ast.ClassDef):
        return None
    inherited: set[str] = set()
    for base in node.bases:
        if not isinstance(base, ast.Name):
            return None
        if base.id == "object":
            continue
        of_base = _hooks(read.name, base.id, steps - 1)
        if of_base is None:
            return None
        inherited |= of_base
    return inherited - _defined(node) | _marked(node)


@attrs.frozen
class _Module:
    """A module's source, parsed."""

    name: str
    tree: ast.Module
    is_package: bool


def _read(module: str) -> _Module | None:
    path = _source_of(module)
    if path is None:
        return None
    try:
        return _Module(module, ast.parse(path.read_bytes()), path.name == "__init__.py")
    except (OSError, SyntaxError, ValueError):
        return None


def _source_of(module: str) -> Path | None:
    top, *rest = module.split(".")
    try:
        spec = PathFinder.find_spec(top, sys.path)
        for finder in sys.meta_path:  # editable installs bring finders of their own
            spec = spec or finder.find_spec(top, None)
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return None
    path = Path(spec.origin)
    for part in rest:
        folder = path.parent
        path = folder / part / "__init__.py"
        if not path.is_file():
            path = folder / f"{part}.py"
    return path if path.is_file() else None


def _defined(node: ast.ClassDef) -> set[str]:
    """Methods that the class has of its own: they stand in the place of inherited ones."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {item.name for item in node.body if isinstance(item, kinds)}


def _marked(node: ast.ClassDef) -> set[str]:
    found: set[str] = set()
    for item in node.body:
        if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef):
            for decorator in item.decorator_list:
                call = decorator.func if isinstance(decorator, ast.Call) else decorator
                label = call.attr if isinstance(call, ast.Attribute) else getattr(call, "id", "")
                if label == "hookimpl":
                    found.add(item.name)
    return found


def _imported_from(read: _Module, name: str) -> tuple[str, str] | None:
    for node in ast.walk(read.tree):
        if not isinstance(node, ast.ImportFrom):
            continue
        for alias in node.names:
            if (alias.asname or alias.name) == name:
                base = read.name.split(".")
                if node.level:
                    keep = len(base) - node.level + (1 if read.is_package else 0)
                    source = ".".join([*base[:keep], *filter(None, [node.module])])
                else:
                    source = node.module or ""
                return source, alias.name
    return None
