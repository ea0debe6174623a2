"""What a kernel of tiles is told beside the rows: which numbers, and of which mixed rows."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Statistic(NamedTuple):
    """What to compute of a sorted column."""

    low: int
    """First order statistic that takes part."""
    high: int
    """One past the last one."""
    left: int
    """The lower middle one."""
    right: int
    """The upper middle one."""
    taken: int
    """Average so many of ``low .. high - 1``: those nearest to the median, of equals the lowest."""


class Mixing(NamedTuple):
    """How a kernel mixes the rows of a tile; all indices are rows."""

    neighbours: NDArray[np.int64]
    """Shape ``(m, k)``, ascending in each row; ``m = 0`` for no mixing."""
    core: NDArray[np.int64]
    """Rows that are summed once for all."""
    members: NDArray[np.int64]
    """For each mixed row, the neighbours outside the core, then the core outside the neighbours."""
    bounds: NDArray[np.int64]
    """Shape ``(2 m + 1,)``: where each of these lists begins in ``members``."""
    direct: NDArray[np.bool_]
    """Shape ``(m,)``: rows that are always summed from their neighbours alone."""
    ratio: float
    """What is subtracted must not be larger than this times what stays; 0 where sums are exact."""


NO_MIXING: Final = Mixing(
    np.zeros((0, 0), dtype=np.int64),
    np.zeros(0, dtype=np.int64),
    np.zeros(0, dtype=np.int64),
    np.zeros(1, dtype=np.int64),
    np.zeros(0, dtype=np.bool_),
    0.0,
)
