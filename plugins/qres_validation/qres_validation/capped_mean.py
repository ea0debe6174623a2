"""A weighted mean in which no row counts more than its part, and is not much longer than most."""

from __future__ import annotations

from fractions import Fraction
from typing import Final

import numpy as np
from numpy.typing import NDArray
from qres_arithmetic import round_half_even, shortened, squared_lengths

from qres_core import MAX_WEIGHT, Vector

LENGTHS: Final = 10
"""How many times the usual length a row may have."""
MOST: Final = 2**32
"""Weights sum to less than this when they are applied."""
_BLOCK: Final = 8208  # columns at a time; not a power of two, so rows do not share cache sets


def capped_mean(
    vectors: NDArray[np.int32], weights: NDArray[np.int64], fewest: int, halved: int = 0
) -> Vector:
    """Return the weighted mean of the rows, no row above one part in ``fewest``.

    The weights are held by :func:`held`. Where they sum to ``2**32`` or more, all are divided by
    the least power of two that makes the sum less, and rounded down; that may lift a part above
    one in ``fewest`` by less than ``n / 2**30`` of it. The sum of weight times row is
    exact and divided by the sum of the weights and by ``2**halved``, half to even: the same bits on
    every machine.

    Args:
        vectors: int32, shape ``(n, d)``; not changed.
        weights: int64, shape ``(n,)``, each 1..2**30.
        fewest: no row counts more than in the plain mean of so many; at most ``n``.
        halved: how often the mean is halved, 0..29.

    Returns:
        int32, shape ``(d,)``, new memory.

    Complexity: O(n d), and O(d) memory.

    Example:
        >>> rows = np.array([[0, 10], [20, 10], [900, 10]], dtype=np.int32)
        >>> capped_mean(rows, np.array([1, 1, 1000]), 2).tolist()
        [455, 10]
    """
    counts = held([int(weight) for weight in weights], fewest)
    while (total := sum(counts)) >= MOST:
        counts = [count >> 1 for count in counts]
    result = np.empty(vectors.shape[1], dtype=np.int32)
    for start in range(0, vectors.shape[1], _BLOCK):
        columns = vectors[:, start : start + _BLOCK]
        # The weights sum to less than 2**32 and |x| <= 2**31: every partial sum fits int64.
        # The row is widened first: numpy before 2 makes int32 times an int64 number an int32.
        block = np.zeros(columns.shape[1], dtype=np.int64)
        for count, row in zip(counts, columns, strict=True):
            block += row.astype(np.int64) * count
        result[start : start + _BLOCK] = round_half_even(block, total << halved)
    return result


def held(weights: list[int], fewest: int) -> list[int]:
    """Lower the greatest weights until none is more than one part in ``fewest`` of their sum.

    Args:
        weights: 1 or more each; at least ``fewest`` of them.
        fewest: 1 or more.

    Returns:
        the weights, none above ``c``, the greatest integer with ``fewest * c <= sum(min(w, c))``,
        or all 1 where even 1 is too much for integers.

    Complexity: O(n log n).

    Example:
        >>> held([100, 1, 1, 1], 2)
        [3, 1, 1, 1]
    """
    descending = sorted(weights, reverse=True)
    rest, cut = sum(descending), 0
    # With the `cut` greatest held at c: fewest * c <= cut * c + rest. It ends with fewest - 1 of
    # them at the latest, where the cap is the sum of all others.
    while descending[cut] > (cap := rest // (fewest - cut)):
        rest -= descending[cut]
        cut += 1
    return [min(weight, max(1, cap)) for weight in weights]


def halvings(weights: NDArray[np.int64]) -> int:
    """Number of doublings of a set's greatest weight that do not exceed a full standing.

    A proposer that wants a shorter step lowers all standings of its set alike. ``weights``: int64,
    shape ``(n,)``, each 1..2**30, of standings alone. All are 1 where every standing is full.

    Example:
        >>> halvings(np.array([2**28, 2**30])), halvings(np.array([2**28, 5]))
        (0, 2)
    """
    most = int(weights.max())
    return 0 if most == 1 else max(0, (MAX_WEIGHT - 1).bit_length() - (most - 1).bit_length())


def usual_rank(f: int, quorum: int) -> int:
    """Rank among the shortest rows of the length that measures others, counted from 1.

    Of any ``quorum`` rows at least ``quorum - f`` are honest, so that the row of this rank is no
    longer than the longest honest one. It is at least ``f + 1``, so that it is no shorter than the
    shortest honest one. A set that is part of another has no smaller length at the same rank: what
    is short enough among many is short enough among some of them.
    """
    return max(f + 1, quorum - f)


def longest(vectors: NDArray[np.int32], f: int, quorum: int) -> tuple[list[int], int]:
    """The squared lengths of the rows, and the greatest that a row may have.

    Args:
        vectors: int32, shape ``(n, d)``, ``n`` above ``f``.
        f: rows that may be anything.
        quorum: fewest rows of a set.

    Returns:
        ``n`` exact integers, and :data:`LENGTHS` squared times the one of :func:`usual_rank`, or
        of the ``f + 1``-th greatest where that one is 0. Neither is longer than the longest honest
        row. Where at most ``f`` rows are not 0 it is 0: they may all be false.

    Complexity: O(n d).
    """
    squares = [int(square) for square in squared_lengths(vectors)]
    ascending = sorted(squares)
    usual = ascending[min(usual_rank(f, quorum), len(squares)) - 1] or ascending[-f - 1]
    return squares, LENGTHS**2 * usual


def cut_to_length(vectors: NDArray[np.int32], f: int, quorum: int) -> NDArray[np.int32]:
    """The rows, those that are too long by :func:`longest` shortened to the greatest length.

    Arguments as there. Returns int32, shape ``(n, d)``: the same array where no row is too long.
    O(n d).
    """
    return cut(vectors, *longest(vectors, f, quorum))


def cut(vectors: NDArray[np.int32], squares: list[int], most: int) -> NDArray[np.int32]:
    """The rows, those whose squared length is above ``most`` shortened to it; see there."""
    far = [row for row, square in enumerate(squares) if square > most]
    if not far:
        return vectors
    shorter: NDArray[np.int32] = shortened(vectors, squares, far, Fraction(most))
    return shorter
