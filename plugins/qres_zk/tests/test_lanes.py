"""Eight field elements at once, on limbs as long as allowed; sums against those of single words."""

from __future__ import annotations

import itertools
import secrets
from typing import Any

import numpy as np
import pytest
from qres_zk import group
from qres_zk.group.parameters import PRIME, SQRT_M1
from qres_zk.group.reference.limbs import field_limbs
from qres_zk.group.reference.ristretto import decode

numba = pytest.importorskip("numba")
lanes = pytest.importorskip("qres_zk.group.compiled.lanes")
lane_sums = pytest.importorskip("qres_zk.group.compiled.lane_sums")
multiples = pytest.importorskip("qres_zk.group.compiled.multiples")
engine = pytest.importorskip("qres_zk.group.compiled.engine")
lane_decoding = pytest.importorskip("qres_zk.group.compiled.lane_decoding")
roots = pytest.importorskip("qres_zk.group.compiled.roots")

pytestmark = pytest.mark.skipif(not lanes.available(), reason="a processor without AVX-512 IFMA")

EDGES = [0, 1, 2, 18, 19, 20, PRIME - 1, PRIME - 2, PRIME - 19, 2**254, 2**51 - 1, SQRT_M1]
LONGEST = 2**51 + 2**16 - 1


SLOT = 40 * lanes.TOGETHER


@numba.njit
def _products(words: Any, times: Any) -> None:
    lanes.mul_at(words, np.uint64(2 * SLOT), np.uint64(0), np.uint64(SLOT))
    lanes.square_at(words, np.uint64(3 * SLOT), np.uint64(0), np.uint64(times))


def stored(elements: list[list[int]]) -> np.ndarray:
    """Elements of five limbs, eight at a time, limb by limb."""
    return np.array(elements, np.uint64).reshape(-1, 8, 5).transpose(0, 2, 1).reshape(-1)


def value(limbs: Any) -> int:
    return sum(int(limb) << (51 * k) for k, limb in enumerate(limbs))


def values(words: np.ndarray) -> list[int]:
    return [value(limbs) for limbs in words.reshape(-1, 5, 8).transpose(0, 2, 1).reshape(-1, 5)]


def elements() -> list[list[int]]:
    found = [list(field_limbs(edge)) for edge in EDGES]
    found += [[n] * 5 for n in (2**51 - 1, 2**51 + 2**13, LONGEST)]
    found += [[LONGEST if k == j else 0 for k in range(5)] for j in range(5)]
    found += [list(field_limbs(secrets.randbelow(PRIME))) for _ in range(12)]
    return found


def test_products_of_all_lengths_of_limbs() -> None:
    pairs = list(itertools.product(elements(), repeat=2))
    n = 8 * lanes.TOGETHER
    for first in range(0, len(pairs) - n + 1, n):
        some = pairs[first : first + n]
        left, right = (stored([pair[side] for pair in some]) for side in (0, 1))
        words = np.concatenate([left, right, np.zeros(2 * SLOT, np.uint64)])
        _products(words, 1)
        a, b, product, square = (values(part) for part in words.reshape(4, -1))
        assert [combination % PRIME for combination in product] == [
            x * y % PRIME for x, y in zip(a, b, strict=True)
        ]
        assert [item % PRIME for item in square] == [x * x % PRIME for x in a]
        assert words[2 * SLOT :].max() < 2**51 + 2**13
        _products(words, 7)
        assert [value % PRIME for value in values(words[3 * SLOT :])] == [
            pow(x, 2**7, PRIME) for x in a
        ]


@pytest.mark.parametrize("n", [1, 8, 15, 16, 17, 40])
def test_roots_are_those_of_single_words(n: int) -> None:
    ratios = np.array(
        [
            [*field_limbs(secrets.choice(EDGES)), *field_limbs(secrets.randbelow(PRIME))]
            for _ in range(n)
        ],
        np.uint64,
    )
    found = []
    for kernel in (roots.candidates, roots.lane_candidates):
        of, powers = ratios.copy(), np.empty_like(ratios)
        kernel(of, powers)
        roots.choose(of, powers)
        found.append([(value(row[:5]) % PRIME, row[5:].tolist()) for row in of])
    assert found[0] == found[1]


def test_any_bytes_decode_as_in_python() -> None:
    valid = group.encode(group.hash_to_group(b"lanes", 0, 20))
    data = [valid[at : at + 32] for at in range(0, len(valid), 32)]
    data += [secrets.token_bytes(31) + bytes([secrets.randbelow(128)]) for _ in range(200)]
    data += [(value % 2**256).to_bytes(32, "little") for value in range(-40, 40)]
    data += [(PRIME + value).to_bytes(32, "little") for value in range(-40, 40)]
    data += [
        (int.from_bytes(datum, "little") | 2**255).to_bytes(32, "little") for datum in data[:4]
    ]
    data += [(PRIME - int.from_bytes(datum, "little")).to_bytes(32, "little") for datum in data[:4]]
    expected = [decode(int.from_bytes(datum, "little")) for datum in data]
    assert 30 < sum(item is not None for item in expected) < len(data) - 100
    words = np.frombuffer(b"".join(data), np.uint64).reshape(-1, 4).copy()
    out = np.empty((len(words), 20), np.uint64)
    assert lane_decoding.decode(words, out) == expected.index(None)
    single = np.empty((1, 20), np.uint64)
    for k, item in enumerate(expected):
        bad = lane_decoding.decode(words[k : k + 1].copy(), single)
        assert (bad < 0) == (item is not None)
        if item is not None:
            for found in (out[k : k + 1], single):
                assert [value(found[0, 5 * j : 5 * j + 5]) % PRIME for j in range(4)] == list(item)


def test_the_first_bad_encoding_is_named() -> None:
    words = np.frombuffer(group.encode(group.hash_to_group(b"lanes", 0, 40)), np.uint64)
    out = np.empty((40, 20), np.uint64)
    for at in range(40):
        spoiled = words.reshape(-1, 4).copy()
        spoiled[at, 0] ^= np.uint64(1)
        spoiled[39, 0] |= np.uint64(1)
        assert lane_decoding.decode(spoiled, out) == at


@pytest.mark.parametrize("size", [1, 2, 128])
def test_sums_of_rows_are_those_of_single_words(size: int) -> None:
    rng = np.random.default_rng(size)
    points = group.hash_to_group(b"lanes", 0, 20)
    niels = engine._normalised(points)
    digits = rng.integers(1 - size, size + 1, (16, 20)).astype(np.int16)
    digits[3], digits[:, 5], digits[9:12, 7:] = 0, 0, size
    together = np.ascontiguousarray(digits.reshape(2, 8, 20).transpose(0, 2, 1))
    found, expected = np.empty((16, 20), np.uint64), np.empty((16, 20), np.uint64)
    lane_sums.sum_rows(niels, together, size, found)
    multiples.sum_rows(niels, digits, size, expected)
    assert group.equal(found, expected).all()
