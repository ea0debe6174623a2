"""Sums of multiples of points: Pippenger's buckets with signed digits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from qres_zk.group.reference.curve import (
    NEUTRAL,
    Niels,
    add,
    add_niels,
    double,
    negated_niels,
)
from qres_zk.group.reference.limbs import Extended


def signed_digits(value: int, width: int, count: int) -> list[int]:
    """Digits ``-2**(width-1) < e <= 2**(width-1)`` of ``value = sum e[k] 2**(width k)``.

    ``count``: how many; ``|value| < 2**(width * count - 1)``, or one more bit if the highest digit
    does not carry.
    """
    sign, rest = (-1, -value) if value < 0 else (1, value)
    found: list[int] = []
    for _ in range(count):
        digit = rest & ((1 << width) - 1)
        rest >>= width
        if digit > 1 << (width - 1):
            digit -= 1 << width
            rest += 1
        found.append(sign * digit)
    return found


def bucket_sum(terms: Iterable[tuple[int, Niels]]) -> Extended:
    """The sum of ``digit * point`` over the terms, for small digits."""
    buckets: dict[int, Extended] = {}
    for digit, point in terms:
        if digit > 0:
            buckets[digit] = add_niels(buckets.get(digit, NEUTRAL), point)
        elif digit < 0:
            buckets[-digit] = add_niels(buckets.get(-digit, NEUTRAL), negated_niels(point))
    running = total = NEUTRAL
    for digit in range(max(buckets, default=0), 0, -1):
        if digit in buckets:
            running = add(running, buckets[digit])
        total = add(total, running)
    return total


def msm(values: Sequence[int], points: Sequence[Niels]) -> Extended:
    """The sum of ``values[i] * points[i]``, all values non-negative."""
    bits = max(values, default=0).bit_length() + 1
    width = best_width(len(values), bits)
    count = -(-bits // width)
    digits = [signed_digits(value, width, count) for value in values]
    total = NEUTRAL
    for k in range(count - 1, -1, -1):
        for _ in range(width):
            total = double(total)
        window = ((row[k], point) for row, point in zip(digits, points, strict=True))
        total = add(total, bucket_sum(window))
    return total


def best_width(n: int, bits: int) -> int:
    """The digit width with the fewest additions for ``n`` scalars of so many bits."""
    costs = {w: -(-bits // w) * (n + 2.6 * 2 ** (w - 1)) for w in range(2, 14)}
    return min(costs, key=costs.__getitem__)
