"""Encoding, decoding and the one-way map of ristretto255 in numba (RFC 9496, section 4).

Each needs the root of a ratio in the middle. A kernel writes the ratios, ``(n, 10)``, which
:func:`qres_zk.group.compiled.roots.sqrt_ratios` replaces by roots for another kernel to go on with.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from qres_zk.group.compiled.field import (
    MINUS_ONE,
    ONE,
    ROOT,
    ZERO,
    absolute,
    add,
    carried,
    constant,
    is_negative,
    load,
    mul_far,
    negated,
    packed,
    same,
    store,
    sub,
    unpacked,
)
from qres_zk.group.compiled.jit import compiled, part
from qres_zk.group.parameters import (
    D_MINUS_ONE_SQ,
    INVSQRT_A_MINUS_D,
    ONE_MINUS_D_SQ,
    SQRT_AD_MINUS_ONE,
    D,
)

_D: Final = constant(D)
_SQRT_AD_MINUS_ONE: Final = constant(SQRT_AD_MINUS_ONE)
_INVSQRT_A_MINUS_D: Final = constant(INVSQRT_A_MINUS_D)
_ONE_MINUS_D_SQ: Final = constant(ONE_MINUS_D_SQ)
_D_MINUS_ONE_SQ: Final = constant(D_MINUS_ONE_SQ)


@part
def _decode_terms(s: Any) -> Any:
    squared = mul_far(s, s)
    u1 = carried(sub(ONE, squared))
    u2 = add(ONE, squared)
    u2_squared = mul_far(u2, u2)
    v = carried(sub(negated(mul_far(_D, mul_far(u1, u1))), u2_squared))
    return u1, u2, u2_squared, v


@compiled
def decode_ratios(words: Any, ratios: Any) -> None:
    """Write the ratios whose roots decoding ``(n, 4)`` needs."""
    to = ratios.reshape(-1)
    for i in range(words.shape[0]):
        s = unpacked(words[i, 0], words[i, 1], words[i, 2], words[i, 3])
        _, _, u2_squared, v = _decode_terms(s)
        store(to, np.uint64(10 * i), ONE)
        store(to, np.uint64(10 * i + 5), mul_far(v, u2_squared))


@compiled
def decode(words: Any, roots: Any, out: Any) -> Any:
    """Decode ``(n, 4)`` to ``(n, 20)``; the index of the first invalid encoding, or -1."""
    of, to = roots.reshape(-1), out.reshape(-1)
    bad: Any = np.int64(-1)
    for i in range(words.shape[0]):
        encoding = (words[i, 0], words[i, 1], words[i, 2], words[i, 3])
        s = unpacked(encoding[0], encoding[1], encoding[2], encoding[3])
        u1, u2, _, v = _decode_terms(s)
        inverse = load(of, np.uint64(10 * i))
        was_square = roots[i, 5] != np.uint64(0)
        den_x = mul_far(inverse, u2)
        x = absolute(mul_far(add(s, s), den_x))
        y = mul_far(u1, mul_far(mul_far(inverse, den_x), v))
        t = mul_far(x, y)
        valid = (
            packed(s) == encoding
            and (encoding[0] & np.uint64(1)) == np.uint64(0)
            and was_square
            and not is_negative(t)
            and not same(y, ZERO)
        )
        if not valid and bad < 0:
            bad = i
        at = np.uint64(20 * i)
        store(to, at, x)
        store(to, at + np.uint64(5), y)
        store(to, at + np.uint64(10), ONE)
        store(to, at + np.uint64(15), t)
    return bad


@compiled
def edwards_ratios(words: Any, ratios: Any) -> None:
    """Write the ratios whose roots decompressing ``(n, 4)`` needs."""
    to = ratios.reshape(-1)
    for i in range(words.shape[0]):
        y = unpacked(words[i, 0], words[i, 1], words[i, 2], words[i, 3])
        squared = mul_far(y, y)
        store(to, np.uint64(10 * i), carried(sub(squared, ONE)))
        store(to, np.uint64(10 * i + 5), carried(add(mul_far(_D, squared), ONE)))


@compiled
def decode_edwards(words: Any, roots: Any, out: Any) -> Any:
    """Decompress ``(n, 4)`` to ``(n, 20)`` (RFC 8032, section 5.1.3); the first bad one, or -1."""
    of, to = roots.reshape(-1), out.reshape(-1)
    bad: Any = np.int64(-1)
    for i in range(words.shape[0]):
        w0, w1, w2, w3 = words[i, 0], words[i, 1], words[i, 2], words[i, 3]
        sign = (w3 >> np.uint64(63)) != np.uint64(0)
        y = unpacked(w0, w1, w2, w3)
        x = load(of, np.uint64(10 * i))
        was_square = roots[i, 5] != np.uint64(0)
        reduced = packed(y) == (w0, w1, w2, w3 & np.uint64(2**63 - 1))
        if (not (was_square and reduced) or (sign and same(x, ZERO))) and bad < 0:
            bad = i
        if sign:
            x = negated(x)
        at = np.uint64(20 * i)
        store(to, at, x)
        store(to, at + np.uint64(5), y)
        store(to, at + np.uint64(10), ONE)
        store(to, at + np.uint64(15), mul_far(x, y))
    return bad


@part
def _encode_terms(points: Any, at: Any) -> Any:
    y = load(points, at + np.uint64(5))
    z = load(points, at + np.uint64(10))
    return mul_far(add(z, y), sub(z, y)), mul_far(load(points, at), y)


@compiled
def encode_ratios(points: Any, ratios: Any) -> None:
    """Write the ratios whose roots encoding ``(n, 20)`` needs."""
    of, to = points.reshape(-1), ratios.reshape(-1)
    for i in range(points.shape[0]):
        u1, u2 = _encode_terms(of, np.uint64(20 * i))
        store(to, np.uint64(10 * i), ONE)
        store(to, np.uint64(10 * i + 5), mul_far(u1, mul_far(u2, u2)))


@compiled
def encode(points: Any, roots: Any, words: Any) -> None:
    """Encode ``(n, 20)`` to ``(n, 4)``."""
    flat = points.reshape(-1)
    for i in range(points.shape[0]):
        at = np.uint64(20 * i)
        x = load(flat, at)
        y = load(flat, at + np.uint64(5))
        z = load(flat, at + np.uint64(10))
        t = load(flat, at + np.uint64(15))
        u1, u2 = _encode_terms(flat, at)
        inverse = load(roots.reshape(-1), np.uint64(10 * i))
        den1 = mul_far(inverse, u1)
        den = mul_far(inverse, u2)
        z_inverse = mul_far(mul_far(den1, den), t)
        if is_negative(mul_far(t, z_inverse)):
            x, y = mul_far(y, ROOT), mul_far(x, ROOT)
            den = mul_far(den1, _INVSQRT_A_MINUS_D)
        if is_negative(mul_far(x, z_inverse)):
            y = negated(y)
        s = packed(absolute(mul_far(den, sub(z, y))))
        words[i, 0], words[i, 1], words[i, 2], words[i, 3] = s


@part
def _map_terms(t: Any) -> Any:
    r = mul_far(ROOT, mul_far(t, t))
    u = mul_far(add(r, ONE), _ONE_MINUS_D_SQ)
    v = mul_far(sub(MINUS_ONE, mul_far(r, _D)), add(r, _D))
    return r, u, v


@compiled
def map_ratios(words: Any, ratios: Any) -> None:
    """Write the ratios whose roots mapping ``(n, 4)`` needs."""
    to = ratios.reshape(-1)
    for i in range(words.shape[0]):
        _, u, v = _map_terms(unpacked(words[i, 0], words[i, 1], words[i, 2], words[i, 3]))
        store(to, np.uint64(10 * i), u)
        store(to, np.uint64(10 * i + 5), v)


@compiled
def map_to_curve(words: Any, roots: Any, out: Any) -> None:
    """Map ``(n, 4)`` to ``(n, 20)``: MAP of RFC 9496, section 4.3.4."""
    of, to = roots.reshape(-1), out.reshape(-1)
    for i in range(words.shape[0]):
        t = unpacked(words[i, 0], words[i, 1], words[i, 2], words[i, 3])
        r, _, v = _map_terms(t)
        s = load(of, np.uint64(10 * i))
        c = MINUS_ONE
        if roots[i, 5] == np.uint64(0):
            s = negated(absolute(mul_far(s, t)))
            c = r
        n = carried(sub(mul_far(mul_far(c, sub(r, ONE)), _D_MINUS_ONE_SQ), v))
        w0 = mul_far(add(s, s), v)
        w1 = mul_far(n, _SQRT_AD_MINUS_ONE)
        squared = mul_far(s, s)
        w2 = sub(ONE, squared)
        w3 = add(ONE, squared)
        at = np.uint64(20 * i)
        store(to, at, mul_far(w0, w3))
        store(to, at + np.uint64(5), mul_far(w2, w1))
        store(to, at + np.uint64(10), mul_far(w1, w3))
        store(to, at + np.uint64(15), mul_far(w0, w2))


@compiled
def is_identity(points: Any, out: Any) -> None:
    """Write for each of ``(n, 20)`` whether it is the identity: ``X`` or ``Y`` is zero."""
    flat = points.reshape(-1)
    for i in range(points.shape[0]):
        at = np.uint64(20 * i)
        out[i] = same(load(flat, at), ZERO) or same(load(flat, at + np.uint64(5)), ZERO)


@compiled
def negate(points: Any) -> None:
    """Negate ``(n, 20)`` in place."""
    flat = points.reshape(-1)
    for i in range(points.shape[0]):
        for at in (np.uint64(20 * i), np.uint64(20 * i + 15)):
            store(flat, at, negated(load(flat, at)))
