"""Plugins of this project by name, so that messages can name one that is not installed.

The names are data, and nothing but messages rests on them: ``index.json`` is made of the
``pyproject.toml`` files of plugins and integrations by ``scripts/plugin_index.py``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Final

import attrs

from qres_core.contract.errors import Problem
from qres_core.contract.suggest import did_you_mean
from qres_core.kernel.discovery import EXECUTORS_GROUP, TRAINERS_GROUP, scan
from qres_core.kernel.slots import SLOTS

FROM_CHECKOUT: Final = "make node, in a checkout of QRES"
"""How the distributions of this project are installed. Their names are not on PyPI yet: anybody
could register one there."""

ROLES: Final = (*SLOTS, "identity", "credential", "network", "first_rule", "judge_of_merged")
"""What messages name an example of: a family of hooks, or one of these.

``identity`` holds a node's key, ``credential`` what others say about the key, ``network`` is a
transport between processes, ``first_rule`` the rule of a first configuration, and
``judge_of_merged`` judges what is merged, not single updates.
"""


@attrs.frozen
class PluginIndex:
    """What messages say about plugins that may not be installed."""

    # the distribution of each plugin of this project, by the plugin's name. For other names no
    # command is offered: a misspelt one would invite typosquatting.
    distributions: Mapping[str, str]
    # a plugin for each role of :data:`ROLES`, as the plugins' distributions state
    examples: Mapping[str, str]
    # the distribution of each executor of this project, by the executor's name
    executors: Mapping[str, str]
    # the distribution of each trainer of apps of other frameworks, by the trainer's name
    trainers: Mapping[str, str]

    def brought(self, group: str) -> Mapping[str, str]:
        """The distribution of what an integration brings under an entry-point group, by name."""
        return {EXECUTORS_GROUP: self.executors, TRAINERS_GROUP: self.trainers}[group]

    def example(self, role: str) -> str:
        """The table of an example, ``[plugins.NAME]``."""
        return f"[plugins.{self.examples[role]}]"

    def example_distribution(self, role: str) -> str:
        """The distribution that brings the example."""
        return self.distributions[self.examples[role]]


@cache
def plugin_index() -> PluginIndex:
    """The index that comes with this distribution."""
    raw = json.loads((files("qres_core.kernel") / "index.json").read_text(encoding="utf-8"))
    parts = ("distributions", "examples", "executors", "trainers")
    return PluginIndex(*(MappingProxyType(raw[part]) for part in parts))


def absent(name: str, group: str, where: str) -> Problem | None:
    """Why nothing of a name is there under an entry-point group; ``None`` where something is.

    Args:
        name: of the entry point.
        group: one that integrations bring something under.
        where: for the message.

    Returns:
        QRES-E201 for what an integration of this project brings, QRES-E801 for other names. Nothing
        is imported for it.
    """
    found = scan(group=group)
    if name in found:
        return None
    if name in (ours := plugin_index().brought(group)):
        what = f"{name!r} is not installed"
        folder = ours[name].replace("-", "_")
        fix = f"pip install {ours[name]}: in a checkout of QRES, ./integrations/{folder}"
        return Problem("QRES-E201", where, what, fix)
    noun = group.removeprefix("qres.").removesuffix("s")
    what = f"there is no {noun} {name!r}"
    return Problem("QRES-E801", where, what, did_you_mean(name, {*found, *ours}))
