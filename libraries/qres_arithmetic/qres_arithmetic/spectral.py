"""The dominant eigenvector of a Gram matrix, the same bits on every machine."""

from __future__ import annotations

from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from qres_arithmetic.rounding import round_half_even
from qres_core.errors import ValueRefusedError

UNIT: Final = 2**22
"""The largest entry of the vector."""

_SQUARINGS: Final = 12
_RANK_ONE: Final = 2**20
_MOST_ROWS: Final = 2**20
_EXACT_BITS: Final = 53
_DTYPES: Final = frozenset({np.dtype(np.int64), np.dtype(np.object_), np.dtype(np.float64)})


def dominant_eigenvector(gram: NDArray[Any]) -> NDArray[np.int64]:
    """Return the direction of the largest eigenvalue of a symmetric positive semidefinite matrix.

    The method, in integers throughout, where ``round`` is to the nearest and halves to even:

    1. Let ``b = min(22, (53 - bits(n - 1)) // 2)``, with ``bits(m)`` the number of binary digits of
       ``m``. Sums of ``n`` products of two integers of magnitude at most ``2**b`` then stay within
       ``2**53``, which float64 holds exactly, so that any matrix product is exact in any order.
    2. Let ``e`` be the least integer with ``max|gram| < 2**e``. Of integers, take
       ``P = round(gram / 2**max(0, e - b))``; of floats, ``P = round(gram * 2**(b - e))``. Only the
       lower triangle is read; the upper one is its mirror image.
    3. Twelve times: compute ``Q = P P``. If ``trace(P)**2 * (2**20 - 1) <= trace(Q) * 2**20``, the
       eigenvalues of ``P`` beside the first are lost in its rounding: stop. Otherwise let ``e`` be
       the least integer with ``max|Q| < 2**e`` and replace ``P`` by
       ``round(Q / 2**max(0, e - b))``.
    4. Let ``k`` be the place of the largest diagonal entry of ``P``, of several the first. The
       result is ``round(2**22 * P[i, k] / P[k, k])``.

    So ``P`` is a power of the matrix, at most the 4096th, in which all other directions have died
    out. Starting from a single vector instead would let that vector be chosen orthogonal to the
    direction sought; of the whole power, no direction is missing. An eigenvalue within about a
    thousandth of the largest is not told apart from it, and the result is then a vector in the
    space of both.

    Args:
        gram: int64, Python integers (dtype object) or float64, shape ``(n, n)``, symmetric and
            positive semidefinite up to rounding.

    Returns:
        int64, shape ``(n,)``: the largest entry is ``2**22``, which fixes the sign. For a zero
        matrix, the first entry is ``2**22`` and the others are 0.

    Raises:
        ValueRefusedError: QRES-E501 for a float matrix that is not finite; QRES-E502 for a shape
            that is not ``(n, n)`` with ``1 <= n <= 2**20``; QRES-E503 for another dtype.
        ValueError: the matrix is not positive semidefinite, as its diagonal shows.

    Complexity: at most twelve products of ``(n, n)`` matrices.

    Example:
        >>> dominant_eigenvector(np.array([[4, -2], [-2, 1]])).tolist()
        [4194304, -2097152]
    """
    n = _checked(gram)
    bits = min(22, (_EXACT_BITS - (n - 1).bit_length()) // 2)
    power = _lower_mirrored(_scaled(gram, bits))
    if not power.any():
        return _unit(n)
    for _ in range(_SQUARINGS):
        # Exact, see step 1; a few BLAS builds leave stray exception flags all the same.
        with np.errstate(all="ignore"):
            square = power @ power.T  # symmetric: a product of half the cost
        if _trace(power) ** 2 * (_RANK_ONE - 1) <= _trace(square) * _RANK_ONE:
            break
        # No entry of a Gram matrix is larger than all of its diagonal. Scaling by a power of two is
        # exact, and `rint` rounds halves to even.
        square *= 2.0 ** -max(0, _exponent(square.diagonal().max()) - bits)
        power = np.rint(square, out=square)
    k = int(np.argmax(power.diagonal()))
    column = power[:, k].astype(np.int64)
    if column[k] <= 0:
        raise ValueError("gram is not positive semidefinite: no positive entry on its diagonal")
    return round_half_even(column * UNIT, int(column[k]))


def _checked(gram: NDArray[Any]) -> int:
    """Return ``n``, or refuse the matrix."""
    if gram.dtype not in _DTYPES:
        raise ValueRefusedError.of(
            "QRES-E503", "gram", f"expected int64, Python integers or float64, got {gram.dtype}"
        )
    n = len(gram) if gram.ndim else 0
    if gram.shape != (n, n) or not 1 <= n <= _MOST_ROWS:
        raise ValueRefusedError.of("QRES-E502", "gram", f"expected (n, n), got {gram.shape}")
    if gram.dtype == np.float64 and not np.isfinite(gram).all():
        raise ValueRefusedError.of("QRES-E501", "gram", "NaN or infinity in the matrix")
    return n


def _scaled(gram: NDArray[Any], bits: int) -> NDArray[np.float64]:
    """Return integers of magnitude at most ``2**bits`` in proportion to the entries."""
    if gram.dtype == np.float64:
        lower = np.tril(gram)
        whole: NDArray[np.float64] = np.rint(np.ldexp(lower, bits - _exponent(np.abs(lower).max())))
        return whole
    entries = cast("list[list[int]]", gram.tolist())
    largest = max(abs(entry) for i, row in enumerate(entries) for entry in row[: i + 1])
    shift = max(0, largest.bit_length() - bits)
    if gram.dtype == np.int64:
        return round_half_even(gram, 1 << shift).astype(np.float64)
    return np.array([[_shifted(entry, shift) for entry in row] for row in entries], dtype=float)


def _lower_mirrored(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    lower = np.tril(matrix)
    return lower + np.tril(lower, -1).T


def _shifted(entry: int, shift: int) -> int:
    """Return ``entry / 2**shift``, rounded to the nearest, halves to even."""
    if shift == 0:
        return entry
    quotient, rest = entry >> shift, entry & ((1 << shift) - 1)
    half = 1 << (shift - 1)
    return quotient + (rest > half or (rest == half and quotient & 1 == 1))


def _exponent(largest: float) -> int:
    """Return the least ``e`` with ``largest < 2**e``; 0 for 0."""
    return int(np.frexp(largest)[1])


def _trace(matrix: NDArray[np.float64]) -> int:
    """Sum integers below ``2**63`` in size, exactly."""
    return sum(matrix.diagonal().astype(np.int64).tolist())


def _unit(n: int) -> NDArray[np.int64]:
    vector = np.zeros(n, dtype=np.int64)
    vector[0] = UNIT
    return vector
