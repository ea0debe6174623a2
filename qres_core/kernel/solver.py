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
from qres_core.kernel.chain import Hidden, behind_the_hider, check_all, having, hiding
from qres_core.kernel.config import SwarmConfig
from qres_core.kernel.slots import PAIRED, SECURITY_FAMILIES, SLOTS


@attrs.frozen
class Solution:
    """What the solver found.

    Attributes:
        problems: reasons not to start.
        notices: true things an operator should know.
        visibility: what of the contributions rules and proofs can see.
    """

    problems: tuple[Problem, ...]
    notices: tuple[str, ...]
    visibility: Visibility = Visibility.INDIVIDUAL


def solve(enabled: Sequence[Enabled], swarm: SwarmConfig, *, dimension: int = 0) -> Solution:
    """Compare the enabled plugins with each other and with the swarm's promises.

    Args:
        enabled: the plugins, in file order.
        swarm: the swarm's promises.
        dimension: coordinates of the model, where it is known; 0 leaves out what depends on it.

    Returns:
        every reason not to start, and what an operator should know.

    Complexity: O(p**2) for p plugins, and what their ``check`` takes.
    """
    hidden = hiding(enabled)
    problems = [
        *_slots(enabled, swarm),
        *_identities(enabled),
        *_pairs(enabled),
        *_fault_bound(swarm),
        *_visibility(enabled, hidden, swarm),
        *_exposed(enabled, hidden),
        *_order(enabled),
        *_standings(enabled, hidden),
        *_averaging(enabled),
        *_rows(enabled, swarm, hidden),
        *_liars(enabled, swarm),
        *_weights(enabled, swarm),
        *_families(enabled),
        *_votes_too_early(enabled, hidden),
    ]
    # Numbers are looked at where the parts fit: a plugin need not judge what cannot be run.
    problems += check_all(enabled, swarm, hidden, dimension)
    return Solution(tuple(problems), tuple(_notices(enabled, swarm)), hidden.visibility)


def _slots(enabled: Sequence[Enabled], swarm: SwarmConfig) -> Iterator[Problem]:
    for family, slot in SLOTS.items():
        for hook in slot.counted:
            holders = [plugin.name for plugin in having(enabled, hook)]
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
        holders = [plugin.name for plugin in having(enabled, hook)]
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


def _visibility(
    enabled: Sequence[Enabled], hidden: Hidden, swarm: SwarmConfig
) -> Iterator[Problem]:
    hider = hidden.by
    if hider is None:
        return
    for plugin in enabled:
        sees = not set(plugin.hooks).isdisjoint(("verify", "aggregate", "wrap_aggregate"))
        if sees and plugin.needs.visibility > hidden.visibility:
            what = (
                f"needs to see contributions at level {plugin.needs.visibility.name.lower()}, "
                f"and plugins.{hider.name} leaves only {hidden.visibility.name.lower()}"
            )
            fix = f"change or remove {plugin.name} or {hider.name}"
            if plugin.needs.visibility is Visibility.GROUP:
                least = plugin.needs.min_updates
                size = swarm.quorum // max(1, least)
                fix = (
                    f"let {hider.name} work in groups: {plugin.name} needs {least} of them, so at "
                    f"most {size} nodes each with swarm.quorum = {swarm.quorum}; or the rule mean"
                )
            yield Problem("QRES-E303", f"plugins.{plugin.name}", what, fix)


def _exposed(enabled: Sequence[Enabled], hidden: Hidden) -> Iterator[Problem]:
    for plugin in enabled:
        if plugin.needs.at_most < hidden.visibility:
            what = (
                f"its guarantee needs contributions hidden to level "
                f"{plugin.needs.at_most.name.lower()}, and they are visible at level "
                f"{hidden.visibility.name.lower()}"
            )
            fix = f"enable secure aggregation after {plugin.name}, or change its mode"
            yield Problem("QRES-E303", f"plugins.{plugin.name}", what, fix)


