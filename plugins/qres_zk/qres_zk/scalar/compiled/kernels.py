"""Loops over scalars in numba. Scalars in arrays are plain; factors come in Montgomery form."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from qres_zk.group.compiled.jit import compiled, part
from qres_zk.scalar.compiled.modular import (
    NOTHING,
    R2,
    R3,
    R4,
    add,
    add_full_product,
    add_pairs,
    add_product,
    add_small_product,
    mul,
    negated,
)

_NONE: Final = np.uint64(0)


@part
def _load(array: Any, i: Any) -> Any:
    return array[i, 0], array[i, 1], array[i, 2], array[i, 3]


@part
def _store(array: Any, i: Any, value: Any) -> None:
    array[i, 0], array[i, 1], array[i, 2], array[i, 3] = value


@part
def _times(factor: Any, value: Any) -> Any:
    """A factor in Montgomery form times an int64."""
    if value < 0:
        return negated(mul(factor, (np.uint64(-value), _NONE, _NONE, _NONE)))
    return mul(factor, (np.uint64(value), _NONE, _NONE, _NONE))


@compiled
def count(bits: Any, values: Any, sums: Any) -> None:
    """Add every value to the sum of its byte, for each of its ``k / 8`` bytes.

    ``bits``: shape ``(m, k / 8)``, read-only; ``values``: shape ``(m,)``, int64; ``sums``: flat
    ``(k / 8, 256)``, int64.
    """
    # Unsigned indices: a signed one is compared with zero, in case it counts from the end.
    for j in range(np.uint64(values.shape[0])):
        value = values[j]
        for t in range(np.uint64(bits.shape[1])):
            sums[(t << np.uint64(8)) + np.uint64(bits[j, t])] += value


@compiled
def subset_sums(gammas: Any, table: Any) -> None:
    """Write the sums of all subsets of eight gammas ``(k, 2)`` each to ``(k / 8, 256, 2)``."""
    for block in range(table.shape[0]):
        table[block, 0, 0] = table[block, 0, 1] = _NONE
        for k in range(8):
            low, high = gammas[8 * block + k, 0], gammas[8 * block + k, 1]
            for subset in range(1 << k):
                item = table[block, subset, 0] + low
                carry = np.uint64(item < low)
                table[block, subset + (1 << k), 0] = item
                table[block, subset + (1 << k), 1] = table[block, subset, 1] + high + carry


@part
def _weight(bits: Any, j: Any, table: Any, low: Any, high: Any) -> Any:
    for t in range(np.uint64(bits.shape[1])):
        at = ((t << np.uint64(8)) + np.uint64(bits[j, t])) << np.uint64(1)
        low, high = add_pairs(low, high, table[at], table[at + np.uint64(1)])
    return low, high


@compiled
def weigh(bits: Any, table: Any, last: Any, out: Any) -> None:
    """Write the weight of every column to ``(m, 2)``; ``table`` is flat, ``last`` two words."""
    for j in range(np.uint64(bits.shape[0])):
        out[j, 0], out[j, 1] = _weight(bits, j, table, last[0], last[1])


@compiled
def weigh_and_add(bits: Any, table: Any, last: Any, factors: Any, totals: Any) -> None:
    """Add for every row its factor, plain, times the weight of every column to ``(m, 7)``.

    ``bits`` are of shape ``(rows, m, k / 8)``, factors of ``(rows, 4)``; sums are not reduced.
    """
    for r in range(np.uint64(bits.shape[0])):
        row = bits[r]
        factor = (factors[r, 0], factors[r, 1], factors[r, 2], factors[r, 3])
        for j in range(np.uint64(row.shape[0])):
            low, high = _weight(row, j, table, last[0], last[1])
            t = totals[j]
            total = add_product((t[0], t[1], t[2], t[3], t[4], t[5], t[6]), factor, low, high)
            t[0], t[1], t[2], t[3], t[4], t[5], t[6] = total


@compiled
def reduce(totals: Any, out: Any) -> None:
    """Reduce ``(m, 7)`` to ``(m, 4)``."""
    for j in range(totals.shape[0]):
        t = totals[j]
        low = mul((t[0], t[1], t[2], t[3]), R2)
        high = mul((t[4], t[5], t[6], _NONE), R3)
        _store(out, j, mul(add(low, high), (np.uint64(1), _NONE, _NONE, _NONE)))


@compiled
def cross_small(weights: Any, values: Any) -> Any:
    """The sums of products over positive and over negative values, four words each, unreduced."""
    positive = NOTHING
    negative = NOTHING
    for j in range(values.shape[0]):
        value = values[j]
        low, high = weights[j, 0], weights[j, 1]
        if value < 0:
            negative = add_small_product(negative, low, high, np.uint64(-value))
        else:
            positive = add_small_product(positive, low, high, np.uint64(value))
    return positive, negative


@compiled
def fold_small(low: Any, high: Any, x: Any, weights: Any, out: Any, out_weights: Any) -> None:
    """Fold int64 values ``low`` and ``high`` and weights ``(2 n, 2)``, to ``(n, 4)`` each."""
    n = low.shape[0]
    for j in range(n):
        kept = (np.uint64(abs(low[j])), _NONE, _NONE, _NONE)
        if low[j] < 0:
            kept = negated(kept)
        _store(out, j, add(kept, _times(x, high[j])))
        first = mul(x, (weights[j, 0], weights[j, 1], _NONE, _NONE))
        second = (weights[n + j, 0], weights[n + j, 1], _NONE, _NONE)
        _store(out_weights, j, add(first, second))


@compiled
def multiply_add(left: Any, factor: Any, right: Any, out: Any) -> None:
    """Write ``left + factor * right``, all ``(n, 4)``."""
    for j in range(left.shape[0]):
        _store(out, j, add(_load(left, j), mul(factor, _load(right, j))))


@compiled
def dot(left: Any, right: Any) -> Any:
    """The sum of the products of ``(n, 4)``."""
    t = (_NONE, _NONE, _NONE, _NONE, _NONE, _NONE, _NONE, _NONE, _NONE)
    for j in range(left.shape[0]):
        t = add_full_product(t, _load(left, j), _load(right, j))
    low, high = mul((t[0], t[1], t[2], t[3]), R2), mul((t[4], t[5], t[6], t[7]), R3)
    total = add(add(low, high), mul((t[8], _NONE, _NONE, _NONE), R4))
    return mul(total, (np.uint64(1), _NONE, _NONE, _NONE))


@compiled
def bits_used(values: Any) -> Any:
    """Of int64 values ``(b, m)``: the or of those not negative and the complements of the rest."""
    used = np.int64(0)
    for c in range(values.shape[0]):
        for j in range(values.shape[1]):
            used |= values[c, j] ^ (values[c, j] >> np.int64(63))
    return used


@compiled
def combine(factors: Any, width: Any, values: Any, sums: Any) -> None:
    """Add to row ``k`` of int64 ``(count, m)`` the values ``(b, m)`` times digit ``k`` of factors.

    Args:
        factors: shape ``(b, 4)``.
        width: bits of a digit, at most 62; no sum may reach ``2**63``.
        values: int64.
        sums: where to.
    """
    mask = np.uint64((np.int64(1) << width) - 1)
    for c in range(values.shape[0]):
        row = values[c]
        for k in range(sums.shape[0]):
            word, shift = (k * width) >> 6, (k * width) & 63
            bits = factors[c, word] >> np.uint64(shift)
            if shift + width > 64 and word < 3:
                bits |= factors[c, word + 1] << np.uint64(64 - shift)
            digit, total = np.int64(bits & mask), sums[k]
            for j in range(row.shape[0]):
                total[j] += digit * row[j]


@compiled
def add_multiple(totals: Any, factor: Any, values: Any) -> None:
    """Add a factor times int64 values ``(m,)`` to ``(m, 4)``."""
    for j in range(values.shape[0]):
        _store(totals, j, add(_load(totals, j), _times(factor, values[j])))
