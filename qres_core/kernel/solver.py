"""The solver: does what is enabled add up to what the configuration promises?

It compares slots, what plugins need, what they hide and the bounds of the swarm, before anything
starts. A combination that would be a lie is refused with a sentence that names both sides.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

import attrs

from qres_core.contract import packing
from qres_core.contract.claims import NO_CLAIMS
from qres_core.contract.errors import Problem
from qres_core.contract.suggest import did_you_mean
from qres_core.contract.types import Visibility
from qres_core.kernel.assembly import Enabled
from qres_core.kernel.chain import (
    Hidden,
    altering,
    behind_the_hider,
    check_all,
    having,
    hiding,
    least_rows,
    mergers,
    rows_needed,
    surroundings,
)
from qres_core.kernel.config import SwarmConfig, committee_size
from qres_core.kernel.index import plugin_index
from qres_core.kernel.ranged import unbounded
from qres_core.kernel.remedies import (
    SEEN,
    ask_for_less,
    ban_only,
    counted,
    either,
    enable,
    merge_less,
    say_otherwise,
    withstand,
    work_in_groups,
)
from qres_core.kernel.sharded import (
    committee_notice,
    largest_word,
    sampling_notice,
    unsharded,
)
from qres_core.kernel.slots import PAIRED, SECURITY_FAMILIES, SLOTS

_MIB: Final = 2**20
_BESIDE: Final = 2**10
"""Bytes of a message beside a vector, where neither plugins nor votes add any."""
_VOTE: Final = 2**10
"""Bytes for each vote for a model which is handed on."""
_PROOF: Final = 2**20
"""Most bytes that a plugin puts beside an update."""


@attrs.frozen
class Solution:
    """Findings of the solver."""

    problems: tuple[Problem, ...]  # reasons not to start
    notices: tuple[str, ...]  # true things an operator should know
    # what of the contributions rules and proofs can see
    visibility: Visibility = Visibility.INDIVIDUAL
    # share of the nodes that may collude against what is hidden
    colluding: float = 0.0
    rows: int = 1  # fewest that the rule and the wrappers around it work with
    noised: bool = False  # whether a plugin adds noise to contributions


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
        *_authority(enabled, swarm),
        *_visibility(enabled, hidden, swarm),
        *_exposed(enabled, hidden),
        *_order(enabled),
        *_standings(enabled, hidden),
        *_averaging(enabled),
        *_rows(enabled, swarm, hidden),
        *_liars(enabled, swarm),
        *_weights(enabled, swarm),
        *_families(enabled),
        *_committees(enabled, swarm),
        *unsharded(enabled, swarm),
        *unbounded(enabled, swarm),
        *_votes_too_early(enabled, hidden),
        *_records(enabled),
        *_sizes(enabled, swarm, dimension),
    ]
    # Numbers are looked at where the parts fit: a plugin need not judge what cannot be run.
    told = surroundings(enabled, swarm, hidden, dimension)
    found = check_all(enabled, told)
    return Solution(
        (*problems, *found.problems),
        (*_notices(enabled, swarm), *found.notices),
        hidden.visibility,
        hidden.colluding,
        least_rows(enabled),
        any(each.after.noise > 0.0 for each in told.values()),
    )


def _slots(enabled: Sequence[Enabled], swarm: SwarmConfig) -> Iterator[Problem]:
    for family, slot in SLOTS.items():
        for hook in slot.counted:
            holders = [plugin.name for plugin in having(enabled, hook)]
            if slot.maximum is not None and len(holders) > slot.maximum:
                names = ", ".join(holders)
                what = (
                    f"slot {hook!r} takes {slot.maximum} plugin, and {len(holders)} are enabled: "
                    f"{names}"
                )
                yield Problem("QRES-E302", "plugins", what, "remove all except one")
            if len(holders) >= slot.minimum:
                continue
            what, fix = f"no enabled plugin has the hook {hook!r}", enable(family)
            if family not in SECURITY_FAMILIES:
                yield Problem("QRES-E301", "plugins", what, fix)
            elif not swarm.insecure:
                fix += "; or set swarm.insecure = true, for experiments only"
                yield Problem("QRES-E306", "plugins", what, fix)


def _sizes(enabled: Sequence[Enabled], swarm: SwarmConfig, dimension: int) -> Iterator[Problem]:
    """A model that no message can carry."""
    yield from _words(enabled, swarm, dimension)
    vectors = packing.most_bytes(dimension)
    # The largest messages: an update with what plugins add, and a model with the votes for it.
    proofs = _PROOF * sum(
        ("prove" in plugin.hooks) + plugin.claims.privatizes.accompanies for plugin in enabled
    )
    beside = _BESIDE + max(proofs, _VOTE * swarm.nodes)
    if not dimension or vectors + beside <= swarm.max_message_bytes:
        return
    enough = -(-(vectors + beside) // _MIB) * _MIB
    what = (
        f"is {swarm.max_message_bytes}, and an update of {dimension} parameters takes {vectors} "
        f"bytes and up to {beside} for what travels beside it"
    )
    fix = f"swarm.max_message_bytes = {enough}, on every node; or a smaller model"
    yield Problem("QRES-E105", "swarm.max_message_bytes", what, fix)


def _words(enabled: Sequence[Enabled], swarm: SwarmConfig, dimension: int) -> Iterator[Problem]:
    """Committees whose results no message can carry."""
    size, what, other = largest_word(enabled, swarm, dimension)
    size += _BESIDE
    if size > swarm.max_message_bytes and what:
        enough = -(-size // _MIB) * _MIB
        said = f"is {swarm.max_message_bytes}, and {what} take up to {size} bytes in one message"
        fix = f"swarm.max_message_bytes = {enough}, on every node; or {other}"
        yield Problem("QRES-E105", "swarm.max_message_bytes", said, fix)


def _identities(enabled: Sequence[Enabled]) -> Iterator[Problem]:
    for hook in ("identity", "key_index", "link_keys", "credential"):
        holders = [plugin.name for plugin in having(enabled, hook)]
        if len(holders) > 1:
            what = (
                f"slot {hook!r} takes 1 plugin, and {len(holders)} are enabled: "
                f"{', '.join(holders)}"
            )
            yield Problem("QRES-E302", "plugins", what, "remove all except one")


def _pairs(enabled: Sequence[Enabled]) -> Iterator[Problem]:
    for plugin in enabled:
        for first, second in PAIRED:
            if first in plugin.hooks and second not in plugin.hooks:
                what = f"has {first!r} but not {second!r}, and they work only together"
                fix = f"give the plugin the hook {second!r} too, or remove [plugins.{plugin.name}]"
                yield Problem("QRES-E308", f"plugins.{plugin.name}", what, fix)


def _fault_bound(swarm: SwarmConfig) -> Iterator[Problem]:
    least = 3 * swarm.byzantine + 1
    if swarm.nodes < least:
        what = f"{swarm.nodes} nodes cannot agree with {counted(swarm.byzantine)} among them"
        fix = f"swarm.nodes >= {least}, or swarm.byzantine <= {(swarm.nodes - 1) // 3}"
        yield Problem("QRES-E307", "swarm.byzantine", what, fix)


def _authority(enabled: Sequence[Enabled], swarm: SwarmConfig) -> Iterator[Problem]:
    if swarm.authority == "ca" and not having(enabled, "approve"):
        what = "no enabled plugin knows an authority that could approve a change of the members"
        fix = f'enable one: {plugin_index().example("credential")}; or set it to "members"'
        yield Problem("QRES-E301", "swarm.authority", what, fix)


def _visibility(
    enabled: Sequence[Enabled], hidden: Hidden, swarm: SwarmConfig
) -> Iterator[Problem]:
    hider = hidden.by
    if hider is None:
        return
    for plugin in enabled:
        sees = not set(plugin.hooks).isdisjoint(("verify", "aggregate", "wrap_aggregate"))
        needed = plugin.claims.needs.visibility
        if sees and needed > hidden.visibility:
            seen = SEEN[hidden.visibility]
            what = f"needs to see {SEEN[needed]}, and plugins.{hider.name} shows only {seen}"
            if "aggregate" in plugin.hooks:
                instead = f"use a rule that works with {seen}"
                if hidden.visibility is Visibility.SUM:
                    instead += f", such as {plugin_index().examples['aggregate']}"
            else:
                instead = f"remove [plugins.{plugin.name}]"
            fix = f"{instead}, or remove [plugins.{hider.name}]"
            if needed is Visibility.GROUP:
                fix = f"{work_in_groups(plugin, hider, swarm.quorum)}; or {instead}"
            yield Problem("QRES-E303", f"plugins.{plugin.name}", what, fix)


def _exposed(enabled: Sequence[Enabled], hidden: Hidden) -> Iterator[Problem]:
    for plugin in enabled:
        if plugin.claims.needs.at_most < hidden.visibility:
            what = (
                f"its guarantee holds only if nobody sees more than "
                f"{SEEN[plugin.claims.needs.at_most]}, and {SEEN[hidden.visibility]} can be seen"
            )
            example = plugin_index().example("privatize")
            hide = f"enable secure aggregation after {plugin.name}, for example {example}"
            if hidden.by is not None:
                hide = f"let {hidden.name} hide more"
            other = say_otherwise(plugin, lambda it: it.claims.needs.at_most >= hidden.visibility)
            fix = f"{hide}; or {other}"
            yield Problem("QRES-E303", f"plugins.{plugin.name}", what, fix)


def _standings(enabled: Sequence[Enabled], hidden: Hidden) -> Iterator[Problem]:
    """Refuse weights by standing where only sums are visible: no single node counts less there."""
    if hidden.by is None:
        return
    for plugin in having(enabled, "reputation"):
        if plugin.claims.weighs:
            what = (
                f"weights nodes by their standing, and plugins.{hidden.by.name} shows only sums, "
                "in which no single node can count less"
            )
            fix = f"{ban_only(plugin)}; or remove [plugins.{hidden.by.name}]"
            yield Problem("QRES-E310", f"plugins.{plugin.name}", what, fix)


def _order(enabled: Sequence[Enabled]) -> Iterator[Problem]:
    for plugin, hider in behind_the_hider(enabled):
        what = f"comes after plugins.{hider.name} and would change masked values"
        fix = f"put [plugins.{plugin.name}] before [plugins.{hider.name}] in the file"
        if plugin.claims.hides.leaves is not Visibility.INDIVIDUAL:
            fix = f"remove [plugins.{plugin.name}] or [plugins.{hider.name}]"
        yield Problem("QRES-E303", f"plugins.{plugin.name}", what, fix)


def _averaging(enabled: Sequence[Enabled]) -> Iterator[Problem]:
    for plugin in enabled:
        if not plugin.claims.needs.averaging:
            continue
        where = f"plugins.{plugin.name}"
        instead = say_otherwise(plugin, lambda it: not it.claims.needs.averaging)
        for rule in having(enabled, "aggregate"):
            if not rule.claims.averages:
                what = (
                    f"it works with a mean of all updates, and the rule {rule.name} is not a mean"
                )
                example = plugin_index().example("aggregate")
                fix = f"use a mean, for example {example}, or {instead}"
                yield Problem("QRES-E303", where, what, fix)
        for other in altering(enabled):
            if other is not plugin:
                what = (
                    f"it works with the mean of all updates, and plugins.{other.name} changes "
                    "updates or their mean"
                )
                fix = f"remove [plugins.{other.name}], or {instead}"
                yield Problem("QRES-E303", where, what, fix)


def _records(enabled: Sequence[Enabled]) -> Iterator[Problem]:
    """A trainer clips single examples in one way."""
    asking = [plugin for plugin in enabled if plugin.claims.needs.records is not None]
    for plugin in asking[1:]:
        if plugin.claims.needs.records != asking[0].claims.needs.records:
            what = f"clips single examples otherwise than plugins.{asking[0].name}"
            fix = "give both the same bound and number of records, or remove one of them"
            yield Problem("QRES-E318", f"plugins.{plugin.name}", what, fix)


def _rows(enabled: Sequence[Enabled], swarm: SwarmConfig, hidden: Hidden) -> Iterator[Problem]:
    """Enough rows for each wrapper, from the outermost, and for the rule inside them."""
    rows = hidden.rows(swarm.quorum, swarm.nodes)
    chain = list(mergers(enabled))
    merging = [plugin for plugin, _ in chain]
    others = [(plugin, ()) for plugin in enabled if plugin not in merging]
    for plugin, earlier in (*others, *chain):
        before = tuple(  # one that has too few itself is named for that
            merger for merger in earlier if merger.claims.needs.min_updates <= swarm.quorum
        )
        merged = math.prod(merger.claims.wraps.merges for merger in before)  # rows that become one
        where, least = f"plugins.{plugin.name}", plugin.claims.needs.min_updates
        if least > swarm.quorum:
            closes = f"a round may close with {swarm.quorum} (swarm.quorum)"
            what = f"needs {least} updates, but {closes}"
            nodes = f" and swarm.nodes >= {least}" if least > swarm.nodes else ""
            less = ask_for_less(plugin, swarm.quorum, swarm.byzantine)
            yield Problem(
                "QRES-E304", where, what, either([f"swarm.quorum >= {least}{nodes}", *less])
            )
            continue
        if plugin not in merging:
            continue
        if before and plugin.claims.needs.visibility is Visibility.INDIVIDUAL:
            names = " and ".join(f"plugins.{merger.name}" for merger in before)
            what = f"needs to see single updates, and {names} makes one row of {merged}"
            rule = "use a rule that works with means of several"
            instead = rule if "aggregate" in plugin.hooks else f"remove [plugins.{plugin.name}]"
            remove = " and ".join(f"[plugins.{merger.name}]" for merger in before)
            yield Problem("QRES-E303", where, what, f"{instead}, or remove {remove}")
            continue
        if hidden.visibility is not Visibility.SUM and -(-rows // merged) < least:
            yield _too_few(plugin, swarm, hidden, before)


def _too_few(
    plugin: Enabled, swarm: SwarmConfig, hidden: Hidden, before: Sequence[Enabled]
) -> Problem:
    least, quorum = plugin.claims.needs.min_updates, swarm.quorum
    needed, rows = rows_needed(plugin, before), hidden.rows(quorum, swarm.nodes)
    merged = math.prod(merger.claims.wraps.merges for merger in before)
    what = f"needs {least} rows, and of swarm.quorum = {quorum} updates"
    if hidden.by is not None:
        what += f" plugins.{hidden.name} leaves {rows}"
    fixes: list[str] = []
    if before:
        names = ", ".join(f"plugins.{merger.name}" for merger in before)
        what += f"{', of which' if hidden.by else ''} {names} makes {-(-rows // merged)}"
        for merger in before:
            merges = merger.claims.wraps.merges
            others = merged // merges
            enough = [size for size in range(1, merges) if -(-rows // (others * size)) >= least]
            fixes += [merge_less(merger, max(enough))] if enough else []
    elif quorum // needed > 1:  # a group of one hides nothing
        fixes.append(f"groups of at most {quorum // needed} nodes")
    hides = NO_CLAIMS.hides if hidden.by is None else hidden.by.claims.hides
    size = hides.group_size
    if size:  # without groups from the start, no quorum makes more rows than one
        more = f" and swarm.nodes >= {needed * size}" if needed * size > swarm.nodes else ""
        fixes.append(f"swarm.quorum >= {needed * (hides.smallest or size)}{more}")
    fixes += ask_for_less(plugin, -(-rows // merged), swarm.byzantine)
    if not fixes:
        rule = "aggregate" in plugin.hooks
        fixes.append("use another rule" if rule else f"remove [plugins.{plugin.name}]")
    return Problem("QRES-E304", f"plugins.{plugin.name}", what, either(fixes))


def _liars(enabled: Sequence[Enabled], swarm: SwarmConfig) -> Iterator[Problem]:
    for plugin in enabled:
        tolerates = plugin.claims.tolerates
        if tolerates is None or tolerates >= swarm.byzantine:
            continue
        what = f"withstands {counted(tolerates)}, and swarm.byzantine promises {swarm.byzantine}"
        kind = "rule" if "aggregate" in plugin.hooks else "plugin"
        own = withstand(plugin, swarm.byzantine, swarm.quorum)
        other = f"{'another' if own else 'use a'} {kind} that withstands {swarm.byzantine}"
        fix = either([*own, other, f"swarm.byzantine <= {max(0, tolerates)}"])
        proofs = [item for item in having(enabled, "verify") if item.claims.verifies.bounds]
        if plugin.claims.averages and proofs:
            # A bound on the length of an update bounds what it does to a mean of equal weights.
            heavier = list(_unequal(enabled, swarm))
            if not heavier:
                continue
            reasons = ", and ".join(reason for reason, _remedy in heavier)
            what += (
                f"; the proof of plugins.{proofs[0].name} does not bound an update that counts "
                f"more than others: {reasons}"
            )
            fix = "; and ".join(remedy for _reason, remedy in heavier)
        yield Problem("QRES-E309", f"plugins.{plugin.name}", what, fix)


def _unequal(enabled: Sequence[Enabled], swarm: SwarmConfig) -> Iterator[tuple[str, str]]:
    """Reasons why one update may count more than another, each with the remedy."""
    if swarm.weight_cap > 1:
        yield f"swarm.weight_cap is {swarm.weight_cap}", "set swarm.weight_cap = 1"
    for item in having(enabled, "reputation"):
        if item.claims.weighs:
            yield f"plugins.{item.name} weights nodes by their standing", ban_only(item)


def _weights(enabled: Sequence[Enabled], swarm: SwarmConfig) -> Iterator[Problem]:
    for plugin in enabled:
        if plugin.claims.needs.equal_weights:
            for reason, remedy in _unequal(enabled, swarm):
                what = f"needs equal weights, but {reason}"
                yield Problem("QRES-E310", f"plugins.{plugin.name}", what, remedy)


def _families(enabled: Sequence[Enabled]) -> Iterator[Problem]:
    for plugin in enabled:
        for family in plugin.claims.needs.families:
            others = {hook for other in enabled if other is not plugin for hook in other.hooks}
            where = f"plugins.{plugin.name}"
            if family not in SLOTS:
                what = f"needs the family {family!r}, which does not exist"
                fix = f"{did_you_mean(family, SLOTS)}; that is for the plugin's authors to correct"
                yield Problem("QRES-E305", where, what, fix)
            elif not others.issuperset(SLOTS[family].counted):
                what = f"needs the family {family!r}, and no other plugin fills it"
                yield Problem("QRES-E305", where, what, enable(family))


def _committees(enabled: Sequence[Enabled], swarm: SwarmConfig) -> Iterator[Problem]:
    """Reasons why a node may not take others' word for a proof."""
    if swarm.proof_checks != "committee":
        return
    reasons: list[str] = []
    if not having(enabled, "authenticate"):
        reasons.append("no enabled plugin signs attestations")
    proofs = having(enabled, "verify")
    if not proofs:
        reasons.append("no enabled plugin has proofs to check")
    reasons += [
        f"the verdicts of plugins.{proof.name} are a node's own, and no other can give them"
        for proof in proofs
        if not proof.claims.verifies.transferable
    ]
    for reason in reasons:
        what = f'is "committee", and {reason}'
        yield Problem("QRES-E316", "swarm.proof_checks", what, 'set it to "everyone"')


