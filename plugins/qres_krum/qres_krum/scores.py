"""Krum's score and the order it puts the rows in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from qres_arithmetic import Rows, squared_distances

Scores: TypeAlias = list[int] | list[float]
"""One per row: Python integers for int32 rows, floats for float rows."""


def krum_scores(rows: Rows, f: int) -> Scores:
    """Score every row by the sum of its ``n - f - 2`` least squared distances to others.

    Args:
        rows: shape ``(n, d)``, int32, float32 or float64, with ``n >= 2 f + 3``.
        f: rows that may be anything.

    Returns:
        ``n`` scores, the least is the best: exact Python integers in squared grid steps for int32
        rows, float64 sums for float rows.

    Raises:
        ValueRefusedError: QRES-E501 if a float row holds NaN or an infinity, QRES-E502 if int32
            rows have ``2**32`` columns or more.

    Complexity:
        that of :func:`~qres_arithmetic.squared_distances`, then ``O(n**2)`` where distances fit
        int64 or are floats and ``O(n**2 log n)`` on Python integers where they do not.

    Source:
        Blanchard, El Mhamdi, Guerraoui, Stainer, "Machine Learning with Adversaries: Byzantine
        Tolerant Gradient Descent", NeurIPS 2017, section 4: the score ``s(i)``.

    Example:
        >>> krum_scores(np.array([[0], [1], [3], [4], [90]], dtype=np.int32), 1)
        [10, 5, 5, 10, 14965]
    """
    n = len(rows)
    return sums_of_nearest(squared_distances(rows), range(n), n - f - 2)


def sums_of_nearest(
    distances: NDArray[Any], own: Sequence[int] | NDArray[np.intp], count: int
) -> Scores:
    """Sum the ``count`` least distances of each row of a table, its distance to itself left out.

    Args:
        distances: shape ``(m, n)``: int64, float64, or Python integers in an object array; none
            negative.
        own: for each of the ``m`` rows of the table the column that is the row itself.
        count: how many, from 1 to ``n - 1``.

    Returns:
        ``m`` sums, exact where the distances are integers.
    """
    m, n = distances.shape
    # A vector is left out of its own neighbours by index. By position after sorting would be wrong
    # as soon as another vector is at distance zero.
    apart = np.ones((m, n), dtype=np.bool_)
    apart[np.arange(m), np.asarray(own, dtype=np.intp)] = False
    others = distances[apart].reshape(m, n - 1)
    if others.dtype == np.object_:
        return [sum(sorted(row)[:count]) for row in others.tolist()]
    others.partition(count - 1, axis=1)
    nearest = others[:, :count]
    if others.dtype != np.int64:
        # Distances that overflow are infinite and so is their sum; such a row is never near.
        with np.errstate(over="ignore"):
            floats: list[float] = nearest.sum(axis=1).tolist()
        return floats
    # Distances fit int64, their sum may not: sum the 32-bit halves apart.
    high = (nearest >> 32).sum(axis=1)
    low = (nearest & 0xFFFFFFFF).sum(axis=1)
    return [(h << 32) + rest for h, rest in zip(high.tolist(), low.tolist(), strict=True)]


def best(scores: Scores, count: int) -> list[int]:
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
