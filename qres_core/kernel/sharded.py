"""Reasons why a configuration cannot run sharded rounds: each is refused by name."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import takewhile
from types import MappingProxyType
from typing import Final

from qres_core.contract import packing
from qres_core.contract.claims import Reads
from qres_core.contract.errors import Problem
from qres_core.contract.types import Visibility
from qres_core.kernel.assembly import Enabled
from qres_core.kernel.chain import having, hiding
from qres_core.kernel.committees import (
    FAILURE_BITS,
    GRINDING_BITS,
    failure_bits,
    is_safe,
    least_size,
    serving_first,
    too_few,
)
from qres_core.kernel.config import SwarmConfig
from qres_core.kernel.remedies import counted, either, enable, leave_out

_SAID: Final = 'and swarm.aggregation is "sharded"'
_BEFORE_THE_VOTE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "screen": "judges whole updates before the vote",
        "endorse": "judges before the vote what whole updates merge to",
    }
)
"""Hooks that need whole updates before a set is decided, when no node can have them."""
_LOOKING: Final[Mapping[str, str]] = MappingProxyType(
    {"reveal": "reveals whole updates", "verify": "checks proofs of whole updates"}
)
"""Hooks that are called with whole updates, if their plugin looks at them."""
_SELDOM: Final = Fraction(1, 2)
"""Rounds that silent members may cost where only a sample trains: every other round, as a share."""
_STATED: Final = "if it needs no whole updates, its authors state so in its claims"


def largest_word(
    enabled: Sequence[Enabled], swarm: SwarmConfig, dimension: int
) -> tuple[int, str, str]:
    """Most bytes that a member of a committee sends of what it found of a shard.

    ``dimension``: coordinates of the model; 0 where they are not known. Returns the bytes, what
    they are, and what would make them fewer; 0 bytes where they are at most those of an update.
    """
    if swarm.aggregation != "sharded":
        return 0, "", ""
    n = swarm.nodes
    drawn, f = swarm.shard_committee, swarm.byzantine
    first = serving_first(n, f, drawn) if is_safe(n, f, drawn) else f + 1
    shards = max(1, n // first)
    width = -(-dimension // shards)
    hider = hiding(enabled).by
    if hider is not None:
        hides = hider.claims.hides
        rows = 1
        if hides.leaves is Visibility.GROUP:
            rows = n // (hides.smallest or hides.group_size or n)
        what = f"a shard of the sums of {counted_groups(rows)}"
        return 4 + packing.most_bytes(2 * rows * width), what, "fewer, larger groups"
    compares = [plugin.name for plugin in enabled if plugin.claims.reads is Reads.PRODUCTS]
    if not compares:
        return 0, "", ""
    rows = min(n, swarm.participants or n)
    # A product of vectors of int32 is at most the square of 2**31 in each coordinate.
    octets = (62 + max(1, width).bit_length()) // 8 + 1
    size = 1 + octets * (rows * (rows + 1) // 2)
    what = f"the inner products of {rows} updates, which plugins.{compares[0]} compares,"
    return size, what, "a rule that merges each coordinate by itself, such as median"


def counted_groups(rows: int) -> str:
    """So many groups, in words."""
    return "1 group" if rows == 1 else f"{rows} groups"


def after_merge(enabled: Sequence[Enabled]) -> list[Enabled]:
    """The wrappers that a sharded round calls with what its shards merge to, in file order.

    They are the outermost, and look at nothing else.
    """
    wrappers = having(enabled, "wrap_aggregate")
    return list(takewhile(lambda plugin: plugin.claims.reads is Reads.NOTHING, wrappers))


def unsharded(enabled: Sequence[Enabled], swarm: SwarmConfig) -> Iterator[Problem]:
    """Every reason why ``swarm.aggregation = "sharded"`` cannot be kept with these plugins."""
    yield from _unsampled(enabled, swarm)
    if swarm.shard_committee:
        yield from _drawn(swarm)
    if swarm.aggregation != "sharded":
        return
    if not having(enabled, "authenticate"):
        what = 'is "sharded", and no enabled plugin signs what members of committees say'
        fix = f'{enable("authenticate")}; or set it to "everyone"'
        yield Problem("QRES-E319", "swarm.aggregation", what, fix)
    hider = hiding(enabled).by
    for plugin in enabled:
        why = _needs_whole(plugin, hider)
        if why is not None:
            yield _refused(plugin, why, f"remove [plugins.{plugin.name}]")
        elif hider is None:  # else every node has all the rows that are left
            yield from _unmerged(plugin, enabled)


def _refused(plugin: Enabled, why: str, other: str) -> Problem:
    where = f"plugins.{plugin.name}"
    fix = f'swarm.aggregation = "everyone", or {other}'
    return Problem("QRES-E319", where, f"{why}, {_SAID}", fix)


def _needs_whole(plugin: Enabled, hider: Enabled | None) -> str | None:
    """Reason why a plugin needs updates that no node of a sharded round has."""
    hooks = plugin.hooks
    if plugin is hider and "reveal_shard" not in hooks:
        return "hides updates, and cannot open sums shard by shard"
    if plugin is not hider and "reveal_shard" in hooks:
        return "opens shards, and does not hide updates"
    if plugin.claims.reads is not Reads.NOTHING and plugin is not hider:
        looking = [why for hook, why in _LOOKING.items() if hook in hooks]
        if looking:
            return looking[0]
    return next((why for hook, why in _BEFORE_THE_VOTE.items() if hook in hooks), None)


def _unmerged(plugin: Enabled, enabled: Sequence[Enabled]) -> Iterator[Problem]:
    """Reasons why a rule or a wrapper cannot merge shards."""
    if {"aggregate", "wrap_aggregate"}.isdisjoint(plugin.hooks) or plugin in after_merge(enabled):
        return
    if _in_shards(plugin):
        return
    what, stated = "does not claim to read coordinates or products alone", f"; {_STATED}"
    if "aggregate" in plugin.hooks:
        other = "use a rule that merges each coordinate by itself, such as median"
    elif plugin.claims.reads is not Reads.NOTHING:
        other = f"remove [plugins.{plugin.name}]"
    else:
        inside = having(enabled, "wrap_aggregate")[len(after_merge(enabled))]
        what = f"works on what is merged, and plugins.{inside.name} around it on shards"
        other, stated = (
            f"put [plugins.{plugin.name}] before [plugins.{inside.name}] in the file",
            "",
        )
    if switches := leave_out(plugin, _in_shards):
        other, stated = either([*switches, other]), "; set options alike on every node"
    yield _refused(plugin, what, other + stated)


def _in_shards(plugin: Enabled) -> bool:
    """True if ranges of coordinates are enough for a rule or wrapper, maybe with products."""
    return plugin.claims.reads.in_shards


def _drawn(swarm: SwarmConfig) -> Iterator[Problem]:
    """Reasons why committees cannot have the size that they are given."""
    where, size, n, f = "swarm.shard_committee", swarm.shard_committee, swarm.nodes, swarm.byzantine
    bound, least = 2 * f + 1, least_size(n, f)
    leave = "leave it out"
    if swarm.aggregation != "sharded":
        what = 'is the size of committees, and swarm.aggregation is not "sharded"'
        yield Problem("QRES-E319", where, what, f'swarm.aggregation = "sharded", or {leave}')
    elif size >= bound:
        what = f"is {size}, and committees of 2 f + 1 = {bound} are safe whoever the liars are"
        fix = leave if least == bound else f"{where} = {least}, or {leave}"
        yield Problem("QRES-E319", where, what, fix)
    elif size % 2 == 0:
        what = f"is {size}: a committee decides by more than half, so its size is odd"
        yield Problem("QRES-E319", where, what, f"{where} = {max(size + 1, least)}, or {leave}")
    elif not is_safe(n, f, size):
        bits = failure_bits(n, f, size)
        what = (
            f"is {size}: of {n} members with {f} liars some committee of a height has a liars' "
            f"majority with a probability of up to 2**-{bits:.1f}, and 2**-"
            f"{FAILURE_BITS + GRINDING_BITS} is allowed"
        )
        fix = leave if least == bound else f"{where} = {least} or more, or {leave}"
        yield Problem("QRES-E319", where, what, fix)


def _unsampled(enabled: Sequence[Enabled], swarm: SwarmConfig) -> Iterator[Problem]:
    """Plugins that need the same members in every round."""
    if not swarm.participants:
        return
    yield from _seldom(swarm)
    for plugin in enabled:
        if "reveal" in plugin.hooks and plugin.claims.hides.leaves is not Visibility.INDIVIDUAL:
            where = f"plugins.{plugin.name}"
            what = "hides updates among all members, and swarm.participants draws some to train"
            yield Problem("QRES-E319", where, what, f"swarm.participants = 0, or remove [{where}]")


def _seldom(swarm: SwarmConfig) -> Iterator[Problem]:
    """Samples that hardly ever hold a quorum of members that send something."""
    n, f, quorum, drawn = swarm.nodes, swarm.byzantine, swarm.quorum, swarm.participants
    if too_few(n, f, n, quorum) or too_few(n, f, drawn, quorum) <= _SELDOM:
        return  # where too few are left of all members, samples are not to blame

    def seldom(size: int, least: int) -> bool:
        return too_few(n, f, size, least) > _SELDOM

    larger = bisect_left(range(drawn, n), x=True, key=lambda size: not seldom(size, quorum))
    lower = bisect_left(range(1, quorum), x=True, key=lambda least: seldom(drawn, least))
    what = (
        f"is {drawn}, and the quorum {quorum}: with {f} of {n} members silent a sample holds fewer "
        f"that send something with a probability of {float(too_few(n, f, drawn, quorum)):.3g}, and "
        f"such a round makes no model"
    )
    fix = f"swarm.participants >= {drawn + larger}, or swarm.quorum <= {lower}"
    yield Problem("QRES-E319", "swarm.participants", what, fix)


def sampling_notice(swarm: SwarmConfig) -> str:
    """Notice for a swarm in which some members train."""
    spare = swarm.participants - swarm.quorum
    chance = too_few(swarm.nodes, swarm.byzantine, swarm.participants, swarm.quorum)
    lost = f"which {counted(swarm.byzantine)} cause in a share of {float(chance):.3g} of all rounds"
    return (
        f"swarm.participants: {swarm.participants} of {swarm.nodes} nodes are drawn to train in "
        f"each round, and all vote; up to {min(swarm.byzantine, swarm.participants)} of them may "
        f"lie, as the rule must withstand, and a round in which more than {spare} of them send "
        f"nothing makes no model, {lost}; no privacy plugin counts the draw as amplification"
    )


def committee_notice(swarm: SwarmConfig, hider: str = "") -> str:
    """Notice on the committees of sharded rounds, and on their assumption.

    ``hider``: the plugin that hides updates; empty for none.
    """
    seen = f"see it of all updates{f' as plugins.{hider} hides them' if hider else ''}"
    n, f, size = swarm.nodes, swarm.byzantine, swarm.shard_committee
    if not size or not is_safe(n, f, size):
        size = min(n, 2 * f + 1)
        more = min(n, n - max(swarm.quorum, (n + f) // 2 + 1) + f + 1) - size
        who = f"{size} nodes" + (f", or {more} more if these are silent," if more > 0 else "")
        return (
            f"swarm.aggregation: {who} merge each range of coordinates, and {seen}; their word"
            f" holds while at most {f} of all nodes lie"
        )
    first = serving_first(n, f, size)
    return (
        f"swarm.shard_committee: {size} nodes, drawn from the head, merge each range of "
        f"coordinates, {first} of them first, and {seen}; while at most {f} of {n} nodes lie, and "
        f"did so before the head was known, liars are the majority of some committee of a height, "
        f"or all that serve first in it, with a probability of at most "
        f"2**-{failure_bits(n, f, size, first) - GRINDING_BITS:.1f}, where proposers try "
        f"2**{GRINDING_BITS} heads"
    )
