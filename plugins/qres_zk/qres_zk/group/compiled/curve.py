"""The group law of edwards25519 in numba, on flat arrays of limbs.

Points in extended coordinates take 20 words, as in :mod:`qres_zk.group.reference.limbs`. The
affine form that is added to a sum most cheaply, ``y + x, y - x, 2dxy``, takes 15.

Source: H. Hisil, K. Wong, G. Carter, E. Dawson, "Twisted Edwards Curves Revisited", ASIACRYPT
2008, sections 3.1 and 3.3, with ``a = -1``: complete formulas, no special cases.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from qres_zk.group.compiled.field import (
    ONE,
    ZERO,
    add,
    carried,
    constant,
    load,
    mul,
    mul_far,
    square,
    store,
    sub,
)
from qres_zk.group.compiled.jit import compiled, part
from qres_zk.group.parameters import D

TWO_D: Final = constant(2 * D)


@part
def set_neutral(points: Any, at: Any) -> None:
    """Write the neutral element."""
    store(points, at, ZERO)
    store(points, at + np.uint64(5), ONE)
    store(points, at + np.uint64(10), ONE)
    store(points, at + np.uint64(15), ZERO)


@part
def add_niels(points: Any, at: Any, others: Any, other: Any, minus: Any) -> None:
    """Add an affine point to one in place, or subtract it."""
    x = load(points, at)
    y = load(points, at + np.uint64(5))
    z = load(points, at + np.uint64(10))
    t = load(points, at + np.uint64(15))
    # The inverse of an affine point has the first two exchanged and the third negated.
    plus = other + np.uint64(5) if minus else other
    less = other if minus else other + np.uint64(5)
    a = mul(sub(y, x), load(others, less))
    b = mul(add(y, x), load(others, plus))
    c = mul(t, load(others, other + np.uint64(10)))
    d = add(z, z)
    e = sub(b, a)
    h = add(b, a)
    if minus:
        f = add(d, c)
        g = sub(d, c)
    else:
        f = sub(d, c)
        g = add(d, c)
    store(points, at, mul(e, f))
    store(points, at + np.uint64(5), mul(g, h))
    store(points, at + np.uint64(10), mul(f, g))
    store(points, at + np.uint64(15), mul(e, h))


@part
def add_point(points: Any, at: Any, others: Any, other: Any) -> None:
    """Add a point in extended coordinates to one in place."""
    x1 = load(points, at)
    y1 = load(points, at + np.uint64(5))
    x2 = load(others, other)
    y2 = load(others, other + np.uint64(5))
    a = mul(sub(y1, x1), sub(y2, x2))
    b = mul(add(y1, x1), add(y2, x2))
    c = mul(mul(load(points, at + np.uint64(15)), TWO_D), load(others, other + np.uint64(15)))
    z1 = load(points, at + np.uint64(10))
    d = mul(add(z1, z1), load(others, other + np.uint64(10)))
    e = sub(b, a)
    f = sub(d, c)
    g = add(d, c)
    h = add(b, a)
    store(points, at, mul(e, f))
    store(points, at + np.uint64(5), mul(g, h))
    store(points, at + np.uint64(10), mul(f, g))
    store(points, at + np.uint64(15), mul(e, h))


@part
def double(points: Any, at: Any, times: Any) -> None:
    """Double a point in place, so many times."""
    x = load(points, at)
    y = load(points, at + np.uint64(5))
    z = load(points, at + np.uint64(10))
    t = load(points, at + np.uint64(15))
    for _ in range(times):
        a = square(x)
        b = square(y)
        c = square(z)
        h = add(a, b)
        e = sub(h, square(add(x, y)))
        g = sub(a, b)
        f = carried(add(add(c, c), g))
        x = mul(e, f)
        y = mul(g, h)
        z = mul(f, g)
        t = mul(e, h)
    store(points, at, x)
    store(points, at + np.uint64(5), y)
    store(points, at + np.uint64(10), z)
    store(points, at + np.uint64(15), t)


@compiled
def multiply_up(points: Any, products: Any) -> Any:
    """Write the products of the first ``k`` ``Z`` of ``(n, 20)`` to row ``k`` of ``(n + 1, 5)``.

    Returns whether every ``Z`` is one.
    """
    flat, to = points.reshape(-1), products.reshape(-1)
    product = ONE
    affine = True
    store(to, np.uint64(0), product)
    for i in range(points.shape[0]):
        z = load(flat, np.uint64(20 * i + 10))
        if z != ONE:
            affine = False
            product = mul_far(product, z)
        store(to, np.uint64(5 * i + 5), product)
    return affine


@compiled
def divide_down(points: Any, products: Any, inverse: Any, affine: Any, out: Any) -> None:
    """Write ``(n, 20)`` in affine form to ``(n, 15)``.

    Args:
        points: the points.
        products: of :func:`multiply_up`.
        inverse: of the last product, five limbs.
        affine: whether every ``Z`` is one.
        out: where to.

    Source: P. Montgomery, "Speeding the Pollard and elliptic curve methods of factorization",
    Mathematics of Computation 48, 1987, section 10.3.1.
    """
    flat, of, to = points.reshape(-1), products.reshape(-1), out.reshape(-1)
    rest = load(inverse, np.uint64(0))
    for i in range(points.shape[0] - 1, -1, -1):
        at = np.uint64(20 * i)
        x = load(flat, at)
        y = load(flat, at + np.uint64(5))
        if not affine:
            item = mul_far(rest, load(of, np.uint64(5 * i)))
            rest = mul_far(rest, load(flat, at + np.uint64(10)))
            x = mul_far(x, item)
            y = mul_far(y, item)
        at = np.uint64(15 * i)
        store(to, at, carried(add(y, x)))
        store(to, at + np.uint64(5), carried(sub(y, x)))
        store(to, at + np.uint64(10), mul_far(mul_far(x, y), TWO_D))
