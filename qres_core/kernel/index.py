"""Plugins of this project by name, so that messages can name one that is not installed.

The names are data, and nothing but messages rests on them: ``index.json`` is made of the plugins'
own ``pyproject.toml`` files by ``scripts/plugin_index.py``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Final

import attrs

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
    return PluginIndex(MappingProxyType(raw["distributions"]), MappingProxyType(raw["examples"]))
