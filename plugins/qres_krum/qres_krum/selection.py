"""Rows with the least scores, found without scoring every row exactly."""

from __future__ import annotations

from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray
from qres_arithmetic import (
    Rows,
    accelerated,
    distances_of_products,
    exact_rows,
    interval_distances,
)

from qres_krum.scores import best, krum_scores, sums_of_nearest

_FEWEST_TO_FILTER: Final = 16
"""Among fewer rows, scoring one in doubt again costs what the intervals saved."""

_LONGEST_TO_FILTER: Final = 2**17
"""With more columns only the single best row is looked for by intervals.

The scores of rows drawn alike differ by about ``1 / sqrt(d)`` of their size, and the intervals are
``2**-13`` wide. So the longer the rows, the more of them are in doubt at a cut through their midst,
where they lie close; the least of all is mostly apart.
"""

_DOUBT_LIMIT: Final = 4
"""One row in so many may be scored again; beyond, all is computed exactly.

A pass over all pairs takes ``n**2 d / 2`` steps in tiles of four by four rows, which share their
loads; ``m`` rows scored again take ``m n d`` in strips, which share half as much, and one pass over
the memory. Both cost about the same at ``m = n / 4``. It is a matter of time only.
"""


def best_rows(rows: Rows, f: int, count: int) -> list[int]:
    """Find the ``count`` rows of least Krum score; of equal scores the lower row.

    For int32 rows the answer is that of exact scores, always. Where it saves time and compiled
    kernels are there, most rows are decided by an interval that provably holds their score.

    Args:
        rows: shape ``(n, d)``, int32, float32 or float64, ``n >= 2 f + 3``.
        f: rows that may be anything.
        count: how many, from 1 to ``n``.

    Returns:
        ``count`` row numbers, ascending.

    Raises:
        ValueRefusedError: as :func:`~qres_krum.scores.krum_scores`.

    Complexity: one pass of pairwise distances; an exact one too where the intervals leave more
        than a quarter of the rows in doubt. ``O(n**2)`` memory.
    """
    n, d = rows.shape
    worthwhile = n >= _FEWEST_TO_FILTER and (count == 1 or d <= _LONGEST_TO_FILTER)
    if rows.dtype == np.int32 and worthwhile and accelerated():
        whole = cast("NDArray[np.int32]", rows)
        approximate = interval_distances(whole)
        if approximate is not None:
            found = _by_intervals(whole, f, count, *approximate)
            if found is not None:
                return found
    return sorted(best(krum_scores(rows, f), count))


def best_by_products(products: NDArray[Any], f: int, count: int) -> list[int]:
    """Find what :func:`best_rows` finds for int32 rows, from their inner products alone.

    Args:
        products: of every two rows, exact: Python integers, shape ``(n, n)``, ``n >= 2 f + 3``.
        f: rows that may be anything.
        count: how many, from 1 to ``n``.

    Returns:
        ``count`` row numbers, ascending.

    Complexity: ``O(n**2 log n)`` on Python integers.
    """
    n = len(products)
    distances = distances_of_products(products)
    return sorted(best(sums_of_nearest(distances, range(n), n - f - 2), count))


def _by_intervals(
    rows: NDArray[np.int32],
    f: int,
    count: int,
    distances: NDArray[np.float64],
    error: float,
) -> list[int] | None:
    """Find what :func:`best_rows` asks for from distances with ``|approximate - D| <= error D``.

    The result is that of the exact rule:

    1. *Sums.* The sum of the ``k`` least entries of a row grows with every entry. Entries between
       ``(1 - error) D`` and ``(1 + error) D`` thus sum to between ``(1 - error) s`` and
       ``(1 + error) s``, ``s`` being the exact score. Adding ``k < n`` non-negative floats has a
       relative error below ``n 2**-52``, and each of the few operations after it one of ``2**-53``.
       So ``s`` lies in ``[low, high]`` below.
    2. *Copies.* As ``error < 1``, an approximate distance is zero if and only if the exact one is.
       Rows at distance zero are equal and have equal scores, whatever those are.
    3. *Order.* The rule orders rows by (score, row number). ``before[i, j]`` is set only where row
       ``i`` certainly precedes row ``j``: its interval ends before the other's begins, or both are
       copies and ``i < j``.
    4. *In and out.* A row that certainly precedes ``n - count`` others is among the ``count``
       least; one that ``count`` others certainly precede is not. Let ``T`` be the set to find,
       ``I`` the rows in and ``Q`` those in doubt: ``T`` is ``I`` and a part of ``Q``. With a row
       ``T`` holds every row that precedes it, so that part is the ``count - |I|`` first of ``Q``.
       Those are found by exact scores, the same for copies, and by row number.

    Returns the rows, ascending; None if too many are in doubt.
    """
    n = len(rows)
    neighbours = n - f - 2
    first = (distances == 0).argmax(axis=1)
    scores = np.asarray(sums_of_nearest(distances, range(n), neighbours))
    margin = error + (n + 8) * 2.0**-52
    low, high = scores / (1 + margin), scores / (1 - margin)
    before = high[:, None] < low[None, :]
    before |= (first[:, None] == first[None, :]) & ~np.tri(n, dtype=np.bool_)
    inside = before.sum(axis=1) >= n - count
    outside = before.sum(axis=0) >= count
    chosen: list[int] = np.flatnonzero(inside).tolist()
    doubtful: list[int] = np.flatnonzero(~(inside | outside)).tolist()
    if doubtful:
        distinct = sorted({int(first[row]) for row in doubtful})
        if len(distinct) * _DOUBT_LIMIT > n:
            return None
        exact = sums_of_nearest(exact_rows(rows, distinct), distinct, neighbours)
        score = dict(zip(distinct, exact, strict=True))
        doubtful.sort(key=lambda row: score[int(first[row])])
        chosen += doubtful[: count - len(chosen)]
    return sorted(chosen)
