"""The coordinate-wise trimmed mean."""

from __future__ import annotations

from typing import Any

import attrs
from numpy.typing import NDArray
from qres_arithmetic import Blocks, Rows, order_mean

from qres_core import Claims, Needs, Reads, Updates, Vector, Visibility, hookimpl, options
from qres_robust_stats.preconditions import check_enough, check_visible, checked


def trimmed_mean(vectors: Rows | Blocks, f: int) -> NDArray[Any]:
    """Return, for every coordinate, the mean without the ``f`` least and the ``f`` greatest values.

    Args:
        vectors: shape ``(n, d)`` with ``n >= 2 f + 1``: int32 (exact, the mean rounded half to
            even), float32 or float64, or a :class:`~qres_arithmetic.Mixture`. Not changed.
        f: values to cut on each side, 0 or more.

    Returns:
        shape ``(d,)``, the dtype of ``vectors``, new memory.

    Raises:
        OptionError: QRES-E105, ``f`` is not an integer or is negative.
        ValueRefusedError: QRES-E501, QRES-E502, QRES-E503, QRES-E505.

    Complexity:
        one pass through a sorting network, ``O(n log(n)**2 d)`` vector operations and a block of
        columns of memory.

    Example:
        >>> import numpy as np
        >>> trimmed_mean(np.array([[1], [2], [4], [900], [-900]], dtype=np.int32), 1).tolist()
        [2]
    """
    options.whole(0).check("f", f)
    n = checked(vectors).shape[0]
    check_enough("trimmed_mean", n, f, 2 * f + 1, "2 f + 1")
    return order_mean(vectors, f, n - f)


@attrs.frozen
class TrimmedMean:
    """Coordinate-wise trimmed mean: in each coordinate, cut exactly ``f`` values on either side.

    What is left is averaged, rounded half to even on the grid. The result lies within the range of
    the honest updates in every coordinate, whatever ``f`` senders send. The theory has no weights,
    and weights are not looked at.

    Attributes:
        f: updates that may be anything, 0 or more; as many are cut on each side. The round needs
            ``2 f + 1`` updates.

    Raises:
        OptionError: QRES-E105, ``f`` is not an integer or is negative.

    Complexity:
        one read of the input; see :func:`trimmed_mean`.

    Source:
        Yin, Chen, Ramchandran, Bartlett, "Byzantine-Robust Distributed Learning: Towards Optimal
        Statistical Rates", ICML 2018, definition 2. Robustness: Allouah, Farhadkhani, Guerraoui,
        Gupta, Pinot, Stephan, "Fixing by Mixing", AISTATS 2023: ``(f, kappa)``-robust with
        ``kappa = 6 r (1 + r)``, ``r = f / (n - 2 f)``, for ``n > 2 f``; no rule has less than
        ``r``.

    Example:
        >>> import numpy as np
        >>> rows = np.array([[0], [2], [900]], dtype=np.int32)
        >>> senders = tuple(bytes([i]) * 32 for i in range(3))
        >>> TrimmedMean(f=1).aggregate(Updates(rows, senders, np.ones(3, dtype=np.int64))).tolist()
        [2]
    """

    f: int = attrs.field(
        **options.liars("2 f + 1 updates", also=", and of values cut on each side")
    )

    @property
    def claims(self) -> Claims:
        """Single updates, more than twice as many as liars."""
        needs = Needs(visibility=Visibility.GROUP, min_updates=2 * self.f + 1)
        return Claims(tolerates=self.f, needs=needs, reads=Reads.COORDINATES)

    def kappa_bound(self, n: int) -> float:
        """The ``kappa`` of (f, kappa)-robustness with ``n`` updates."""
        ratio = self.f / (n - 2 * self.f)
        return 6 * ratio * (1 + ratio)

    @hookimpl
    def aggregate(self, updates: Updates) -> Vector:
        """Return the trimmed mean of every coordinate."""
        check_visible("trimmed_mean", updates)
        return trimmed_mean(updates.vectors, self.f)
