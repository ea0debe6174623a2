"""Limits of a swarm before it starts: is there a vector that can be proved about?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from qres_core import Surroundings
from qres_core.errors import Problem
from qres_zk.statement import MAX_BOUND

DEVIATIONS: Final = 6
"""Noise is longer than its mean by more than so many deviations with probability 2**-26."""


def misfits(
    around: Surroundings, bound: float, policy: int, honest: int, *, clip: bool, centred: bool
) -> Iterator[Problem]:
    """Everything about the swarm and the plugins beside that would keep honest nodes out.

    ``bound``: the option, in the model's units; ``clip``: whether longer updates are clipped;
    ``centred``: whether the bound is around another vector than zero. Yields QRES-E303 for the
    order of the plugins, QRES-E313 for the grid and for a bound that is too tight, QRES-E314 for
    noise that would be clipped.
    """
    if not 1 <= honest <= MAX_BOUND:
        what = (
            f"{bound:g} is {policy} steps of the grid at swarm.scale = {around.scale}, honest "
            f"updates have {honest}, and 1 to {MAX_BOUND} can be proved"
        )
        yield Problem(
            "QRES-E313", "plugins.zk.bound", what, "another plugins.zk.bound, or swarm.scale"
        )
        return
    for name in around.after:
        what = f"commits to the update, and plugins.{name} changes it afterwards"
        fix = f"put [plugins.zk] after [plugins.{name}] in the file"
        yield Problem("QRES-E303", "plugins.zk", what, fix)
    extent = around.extent
    if clip and extent.noise:
        what = f"clip = true would take away noise that plugins.{extent.noised_by} counts on"
        yield Problem(
            "QRES-E314",
            "plugins.zk.clip",
            what,
            "plugins.zk.clip = false, and a plugins.zk.bound with room",
        )
    if clip or centred or not math.isfinite(extent.length):
        return
    # Without the dimension, noise in one coordinate is all that is known of it.
    spread = extent.noise * (math.sqrt(around.dimension or 1) + DEVIATIONS * bool(around.dimension))
    length, most = extent.length + spread, bound * honest / policy
    if length > most:
        by = " and ".join(dict.fromkeys(filter(None, (extent.clipped_by, extent.noised_by))))
        what = (
            f"honest updates may be {most:.6g} long, and after {by} they can be {length:.6g}: "
            "such nodes would contribute nothing"
        )
        least = length * policy / honest
        fix = f"plugins.zk.bound >= {least:.6g}, or a smaller clip or less noise of {by}"
        yield Problem("QRES-E313", "plugins.zk.bound", what, fix)
