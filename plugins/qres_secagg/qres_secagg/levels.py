"""Levels of halving groups while a sum is not the one committed to.

A check of the sum (``qres-zk``) can find that somebody's masked input is not the one it committed
to, and not whose. It leaves that sum out. If too few are left, the height is void (QRES-E508), and
the next one works in smaller groups: level ``l`` halves them ``l`` times, never below ``min_size``.
The first round that closes brings the level back to 0.
"""

from __future__ import annotations

from qres_secagg.session import MAX_LEVEL


def finest(*, size: int, least: int, nodes: int) -> int:
    """The level from which on groups get no smaller.

    A group is halved where both halves keep ``least`` members; larger ones are halved longest.
    """
    level, group = 0, max(group_sizes(nodes, size))
    while level < MAX_LEVEL and group // 2 >= least:
        level, group = level + 1, -(-group // 2)
    return level


def group_sizes(nodes: int, size: int) -> tuple[int, ...]:
    """Members of each group when ``nodes`` are split into groups of ``size`` or more.

    ``size``: 0 for one group. Returns numbers that differ by at most one, the largest first.
    """
    count = max(1, nodes // size) if size else 1
    return tuple(nodes // count + (index < nodes % count) for index in range(count))
