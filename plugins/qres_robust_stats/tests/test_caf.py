"""CAF: its specification to the bit, the paper's algorithm in plain numpy, and attacks."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from importlib.metadata import entry_points
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from qres_arithmetic import dominant_eigenvector
from qres_lab.testing import AggregatorContract, make_round_info, make_updates, merged
from qres_robust_stats import Caf, caf

from qres_core import Needs, Visibility
from qres_core.errors import CompatibilityError, OptionError, ValueRefusedError

Everywhere = Callable[[Callable[[], NDArray[Any]]], NDArray[Any]]
LOWEST, HIGHEST = -(2**31), 2**31 - 1
COORDINATE = st.integers(LOWEST, HIGHEST) | st.sampled_from([LOWEST, HIGHEST])


class TestCaf(AggregatorContract):
    rounding = 1

    @pytest.fixture(autouse=True, params=[1, 2])
    def _bound(self, request: pytest.FixtureRequest) -> None:
        self.f = request.param

    def make(self) -> object:
        return Caf(f=self.f)


def by_specification(rows: NDArray[np.int32], f: int) -> list[int]:
    """What the reference page states, one scalar at a time; the eigenvector is the library's."""
    points, n = rows.tolist(), len(rows)
    squares = [
        [float(sum((x - y) ** 2 for x, y in zip(a, b, strict=True))) for b in points]
        for a in points
    ]
    counts = [1.0] * n
    least, chosen = math.inf, [1.0 / n] * n
    while True:
        total = math.fsum(counts)
        shares = [c / total for c in counts]
        mixed = sweep(squares, shares)
        spread = math.fsum(s * m for s, m in zip(shares, mixed, strict=True))
        gram = [
            [0.5 * ((mixed[i] + mixed[j]) - (squares[i][j] + spread)) for j in range(n)]
            for i in range(n)
        ]
        roots = [math.sqrt(s) for s in shares]
        matrix = [[roots[i] * gram[i][j] * roots[j] for j in range(n)] for i in range(n)]
        vector = [float(x) for x in dominant_eigenvector(np.array(matrix)).tolist()]
        stretched = sweep(matrix, vector)
        value = math.fsum(v * s for v, s in zip(vector, stretched, strict=True)) / math.fsum(
            v * v for v in vector
        )
        if value < least:
            least, chosen = value, shares
        shadows = [x * x for x in sweep(gram, [r * v for r, v in zip(roots, vector, strict=True)])]
        most = max(s for s, c in zip(shadows, counts, strict=True) if c > 0)
        counts = [
            c * max(1.0 - s / most, 0.0) if most and c > 0 else 0.0
            for c, s in zip(counts, shadows, strict=True)
        ]
        if math.fsum(counts) <= n - 2 * f:
            break
    whole = [round(Fraction(weight) * 2**30) for weight in chosen]
    whole[whole.index(max(whole))] += 2**30 - sum(whole)
    return [
        round(Fraction(sum(q * x for q, x in zip(whole, column, strict=True)), 2**30))
        for column in zip(*points, strict=True)
    ]


def sweep(matrix: list[list[float]], vector: list[float]) -> list[float]:
    results = []
    for row in matrix:
        total = 0.0
        for entry, factor in zip(row, vector, strict=True):
            total += entry * factor
        results.append(total)
    return results


@st.composite
def rounds(draw: st.DrawFn) -> tuple[NDArray[np.int32], int]:
    f = draw(st.integers(0, 3))
    n, d = draw(st.integers(2 * f + 1, 2 * f + 4)), draw(st.integers(1, 3))
    coordinate = draw(st.sampled_from([COORDINATE, st.integers(-2, 2), st.integers(-5000, 5000)]))
    return draw(arrays(np.int32, (n, d), elements=coordinate)), f


@given(case=rounds())
@settings(max_examples=1000, deadline=None)
def test_equals_the_specification_to_the_bit(
    case: tuple[NDArray[np.int32], int], everywhere: Everywhere
) -> None:
    rows, f = case
    assert everywhere(lambda: caf(rows, f)).tolist() == by_specification(rows, f)


def papers(rows: NDArray[Any], f: int) -> NDArray[np.float64]:
    """The paper's algorithm, with the covariance matrix itself and its eigenvectors."""
    points, n = rows.astype(np.float64), len(rows)
    counts = np.ones(n)
    least, chosen = np.inf, points.mean(axis=0)
    while True:
        mean = counts @ points / counts.sum()
        centred = points - mean
        covariance = (counts[:, None] * centred).T @ centred / counts.sum()
        values, vectors = np.linalg.eigh(covariance)
        if values[-1] < least:
            least, chosen = values[-1], mean
        shadows = (centred @ vectors[:, -1]) ** 2
        counts = counts * np.maximum(1 - shadows / shadows[counts > 0].max(), 0)
        if counts.sum() <= n - 2 * f:
            return chosen