def _votes_too_early(enabled: Sequence[Enabled], hidden: Hidden) -> Iterator[Problem]:
    judges = [*having(enabled, "screen"), *having(enabled, "endorse")]
    for plugin in having(enabled, "reveal"):
        # What checks a sum reveals nothing itself: that is said of the plugin that hides.
        if plugin is not hidden.by and not plugin.claims.privatizes.reveals:
            continue
        for judge in dict.fromkeys(judge.name for judge in judges):
            what = f"judges updates before the vote, and plugins.{plugin.name} reveals them after"
            fix = (
                f"remove [plugins.{judge}] or [plugins.{plugin.name}]; a plugin that judges after "
                f"the merge can stay, for example {plugin_index().example('judge_of_merged')}"
            )
            yield Problem("QRES-E312", f"plugins.{judge}", what, fix)


_UNGUARDED = {
    "authenticate": "anybody can speak for anybody",
    "replay_check": "old messages can be sent again",
}
"""What may happen where no plugin of a family is enabled."""


def _notices(enabled: Sequence[Enabled], swarm: SwarmConfig) -> Iterator[str]:
    for family in SECURITY_FAMILIES:
        if not having(enabled, family):
            yield f"INSECURE: no {family} plugin is enabled; {_UNGUARDED[family]}"
    for rule in having(enabled, "aggregate"):
        for proof in having(enabled, "verify"):
            if rule.claims.averages and proof.claims.verifies.bounds and swarm.byzantine:
                yield (
                    f"plugins.{rule.name}: withstands no liar by itself; plugins.{proof.name} "
                    f"bounds what each can do: {proof.claims.verifies.bounds}"
                )
    if swarm.proof_checks == "committee":
        size = committee_size(swarm.nodes, swarm.byzantine)
        yield (
            f"swarm.proof_checks: {size} nodes check each proof; their attestations hold while "
            f"at most {swarm.byzantine} of all nodes lie"
        )
    if swarm.aggregation == "sharded":
        yield committee_notice(swarm, hiding(enabled).name)
    if swarm.participants:
        yield sampling_notice(swarm)
    for plugin in enabled:
        for notice in plugin.claims.notices:
            yield f"plugins.{plugin.name}: {notice}"
    honest = swarm.nodes - swarm.byzantine
    if swarm.quorum > honest:
        yield (
            f"swarm.quorum {swarm.quorum} is above the {honest} honest nodes: liars that stay "
            "silent can keep rounds from closing (nothing wrong is ever merged)"
        )