def _standings(enabled: Sequence[Enabled], hidden: Hidden) -> Iterator[Problem]:
    """What one node counts cannot be changed once it is part of a sum."""
    if hidden.by is None:
        return
    for plugin in having(enabled, "reputation"):
        if plugin.weighs:
            what = (
                f"weights nodes by their standing, and plugins.{hidden.by.name} shows only sums, "
                "in which no single node can count less"
            )
            fix = f"use {plugin.name} as a gate that bans and does not weight"
            yield Problem("QRES-E310", f"plugins.{plugin.name}", what, fix)


def _order(enabled: Sequence[Enabled]) -> Iterator[Problem]:
    for plugin, hider in behind_the_hider(enabled):
        what = f"comes after plugins.{hider.name} and would change values that are masked already"
        fix = f"put [plugins.{plugin.name}] before [plugins.{hider.name}] in the file"
        if plugin.hides.leaves is not Visibility.INDIVIDUAL:
            fix = f"remove {plugin.name} or {hider.name}"
        yield Problem("QRES-E303", f"plugins.{plugin.name}", what, fix)


def _averaging(enabled: Sequence[Enabled]) -> Iterator[Problem]:
    for plugin in enabled:
        if not plugin.needs.averaging:
            continue
        where = f"plugins.{plugin.name}"
        for rule in having(enabled, "aggregate"):
            if not rule.averages:
                what = (
                    f"its noise fits what one update can change of a mean, and the rule "
                    f"{rule.name} is none"
                )
                fix = f"use the rule mean, or another mode of {plugin.name}"
                yield Problem("QRES-E303", where, what, fix)
        for other in enabled:
            if other is not plugin and other.alters:
                what = (
                    f"its noise is for the mean of all updates, and plugins.{other.name} changes "
                    "updates before they are averaged"
                )
                fix = f"remove {other.name}, or use another mode of {plugin.name}"
                yield Problem("QRES-E303", where, what, fix)


