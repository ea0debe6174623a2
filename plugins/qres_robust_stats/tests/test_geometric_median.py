"""The geometric median: its specification to the bit, the true minimum, its bound, and attacks."""

from __future__ import annotations

import itertools
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
from qres_arithmetic import numpy_only
from qres_lab.testing import AggregatorContract, make_round_info, make_updates, merged
from qres_robust_stats import GeometricMedian, geometric_median

from qres_core import Needs, Visibility
from qres_core.errors import CompatibilityError, OptionError, ValueRefusedError

Everywhere = Callable[[Callable[[], NDArray[Any]]], NDArray[Any]]
Ratio = Callable[[NDArray[np.int32], NDArray[np.int32], int], Fraction | None]
LOWEST, HIGHEST = -(2**31), 2**31 - 1
COORDINATE = st.integers(LOWEST, HIGHEST) | st.sampled_from([LOWEST, HIGHEST])


class TestGeometricMedian(AggregatorContract):
    # The sums of the distances run in the order of the senders: the last bit of a weight may differ
    # and with it, at the ends of the grid, a step of the result.
    rounding = 1

    @pytest.fixture(autouse=True, params=[1, 3, 5])
    def _bound(self, request: pytest.FixtureRequest) -> None:
        self.f = request.param
        n = max(11, 2 * self.f + 1)
        type(self).stretch = 2 * (n - self.f) / (n - 2 * self.f)

    def make(self) -> object:
        return GeometricMedian(f=self.f)


class TestWeighted(AggregatorContract):
    rounding = 1
    stretch = 40.0  # with weights the liars may come near to half

    def make(self) -> object:
        return GeometricMedian(f=2, weighted=True, weight_limit=1.5)


@st.composite
def rounds(draw: st.DrawFn) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    n, d = draw(st.integers(1, 8)), draw(st.integers(1, 3))
    coordinate = draw(st.sampled_from([COORDINATE, st.integers(-3, 3), st.integers(-5000, 5000)]))
    rows = draw(arrays(np.int32, (n, d), elements=coordinate))
    weights = st.sampled_from([1, 2, 3, 2**30])
    return rows, np.array(draw(st.lists(weights, min_size=n, max_size=n)), dtype=np.int64)


def by_specification(
    rows: NDArray[np.int32],
    counts: NDArray[np.int64],
    iterations: int,
    smoothing: float,
    *,
    zero: bool,
) -> list[int]:
    """What the reference page states, one scalar at a time."""
    points, n = rows.tolist(), len(rows)
    squares = [
        [float(sum((x - y) ** 2 for x, y in zip(a, b, strict=True))) for b in points]
        for a in points
    ]
    if zero:
        away = [math.sqrt(float(sum(x * x for x in row))) for row in points]
    else:
        sums = [
            math.fsum(math.sqrt(square) * c for square, c in zip(row, counts.tolist(), strict=True))
            for row in squares
        ]
        medoid = sums.index(min(sums))
        order = sorted(range(n), key=lambda row: (squares[medoid][row], row))
        held, nearest = 0, []
        for row in order:
            nearest.append(row)
            held += int(counts[row])
            if 2 * held > int(counts.sum()):
                break
        weights = [float(counts[row]) / float(held) if row in nearest else 0.0 for row in range(n)]
        away = spread(squares, weights)
    for step in range(iterations):
        if step:
            away = spread(squares, weights)
        pulls = [
            float(c) / max(distance, smoothing)
            for c, distance in zip(counts.tolist(), away, strict=True)
        ]
        total = math.fsum(pulls)
        weights = [pull / total for pull in pulls]
    return exact_sum(points, weights)


def spread(squares: list[list[float]], weights: list[float]) -> list[float]:
    mixed = []
    for row in squares:
        total = 0.0
        for square, weight in zip(row, weights, strict=True):
            total += square * weight
        mixed.append(total)
    half = 0.5 * math.fsum(w * m for w, m in zip(weights, mixed, strict=True))
    return [math.sqrt(max(m - half, 0.0)) for m in mixed]


