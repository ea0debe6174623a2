"""CAF: filtering along the direction of greatest variance, with no bound on it given."""

from __future__ import annotations

import math
from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray
from qres_arithmetic import Rows, accelerated, check_rows, dominant_eigenvector, packed, sweep

from qres_core import Claims, Needs, Reads, Updates, Vector, Visibility, hookimpl, options
from qres_robust_stats.coefficients import as_floats, centred_gram, combination
from qres_robust_stats.preconditions import check_enough, check_visible
from qres_robust_stats.whole import whole_distances

_FEW: Final = 128
"""Rows; of more, a library's matrix product is faster than a kernel of our own."""


def caf(vectors: Rows, f: int, *, products: NDArray[Any] | None = None) -> Rows:
    """Return the weighted mean whose covariance has the least greatest eigenvalue.

    All vectors begin with weight 1. In each step the weighted covariance, its greatest eigenvalue
    and its eigenvector ``v`` are computed, and every weight is multiplied by ``1 - t[i] / max(t)``
    with ``t[i] = (v.(x[i] - mean))**2``, the maximum over vectors that still have a weight. So at
    least one loses its weight in each step. The steps end once the weights sum to ``n - 2 f`` or
    less; of all weightings seen the one with the least eigenvalue is used, of several the first.

    Args:
        vectors: int32 or floating, shape ``(n, d)``, ``n >= 2 f + 1``; not changed.
        f: vectors that may be anything.
        products: exact inner products of whole int32 vectors, Python integers, shape ``(n, n)``,
            where ``vectors`` are a range of their columns alone.

    Returns:
        shape ``(d,)``, dtype of ``vectors``, new memory. For int32 all steps are specified float64
        operations on exactly computed distances and the last is an exact sum: the same bits
        everywhere.

    Raises:
        ValueRefusedError: QRES-E505 if ``n < 2 f + 1``; QRES-E501 to QRES-E503 for values, shape or
            dtype.
        OptionError: QRES-E105, ``f`` is not an integer of at least 0.

    Complexity:
        the pairwise distances; then at most ``2 f + 1`` dominant eigenvectors of ``(n, n)``
        matrices, and one weighted sum.

    Source:
        Allouah, Guerraoui, Stephan, "Towards Trustworthy Federated Learning with Untrusted
        Participants", ICML 2025: the covariance bound-agnostic filter.

    Example:
        >>> caf(np.array([[0], [2], [4], [900]], dtype=np.int32), 1).tolist()
        [2]
    """
    options.whole(0).check("f", f)
    rows = check_rows(vectors)
    check_enough("caf", len(rows), f, 2 * f + 1, "2 f + 1")
    squares = as_floats(whole_distances(rows, products))
    return combination(rows, np.append(_shares(squares, len(rows) - 2 * f), 0.0))


@attrs.frozen
class Caf:
    """CAF: weigh updates down along the direction in which they vary most, while that helps.

    Robustness: for ``n > 5 f`` the squared error is of order ``f / n`` times the greatest
    eigenvalue of the honest updates' covariance, not its trace: where updates vary in many
    directions alike that is less than any coordinate-wise rule promises by a factor of the
    dimension. Weights have no part in it.

    Attributes:
        f: updates that may be anything, 0 or more. The round needs ``5 f + 1`` updates.

    Raises:
        OptionError: QRES-E105, ``f`` is of another type or too small.

    Complexity: see :func:`caf`.

    Source:
        Allouah, Guerraoui, Stephan, "Towards Trustworthy Federated Learning with Untrusted
        Participants", ICML 2025.

    Example:
        >>> rows = np.array([[0], [2], [4], [1], [3], [900]], dtype=np.int32)
        >>> senders = tuple(bytes([i]) * 32 for i in range(6))
        >>> Caf(f=1).aggregate(Updates(rows, senders, np.ones(6, dtype=np.int64))).tolist()
        [2]
    """

    f: int = attrs.field(**options.liars("5 f + 1 updates"))

    @property
    def claims(self) -> Claims:
        """Single updates, enough of them for the theorem."""
        needs = Needs(visibility=Visibility.GROUP, min_updates=5 * self.f + 1)
        return Claims(tolerates=self.f, needs=needs, reads=Reads.PRODUCTS)

    @hookimpl
    def aggregate(self, updates: Updates) -> Vector:
        """Return the filtered mean."""
        check_visible("caf", updates)
        merged: NDArray[Any] = caf(updates.vectors, self.f, products=updates.products)
        return merged


def _shares(squares: NDArray[np.float64], floor: int) -> NDArray[np.float64]:
    """Shares of the rows in the mean; the steps end once the weights sum to ``floor`` or less."""
    n = len(squares)
    counts = np.ones(n)
    chosen = counts / n
    if n <= _FEW and accelerated():
        from qres_robust_stats.filter_kernels import exact_bits, filtered_shares  # noqa: PLC0415

        if filtered_shares(packed(squares), float(floor), exact_bits(n), chosen):
            return chosen
    least = math.inf
    while True:
        shares = counts / math.fsum(counts.tolist())
        spread, shadows = _widest(squares, shares)
        if spread < least:
            least, chosen = spread, shares
        counts = _filtered(counts, shadows)
        if math.fsum(counts.tolist()) <= floor:
            return chosen


def _widest(
    squares: NDArray[np.float64], shares: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64]]:
    """The greatest variance of the rows in any direction, and their squared shadows on it.

    The covariance has the eigenvalues of the ``(n, n)`` matrix ``M = W G W`` with the centred Gram
    matrix ``G`` and the roots of the shares on the diagonal of ``W``. An eigenvector ``u`` of it
    stands for the direction ``sum(W[i] u[i] (x[i] - z))``, on which the rows throw shadows ``G W
    u``, up to a common factor that no rule here asks for.
    """
    roots = np.sqrt(shares)
    gram = centred_gram(squares, shares)
    matrix = roots[:, None] * gram * roots[None, :]
    vector = dominant_eigenvector(matrix).astype(np.float64)
    stretched = sweep(matrix, vector)
    value = math.fsum((vector * stretched).tolist()) / math.fsum((vector * vector).tolist())
    shadows = sweep(gram, roots * vector)
    return value, shadows * shadows


def _filtered(counts: NDArray[np.float64], shadows: NDArray[np.float64]) -> NDArray[np.float64]:
    alive = counts > 0
    most = float(shadows[alive].max())
    if most == 0:
        return np.zeros_like(counts)  # all that count are one point: nothing is left to do
    factors = np.where(alive, 1.0 - shadows / most, 0.0)
    return counts * np.maximum(factors, 0.0)
