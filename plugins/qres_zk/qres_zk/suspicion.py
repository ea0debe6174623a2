"""Nodes that must be lying, given which sums failed.

A sum that fails has at least one liar among its members. Nothing more is known: a liar may behave
in one round and lie in the next, so nobody is cleared by a sum that holds. But with at most ``f``
liars in the swarm, a node is one beyond doubt if the failures cannot be explained without it, that
is, if no ``f`` other nodes have a member in every failed sum. Sums are over other groups for every
model, so whoever goes on lying is found, and honest nodes are never accused. Where members change,
``f`` counts among those of the round.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import attrs

from qres_core import NodeId

MAX_FAILURES: Final = 512
"""Failures remembered; the oldest are forgotten first."""
MAX_STEPS: Final = 100_000
"""Failures looked at in one search; a search that is not over by then finds nothing."""


@attrs.define(eq=False)
class Suspicion:
    """The failed sums so far, and what follows from them."""

    _failures: list[frozenset[NodeId]] = attrs.field(factory=list[frozenset[NodeId]])

    def __len__(self) -> int:
        return len(self._failures)

    @property
    def suspects(self) -> frozenset[NodeId]:
        """Members of failed sums that nothing explains yet."""
        return frozenset[NodeId]().union(*self._failures)

    def follow(self, members: frozenset[NodeId]) -> None:
        """The swarm has these members from now on, and at most ``f`` of *them* lie.

        A failure with somebody who left may be that node's doing, and another liar may have come in
        its place: it is forgotten, or an honest node could be the only explanation left.
        """
        self._failures = [failure for failure in self._failures if failure <= members]

    def note(self, failed: Iterable[tuple[NodeId, ...]], liars: int) -> tuple[NodeId, ...]:
        """Take in failed sums and return who must have lied, ascending.

        The failures that a proven liar explains are forgotten: whoever lies again is proven again.

        Args:
            failed: members of each sum that failed.
            liars: most liars in the swarm, ``f``.

        Returns:
            the nodes that are in every explanation; none where ``f`` liars explain nothing, or
            where the search takes too long.

        Complexity: at most ``MAX_STEPS`` set operations.
        """
        self._failures += [frozenset(members) for members in failed]
        del self._failures[:-MAX_FAILURES]
        search = _Search(MAX_STEPS)
        search.explain(sorted(set(self._failures), key=_by_size), liars, frozenset())
        over = search.steps > 0 and search.common is not None
        proven = search.common if over and search.common else frozenset[NodeId]()
        self._failures = [failure for failure in self._failures if failure.isdisjoint(proven)]
        return tuple(sorted(proven))


def _by_size(members: frozenset[NodeId]) -> tuple[int, list[NodeId]]:
    return len(members), sorted(members)


@attrs.define
class _Search:
    """Common part of all hitting sets of a size: a bounded tree, cut by packings."""

    steps: int  # failures that may still be looked at
    # nodes in every explanation found so far; ``None`` before the first
    common: frozenset[NodeId] | None = None

    def explain(self, sets: list[frozenset[NodeId]], most: int, chosen: frozenset[NodeId]) -> None:
        """Go through the ways to hit all sets with ``most`` nodes beside those chosen."""
        if self.steps <= 0 or self.common == frozenset():
            return
        self.steps -= 1 + len(sets)
        if not sets:
            self.common = chosen if self.common is None else self.common & chosen
            return
        if _disjoint(sets) > most:
            return
        for node in sorted(sets[0]):
            rest = [item for item in sets if node not in item]
            self.explain(rest, most - 1, chosen | {node})


def _disjoint(sets: list[frozenset[NodeId]]) -> int:
    """Number of sets that have nobody in common: each needs a node of its own."""
    taken: set[NodeId] = set()
    count = 0
    for item in sets:
        if taken.isdisjoint(item):
            taken |= item
            count += 1
    return count
