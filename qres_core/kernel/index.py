"""Plugins of this project by name, so that messages can name one that is not installed.

The names are data, and nothing but messages rests on them: ``index.json`` is made of the
``pyproject.toml`` files of all distributions by ``scripts/plugin_index.py``.
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
from qres_core.kernel.discovery import scan
from qres_core.kernel.slots import SLOTS

FROM_CHECKOUT: Final = "make node, in a checkout of QRES"
"""How the distributions of this project are installed. Their names are not on PyPI yet: anybody
could register one there."""

ROLES: Final = (
    *SLOTS,
    "identity",
    "credential",
    "network",
    "first_rule",
    "first_wrapper",
    "judge_of_merged",
)
"""What messages name an example of: a family of hooks, or one of these.

``identity`` holds a node's key, ``credential`` what others say about the key, ``network`` is a
transport between processes, ``first_rule`` the rule of a first configuration, ``first_wrapper``
what stands before that rule there, and ``judge_of_merged`` judges what is merged, not single
updates.
"""


@attrs.frozen
class PluginIndex:
    """Facts for messages about plugins that may not be installed."""

    # the distribution of each plugin of this project, by the plugin's name. For other names no
    # command is offered: a misspelt one would invite typosquatting.
    distributions: Mapping[str, str]
    # a plugin for each role of :data:`ROLES`, as the plugins' distributions state
    examples: Mapping[str, str]
    # by entry-point group: the distribution of what libraries and integrations bring, by name
    brought: Mapping[str, Mapping[str, str]]
    # the folder of each of those distributions in a checkout
    folders: Mapping[str, str]
    # the extra of qres-core that installs a distribution
    extras: Mapping[str, str]

    def remedy(self, distribution: str) -> str:
        """Record of how one of the distributions of ``brought`` is installed."""
        extra = self.extras.get(distribution)
        name = distribution if extra is None else f'"qres-core[{extra}]"'
        return f"pip install {name}: in a checkout of QRES, ./{self.folders[distribution]}"

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
    parts = ("distributions", "examples", "brought", "folders", "extras")
    return PluginIndex(*(MappingProxyType(raw[part]) for part in parts))


def absent(name: str, group: str, where: str) -> Problem | None:
    """Reason why an entry-point group has nothing of a name; ``None`` where it has something.

    Args:
        name: of the entry point.
        group: one that libraries or integrations bring something under.
        where: for the message.

    Returns:
        QRES-E201 for what a distribution of this project brings, QRES-E801 for other names. Nothing
        is imported for it.
    """
    found = scan(group=group)
    if name in found:
        return None
    ours = plugin_index().brought[group]
    if name in ours:
        return not_installed(name, ours[name], where)
    noun = group.removeprefix("qres.").removesuffix("s")
    what = f"there is no {noun} {name!r}"
    return Problem("QRES-E801", where, what, did_you_mean(name, {*found, *ours}))


def not_installed(name: str, distribution: str, where: str) -> Problem:
    """QRES-E201: what a distribution of this project would bring, and how it is installed."""
    return Problem(
        "QRES-E201", where, f"{name!r} is not installed", plugin_index().remedy(distribution)
    )
