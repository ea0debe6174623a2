"""Which hooks a plugin implements, read from its source without importing it.

``qres plugins`` must list what a plugin does without running any of it. The class is followed
through ``from … import`` statements of its own package; what cannot be followed is reported as
unknown, never guessed.
"""

from __future__ import annotations

import ast
import sys
from importlib.machinery import PathFinder
from pathlib import Path

from qres_core.kernel.slots import ALL_HOOKS

_MAX_STEPS = 8


def hooks_of(target: str) -> tuple[str, ...] | None:
    """The hooks that the class at ``module:Class`` marks with ``@hookimpl``.

    Args:
        target: value of the entry point.

    Returns:
        hook names in the order of the life cycle, or ``None`` if the source was not found, or does
        not show them: the class has bases, or marks its hooks in another way.
    """
    module, _, name = target.partition(":")
    for _step in range(_MAX_STEPS):
        path = _source_of(module)
        if path is None:
            return None
        try:
            tree = ast.parse(path.read_bytes())
        except (OSError, SyntaxError, ValueError):
            return None
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                if node.bases:
                    return None
                marked = _marked(node)
                return tuple(hook for hook in ALL_HOOKS if hook in marked) or None
        step = _imported_from(tree, module, name, is_package=path.name == "__init__.py")
        if step is None:
            return None
        module, name = step
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


def _imported_from(
    tree: ast.Module, module: str, name: str, *, is_package: bool
) -> tuple[str, str] | None:
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom):
            continue
        for alias in node.names:
            if (alias.asname or alias.name) == name:
                base = module.split(".")
                if node.level:
                    keep = len(base) - node.level + (1 if is_package else 0)
                    source = ".".join([*base[:keep], *filter(None, [node.module])])
                else:
                    source = node.module or ""
                return source, alias.name
    return None
