"""Minimum diameter averaging, exact."""

from __future__ import annotations

import math
from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray
from qres_arithmetic import Rows, check_rows, mean_of

from qres_core import Claims, Needs, Reads, Updates, Vector, Visibility, hookimpl, options
from qres_robust_stats.preconditions import check_enough, check_visible
from qres_robust_stats.vertex_cover import CoverSearch, adjacency
from qres_robust_stats.whole import whole_distances

BUDGET: Final = 20_000
"""Steps of the search, by default: a second or two, and far beyond what data have needed."""


def mda(
    vectors: Rows, f: int, *, budget: int = BUDGET, products: NDArray[Any] | None = None
) -> Rows:
    """Average the ``n - f`` vectors that are nearest together.

    Of all subsets of ``n - f`` rows the one with the least diameter (greatest distance between two
    of its rows). Often there are several. Put the rows in the order of their sums of squared
    distances to all others, of equal sums the lower row first; then the subset is taken whose
    places in that order, ascending, come first. So central rows are preferred, and who sends what
    does not matter unless sums are equal.

    The search is exact and knows no clock: a subset of diameter ``t`` exists just where the graph
    of the pairs farther apart than ``t`` has a vertex cover of ``f`` rows.

    Args:
        vectors: int32 or floating, shape ``(n, d)``, ``n >= 2 f + 1``; not changed.
        f: vectors that may be anything.
        budget: steps the search may take, 1 or more. The same for the same distances, wherever the
            search runs.
        products: exact inner products of whole int32 vectors, Python integers, shape ``(n, n)``,
            where ``vectors`` are a range of their columns alone.

    Returns:
        shape ``(d,)``, dtype of ``vectors``, new memory. The mean of int32 rows is rounded half to
        even.

    Raises:
        ValueRefusedError: QRES-E505 if ``n < 2 f + 1``; QRES-E507 if the budget is spent;
            QRES-E501 to QRES-E503 for values, shape or dtype.
        OptionError: QRES-E105, ``f`` or ``budget`` is not an integer or is too small.

    Complexity:
        the pairwise distances; then a few milliseconds for hundreds of rows as they come in
        practice, exponential in ``f`` in the worst case.

    Source:
        Rousseeuw, "Multivariate estimation with high breakdown point", 1985; El Mhamdi, Guerraoui,
        Rouault, "The hidden vulnerability of distributed learning in Byzantium", ICML 2018.

    Example:
        >>> mda(np.array([[0], [90], [2], [4]], dtype=np.int32), 1).tolist()
        [2]
    """
    options.whole(0).check("f", f)
    options.whole(1).check("budget", budget)
    rows = check_rows(vectors)
    check_enough("mda", len(rows), f, 2 * f + 1, "2 f + 1")
    distances: NDArray[Any] = whole_distances(rows, products)
    order = np.array(_central_first(distances))
    places = least_diameter_subset(distances[np.ix_(order, order)], f, budget=budget)
    return mean_of(rows, sorted(order[places].tolist()))


def least_diameter_subset(distances: NDArray[Any], f: int, *, budget: int = BUDGET) -> list[int]:
    """Find the ``n - f`` points of least diameter; of several sets the lexicographically first.

    Args:
        distances: shape ``(n, n)``, symmetric, zero diagonal; int64, float64 or Python integers.
            Only their order counts, so squares serve as well.
        f: points to leave out, less than ``n``.
        budget: steps of the search.

    Returns:
        ``n - f`` indices, ascending.

    Raises:
        ValueRefusedError: QRES-E507 if the budget is spent.

    Complexity:
        ``O(n**2 log n)`` and about ``2 log2 n + f`` searches.

    Example:
        >>> places = np.array([0, 1, 5, 6])
        >>> least_diameter_subset(abs(places[:, None] - places), 2)
        [0, 1]
    """
    n = len(distances)
    if f == 0:
        return list(range(n))
    search = CoverSearch(budget)
    diameter, cover = _least_diameter(distances, f, search)
    return _first_subset(adjacency(_farther(distances, diameter)), f, cover, search)


