"""Committees of a fixed size: how probable it is that liars have the majority in one.

The members of a swarm are put into an order by a hash of the head. A committee is a run of it, so
it is a sample of the members without replacement. The liars in it are hypergeometric. Some
committee of a height fails with at most the sum of their probabilities.

More than half of a committee include an honest member unless liars are that many. Neither are all
of the first few liars: so these few serve first, and the rest only if they do not all agree.

What the members of a set are enters the head, so who proposes may try many heads and keep the best.
:data:`GRINDING_BITS` allows for ``2**40`` of them. All of it holds for liars that are liars before
the head is known. Who can make liars of the members of a committee in the seconds that it exists
needs no luck.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache
from typing import Final

FAILURE_BITS: Final = 40
"""A height fails with a probability of at most ``2**-40``, whichever head a proposer came to."""
GRINDING_BITS: Final = 40
"""So many heads may be tried: ``2**40``."""
_ALLOWED: Final = Fraction(1, 1 << (FAILURE_BITS + GRINDING_BITS))


@lru_cache(256)
def _at_least(least: int, nodes: int, marked: int, drawn: int) -> Fraction:
    """The probability that a sample has so many of the marked members or more: hypergeometric."""
    ways = sum(
        math.comb(marked, found) * math.comb(nodes - marked, drawn - found)
        for found in range(least, min(marked, drawn) + 1)
    )
    return Fraction(ways, math.comb(nodes, drawn))


@lru_cache(1024)
def failure(nodes: int, byzantine: int, size: int, first: int = 0) -> Fraction:
    """The probability that liars have their way in some committee, exactly, at most.

    They have it if they are more than half of it, or all of those that serve first.

    Args:
        nodes: members of the swarm, n.
        byzantine: liars among them, f.
        size: members of a committee, odd, 1..n.
        first: those that serve first; more than half if left out.

    Returns:
        the union bound over as many committees as there are shards; it may be above 1. No grinding
        is counted.
    """
    most = size // 2 + 1
    chance = _at_least(most, nodes, byzantine, size)
    if 0 < first < most:
        chance += Fraction(math.comb(byzantine, first), math.comb(nodes, first))
    return max(1, nodes // (first or most)) * chance


def failure_bits(nodes: int, byzantine: int, size: int, first: int = 0) -> float:
    """Minus the binary logarithm of :func:`failure`; infinite where it is impossible."""
    chance = failure(nodes, byzantine, size, first)
    if not chance:
        return math.inf
    return math.log2(chance.denominator) - math.log2(chance.numerator)


def is_safe(nodes: int, byzantine: int, size: int) -> bool:
    """True if committees of a size fail as seldom as they must, with grinding counted."""
    if not size % 2 or not 1 <= size <= nodes:
        return False
    return failure(nodes, byzantine, size) <= _ALLOWED


def serving_first(nodes: int, byzantine: int, size: int) -> int:
    """The fewest members of a committee that may serve first; more than half if none are safe.

    Complexity: O(size) exact probabilities.
    """
    most = size // 2 + 1
    found = (few for few in range(1, most) if failure(nodes, byzantine, size, few) <= _ALLOWED)
    return next(found, most)


def too_few(nodes: int, silent: int, drawn: int, quorum: int) -> Fraction:
    """The probability that fewer than a quorum of a sample send something, exactly.

    Args:
        nodes: members of the swarm, n.
        silent: members that send nothing.
        drawn: members of the sample, ``quorum``..n, without replacement.
        quorum: how many have to send something.
    """
    return _at_least(drawn - quorum + 1, nodes, silent, drawn)


def least_size(nodes: int, byzantine: int) -> int:
    """The smallest safe size: at most ``2 f + 1``, with which no committee can fail."""
    sizes = range(1, 2 * byzantine + 1, 2)
    return next((size for size in sizes if is_safe(nodes, byzantine, size)), 2 * byzantine + 1)
