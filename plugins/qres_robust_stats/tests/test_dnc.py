"""DnC against the paper's algorithm in plain numpy, its sampling, and attacks."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, ClassVar

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from qres_arithmetic import mean_of
from qres_lab.testing import AggregatorContract, make_round_info, make_updates, merged
from qres_robust_stats import Dnc, caf, dnc
from qres_robust_stats.dnc import sample

from qres_core import Needs, Visibility
from qres_core.errors import CompatibilityError, OptionError, ValueRefusedError

Everywhere = Callable[[Callable[[], NDArray[Any]]], NDArray[Any]]
LOWEST, HIGHEST = -(2**31), 2**31 - 1
SEED = bytes(range(32))


class TestDnc(AggregatorContract):
    kappa: ClassVar[float] = math.inf

    @pytest.fixture(autouse=True, params=[1, 2, 4])
    def _bound(self, request: pytest.FixtureRequest) -> None:
        self.f = request.param

    def make(self) -> object:
        return Dnc(f=self.f)


def papers(rows: NDArray[Any], f: int, part: float, samples: list[NDArray[np.intp]]) -> list[int]:
    """Rows that algorithm 2 of the paper keeps, with the singular vectors themselves."""
    kept = set(range(len(rows)))
    for columns in samples:
        seen = rows[:, columns].astype(np.float64)
        centred = seen - seen.mean(axis=0)
        direction = np.linalg.svd(centred)[2][0]
        scores = (centred @ direction) ** 2
        count = len(rows) - math.ceil(part * f)
        kept &= set(np.argsort(scores)[:count].tolist())
    return sorted(kept)


@pytest.mark.claim("C-robust-9")
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("f", "part", "iterations"), [(1, 1.0, 1), (3, 1.5, 1), (3, 1.0, 3)])
def test_equals_the_papers_algorithm(
    seed: int, f: int, part: float, iterations: int, everywhere: Everywhere
) -> None:
    rng = np.random.default_rng(seed)
    n, d, b = 20, 60, 40
    # Variances well apart: what the eigenvectors of near ones are, no two programs agree on.
    rows = rng.standard_normal((n, d)) * np.linspace(3, 0.1, d)
    rows[:f] += 9 * rng.standard_normal(d)
    grid = np.rint(rows * 65536).astype(np.int32)
    samples = [sample(SEED, i, d, b) for i in range(iterations)]
    chosen = [columns for columns in samples if columns is not None]
    assert len(chosen) == iterations
    expected = papers(rows, f, part, chosen)

    def run(vectors: NDArray[Any]) -> NDArray[Any]:
        return dnc(vectors, f, filter=part, iterations=iterations, coordinates=b, seed=SEED)

    assert everywhere(lambda: run(grid)).tolist() == mean_of(grid, expected).tolist()
    assert np.allclose(run(rows), rows[expected].mean(axis=0))


@given(
    seed=st.binary(min_size=32, max_size=32),
    iteration=st.integers(0, 3),
    d=st.integers(1, 300),
    count=st.integers(1, 320),
)
@settings(max_examples=1000, deadline=None)
def test_samples_are_distinct_and_the_first_of_the_stream(
    seed: bytes, iteration: int, d: int, count: int
) -> None:
    found = sample(seed, iteration, d, count)
    if count >= d:
        assert found is None
        return
    stream = hashlib.shake_256(
        b"qres/dnc/coordinates/v1\0" + seed + iteration.to_bytes(8, "little")
    ).digest(8 * 60 * (d + 1))
    chosen: list[int] = []
    for at in range(0, len(stream), 8):
        number = int.from_bytes(stream[at : at + 8], "little")
        if number < 2**64 // d * d and number % d not in chosen:
            chosen.append(number % d)
        if len(chosen) == count:
            break
    assert found is not None
    assert found.tolist() == sorted(chosen)


def test_samples_of_large_dimensions_are_spread_evenly() -> None:
    found = sample(SEED, 0, 10**6, 10_000)
    assert found is not None
    assert len(set(found.tolist())) == 10_000
    tenths = np.histogram(found, bins=10, range=(0, 10**6))[0]
    assert (np.abs(tenths - 1000) < 150).all()
    with pytest.raises(ValueError, match=r"^seed must have 32 bytes"):
        sample(b"", 0, 10, 3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_named_wherever_it_is(bad: float) -> None:
    rows = np.zeros((5, 300))
    seen = sample(SEED, 0, 300, 5)
    assert seen is not None
    unseen = min(set(range(300)) - set(seen.tolist()))
    rows[3, unseen] = bad
    with pytest.raises(ValueRefusedError, match=r"QRES-E501 .*row 3"):
        dnc(rows, 1, coordinates=5, seed=SEED)


@pytest.mark.claim("C-robust-9")
def test_liars_that_shift_one_way_are_dropped() -> None:
    rng = np.random.default_rng(3)
    rows = rng.integers(-1000, 1000, size=(20, 500), dtype=np.int32)
    rows[:4] = np.rint(rows[4:].mean(axis=0) - 1.2 * rows[4:].std(axis=0)).astype(np.int32)
    assert dnc(rows, 4).tolist() == mean_of(rows, range(4, 20)).tolist()
    rows[:4] = HIGHEST
    assert dnc(rows, 4).tolist() == mean_of(rows, range(4, 20)).tolist()


@pytest.mark.control("C-robust-9")
def test_liars_that_stick_out_in_different_directions_are_not_and_the_notice_says_so() -> None:
    rows = np.random.default_rng(4).integers(-10, 10, size=(9, 4), dtype=np.int32)
    rows[0], rows[1] = [HIGHEST, 0, 0, 0], [0, 2**16, 0, 0]
    assert abs(int(dnc(rows, 2)[1])) > 2**12
    assert "no proven worst case" in Dnc(f=2).claims.notices[0]
    assert Dnc(f=2).claims.tolerates == 1
    assert Dnc(f=1).claims.notices == ()


def test_of_equal_scores_the_later_row_is_dropped() -> None:
    rows = np.array([[-5], [0], [5]], dtype=np.int32)
    assert dnc(rows, 1).tolist() == mean_of(rows, [0, 1]).tolist()


def test_if_nothing_is_left_the_round_is_refused() -> None:
    rows = np.array([[-5], [0], [5]], dtype=np.int32)
    with pytest.raises(ValueRefusedError, match=r"QRES-E505 .*all of n = 3"):
        dnc(rows, 1, filter=3.0)
    assert dnc(rows, 0, filter=3.0).tolist() == [0]


def test_the_coordinates_depend_on_the_round_and_on_every_update() -> None:
    rng = np.random.default_rng(5)
    rows = rng.integers(-1000, 1000, size=(9, 400), dtype=np.int32)
    rule = Dnc(f=2, coordinates=3)

    def result(vectors: NDArray[np.int32], number: int = 1) -> list[int]:
        info = make_round_info(400, number=number)
        return rule.aggregate(make_updates(vectors), info).tolist()

    first = result(rows)
    assert result(rows) == first
    assert any(result(rows, number) != first for number in range(2, 8))
    changes = []
    for row in range(9):
        other = rows.copy()
        other[row, 0] += 1
        changes.append(result(other)[1:] != first[1:])
    assert any(changes)


def test_inputs_stay_as_they_were() -> None:
    rows = np.arange(10, dtype=np.int32).reshape(5, 2)
    before = rows.copy()
    result = dnc(rows, 1)
    assert np.array_equal(rows, before)
    assert not np.shares_memory(result, rows)


def test_too_few_updates() -> None:
    rows = np.zeros((4, 1), dtype=np.int32)
    info = make_round_info(1)
    with pytest.raises(ValueRefusedError, match=r"QRES-E505 .*2 f \+ 1 = 5"):
        dnc(rows, 2)
    with pytest.raises(ValueRefusedError, match=r"QRES-E505 .* n = 4 updates, and it needs 5"):
        merged([Dnc(f=2)], make_updates(rows), info)
    often = Dnc(f=2, filter=1.5, iterations=2)
    with pytest.raises(ValueRefusedError, match=r"n = 4 updates, and it needs 7"):
        merged([often], make_updates(rows), info)
    group = make_updates(rows, visibility=Visibility.SUM)
    with pytest.raises(CompatibilityError, match="QRES-E303"):
        Dnc(f=0).aggregate(group, info)


def test_options() -> None:
    assert Dnc(f=2).claims.needs == Needs(visibility=Visibility.GROUP, min_updates=5)
    assert Dnc(f=2).claims.tolerates == 1
    assert Dnc(f=0).claims.tolerates == 0
    assert Dnc(f=2, filter=1.5, iterations=2).claims.needs.min_updates == 7
    assert Dnc(f=2).kappa_bound(11) == math.inf
    for bad in (
        {"f": True},
        {"f": 1, "filter": 0.0},
        {"f": 1, "iterations": 0},
        {"f": 1, "coordinates": 0},
    ):
        with pytest.raises(
            OptionError, match=r"QRES-E105 (f|filter|iterations|coordinates): must be"
        ):
            Dnc(**bad)  # type: ignore[arg-type]
    rows = np.zeros((3, 1), dtype=np.int32)
    for argument in ({"filter": math.nan}, {"iterations": 0}, {"coordinates": 0}):
        with pytest.raises(
            OptionError, match=r"QRES-E105 (filter|iterations|coordinates): must be"
        ):
            dnc(rows, 1, **argument)  # type: ignore[arg-type]
    assert all(field.metadata["help"] for field in attrs.fields(Dnc))
    (entry,) = entry_points(group="qres.plugins", name="dnc")
    assert entry.load() is Dnc


def test_a_filter_beyond_all_bounds_is_refused_and_overflows_nothing() -> None:
    rows = np.arange(15, dtype=np.int32).reshape(5, 3)
    with pytest.raises(ValueRefusedError, match="QRES-E505"):
        dnc(rows, 2, filter=1e308)
    assert Dnc(f=2, filter=1e308).claims.needs.min_updates > 2**30


def test_floats_beyond_what_a_product_holds_are_refused_without_a_warning() -> None:
    rows = np.full((5, 3), 1e308)
    rows[1] *= -1
    for rule in (dnc, caf):
        with pytest.raises(ValueRefusedError, match="QRES-E501"):
            rule(rows, 1)