def _rows(enabled: Sequence[Enabled], swarm: SwarmConfig, hidden: Hidden) -> Iterator[Problem]:
    """Enough rows for each wrapper, from the outermost, and for the rule inside them."""
    rows = hidden.rows(swarm.quorum)
    merged, mergers = 1, list[str]()  # what wrappers before make of so many rows: one
    chain = [*having(enabled, "wrap_aggregate"), *having(enabled, "aggregate")]
    for plugin in (*(one for one in enabled if one not in chain), *chain):
        where, least = f"plugins.{plugin.name}", plugin.needs.min_updates
        if least > swarm.quorum:
            what = f"needs {least} updates, swarm.quorum lets {swarm.quorum} suffice"
            fix = f"swarm.quorum >= {least}, or a smaller bound"
            yield Problem("QRES-E304", where, what, fix)
            continue
        if plugin not in chain:
            continue
        if hidden.visibility is not Visibility.SUM and -(-rows // merged) < least:
            yield _too_few(plugin, swarm.quorum, hidden, merged, mergers)
        if plugin.merges > 1:
            merged *= plugin.merges
            mergers.append(plugin.name)


def _too_few(
    plugin: Enabled, quorum: int, hidden: Hidden, merged: int, mergers: Sequence[str]
) -> Problem:
    least = plugin.needs.min_updates
    needed = (least - 1) * merged + 1  # rows of which the wrappers before make enough
    rows = hidden.rows(quorum)
    what = f"needs {least} rows, and of swarm.quorum = {quorum} updates"
    if hidden.by is not None:
        what += f" plugins.{hidden.name} leaves {rows}"
    fix = f"groups of at most {quorum // needed}" if quorum >= needed else ""
    if mergers:
        names = ", ".join(f"plugins.{name}" for name in mergers)
        what += f"{', of which' if hidden.by else ''} {names} makes {-(-rows // merged)}"
        fix = f"a smaller {names}.size"
    size = hidden.by.hides.group_size if hidden.by is not None else 1
    if size:  # without groups from the start, no quorum makes more rows than one
        fix = f"{fix + ', ' if fix else ''}swarm.quorum >= {needed * size}"
    fix = f"{fix}, or a smaller bound" if fix else "a smaller bound"
    return Problem("QRES-E304", f"plugins.{plugin.name}", what, fix)


def _liars(enabled: Sequence[Enabled], swarm: SwarmConfig) -> Iterator[Problem]:
    for plugin in enabled:
        tolerates = plugin.needs.tolerates
        if tolerates is None or tolerates >= swarm.byzantine:
            continue
        what = f"withstands {tolerates} liars, swarm.byzantine promises {swarm.byzantine}"
        fix = "choose a rule for that bound, or lower swarm.byzantine"
        proofs = [one for one in having(enabled, "verify") if one.bounds]
        if plugin.averages and proofs:
            # A bound on the length of an update bounds what it does to a mean of equal weights.
            heavier = _unequal(enabled, swarm)
            if not heavier:
                continue
            what += (
                f"; what plugins.{proofs[0].name} proves of each update does not bound one that "
                f"counts more than others, and {heavier}"
            )
            fix = "weight_cap = 1 and a reputation that only bans (exponent = 0)"
        yield Problem("QRES-E309", f"plugins.{plugin.name}", what, fix)


def _unequal(enabled: Sequence[Enabled], swarm: SwarmConfig) -> str:
    """Why one update may count more than another; empty if none may."""
    if swarm.weight_cap > 1:
        return f"swarm.weight_cap is {swarm.weight_cap}"
    weighing = [one.name for one in having(enabled, "reputation") if one.weighs]
    return f"plugins.{weighing[0]} weights nodes by their standing" if weighing else ""


def _weights(enabled: Sequence[Enabled], swarm: SwarmConfig) -> Iterator[Problem]:
    for plugin in enabled:
        if not plugin.needs.equal_weights:
            continue
        where = f"plugins.{plugin.name}"
        if swarm.weight_cap > 1:
            what = f"needs equal weights, swarm.weight_cap is {swarm.weight_cap}"
            yield Problem("QRES-E310", where, what, "weight_cap = 1")
        for other in having(enabled, "reputation"):
            if other.weighs:
                what = f"needs equal weights, and {other.name} weights nodes by reputation"
                yield Problem("QRES-E310", where, what, f"remove {other.name}, or use it as a gate")


def _families(enabled: Sequence[Enabled]) -> Iterator[Problem]:
    for plugin in enabled:
        for family in plugin.needs.families:
            others = {hook for other in enabled if other is not plugin for hook in other.hooks}
            if family not in SLOTS or not others.issuperset(SLOTS[family].counted):
                what = f"needs the family {family!r}, and no other plugin fills it"
                yield Problem("QRES-E305", f"plugins.{plugin.name}", what, f"enable a {family}")


def _votes_too_early(enabled: Sequence[Enabled], hidden: Hidden) -> Iterator[Problem]:
    judges = [*having(enabled, "screen"), *having(enabled, "endorse")]
    for plugin in having(enabled, "reveal"):
        # What checks a sum reveals nothing itself: that is said of the plugin that hides.
        if plugin is not hidden.by and not plugin.reveals:
            continue
        for judge in dict.fromkeys(one.name for one in judges):
            what = f"judges updates before the vote, and plugins.{plugin.name} reveals them after"
            yield Problem("QRES-E312", f"plugins.{judge}", what, f"remove {judge} or {plugin.name}")


def _notices(enabled: Sequence[Enabled], swarm: SwarmConfig) -> Iterator[str]:
    for family in SECURITY_FAMILIES:
        if not having(enabled, family):
            yield f"INSECURE: no {family} plugin is enabled; anybody can speak for anybody"
    for rule in having(enabled, "aggregate"):
        for proof in having(enabled, "verify"):
            if rule.averages and proof.bounds and swarm.byzantine:
                yield (
                    f"plugins.{rule.name}: withstands no liar by itself; plugins.{proof.name} "
                    f"bounds what each can do: {proof.bounds}"
                )
    for plugin in enabled:
        for notice in plugin.notices:
            yield f"plugins.{plugin.name}: {notice}"
    honest = swarm.nodes - swarm.byzantine
    if swarm.quorum > honest:
        yield (
            f"swarm.quorum {swarm.quorum} is above the {honest} honest nodes: liars that stay "
            "silent can keep rounds from closing (nothing wrong is ever merged)"
        )