@pytest.mark.claim("C-robust-8")
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("f", [1, 2, 4])
def test_equals_the_papers_algorithm(seed: int, f: int) -> None:
    rng = np.random.default_rng(seed)
    # Variances well apart: what the eigenvectors of near ones are, no two programs agree on.
    scale = np.array([9.0, 4.0, 2.0, 1.0, 0.5])
    rows = rng.standard_normal((22, 5)) * scale
    rows[:f] += rng.standard_normal(5) * 20
    expected = papers(rows, f)
    assert np.allclose(caf(rows, f), expected, atol=0.02)
    assert np.allclose(caf(rows.astype(np.float32), f), expected, atol=0.02)
    grid = np.rint(rows * 65536).astype(np.int32)
    assert np.allclose(caf(grid, f) / 65536, expected, atol=0.02)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_named(bad: float) -> None:
    rows = np.zeros((5, 30))
    rows[3, 7] = bad
    with pytest.raises(ValueRefusedError, match=r"QRES-E501 .*row 3"):
        caf(rows, 1)


def test_without_liars_it_is_the_mean_and_so_it_is_of_one_point() -> None:
    rows = np.array([[0], [2], [7]], dtype=np.int32)
    assert caf(rows, 0).tolist() == [3]
    assert caf(np.full((5, 3), 9, dtype=np.int32), 2).tolist() == [9, 9, 9]


@pytest.mark.claim("C-robust-8")
@pytest.mark.control("C-robust-8")
def test_in_many_dimensions_a_shift_within_the_noise_is_noticed() -> None:
    # Every liar is as near to the honest mean as an honest update is, but all on one side.
    n, f, d = 60, 6, 400
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((n, d))
    direction = rng.standard_normal(d)
    rows[:f] = math.sqrt(d) * direction / np.linalg.norm(direction)
    honest = rows[f:].mean(axis=0)
    assert np.linalg.norm(rows.mean(axis=0) - honest) > 1.9
    assert np.linalg.norm(caf(rows, f) - honest) < 1.2


@pytest.mark.parametrize("spread", ["together", "apart"])
def test_far_liars_leave_no_trace(spread: str) -> None:
    rng = np.random.default_rng(2)
    rows = rng.integers(-100, 100, size=(16, 50), dtype=np.int32)
    lies = np.full((3, 50), HIGHEST)
    if spread == "apart":
        lies = rng.choice(np.array([LOWEST, HIGHEST]), size=(3, 50))
    rows[:3] = lies
    assert (np.abs(caf(rows, 3)) <= 100).all()


def test_a_common_offset_moves_the_result_along() -> None:
    rows = np.random.default_rng(8).integers(-50, 50, size=(12, 300), dtype=np.int32)
    shift = np.int32(2**31 - 100)
    assert np.array_equal(caf(rows + shift, 2) - shift, caf(rows, 2))


@pytest.mark.claim("C-robust-19")
def test_inputs_stay_as_they_were() -> None:
    rows = np.arange(10, dtype=np.int32).reshape(5, 2)
    before = rows.copy()
    result = caf(rows, 1)
    assert np.array_equal(rows, before)
    assert not np.shares_memory(result, rows)


def test_too_few_updates() -> None:
    rows = np.zeros((4, 1), dtype=np.int32)
    with pytest.raises(ValueRefusedError, match=r"QRES-E505 .*2 f \+ 1 = 5"):
        caf(rows, 2)
    with pytest.raises(ValueRefusedError, match=r"QRES-E505 .* n = 4 updates, and it needs 6"):
        merged([Caf(f=1)], make_updates(rows), make_round_info(1))
    group = make_updates(rows, visibility=Visibility.SUM)
    with pytest.raises(CompatibilityError, match="QRES-E303"):
        Caf(f=0).aggregate(group)


def test_options() -> None:
    assert Caf(f=2).claims.needs == Needs(visibility=Visibility.GROUP, min_updates=11)
    assert Caf(f=2).claims.tolerates == 2
    with pytest.raises(OptionError, match=r"f: must be an integer"):
        Caf(f=True)
    assert all(field.metadata["help"] for field in attrs.fields(Caf))
    (entry,) = entry_points(group="qres.plugins", name="caf")
    assert entry.load() is Caf


@pytest.mark.parametrize("n", [21, 64, 127, 128, 129])
def test_many_rows_have_the_same_bits_compiled_and_not(n: int, everywhere: Everywhere) -> None:
    rng = np.random.default_rng(n)
    rows = np.rint(rng.standard_normal((n, 40)) * 2.0 ** rng.integers(0, 24)).astype(np.int32)
    rows[: n // 6] += 3 * int(np.abs(rows).max())
    everywhere(lambda: caf(rows, n // 6))
