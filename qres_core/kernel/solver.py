"""The solver: does what is enabled add up to what the configuration promises?

It compares slots, what plugins need, what they hide and the bounds of the swarm, before anything
starts. A combination that would be a lie is refused with a sentence that names both sides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs

from qres_core.contract.errors import Problem
from qres_core.contract.types import Visibility
from qres_core.kernel.assembly import Enabled
from qres_core.kernel.config import SwarmConfig
from qres_core.kernel.slots import PAIRED, SECURITY_FAMILIES, SLOTS


@attrs.frozen
class Solution:
    """What the solver found.

    Attributes:
        problems: reasons not to start.
        notices: true things an operator should know.
    """

    problems: tuple[Problem, ...]
    notices: tuple[str, ...]


def solve(enabled: Sequence[Enabled], swarm: SwarmConfig) -> Solution:
    """Compare the enabled plugins with each other and with the swarm's promises."""
    problems = [
        *_slots(enabled, swarm),
        *_identities(enabled),
        *_pairs(enabled),
        *_fault_bound(swarm),
        *_visibility(enabled),
        *_numbers(enabled, swarm),
        *_families(enabled),
        *_votes_too_early(enabled),
    ]
    return Solution(tuple(problems), tuple(_notices(enabled, swarm)))


def _having(enabled: Sequence[Enabled], hook: str) -> list[Enabled]:
    return [plugin for plugin in enabled if hook in plugin.hooks]


def _slots(enabled: Sequence[Enabled], swarm: SwarmConfig) -> Iterator[Problem]:
    for family, slot in SLOTS.items():
        for hook in slot.counted:
            holders = [plugin.name for plugin in _having(enabled, hook)]
            if slot.maximum is not None and len(holders) > slot.maximum:
                names = ", ".join(holders)
                what = f"slot {hook!r} takes {slot.maximum} plugin, enabled: {names}"
                yield Problem("QRES-E302", "plugins", what, "remove all but one")
            if len(holders) >= slot.minimum:
                continue
            if family in SECURITY_FAMILIES:
                if not swarm.insecure:
                    what = f"no enabled plugin has the hook {hook!r}"
                    fix = f"enable one of the {family} family, or set swarm.insecure = true"
                    yield Problem("QRES-E306", "plugins", what, fix)
            else:
                built_in = {"transport": "memory", "aggregate": "mean"}.get(family)
                fix = f"add for example [plugins.{built_in}]" if built_in else ""
                yield Problem("QRES-E301", "plugins", f"no enabled plugin has {hook!r}", fix)


def _identities(enabled: Sequence[Enabled]) -> Iterator[Problem]:
    for hook in ("identity", "link_keys", "credential"):
        holders = [plugin.name for plugin in _having(enabled, hook)]
        if len(holders) > 1:
            what = f"slot {hook!r} takes 1 plugin, enabled: {', '.join(holders)}"
            yield Problem("QRES-E302", "plugins", what, "remove all but one")


def _pairs(enabled: Sequence[Enabled]) -> Iterator[Problem]:
    for plugin in enabled:
        for first, second in PAIRED:
            if first in plugin.hooks and second not in plugin.hooks:
                what = f"has {first!r} and not {second!r}: nobody would check what it makes"
                yield Problem("QRES-E308", f"plugins.{plugin.name}", what)


def _fault_bound(swarm: SwarmConfig) -> Iterator[Problem]:
    least = 3 * swarm.byzantine + 1
    if swarm.nodes < least:
        what = f"{swarm.nodes} nodes cannot agree with {swarm.byzantine} liars among them"
        fix = f"at least {least} nodes, or byzantine <= {(swarm.nodes - 1) // 3}"
        yield Problem("QRES-E307", "swarm.byzantine", what, fix)


def _visibility(enabled: Sequence[Enabled]) -> Iterator[Problem]:
    visible, hider = Visibility.INDIVIDUAL, None
    for plugin in _having(enabled, "privatize"):
        if plugin.hides.leaves < visible:
            visible, hider = plugin.hides.leaves, plugin
    if hider is None:
        return
    for plugin in enabled:
        sees = not set(plugin.hooks).isdisjoint(("verify", "aggregate", "wrap_aggregate"))
        if sees and plugin.needs.visibility > visible:
            what = (
                f"needs to see contributions at level {plugin.needs.visibility.name.lower()}, "
                f"and plugins.{hider.name} leaves only {visible.name.lower()}"
            )
            fix = f"change or remove {plugin.name} or {hider.name}"
            yield Problem("QRES-E303", f"plugins.{plugin.name}", what, fix)


def _numbers(enabled: Sequence[Enabled], swarm: SwarmConfig) -> Iterator[Problem]:
    for plugin in enabled:
        where = f"plugins.{plugin.name}"
        needs = plugin.needs
        if needs.min_updates > swarm.quorum:
            what = f"needs {needs.min_updates} updates, swarm.quorum lets {swarm.quorum} suffice"
            fix = f"swarm.quorum >= {needs.min_updates}, or a smaller bound"
            yield Problem("QRES-E304", where, what, fix)
        if needs.tolerates is not None and needs.tolerates < swarm.byzantine:
            what = f"withstands {needs.tolerates} liars, swarm.byzantine promises {swarm.byzantine}"
            fix = "choose a rule for that bound, or lower swarm.byzantine"
            yield Problem("QRES-E309", where, what, fix)
        if needs.equal_weights:
            if swarm.weight_cap > 1:
                what = f"needs equal weights, swarm.weight_cap is {swarm.weight_cap}"
                yield Problem("QRES-E310", where, what, "weight_cap = 1")
            for other in _having(enabled, "reputation"):
                what = f"needs equal weights, and {other.name} weights nodes by reputation"
                yield Problem("QRES-E310", where, what, f"remove {other.name}, or use it as a gate")


def _families(enabled: Sequence[Enabled]) -> Iterator[Problem]:
    for plugin in enabled:
        for family in plugin.needs.families:
            others = {hook for other in enabled if other is not plugin for hook in other.hooks}
            if family not in SLOTS or not others.issuperset(SLOTS[family].counted):
                what = f"needs the family {family!r}, and no other plugin fills it"
                yield Problem("QRES-E305", f"plugins.{plugin.name}", what, f"enable a {family}")


def _votes_too_early(enabled: Sequence[Enabled]) -> Iterator[Problem]:
    judges = [*_having(enabled, "screen"), *_having(enabled, "endorse")]
    for plugin in _having(enabled, "reveal"):
        for judge in dict.fromkeys(one.name for one in judges):
            what = f"judges updates before the vote, and plugins.{plugin.name} reveals them after"
            yield Problem("QRES-E312", f"plugins.{judge}", what, f"remove {judge} or {plugin.name}")


def _notices(enabled: Sequence[Enabled], swarm: SwarmConfig) -> Iterator[str]:
    for family in SECURITY_FAMILIES:
        if not _having(enabled, family):
            yield f"INSECURE: no {family} plugin is enabled; anybody can speak for anybody"
    for plugin in enabled:
        for notice in plugin.notices:
            yield f"plugins.{plugin.name}: {notice}"
    honest = swarm.nodes - swarm.byzantine
    if swarm.quorum > honest:
        yield (
            f"swarm.quorum {swarm.quorum} is above the {honest} honest nodes: liars that stay "
            "silent can keep rounds from closing (nothing wrong is ever merged)"
        )
