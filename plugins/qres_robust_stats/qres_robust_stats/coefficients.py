"""Distances to points that are mixtures of the rows, and the mixtures themselves.

Iterative rules such as Weiszfeld's move a point that is always a convex combination
``z = sum(w[j] * x[j])`` of the rows and of a start vector. They need it only through its distances
to the rows, and for weights that sum to one::

    |x[i] - z|**2 = (D w)[i] - w'D w / 2        with D[i, j] = |x[i] - x[j]|**2

so that with the pairwise distances at hand an iteration costs ``O(n**2)``, whatever the dimension
(:class:`Pairwise`). With few iterations on many rows it is cheaper to form the point and compare,
in one read of the rows for each iteration (:class:`Passes`).

Weights have one entry more than there are rows; the last is that of the start vector.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final, Protocol, cast

import attrs
import numpy as np
from numpy.typing import NDArray
from qres_arithmetic import (
    Integers,
    Rows,
    accelerated,
    combine,
    is_packed,
    packed,
    quantised,
    refuse_non_finite,
    run_columns,
    squared_norms,
    sweep,
)

from qres_core.errors import ValueRefusedError
from qres_robust_stats.whole import whole_distances

Floats = NDArray[np.float32] | NDArray[np.float64]

_BLOCK_ENTRIES: Final = 2**17
_WIDEST: Final = 8208
_NARROWEST: Final = 144
# Up to so many entries one copy in float64 costs less than anything that works in blocks.
_SMALL_COMPILED: Final = 2**14
_SMALL: Final = 2**17
_FLOAT64_EXACT: Final = 2**53
# The pairwise distances cost about as much as one read and this many for every row.
_PASSES_A_ROW: Final = 0.02
_FEW: Final = 8
# How far squared distances may be apart before the identity above loses the small ones.
_SOUND: Final = {4: 1e6, 8: 1e14}  # by bytes of a float


class Geometry(Protocol):
    """Knows how far the rows are from any mixture of them."""

    def distances(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the squared distance of every row from the mixture.

        ``weights``: float64, shape ``(n + 1,)``, not negative, summing to 1 up to rounding. Returns
        float64, shape ``(n,)``. Raises ValueRefusedError: QRES-E501, naming float rows that are not
        finite.
        """
        ...

    def mixture(self, weights: NDArray[np.float64]) -> Rows:
        """Return the mixture itself; see :func:`combination`."""
        ...


def geometry(
    rows: Rows,
    start: Rows | None,
    iterations: int,
    products: NDArray[Any] | None = None,
) -> Geometry:
    """Choose how to compute distances to mixtures.

    Args:
        rows: shape ``(n, d)``; not changed.
        start: shape ``(d,)``; the zero vector if left out.
        iterations: how many mixtures will be asked for.
        products: of whole rows, where ``rows`` are a range of their columns; see
            :class:`Pairwise`.

    Returns:
        for int32 always :class:`Pairwise`, whose results are specified to the bit. For floats what
        is faster, and :class:`Passes` where distances differ too much in size for the identity.

    Raises:
        ValueRefusedError: QRES-E501, naming float rows that are not finite.
    """
    if rows.dtype == np.int32:
        return Pairwise(rows, start, products)
    few = _FEW if rows.size <= _SMALL else 1 + _PASSES_A_ROW * len(rows)
    if iterations <= few:
        return Passes(cast("Floats", rows), start)
    return sound(Pairwise(rows, start))


