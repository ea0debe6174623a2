"""Statistics of the honest updates, in float64 and without an ``n x d`` copy of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import attrs
import numpy as np
from numpy.typing import NDArray

Real = NDArray[np.float64]
Rows = NDArray[np.int32]

BLOCK: Final = 8208
"""Columns at a time; no power of two, whose stride would map all rows to the same cache sets."""


def centred_blocks(rows: Rows, centre: Real) -> Iterator[tuple[slice, Real]]:
    """``rows - centre``, a block of columns at a time."""
    for start in range(0, rows.shape[1], BLOCK):
        columns = slice(start, start + BLOCK)
        yield columns, rows[:, columns] - centre[columns]


def mean(rows: Rows) -> Real:
    """The mean row, float64, shape ``(d,)``."""
    return np.asarray(np.mean(rows, axis=0, dtype=np.float64))


def deviation(rows: Rows, centre: Real) -> Real:
    """The standard deviation of each column about ``centre`` (divided by ``n``), shape ``(d,)``."""
    result = np.empty_like(centre)
    for columns, block in centred_blocks(rows, centre):
        result[columns] = np.sqrt(np.mean(block**2, axis=0))
    return result


def squared_distances(rows: Rows, row: Real) -> Real:
    """From every row to one, shape ``(n,)``."""
    result = np.zeros(len(rows))
    for _, block in centred_blocks(rows, row):
        result += np.einsum("ij,ij->i", block, block)
    return result


@attrs.frozen(eq=False)
class Spread:
    """Spread of the rows about their mean."""

    to_mean: Real  # squared distance of each row to the mean, shape ``(n,)``
    pairs: Real  # squared distance of each pair, shape ``(n, n)``
    along: Real  # inner product of ``row - mean`` with a direction, shape ``(n,)``

    @classmethod
    def of(cls, rows: Rows, centre: Real, direction: Real) -> Spread:
        """Measure, in one pass over the rows. Complexity: O(n² d)."""
        products = np.zeros((len(rows), len(rows)))
        along = np.zeros(len(rows))
        for columns, block in centred_blocks(rows, centre):
            products += block @ block.T
            along += block @ direction[columns]
        to_mean = np.diagonal(products).copy()
        pairs = to_mean[:, np.newaxis] + to_mean - 2.0 * products
        np.fill_diagonal(pairs, 0.0)
        return cls(to_mean, np.maximum(pairs, 0.0), along)
