"""Updates of a round that lie far from the rest: distance to the coordinate-wise median.

All arithmetic is in integers, so every node that sees the same set finds the same outliers.
"""

from __future__ import annotations

import hashlib
from fractions import Fraction
from typing import Final

import numpy as np
from numpy.typing import NDArray

FEWEST: Final = 3
"""Below this number of updates there is no majority to be far from."""
_BLOCK: Final = 4096
_LOW_BITS: Final = 17


def sample_columns(
    vectors: NDArray[np.int32], model_digest: bytes, count: int
) -> NDArray[np.intp] | None:
    """Choose coordinates that no sender knew when it made its update.

    One from each of ``count`` equal stretches, drawn with a seed from the round's model and the
    sums of all updates of the round. From the model alone, a sender would know where not to lie.

    Args:
        vectors: int32, shape ``(n, d)``.
        model_digest: names the round's model, 32 bytes.
        count: how many; 0 for all.

    Returns:
        ascending distinct indices, intp, shape ``(count,)``; ``None`` if all ``d`` are to be used.

    Complexity: O(n d) for the sums.
    """
    d = vectors.shape[1]
    if count == 0 or d <= count:
        return None
    sums = vectors.sum(axis=1, dtype=np.int64).astype("<i8")
    seed = hashlib.sha256(b"qres/reputation/sample/v1\0" + model_digest + sums.tobytes()).digest()
    # Raw words of the bit generator: the same in every release of numpy, unlike its `choice`.
    raw = np.random.PCG64(np.random.SeedSequence(int.from_bytes(seed))).random_raw(count)
    edges = np.arange(count + 1, dtype=np.int64) * d // count
    offsets = raw.astype(np.uint64) % np.diff(edges).astype(np.uint64)
    chosen: NDArray[np.intp] = (edges[:-1] + offsets.astype(np.int64)).astype(np.intp)
    return chosen


def squared_distances(
    vectors: NDArray[np.int32], columns: NDArray[np.intp] | None = None
) -> list[int]:
    """Return every row's squared distance to the coordinate-wise median, exactly.

    Args:
        vectors: int32, shape ``(n, d)``, any values.
        columns: coordinates to look at; all if ``None``.

    Returns:
        ``n`` integers in squared *half* grid steps: the median of an even number lies between two.

    Complexity: O(n log n) for each coordinate looked at; blocks of 4096 coordinates in memory.
    """
    n = vectors.shape[0]
    total = vectors.shape[1] if columns is None else len(columns)
    sums = [0] * n
    for start in range(0, total, _BLOCK):
        stop = start + _BLOCK
        block = vectors[:, start:stop] if columns is None else vectors[:, columns[start:stop]]
        twice = 2 * block.astype(np.int64)
        ordered = np.sort(twice, axis=0)
        median = (ordered[(n - 1) // 2] + ordered[n // 2]) // 2  # of even numbers: no rounding
        away = np.abs(twice - median)  # at most 2**33
        # A square may need 66 bits: square two halves of it.
        high, low = away >> _LOW_BITS, away & (2**_LOW_BITS - 1)
        parts = ((high * high, 2 * _LOW_BITS), (high * low, _LOW_BITS + 1), (low * low, 0))
        for values, shift in parts:
            for row, value in enumerate(values.sum(axis=1).tolist()):
                sums[row] += value << shift
    return sums


def far_rows(
    vectors: NDArray[np.int32], factor: Fraction, columns: NDArray[np.intp] | None = None
) -> list[bool]:
    """Say which rows are farther from the median than ``factor`` times the median distance.

    The yardstick is the upper median of the distances, and no less than one grid step in every
    coordinate, so that rounding sets nobody apart where updates are all but equal.

    Args:
        vectors: int32, shape ``(n, d)``.
        factor: 1 or more.
        columns: coordinates to look at; all if ``None``.

    Returns:
        ``n`` truth values; all false for fewer than three rows.
    """
    n, d = (int(size) for size in vectors.shape)
    if n < FEWEST:
        return [False] * n
    distances = squared_distances(vectors, columns)
    least = 4 * (d if columns is None else len(columns))
    bound = factor**2 * max(sorted(distances)[n // 2], least)
    return [distance > bound for distance in distances]
