"""Adaptive robust clipping: the bound comes from the updates themselves."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import attrs
from numpy.typing import NDArray
from qres_arithmetic import Rows, check_rows, shortened

from qres_core import Claims, Needs, Reads, Updates, Vector, Visibility, hookimpl, options
from qres_robust_stats.preconditions import check_enough, check_visible
from qres_robust_stats.whole import whole_lengths


def arc(vectors: Rows, f: int, *, products: NDArray[Any] | None = None) -> NDArray[Any]:
    """Shorten the ``k`` longest vectors to the length of the next one, keeping directions.

    ``k = floor(2 (f / n) (n - f))``, in integers. With the length ``C`` of the ``k + 1``-th
    longest, every vector longer than ``C`` is shortened to ``C`` as
    :func:`~qres_robust_stats.clip` does it: on the grid without any rounding but the truncation of
    coordinates towards zero, so that no length ever exceeds ``C``.

    Args:
        vectors: shape ``(n, d)`` with ``n >= 2 f + 1``: int32 (exact), float32 or float64. Not
            changed.
        f: vectors that may be anything, 0 or more.
        products: exact inner products of whole int32 vectors, Python integers, shape ``(n, n)``,
            where ``vectors`` are a range of their columns alone.

    Returns:
        shape ``(n, d)``, the same dtype, new memory.

    Raises:
        OptionError: QRES-E105, ``f`` is not an integer or is negative.
        ValueRefusedError: QRES-E501, QRES-E502, QRES-E503, QRES-E505.

    Complexity:
        ``O(n d + n log n)``: two reads of the vectors and one copy.

    Example:
        >>> import numpy as np
        >>> arc(np.array([[3, 4], [0, 1], [0, 10], [-20, 0]], dtype=np.int32), 1).tolist()
        [[3, 4], [0, 1], [0, 10], [-10, 0]]
    """
    options.whole(0).check("f", f)
    check_enough("arc", len(check_rows(vectors)), f, 2 * f + 1, "2 f + 1")
    squares = whole_lengths(vectors, products)
    square = sorted(squares, reverse=True)[clipped_count(len(vectors), f)]
    longer = [row for row, other in enumerate(squares) if other > square]
    return shortened(vectors, squares, longer, Fraction(square))


def clipped_count(n: int, f: int) -> int:
    """Compute ``floor(2 (f / n) (n - f))``, how many of ``n`` vectors are clipped.

    Args:
        n: vectors, at least ``2 f + 1``.
        f: vectors that may be anything.

    Returns:
        less than ``n``: at least ``f`` for every allowed ``n``.

    Example:
        >>> [clipped_count(11, f) for f in range(6)]
        [0, 1, 3, 4, 5, 5]
    """
    return 2 * f * (n - f) // n


@attrs.frozen
class Arc:
    """Adaptive robust clipping: shorten the ``k`` longest updates to the length of the next one.

    ``k = floor(2 (f / n) (n - f))`` is between ``f`` and ``2 f``, so a liar never sets the bound
    alone, and honest updates that agree stay as they are. There is nothing to tune. The clipped
    updates go on from the same senders with the same weights; the clipping itself has no weights,
    as in the paper.

    Attributes:
        f: updates that may be anything, 0 or more. The round needs ``2 f + 1`` updates, and the
            rule should be given the same ``f``.

    Raises:
        OptionError: QRES-E105, ``f`` is not an integer or is negative.

    Complexity:
        two reads and, if an update is longer than the bound, one copy of the input.

    Source:
        Allouah, Guerraoui, Gupta, Jellouli, Rizk, Stephan, "Adaptive Gradient Clipping for Robust
        Federated Learning", ICLR 2025, algorithm 2: behind it a rule that is ``(f, kappa)``-robust
        is so with ``kappa + O(f / (n - 2 f))``, for ``n > 2 f``.

    Example:
        >>> import numpy as np
        >>> rows = np.array([[3, 4], [0, 1], [0, 10], [-20, 0]], dtype=np.int32)
        >>> senders = tuple(bytes([i]) * 32 for i in range(4))
        >>> updates = Updates(rows, senders, np.ones(4, dtype=np.int64))
        >>> Arc(f=1).wrap_aggregate(lambda clipped: clipped.vectors[3], updates).tolist()
        [-10, 0]
    """

    f: int = attrs.field(
        **options.liars("2 f + 1 updates", also="; the 2 (f / n) (n - f) longest are clipped")
    )

    @property
    def claims(self) -> Claims:
        """Single updates, more than twice as many as liars."""
        needs = Needs(visibility=Visibility.GROUP, min_updates=2 * self.f + 1)
        return Claims(tolerates=self.f, needs=needs, reads=Reads.PRODUCTS)

    @hookimpl
    def wrap_aggregate(self, proceed: Callable[[Updates], Vector], updates: Updates) -> Vector:
        """Merge the clipped updates."""
        check_visible("arc", updates)
        clipped = arc(updates.vectors, self.f, products=updates.products)
        return proceed(attrs.evolve(updates, vectors=clipped))
