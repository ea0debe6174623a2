"""The coordinate-wise median, plain and weighted."""

from __future__ import annotations

import math
from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray
from qres_arithmetic import Blocks, Rows, check_finite, order_mean

from qres_core import Claims, Needs, Reads, Updates, Vector, Visibility, hookimpl, options
from qres_robust_stats.preconditions import check_visible, checked
from qres_robust_stats.weights import (
    as_limit,
    capped,
    check_weights,
    fewest_weighted,
    refuse_heavy,
)

_BLOCK_ENTRIES: Final = 2**16


def median(vectors: Rows | Blocks, weights: NDArray[np.int64] | None = None) -> NDArray[Any]:
    """Return the median of every coordinate.

    Without weights: the middle of the sorted column, or of two in the middle the half-sum, on the
    grid rounded half to even. With weights: the mean, rounded likewise, of the least value up to
    which the column holds half of all weight or more and the least up to which it holds more than
    half; these are one value unless the weight divides evenly. Equal weights give the plain median.

    Args:
        vectors: shape ``(n, d)``, at least one row: int32 (exact), float32 or float64, or a
            :class:`~qres_arithmetic.Mixture`. Not changed.
        weights: int64, shape ``(n,)``, each 1..1000 * 2**30, as they shall count: nothing is capped
            here. Only their proportions matter.

    Returns:
        shape ``(d,)``, the dtype of ``vectors``, new memory.

    Raises:
        ValueRefusedError: QRES-E501, QRES-E502, QRES-E503, QRES-E505 for the vectors, QRES-E506
            for the weights.

    Complexity:
        one pass through a sorting network, ``O(n log(n)**2 d)`` vector operations and a block of
        columns of memory; with weights a sort, ``O(n log(n) d)``.

    Example:
        >>> median(np.array([[1], [2], [5], [90]], dtype=np.int32)).tolist()
        [4]
        >>> rows = np.array([[1], [5], [90]], dtype=np.int32)
        >>> median(rows, np.array([1, 1, 2])).tolist()
        [48]
    """
    n = checked(vectors).shape[0]
    if weights is None:
        return order_mean(vectors, (n - 1) // 2, n // 2 + 1)
    return _weighted_median(vectors, check_weights(weights, n))


def _weighted_median(vectors: Rows | Blocks, weights: NDArray[np.int64]) -> NDArray[Any]:
    n, d = vectors.shape
    total = int(weights.sum())
    # The weight up to a value is half or more, or more than half, exactly when it is at least:
    thresholds = (-(-total // 2), total // 2 + 1)
    result = np.empty(d, dtype=vectors.dtype)
    width = max(16, _BLOCK_ENTRIES // n)
    for start in range(0, d, width):
        block = _columns(vectors, start, min(start + width, d))
        check_finite(block)
        order = np.argsort(block, axis=0, kind="stable")
        held = np.cumsum(weights[order], axis=0)
        places = np.stack([(held >= least).argmax(axis=0) for least in thresholds])
        middle: NDArray[Any] = np.take_along_axis(
            block, np.take_along_axis(order, places, axis=0), axis=0
        )
        result[start : start + width] = order_mean(middle, 0, 2)
    return result


def _columns(vectors: Rows | Blocks, start: int, stop: int) -> NDArray[Any]:
    if isinstance(vectors, np.ndarray):
        return vectors[:, start:stop]
    return vectors.block(start, stop)


@attrs.frozen
class Median:
    """Coordinate-wise median: each coordinate of the result is the median of that coordinate.

    The result lies within the range of the honest updates in every coordinate, whatever ``f``
    senders send. An even number of updates gives the half-sum of the two in the middle, rounded
    half to even on the grid, so all nodes compute the same bits.

    By default every update counts once. With ``weighted = true`` an update counts by its weight
    (the claimed examples, capped by ``swarm.weight_cap``, times the sender's standing), but never
    more than ``weight_limit`` times the lower median weight. The round then needs so many updates
    that no claims whatever give ``f`` senders half of all weight.

    Attributes:
        f: updates that may be anything, 0 or more. The round needs ``2 f + 1`` updates; with
            weights ``2 ceil(f (weight_limit + 1) - 1)`` if that is more.
        weighted: count updates by weight.
        weight_limit: what one update may count, in lower median weights, 1 or more, to three
            decimals. Means nothing without ``weighted``.

    Raises:
        OptionError: QRES-E105, an option is of another type or too small; the message names it.

    Complexity:
        one read of the input; see :func:`median`.

    Source:
        Yin, Chen, Ramchandran, Bartlett, "Byzantine-Robust Distributed Learning: Towards Optimal
        Statistical Rates", ICML 2018, definition 1. Robustness: Allouah, Farhadkhani, Guerraoui,
        Gupta, Pinot, Stephan, "Fixing by Mixing", AISTATS 2023: unweighted it is
        ``(f, kappa)``-robust with ``kappa = 4 (1 + f / (n - 2 f))**2`` for ``n > 2 f``.

    Example:
        >>> rows = np.array([[0], [2], [900]], dtype=np.int32)
        >>> senders = tuple(bytes([i]) * 32 for i in range(3))
        >>> Median(f=1).aggregate(Updates(rows, senders, np.ones(3, dtype=np.int64))).tolist()
        [2]
    """

    f: int = attrs.field(**options.liars("2 f + 1 updates, more with weights"))
    weighted: bool = attrs.field(
        default=False,
        validator=options.flag(),
        metadata={"help": "Count updates by their capped weights instead of once each."},
    )
    weight_limit: float = attrs.field(
        default=2.0,
        validator=options.real(1),
        metadata={
            "help": "With weighted: no update counts more than this many times the lower median "
            "weight. 1 or more."
        },
    )

    @property
    def claims(self) -> Claims:
        """Single updates, enough of them that ``f`` liars have less than half of all weight."""
        needs = Needs(visibility=Visibility.GROUP, min_updates=self._fewest)
        return Claims(tolerates=self.f, needs=needs, reads=Reads.COORDINATES)

    def kappa_bound(self, n: int) -> float:
        """The ``kappa`` of (f, kappa)-robustness with ``n`` updates that count once each."""
        if self.weighted and self.weight_limit > 1:
            return math.inf
        return 4 * (1 + self.f / (n - 2 * self.f)) ** 2

    @hookimpl
    def aggregate(self, updates: Updates) -> Vector:
        """Return the median of every coordinate."""
        check_visible("median", updates)
        if not self.weighted:
            return median(updates.vectors)
        counted = capped(updates.weights, as_limit(self.weight_limit))
        refuse_heavy(counted, self.f)
        return median(updates.vectors, counted)

    @property
    def _fewest(self) -> int:
        if self.weighted:
            return fewest_weighted(self.f, as_limit(self.weight_limit))
        return 2 * self.f + 1
