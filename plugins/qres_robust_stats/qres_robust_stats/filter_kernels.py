"""Numba kernel of CAF's filter for few rows. Import only where numba is in use.

Every step is the same IEEE 754 operation as in :mod:`qres_robust_stats.caf` and
:func:`qres_arithmetic.dominant_eigenvector`, in the same order where the order matters: the same
bits. With few rows the time goes into calls, and here all steps are one.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from qres_arithmetic import compiled

from qres_robust_stats.sum_kernels import TO_WHOLE, Floats, fsum, swept

_UNIT: Final = 2**22
_SQUARINGS: Final = 12


@compiled()
def filtered_shares(squares: Floats, floor: float, bits: int, chosen: Floats) -> bool:
    """Write the shares of the weighted mean that CAF returns.

    Args:
        squares: squared distances of every two rows, shape ``(n, n)``.
        floor: the steps end once the weights sum to this or less.
        bits: of the entries of scaled matrices, see :func:`qres_arithmetic.dominant_eigenvector`.
        chosen: the result, shape ``(n,)``.

    Returns:
        whether all went well; otherwise the general way says what did not.
    """
    n = squares.shape[0]
    counts = np.ones(n)
    gram = np.empty((n, n))
    matrix = np.empty((n, n))
    vector = np.empty(n)
    least = math.inf
    while True:
        shares = counts / fsum(counts)
        roots = np.sqrt(shares)
        mixed = swept(squares, shares)
        spread = fsum(shares * mixed)
        for i in range(n):
            for j in range(n):
                gram[i, j] = 0.5 * ((mixed[i] + mixed[j]) - (squares[i, j] + spread))
                matrix[i, j] = roots[i] * gram[i, j] * roots[j]
                if not math.isfinite(matrix[i, j]):
                    return False
        if not _dominant(matrix, bits, vector):
            return False
        value = fsum(vector * swept(matrix, vector)) / fsum(vector * vector)
        if value < least:
            least = value
            chosen[:] = shares
        shadows = swept(gram, roots * vector)
        _filter(counts, shadows * shadows)
        if fsum(counts) <= floor:
            return True


@compiled()
def _filter(counts: Floats, shadows: Floats) -> None:
    most = 0.0
    for i in range(counts.size):
        if counts[i] > 0:
            most = max(most, shadows[i])
    for i in range(counts.size):
        if most == 0.0 or not counts[i] > 0:
            counts[i] = 0.0
        else:
            counts[i] *= max(1.0 - shadows[i] / most, 0.0)


@compiled()
def _dominant(gram: Floats, bits: int, vector: Floats) -> bool:
    """Find the direction of the largest eigenvalue of at most 512 rows."""
    n = gram.shape[0]
    largest = 0.0
    for i in range(n):
        for j in range(i + 1):
            largest = max(largest, abs(gram[i, j]))
    if largest == 0.0:
        vector[:] = 0.0
        vector[0] = _UNIT
        return True
    power = np.empty((n, n))
    exponent = bits - math.frexp(largest)[1]
    for i in range(n):
        for j in range(i + 1):
            power[i, j] = (math.ldexp(gram[i, j], exponent) + TO_WHOLE) - TO_WHOLE
            power[j, i] = power[i, j]
    square = np.empty((n, n))
    for _ in range(_SQUARINGS):
        _multiply(power, square)
        whole, most, trace = 0.0, 0.0, np.int64(0)
        for i in range(n):
            whole += power[i, i]
            trace += np.int64(square[i, i])
            most = max(most, square[i, i])
        # With 512 rows or fewer both stay below 2**63.
        alone = np.int64(whole) * np.int64(whole)
        if alone - trace <= alone >> np.int64(20):
            break
        shift = 2.0 ** -max(0, math.frexp(most)[1] - bits)
        for i in range(n):
            for j in range(n):
                power[i, j] = (square[i, j] * shift + TO_WHOLE) - TO_WHOLE
    return _widest_column(power, vector)


@compiled()
def _widest_column(power: Floats, vector: Floats) -> bool:
    """Write the column of the largest diagonal entry, scaled so that this entry is the unit."""
    n = power.shape[0]
    k = 0
    for i in range(n):
        if power[i, i] > power[k, k]:
            k = i
    divisor = np.int64(power[k, k])
    if divisor <= 0:
        return False
    for i in range(n):
        entry = np.int64(power[i, k]) * _UNIT
        quotient = entry // divisor
        twice = 2 * (entry - quotient * divisor)
        if twice > divisor or (twice == divisor and quotient % 2 != 0):
            quotient += 1
        vector[i] = quotient
    return True


@compiled(reassociate=True)
def _multiply(power: Floats, square: Floats) -> None:
    """Multiply a symmetric matrix of integers by itself; exact in any order."""
    n = power.shape[0]
    fours = n // 4 * 4
    for i in range(n):
        row = square[i, i:]
        row[:] = 0.0
        for j in range(0, fours, 4):
            w0, w1, w2, w3 = power[i, j], power[i, j + 1], power[i, j + 2], power[i, j + 3]
            x0, x1, x2, x3 = power[j, i:], power[j + 1, i:], power[j + 2, i:], power[j + 3, i:]
            for k in range(row.size):
                row[k] += (w0 * x0[k] + w1 * x1[k]) + (w2 * x2[k] + w3 * x3[k])
        for j in range(fours, n):
            weight, x = power[i, j], power[j, i:]
            for k in range(row.size):
                row[k] += weight * x[k]
        square[i:, i] = row


def exact_bits(n: int) -> int:
    """Bits of integers of which a sum of ``n`` products of two stays within ``2**53``.

    Example:
        >>> exact_bits(20)
        22
    """
    return min(22, (53 - (n - 1).bit_length()) // 2)
