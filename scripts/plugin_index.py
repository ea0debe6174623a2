"""Write ``qres_core/kernel/index.json``: what this project brings, for messages that name it.

A plugin's distribution states its name among the entry points of its ``pyproject.toml``. The table
``[tool.qres.examples]`` there says what the plugin is an example of: a family of hooks, or another
role of ``qres_core.kernel.index.ROLES``. What runs the training of a simulation, and
what trains an app of another framework, are among the entry points of an integration::

    python -P scripts/plugin_index.py           # write the file
    python -P scripts/plugin_index.py --check   # exit status 1 if the file is not up to date
"""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path

from qres_core.kernel.discovery import ENTRY_POINT_GROUP, EXECUTORS_GROUP, TRAINERS_GROUP
from qres_core.kernel.index import ROLES

ROOT = Path(__file__).resolve().parent.parent
INDEX = ROOT / "qres_core" / "kernel" / "index.json"


def rendered(root: Path) -> str:
    """The text of the index.

    Args:
        root: the checkout.

    Raises:
        ValueError: two distributions have a plugin of one name or an example of one role, a role
            is unknown or has no example, or the example is no plugin of the distribution.
    """
    distributions: dict[str, str] = {}
    examples: dict[str, str] = {}
    for path in [root / "pyproject.toml", *sorted(root.glob("plugins/*/pyproject.toml"))]:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        name = table["project"]["name"]
        plugins = table["project"].get("entry-points", {}).get(ENTRY_POINT_GROUP, {})
        if taken := distributions.keys() & plugins.keys():
            raise ValueError(f"{path}: another distribution has {', '.join(sorted(taken))}")
        distributions |= dict.fromkeys(plugins, name)
        for role, plugin in table.get("tool", {}).get("qres", {}).get("examples", {}).items():
            if role not in ROLES:
                raise ValueError(f"{path}: {role!r} is none of {', '.join(ROLES)}")
            if role in examples:
                raise ValueError(f"{path}: {examples[role]!r} is the example of {role!r} already")
            if plugin not in plugins:
                raise ValueError(f"{path}: {plugin!r} is no plugin of {name}")
            examples[role] = plugin
    if lacking := set(ROLES) - set(examples):
        raise ValueError(f"no plugin is an example of {', '.join(sorted(lacking))}")
    index = {
        "distributions": distributions,
        "examples": examples,
        "executors": _brought(root, EXECUTORS_GROUP),
        "trainers": _brought(root, TRAINERS_GROUP),
    }
    return json.dumps(index, indent=2, sort_keys=True) + "\n"


def _brought(root: Path, group: str) -> dict[str, str]:
    """The distribution of what integrations bring under a group of entry points, by name."""
    found: dict[str, str] = {}
    for path in sorted(root.glob("integrations/*/pyproject.toml")):
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        brought = project.get("entry-points", {}).get(group, {})
        if taken := found.keys() & brought.keys():
            raise ValueError(f"{path}: another distribution has {', '.join(sorted(taken))}")
        found |= dict.fromkeys(brought, project["name"])
    return found


def main(arguments: list[str]) -> int:
    """Write the index, or compare it."""
    if arguments not in ([], ["--check"]):
        print("usage: plugin_index.py [--check]", file=sys.stderr)
        return 2
    text = rendered(ROOT)
    if not arguments:
        INDEX.write_text(text, encoding="utf-8")
    elif not INDEX.is_file() or INDEX.read_text(encoding="utf-8") != text:
        print(f"{INDEX.name} is not up to date: python -P scripts/plugin_index.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
