"""What can be told of a swarm before it starts: do its numbers allow the mechanism?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from qres_core import CompatibilityError, Extent, Problem, Surroundings, ValueRefusedError, fixed
from qres_dp.modes import Mechanism, Mode

Plan = Callable[[Surroundings], Mechanism]
"""Makes the mechanism of the configured options, or raises QRES-E313 or QRES-E314."""


def misfits(
    around: Surroundings, plan: Plan, *, mode: Mode, honest: int, delta: float
) -> Iterator[Problem]:
    """Everything about the swarm and the plugins beside that would stop noise from being added.

    Args:
        around: the configuration around the plugin.
        plan: makes the mechanism.
        mode: who adds the noise.
        honest: the option.
        delta: the option.

    Yields:
        QRES-E313 and QRES-E314, each with both sides and the remedy.
    """
    liars = max(1, around.byzantine)
    if delta * around.nodes >= 1.0:
        what = (
            f"delta {delta:g} is not below 1 / {around.nodes}, swarm.nodes: it would allow giving "
            "a node away"
        )
        yield Problem("QRES-E314", "plugins.dp.delta", what, f"delta < {1 / around.nodes:.3g}")
    if mode is Mode.DISTRIBUTED and around.hidden_by and honest > around.members - liars:
        what = (
            f"noise is counted on {honest} shares, and plugins.{around.hidden_by} may reveal sums "
            f"of {around.members} nodes, of which {liars} may know their own"
        )
        fix = f"honest <= {max(0, around.members - liars)}, or larger sums: a larger swarm.quorum, "
        fix += f"in groups a larger least size of plugins.{around.hidden_by}"
        yield Problem("QRES-E314", "plugins.dp.honest", what, fix)
    if around.companions and mode is not Mode.CENTRAL:
        names = [f"plugins.{name}" for name in around.companions]
        what = f"what {', '.join(names)} puts beside the update would leave without noise"
        fix = f"put [plugins.dp] before [{names[0]}] in the file"
        yield Problem("QRES-E314", "plugins.dp", what, fix)
    try:
        plan(around)
    except (CompatibilityError, ValueRefusedError) as error:
        yield from error.problems


def extent_after(around: Surroundings, plan: Plan, *, mode: Mode, clip: float) -> Extent:
    """How large an update is once it is clipped and has its noise.

    Args:
        around: the configuration around the plugin.
        plan: makes the mechanism.
        mode: who adds the noise.
        clip: the option.
    """
    try:
        mechanism = plan(around)
    except (CompatibilityError, ValueRefusedError):  # `misfits` says so
        return Extent(length=clip)
    if mode is Mode.CENTRAL:  # noise comes to the sum, later
        return Extent(length=clip)
    step = 2.0 ** (around.scale - fixed.FRACTION_BITS)
    return Extent(length=clip, noise=math.sqrt(mechanism.share) * step)
