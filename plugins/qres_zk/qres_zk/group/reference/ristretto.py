"""Encoding, decoding and the one-way map of ristretto255 (RFC 9496, section 4)."""

from __future__ import annotations

from qres_zk.group.parameters import (
    D_MINUS_ONE_SQ,
    INVSQRT_A_MINUS_D,
    ONE_MINUS_D_SQ,
    PRIME,
    SQRT_AD_MINUS_ONE,
    SQRT_M1,
    D,
)
from qres_zk.group.reference.curve import add
from qres_zk.group.reference.limbs import Extended

_P = PRIME


def absolute(value: int) -> int:
    """The non-negative one of ``value`` and ``-value``: the even one."""
    value %= _P
    return _P - value if value & 1 else value


def sqrt_ratio(u: int, v: int) -> tuple[bool, int]:
    """Tell if ``u / v`` is a square, with its root, or that of ``SQRT_M1 u / v`` (section 4.2)."""
    u, v = u % _P, v % _P
    root = u * pow(v, 3, _P) * pow(u * pow(v, 7, _P), (_P - 5) // 8, _P) % _P
    check = v * root * root % _P
    correct = check == u
    flipped = check == -u % _P
    if flipped or check == -u * SQRT_M1 % _P:
        root = root * SQRT_M1 % _P
    return correct or flipped, absolute(root)


def decode(encoding: int) -> Extended | None:
    """The point of an encoding, read as an integer of 256 bits; ``None`` if there is none."""
    s = encoding
    if s >= _P or s & 1:
        return None
    square = s * s % _P
    u1, u2 = 1 - square, 1 + square
    u2_square = u2 * u2 % _P
    v = (-D * u1 * u1 - u2_square) % _P
    was_square, inverse = sqrt_ratio(1, v * u2_square)
    den_x = inverse * u2 % _P
    den_y = inverse * den_x * v % _P
    x = absolute(2 * s * den_x)
    y = u1 * den_y % _P
    t = x * y % _P
    if not was_square or t & 1 or y == 0:
        return None
    return x, y, 1, t


def decode_edwards(encoding: int) -> Extended | None:
    """The point with ``y`` in 255 bits and the lowest bit of ``x`` above (RFC 8032, 5.1.3)."""
    sign, y = encoding >> 255, encoding & (2**255 - 1)
    if y >= _P:
        return None
    was_square, x = sqrt_ratio(y * y - 1, D * y * y + 1)
    if not was_square or (x == 0 and sign):
        return None
    if sign:
        x = _P - x
    return x, y, 1, x * y % _P


def encode(point: Extended) -> int:
    """The encoding of a point, as an integer."""
    x0, y0, z0, t0 = point
    u1 = (z0 + y0) * (z0 - y0) % _P
    u2 = x0 * y0 % _P
    _, inverse = sqrt_ratio(1, u1 * u2 * u2)
    den1, den2 = inverse * u1 % _P, inverse * u2 % _P
    z_inverse = den1 * den2 * t0 % _P
    if t0 * z_inverse % _P & 1:
        x, y = y0 * SQRT_M1 % _P, x0 * SQRT_M1 % _P
        den_inverse = den1 * INVSQRT_A_MINUS_D % _P
    else:
        x, y, den_inverse = x0, y0, den2
    if x * z_inverse % _P & 1:
        y = -y
    return absolute(den_inverse * (z0 - y))


def from_uniform(low: int, high: int) -> Extended:
    """The one-way map of two integers, of which 255 bits count each."""
    mask = 2**255 - 1
    return add(_mapped(low & mask), _mapped(high & mask))


def _mapped(t: int) -> Extended:
    r = SQRT_M1 * t * t % _P
    u = (r + 1) * ONE_MINUS_D_SQ % _P
    v = (-1 - r * D) * (r + D) % _P
    was_square, s = sqrt_ratio(u, v)
    c = -1
    if not was_square:
        s = -absolute(s * t) % _P
        c = r
    n = (c * (r - 1) * D_MINUS_ONE_SQ - v) % _P
    w0, w1 = 2 * s * v % _P, n * SQRT_AD_MINUS_ONE % _P
    w2, w3 = (1 - s * s) % _P, (1 + s * s) % _P
    return w0 * w3 % _P, w2 * w1 % _P, w1 * w3 % _P, w0 * w2 % _P
