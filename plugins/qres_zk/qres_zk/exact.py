"""The product of integer vectors, exactly."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

_CHUNK: Final = 2**14


def inner(direction: NDArray[np.int16], vector: NDArray[np.integer]) -> int:
    """Exact ``<direction, vector>``.

    ``direction``: int16, shape ``(d,)``; ``vector``: shape ``(d,)``, entries up to ``2**32``.
    """
    products = direction.astype(np.int64) * vector.astype(np.int64)
    starts = range(0, products.size, _CHUNK)  # 2**14 products below 2**48 fit 64 bits
    return sum(int(products[start : start + _CHUNK].sum()) for start in starts)