def sound(pairs: Pairwise) -> Geometry:
    """Return ``pairs``, or :class:`Passes` where ``pairs`` would lose the small distances."""
    rows = pairs.rows
    if rows.dtype == np.int32:
        return pairs
    squares = pairs.squares
    typical = np.sort(squares, axis=1)[:, len(rows) // 2].min()
    if squares.max() <= _SOUND[rows.dtype.itemsize] * typical:
        return pairs
    return Passes(cast("Floats", rows), pairs.start)


@attrs.define(eq=False)
class Pairwise:
    """Distances to mixtures from pairwise distances, which are computed when first needed.

    Attributes:
        rows: shape ``(n, d)``.
        start: shape ``(d,)``; the zero vector if left out.
        products: exact inner products of whole int32 rows, Python integers, shape ``(n, n)``, where
            ``rows`` are a range of their columns. Then ``start`` is the zero vector.

    Complexity: the pairwise distances once, then ``O(n**2)`` a call, in the specified order of
    :func:`~qres_arithmetic.sweep`: for int32 the same bits everywhere. For the start vector alone
    no pairwise distances are needed.

    Example:
        >>> rows = np.array([[0], [2], [6]], dtype=np.int32)
        >>> Pairwise(rows).distances(np.array([0.5, 0.5, 0, 0])).tolist()
        [1.0, 1.0, 25.0]
    """

    rows: Rows
    start: Rows | None = None
    products: NDArray[Any] | None = None
    _squares: NDArray[np.float64] | None = attrs.field(init=False, default=None)
    _from_start: NDArray[np.float64] | None = attrs.field(init=False, default=None)

    @property
    def squares(self) -> NDArray[np.float64]:
        """Squared distances of every two rows: float64, shape ``(n, n)``, correctly rounded."""
        if self._squares is None:
            self._squares = as_floats(whole_distances(self.rows, self.products))
        return self._squares

    def distances(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """See :meth:`Geometry.distances`. What rounding makes negative is 0."""
        some, last = weights[:-1], float(weights[-1])
        if not some.any():
            return self._start_squares()
        # Symmetric, and transposed its columns are adjacent.
        exact = self.rows.dtype == np.int32
        mixed = sweep(self.squares.T, some) if exact else self.squares @ some
        terms = (some * mixed).tolist()
        if last:
            away = self._start_squares()
            mixed += away * last
            terms = [*(some * mixed).tolist(), last * math.fsum((some * away).tolist())]
        return np.maximum(mixed - 0.5 * math.fsum(terms), 0.0)

    def mixture(self, weights: NDArray[np.float64]) -> Rows:
        """See :meth:`Geometry.mixture`."""
        return combination(self.rows, weights, self.start)

    def _start_squares(self) -> NDArray[np.float64]:
        if self._from_start is None:
            if self.products is None:
                squares = squared_distances_to(self.rows, self.start)
            else:
                squares = self.products.diagonal()
            self._from_start = as_floats(squares)
        return self._from_start


@attrs.define(eq=False)
class Passes:
    """Distances to mixtures of float rows from the rows themselves, summed in float64.

    Attributes:
        rows: floating, shape ``(n, d)``.
        start: shape ``(d,)``; the zero vector if left out.

    What overflows is infinite; callers silence numpy's warnings of it.

    Complexity: one read of the rows a call; memory is a block of columns.

    Example:
        >>> Passes(np.array([[0.0], [2.0], [6.0]])).distances(np.array([0.5, 0.5, 0, 0])).tolist()
        [1.0, 1.0, 25.0]
    """

    rows: Floats
    start: Rows | None = None
    _small: NDArray[np.float64] | None = attrs.field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        size = self.rows.size
        if size <= _SMALL_COMPILED or (size <= _SMALL and not accelerated()):
            self._small = self.rows.astype(np.float64)

    def distances(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """See :meth:`Geometry.distances`; infinite where a square overflows float64."""
        if self._small is not None:
            difference = self._small
            if self.start is not None or weights[-1] != 1.0:
                difference = difference - self._small_point(difference, weights)
            found: NDArray[np.float64] = np.einsum("ij,ij->i", difference, difference)
        elif accelerated() and is_packed(self.rows):
            found = self._compiled(weights)
        else:
            found = self._in_blocks(weights)
        finite = np.isfinite(found)
        if not finite.all():
            refuse_non_finite(self.rows, np.flatnonzero(~finite).tolist())
            found[~finite] = np.inf
        return found

    def mixture(self, weights: NDArray[np.float64]) -> Rows:
        """See :meth:`Geometry.mixture`."""
        if self._small is not None:
            mixed: NDArray[Any] = self._small_point(self._small, weights).astype(self.rows.dtype)
        elif accelerated() and is_packed(self.rows):
            mixed = self._compiled_mixture(weights)
        else:
            mixed = self._mixture_in_blocks(weights)
        if not np.isfinite(mixed).all():
            refuse_non_finite(self.rows, range(len(self.rows)))
            raise ValueRefusedError.of("QRES-E501", "vectors", "the sum of the rows is not finite")
        return mixed

    def _small_point(
        self, rows: NDArray[np.float64], weights: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        point: NDArray[np.float64] = weights[:-1] @ rows
        if self.start is not None and weights[-1]:
            point += self._origin(float(weights[-1]))
        return point

    def _origin(self, weight: float, columns: slice = slice(None)) -> NDArray[np.float64]:
        """Part of the start vector in a mixture; only asked for where there is one."""
        start = cast("Floats", self.start)[columns]
        return start.astype(np.float64) * weight

    # ── with numpy ────────────────────────────────────────────────────────────────────────────

    def _blocks(
        self, weights: NDArray[np.float64]
    ) -> Iterator[tuple[slice, NDArray[np.float64], NDArray[np.float64]]]:
        """Columns, the rows' part of them in float64 (to be written over), and the mixture's."""
        n, d = self.rows.shape
        width = block_width(n)
        buffer = np.empty((n, min(width, d)))
        used = np.flatnonzero(weights[:-1])
        for left in range(0, d, width):
            columns = slice(left, min(left + width, d))
            block = buffer[:, : columns.stop - left]
            block[:] = self.rows[:, columns]
            if len(used) == n:
                point = weights[:-1] @ block
            elif len(used):
                point = weights[used] @ block[used]
            else:
                point = np.zeros(columns.stop - left)
            if self.start is not None and weights[-1]:
                point += self._origin(float(weights[-1]), columns)
            yield columns, block, point

    def _in_blocks(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        total = np.zeros(len(self.rows))
        for _, block, point in self._blocks(weights):
            np.subtract(block, point, out=block)
            total += np.einsum("ij,ij->i", block, block)
        return total

    def _mixture_in_blocks(self, weights: NDArray[np.float64]) -> Rows:
        mixed = _empty(self.rows.shape[1], self.rows)
        for columns, _, point in self._blocks(weights):
            mixed[columns] = point
        return mixed

    # ── with numba; the kernels are imported where they are used, because that takes time ─────

    def _compiled(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        from qres_robust_stats.pass_kernels import distances_from_mixture  # noqa: PLC0415

        n, d = self.rows.shape
        # The rows are looked at twice only if some of them are mixed.
        width = block_width(n) if weights[:-1].any() else _WIDEST
        parts = self._parts(weights)
        return sum(
            run_columns(
                lambda left, right: distances_from_mixture(*parts, left, right, width), d, width, n
            ),
            np.zeros(n),
        )

    def _compiled_mixture(self, weights: NDArray[np.float64]) -> Rows:
        from qres_robust_stats.pass_kernels import mixture  # noqa: PLC0415

        n, d = self.rows.shape
        parts = self._parts(weights)
        mixed = _empty(d, self.rows)
        run_columns(lambda left, right: mixture(*parts, mixed, left, right, _WIDEST), d, _WIDEST, n)
        return mixed

    def _parts(
        self, weights: NDArray[np.float64]
    ) -> tuple[NDArray[Any], NDArray[np.float64], NDArray[np.intp], NDArray[np.float64]]:
        used = np.flatnonzero(weights[:-1])
        origin = np.empty(0)
        if self.start is not None and weights[-1]:
            origin = self._origin(float(weights[-1]))
        return packed(cast("NDArray[Any]", self.rows)), weights[used], used, origin


def combination(rows: Rows, weights: NDArray[np.float64], start: Rows | None = None) -> Rows:
    """Return the mixture of the rows and a start vector.

    Args:
        rows: shape ``(n, d)``; not changed.
        weights: float64, shape ``(n + 1,)``, not negative, summing to 1 up to rounding; the last is
            that of ``start``.
        start: shape ``(d,)``, dtype of ``rows``; the zero vector if left out.

    Returns:
        shape ``(d,)``, dtype of ``rows``, new memory. For int32 the weights are
        :func:`~qres_arithmetic.quantised`, the sum is exact and rounded half to even.

    Raises:
        ValueRefusedError: QRES-E501 if a float row with a weight is not finite, QRES-E506 for
            weights that are not as stated.

    Complexity: one read of the rows with a weight; memory is a block of columns.

    Example:
        >>> rows = np.array([[8], [16]], dtype=np.int32)
        >>> combination(rows, np.array([0.25, 0.25, 0.5])).tolist()
        [6]
    """
    final: NDArray[Any] = quantised(weights) if rows.dtype == np.int32 else weights
    if not final[-1]:
        return combine(rows, final[:-1])
    used = np.flatnonzero(final[:-1])
    n, d = len(used), rows.shape[1]
    result = _empty(d, rows)
    width = block_width(n + 1)
    chosen = np.append(final[used], final[-1])
    buffer = _empty((n + 1, width), rows)
    for left in range(0, d, width):
        columns = slice(left, min(left + width, d))
        block = buffer[:, : columns.stop - left]
        block[:-1] = rows[:, columns] if n == len(rows) else rows[used, columns]
        block[-1] = 0 if start is None else start[columns]
        result[columns] = combine(block, chosen)
    return result


def squared_distances_to(rows: Rows, point: Rows | None) -> Integers | NDArray[np.float64]:
    """Return the squared distance of every row from one point.

    Args:
        rows: shape ``(n, d)``; not changed.
        point: shape ``(d,)``, dtype of ``rows``; the zero vector if left out.

    Returns:
        shape ``(n,)``. For int32 exact: int64 or Python integers. For floats float64.

    Raises:
        ValueRefusedError: QRES-E501, naming float rows that are not finite.

    Complexity: one read of the rows; memory is a block of columns.

    Example:
        >>> squared_distances_to(np.array([[3, 4], [0, 1]], dtype=np.int32), None).tolist()
        [25, 1]
    """
    if rows.dtype == np.int32:
        whole = cast("NDArray[np.int32]", rows)
        if point is None:
            return squared_norms(whole)
        return _exact_distances(whole, cast("NDArray[np.int32]", point))
    at_start = np.zeros(len(rows) + 1)
    at_start[-1] = 1.0
    with np.errstate(all="ignore"):
        return Passes(cast("Floats", rows), point).distances(at_start)


def centred_gram(squares: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the inner products of the rows' differences from their weighted mean.

    Args:
        squares: squared distances of every two rows, float64, shape ``(n, n)``.
        weights: float64, shape ``(n,)``, not negative, summing to 1 up to rounding. What rows of
            weight zero are does not touch the entries of the others.

    Returns:
        float64, shape ``(n, n)``: entry ``i, j`` is ``(x[i] - z).(x[j] - z)``. From the same input
        the same bits everywhere.

    Complexity: ``O(n**2)``.

    Example:
        >>> line = np.array([0.0, 2.0])
        >>> centred_gram((line[:, None] - line) ** 2, np.array([0.5, 0.5])).tolist()
        [[1.0, -1.0], [-1.0, 1.0]]
    """
    mixed = sweep(squares, weights)
    spread = math.fsum((weights * mixed).tolist())
    with np.errstate(over="ignore", invalid="ignore"):  # refused where a direction is sought
        return 0.5 * ((mixed[:, None] + mixed[None, :]) - (squares + spread))


def as_floats(values: Integers | NDArray[np.float64]) -> NDArray[np.float64]:
    """Round integers to the nearest float64, halves to even; floats stay as they are.

    Example:
        >>> as_floats(np.array([2**53 + 1, 2**70], dtype=object)).tolist()
        [9007199254740992.0, 1.1805916207174113e+21]
    """
    return values.astype(np.float64, copy=False)


def check_start(rows: Rows, start: Rows | None, where: str = "start") -> None:
    """Refuse a start vector that does not fit the rows.

    Raises ValueRefusedError: QRES-E501, QRES-E502, QRES-E503.
    """
    if start is None:
        return
    found: object = getattr(start, "dtype", type(start).__name__)
    if found != rows.dtype:
        raise ValueRefusedError.of("QRES-E503", where, f"expected {rows.dtype}, got {found}")
    if start.shape != rows.shape[1:]:
        what = f"expected shape {rows.shape[1:]}, got {start.shape}"
        raise ValueRefusedError.of("QRES-E502", where, what)
    if rows.dtype != np.int32 and not np.isfinite(start).all():
        raise ValueRefusedError.of("QRES-E501", where, "NaN or infinity")


def block_width(n: int) -> int:
    """Columns of a block of ``n`` rows that stays in cache: no power of two.

    Example:
        >>> [block_width(n) for n in (10, 100, 1000)]
        [8208, 1296, 144]
    """
    return min(_WIDEST, max(_NARROWEST, _BLOCK_ENTRIES // n) // 32 * 32 + 16)


def _empty(shape: int | tuple[int, int], like: Rows) -> NDArray[Any]:
    return np.empty(shape, dtype=cast("Any", like.dtype))


def _exact_distances(rows: NDArray[np.int32], point: NDArray[np.int32]) -> NDArray[np.object_]:
    n, d = rows.shape
    width = block_width(n)
    total = np.array([0] * n, dtype=np.object_)
    if rows.size > _SMALL_COMPILED and accelerated() and is_packed(rows):
        from qres_robust_stats.pass_kernels import exact_halves  # noqa: PLC0415

        whole, centre = packed(rows), packed(point)

        def work(left: int, right: int) -> NDArray[np.object_]:
            high, low = exact_halves(whole, centre, left, right, width).astype(np.object_)
            found: NDArray[np.object_] = high * 2**32 + low
            return found

        for part in run_columns(work, d, width, n):
            total += part
        return total
    for left in range(0, d, width):
        columns = slice(left, min(left + width, d))
        total += _exact_block(rows[:, columns].astype(np.float64), point[columns])
    return total


def _exact_block(block: NDArray[np.float64], point: NDArray[np.int32]) -> NDArray[np.object_]:
    """Sum squares in float64 without rounding: every partial sum is an integer up to ``2**53``."""
    block -= point
    reach = float(np.abs(block).max())
    if reach**2 * block.shape[1] <= _FLOAT64_EXACT:
        return _dots(block, block)
    # |difference| < 2**32, so both halves are at most 2**16, and a block has far fewer than 2**21
    # columns.
    upper = np.rint(block * 2.0**-16)
    block -= upper * 2.0**16
    squares: NDArray[np.object_] = _dots(upper, upper) * 2**32
    squares += _dots(upper, block) * 2**17
    squares += _dots(block, block)
    return squares


def _dots(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.object_]:
    sums: NDArray[np.float64] = np.einsum("ij,ij->i", left, right)
    return sums.astype(np.int64).astype(np.object_)
