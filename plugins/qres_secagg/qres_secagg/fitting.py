"""What can be told of a swarm before it starts: does it leave secure aggregation room and nodes?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from qres_core import Problem, Surroundings
from qres_secagg.parameters import Parameters

DEVIATIONS: Final = 6
"""Standard deviations of the noise in a sum that the option ``noise_room`` makes room for."""
PATIENCES: Final = 3
"""Patiences that must fit into the deadline: for keys, for shares, and for the list to arrive."""
_UNIT: Final = 2**16


def misfits(
    around: Surroundings,
    parameters: Parameters,
    *,
    bound: float,
    weight: int,
    public: bool,
    patience: float,
) -> Iterator[Problem]:
    """Everything about the swarm that would stop sums from being opened, or make them wrong.

    ``bound``: the option, in units of ``2**16`` steps of the grid; ``public``: whether weights are
    public; ``patience``: seconds. Yields QRES-E304, QRES-E310, QRES-E313 and QRES-E105, each with
    both sides and the remedy.
    """
    if parameters.min_survivors > around.quorum:
        what = (
            f"opens no sum of fewer than {parameters.min_survivors} inputs, but a round may "
            f"close with {around.quorum} (swarm.quorum)"
        )
        fix = f"swarm.quorum >= {parameters.min_survivors}, or a smaller min_size or corrupt"
        yield Problem("QRES-E304", "plugins.secagg.min_size", what, fix)
    yield from _weights(around, weight, public=public)
    yield from _room(around, parameters, bound, weight)
    if PATIENCES * patience > around.deadline:
        what = (
            f"{PATIENCES} times {patience:g} s of patience do not fit into swarm.deadline = "
            f"{around.deadline:g} s"
        )
        fix = f"patience <= {around.deadline / PATIENCES:g}, or a longer swarm.deadline"
        yield Problem("QRES-E105", "plugins.secagg.patience", what, fix)


def _weights(around: Surroundings, weight: int, *, public: bool) -> Iterator[Problem]:
    cap = around.weight_cap
    if not public and cap > 1:
        what = f'weights = "equal" counts every update once, and swarm.weight_cap is {cap}'
        fix = f'weights = "public" and max_weight = {cap}, or swarm.weight_cap = 1'
        yield Problem("QRES-E310", "plugins.secagg.weights", what, fix)
    if weight > cap:
        what = f"{weight} is above swarm.weight_cap = {cap}: the others would divide by less"
        yield Problem("QRES-E310", "plugins.secagg.max_weight", what, f"max_weight <= {cap}")


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
        fix = f"bound >= {extent.length / step / _UNIT:.6g}, a shorter clip or a larger swarm.scale"
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
            fix = "a smaller bound here or of the proof, a larger swarm.scale, or ring = 64"
            yield Problem("QRES-E313", "plugins.secagg.ring", what, fix)
    # Each of the summands may be weighted; the noise then is, too.
    spread = DEVIATIONS * extent.noise / step * math.sqrt(parameters.summands)
    if spread > parameters.noise:
        what = (
            f"noise of plugins.{extent.noised_by} makes {DEVIATIONS} deviations of a sum of "
            f"{parameters.summands} inputs {spread / _UNIT:.6g}, and there is room for "
            f"{parameters.noise / _UNIT:.6g}"
        )
        fix = f"noise_room >= {spread / _UNIT * 1.001:.6g}, smaller groups or a larger swarm.scale"
        yield Problem("QRES-E313", "plugins.secagg.noise_room", what, fix)
