"""Lagrange's four squares: how a committed number is shown not to be negative.

Source: M. O. Rabin, J. O. Shallit, "Randomized algorithms in number theory", Communications on
Pure and Applied Mathematics 39, 1986, section 3.
"""

from __future__ import annotations

import math
import secrets
from typing import Final, TypeAlias

Four: TypeAlias = tuple[int, int, int, int]

_SMALL: Final = 400
"""Below this, all is tried: random choices would seldom leave a prime."""


def four_squares(n: int) -> Four:
    """Return ``a, b, c, d >= 0`` with ``a**2 + b**2 + c**2 + d**2 == n``.

    Which of the many ways is random, drawn from the operating system's generator.

    Raises:
        ValueError: ``n`` is negative.

    Complexity: expected ``O(log n log log n)`` modular multiplications for each of ``O(log n)``
        trials; about 1 ms for 60 bits.

    Example:
        >>> sum(x * x for x in four_squares(2**61 - 1)) == 2**61 - 1
        True
    """
    if n < 0:
        msg = "a negative number is no sum of squares"
        raise ValueError(msg)
    halvings = 0
    while n >= _SMALL and n % 4 == 0:
        n //= 4
        halvings += 1
    a, b, c, d = _exhaustive(n) if n < _SMALL else _random(n)
    return a << halvings, b << halvings, c << halvings, d << halvings


def _exhaustive(n: int) -> Four:
    for a in range(math.isqrt(n), -1, -1):
        for b in range(math.isqrt(n - a * a), -1, -1):
            for c in range(math.isqrt(n - a * a - b * b), -1, -1):
                rest = n - a * a - b * b - c * c
                d = math.isqrt(rest)
                if d * d == rest:
                    return a, b, c, d
    raise AssertionError(n)  # Lagrange, 1770


def _random(n: int) -> Four:
    while True:
        a = secrets.randbelow(math.isqrt(n) + 1)
        b = secrets.randbelow(math.isqrt(n - a * a) + 1)
        two = _two_squares(n - a * a - b * b)
        if two is not None:
            return a, b, *two


def _two_squares(q: int) -> tuple[int, int] | None:
    """Two squares that make the prime ``q = 1 mod 4``; ``None`` where it is not seen to be one."""
    if q % 4 != 1 or q < 5 or pow(2, q - 1, q) != 1:
        return None
    for g in range(2, 60):
        if pow(g, (q - 1) // 2, q) == q - 1:
            root = pow(g, (q - 1) // 4, q)
            break
    else:
        return None
    big, small = q, root
    while small * small > q:
        big, small = small, big % small
    rest = math.isqrt(q - small * small)
    return (small, rest) if small * small + rest * rest == q else None
