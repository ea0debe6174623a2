"""The mean around the median."""

from __future__ import annotations

from typing import Any

import attrs
from numpy.typing import NDArray
from qres_arithmetic import Blocks, Rows, nearest_mean

from qres_core import Claims, Needs, Reads, Updates, Vector, Visibility, hookimpl, options
from qres_robust_stats.preconditions import check_enough, check_visible, checked


def meamed(vectors: Rows | Blocks, f: int) -> NDArray[Any]:
    """Return, for every coordinate, the mean of the ``n - f`` values nearest to the median.

    The median of an even number of values is the exact half-sum of the two in the middle. The
    nearest values are neighbours in the sorted column; of equally near runs of values the lowest
    counts.

    Args:
        vectors: shape ``(n, d)`` with ``n >= 2 f + 1``: int32 (exact, the mean rounded half to
            even), float32 or float64, or a :class:`~qres_arithmetic.Mixture`. Not changed.
        f: values to leave out, 0 or more.

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
        >>> meamed(np.array([[1], [2], [4], [6], [900]], dtype=np.int32), 2).tolist()
        [4]
    """
    options.whole(0).check("f", f)
    n = checked(vectors).shape[0]
    check_enough("meamed", n, f, 2 * f + 1, "2 f + 1")
    return nearest_mean(vectors, n - f)


@attrs.frozen
class Meamed:
    """Mean around the median: in each coordinate, average the ``n - f`` values nearest the median.

    A far lie is left out, a lie among the honest values counts as one of them. The mean is rounded
    half to even on the grid. The result may leave the range of the honest values by less than that
    range's width, since a value that is kept is no farther from the median than some honest one.
    The theory has no weights, and weights are not looked at.

    Attributes:
        f: updates that may be anything, 0 or more. The round needs ``2 f + 1`` updates.

    Raises:
        OptionError: QRES-E105, ``f`` is not an integer or is negative.

    Complexity:
        one read of the input; see :func:`meamed`.

    Source:
        Xie, Koyejo, Gupta, "Generalized Byzantine-tolerant SGD", 2018, definition 8 (mean around
        median). The paper proves dimensional Byzantine resilience; no ``(f, kappa)`` bound is
        published.

    Example:
        >>> import numpy as np
        >>> rows = np.array([[0], [2], [900]], dtype=np.int32)
        >>> senders = tuple(bytes([i]) * 32 for i in range(3))
        >>> Meamed(f=1).aggregate(Updates(rows, senders, np.ones(3, dtype=np.int64))).tolist()
        [1]
    """

    f: int = attrs.field(**options.liars("2 f + 1 updates", also=", and of values left out"))

    @property
    def claims(self) -> Claims:
        """Single updates, more than twice as many as liars."""
        needs = Needs(visibility=Visibility.GROUP, min_updates=2 * self.f + 1)
        return Claims(tolerates=self.f, needs=needs, reads=Reads.COORDINATES)

    @hookimpl
    def aggregate(self, updates: Updates) -> Vector:
        """Return the mean around the median of every coordinate."""
        check_visible("meamed", updates)
        return meamed(updates.vectors, self.f)
