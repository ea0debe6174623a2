"""Extents of an update on its way through the ``privatize`` plugins, in file order.

From it follow what every plugin is told of its surroundings, and how many rows a rule gets.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import attrs

from qres_core.contract.claims import Extent, Surroundings, most_colluders
from qres_core.contract.errors import Problem, QresError
from qres_core.contract.types import Visibility
from qres_core.kernel.assembly import Enabled
from qres_core.kernel.config import SwarmConfig

JUDGING: Final = frozenset(("screen", "endorse"))
"""Hooks of plugins that judge before the vote what would be merged."""


def having(enabled: Sequence[Enabled], hook: str) -> list[Enabled]:
    """The plugins that implement a hook, in file order."""
    return [plugin for plugin in enabled if hook in plugin.hooks]


def altering(enabled: Sequence[Enabled]) -> list[Enabled]:
    """The wrappers that change what the rule gets or returns, in file order."""
    return [plugin for plugin in having(enabled, "wrap_aggregate") if plugin.claims.wraps.alters]


@attrs.frozen
class Hidden:
    """Visible rest of contributions, and the plugin that hides the others."""

    visibility: Visibility = Visibility.INDIVIDUAL  # what stays visible
    by: Enabled | None = None  # the plugin that hides; ``None`` where everything is visible

    @property
    def name(self) -> str:
        """The hiding plugin's name; empty for none."""
        return "" if self.by is None else self.by.name

    def rows(self, updates: int, nodes: int) -> int:
        """The most rows that wrappers and rule can see of so many updates of so many nodes.

        How likely so many are, if some of a group are away, is for the plugin that hides to say.
        """
        if self.by is None:
            return updates
        hides = self.by.claims.hides
        size = hides.group_size
        if self.visibility is Visibility.SUM or size is None:
            return 1
        return max(1, min(nodes // size, updates // (hides.smallest or size)))

    def members(self, updates: int) -> int:
        """The fewest of so many updates that a revealed row may hold."""
        if self.by is None:
            return 1
        if self.visibility is Visibility.SUM:
            return updates
        hides = self.by.claims.hides
        least = hides.group_size if hides.smallest is None else hides.smallest
        return updates if least is None else min(updates, least)

    @property
    def colluding(self) -> float:
        """Share of the nodes that may collude against what is hidden."""
        return 0.0 if self.by is None else self.by.claims.hides.colluding

    def colluders(self, nodes: int, byzantine: int) -> int:
        """Most of so many nodes that may collude against what is hidden."""
        return most_colluders(nodes, byzantine, self.colluding)


def mergers(enabled: Sequence[Enabled]) -> Iterator[tuple[Enabled, tuple[Enabled, ...]]]:
    """Wrappers, from the outermost, and the rule, each with those before it that merge rows."""
    before: tuple[Enabled, ...] = ()
    for plugin in (*having(enabled, "wrap_aggregate"), *having(enabled, "aggregate")):
        yield plugin, before
        if "wrap_aggregate" in plugin.hooks and plugin.claims.wraps.merges > 1:
            before = (*before, plugin)


def rows_needed(plugin: Enabled, before: Sequence[Enabled]) -> int:
    """Rows of which the wrappers before a plugin make enough for it."""
    merged = math.prod(merger.claims.wraps.merges for merger in before)
    return (plugin.claims.needs.min_updates - 1) * merged + 1


def least_rows(enabled: Sequence[Enabled]) -> int:
    """Fewest rows that the rule and the wrappers around it work with."""
    return max((rows_needed(*item) for item in mergers(enabled)), default=1)


def hiding(enabled: Sequence[Enabled]) -> Hidden:
    """Visible rest behind the plugin that hides most."""
    hidden = Hidden()
    for plugin in having(enabled, "privatize"):
        leaves = plugin.claims.hides.leaves
        if leaves < hidden.visibility:
            hidden = Hidden(leaves, plugin)
    return hidden


def behind_the_hider(enabled: Sequence[Enabled]) -> Iterator[tuple[Enabled, Enabled]]:
    """Plugins that would privatize what is hidden already, each with the one that hid it."""
    hider: Enabled | None = None
    for plugin in having(enabled, "privatize"):
        if hider is not None:
            yield plugin, hider
        elif plugin.claims.hides.leaves is not Visibility.INDIVIDUAL:
            hider = plugin


@attrs.frozen
class Surrounded:
    """View of a plugin on the configuration it is part of, and its effect on an update."""

    around: Surroundings
    after: Extent  # of an update, behind the plugin
    broken: tuple[Problem, ...] = ()  # it cannot say what it leaves, and counts as leaving all


def surroundings(
    enabled: Sequence[Enabled], swarm: SwarmConfig, hidden: Hidden, dimension: int
) -> dict[str, Surrounded]:
    """Surroundings of every plugin, by its name, in file order.

    ``hidden``: see :func:`hiding`; ``dimension``: coordinates of the model; 0 where it is not
    known.
    """
    around = Surroundings(
        nodes=swarm.nodes,
        byzantine=swarm.byzantine,
        quorum=swarm.quorum,
        scale=swarm.scale,
        weight_cap=swarm.weight_cap,
        deadline=swarm.deadline,
        max_message_bytes=swarm.max_message_bytes,
        authority=swarm.authority,
        roster=swarm.roster,
        dimension=dimension,
        until=swarm.until,
        visibility=hidden.visibility,
        hidden_by=hidden.name,
        members=hidden.members(swarm.quorum),
        colluders=hidden.colluders(swarm.nodes, swarm.byzantine),
        rows=least_rows(enabled),
    )
    told: dict[str, Surrounded] = {}
    extent = Extent()
    for plugin in enabled:
        mine = attrs.evolve(around, extent=extent, **_others(plugin, enabled))
        broken: tuple[Problem, ...] = ()
        if "privatize" in plugin.hooks:
            mine = attrs.evolve(mine, **_neighbours(plugin, enabled, hidden))
            try:
                extent = plugin.passes(extent, mine)
            except QresError as error:
                broken = error.problems
        told[plugin.name] = Surrounded(mine, extent, broken)
    return told


def _others(plugin: Enabled, enabled: Sequence[Enabled]) -> dict[str, Any]:
    """Facts for a plugin about all others."""
    # The rule is the innermost of the chain, wherever it stands in the file.
    before = enabled if "aggregate" in plugin.hooks else enabled[: enabled.index(plugin)]
    others = [item for item in enabled if item is not plugin]
    return {
        "altered_by": tuple(item.name for item in altering(before) if item is not plugin),
        "hooks": frozenset(hook for item in others for hook in item.hooks),
        "judges": tuple(item.name for item in others if JUDGING.intersection(item.hooks)),
    }


def _neighbours(plugin: Enabled, enabled: Sequence[Enabled], hidden: Hidden) -> dict[str, Any]:
    """Facts for a ``privatize`` plugin about those before and after it."""
    chain = having(enabled, "privatize")
    place = chain.index(plugin)
    before, after = chain[:place], [item for item in chain[place + 1 :] if item is not hidden.by]
    return {
        "before": tuple(item.name for item in before),
        "after": tuple(item.name for item in after),
        "changing": tuple(item.name for item in after if not item.claims.privatizes.keeps),
        "companions": tuple(item.name for item in before if item.claims.privatizes.accompanies),
    }


@attrs.define
class Found:
    """Answers of plugins about their surroundings."""

    problems: list[Problem] = attrs.field(factory=list[Problem])
    notices: list[str] = attrs.field(factory=list[str])


def check_all(enabled: Sequence[Enabled], told: Mapping[str, Surrounded]) -> Found:
    """Ask every plugin whether it works in its surroundings.

    ``told``: see :func:`surroundings`. Returns what they refuse, QRES-E206 for one that cannot say;
    and their notices, each with the plugin's path before it.
    """
    found = Found()
    for plugin in enabled:
        try:
            said = plugin.check(told[plugin.name].around)
        except QresError as error:
            found.problems.extend(error.problems)
            continue
        found.problems.extend(item for item in said if isinstance(item, Problem))
        found.problems.extend(told[plugin.name].broken)
        notices = (item for item in said if isinstance(item, str))
        found.notices.extend(f"plugins.{plugin.name}: {notice}" for notice in notices)
    return found
