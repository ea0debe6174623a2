"""What to do about a refused combination, in words: names of plugins, keys and numbers."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, cast

import attrs

from qres_core.contract.types import Visibility
from qres_core.kernel.assembly import Enabled

_EXAMPLES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "transport": "memory",
        "authenticate": "ed25519",
        "replay_check": "replay",
        "reputation": "reputation",
        "privatize": "secagg",
        "prove": "zk",
        "aggregate": "mean",
    }
)
"""A plugin of each family that a message can name; nothing but the messages rests on it."""

SEEN: Final[Mapping[Visibility, str]] = MappingProxyType(
    {
        Visibility.INDIVIDUAL: "single updates",
        Visibility.GROUP: "sums of groups",
        Visibility.SUM: "one sum of all updates",
    }
)
"""What can be seen of contributions, in words."""


def enable(family: str) -> str:
    """How to fill a family."""
    return f"enable a plugin of the family {family}, for example [plugins.{_EXAMPLES[family]}]"


def work_in_groups(plugin: Enabled, hider: Enabled, quorum: int) -> str:
    """How groups can give a plugin the rows that one sum does not."""
    least = max(1, plugin.needs.min_updates)
    size = quorum // least
    rows = "1 group" if least == 1 else f"{least} groups"
    if size < 2:  # a group of one hides nothing
        return (
            f"let {hider.name} work in groups, with a larger swarm: {plugin.name} needs {rows} "
            f"of several nodes each, and swarm.quorum = {quorum} has no room for them"
        )
    return (
        f"let {hider.name} work in groups of at most {size} nodes: {plugin.name} needs {rows}, "
        f"and swarm.quorum = {quorum}"
    )


def ask_for_less(plugin: Enabled) -> str:
    """How a plugin is content with fewer updates."""
    options = [option for option in ("f", "size") if has_option(plugin, option)]
    return f"a smaller {' or '.join(options) or 'bound'} in [plugins.{plugin.name}]"


def has_option(plugin: Enabled, option: str) -> bool:
    """Whether a plugin has an option of that name, so that a message can say what to set it to."""
    kind = cast("Any", type(plugin.instance))
    return attrs.has(kind) and option in {one.name for one in attrs.fields(kind)}


def ban_only(plugin: Enabled) -> str:
    """How a reputation is kept from scaling weights."""
    how = f": exponent = 0 in [plugins.{plugin.name}]" if has_option(plugin, "exponent") else ""
    return f"let {plugin.name} ban nodes and not weight them{how}"


def counted(liars: int) -> str:
    """So many liars, in words."""
    return "1 liar" if liars == 1 else f"{liars} liars"
