"""The structural gate: what is far larger than most is cut to size, the same on every node."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from qres_arithmetic import shortened, squared_lengths


def cut_to_size(vectors: NDArray[np.int32], factor: Fraction) -> NDArray[np.int32]:
    """Shorten the rows that :func:`oversized` finds to ``factor`` times the lower median norm.

    They are shortened and not dropped: a rule that needs so many updates would otherwise refuse
    the round, and liars could see to that.

    Args:
        vectors: int32, shape ``(n, d)``; not changed.
        factor: how many times the median is too much, 1 or more.

    Returns:
        int32, shape ``(n, d)``: the same array where no row is oversized, else new memory.

    Complexity: O(n d).
    """
    out = oversized(vectors, factor).tolist()
    if not out:
        return vectors
    norms = [int(squared_length) for squared_length in squared_lengths(vectors)]
    median = sorted(norms)[(len(norms) - 1) // 2]
    held: NDArray[np.int32] = shortened(vectors, norms, out, factor * factor * median)
    return held


def oversized(vectors: NDArray[np.int32], factor: Fraction) -> NDArray[np.intp]:
    """Find the rows whose norm is more than ``factor`` times the lower median of all norms.

    With fewer than half of the rows false the median lies among the honest norms, so that liars
    cannot raise the bar above ``factor`` times the largest honest norm, nor push it below
    ``factor`` times the least. Integers throughout: every node finds the same rows.

    Args:
        vectors: int32, shape ``(n, d)``; rows may be updates or means of groups of them.
        factor: how many times the median is too much, 1 or more.

    Returns:
        ascending row indices, intp, shape ``(k,)``. None where the median is zero: there is no
        scale to measure by, and dropping every row but zeros would hand the round to who sends
        zeros.

    Complexity: O(n d).
    """
    norms = [int(squared_length) for squared_length in squared_lengths(vectors)]
    median = sorted(norms)[(len(norms) - 1) // 2]
    if median == 0:
        return np.empty(0, dtype=np.intp)
    limit = factor * factor * median
    return np.array([row for row, norm in enumerate(norms) if norm > limit], dtype=np.intp)


def capped(weights: NDArray[np.int64], limit: Fraction) -> NDArray[np.int64]:
    """Hold every weight at ``limit`` times the lower median weight, rounded down, at least 1.

    ``weights``: int64, shape ``(n,)``, each 1 or more; ``limit``: 1 or more. Returns int64, shape
    ``(n,)``, new memory.
    """
    median = int(np.sort(weights)[(len(weights) - 1) // 2])
    return np.minimum(weights, max(1, int(limit * median)))
