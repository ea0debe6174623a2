"""The steps of the optimisers: float64 operations in one fixed order, the same bits everywhere.

Only additions, products, quotients and square roots are used, which IEEE 754 rounds correctly, and
each is a pass of its own over the vector: nothing is fused or reordered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qres_core import Vector, fixed

Reals: TypeAlias = NDArray[np.float64]
Moment: TypeAlias = Callable[[Reals, Reals, float], Reals]
"""The next second moment from the last one, the squares of this round, and ``beta2``."""

_NEGLIGIBLE: Final = 2.0**-60
"""First moments below it, in grid steps, count as 0, and second ones below its square: a second one
that went first would leave steps of any size. Some processes treat subnormal numbers as 0 and
others do not; so none may ever matter."""


def momentum_step(merged: Vector, last: Vector, *, learning_rate: float, momentum: float) -> Vector:
    """The step of FedAvgM: ``trunc(momentum * last + learning_rate * merged)``.

    It is cut towards zero, not rounded: rounded, a small step would repeat itself for ever.

    Args:
        merged: what the rule merged, int32, shape ``(d,)``.
        last: the step before, int32, shape ``(d,)``; zeros before the first.
        learning_rate: above 0.
        momentum: from 0, below 1.

    Returns:
        int32, shape ``(d,)``, within ``fixed.LIMIT``.

    Complexity: O(d).

    Source:
        Hsu, Qi, Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated
        Visual Classification", 2019, section 4.3, with the rate inside the sum: while the rate
        stays the same, its steps are the same.

    Example:
        >>> momentum_step(np.int32([10, -3]), np.int32([5, 5]), learning_rate=1, momentum=0.9)
        array([14,  1], dtype=int32)
    """
    moved = momentum * last.astype(np.float64) + learning_rate * merged.astype(np.float64)
    return _on_grid(np.trunc(moved))


def adam_moment(second: Reals, square: Reals, beta2: float) -> Reals:
    """``beta2 * second + (1 - beta2) * square``."""
    return beta2 * second + (1.0 - beta2) * square


def yogi_moment(second: Reals, square: Reals, beta2: float) -> Reals:
    """``second - (1 - beta2) * square * sign(second - square)``."""
    return second - (1.0 - beta2) * square * np.sign(second - square)


def adaptive_step(
    merged: Vector,
    first: Reals,
    second: Reals,
    moment: Moment,
    *,
    learning_rate: float,
    beta1: float,
    beta2: float,
    tau: float,
) -> tuple[Vector, Reals, Reals]:
    """The step of FedAdam and FedYogi: ``learning_rate * first / (sqrt(second) + tau)``.

    Args:
        merged: what the rule merged, int32, shape ``(d,)``.
        first: mean of what was merged, float64, shape ``(d,)``, in grid steps; zeros at first.
        second: mean of its squares, float64, shape ``(d,)``; ``tau**2`` at first.
        moment: :func:`adam_moment` or :func:`yogi_moment`.
        learning_rate: above 0, in grid steps.
        beta1: from 0, below 1: how much of the mean stays.
        beta2: from 0, below 1: how much of the squares stays.
        tau: above 0, in grid steps.

    Returns:
        the step, int32, shape ``(d,)``, rounded half to even, within ``fixed.LIMIT``; and the two
        moments after it.

    Complexity: O(d).

    Source:
        Reddi, Charles, Zaheer, Garrett, Rush, Konecny, Kumar, McMahan, "Adaptive Federated
        Optimization", ICLR 2021, algorithm 2.
    """
    gradient = merged.astype(np.float64)
    first = _normal(beta1 * first + (1.0 - beta1) * gradient, _NEGLIGIBLE)
    second = _normal(moment(second, gradient * gradient, beta2), _NEGLIGIBLE**2)
    with np.errstate(over="ignore"):  # held within the grid
        moved = learning_rate * (first / (np.sqrt(second) + tau))
    return _on_grid(np.rint(moved)), first, second


def _normal(moments: Reals, least: float) -> Reals:
    moments[np.abs(moments) < least] = 0.0
    return moments


def _on_grid(moved: Reals) -> Vector:
    held: Vector = np.clip(moved, -fixed.LIMIT, fixed.LIMIT).astype(np.int32)
    return held
