"""The group law of edwards25519 on Python integers.

Source: H. Hisil, K. Wong, G. Carter, E. Dawson, "Twisted Edwards Curves Revisited", ASIACRYPT
2008, sections 3.1 and 3.3, with ``a = -1``: complete formulas, no special cases.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

from qres_zk.group.parameters import PRIME, D
from qres_zk.group.reference.limbs import Extended

Niels: TypeAlias = tuple[int, int, int]
"""``y + x, y - x, 2dxy`` of an affine point: what is added to a sum most cheaply."""

NEUTRAL: Final[Extended] = (0, 1, 1, 0)
_P: Final = PRIME
_2D: Final = 2 * D % PRIME


def add(left: Extended, right: Extended) -> Extended:
    """Add two points."""
    x1, y1, z1, t1 = left
    x2, y2, z2, t2 = right
    a = (y1 - x1) * (y2 - x2) % _P
    b = (y1 + x1) * (y2 + x2) % _P
    c = t1 * _2D % _P * t2 % _P
    d = 2 * z1 * z2 % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def add_niels(left: Extended, right: Niels) -> Extended:
    """Add a point and an affine one."""
    x1, y1, z1, t1 = left
    plus, minus, product = right
    a = (y1 - x1) * minus % _P
    b = (y1 + x1) * plus % _P
    c = t1 * product % _P
    d = 2 * z1
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def double(point: Extended) -> Extended:
    """Add a point to itself."""
    x, y, z, _ = point
    a, b = x * x % _P, y * y % _P
    h = a + b
    e = h - (x + y) ** 2 % _P
    g = a - b
    f = 2 * z * z % _P + g
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def negated(point: Extended) -> Extended:
    """The inverse."""
    x, y, z, t = point
    return -x % _P, y, z, -t % _P


def negated_niels(point: Niels) -> Niels:
    """The inverse."""
    plus, minus, product = point
    return minus, plus, -product % _P


def niels(points: Sequence[Extended]) -> list[Niels]:
    """Normalise points, with one inversion for all (P. Montgomery's trick)."""
    products = [1]
    for point in points:
        products.append(products[-1] * point[2] % _P)
    inverse = pow(products[-1], -1, _P)
    found: list[Niels] = []
    for index in range(len(points) - 1, -1, -1):
        x, y, z, _ = points[index]
        item = inverse * products[index] % _P
        inverse = inverse * z % _P
        x, y = x * item % _P, y * item % _P
        found.append(((y + x) % _P, (y - x) % _P, x * y % _P * _2D % _P))
    found.reverse()
    return found
