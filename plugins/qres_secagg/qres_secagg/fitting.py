"""Limits of a swarm before it starts: does it leave secure aggregation room and nodes?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final, Protocol

from qres_core import Surroundings
from qres_core.errors import Problem
from qres_secagg.chances import (
    LIKELY,
    enough_rows,
    grouping,
    least_nodes,
    least_quorum,
    needed_inputs,
)
from qres_secagg.graph import split
from qres_secagg.levels import finest, group_sizes
from qres_secagg.parameters import HONEST_LEAST, Parameters
from qres_secagg.sizing import SizeOptions, colluders, dropouts, group_least

DEVIATIONS: Final = 6
"""Standard deviations of the noise in a sum that the option ``noise_room`` makes room for."""
PATIENCES: Final = 4
"""Patiences that must fit into the deadline: for keys, for shares, for the list to arrive, and for
a leader that is silent."""
_UNIT: Final = 2**16


class Options(SizeOptions, Protocol):
    """The options that are looked at, see :class:`qres_secagg.Secagg`."""

    patience: float


def misfits(around: Surroundings, parameters: Parameters, options: Options) -> Iterator[Problem]:
    """Everything about the swarm that would stop sums from being opened, or make them wrong.

    Yields QRES-E304, QRES-E310, QRES-E313 and QRES-E105, each with both sides and the remedy.
    """
    bound, weight, patience = options.bound, options.max_weight, options.patience
    if parameters.min_survivors > around.quorum:
        what = (
            f"opens no sum of fewer than {parameters.min_survivors} inputs, but a round may "
            f"close with {around.quorum} (swarm.quorum)"
        )
        fix = (
            f"swarm.quorum >= {parameters.min_survivors}, or a smaller plugins.secagg.min_size or "
            "plugins.secagg.corrupt"
        )
        yield Problem("QRES-E304", "plugins.secagg.min_size", what, fix)
    else:
        yield from _quorum(around, parameters)
    yield from _rows(around, parameters, options)
    yield from _weights(around, weight, public=options.weights == "public")
    yield from _room(around, parameters, bound, weight)
    if PATIENCES * patience > around.deadline:
        what = (
            f"{PATIENCES} times {patience:g} s of patience do not fit into swarm.deadline = "
            f"{around.deadline:g} s"
        )
        longest = around.deadline / PATIENCES
        fix = f"plugins.secagg.patience <= {longest:g}, or a longer swarm.deadline"
        yield Problem("QRES-E105", "plugins.secagg.patience", what, fix)


def _quorum(around: Surroundings, parameters: Parameters) -> Iterator[Problem]:
    """A round that closes with so few that nobody can open it."""
    n, quorum = around.nodes, around.quorum
    stating = parameters.quorum(n)
    if quorum < stating:
        what = (
            f"opens a sum when {stating} of {n} nodes stated its set, {parameters.corrupt} of whom "
            f"may be corrupt, but a round may close with {quorum} (swarm.quorum)"
        )
        fix = f"swarm.quorum >= {stating}, or a smaller plugins.secagg.corrupt"
        yield Problem("QRES-E304", "plugins.secagg.corrupt", what, fix)
    elif quorum < (least := least_quorum(n, parameters.k, parameters.t)):
        what = (
            f"opens sums of {n} nodes if at least {least} are there, who hold shares of all, but a "
            f"round may close with {quorum} (swarm.quorum)"
        )
        fix = f"swarm.quorum >= {least}, or plugins.secagg.dropout = {1 - quorum / n:.3g}"
        yield Problem("QRES-E304", "plugins.secagg.dropout", what, fix)


def spoiling(around: Surroundings, options: Options) -> Iterator[str]:
    """Notice if liars that spoil a sum each could leave no sum to merge to those that check sums.

    If a sum is left, the checker leaves the others out, and the next model has other groups.
    """
    f, n = around.byzantine, around.nodes
    if "verify" not in around.hooks or not f or _finest_sums(options, n) > f:
        return
    fixes: list[str] = []
    if not options.bisect and _finest_sums(options, n, bisect=True) > f:
        fixes.append("bisect = true")
    least, most = max(group_least(options), needed_inputs(colluders(options, n, f))), n // (f + 1)
    if least <= most:
        fixes.append(f"group_size in {least}..{most}")
    sums = "the sum of all" if _finest_sums(options, n) == 1 else "the sums of all groups"
    yield (
        f"{f} liars that mask other vectors than they proved spoil {sums}: they could keep the "
        f"swarm from making models; {' or '.join(fixes) or 'more nodes'} would do"
    )


def keeping(around: Surroundings, parameters: Parameters, options: Options) -> Iterator[str]:
    """Notice if nodes that fail after the list, as many as planned for, may leave a sum to a liar.

    The liar deals to just so many that it is listed, and the liars open nothing.
    """
    n, corrupt, acks = around.nodes, parameters.corrupt, parameters.acks
    planned = dropouts(options, n)
    complete = parameters.k >= n - 1
    spare = acks - parameters.t - corrupt if complete else 0
    if not corrupt or spare >= planned:
        return
    # An honest leader lists nobody of whom more than so many lack shares.
    led = complete and n - planned - 2 * corrupt >= parameters.t
    enough = f"{spare + 1} of {n} are enough" if complete else "a few that hold shares of the liar"
    fix = "fewer that may be corrupt"
    if complete and spare:
        fix += f", or dropout <= {math.floor(1e4 * spare / n) / 1e4:g}"
    yield (
        f"{'in a round that a liar leads, ' if led else ''}a liar may keep the sum for itself, and "
        f"the round fails, if nodes fail after their inputs: {enough}, and dropout counts with "
        f"{planned}. This would do: {fix}"
    )


def _finest_sums(options: Options, nodes: int, *, bisect: bool = False) -> int:
    """The sums of a round in which groups are as small as they get."""
    size, least, level = options.group_size, group_least(options), 0
    if bisect or options.bisect:
        level = finest(size=size, least=least, nodes=nodes)
    return len(split(nodes, size, b"", level=level, least=least))


def stalling(around: Surroundings, parameters: Parameters) -> Iterator[str]:
    """Notice if one node that stays away after a void height keeps all further rounds from closing.

    Whoever leaves a set on record must do so with others: see :mod:`qres_secagg.permission`.
    """
    n, quorum = around.nodes, around.quorum
    part, least = parameters.corrupt + HONEST_LEAST, parameters.min_survivors
    needed = max(parameters.quorum(n), least_quorum(n, parameters.k, parameters.t), least)
    if parameters.group_size == 0:
        gone = part if n - part >= needed else n
    else:
        sizes = group_sizes(n, parameters.group_size)
        enough = part + max(part, least)
        # Or so many that their group is not opened.
        gone = max(part if size >= enough else size - least + 1 for size in set(sizes))
        if min(sizes) < enough and len(sizes) == around.rows:
            lesser = min(sizes) - part
            fewer = f"min_size = {lesser}, " if lesser >= part else ""
            room = ""
            if n - part < quorum:
                able = n - part >= needed
                room = f", with swarm.quorum <= {n - part}" if able else ", with more nodes"
            yield (
                f"after a height without a model, a node that stays away stops the swarm until it "
                f"is back: the sum of its group is not opened without it, and the rule needs all "
                f"{around.rows} sums. This would do{room}: {fewer}a rule that needs fewer, or "
                f"{enough} nodes in a group"
            )
            return  # without one of these no quorum would help
    if n - gone >= quorum:
        return
    fix = f"swarm.quorum <= {n - gone}"
    if n - gone < needed:
        fix = f"{3 * parameters.corrupt + 5} nodes or more"
        if parameters.group_size:
            fix = "more nodes, or a smaller plugins.secagg.group_size"
    yield (
        f"after a height without a model, a node that stays away stops the swarm until it is back: "
        f"{gone} nodes must leave the sums at once, and swarm.quorum = {quorum} leaves room for "
        f"{n - quorum}. This would do: {fix}"
    )


def _rows(around: Surroundings, parameters: Parameters, options: SizeOptions) -> Iterator[Problem]:
    """Groups of which too many stay closed when some nodes are away."""
    n, size, away = around.nodes, parameters.group_size, options.dropout
    sizes, least = group_sizes(n, size), parameters.min_survivors
    if not size or around.rows > len(sizes):
        return  # one sum, or too few groups even if nobody is away: the solver says so
    chance = enough_rows(sizes, least, around.rows, away)
    if chance >= LIKELY:
        return
    what = (
        f"{len(sizes)} groups of {min(sizes)} or more, each opened with {least} inputs or more: if "
        f"every node is away with probability {away:g}, {around.rows} of them, which the rule "
        f"needs, are open with probability {chance:.2g}, and {LIKELY:g} is the least"
    )
    yield Problem("QRES-E304", "plugins.secagg.min_size", what, _enough(around, least, options))


def _enough(around: Surroundings, least: int, options: SizeOptions) -> str:
    n, liars, rows, away = around.nodes, around.byzantine, around.rows, options.dropout
    corrupt, sizes = colluders(options, n, liars), group_sizes(n, options.group_size)

    def likely(inputs: int, gone: float) -> bool:
        return enough_rows(sizes, inputs, rows, gone) >= LIKELY

    lower = range(least - 1, needed_inputs(corrupt) - 1, -1)
    lesser = next((inputs for inputs in lower if likely(inputs, away)), None)
    other = grouping(n, around.quorum, corrupt, rows, away)
    fixes = [] if lesser is None else [f"min_size = {lesser}"]
    if other is not None and other.least > (lesser or 0):
        fixes.append(f"group_size = {other.size} and min_size = {other.least}")
    percent = next(p for p in range(int(100 * away), -1, -1) if likely(least, p / 100))
    fixes.append(f"dropout = {percent / 100:g}")
    if lesser is None and other is None:
        enough = least_nodes(liars, options.corrupt, rows, away)
        fixes.append("a rule that needs fewer groups")
        fixes += [] if enough is None else [f"a swarm of {enough} nodes"]
    return "; or ".join(fixes)


def _weights(around: Surroundings, weight: int, *, public: bool) -> Iterator[Problem]:
    cap = around.weight_cap
    if not public and cap > 1:
        what = f'weights = "equal" counts every update once, and swarm.weight_cap is {cap}'
        fix = (
            f'plugins.secagg.weights = "public" and plugins.secagg.max_weight = {cap}, or '
            "swarm.weight_cap = 1"
        )
        yield Problem("QRES-E310", "plugins.secagg.weights", what, fix)
    if weight > cap:
        what = f"{weight} is above swarm.weight_cap = {cap}: the others would divide by less"
        yield Problem(
            "QRES-E310", "plugins.secagg.max_weight", what, f"plugins.secagg.max_weight <= {cap}"
        )


def _room(
    around: Surroundings, parameters: Parameters, bound: float, weight: int
) -> Iterator[Problem]:
    extent, step = around.extent, 2.0 ** (around.scale - 16)
    if math.isfinite(extent.length) and extent.length > bound * _UNIT * step:
        what = (
            f"{bound:g} is {bound * _UNIT * step:g} in the model's units at swarm.scale = "
            f"{around.scale}, and plugins.{extent.clipped_by} lets coordinates be as large as "
            f"{extent.length:g}"
        )
        least = extent.length / step / _UNIT
        fix = (
            f"plugins.secagg.bound >= {least:.6g}, a smaller clip in "
            f"[plugins.{extent.clipped_by}], or a larger swarm.scale"
        )
        yield Problem("QRES-E313", "plugins.secagg.bound", what, fix)
    reach, half = extent.accepted / step, 1 << (parameters.ring_bits - 1)
    if math.isfinite(reach) and reach * weight > parameters.bound:
        more = around.byzantine * (reach * weight - parameters.bound)
        need = parameters.summands * parameters.bound + parameters.noise + more
        if need >= half:
            what = (
                f"{around.byzantine} liars with updates as long as {extent.accepted:g}, which are "
                f"accepted, can make a sum of {need:.6g}, and the ring of {parameters.ring_bits} "
                f"bits holds less than {half}"
            )
            fix = (
                "plugins.secagg.ring = 64, a smaller plugins.secagg.bound or bound of the plugin "
                "that proves, or a larger swarm.scale"
            )
            yield Problem("QRES-E313", "plugins.secagg.ring", what, fix)
    # Each of the summands may be weighted; the noise then is, too.
    spread = DEVIATIONS * extent.noise / step * math.sqrt(parameters.summands)
    if spread > parameters.noise:
        what = (
            f"noise of plugins.{extent.noised_by} makes {DEVIATIONS} deviations of a sum of "
            f"{parameters.summands} inputs {spread / _UNIT:.6g}, and there is room for "
            f"{parameters.noise / _UNIT:.6g}"
        )
        fix = (
            f"plugins.secagg.noise_room >= {spread / _UNIT * 1.001:.6g}, a smaller "
            "plugins.secagg.group_size, or a larger swarm.scale"
        )
        yield Problem("QRES-E313", "plugins.secagg.noise_room", what, fix)
