"""Points between arrays of limbs and tuples of Python integers.

A point in an array is ``X, Y, Z, T`` in extended twisted Edwards coordinates (``x = X / Z``,
``y = Y / Z``, ``T = XY / Z``), each as five limbs of 51 bits in 64-bit words, lowest first. Limbs
may be a little longer than 51 bits and values at or above the prime.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qres_zk.group.parameters import PRIME

Extended: TypeAlias = tuple[int, int, int, int]
"""``X, Y, Z, T``, reduced."""

LIMBS: Final = 20
_BITS: Final = 51
_MASK: Final = 2**_BITS - 1


def field_limbs(value: int) -> list[int]:
    """Cut a field element into five limbs."""
    value %= PRIME
    return [value >> (_BITS * k) & _MASK for k in range(5)]


def unpacked(points: NDArray[np.uint64]) -> list[Extended]:
    """Return points as tuples of integers."""
    found: list[Extended] = []
    for row in points.tolist():
        x, y, z, t = (
            (
                row[k]
                + (row[k + 1] << 51)
                + (row[k + 2] << 102)
                + (row[k + 3] << 153)
                + (row[k + 4] << 204)
            )
            % PRIME
            for k in (0, 5, 10, 15)
        )
        found.append((x, y, z, t))
    return found


def packed(points: Iterable[Extended]) -> NDArray[np.uint64]:
    """Return tuples of integers as an array of points."""
    rows = [[limb for value in point for limb in field_limbs(value)] for point in points]
    return np.array(rows, dtype=np.uint64).reshape(-1, LIMBS)


def point_from_affine(x: int, y: int) -> NDArray[np.uint64]:
    """Return one point, shape ``(1, 20)``."""
    return packed([(x, y, 1, x * y % PRIME)])
