"""Attacks that must fail, each beside a control that shows the attack is real."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qres_krum import Bulyan, Krum, bulyan, krum, multi_krum

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from qres_core import Updates

Rows = list[list[int]]
N, F = 13, 4
REACH = 100
FAR = st.integers(10 * REACH, 2**31 - 1) | st.integers(-(2**31), -10 * REACH)


@st.composite
def besieged(draw: st.DrawFn) -> tuple[Rows, set[int]]:
    """Nine honest vectors in a box and four liars far from it, at any places in the order.

    In at most four dimensions two honest vectors are within ``4 * REACH`` and a liar is farther
    than ``9 * REACH`` from each. An honest score is thus at most ``7 * 16 * REACH**2``; a liar's
    seven neighbours include four honest ones, which cost it at least ``4 * 81 * REACH**2``.
    """
    d = draw(st.integers(1, 4))
    honest_row = st.lists(st.integers(-REACH, REACH), min_size=d, max_size=d)
    rows = draw(st.lists(honest_row, min_size=N, max_size=N))
    liars = set(draw(st.permutations(range(N)))[:F])
    collude = draw(st.booleans())
    lie = draw(st.lists(FAR, min_size=d, max_size=d))
    for liar in liars:
        rows[liar] = lie if collude else draw(st.lists(FAR, min_size=d, max_size=d))
    return rows, liars


@pytest.mark.claim("C-krum-6")
@given(case=besieged())
@settings(deadline=None)
def test_far_liars_are_never_chosen(
    case: tuple[Rows, set[int]], stack: Callable[..., Updates]
) -> None:
    rows, liars = case
    honest = [row for i, row in enumerate(rows) if i not in liars]
    assert Krum(f=F).aggregate(stack(rows)).tolist() in honest


@pytest.mark.claim("C-krum-6")
@given(case=besieged())
@settings(deadline=None)
def test_multi_krum_averages_exactly_the_honest(
    case: tuple[Rows, set[int]], stack: Callable[..., Updates]
) -> None:
    rows, liars = case
    honest = np.array([row for i, row in enumerate(rows) if i not in liars])
    result = Krum(f=F, select=N - F).aggregate(stack(rows))
    assert (np.abs(result - honest.mean(axis=0)) <= 1 / 2).all()


@pytest.mark.control("C-krum-6")
def test_control_the_plain_mean_is_destroyed_by_the_same_liars(
    stack: Callable[..., Updates],
) -> None:
    rows = [[i, -i] for i in range(N - F)] + [[2**31 - 1, -(2**31)]] * F
    mean = np.mean(rows, axis=0)
    assert (np.abs(mean) > 2**29).all()
    assert Krum(f=F).aggregate(stack(rows)).tolist() in rows[: N - F]


@pytest.mark.claim("C-robust-15")
@pytest.mark.control("C-robust-15")
def test_one_liar_owns_the_mean_and_not_krum(stack: Callable[..., Updates]) -> None:
    honest = [[8], [9], [10], [11], [12]]
    target = 2**20
    lie = 6 * target - sum(row[0] for row in honest)
    assert np.mean([*honest, [lie]]) == target
    assert Krum(f=1).aggregate(stack([*honest, [lie]])).tolist() in honest


@pytest.mark.control("C-krum-6", "C-krum-10")
def test_control_more_liars_than_f_do_win(stack: Callable[..., Updates]) -> None:
    # n - f - 1 copies of one lie are at distance zero of all their neighbours. The bound f is
    # what the guarantee rests on, and the tests above could have failed.
    crowd = N - F - 1
    rows = [[7 * i] for i in range(N - crowd)] + [[10**6]] * crowd
    assert Krum(f=F).aggregate(stack(rows)).tolist() == [10**6]


def _offset_swarm() -> tuple[NDArray[np.int32], int]:
    """Thirty vectors around 2**30: spread 8 for the honest, 24 for the last six."""
    generator = np.random.default_rng(20)
    noise = np.rint(8 * generator.standard_normal((30, 500)))
    noise[24:] *= 3
    base = 2**30 + generator.integers(-(2**20), 2**20, size=500)
    return (base + noise).astype(np.int32), 6


def test_a_large_common_offset_does_not_blur_the_choice(
    stack: Callable[..., Updates],
    paper_scores: Callable[[Rows, int], list[int]],
) -> None:
    vectors, f = _offset_swarm()
    rows = vectors.tolist()
    scores = paper_scores(rows, f)
    winner = scores.index(min(scores))
    assert winner < len(rows) - f
    assert Krum(f=f).aggregate(stack(rows)).tolist() == rows[winner]


@pytest.mark.control("C-krum-9")
@pytest.mark.parametrize("real", [np.float32, np.float64])
def test_control_sums_of_floats_depend_on_their_order(real: type[np.floating]) -> None:
    """As a BLAS, its threads and the width of a machine's lanes choose it."""
    rows = np.random.default_rng(4).integers(-(2**31), 2**31 - 1, size=(2, 5000))
    squares = ((rows[0] - rows[1]).astype(real) ** 2).astype(real)
    one_by_one = np.cumsum(squares)[-1]
    backwards = np.cumsum(squares[::-1])[-1]
    in_halves = np.cumsum(squares[:2500])[-1] + np.cumsum(squares[2500:])[-1]
    assert len({one_by_one.tobytes(), backwards.tobytes(), in_halves.tobytes()}) > 1


