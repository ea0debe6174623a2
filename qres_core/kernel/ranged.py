"""Merging a range of coordinates at a time, and the reasons why a node cannot keep to a budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from qres_core.contract.claims import Reads
from qres_core.contract.errors import Problem
from qres_core.kernel.assembly import Enabled
from qres_core.kernel.config import SwarmConfig

_WHOLE: Final = ("reveal", "revealable", "verify", "screen", "endorse")
"""Hooks that are called with the whole updates of all nodes."""


def in_ranges(enabled: Sequence[Enabled]) -> bool:
    """True if ranges of coordinates, merged one after the other, make what whole updates make.

    Then a node need not have all updates in a row of memory beside those that it holds.
    """
    merging = (plugin for plugin in enabled if _merges(plugin))
    return all(plugin.claims.reads is Reads.COORDINATES for plugin in merging) and not any(
        "reveal" in plugin.hooks or plugin.claims.privatizes.accompanies for plugin in enabled
    )


def _merges(plugin: Enabled) -> bool:
    return not {"aggregate", "wrap_aggregate"}.isdisjoint(plugin.hooks)


def unbounded(enabled: Sequence[Enabled], swarm: SwarmConfig) -> Iterator[Problem]:
    """Every reason why ``swarm.memory`` cannot be kept with these plugins."""
    if not swarm.memory:
        return
    if swarm.aggregation == "sharded":
        what = 'is set, and swarm.aggregation is "sharded": a node holds shards, and few of them'
        fix = 'swarm.memory = 0, or swarm.aggregation = "everyone"'
        yield Problem("QRES-E321", "swarm.memory", what, fix)
    for plugin in enabled:
        where = f"plugins.{plugin.name}"
        if any(hook in plugin.hooks for hook in _WHOLE):
            what = "looks at the whole updates of all nodes, and swarm.memory is set"
        elif _merges(plugin) and plugin.claims.reads is not Reads.COORDINATES:
            what = "does not claim to read coordinates alone, and swarm.memory is set"
        else:
            continue
        other = "use a rule such as median" if "aggregate" in plugin.hooks else f"remove [{where}]"
        yield Problem("QRES-E321", where, what, f"swarm.memory = 0, or {other}")