@attrs.frozen
class Mda:
    """Minimum diameter averaging: the mean of the ``n - f`` updates that lie nearest together.

    Exact: the subset of least diameter is found, by a search that all nodes do in the same number
    of steps, and of several such subsets the one with the most central updates. A search that would
    take more than ``budget`` steps refuses the round on every node alike.

    Robustness: ``|result - mean(S)| <= 2 f / (n - f) * diameter(S)`` for every set ``S`` of
    ``n - f`` updates, thus also for the honest ones. Weights have no part in it: by them one sender
    would own the mean.

    Attributes:
        f: updates that may be anything, 0 or more. The round needs ``2 f + 1`` updates.
        budget: steps of the search.

    Raises:
        OptionError: QRES-E105, an option is not an integer or is too small; the message names it.

    Complexity:
        see :func:`mda`.

    Source:
        El Mhamdi, Farhadkhani, Guerraoui, Guirguis, Hoang, Rouault, "Collaborative learning in the
        jungle", NeurIPS 2021: the bound (``(f, lambda)``-resilience), ``lambda = 2 f / (n - f)``.

    Example:
        >>> rows = np.array([[0], [2], [4], [90]], dtype=np.int32)
        >>> senders = tuple(bytes([i]) * 32 for i in range(4))
        >>> Mda(f=1).aggregate(Updates(rows, senders, np.ones(4, dtype=np.int64))).tolist()
        [2]
    """

    f: int = attrs.field(**options.liars("2 f + 1 updates"))
    budget: int = attrs.field(
        default=BUDGET,
        validator=options.whole(1),
        metadata={
            "help": "Steps of the exact search after which the round is refused; must be the "
            "same on every node."
        },
    )

    @property
    def claims(self) -> Claims:
        """Single updates, of which a majority is honest."""
        needs = Needs(visibility=Visibility.GROUP, min_updates=2 * self.f + 1)
        return Claims(tolerates=self.f, needs=needs, reads=Reads.PRODUCTS)

    def kappa_bound(self, n: int) -> float:
        """The ``kappa`` of (f, kappa)-robustness that follows from the bound by the diameter.

        Its square is at most twice the sum of the squared distances from the mean.
        """
        return 8 * self.f**2 / (n - self.f)

    @hookimpl
    def aggregate(self, updates: Updates) -> Vector:
        """Return the mean of the subset of least diameter.

        Raises QRES-E507 if the search does not end within the budget.
        """
        check_visible("mda", updates)
        merged: NDArray[Any] = mda(
            updates.vectors, self.f, budget=self.budget, products=updates.products
        )
        return merged


def _central_first(distances: NDArray[Any]) -> list[int]:
    """Rows by the sum of their squared distances to all others, exact for integers."""
    if distances.dtype == np.int64:
        # Each fits, their sum may not: sum the 32-bit halves apart.
        high = (distances >> 32).sum(axis=1).tolist()
        low = (distances & 0xFFFFFFFF).sum(axis=1).tolist()
        sums = [(h << 32) + rest for h, rest in zip(high, low, strict=True)]
    elif distances.dtype == np.float64:
        sums = [math.fsum(row) for row in distances.tolist()]
    else:
        sums = [sum(row) for row in distances.tolist()]
    return sorted(range(len(sums)), key=sums.__getitem__)


def _farther(distances: NDArray[Any], limit: Any) -> NDArray[np.bool_]:
    # Comparing Python integers one by one gives an array of objects.
    return np.asarray(distances > limit, dtype=np.bool_)


def _least_diameter(distances: NDArray[Any], f: int, search: CoverSearch) -> tuple[Any, int]:
    """The least diameter of ``n - f`` points, and a cover of the pairs beyond it."""
    n = len(distances)
    # No set of n - f points is narrower than the ball around one of them that holds n - f.
    radii = np.sort(distances, axis=1)[:, n - f - 1]
    centre = int(np.argmin(radii))
    ball = np.argsort(distances[centre], kind="stable")[: n - f]
    least, most = radii[centre], distances[np.ix_(ball, ball)].max()
    upper = distances[np.triu_indices(n, 1)]
    values = np.unique(upper[np.asarray((upper >= least) & (upper <= most), dtype=np.bool_)])
    everything = (1 << n) - 1
    found = everything ^ sum(1 << int(row) for row in ball)
    if not len(values):
        return least, found  # single points: their diameter is 0, and no pair need be that near
    low, high = 0, len(values) - 1
    while low < high:
        middle = (low + high) // 2
        graph = adjacency(_farther(distances, values[middle]))
        cover = search.cover(graph, everything, f)
        if cover is None:
            low = middle + 1
        else:
            high, found = middle, cover
    return values[high], found


def _first_subset(graph: list[int], f: int, cover: int, search: CoverSearch) -> list[int]:
    """The lexicographically first independent set of ``n - f`` vertices, given some cover of ``f``.

    Vertices are kept in ascending order wherever the rest can still be completed. ``cover`` is
    always a completion of what was decided, so a vertex outside it is kept without a search.
    """
    size = len(graph) - f
    open_ = (1 << len(graph)) - 1
    dropped = 0
    kept: list[int] = []
    for vertex in range(len(graph)):
        if len(kept) == size:
            break
        itself = 1 << vertex
        if not open_ & itself:
            continue
        neighbours = graph[vertex] & open_
        rest = open_ & ~neighbours & ~itself
        if cover & itself:
            limit = f - dropped.bit_count() - neighbours.bit_count()
            completion = search.cover(graph, rest, limit)
            if completion is None:
                dropped |= itself
                open_ ^= itself
                continue
            cover = dropped | neighbours | completion
        kept.append(vertex)
        dropped |= neighbours
        open_ = rest
    return kept
