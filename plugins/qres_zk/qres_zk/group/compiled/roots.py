"""Square roots of ratios in numba (RFC 9496, section 4.2), several at once where that is possible.

The power that gives the root takes nearly all of the time. :func:`candidates` and
:func:`lane_candidates` compute the same; :func:`sqrt_ratios` calls the one that suits the
processor.

Source: the power is that of D. J. Bernstein, "Curve25519: new Diffie-Hellman speed records", PKC
2006, section 5: exponents of ones only, ever twice as many, then two squares.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qres_zk.group.compiled import lanes
from qres_zk.group.compiled.field import (
    ONE,
    ROOT,
    ZERO,
    absolute,
    load,
    mul_far,
    negated,
    same,
    square_times,
    stay_out_of_line,
    store,
)
from qres_zk.group.compiled.jit import compiled, part
from qres_zk.group.compiled.lanes import LANES, TOGETHER

_AT_ONCE: Final = LANES * TOGETHER
_SLOTS: Final = 9
_U, _V, _V3, _BASE, _ONES5, _ONES10, _ONES50, _POWER, _SQUARED = (
    np.uint64(5 * _AT_ONCE * slot) for slot in range(_SLOTS)
)


def sqrt_ratios(ratios: NDArray[np.uint64]) -> None:
    """Replace every ``u, v`` of ``(n, 10)`` by a root and whether it is that of ``u / v``.

    ``u`` and ``v`` are products or carried elements. The root is that of ``u / v`` or of
    ``SQRT_M1 * u / v``, whichever is a square, and not negative; then come 1 or 0, and zeros.
    """
    found = np.empty_like(ratios)
    # A few lanes take as long as all of them.
    (lane_candidates if lanes.available() and len(ratios) > 1 else candidates)(ratios, found)
    choose(ratios, found)


@part
def _lengthened(of: Any, times: Any, by: Any) -> Any:
    return mul_far(square_times(of, np.int64(times)), by)


@compiled
def candidates(ratios: Any, out: Any) -> None:
    """Write ``r = u v**3 (u v**7)**((p - 5) / 8)`` and ``v r**2`` for ``(n, 10)``."""
    flat, to = ratios.reshape(-1), out.reshape(-1)
    for i in range(ratios.shape[0]):
        at = np.uint64(10 * i)
        u = load(flat, at)
        v = load(flat, at + np.uint64(5))
        v3 = _lengthened(v, 1, v)
        base = mul_far(_lengthened(v3, 1, v), u)
        power = _lengthened(base, 3, base)
        ones5 = _lengthened(_lengthened(base, 1, power), 1, power)
        ones10 = _lengthened(ones5, 5, ones5)
        power = _lengthened(ones10, 10, ones10)
        power = _lengthened(power, 20, power)
        ones50 = _lengthened(power, 10, ones10)
        power = _lengthened(ones50, 50, ones50)
        power = _lengthened(power, 100, power)
        power = _lengthened(power, 50, ones50)
        power = _lengthened(power, 2, base)
        root = mul_far(mul_far(u, v3), power)
        store(to, at, root)
        store(to, at + np.uint64(5), _lengthened(root, 1, v))


@part
def _multiply(scratch: Any, to: Any, by: Any) -> None:
    stay_out_of_line()
    lanes.mul_at(scratch, to, to, by)


@part
def _lengthen(scratch: Any, to: Any, of: Any, times: Any, by: Any) -> None:
    stay_out_of_line()
    lanes.square_at(scratch, _SQUARED, of, np.uint64(times))
    lanes.mul_at(scratch, to, _SQUARED, by)


@part
def _place(i: Any, k: Any) -> Any:
    """Where limb ``k`` of element ``i`` of a slot is."""
    return np.uint64(5 * LANES * (i // LANES) + LANES * k + i % LANES)


@compiled
def lane_candidates(ratios: Any, out: Any) -> None:
    """The same as :func:`candidates`, sixteen at once."""
    n = ratios.shape[0]
    s = np.empty(_SLOTS * 5 * _AT_ONCE, np.uint64)
    for first in range(0, n, _AT_ONCE):
        for i in range(_AT_ONCE):
            of = min(first + i, n - 1)
            for k in range(5):
                s[_U + _place(i, k)] = ratios[of, k]
                s[_V + _place(i, k)] = ratios[of, 5 + k]
        _lengthen(s, _V3, _V, 1, _V)
        _lengthen(s, _BASE, _V3, 1, _V)
        _multiply(s, _BASE, _U)
        _lengthen(s, _POWER, _BASE, 3, _BASE)
        _lengthen(s, _ONES5, _BASE, 1, _POWER)
        _lengthen(s, _ONES5, _ONES5, 1, _POWER)
        _lengthen(s, _ONES10, _ONES5, 5, _ONES5)
        _lengthen(s, _POWER, _ONES10, 10, _ONES10)
        _lengthen(s, _POWER, _POWER, 20, _POWER)
        _lengthen(s, _ONES50, _POWER, 10, _ONES10)
        _lengthen(s, _POWER, _ONES50, 50, _ONES50)
        _lengthen(s, _POWER, _POWER, 100, _POWER)
        _lengthen(s, _POWER, _POWER, 50, _ONES50)
        _lengthen(s, _POWER, _POWER, 2, _BASE)
        _multiply(s, _POWER, _U)
        _multiply(s, _POWER, _V3)
        _lengthen(s, _BASE, _POWER, 1, _V)
        for i in range(min(_AT_ONCE, n - first)):
            for k in range(5):
                out[first + i, k] = s[_POWER + _place(i, k)]
                out[first + i, 5 + k] = s[_BASE + _place(i, k)]


@compiled
def choose(ratios: Any, found: Any) -> None:
    """Replace ratios ``(n, 10)`` by roots, see :func:`sqrt_ratios`, given their candidates."""
    flat, of = ratios.reshape(-1), found.reshape(-1)
    for i in range(ratios.shape[0]):
        at = np.uint64(10 * i)
        u = load(flat, at)
        root = load(of, at)
        check = load(of, at + np.uint64(5))
        was_square = same(check, u)
        if not was_square:
            opposite = negated(u)
            was_square = same(check, opposite)
            if was_square or same(check, mul_far(opposite, ROOT)):
                root = mul_far(root, ROOT)
        store(flat, at, absolute(root))
        store(flat, at + np.uint64(5), ONE if was_square else ZERO)
