"""Vertex covers of bounded size, by branching on bit masks.

A graph on the vertices ``0 .. n - 1`` is a list of ``n`` Python integers; bit ``j`` of entry ``i``
is set where ``i`` and ``j`` are joined. A set of vertices is one such integer. Whether a cover of
at most ``k`` vertices exists takes time exponential in ``k`` in the worst case, so the work is
counted in steps and ends at a budget. Steps are a function of the graph alone: every node that asks
the same question runs out at the same step or finds the same cover.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_core.errors import ValueRefusedError


def adjacency(joined: NDArray[np.bool_]) -> list[int]:
    """Read a graph from a matrix.

    Args:
        joined: bool, shape ``(n, n)``, symmetric, false on the diagonal.

    Returns:
        ``n`` bit masks.

    Example:
        >>> adjacency(np.array([[False, True], [True, False]]))
        [2, 1]
    """
    packed = np.packbits(joined, axis=1, bitorder="little")
    return [int.from_bytes(row.tobytes(), "little") for row in packed]


class _Branch(NamedTuple):
    """A part of the search: cover the edges among ``alive`` with ``limit`` vertices."""

    alive: int
    limit: int
    taken: int


class _ReducedGraph(NamedTuple):
    """A branch after the rules that cost no choice; every degree is 2 or more."""

    alive: int
    limit: int
    taken: int
    degrees: list[int]
    widest: int
    """A vertex of the greatest degree."""


@attrs.define
class CoverSearch:
    """Finds vertex covers within one budget of steps over all its calls."""

    # branches that may be opened, 1 or more; one takes a few dozen microseconds for 200 vertices
    budget: int
    steps: int = 0  # branches opened so far

    def cover(self, graph: list[int], alive: int, limit: int) -> int | None:
        """Find a set of at most ``limit`` vertices that touches every edge.

        Args:
            graph: bit masks, as :func:`adjacency` makes them.
            alive: the vertices the question is about; edges to others do not count.
            limit: the most vertices the cover may have; below 0 there is none.

        Returns:
            a cover as a bit mask, the same for the same question, or ``None``.

        Raises:
            ValueRefusedError: QRES-E507 where the budget is spent before an answer is found.

        Complexity:
            exponential in ``limit`` in the worst case. The rules used are those for vertices of
            degree 0, 1 and above ``limit``, the sum of the greatest degrees and a cover by cliques
            as lower bounds, and discarding the mirrors of a vertex with it.

        Source:
            Cygan et al., "Parameterized Algorithms", Springer 2015, sections 2.2.1 and 3.1;
            Fomin, Grandoni, Kratsch, "A measure and conquer approach for the analysis of exact
            algorithms", J. ACM 56(5), 2009: mirrors.

        Example:
            >>> CoverSearch(budget=10).cover([2, 5, 2], 7, 1)  # the path 0 - 1 - 2
            2
        """
        branches = [_Branch(alive, limit, 0)]
        while branches:
            self._count()
            branch = _reduced(graph, branches.pop())
            if branch is None:
                continue
            if not branch.degrees:
                return branch.taken
            if _too_few(graph, branch):
                continue
            if branch.degrees[0] == 2:
                rest = _cover_of_cycles(graph, branch.alive)
                if rest.bit_count() <= branch.limit:
                    return branch.taken | rest
                continue
            # Taken last, so that it is looked at first: without the vertex all its neighbours go.
            branches.extend(_choices(graph, branch))
        return None

    def _count(self) -> None:
        if self.steps >= self.budget:
            raise ValueRefusedError.of(
                "QRES-E507",
                "budget",
                f"the search for a vertex cover is not done after {self.budget} steps",
                "raise the budget or choose another rule",
            )
        self.steps += 1


def members(mask: int) -> Iterator[int]:
    """List the vertices of a set, ascending.

    Example:
        >>> list(members(0b1011))
        [0, 1, 3]
    """
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


def _reduced(graph: list[int], branch: _Branch) -> _ReducedGraph | None:
    """Apply the rules that lose no smallest cover until none applies; ``None`` for no cover."""
    alive, limit, taken = branch
    if limit < 0:
        return None
    changed = True
    degrees: list[int] = []
    widest = most = 0
    while changed:
        changed, degrees, most = False, [], 0
        left = alive
        while left:
            lowest = left & -left
            left ^= lowest
            vertex = lowest.bit_length() - 1
            neighbours = graph[vertex] & alive
            degree = neighbours.bit_count()
            if degree == 0:
                alive ^= lowest
                continue
            if degree > limit:
                gone = chosen = lowest  # without it all its neighbours would have to be taken
            elif degree == 1:
                gone, chosen = lowest | neighbours, neighbours  # the neighbour covers no less
            else:
                degrees.append(degree)
                if degree > most:
                    most, widest = degree, vertex
                continue
            if limit == 0:
                return None
            taken |= chosen
            alive &= ~gone
            left &= ~gone
            limit -= 1
            changed = True
    degrees.sort(reverse=True)
    return _ReducedGraph(alive, limit, taken, degrees, widest)


def _too_few(graph: list[int], branch: _ReducedGraph) -> bool:
    """Prove that ``limit`` vertices cannot do; false where the proof fails."""
    _, limit, _, degrees, _ = branch
    # ``limit`` vertices cover no more edges than the greatest degrees add up to.
    if 2 * sum(degrees[:limit]) < sum(degrees):
        return True
    return _clique_bound_exceeds(graph, branch.alive, limit)


def _clique_bound_exceeds(graph: list[int], alive: int, limit: int) -> bool:
    """Pack disjoint cliques: of a clique of ``c`` vertices every cover has ``c - 1`` or more."""
    order = sorted(members(alive), key=lambda vertex: (graph[vertex] & alive).bit_count())
    free, needed = alive, 0
    for seed in order:
        if not free >> seed & 1:
            continue
        free ^= 1 << seed
        candidates = graph[seed] & free
        while candidates:
            best = most = -1
            for vertex in members(candidates):
                common = (graph[vertex] & candidates).bit_count()
                if common > most:
                    most, best = common, vertex
            free ^= 1 << best
            candidates &= graph[best]
            needed += 1
            if needed > limit:
                return True
    return False


def _cover_of_cycles(graph: list[int], alive: int) -> int:
    """Cover a graph in which every degree is 2 with as few vertices as can be."""
    cover = 0
    while alive:
        vertex = (alive & -alive).bit_length() - 1
        takes = True
        while True:
            alive ^= 1 << vertex
            if takes:
                cover |= 1 << vertex
            takes = not takes
            onward = graph[vertex] & alive
            if not onward:
                break
            vertex = (onward & -onward).bit_length() - 1
    return cover


def _choices(graph: list[int], branch: _ReducedGraph) -> Iterator[_Branch]:
    """Split on the widest vertex: it is in the cover, or all its neighbours are."""
    alive, limit, taken, _, widest = branch
    itself = 1 << widest
    neighbours = graph[widest] & alive
    # If no cover does without the vertex, none does without a vertex that has all its neighbours.
    mirrors = itself
    for other in members(alive & ~neighbours & ~itself):
        if not neighbours & ~graph[other]:
            mirrors |= 1 << other
    yield _Branch(alive & ~mirrors, limit - mirrors.bit_count(), taken | mirrors)
    rest = alive & ~neighbours & ~itself
    yield _Branch(rest, limit - neighbours.bit_count(), taken | neighbours)
