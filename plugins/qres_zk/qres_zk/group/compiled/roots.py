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

AT_ONCE: Final = LANES * TOGETHER
SLOTS: Final = 9
U, V, _V3, CHECK, _ONES5, _ONES10, _ONES50, FOUND, _SQUARED = (
    np.uint64(5 * AT_ONCE * slot) for slot in range(SLOTS)
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
def place(slot: Any, i: Any, k: Any) -> Any:
    """Place of limb ``k`` of element ``i`` of a slot."""
    return slot + np.uint64(5 * LANES * (i // LANES) + LANES * k + i % LANES)


@part
def lane_root(s: Any) -> None:
    """Of slots ``U`` and ``V`` compute what :func:`candidates` does, to ``FOUND`` and ``CHECK``."""
    _lengthen(s, _V3, V, 1, V)
    _lengthen(s, CHECK, _V3, 1, V)
    _multiply(s, CHECK, U)
    _lengthen(s, FOUND, CHECK, 3, CHECK)
    _lengthen(s, _ONES5, CHECK, 1, FOUND)
    _lengthen(s, _ONES5, _ONES5, 1, FOUND)
    _lengthen(s, _ONES10, _ONES5, 5, _ONES5)
    _lengthen(s, FOUND, _ONES10, 10, _ONES10)
    _lengthen(s, FOUND, FOUND, 20, FOUND)
    _lengthen(s, _ONES50, FOUND, 10, _ONES10)
    _lengthen(s, FOUND, _ONES50, 50, _ONES50)
    _lengthen(s, FOUND, FOUND, 100, FOUND)
    _lengthen(s, FOUND, FOUND, 50, _ONES50)
    _lengthen(s, FOUND, FOUND, 2, CHECK)
    _multiply(s, FOUND, U)
    _multiply(s, FOUND, _V3)
    _lengthen(s, CHECK, FOUND, 1, V)


@compiled
def lane_candidates(ratios: Any, out: Any) -> None:
    """The same as :func:`candidates`, sixteen at once."""
    n = ratios.shape[0]
    s = np.empty(SLOTS * 5 * AT_ONCE, np.uint64)
    for first in range(0, n, AT_ONCE):
        for i in range(AT_ONCE):
            of = min(first + i, n - 1)
            for k in range(5):
                s[place(U, i, k)] = ratios[of, k]
                s[place(V, i, k)] = ratios[of, 5 + k]
        lane_root(s)
        for i in range(min(AT_ONCE, n - first)):
            for k in range(5):
                out[first + i, k] = s[place(FOUND, i, k)]
                out[first + i, 5 + k] = s[place(CHECK, i, k)]


@part
def chosen(u: Any, root: Any, check: Any) -> Any:
    """Of what :func:`candidates` computes the root, not negative, and whether it is of a square."""
    was_square = same(check, u)
    if not was_square:
        opposite = negated(u)
        was_square = same(check, opposite)
        if was_square or same(check, mul_far(opposite, ROOT)):
            root = mul_far(root, ROOT)
    return absolute(root), was_square


@compiled
def choose(ratios: Any, found: Any) -> None:
    """Replace ratios ``(n, 10)`` by roots, see :func:`sqrt_ratios`, given their candidates."""
    flat, of = ratios.reshape(-1), found.reshape(-1)
    for i in range(ratios.shape[0]):
        at = np.uint64(10 * i)
        u, root = load(flat, at), load(of, at)
        root, was_square = chosen(u, root, load(of, at + np.uint64(5)))
        store(flat, at, root)
        store(flat, at + np.uint64(5), ONE if was_square else ZERO)
