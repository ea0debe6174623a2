"""Write ``qres_core/kernel/index.json``: what this project brings, for messages that name it.

A plugin's distribution states its name among the entry points of its ``pyproject.toml``. The table
``[tool.qres.examples]`` there says what the plugin is an example of: a family of hooks, or another
role of ``qres_core.kernel.index.ROLES``. What a library or an integration brings (commands,
attacks, engines, executors, hosts, trainers) is among its entry points::

    python -P scripts/plugin_index.py           # write the file
    python -P scripts/plugin_index.py --check   # exit status 1 if the file is not up to date
"""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement

from qres_core.kernel.discovery import (
    ATTACKS_GROUP,
    COMMANDS_GROUP,
    ENGINES_GROUP,
    ENTRY_POINT_GROUP,
    EXECUTORS_GROUP,
    HOSTS_GROUP,
    SABOTAGE_GROUP,
    TRAINERS_GROUP,
)
from qres_core.kernel.index import ROLES

ROOT = Path(__file__).resolve().parent.parent
INDEX = ROOT / "qres_core" / "kernel" / "index.json"
GROUPS: Final = (
    ATTACKS_GROUP,
    COMMANDS_GROUP,
    ENGINES_GROUP,
    EXECUTORS_GROUP,
    HOSTS_GROUP,
    SABOTAGE_GROUP,
    TRAINERS_GROUP,
)
"""Of what libraries and integrations bring."""


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
    brought, folders = _brought(root)
    index = {
        "distributions": distributions,
        "examples": examples,
        "brought": brought,
        "folders": folders,
        "extras": _extras(root, folders),
    }
    return json.dumps(index, indent=2, sort_keys=True) + "\n"


def _brought(root: Path) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """By group, what libraries and integrations bring; and the folders of these distributions."""
    found: dict[str, dict[str, str]] = {group: {} for group in GROUPS}
    folders: dict[str, str] = {}
    parts = ("libraries", "integrations")
    for path in sorted(path for part in parts for path in root.glob(f"{part}/*/pyproject.toml")):
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        points = project.get("entry-points", {})
        for group, names in found.items():
            brought = points.get(group, {})
            if taken := names.keys() & brought.keys():
                raise ValueError(f"{path}: another distribution has {', '.join(sorted(taken))}")
            names.update(dict.fromkeys(brought, project["name"]))
            if brought:
                folders[project["name"]] = path.parent.relative_to(root).as_posix()
    return found, folders


def _extras(root: Path, folders: Mapping[str, str]) -> dict[str, str]:
    """The extra of qres-core that installs one of these distributions and nothing else."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found: dict[str, str] = {}
    for extra, needed in project.get("optional-dependencies", {}).items():
        names = {Requirement(text).name for text in needed}
        if len(names) == 1 and names <= folders.keys():
            found[names.pop()] = extra
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
