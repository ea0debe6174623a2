"""Krum's score and the order it puts the senders in."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qres_krum.distances import squared_distances


def krum_scores(vectors: NDArray[np.int32], f: int) -> list[int]:
    """Score every vector by the sum of its ``n - f - 2`` least squared distances to others.

    Args:
        vectors: int32, shape ``(n, d)``, with ``n >= 2 f + 3``.
        f: vectors that may be anything.

    Returns:
        ``n`` Python integers in squared grid steps, exact; the least is the best.

    Raises:
        ValueRefusedError: QRES-E502 if ``d`` is ``2**32`` or more.

    Complexity:
        that of :func:`~qres_krum.distances.squared_distances`, then ``O(n**2)`` where distances
        fit int64 and ``O(n**2 log n)`` on Python integers where they do not.

    Source:
        Blanchard, El Mhamdi, Guerraoui, Stainer, "Machine Learning with Adversaries: Byzantine
        Tolerant Gradient Descent", NeurIPS 2017, section 4: the score ``s(i)``.

    Example:
        >>> krum_scores(np.array([[0], [1], [3], [4], [90]], dtype=np.int32), 1)
        [10, 5, 5, 10, 14965]
    """
    n = len(vectors)
    neighbours = n - f - 2
    distances = squared_distances(vectors)
    # A vector is left out of its own neighbours by index. By position after sorting would be wrong
    # as soon as another vector is at distance zero.
    others = distances[~np.eye(n, dtype=np.bool_)].reshape(n, n - 1)
    if others.dtype == np.object_:
        return [sum(sorted(row)[:neighbours]) for row in others.tolist()]
    fitting = others.astype(np.int64, copy=False)
    nearest = np.partition(fitting, neighbours - 1, axis=1)[:, :neighbours]
    # Distances fit int64, their sum may not: sum the 32-bit halves apart.
    high = (nearest >> 32).sum(axis=1)
    low = (nearest & 0xFFFFFFFF).sum(axis=1)
    return [(h << 32) + rest for h, rest in zip(high.tolist(), low.tolist(), strict=True)]


def best(scores: list[int], count: int) -> list[int]:
    """Find the ``count`` least scores, best first; of equal scores the lower index.

    Args:
        scores: one per sender, in ascending order of sender.
        count: how many, at most ``len(scores)``.

    Returns:
        ``count`` distinct indices into ``scores``.

    Example:
        >>> best([10, 5, 5, 10], 3)
        [1, 2, 0]
    """
    return sorted(range(len(scores)), key=scores.__getitem__)[:count]