def exact_sum(points: list[list[int]], weights: list[float]) -> list[int]:
    whole = [round(Fraction(weight) * 2**30) for weight in weights]
    whole[whole.index(max(whole))] += 2**30 - sum(whole)
    return [
        round(Fraction(sum(q * x for q, x in zip(whole, column, strict=True)), 2**30))
        for column in zip(*points, strict=True)
    ]


@pytest.mark.claim("C-robust-4")
@given(case=rounds(), iterations=st.integers(1, 6), zero=st.booleans())
@settings(max_examples=1000, deadline=None)
def test_equals_the_specification_to_the_bit(
    case: tuple[NDArray[np.int32], NDArray[np.int64]],
    iterations: int,
    everywhere: Everywhere,
    *,
    zero: bool,
) -> None:
    rows, counts = case
    result = everywhere(
        lambda: geometric_median(
            rows,
            iterations=iterations,
            smoothing=0.5,
            weights=counts,
            start="zero" if zero else "medoid",
        )
    )
    assert result.tolist() == by_specification(rows, counts, iterations, 0.5, zero=zero)


def test_large_input_gives_the_same_bits_on_every_backend(everywhere: Everywhere) -> None:
    rows = np.random.default_rng(1).integers(-(2**20), 2**20, size=(20, 60_000), dtype=np.int32)
    rows[3] = HIGHEST
    for start in ("medoid", "zero"):
        result = everywhere(lambda start=start: geometric_median(rows, iterations=4, start=start))
        assert (np.abs(result) <= 2**20).all()


def minimum(rows: NDArray[Any], counts: NDArray[Any] | None = None) -> NDArray[np.float64]:
    """Weiszfeld's algorithm as it is usually written, for long enough."""
    points = rows.astype(np.float64)
    counts = np.ones(len(points)) if counts is None else counts
    z = np.median(points, axis=0)
    for _ in range(20_000):
        pulls = counts / np.maximum(np.linalg.norm(points - z, axis=1), 1e-9)
        z, last = pulls @ points / pulls.sum(), z
        if np.abs(z - last).max() < 1e-7:
            break
    return z


@pytest.mark.claim("C-robust-4")
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("weighted", [False, True])
def test_is_the_point_of_least_sum_of_distances(seed: int, *, weighted: bool) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.integers(-9000, 9000, size=(11, 4), dtype=np.int32)
    rows[:3] += np.int32(2**29)
    counts = rng.integers(1, 4, size=11) if weighted else None
    result = geometric_median(rows, weights=counts)
    assert np.abs(result - minimum(rows, counts)).max() < 40
    more = geometric_median(rows, weights=counts, iterations=300)
    assert np.abs(more - minimum(rows, counts)).max() <= 2


def plain(vectors: NDArray[Any], nu: float, steps: int) -> NDArray[Any]:
    """The rule as other libraries define it: from zero, with a fixed number of steps."""
    z = np.zeros_like(vectors[0])
    for _ in range(steps):
        pulls = 1 / np.maximum(np.linalg.norm(vectors - z, axis=1), nu)
        z = (vectors * pulls[:, None]).sum(axis=0) / pulls.sum()
    return z


