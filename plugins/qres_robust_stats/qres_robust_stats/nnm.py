"""Nearest-neighbour mixing: every update is replaced by the mean of those nearest to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray
from qres_arithmetic import Mixture, Rows, check_rows

from qres_core import Claims, Needs, Reads, Updates, Vector, Visibility, hookimpl, options
from qres_robust_stats.preconditions import check_enough, check_visible
from qres_robust_stats.whole import whole_distances


def nnm(vectors: Rows, f: int, *, products: NDArray[Any] | None = None) -> Mixture:
    """Mix every vector with its neighbours, without writing the mixed vectors out.

    Args:
        vectors: shape ``(n, d)`` with ``n >= 2 f + 1``: int32 (exact), float32 or float64. Not
            changed, and looked at again when the mixture is used.
        f: vectors that may be anything, 0 or more.
        products: exact inner products of whole int32 vectors, Python integers, shape ``(n, n)``,
            where ``vectors`` are a range of their columns alone.

    Returns:
        the mixture, a view of shape ``(n, d)``: row ``i`` is the mean of the ``n - f`` vectors at
        the least Euclidean distance from vector ``i``, itself at distance 0; of equal distances
        the lower row comes first; on the grid rounded half to even.
        :func:`~qres_robust_stats.trimmed_mean`, :func:`~qres_robust_stats.median` and
        :func:`~qres_robust_stats.meamed` take it as it is, block by block of columns, so that
        nothing of size ``(n, d)`` is ever made; ``materialise()`` makes the array.

    Raises:
        OptionError: QRES-E105, ``f`` is not an integer or is negative.
        ValueRefusedError: QRES-E501, QRES-E502, QRES-E503, QRES-E505.

    Complexity:
        the pairwise distances, ``n**2 d / 2`` multiply-adds, and ``O(n**2 log n)``; using the
        mixture costs ``n**2 d`` additions or less.

    Example:
        >>> nnm(np.array([[0], [2], [4], [900]], dtype=np.int32), 1).materialise().tolist()
        [[2], [2], [2], [302]]
    """
    options.whole(0).check("f", f)
    n = len(check_rows(vectors))
    check_enough("nnm", n, f, 2 * f + 1, "2 f + 1")
    return Mixture(vectors, _nearest(whole_distances(vectors, products), n - f))


def _nearest(distances: NDArray[np.generic], count: int) -> NDArray[np.intp]:
    """Find the ``count`` nearest of each row; of equal distances the lower index."""
    if distances.dtype == np.object_:
        ordered = [sorted(range(len(row)), key=row.__getitem__) for row in distances.tolist()]
        return np.array(ordered, dtype=np.intp)[:, :count]
    return np.argsort(distances, axis=1, kind="stable")[:, :count]


@attrs.frozen
class Nnm:
    """Nearest-neighbour mixing: hand the rule, for each update, the mean of the ``n - f`` nearest.

    Honest updates draw together, most where their data differ, and a far lie is pulled among them.
    The rule behind it gets as many updates as before, from the same senders, with the same weights.
    The mixing itself has no weights, as in the paper.

    The mixed updates are written out: one copy of the input in memory, which a wrapper cannot do
    without. The function :func:`nnm` can; it is for use without a swarm.

    Copies that liars send of one point near the honest updates mix with each other too: against
    attacks that search for the worst such point, mixing can be worse than no mixing where data
    differ and ``f`` is large. Test it on your task.

    Attributes:
        f: updates that may be anything, 0 or more. The round needs ``2 f + 1`` updates, and the
            rule should be given the same ``f``.

    Raises:
        OptionError: QRES-E105, ``f`` is not an integer or is negative.

    Complexity:
        ``n**2 d / 2`` multiply-adds for the distances, ``n**2 d`` additions for the means, ``n d``
        int32 of memory.

    Source:
        Allouah, Farhadkhani, Guerraoui, Gupta, Pinot, Stephan, "Fixing by Mixing: A Recipe for
        Optimal Byzantine ML under Heterogeneity", AISTATS 2023, algorithm 2. A rule that is
        ``(f, kappa)``-robust is so with ``8 f / (n - f) (kappa + 1)`` behind it (lemma 1), which
        makes every rule of constant ``kappa`` optimal up to a constant, for ``n > 2 f``.

    Example:
        >>> rows = np.array([[0], [2], [4], [900]], dtype=np.int32)
        >>> senders = tuple(bytes([i]) * 32 for i in range(4))
        >>> updates = Updates(rows, senders, np.ones(4, dtype=np.int64))
        >>> Nnm(f=1).wrap_aggregate(lambda mixed: mixed.vectors[3], updates).tolist()
        [302]
    """

    f: int = attrs.field(
        **options.liars("2 f + 1 updates", also="; each update is mixed with its n - f nearest")
    )

    @property
    def claims(self) -> Claims:
        """Single updates, more than twice as many as liars."""
        needs = Needs(visibility=Visibility.GROUP, min_updates=2 * self.f + 1)
        return Claims(tolerates=self.f, needs=needs, reads=Reads.PRODUCTS)

    @hookimpl
    def wrap_aggregate(self, proceed: Callable[[Updates], Vector], updates: Updates) -> Vector:
        """Merge the mixed updates."""
        check_visible("nnm", updates)
        mixture = nnm(updates.vectors, self.f, products=updates.products)
        mixed: NDArray[Any] = mixture.materialise()
        return proceed(attrs.evolve(updates, vectors=mixed))
