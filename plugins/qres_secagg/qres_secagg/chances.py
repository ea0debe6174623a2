"""Chances of a swarm: sums that can be opened, rows for a rule, and numbers that give both.

The plugin checks a configuration with these functions, and the tables of the manual are printed by
them (``scripts/sum_tables.py``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import attrs

from qres_core.claims import most_colluders
from qres_secagg.levels import group_sizes
from qres_secagg.parameters import (
    CORRECTNESS_BITS,
    HONEST_LEAST,
    at_most,
    tail_above,
)

LIKELY: Final = 0.9
"""Least probability that a round has enough open groups, with which a swarm starts."""
FEWEST: Final = 3
"""Fewest inputs of a sum: of two, each node learns the other's."""
MOST_NODES: Final = 2000
"""Largest swarm that is looked at for groups that would do."""


def needed_inputs(corrupt: int) -> int:
    """Fewest inputs of a sum that hides its honest nodes, with ``corrupt`` others all in it."""
    return max(FEWEST, corrupt + HONEST_LEAST)


def at_least(trials: int, probability: float, count: int) -> float:
    """The probability of ``count`` or more successes, of independent trials. O(trials)."""
    if count <= 0:
        return 1.0
    if count > trials or probability <= 0.0:
        return 0.0
    if probability >= 1.0:
        return 1.0
    log, other = math.log(probability), math.log1p(-probability)
    whole = math.lgamma(trials + 1)
    terms = (
        math.exp(
            whole
            - math.lgamma(i + 1)
            - math.lgamma(trials - i + 1)
            + i * log
            + (trials - i) * other
        )
        for i in range(count, trials + 1)
    )
    return min(1.0, math.fsum(terms))


@lru_cache(maxsize=1024)
def enough_rows(sizes: Sequence[int], least: int, rows: int, away: float) -> float:
    """The probability that enough groups are opened for a rule.

    Args:
        sizes: members of each group, a tuple; see :func:`~qres_secagg.levels.group_sizes`.
        least: inputs with which a group is opened.
        rows: groups that must be.
        away: probability with which a node is away in a round, each for itself.

    Complexity: O(n).
    """
    small, large = min(sizes), max(sizes)
    many = sizes.count(large) if large > small else 0
    few = len(sizes) - many
    opens, larger = at_least(small, 1 - away, least), at_least(large, 1 - away, least)
    exactly = [at_least(many, larger, i) - at_least(many, larger, i + 1) for i in range(many + 1)]
    found = math.fsum(p * at_least(few, opens, rows - i) for i, p in enumerate(exactly))
    return min(1.0, max(0.0, found))


def least_quorum(nodes: int, k: int, t: int) -> int:
    """Fewest inputs of a round with which every secret has ``t`` holders that are there.

    The others have dealt shares, and are away when secrets are opened. Holders are all over the
    swarm, whether there is one sum or groups. That is certain on the complete graph. On a sparse
    one it fails with a probability of ``2**-20`` at most, if chance decides who is away.

    ``k``, ``t``: degree and threshold of the graph, see :func:`~qres_secagg.parameters.choose`.
    """
    if k >= nodes - 1:
        return t
    for inputs in range(nodes - 1, t, -1):
        gone = nodes - inputs
        # Whoever is there holds a share of its own secret.
        here, whole = tail_above(nodes - 1, gone, k, k + 1 - t)
        away, _ = tail_above(nodes - 1, gone - 1, k, k - t)
        if not at_most((inputs * here + gone * away, whole), -CORRECTNESS_BITS, 1):
            return inputs + 1
    return t  # pragma: no cover - a sparse graph has fewer holders than that


@attrs.frozen
class GroupPlan:
    """Groups that would do."""

    size: int  # plugins.secagg.group_size
    least: int  # plugins.secagg.min_size
    chance: float  # that a round has enough rows


def grouping(nodes: int, quorum: int, corrupt: int, rows: int, away: float) -> GroupPlan | None:
    """The groups that hide a node best and leave a rule enough rows.

    Args:
        nodes: in the swarm.
        quorum: fewest contributions of a round; they must be enough for as many groups as the rule
            needs.
        corrupt: of the nodes, most that may collude.
        rows: groups that the rule needs.
        away: probability with which a node is away in a round.

    Returns:
        those with the largest least size for which a round has ``rows`` of them with probability
        :data:`LIKELY`; ``None`` if there are none.
    """
    needed = needed_inputs(corrupt)
    found: GroupPlan | None = None
    for count in range(max(2, rows), nodes // needed + 1):  # one group is none
        size = nodes // count
        sizes = group_sizes(nodes, size)
        for least in range(
            min(size, quorum // rows), max(needed, 0 if found is None else found.least + 1) - 1, -1
        ):
            chance = enough_rows(sizes, least, rows, away)
            if chance >= LIKELY:
                found = GroupPlan(size, least, chance)
                break
    return found


def least_nodes(liars: int, share: float, rows: int, away: float) -> int | None:
    """The smallest swarm for which :func:`grouping` finds groups, though its liars are silent.

    ``share``: of the nodes that may collude; all liars do. ``None`` if there is none of up to
    :data:`MOST_NODES`.
    """

    def does(nodes: int) -> bool:
        corrupt = most_colluders(nodes, liars, share)
        return grouping(nodes, nodes - liars, corrupt, rows, away) is not None

    start = max(2, rows) * needed_inputs(liars)
    return next((nodes for nodes in range(start, MOST_NODES + 1) if does(nodes)), None)
