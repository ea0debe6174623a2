"""The dominant eigenvector against LAPACK, and bit for bit against its specification."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qres_arithmetic import dominant_eigenvector
from qres_arithmetic.spectral import UNIT

from qres_core.errors import ValueRefusedError

Matrix = list[list[int]]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20_240_601)


def _digits(value: Fraction) -> int:
    """Return the least e with value < 2**e."""
    e = 0
    while value >= Fraction(2) ** e:
        e += 1
    while value and value < Fraction(2) ** (e - 1):
        e -= 1
    return e


def _product(matrix: Matrix) -> Matrix:
    n = range(len(matrix))
    return [[sum(matrix[i][k] * matrix[k][j] for k in n) for j in n] for i in n]


def _trace(matrix: Matrix) -> int:
    return sum(matrix[i][i] for i in range(len(matrix)))


def _specified(gram: np.ndarray) -> list[int]:
    """Follow the steps of the docstring in Python integers and fractions."""
    n = len(gram)
    bits = min(22, (53 - (n - 1).bit_length()) // 2)
    listed = gram.tolist()
    entries = [[Fraction(listed[max(i, j)][min(i, j)]) for j in range(n)] for i in range(n)]
    digits = _digits(max(abs(x) for row in entries for x in row))
    shift = digits - bits if gram.dtype == np.float64 else max(0, digits - bits)
    power = [[round(x / Fraction(2) ** shift) for x in row] for row in entries]
    if not any(x for row in power for x in row):
        return [UNIT] + [0] * (n - 1)
    for _ in range(12):
        square = _product(power)
        if _trace(power) ** 2 * (2**20 - 1) <= _trace(square) * 2**20:
            break
        shift = max(0, max(abs(x) for row in square for x in row).bit_length() - bits)
        power = [[round(Fraction(x, 2**shift)) for x in row] for row in square]
    k = max(range(n), key=lambda i: (power[i][i], -i))
    return [round(Fraction(UNIT * power[i][k], power[k][k])) for i in range(n)]


def _angle(vector: np.ndarray, other: np.ndarray) -> float:
    unit = vector / np.linalg.norm(vector)
    return float(np.linalg.norm(unit - other * (unit @ other)))


@given(
    seed=st.integers(0, 2**32),
    n=st.integers(1, 7),
    d=st.integers(1, 6),
    size=st.sampled_from([1, 3, 2**10, 2**29]),
    kind=st.sampled_from(["int64", "object", "float64"]),
)
@settings(max_examples=300, deadline=None)
def test_every_bit_is_as_specified(seed: int, n: int, d: int, size: int, kind: str) -> None:
    rows = np.random.default_rng(seed).integers(-size, size, (n, d), endpoint=True)
    gram = rows @ rows.T
    if kind == "object":
        gram = gram.astype(object) * 2**70
    elif kind == "float64":
        gram = gram.astype(np.float64) * 2.0**-37
    assert dominant_eigenvector(gram).tolist() == _specified(gram)


@pytest.mark.parametrize("n", [2, 10, 50, 300])
@pytest.mark.parametrize("kind", ["int64", "float64"])
def test_it_agrees_with_lapack_where_there_is_a_gap(
    n: int, kind: str, rng: np.random.Generator
) -> None:
    rows = rng.standard_normal((n, 40))
    rows[: n // 3 + 1] += 3 * rng.standard_normal(40)
    gram = rows @ rows.T
    if kind == "int64":
        whole = np.rint(rows * 65536).astype(np.int64)
        gram = whole @ whole.T
    values, vectors = np.linalg.eigh(gram.astype(np.float64))
    assert values[-2] < 0.9 * values[-1]
    assert _angle(dominant_eigenvector(gram), vectors[:, -1]) < 1e-5


def test_a_row_of_its_own_does_not_hide_a_larger_joint_direction() -> None:
    # The largest single row is orthogonal to all others, which have the larger eigenvalue.
    gram = np.zeros((1001, 1001))
    gram[0, 0] = 9
    gram[1:, 1:] = 0.01
    assert dominant_eigenvector(gram).tolist() == [0, *[UNIT] * 1000]


def test_of_equal_eigenvalues_the_first_row_decides() -> None:
    assert dominant_eigenvector(np.eye(4, dtype=np.int64) * 5).tolist() == [UNIT, 0, 0, 0]


def test_a_zero_matrix_has_a_stated_answer() -> None:
    assert dominant_eigenvector(np.zeros((3, 3), dtype=np.int64)).tolist() == [UNIT, 0, 0]
    assert dominant_eigenvector(np.zeros((2, 2))).tolist() == [UNIT, 0]


@given(seed=st.integers(0, 2**32), n=st.integers(2, 30))
@settings(max_examples=100, deadline=None)
def test_the_scale_of_floats_does_not_matter(seed: int, n: int) -> None:
    rows = np.random.default_rng(seed).standard_normal((n, 9))
    gram = rows @ rows.T
    expected = dominant_eigenvector(gram).tolist()
    assert dominant_eigenvector(gram * 2.0**-500).tolist() == expected
    assert dominant_eigenvector(gram * 2.0**900).tolist() == expected


def test_what_is_no_gram_matrix_is_refused() -> None:
    with pytest.raises(ValueRefusedError, match="E501"):
        dominant_eigenvector(np.array([[np.nan]]))
    with pytest.raises(ValueRefusedError, match="E502"):
        dominant_eigenvector(np.zeros((2, 3)))
    with pytest.raises(ValueRefusedError, match="E502"):
        dominant_eigenvector(np.zeros((0, 0)))
    with pytest.raises(ValueRefusedError, match="E503"):
        dominant_eigenvector(np.zeros((2, 2), dtype=np.float32))
    with pytest.raises(ValueError, match="semidefinite"):
        dominant_eigenvector(np.array([[-1]]))
