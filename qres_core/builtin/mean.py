"""FedAvg's weighted mean, the built-in aggregation rule ``mean``."""

from __future__ import annotations

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_core.contract.claims import Claims, Reads
from qres_core.contract.hookspecs import hookimpl
from qres_core.contract.types import Updates, Vector

_BLOCK = 8208  # columns at a time; not a power of two, so rows do not share cache sets
_EXACT = 2**53


def weighted_mean(vectors: NDArray[np.int32], weights: NDArray[np.int64]) -> Vector:
    """The weighted mean of grid vectors, rounded half to even; exact.

    ``vectors``: int32, shape ``(n, d)``; ``weights``: int64, shape ``(n,)``, each 1..2**30, ``n``
    at most 2**16. Returns int32, shape ``(d,)``; the same bits on every machine, since every sum is
    of integers. O(n d).
    """
    total = int(weights.sum())
    result = np.empty(vectors.shape[1], dtype=np.int32)
    real_weights = weights.astype(np.float64)
    for start in range(0, vectors.shape[1], _BLOCK):
        block = vectors[:, start : start + _BLOCK]
        largest = max(int(block.max()), -int(block.min()))
        if largest * total < _EXACT:
            # Every partial sum is an integer below 2**53: float64 is exact in any order.
            sums = (real_weights @ block.astype(np.float64)).astype(np.int64)
            quotient, rest = np.divmod(sums, total)
        else:
            quotient, rest = _divide_wide(block, weights, total)
        twice = 2 * rest
        up = (twice > total) | ((twice == total) & (quotient & 1 == 1))
        result[start : start + _BLOCK] = quotient + up
    result.flags.writeable = False
    return result


def _divide_wide(
    block: NDArray[np.int32], weights: NDArray[np.int64], total: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Quotient and remainder of the weighted sum where it may not fit 64 bits.

    The sum is ``high * 2**16 + low`` with ``|high| <= total * 2**15`` and ``low < total * 2**16``;
    with ``total <= 2**46`` no step leaves int64.
    """
    high = weights @ (block >> 16).astype(np.int64)
    low = weights @ (block & 0xFFFF).astype(np.int64)
    quotient, rest = np.divmod(high, total)
    more, rest = np.divmod(rest * 2**16 + low, total)
    return quotient * 2**16 + more, rest


@attrs.frozen
class Mean:
    """The weighted mean, FedAvg (McMahan et al. 2017, algorithm 1). Withstands no liar at all.

    A swarm that promises to withstand liars refuses it, unless ``unprotected`` admits the mismatch
    for a baseline.
    """

    unprotected: bool = attrs.field(
        default=False,
        metadata={"help": "Allow it although swarm.byzantine > 0: one liar moves it anywhere."},
    )

    @property
    def claims(self) -> Claims:
        """The mean works on anything and withstands nobody."""
        tolerates = None if self.unprotected else 0
        return Claims(tolerates=tolerates, averages=True, reads=Reads.COORDINATES)

    @hookimpl
    def aggregate(self, updates: Updates) -> Vector:
        """The mean of the updates by their (capped) weights."""
        return weighted_mean(updates.vectors, updates.weights)
