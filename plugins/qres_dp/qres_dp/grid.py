"""Does the fixed-point grid hold the clipped updates and their noise?

Too coarse a grid rounds clipped updates to nothing and makes noise of a few steps, for which the
accounting does not hold; too narrow a one saturates. Both are refused with the numbers, and with
the scale that would do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Final

import attrs

from qres_core import fixed
from qres_core.errors import CompatibilityError, Problem
from qres_dp.discrete_gaussian import LARGEST_DEVIATION
from qres_dp.modes import Mechanism, Mode, steps

LEAST_RMS: Final = 2
"""Least root mean square of a coordinate of a vector as long as the bound, in steps: below it
rounding toward zero takes much of the update away."""
LEAST_SHARE: Final = 8
"""Least deviation of noise drawn at once, in steps: sums of narrower shares are not close enough to
a discrete Gaussian."""
HEADROOM: Final = 12
"""Deviations of noise that must fit the grid beside clipped updates.

A coordinate is farther out with probability 2**-107: any of 2**31 coordinates, in any of 10**6
rounds, with less than 2**-50. Secure aggregation has a room of its own for the noise of a sum.
"""


def _root_up(square: Fraction) -> int:
    return math.isqrt(math.ceil(square) - 1) + 1 if square > 0 else 0


def least_bound(dimension: int) -> int:
    """The least clipping bound for so many coordinates, in steps."""
    return _root_up(Fraction(LEAST_RMS * LEAST_RMS * dimension))


def together(mechanism: Mechanism, nodes: int) -> int:
    """Number of updates, each with its noise, whose sum one number of the grid has to hold."""
    return nodes if mechanism.mode is Mode.DISTRIBUTED else 1


def room(mechanism: Mechanism, nodes: int) -> int:
    """Steps of the grid that clipped updates and the noise beside them take, at most.

    ``nodes``: how many updates a sum may have.
    """
    summed = together(mechanism, nodes)
    return summed * mechanism.longest + HEADROOM * _root_up(summed * mechanism.share)


def problems(mechanism: Mechanism, *, dimension: int, nodes: int) -> Iterator[Problem]:
    """Everything that makes the grid unfit for a mechanism.

    ``nodes``: how many updates a sum may have. Yields QRES-E313 with the numbers.
    """
    bound, share = mechanism.bound, mechanism.share
    where = "plugins.dp.clip"
    if bound < least_bound(dimension):
        rms = bound / math.sqrt(dimension)
        what = (
            f"the bound is {bound} in steps of the grid: {rms:.3g} for each of {dimension} "
            f"coordinates, and {LEAST_RMS} are needed"
        )
        yield Problem("QRES-E313", where, what)
    if share < LEAST_SHARE * LEAST_SHARE:
        what = (
            f"noise drawn at once has a deviation of {math.sqrt(share):.3g} steps of the grid, "
            f"and {LEAST_SHARE} are needed"
        )
        yield Problem("QRES-E313", where, what)
    if share > LARGEST_DEVIATION**2:
        what = (
            f"noise drawn at once has a deviation of {math.sqrt(share):.3g} steps of the grid, "
            f"and {LARGEST_DEVIATION} is the most that is drawn"
        )
        yield Problem("QRES-E313", where, what)
    needed = room(mechanism, nodes)
    if needed > fixed.LIMIT:
        what = (
            f"{together(mechanism, nodes) * mechanism.units} times the bound and {HEADROOM} "
            f"deviations of noise are {needed} steps of the grid, and {fixed.LIMIT} fit"
        )
        yield Problem("QRES-E313", where, what)


def fitting_scales(
    mechanism: Mechanism, clip: float, *, dimension: int, nodes: int
) -> tuple[int, int] | None:
    """The least and the greatest ``swarm.scale`` at which the mechanism has no problems, if any.

    ``clip``: the bound in real units; ``nodes``: how many updates a sum may have.
    """
    fitting: list[int] = []
    for scale in range(-fixed.MAX_SCALE, fixed.MAX_SCALE + 1):
        bound = steps(clip, scale)
        if bound < 1:
            break
        other = attrs.evolve(mechanism, bound=bound)
        if not any(problems(other, dimension=dimension, nodes=nodes)):
            fitting.append(scale)
    return (fitting[0], fitting[-1]) if fitting else None


def check(mechanism: Mechanism, clip: float, *, dimension: int, nodes: int) -> None:
    """Refuse a mechanism the grid does not hold.

    Args:
        mechanism: clipping and noise, in steps.
        clip: the bound in real units, to look for a scale that would do.
        dimension: coordinates of an update.
        nodes: how many updates a sum may have.

    Raises:
        CompatibilityError: QRES-E313, every reason with its numbers and what to do.

    Complexity: O(1).
    """
    found = list(problems(mechanism, dimension=dimension, nodes=nodes))
    if not found:
        return
    scales = fitting_scales(mechanism, clip, dimension=dimension, nodes=nodes)
    fix = "no swarm.scale does: fewer coordinates or nodes, or a smaller noise multiplier"
    if scales is not None:
        fix = f"swarm.scale in {scales[0]}..{scales[1]}"
    raise CompatibilityError(attrs.evolve(problem, fix=fix) for problem in found)
