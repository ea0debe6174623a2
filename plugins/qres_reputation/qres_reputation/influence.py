"""Weights from scores: a power of the score, capped, on the scale of standings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from qres_core import NodeId, Standing
from qres_reputation.rules import UNIT

FULL: Final = Standing().weight


def weights(scores: Mapping[NodeId, int], exponent: int, cap: int) -> dict[NodeId, int]:
    """Return a weight in proportion to ``score ** exponent``, no share of the sum above a cap.

    Args:
        scores: score by node, each 0..10**6; at least one node.
        exponent: 1 or more.
        cap: greatest share of the sum, in units of 10**-6. Where there are so few nodes that even
            equal shares are above it, all weights are equal.

    Returns:
        weights by node, 1..2**32, the greatest 2**32. The rounding to whole weights can lift a
        share above the cap by at most ``n / 2**32`` of it.

    Complexity: O(n log n), in exact integers.
    """
    # Finer than whole powers, which cannot follow a limit as closely as weights can.
    powers = {node: FULL * max(1, score**exponent) for node, score in scores.items()}
    limit = _limit(sorted(powers.values(), reverse=True), cap)
    return {node: max(1, min(power, limit) * FULL // limit) for node, power in powers.items()}


def _limit(powers: list[int], cap: int) -> int:
    """The greatest power that keeps its share: all above are cut down to it.

    With the ``k`` greatest cut to ``t`` and ``rest`` the sum of the others, the cap asks
    ``t <= cap (k t + rest)``, so ``t = cap rest / (1 - cap k)``. The divisor stays positive: where
    ``cap (k + 1) >= 1``, this ``t`` is at least the next power, and ``k`` grows no further.
    """
    rest = sum(powers)
    if powers[0] * UNIT <= cap * rest:
        return powers[0]
    for count, power in enumerate(powers[:-1], start=1):
        rest -= power
        limit = cap * rest // (UNIT - cap * count)
        if limit >= powers[count]:
            return limit
    return powers[-1]
