"""Sums of multiples of points in numba: Pippenger's buckets with signed digits."""

from __future__ import annotations

from typing import Any

import numpy as np

from qres_zk.group.compiled.curve import add_niels, add_point, double, set_neutral
from qres_zk.group.compiled.jit import compiled, part


@compiled
def scalar_digits(scalars: Any, width: Any, out: Any) -> None:
    """Cut scalars ``(n, 4)``, below ``2**253``, into signed digits ``(count, n)``."""
    full = np.int64(1) << width
    mask = np.uint64(full - 1)
    for i in range(scalars.shape[0]):
        carry: Any = np.int64(0)
        for k in range(out.shape[0]):
            word, shift = (k * width) >> 6, (k * width) & 63
            bits = np.uint64(0)
            if word < 4:
                bits = scalars[i, word] >> np.uint64(shift)
                if shift + width > 64 and word < 3:
                    bits |= scalars[i, word + 1] << np.uint64(64 - shift)
            digit = np.int64(bits & mask) + carry
            carry = np.int64(0)
            if digit > full >> 1:
                digit -= full
                carry = np.int64(1)
            out[k, i] = digit


@part
def _value_digits(values: Any, out: Any) -> None:
    """Cut int32 values ``(m,)`` into four signed digits of 8 bits ``(4 m,)``."""
    m = values.shape[0]
    for j in range(m):
        value = np.int64(values[j])
        sign = np.int64(-1) if value < 0 else np.int64(1)
        rest = sign * value
        carry: Any = np.int64(0)
        for k in range(4):
            digit = (rest & np.int64(255)) + carry
            rest >>= np.int64(8)
            carry = np.int64(0)
            if digit > 128:
                digit -= np.int64(256)
                carry = np.int64(1)
            out[k * m + j] = sign * digit


@part
def _bucket_sum(niels: Any, digits: Any, buckets: Any, used: Any, sums: Any) -> None:
    """Write the sum of ``digits[i]`` times point ``i`` to the second of the two ``sums``."""
    used[:] = False
    for i in range(digits.shape[0]):
        digit = np.int64(digits[i])
        if digit != 0:
            bucket = abs(digit) - 1
            at = np.uint64(20 * bucket)
            if not used[bucket]:
                used[bucket] = True
                set_neutral(buckets, at)
            add_niels(buckets, at, niels, np.uint64(15 * i), digit < 0)
    set_neutral(sums, np.uint64(0))
    set_neutral(sums, np.uint64(20))
    started = False
    for k in range(used.shape[0] - 1, -1, -1):
        if used[k]:
            add_point(sums, np.uint64(0), buckets, np.uint64(20 * k))
            started = True
        if started:
            add_point(sums, np.uint64(20), sums, np.uint64(0))


@compiled
def sum_rows(niels: Any, digits: Any, size: Any, out: Any) -> None:
    """Write for each row of digits the sum of the multiples.

    ``niels``: affine points, ``(n, 15)``; ``digits``: int16, shape ``(rows, n)``; ``out``: points,
    ``(rows, 20)``.
    """
    flat, to = niels.reshape(-1), out.reshape(-1)
    buckets = np.empty(20 * size, np.uint64)
    used = np.empty(size, np.bool_)
    sums = np.empty(40, np.uint64)
    for k in range(digits.shape[0]):
        _bucket_sum(flat, digits[k], buckets, used, sums)
        for word in range(20):
            to[20 * k + word] = sums[20 + word]


@compiled
def join_windows(points: Any, width: Any, out: Any) -> None:
    """Write the sum of ``2**(width * k)`` times point ``k`` of ``(rows, 20)`` to ``(1, 20)``."""
    flat, to = points.reshape(-1), out.reshape(-1)
    set_neutral(to, np.uint64(0))
    for k in range(points.shape[0] - 1, -1, -1):
        double(to, np.uint64(0), width)
        add_point(to, np.uint64(0), flat, np.uint64(20 * k))


@compiled
def row_digits(values: Any, out: Any) -> None:
    """Cut int32 values ``(b, m)`` into digits ``(b, 4 m)``."""
    for c in range(values.shape[0]):
        _value_digits(values[c], out[c])


@compiled
def multiply_levels(points: Any, levels: Any, width: Any, out: Any) -> None:
    """Write each of ``(n, 20)`` times ``2**(width * k)`` to row ``k n + j`` of ``out``."""
    words = 20 * points.shape[0]
    of, to = points.reshape(-1), out.reshape(-1)
    for i in range(words):
        to[i] = of[i]
    for i in range(words, words * levels):
        to[i] = to[i - words]
        if (i + 1) % 20 == 0:
            double(to, np.uint64(i - 19), width)


@compiled
def add_points(points: Any, others: Any) -> None:
    """Add ``others`` to ``points``, both ``(n, 20)``, in place."""
    flat, more = points.reshape(-1), others.reshape(-1)
    for i in range(points.shape[0]):
        add_point(flat, np.uint64(20 * i), more, np.uint64(20 * i))
