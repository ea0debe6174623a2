"""Static clipping: no update is longer than a bound."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Final, cast

import attrs
import numpy as np
from numpy.typing import NDArray
from qres_arithmetic import Rows, check_rows, longer_than, run_columns, shortened, squared_lengths

from qres_core import (
    Claims,
    Needs,
    Reads,
    RoundInfo,
    Updates,
    Vector,
    Visibility,
    fixed,
    hookimpl,
    options,
)
from qres_core.errors import ValueRefusedError
from qres_robust_stats.preconditions import check_visible
from qres_robust_stats.whole import whole_lengths

_CACHED: Final = 2**18
"""Entries that stay in cache between measuring a vector and writing it."""


def clip(
    vectors: Rows, bound: float | Fraction, *, products: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Shorten every vector to a Euclidean length of at most ``bound``, keeping its direction.

    On the grid the arithmetic is exact: a vector ``x`` with ``|x| > bound`` becomes
    ``trunc(q x / 2**30)`` with ``q = floor(2**30 bound / |x|)``, both without any rounding before
    them, and truncation is towards zero. So no length ever exceeds the bound, all machines agree,
    and the length falls short of the bound by at most ``sqrt(d) + |x| / 2**30`` grid steps. Floats
    are multiplied by ``bound / |x|`` and may exceed the bound in their last bits.

    Args:
        vectors: int32, float32 or float64, shape ``(n, d)``. Not changed.
        bound: above 0, in the units of ``vectors`` (on the grid: in steps); read exactly.
        products: exact inner products of whole int32 vectors, Python integers, shape ``(n, n)``,
            where ``vectors`` are a range of their columns alone.

    Returns:
        shape ``(n, d)``, the same dtype, new memory.

    Raises:
        ValueError: ``bound`` is not a finite number above 0.
        ValueRefusedError: QRES-E501, QRES-E502, QRES-E503.

    Complexity:
        ``O(n d)``: two reads of the vectors and one copy.

    Example:
        >>> import numpy as np
        >>> clip(np.array([[3, 4], [12, -16]], dtype=np.int32), 5).tolist()
        [[3, 4], [3, -4]]
    """
    if isinstance(bound, bool) or not math.isfinite(bound) or bound <= 0:
        msg = f"bound must be a finite number above 0, got {bound!r}"
        raise ValueError(msg)
    squared_bound = Fraction(bound) ** 2
    if products is not None:
        squares = whole_lengths(vectors, products)
        return shortened(vectors, squares, longer_than(squares, squared_bound), squared_bound)
    rows = check_rows(vectors)
    result: NDArray[Any] = np.empty(rows.shape, cast("Any", rows.dtype))

    def work(start: int, stop: int) -> None:
        for first in range(start, stop, few):
            some = rows[first : min(first + few, stop)]
            squares = squared_lengths(some)
            longer = longer_than(squares, squared_bound)
            shortened(some, squares, longer, squared_bound, result[first : first + len(some)])

    n, d = rows.shape
    few = max(1, _CACHED // d)
    try:
        run_columns(work, n, few, d)
    except ValueRefusedError:
        squared_lengths(rows)  # names the row by its place among all
        raise
    return result


@attrs.frozen
class Clipping:
    """Static clipping: hand the rule no update that is longer than ``bound``.

    A longer update is shortened and keeps its direction, to the grid's steps. That bounds what one
    update can do to a rule that averages, and is no defence by itself: behind it must be a robust
    rule. A bound below the length of honest updates slows training. Each update is looked at alone;
    weights have no part in it and are passed on as they are.

    Attributes:
        bound: the greatest Euclidean length, in model units, above 0. In grid steps it is
            ``bound * 2**(16 - scale)`` with the scale of the round, exactly.

    Raises:
        OptionError: QRES-E105, ``bound`` is not a finite number above 0.

    Complexity:
        two reads and, if an update is longer than the bound, one copy of the input.

    Source:
        Allouah, Guerraoui, Gupta, Jellouli, Rizk, Stephan, "Adaptive Gradient Clipping for Robust
        Federated Learning", ICLR 2025, section 3, compares it with the adaptive kind. No rule stays
        ``(f, kappa)``-robust behind a fixed bound: honest updates that agree on a vector longer
        than the bound have no spread, and the result misses them all the same.
        :class:`~qres_robust_stats.Arc` has no such case.

    Example:
        >>> import numpy as np
        >>> from qres_lab.testing import make_round_info
        >>> rows = np.array([[3, 4], [12 * 2**16, -16 * 2**16]], dtype=np.int32)
        >>> updates = Updates(rows, (b"a" * 32, b"b" * 32), np.ones(2, dtype=np.int64))
        >>> last = lambda clipped: clipped.vectors[1]
        >>> Clipping(bound=5.0).wrap_aggregate(last, updates, make_round_info(2)).tolist()
        [196608, -262144]
    """

    bound: float = attrs.field(
        validator=options.real(above=0, unit="model units"),
        metadata={"help": "The greatest Euclidean length of an update, in model units. Above 0."},
    )

    @property
    def claims(self) -> Claims:
        """Single updates: what is long in a sum is no longer one sender's doing."""
        needs = Needs(visibility=Visibility.GROUP)
        return Claims(tolerates=None, needs=needs, reads=Reads.PRODUCTS)

    @hookimpl
    def wrap_aggregate(
        self, proceed: Callable[[Updates], Vector], updates: Updates, round_info: RoundInfo
    ) -> Vector:
        """Merge the clipped updates."""
        check_visible("clipping", updates)
        exponent = fixed.FRACTION_BITS - round_info.scale
        steps = Fraction(self.bound) * Fraction(2) ** exponent
        clipped = clip(updates.vectors, steps, products=updates.products)
        return proceed(attrs.evolve(updates, vectors=clipped))
