"""Decoding of ristretto255 in numba (RFC 9496, section 4.3.1), sixteen points at once."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from qres_zk.group.compiled.field import (
    ONE,
    ZERO,
    constant,
    is_negative,
    negated,
    packed,
    same,
    store,
    unpacked,
)
from qres_zk.group.compiled.jit import compiled, part
from qres_zk.group.compiled.lanes import add_at, mul_at, sub_at
from qres_zk.group.compiled.roots import (
    AT_ONCE,
    CHECK,
    FOUND,
    SLOTS,
    U,
    V,
    chosen,
    lane_root,
    place,
)
from qres_zk.group.parameters import D

_D: Final = constant(D)
_SLOTS: Final = SLOTS + 11
_NONE, _OF_D, _S, _U1, _U2, _U2_SQUARED, _V, _INVERSE, _X, _Y, _T = (
    np.uint64(5 * AT_ONCE * slot) for slot in range(SLOTS, _SLOTS)
)


@part
def _put(s: Any, slot: Any, i: Any, value: Any) -> None:
    for k in range(5):
        s[place(slot, i, k)] = value[k]


@part
def _taken(s: Any, slot: Any, i: Any) -> Any:
    return (
        s[place(slot, i, 0)],
        s[place(slot, i, 1)],
        s[place(slot, i, 2)],
        s[place(slot, i, 3)],
        s[place(slot, i, 4)],
    )


@part
def _find_inverse(s: Any) -> None:
    """From ``s`` to the candidates for the root of ``1 / (v u2**2)``."""
    mul_at(s, _T, _S, _S)
    sub_at(s, _U1, U, _T)
    add_at(s, _U2, U, _T)
    mul_at(s, _U2_SQUARED, _U2, _U2)
    mul_at(s, _T, _U1, _U1)
    mul_at(s, _T, _T, _OF_D)
    sub_at(s, _V, _NONE, _T)
    sub_at(s, _V, _V, _U2_SQUARED)
    mul_at(s, V, _V, _U2_SQUARED)
    lane_root(s)


@part
def _find_point(s: Any) -> None:
    """From the inverse to ``x``, ``y`` and ``t``, up to the sign of ``x`` and ``t``."""
    mul_at(s, _T, _INVERSE, _U2)
    add_at(s, _X, _S, _S)
    mul_at(s, _X, _X, _T)
    mul_at(s, _Y, _INVERSE, _T)
    mul_at(s, _Y, _Y, _V)
    mul_at(s, _Y, _Y, _U1)
    mul_at(s, _T, _X, _Y)


@compiled
def decode(words: Any, out: Any) -> Any:
    """Decode ``(n, 4)`` to ``(n, 20)``; the index of the first invalid encoding, or -1."""
    n, to = words.shape[0], out.reshape(-1)
    s = np.empty(_SLOTS * 5 * AT_ONCE, np.uint64)
    squares = np.empty(AT_ONCE, np.bool_)
    bad: Any = np.int64(-1)
    for i in range(AT_ONCE):
        _put(s, U, i, ONE)
        _put(s, _NONE, i, ZERO)
        _put(s, _OF_D, i, _D)
        _put(s, _S, i, ZERO)
    for first in range(0, n, AT_ONCE):
        count = min(AT_ONCE, n - first)
        for i in range(count):
            w = words[first + i]
            _put(s, _S, i, unpacked(w[0], w[1], w[2], w[3]))
        _find_inverse(s)
        for i in range(count):
            root, squares[i] = chosen(ONE, _taken(s, FOUND, i), _taken(s, CHECK, i))
            _put(s, _INVERSE, i, root)
        _find_point(s)
        for i in range(count):
            x, y, t = _taken(s, _X, i), _taken(s, _Y, i), _taken(s, _T, i)
            if is_negative(x):
                x, t = negated(x), negated(t)
            w = words[first + i]
            valid = (
                packed(_taken(s, _S, i)) == (w[0], w[1], w[2], w[3])
                and (w[0] & np.uint64(1)) == np.uint64(0)
                and squares[i]
                and not is_negative(t)
                and not same(y, ZERO)
            )
            if not valid and bad < 0:
                bad = first + i
            at = np.uint64(20 * (first + i))
            store(to, at, x)
            store(to, at + np.uint64(5), y)
            store(to, at + np.uint64(10), ONE)
            store(to, at + np.uint64(15), t)
    return bad
