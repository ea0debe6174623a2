"""Details for a kernel of tiles beside the rows: which numbers, and of which mixed rows."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Statistic(NamedTuple):
    """Statistic to compute of a sorted column."""

    low: int  # first order statistic that takes part
    high: int  # one past the last one
    left: int  # the lower middle one
    right: int  # the upper middle one
    # average so many of ``low .. high - 1``: those nearest to the median, of equals the lowest
    taken: int


class Mixing(NamedTuple):
    """Mixture of the rows of a tile in a kernel; all indices are rows."""

    # shape ``(m, k)``, ascending in each row; ``m = 0`` for no mixing
    neighbours: NDArray[np.int64]
    core: NDArray[np.int64]  # rows that are summed once for all
    # for each mixed row, the neighbours outside the core, then the core outside the neighbours
    members: NDArray[np.int64]
    # shape ``(2 m + 1,)``: where each of these lists begins in ``members``
    bounds: NDArray[np.int64]
    # shape ``(m,)``: rows that are always summed from their neighbours alone
    direct: NDArray[np.bool_]
    # what is subtracted must not be larger than this times what stays; 0 where sums are exact
    ratio: float


NO_MIXING: Final = Mixing(
    np.zeros((0, 0), dtype=np.int64),
    np.zeros(0, dtype=np.int64),
    np.zeros(0, dtype=np.int64),
    np.zeros(1, dtype=np.int64),
    np.zeros(0, dtype=np.bool_),
    0.0,
)
