"""The compiled field on limbs as long as its documentation allows, against Python's integers."""

from __future__ import annotations

import itertools
import secrets
from typing import Any

import numpy as np
import pytest
from qres_zk.group.parameters import ORDER, PRIME, SQRT_M1
from qres_zk.group.reference.limbs import field_limbs
from qres_zk.group.reference.ristretto import sqrt_ratio

numba = pytest.importorskip("numba")
field = pytest.importorskip("qres_zk.group.compiled.field")
roots = pytest.importorskip("qres_zk.group.compiled.roots")
modular = pytest.importorskip("qres_zk.scalar.compiled.modular")


@numba.njit
def _products(a: Any, b: Any) -> Any:
    return field.mul(a, b), field.square(a)


@numba.njit
def _sums(a: Any, b: Any) -> Any:
    gap = field.sub(a, b)
    return gap, field.add(a, b), field.canonical(gap), field.carried(gap)


@numba.njit
def _modular(a: Any, b: Any, low: Any, high: Any) -> Any:
    total = (a[0], a[1], a[2], a[3], b[0], b[1], np.uint64(0))
    full = (low, low, low, low, low, low, low, low, a[0])
    return (
        modular.mul(a, b),
        modular.add(a, b),
        modular.negated(a),
        modular.add_product(total, b, low, high),
        modular.add_small_product((b[0], b[1], b[2], np.uint64(0)), low, high, a[0]),
        modular.add_full_product(full, a, b),
    )


def value(limbs: Any, bits: int = 51) -> int:
    return sum(int(limb) << (bits * k) for k, limb in enumerate(limbs))


def element(number: int) -> tuple[np.uint64, ...]:
    return tuple(np.uint64(field_limb) for field_limb in field_limbs(number))


EDGES = [0, 1, 2, 18, 19, 20, PRIME - 1, PRIME - 2, PRIME - 19, 2**254, 2**51 - 1, SQRT_M1]
UNREDUCED = [(np.uint64(n),) * 5 for n in (2**51 - 1, 2**51 + 2**13, 2**52, 2**54 - 1)]
MIXED = [
    tuple(np.uint64(2**54 - 1 if k == j else 0) for k in range(5)) for j in range(5)
]  # one long limb at a time


def test_products_of_all_lengths_of_limbs() -> None:
    elements = [element(edge) for edge in EDGES] + UNREDUCED + MIXED
    elements += [element(secrets.randbelow(PRIME)) for _ in range(40)]
    for a, b in itertools.product(elements, repeat=2):
        product, square = _products(a, b)
        assert value(product) % PRIME == value(a) * value(b) % PRIME
        assert value(square) % PRIME == value(a) ** 2 % PRIME
        assert max(*product, *square) < 2**51 + 2**13


def test_sums_of_all_lengths_of_limbs() -> None:
    left = [element(edge) for edge in EDGES] + UNREDUCED + MIXED
    right = [element(edge) for edge in EDGES] + UNREDUCED[:3] + [(np.uint64(2**53 - 77),) * 5]
    for a, b in itertools.product(left, right):
        gap, total, canonical, carried = _sums(a, b)
        assert value(gap) % PRIME == value(carried) % PRIME == (value(a) - value(b)) % PRIME
        assert value(total) == value(a) + value(b)
        assert value(canonical) == (value(a) - value(b)) % PRIME
        assert max(gap) < max(a) + 2**53
        assert max(carried) < 2**51 + 2**8


def test_roots_of_ratios() -> None:
    pairs = list(itertools.product(EDGES, repeat=2))
    pairs += [(secrets.randbelow(PRIME), secrets.randbelow(PRIME)) for _ in range(300)]
    rows = np.array([[*field_limbs(u), *field_limbs(v)] for u, v in pairs], np.uint64)
    roots.sqrt_ratios(rows)
    for (u, v), row in zip(pairs, rows, strict=True):
        was_square, root = sqrt_ratio(u, v)
        assert field_limbs(root) == row[:5].tolist() or value(row[:5]) % PRIME == root
        assert row[5] == was_square
        if was_square:
            assert v * root * root % PRIME == u % PRIME or v % PRIME == 0


def test_arithmetic_modulo_the_order() -> None:
    edges = [0, 1, 2, ORDER - 1, ORDER - 2, 2**252, 2**192, 2**64 - 1, 2**128 - 1]
    edges += [secrets.randbelow(ORDER) for _ in range(20)]
    inverse = pow(2**256, -1, ORDER)
    longest = np.uint64(2**64 - 1)
    for a, b in itertools.product(edges, repeat=2):
        low, high = longest, longest
        product, total, negated, wide, small, full = _modular(
            modular.words(a), modular.words(b), low, high
        )
        assert value(product, 64) == a * b * inverse % ORDER
        assert value(total, 64) == (a + b) % ORDER
        assert value(negated, 64) == -a % ORDER
        start = a + (b % 2**128 << 256)
        assert value(wide, 64) == start + b * (2**128 - 1)
        assert value(small, 64) == b % 2**192 + (2**128 - 1) * (a % 2**64)
        assert value(full, 64) == (2**512 - 1 + (a % 2**64 << 512) + a * b) % 2**576


def test_a_product_with_any_256_bits_is_reduced() -> None:
    word = modular.words(2**256 - 1)
    product, *_ = _modular(word, modular.words(ORDER - 1), np.uint64(0), np.uint64(0))
    assert value(product, 64) == (2**256 - 1) * (ORDER - 1) * pow(2**256, -1, ORDER) % ORDER