@pytest.mark.parametrize("shape", [(3, 3), (10, 400), (40, 3000), (600, 300)])
@pytest.mark.parametrize("steps", [1, 3, 25])
@pytest.mark.parametrize("real", [np.float32, np.float64])
def test_floats_from_zero_equal_the_plain_formula(
    shape: tuple[int, int], steps: int, real: type[np.floating[Any]], everywhere: Everywhere
) -> None:
    rows = (np.random.default_rng(steps).standard_normal(shape) + 0.1).astype(real)
    rows[-shape[0] // 5 :] -= real(1.6)
    result = everywhere(
        lambda: geometric_median(rows, iterations=steps, smoothing=0.1, start="zero")
    )
    assert result.dtype == real
    tolerance = 1e-5 if real is np.float32 else 1e-10
    assert np.allclose(result, plain(rows.astype(np.float64), 0.1, steps), atol=tolerance)


@pytest.mark.parametrize("far", [10.0, 1e9, 1e30, 3e38])
def test_float_liars_at_every_distance(far: float) -> None:
    rows = np.random.default_rng(6).standard_normal((11, 3000)).astype(np.float32)
    rows[:5] = far
    honest = rows[5:].astype(np.float64)
    reach = 2 * 6 / 1 * np.linalg.norm(honest - honest.mean(axis=0), axis=1).max()
    assert np.linalg.norm(geometric_median(rows) - honest.mean(axis=0)) <= reach
    with numpy_only():
        assert np.linalg.norm(geometric_median(rows) - honest.mean(axis=0)) <= reach


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("d", [3, 9000])
@pytest.mark.parametrize("start", ["medoid", "zero"])
def test_a_row_that_is_not_finite_is_named(bad: float, d: int, start: Any) -> None:
    rows = np.zeros((5, d))
    rows[3, 1] = bad
    with pytest.raises(ValueRefusedError, match=r"QRES-E501 .*row 3"):
        geometric_median(rows, start=start)


def test_distances_that_all_overflow_are_refused() -> None:
    rows = np.array([[1e300, 0.0], [0.0, 1e300], [-1e300, 0.0]])
    with pytest.raises(ValueRefusedError, match=r"QRES-E501 .*overflow"):
        geometric_median(rows, start="zero")


@st.composite
def attacked(draw: st.DrawFn) -> tuple[NDArray[np.int32], int]:
    f = draw(st.integers(1, 3))
    n, d = draw(st.integers(2 * f + 1, 9)), draw(st.integers(1, 3))
    reach = draw(st.sampled_from([3, 1000, HIGHEST]))
    rows = draw(arrays(np.int32, (n, d), elements=st.integers(-1000, 1000)))
    lies = draw(arrays(np.int32, (f, d), elements=st.integers(-reach, reach)))
    rows[n - f :] = lies
    return rows * np.int32(1 if reach == HIGHEST else 1024), f


@pytest.mark.claim("C-robust-4")
@given(case=attacked())
@settings(max_examples=300, deadline=None)
def test_the_robustness_bound_for_every_honest_set(case: tuple[NDArray[np.int32], int]) -> None:
    rows, f = case
    n = len(rows)
    wide = rows.astype(np.float64)
    result = geometric_median(rows).astype(np.float64)
    root = 2 * (1 + f / (n - 2 * f))
    for chosen in itertools.combinations(range(n), n - f):
        honest = wide[list(chosen)]
        mean = honest.mean(axis=0)
        deviation = math.sqrt(((honest - mean) ** 2).sum(axis=1).mean())
        # A step or two of rounding in each coordinate, also where the honest agree.
        assert np.linalg.norm(result - mean) <= root * deviation * (1 + 1e-9) + 2 * rows.shape[1]


@pytest.mark.control("C-robust-4")
def test_a_crowd_beyond_f_wins_and_the_crowd_of_f_does_not(worst_ratio: Ratio) -> None:
    honest = [[i, -i] for i in range(-3, 4)]
    lie = [HIGHEST, LOWEST]
    held = np.array([*honest, *[lie] * 6], dtype=np.int32)
    assert np.abs(geometric_median(held)).max() <= 60
    kappa = worst_ratio(np.array([*honest, *[lie] * 3], dtype=np.int32), np.zeros(2, np.int32), 3)
    assert kappa is not None
    lost = np.array([*honest[:6], *[lie] * 7], dtype=np.int32)
    assert np.abs(geometric_median(lost).astype(np.int64) - lie).max() <= 60


def test_one_sender_at_the_end_of_the_grid() -> None:
    rows = np.random.default_rng(9).integers(-100, 100, size=(10, 500), dtype=np.int32)
    rows[4] = HIGHEST
    others = np.delete(rows, 4, axis=0)
    assert np.linalg.norm(geometric_median(rows) - minimum(others)) < 150
    assert (np.abs(geometric_median(rows)) <= 100).all()


def test_a_common_offset_moves_the_result_along() -> None:
    rows = np.random.default_rng(8).integers(-50, 50, size=(12, 300), dtype=np.int32)
    shift = np.int32(2**31 - 100)
    assert np.array_equal(geometric_median(rows + shift) - shift, geometric_median(rows))


def test_turning_and_stretching_the_input_does_so_to_the_result() -> None:
    rng = np.random.default_rng(10)
    rows = rng.standard_normal((9, 5))
    turn = np.linalg.qr(rng.standard_normal((5, 5)))[0]
    result = geometric_median(rows, smoothing=1e-9)
    turned = geometric_median(3 * rows @ turn, smoothing=3e-9)
    assert np.allclose(turned, 3 * result @ turn)


def test_weights_are_proportions_and_count() -> None:
    rows = np.array([[0], [10], [1000]], dtype=np.int32)
    assert geometric_median(rows, weights=np.array([2, 2, 2])).tolist() == [10]
    assert geometric_median(rows, weights=np.array([1, 1, 5])).tolist() == [1000]
    with pytest.raises(ValueRefusedError, match="QRES-E506"):
        geometric_median(rows, weights=np.array([1, 0, 5]))


def test_weights_of_the_plugin_are_capped() -> None:
    rows = np.array([[0], [10], [20], [1000]], dtype=np.int32)
    updates = make_updates(rows, [1, 1, 1, 2**30])
    info = make_round_info(1)
    assert 10 <= GeometricMedian(f=1).aggregate(updates, info)[0] <= 20
    weighted = GeometricMedian(f=1, weighted=True, weight_limit=2.0)
    assert 10 <= weighted.aggregate(updates, info)[0] <= 20
    heavy = GeometricMedian(f=1, weighted=True, weight_limit=4.0)
    with pytest.raises(ValueRefusedError, match="QRES-E505"):
        heavy.aggregate(updates, info)


def test_smoothing_is_in_model_units() -> None:
    rows = np.array([[0], [1], [100]], dtype=np.int32)
    updates = make_updates(rows)
    # With all distances below the smoothing the result is the mean.
    smooth = GeometricMedian(f=1, smoothing=200 / 2**16)
    assert smooth.aggregate(updates, make_round_info(1)).tolist() == [34]
    assert smooth.aggregate(updates, make_round_info(1, scale=10)).tolist() == [1]


@pytest.mark.claim("C-robust-19")
def test_inputs_stay_as_they_were() -> None:
    rows = np.arange(10, dtype=np.int32).reshape(5, 2)
    before = rows.copy()
    result = geometric_median(rows)
    assert np.array_equal(rows, before)
    assert not np.shares_memory(result, rows)


def test_too_few_updates() -> None:
    rows = np.zeros((4, 1), dtype=np.int32)
    with pytest.raises(ValueRefusedError, match=r"QRES-E505 .* n = 4 updates, and it needs 5"):
        merged([GeometricMedian(f=2)], make_updates(rows), make_round_info(1))
    group = make_updates(rows, visibility=Visibility.SUM)
    with pytest.raises(CompatibilityError, match="QRES-E303"):
        GeometricMedian(f=0).aggregate(group, make_round_info(1))


def test_options() -> None:
    expected = Needs(visibility=Visibility.GROUP, min_updates=5)
    assert GeometricMedian(f=2).claims.needs == expected
    assert GeometricMedian(f=2).claims.tolerates == 2
    assert GeometricMedian(f=2, weighted=True).claims.needs.min_updates == 10
    assert GeometricMedian(f=2).kappa_bound(11) == pytest.approx(4 * (1 + 2 / 7) ** 2)
    assert GeometricMedian(f=2, weighted=True).kappa_bound(11) == math.inf
    for bad in ({"f": True}, {"f": 1, "iterations": 0}, {"f": 1, "smoothing": 0.0}):
        with pytest.raises(OptionError, match=r"(f|iterations|smoothing): must be"):
            GeometricMedian(**bad)  # type: ignore[arg-type]
    rows = np.zeros((1, 1), dtype=np.int32)
    for argument in ({"iterations": 0}, {"smoothing": math.nan}, {"start": "mean"}):
        with pytest.raises(OptionError, match=r"(iterations|smoothing|start): must be"):
            geometric_median(rows, **argument)  # type: ignore[arg-type]
    assert all(field.metadata["help"] for field in attrs.fields(GeometricMedian))
    (entry,) = entry_points(group="qres.plugins", name="geometric_median")
    assert entry.load() is GeometricMedian
