"""The structural gate: what is far larger than most is cut to size, the same on every node."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from qres_arithmetic import shortened, squared_lengths


def cut_to_size(vectors: NDArray[np.int32], factor: Fraction, liars: int) -> NDArray[np.int32]:
    """Shorten the rows that are longer than ``factor`` times the usual length to that.

    The usual length is the lower median. Where that is zero it is that of the ``liars + 1``-th
    longest row, or of the upper median if ``liars`` is more than half. With no more false
    rows, and fewer than half, no row is left longer than ``factor`` times the longest honest one.
    So where at most ``liars`` rows are not zero, all become zero: they may all be false.

    They are shortened and not dropped: a rule that needs so many updates would otherwise refuse
    the round, and liars could see to that.

    Args:
        vectors: int32, shape ``(n, d)``; not changed. Rows may be updates or means of groups.
        factor: how many times the usual length is too much, 1 or more.
        liars: rows that may be false.

    Returns:
        int32, shape ``(n, d)``: the same array where no row is too long, else new memory. Integers
        throughout: every node gets the same bits.

    Complexity: O(n d).
    """
    norms, limit = _limit(vectors, factor, liars)
    out = [row for row, norm in enumerate(norms) if norm > limit]
    if not out:
        return vectors
    held: NDArray[np.int32] = shortened(vectors, norms, out, limit)
    return held


def oversized(vectors: NDArray[np.int32], factor: Fraction, liars: int) -> list[int]:
    """The rows that :func:`cut_to_size` shortens, the longest first.

    Arguments as there. None where the usual length is zero: there is no scale to measure by, and
    leaving out every row but zeros would hand the round to who sends zeros. O(n d).
    """
    norms, limit = _limit(vectors, factor, liars)
    out = [row for row, norm in enumerate(norms) if norm > limit > 0]
    return sorted(out, key=lambda row: (-norms[row], row))


def _limit(vectors: NDArray[np.int32], factor: Fraction, liars: int) -> tuple[list[int], Fraction]:
    """The squared lengths of the rows, and the greatest that a row may have."""
    norms = [int(squared_length) for squared_length in squared_lengths(vectors)]
    ascending, half = sorted(norms), (len(norms) - 1) // 2
    usual = ascending[half] or ascending[len(norms) - 1 - min(liars, half)]
    return norms, factor * factor * usual


def capped(weights: NDArray[np.int64], limit: Fraction) -> NDArray[np.int64]:
    """Hold every weight at ``limit`` times the lower median weight, rounded down, at least 1.

    ``weights``: int64, shape ``(n,)``, each 1 or more; ``limit``: 1 or more. Returns int64, shape
    ``(n,)``, new memory.
    """
    median = int(np.sort(weights)[(len(weights) - 1) // 2])
    return np.minimum(weights, max(1, int(limit * median)))
