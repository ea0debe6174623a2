"""Sorting networks, cut down to the order statistics that are wanted.

A sorting network is a fixed list of comparators ``(a, b)``, ``a < b``: each puts the lesser of two
values in place ``a`` and the greater in place ``b``. As the list does not depend on the values, a
comparator works on two whole rows at once, column by column, without a branch.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

BLOCK: Final = 4
"""Rows that a merge of :func:`merges` takes from either side."""


class Comparator(NamedTuple):
    """One comparator of a pruned network."""

    a: int
    b: int
    lesser: bool
    """Whether place ``a`` is read afterwards."""
    greater: bool
    """Whether place ``b`` is read afterwards."""


def batcher(n: int) -> list[tuple[int, int]]:
    """Return Batcher's odd-even merge sort of ``n`` values.

    Args:
        n: how many, 1 or more; no power of two is needed.

    Returns:
        the comparators in an order that may be run as it stands.

    Complexity: about ``n (log2 n)**2 / 4`` comparators.

    Source:
        Batcher, "Sorting networks and their applications", AFIPS 1968; in Knuth, The Art of
        Computer Programming, volume 3, 5.2.2, algorithm M.

    Example:
        >>> batcher(4)
        [(0, 1), (2, 3), (0, 2), (1, 3), (1, 2)]
    """
    network: list[tuple[int, int]] = []
    sorted_run = 1
    while sorted_run < n:
        step = sorted_run
        while step >= 1:
            for left in range(step % sorted_run, n - step, 2 * step):
                for a in range(left, left + min(step, n - step - left)):
                    b = a + step
                    # Only values of the same two runs are merged with each other.
                    if a // (2 * sorted_run) == b // (2 * sorted_run):
                        network.append((a, b))
            step //= 2
        sorted_run *= 2
    return network


def pruned(network: list[tuple[int, int]], low: int, high: int) -> list[Comparator]:
    """Leave out what has no influence on the places ``low .. high - 1``.

    Args:
        network: comparators in order.
        low: first place wanted.
        high: one past the last place wanted.

    Returns:
        the comparators that are left, in order.

    Example:
        >>> [(c.a, c.b) for c in pruned(batcher(4), 0, 1)]
        [(0, 1), (2, 3), (0, 2)]
    """
    wanted = set(range(low, high))
    kept: list[Comparator] = []
    for a, b in reversed(network):
        lesser, greater = a in wanted, b in wanted
        if lesser or greater:
            kept.append(Comparator(a, b, lesser, greater))
            wanted |= {a, b}
    return kept[::-1]


@lru_cache(maxsize=64)
def selection(n: int, low: int, high: int) -> tuple[Comparator, ...]:
    """Return the network that brings the order statistics ``low .. high - 1`` of ``n`` in place."""
    return tuple(pruned(batcher(n), low, high))


@lru_cache(maxsize=64)
def merges(n: int, low: int, high: int) -> NDArray[np.int64]:
    """Return the network that does as :func:`selection` with blocks of four sorted rows as values.

    Where a comparator exchanges two values, a merge sorts the eight rows of two blocks and gives
    the four least to the first. That sorts whatever the comparators of a network sort (Knuth,
    volume 3, 5.3.4, exercise 38), takes some more comparisons, and far fewer loads and stores:
    eight rows stay in registers for nine comparisons.

    Args:
        n: rows; the last block is filled up with rows that are greater than all others.
        low: first order statistic wanted.
        high: one past the last one wanted.

    Returns:
        int64, shape ``(m, 2)``, read-only: the blocks of each merge, in order.

    Example:
        >>> merges(9, 0, 9).tolist()
        [[0, 1], [0, 2], [1, 2]]
    """
    network = pruned(batcher(-(-n // BLOCK)), low // BLOCK, (high - 1) // BLOCK + 1)
    pairs = np.array([(c.a, c.b) for c in network], dtype=np.int64).reshape(-1, 2)
    pairs.flags.writeable = False
    return pairs
