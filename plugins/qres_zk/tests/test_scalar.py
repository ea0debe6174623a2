"""Projections, weights and folding: both implementations against the definitions."""

from __future__ import annotations

import importlib.util
import secrets
from contextlib import nullcontext
from typing import TYPE_CHECKING

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st
from qres_zk.group import ORDER, integers, random_scalars, reference_only, scalars
from qres_zk.scalar import (
    Folding,
    combine_rows,
    dot,
    folded_weights,
    multiply_add,
    project,
    weights,
)

from qres_core.errors import ValueRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SEED = bytes(range(32))
EDGES = [0, 1, -1, 2**31 - 1, -(2**31), ORDER - 1, ORDER, 2**252, 2**256 - 1, -(2**300)]


@pytest.fixture(autouse=True, params=["default", "plain", "reference"])
def _engine(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "plain" and importlib.util.find_spec("numba"):
            patch.setattr("qres_zk.group.compiled.lanes.available", lambda: False)
        with reference_only() if request.param == "reference" else nullcontext():
            yield


def matrix(b: int, m: int, k: int, seed: bytes = SEED) -> np.ndarray:
    """``R`` as documented, bit by bit: shape ``(k, b * m)``."""
    found = np.zeros((k, b * m), np.int64)
    for c in range(b):
        raw = blake3(seed + c.to_bytes(4, "little")).digest(length=m * k // 8)
        for j in range(m):
            for t in range(k):
                found[t, c * m + j] = raw[j * (k // 8) + t // 8] >> (t % 8) & 1
    return found


def values_of(b: int, m: int) -> np.ndarray:
    values = np.frombuffer(secrets.token_bytes(4 * b * m), np.int32).reshape(b, m).copy()
    values.reshape(-1)[:2] = 2**31 - 1, -(2**31)
    return values


def gammas_of(k: int) -> list[int]:
    return [secrets.randbits(119) for _ in range(k)] + [2**119 - 1]


@pytest.mark.parametrize(("b", "m", "k"), [(1, 3, 8), (4, 5, 16), (3, 7, 256), (2, 2, 1024)])
def test_projections_are_the_matrix_product(b: int, m: int, k: int) -> None:
    values = values_of(b, m)
    expected = matrix(b, m, k) @ values.reshape(-1).astype(np.int64)
    assert project(values, SEED, k) == expected.tolist()
    assert project(values.astype(np.int64), SEED, k) == expected.tolist()
    assert project(values, bytes(32), k) != expected.tolist()


@pytest.mark.parametrize(("b", "m", "k"), [(1, 3, 8), (4, 5, 16), (2, 7, 256)])
def test_weights_are_the_matrix_product(b: int, m: int, k: int) -> None:
    gammas = gammas_of(k)
    bits = matrix(b, m, k)
    expected = [
        sum(gammas[t] * int(bits[t, j]) for t in range(k)) + gammas[k] for j in range(b * m)
    ]
    found = weights(SEED, (b, m), gammas)
    assert found.shape == (b, m, 2)
    assert [int(low) + (int(high) << 64) for low, high in found.reshape(-1, 2)] == expected
    factors = [secrets.randbelow(ORDER) for _ in range(b - 1)] + [-1]
    folded = [sum(factors[c] * expected[c * m + j] for c in range(b)) % ORDER for j in range(m)]
    assert integers(folded_weights(SEED, (b, m), gammas, factors)) == folded


def test_weights_at_their_bound() -> None:
    most = (2**128 - 1) // 9
    largest = [most] * 8 + [2**128 - 1 - 8 * most]
    bits = matrix(2, 9, 8)
    found = weights(SEED, (2, 9), largest).reshape(-1, 2)
    for j, (low, high) in enumerate(found.tolist()):
        assert low + (high << 64) == int(bits[:, j].sum()) * most + largest[8]
    factors = [ORDER - 1, ORDER - 1]
    integer = integers(folded_weights(SEED, (2, 9), largest, factors))
    sums = [low + (high << 64) for low, high in found.tolist()]
    assert integer == [-(sums[j] + sums[9 + j]) % ORDER for j in range(9)]


@pytest.mark.parametrize(("b", "m"), [(1, 9), (2, 5), (2, 8), (8, 3), (8, 19), (16, 16)])
def test_folding_keeps_the_inner_product(b: int, m: int) -> None:
    k = 16
    values = values_of(b, m)
    gammas = gammas_of(k)
    matrix_of_weights = weights(SEED, (b, m), gammas)
    folding = Folding(values, matrix_of_weights)
    claim = sum(
        (int(low) + (int(high) << 64)) * int(value)
        for (low, high), value in zip(
            matrix_of_weights.reshape(-1, 2), values.reshape(-1), strict=True
        )
    )
    factors = [1]
    while folding.rows > 1:
        x = secrets.randbelow(ORDER)
        high_low, low_high = folding.cross()
        claim = (x * claim + high_low + x * x * low_high) % ORDER
        folding.fold(x)
        factors = [item for f in factors for item in (f * x % ORDER, f)]
    left, right = folding.result()
    assert dot(left, right) == claim % ORDER
    # The verifier finds the same weights without folding.
    assert np.array_equal(right, folded_weights(SEED, (b, m), gammas, factors))


def test_folding_of_the_longest_values_and_weights() -> None:
    b, m = 4, 2203
    values = np.full((b, m), 2**40 - 1, np.int64)
    values[:, 1::3], values[:, 2::3] = 1 - 2**40, 0
    values[1] = 1 - 2**40
    folding = Folding(values, np.full((b, m, 2), 2**64 - 1, np.uint64))
    rows = [[int(item) for item in row] for row in values]
    of_rows = [[2**128 - 1] * m for _ in range(b)]
    while folding.rows > 1:
        h = len(rows) // 2
        pairs = (of_rows[h:], rows[:h]), (of_rows[:h], rows[h:])
        expected = tuple(
            sum(a * u for of, by in zip(*pair, strict=True) for a, u in zip(of, by, strict=True))
            % ORDER
            for pair in pairs
        )
        assert folding.cross() == expected
        x = ORDER - 1
        folding.fold(x)
        for i in range(h):
            rows[i] = [a + x * b for a, b in zip(rows[i], rows[h + i], strict=True)]
            of_rows[i] = [x * a + b for a, b in zip(of_rows[i], of_rows[h + i], strict=True)]
        rows, of_rows = rows[:h], of_rows[:h]
    left, right = folding.result()
    assert integers(left) == [row % ORDER for row in rows[0]]
    assert integers(right) == [of_row % ORDER for of_row in of_rows[0]]


def test_folding_ends_with_one_row() -> None:
    folding = Folding(values_of(2, 3), weights(SEED, (2, 3), gammas_of(8)))
    with pytest.raises(ValueError, match="2 rows are left"):
        folding.result()
    folding.fold(3)
    for run in (folding.cross, lambda: folding.fold(3)):
        with pytest.raises(ValueError, match="single row"):
            run()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(EDGES) | st.integers(0, ORDER - 1), min_size=1, max_size=8))
def test_vectors_follow_integer_arithmetic(values: list[int]) -> None:
    left = scalars(values)
    right = scalars(reversed(values))
    backwards = values[::-1]
    assert dot(left, right) == sum(a * b for a, b in zip(values, backwards, strict=True)) % ORDER
    for factor in (values[0], -1, 0, 1):
        expected = [(a + factor * b) % ORDER for a, b in zip(values, backwards, strict=True)]
        assert integers(multiply_add(left, factor, right)) == expected


def test_the_largest_scalars_do_not_overflow_a_sum() -> None:
    largest = scalars([ORDER - 1] * 3000)
    assert dot(largest, largest) == 3000
    assert dot(largest, scalars([2**252 - 1] * 3000)) == -3000 * (2**252 - 1) % ORDER
    assert dot(largest[:0], largest[:0]) == 0


def test_rows_are_combined() -> None:
    values = values_of(3, 6).astype(np.int64)
    values[1, :2] = 2**40 - 1, 1 - 2**40
    factors = [secrets.randbelow(ORDER), -5, 0]
    expected = [sum(f * int(values[c, j]) for c, f in enumerate(factors)) % ORDER for j in range(6)]
    assert integers(combine_rows(factors, values)) == expected
    assert integers(combine_rows([], values[:0])) == [0] * 6
    for size in (1, 2**9, 2**31, 2**40 - 1):
        for value in (size, -size):
            many = np.full((257, 3), value, np.int64)
            assert integers(combine_rows([-1] * 257, many)) == [-257 * value % ORDER] * 3
    assert integers(combine_rows(factors, 0 * values)) == [0] * 6


def test_what_does_not_fit_is_refused() -> None:
    values = values_of(2, 3)
    two = random_scalars(2)
    refused: list[tuple[str, Callable[[], object]]] = [
        ("E502", lambda: project(values[0], SEED, 8)),
        ("E502", lambda: project(values, SEED, 12)),
        ("E502", lambda: project(values, SEED, 0)),
        ("E503", lambda: project(values.astype(float), SEED, 8)),
        ("E503", lambda: project(np.full((1, 1), 2**40), SEED, 8)),
        ("E503", lambda: project(np.full((1, 1), -(2**63)), SEED, 8)),
        ("E503", lambda: project(np.full((1, 1), -(2**40)), SEED, 8)),
        ("E503", lambda: weights(SEED, (2, 3), [2**128 - 8] + [1] * 8)),
        ("E503", lambda: weights(SEED, (2, 3), [-1] + [1] * 8)),
        ("E502", lambda: weights(SEED, (2, 3), [1] * 8)),
        ("E502", lambda: folded_weights(SEED, (2, 3), [1] * 9, [1])),
        ("E502", lambda: folded_weights(SEED, (2, 3), [1] * 8, [1, 1])),
        ("E503", lambda: folded_weights(SEED, (2, 3), [-1] + [1] * 8, [1, 1])),
        ("E502", lambda: Folding(np.zeros((0, 3), np.int64), np.zeros((0, 3, 2), np.uint64))),
        ("E502", lambda: Folding(values, weights(SEED, (2, 3), [1] * 9).astype(np.int64))),
        ("E502", lambda: Folding(values_of(3, 3), weights(SEED, (3, 3), [1] * 9))),
        ("E502", lambda: Folding(values, weights(SEED, (3, 2), [1] * 9))),
        ("E502", lambda: dot(two, two[:1])),
        ("E502", lambda: multiply_add(two, 1, two[:1])),
        ("E502", lambda: combine_rows([1], values)),
    ]
    for code, run in refused:
        with pytest.raises(ValueRefusedError, match=f"QRES-{code}"):
            run()


def test_the_largest_values_and_weights_of_nothing_fit() -> None:
    for value in (2**40 - 1, 1 - 2**40):
        assert set(project(np.full((1, 1), value), SEED, 256)) == {0, value}
    assert not weights(SEED, (2, 3), [0] * 9).any()