@pytest.mark.control("C-krum-2")
@pytest.mark.parametrize("real", [np.float32, np.float64])
def test_control_floats_lose_those_distances(real: type[np.floating]) -> None:
    vectors, _ = _offset_swarm()
    floats = vectors.astype(real)
    gram = floats @ floats.T
    squares = np.diag(gram)
    computed = squares[:, None] + squares[None, :] - 2 * gram
    wide = vectors.astype(np.int64)
    true = ((wide[:, None] - wide[None]) ** 2).sum(axis=2)
    apart = ~np.eye(len(vectors), dtype=bool)
    relative = np.abs(computed - true)[apart] / true[apart]
    assert relative.max() > 1 / 10


@pytest.mark.claim("C-krum-6")
@given(case=besieged(), data=st.data())
@settings(deadline=None)
def test_bulyan_stays_within_the_honest(
    case: tuple[Rows, set[int]], data: st.DataObject, stack: Callable[..., Updates]
) -> None:
    # Two of the four liars, and a third honest one, so that n = 4 f + 3.
    rows, liars = case
    dropped = data.draw(st.permutations(sorted(liars)))[:2]
    kept = [i for i in range(N) if i not in dropped]
    honest = np.array([rows[i] for i in kept if i not in liars])
    result = Bulyan(f=2).aggregate(stack([rows[i] for i in kept]))
    assert (result >= honest.min(axis=0)).all()
    assert (result <= honest.max(axis=0)).all()


def _one_coordinate(n: int, f: int, d: int, seed: int) -> tuple[NDArray[np.int32], int]:
    """The attack Bulyan was made against: near the honest mean but for one coordinate.

    The lie is the largest, to a factor of two, that Krum still picks.
    """
    generator = np.random.default_rng(seed)
    honest = np.rint(2**16 * generator.standard_normal((n - f, d)))
    lie = np.rint(honest.mean(axis=0))
    size = 2**30
    while True:
        rows = np.concatenate([honest, np.tile(lie, (f, 1))])
        rows[n - f :, 0] += size
        vectors = rows.astype(np.int32)
        if size < 2 or krum(vectors, f)[0] == vectors[-1, 0]:
            return vectors, size
        size //= 2


@pytest.mark.control("C-krum-6")
@pytest.mark.parametrize("seed", range(3))
def test_one_coordinate_moves_krum_and_not_bulyan(seed: int) -> None:
    n, f, d = 15, 3, 1000
    vectors, size = _one_coordinate(n, f, d, seed)
    honest = vectors[: n - f, 0].astype(np.int64)
    deviation = float(honest.std())
    assert size > 10 * deviation, "the control: Krum returns a lie of many deviations"
    assert krum(vectors, f).tolist() == vectors[-1].tolist()
    assert honest.min() <= bulyan(vectors, f)[0] <= honest.max()
    assert abs(float(bulyan(vectors, f)[0]) - float(honest.mean())) < 3 * deviation


def test_copies_of_an_honest_vector_win_krum_and_move_bulyan_little() -> None:
    """Mimic: the liars repeat one honest vector, which then is what Krum returns."""
    n, f = 23, 5
    generator = np.random.default_rng(4)
    vectors = np.rint(2**16 * generator.standard_normal((n, 400))).astype(np.int32)
    vectors[n - f :] = vectors[3]
    honest = vectors[: n - f].astype(np.int64)
    assert krum(vectors, f).tolist() == vectors[3].tolist()
    result = bulyan(vectors, f)
    centre = honest.mean(axis=0)
    assert np.linalg.norm(result - centre) < 0.7 * np.linalg.norm(vectors[3] - centre)
    assert (result >= honest.min(axis=0)).all()
    assert (result <= honest.max(axis=0)).all()


def _weights_with_small_updates(
    generator: np.random.Generator, n: int, f: int, d: int, scale: float
) -> NDArray[np.float32]:
    """Whole models, a far common offset; the last ``f`` updates are three times as large."""
    updates = scale * generator.standard_normal((n, d))
    updates[n - f :] *= 3
    return (generator.standard_normal(d) + updates).astype(np.float32)


@pytest.mark.claim("C-krum-3")
def test_float32_cancellation_does_not_let_a_liar_in(
    backends: list[Callable[[], AbstractContextManager[None]]],
) -> None:
    n, f, d = 30, 6, 100_000
    vectors = _weights_with_small_updates(np.random.default_rng(0), n, f, d, 1e-4)
    differences = vectors.astype(np.float64) - vectors[0]
    honest = differences[: n - f].mean(axis=0)
    squares = (differences**2).sum(axis=1)
    squared = squares[:, None] + squares[None, :] - 2 * differences @ differences.T
    np.fill_diagonal(squared, np.inf)
    scores = np.sort(squared, axis=1)[:, : n - f - 2].sum(axis=1)
    for backend in backends:
        with backend():
            assert krum(vectors, f).tolist() == vectors[int(scores.argmin())].tolist()
            mean = multi_krum(vectors, f, n - f).astype(np.float64) - vectors[0]
            assert np.abs(mean - honest).max() < 1e-6
            assert np.abs(bulyan(vectors, f).astype(np.float64) - vectors[0] - honest).max() < 1e-3


@pytest.mark.control("C-arithmetic-3", "C-krum-3")
def test_control_a_float32_gram_matrix_lets_a_liar_in() -> None:
    """What the test above survives: uncentred float32 products make the choice noise."""
    n, f, d = 30, 6, 100_000
    lies = 0
    for seed in range(3):
        vectors = _weights_with_small_updates(np.random.default_rng(seed), n, f, d, 1e-4)
        gram = vectors @ vectors.T
        squares = gram.diagonal()
        squared = squares[:, None] + squares[None, :] - 2 * gram
        np.fill_diagonal(squared, np.inf)
        best = np.sort(squared, axis=1)[:, : n - f - 2].sum(axis=1).argsort()[: n - f]
        lies += int((best >= n - f).sum())
    assert lies > 0
