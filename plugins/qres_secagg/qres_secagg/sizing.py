"""From the plugin's options and the size of a swarm to the numbers of a session."""

from __future__ import annotations

import math
from typing import Final, Protocol

from qres_core import MAX_WEIGHT
from qres_core.claims import most_colluders
from qres_core.errors import CompatibilityError
from qres_secagg.chances import needed_inputs
from qres_secagg.levels import group_sizes
from qres_secagg.parameters import Parameters, choose
from qres_secagg.ring import MAX_WIDE_DIMENSION

GROUP_LEAST: Final = 8
"""Fewest inputs of a group's sum, unless ``min_size`` says otherwise."""
_UNIT: Final = 2**16


class SizeOptions(Protocol):
    """The options that sizes depend on, see :class:`qres_secagg.Secagg`."""

    group_size: int
    min_size: int
    corrupt: float
    dropout: float
    ring: int
    prg: str
    bound: float
    noise_room: float
    weights: str
    max_weight: int
    bisect: bool


def group_least(options: SizeOptions) -> int:
    """Fewest inputs with which the sum of a group is opened."""
    return options.min_size or GROUP_LEAST


def raw_bound(options: SizeOptions) -> int:
    """Largest coordinate of an update before its weight, in raw units of the grid."""
    return int(options.bound * _UNIT)


def colluders(options: SizeOptions, n: int, byzantine: int) -> int:
    """Most nodes that may collude against privacy: the swarm's liars, or more."""
    return most_colluders(n, byzantine, float(options.corrupt))


def dropouts(options: SizeOptions, n: int) -> int:
    """Most nodes that are planned to fail in a round."""
    return max(1, int(options.dropout * n))


def _larger_sums(options: SizeOptions, n: int, byzantine: int, least: int, needed: int) -> str:
    fix = f"plugins.secagg.min_size >= {needed}"
    if 0 < options.group_size < needed:
        fix += f" and plugins.secagg.group_size >= {needed}"
    if needed > n:
        fix += f", in a swarm of {needed} nodes or more"
    if needed_inputs(byzantine) <= least:
        share = math.floor(1e4 * (least - 2) / n) / 1e4
        fix += f"; or fewer that may collude: plugins.secagg.corrupt <= {share:g}"
    return fix


def sized(options: SizeOptions, n: int, byzantine: int, dimension: int) -> Parameters:
    """The numbers of a session; the same on every node of the swarm.

    Raises CompatibilityError: QRES-E313 where a sum may leave the ring; QRES-E314 where no degree
    and threshold are safe, the swarm is smaller than its groups, or a sum may hold fewer than two
    inputs of honest nodes. Raises ConfigError: QRES-E105, a number out of range.
    """
    corrupt = colluders(options, n, byzantine)
    dropped = dropouts(options, n)
    needed = needed_inputs(corrupt)
    grouped = bool(options.group_size) or options.bisect
    least = group_least(options) if grouped else options.min_size or needed
    if least < needed:
        raise CompatibilityError.of(
            "QRES-E314",
            "plugins.secagg.min_size",
            f"of {n} nodes {corrupt} may collude, and each knows its own input: a sum of {least} "
            "may hold fewer than two of others",
            _larger_sums(options, n, byzantine, least, needed),
        )
    if n < max(least, options.group_size):
        what = f"{n} nodes make no group of {max(least, options.group_size)}"
        fix = "smaller plugins.secagg.group_size and min_size, or more nodes"
        raise CompatibilityError.of("QRES-E314", "plugins.secagg.group_size", what, fix)
    plan = choose(n, corrupt, dropped)
    if n * options.max_weight > MAX_WEIGHT:
        what = f"{n} nodes of weight {options.max_weight}: more than 2**30 in all"
        fix = f"plugins.secagg.max_weight <= {MAX_WEIGHT // n}"
        raise CompatibilityError.of("QRES-E313", "plugins.secagg.max_weight", what, fix)
    if options.ring == 64 and dimension > MAX_WIDE_DIMENSION:
        what = f"{dimension} coordinates in the ring of 64 bits, at most {MAX_WIDE_DIMENSION}"
        fix = "plugins.secagg.ring = 32"
        raise CompatibilityError.of("QRES-E313", "plugins.secagg.ring", what, fix)
    return Parameters(
        dimension=dimension,
        k=plan.k,
        t=plan.t,
        acks=plan.acks,
        corrupt=corrupt,
        min_survivors=least,
        bound=raw_bound(options) * options.max_weight,
        summands=max(group_sizes(n, options.group_size)),
        noise=int(options.noise_room * _UNIT),
        group_size=options.group_size,
        ring_bits=options.ring,
        prg=options.prg,
        extra=f"{options.weights} {options.max_weight} {int(options.bisect)}".encode(),
    )
