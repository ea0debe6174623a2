"""Gram matrices with numpy alone, for where the kernels are not in use.

``|x - y|**2 = x.x + y.y - 2 x.y``, so the Gram matrix is all that is needed, and a float64 matrix
product computes it fast. That formula is notorious for cancellation. For integers nothing is ever
rounded: each product runs over so few columns of so small integers that every partial sum is an
integer of magnitude at most ``2**53``, which float64 holds exactly. Exact sums do not depend on
their order, so every machine, BLAS, thread count and use of fused multiply-add gives the same
bits. Floats are multiplied in float64 and not centred: the entry of two rows depends on these two
alone, so that no third sender can spoil it by moving a common centre.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from qres_arithmetic.integers import Integers

_FLOAT64_EXACT: Final = 2**53
_INT64_MAX: Final = 2**63 - 1
_DIRECT_BUDGET: Final = 2**62
_BLOCK_ENTRIES: Final = 2**21
_WIDEST: Final = 8192
_NARROWEST: Final = 256


def exact_gram(vectors: NDArray[np.int32]) -> Integers:
    """Return ``rows @ rows.T`` without any rounding.

    Args:
        vectors: int32, shape ``(n, d)``, any values including ``-2**31``; not changed.

    Returns:
        shape ``(n, n)``: int64 if four times the largest entry fits, else Python integers.

    Complexity:
        ``n**2 d / 2`` multiply-adds for coordinates below about ``2**20``, three times that and a
        split for larger ones. Memory beside the result: a few float64 blocks of about 16 MiB
        (``256 n`` entries if that is more), whatever ``d`` is.
    """
    n, d = vectors.shape
    high, cross, low = (np.zeros((n, n), dtype=np.int64) for _ in range(3))
    # Over all d < 2**32 columns the halves add at most d * 2**30 to `high` and `low` and d * 2**31
    # to `cross`. That leaves `low` 2**62 for the direct products: no sum can wrap.
    budget = _DIRECT_BUDGET
    width = _block_width(n)
    for start in range(0, d, width):
        columns = vectors[:, start : start + width]
        bound = columns.shape[1] * _largest_magnitude(columns) ** 2
        block = columns.astype(np.float64)
        if bound <= min(_FLOAT64_EXACT, budget):
            budget -= bound
            low += gram_direct(block)
        else:
            block_high, block_cross, block_low = gram_halves(block)
            high += block_high
            cross += block_cross
            low += block_low
    return _combine(high, cross, low)


def float_gram(rows: NDArray[np.float32] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``rows @ rows.T``, computed in float64.

    Args:
        rows: float32 or float64, shape ``(n, d)``; not changed.

    Returns:
        float64, shape ``(n, n)``; not finite where a row is not, or where float64 overflows.

    Complexity: ``n**2 d / 2`` multiply-adds; memory as :func:`exact_gram`.
    """
    n, d = rows.shape
    gram = np.zeros((n, n))
    width = _block_width(n)
    with np.errstate(all="ignore"):
        for start in range(0, d, width):
            block = rows[:, start : start + width].astype(np.float64)
            gram += block @ block.T
    return gram


def gram_direct(block: NDArray[np.float64]) -> NDArray[np.int64]:
    """Compute ``block @ block.T`` in one product.

    Args:
        block: integers in float64, shape ``(n, w)``, with ``w * max|x|**2 <= 2**53``.

    Returns:
        int64, shape ``(n, n)``, exact: no sum of any of the ``w`` products exceeds ``2**53``.
    """
    # The operands are finite and small; a few BLAS builds leave stray exception flags all the same.
    with np.errstate(all="ignore"):
        return (block @ block.T).astype(np.int64)


def gram_halves(
    block: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Compute ``block @ block.T`` for the whole int32 range, in three products (Karatsuba's).

    With ``x = 2**16 h + l``, the product is ``2**32 h.h' + 2**16 (h.l' + l.h') + l.l'``, and the
    middle term is ``(h + l).(h' + l') - h.h' - l.l'``.

    Args:
        block: int32 values in float64, shape ``(n, w)``, ``w <= 2**21``.

    Returns:
        the three int64 matrices ``high``, ``cross``, ``low`` of shape ``(n, n)``; the Gram matrix
        is ``2**32 high + 2**16 cross + low``. Exact: rounding to nearest gives ``|h| <= 2**15``
        and ``|l| <= 2**15``, so ``|h + l| <= 2**16`` and ``w`` products stay within
        ``2**21 * 2**32 = 2**53``.
    """
    # Scaling by a power of two and rounding to an integer are exact in float64.
    upper = np.rint(block * 2.0**-16)
    lower = block - upper * 2.0**16
    high = gram_direct(upper)
    low = gram_direct(lower)
    upper += lower
    cross = gram_direct(upper) - high - low
    return high, cross, low


def _combine(high: NDArray[np.int64], cross: NDArray[np.int64], low: NDArray[np.int64]) -> Integers:
    """Return ``2**32 high + 2**16 cross + low``."""
    diagonals = (part.diagonal().tolist() for part in (high, cross, low))
    largest = max((h << 32) + (c << 16) + l_ for h, c, l_ in zip(*diagonals, strict=True))
    if 4 * largest <= _INT64_MAX:
        # By Cauchy-Schwarz the largest entry is on the diagonal: every result fits, and arithmetic
        # modulo 2**64 finds it even where a single term does not fit.
        total = high.view(np.uint64) << np.uint64(32)
        total += cross.view(np.uint64) << np.uint64(16)
        total += low.view(np.uint64)
        return total.view(np.int64)
    wide: NDArray[np.object_] = high.astype(np.object_) * 2**32
    wide += cross.astype(np.object_) * 2**16
    wide += low.astype(np.object_)
    return wide


def _block_width(n: int) -> int:
    """Return the columns of a block: about ``_BLOCK_ENTRIES`` in all, never a power of two.

    Rows a power of two apart fall into the same cache sets and slow the product down.
    """
    return min(_WIDEST, max(_NARROWEST, _BLOCK_ENTRIES // n)) // 32 * 32 + 16


def _largest_magnitude(columns: NDArray[np.int32]) -> int:
    """Return ``max|x|`` as a Python integer; ``abs`` of int32 would wrap at ``-2**31``."""
    return max(-int(columns.min()), int(columns.max()))
