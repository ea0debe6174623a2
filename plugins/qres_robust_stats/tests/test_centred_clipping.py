"""Centred clipping: its specification to the bit, what a sender can move, and its history."""

from __future__ import annotations

import math
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from fractions import Fraction
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from qres_arithmetic import numpy_only
from qres_lab.testing import (
    AggregatorContract,
    make_node_info,
    make_round_info,
    make_updates,
    merged,
)
from qres_robust_stats import CentredClipping, centred_clipping
from qres_robust_stats.clip_history import (
    FILE,
    ClipHistory,
    MemoryHistory,
    SqliteHistory,
    open_history,
)

from qres_core import Needs, Outcome, RoundInfo, RoundStatus, Visibility, canonical
from qres_core.errors import (
    CompatibilityError,
    OptionError,
    RoundError,
    ValueRefusedError,
    WireError,
)

Everywhere = Callable[[Callable[[], NDArray[Any]]], NDArray[Any]]
LOWEST, HIGHEST = -(2**31), 2**31 - 1
COORDINATE = st.integers(LOWEST, HIGHEST) | st.sampled_from([LOWEST, HIGHEST])
DIGESTS = tuple(bytes([i]) * 32 for i in range(9))


class TestCentredClipping(AggregatorContract):
    # It moves from zero by at most the radius, so what is asked of it is asked near zero.
    bounded_by_inputs = False
    translates = False
    kappa: ClassVar[float] = math.inf
    rounding = 1

    @pytest.fixture(autouse=True, params=[1, 3])
    def _bound(self, request: pytest.FixtureRequest) -> None:
        self.f = request.param

    def make(self) -> object:
        return CentredClipping(f=self.f, radius=2 * self.spread / 2**16)


class TestIterated(TestCentredClipping):
    def make(self) -> object:
        return CentredClipping(f=self.f, radius=self.spread / 2**16, iterations=3, history=False)


@st.composite
def rounds(draw: st.DrawFn) -> tuple[NDArray[np.int32], NDArray[np.int32] | None]:
    n, d = draw(st.integers(1, 7)), draw(st.integers(1, 3))
    coordinate = draw(st.sampled_from([COORDINATE, st.integers(-3, 3), st.integers(-5000, 5000)]))
    rows = draw(arrays(np.int32, (n, d), elements=coordinate))
    start = draw(st.none() | arrays(np.int32, d, elements=coordinate))
    return rows, start


def by_specification(
    rows: NDArray[np.int32], start: NDArray[np.int32] | None, iterations: int, radius: float
) -> list[int]:
    """What the reference page states, one scalar at a time; the start vector is the last point."""
    n = len(rows)
    points = [*rows.tolist(), [0] * rows.shape[1] if start is None else start.tolist()]
    squares = [
        [float(sum((x - y) ** 2 for x, y in zip(a, b, strict=True))) for b in points]
        for a in points
    ]
    weights = [0.0] * n + [1.0]
    for step in range(iterations):
        if step:
            mixed = []
            for row in squares[:n]:
                total = 0.0
                for square, weight in zip(row[:n], weights[:n], strict=True):
                    total += square * weight
                mixed.append(total)
            terms = [w * m for w, m in zip(weights[:n], mixed, strict=True)]
            if weights[n]:
                mixed = [m + row[n] * weights[n] for m, row in zip(mixed, squares, strict=False)]
                terms = [w * m for w, m in zip(weights[:n], mixed, strict=True)]
                at_start = [w * s for w, s in zip(weights[:n], squares[n][:n], strict=True)]
                terms.append(weights[n] * math.fsum(at_start))
            half = 0.5 * math.fsum(terms)
            away = [math.sqrt(max(m - half, 0.0)) for m in mixed]
        else:
            away = [math.sqrt(row[n]) for row in squares[:n]]
        factors = [radius / max(distance, radius) for distance in away]
        left = math.fsum([1.0 - factor for factor in factors]) / n
        weights = [w * left for w in weights]
        weights[:n] = [w + factor / n for w, factor in zip(weights[:n], factors, strict=True)]
    whole = [round(Fraction(weight) * 2**30) for weight in weights]
    whole[whole.index(max(whole))] += 2**30 - sum(whole)
    return [
        round(Fraction(sum(q * x for q, x in zip(whole, column, strict=True)), 2**30))
        for column in zip(*points, strict=True)
    ]


@given(
    case=rounds(),
    iterations=st.integers(1, 4),
    radius=st.sampled_from([0.5, 3.0, 1000.0, 2.0**31, 1e12]),
)
@settings(max_examples=1000, deadline=None)
def test_equals_the_specification_to_the_bit(
    case: tuple[NDArray[np.int32], NDArray[np.int32] | None],
    iterations: int,
    radius: float,
    everywhere: Everywhere,
) -> None:
    rows, start = case
    result = everywhere(
        lambda: centred_clipping(rows, radius=radius, iterations=iterations, start=start)
    )
    assert result.tolist() == by_specification(rows, start, iterations, radius)


def plain(vectors: NDArray[Any], radius: float, steps: int, start: NDArray[Any]) -> NDArray[Any]:
    """The rule as the paper and other libraries define it."""
    v = start
    for _ in range(steps):
        differences = vectors - v
        factors = np.minimum(1, radius / np.linalg.norm(differences, axis=1))
        v = v + (differences * factors[:, None]).mean(axis=0)
    return v


@given(case=rounds(), iterations=st.integers(1, 4), radius=st.sampled_from([3.0, 1000.0, 1e12]))
@settings(max_examples=300, deadline=None)
def test_equals_the_papers_formula(
    case: tuple[NDArray[np.int32], NDArray[np.int32] | None], iterations: int, radius: float
) -> None:
    rows, start = case
    result = centred_clipping(rows, radius=radius, iterations=iterations, start=start)
    wide = rows.astype(np.float64)
    begin = np.zeros(rows.shape[1]) if start is None else start.astype(np.float64)
    with np.errstate(divide="ignore"):
        expected = plain(wide, radius, iterations, begin)
    # Each of the weights is rounded to 2**-30, and so much of the farthest row may be missing.
    tolerance = 1 + np.abs([*wide, begin]).max() * (len(rows) + 1) / 2**30
    assert np.abs(result - expected).max() <= tolerance + 1e-6 * radius * (radius < 1e6)


@pytest.mark.parametrize("shape", [(3, 3), (10, 400), (40, 3000), (600, 300)])
@pytest.mark.parametrize("steps", [1, 3, 25])
@pytest.mark.parametrize("real", [np.float32, np.float64])
@pytest.mark.parametrize("with_start", [False, True])
def test_floats_equal_the_papers_formula(
    shape: tuple[int, int],
    steps: int,
    real: type[np.floating[Any]],
    *,
    with_start: bool,
) -> None:
    rng = np.random.default_rng(steps)
    rows = (rng.standard_normal(shape) + 0.1).astype(real)
    rows[0] *= real(30)
    start = rng.standard_normal(shape[1]).astype(real) if with_start else None
    radius = 0.8 * math.sqrt(shape[1])
    begin = np.zeros(shape[1]) if start is None else start.astype(np.float64)
    expected = plain(rows.astype(np.float64), radius, steps, begin)
    tolerance = 1e-5 if real is np.float32 else 1e-10
    for kernels in (nullcontext(), numpy_only()):
        with kernels:
            result = centred_clipping(rows, radius=radius, iterations=steps, start=start)
        assert result.dtype == real
        assert np.allclose(result, expected, atol=tolerance)


@pytest.mark.control("C-robust-5")
def test_without_clipping_it_is_the_mean(everywhere: Everywhere) -> None:
    rows = np.random.default_rng(0).integers(LOWEST, HIGHEST, size=(7, 3000), dtype=np.int32)
    result = everywhere(lambda: centred_clipping(rows, radius=1e12))
    shares = [2**30 // 7] * 7
    shares[0] += 2**30 - sum(shares)
    total = sum(q * row.astype(object) for q, row in zip(shares, rows, strict=True))
    assert result.tolist() == [round(Fraction(x, 2**30)) for x in total]


@pytest.mark.parametrize("steps", [1, 3])
def test_large_input_gives_the_same_bits_on_every_backend(
    steps: int, everywhere: Everywhere
) -> None:
    rng = np.random.default_rng(1)
    rows = rng.integers(-(2**20), 2**20, size=(20, 60_000), dtype=np.int32)
    rows[3] = HIGHEST
    start = rng.integers(-(2**20), 2**20, size=60_000, dtype=np.int32)
    radius = 2.0**28
    result = everywhere(
        lambda: centred_clipping(rows, radius=radius, iterations=steps, start=start)
    )
    begin = start.astype(np.float64)
    expected = plain(rows.astype(np.float64), radius, steps, begin)
    assert np.abs(result - expected).max() < 60


@pytest.mark.claim("C-robust-5")
@given(case=rounds(), liar=arrays(np.int32, 3, elements=COORDINATE), steps=st.integers(1, 3))
@settings(max_examples=300, deadline=None)
def test_a_sender_moves_the_result_by_a_share_of_the_radius(
    case: tuple[NDArray[np.int32], NDArray[np.int32] | None], liar: NDArray[np.int32], steps: int
) -> None:
    rows, start = case
    radius = 5000.0
    begin = np.zeros(rows.shape[1]) if start is None else start
    result = centred_clipping(rows, radius=radius, iterations=steps, start=start)
    # Weights are rounded to 2**-30: of rows at the end of the grid that is a few steps.
    slack = 4 * (len(rows) + 1) * math.sqrt(rows.shape[1])
    assert np.linalg.norm(result - begin) <= steps * radius + slack
    changed = rows.copy()
    changed[-1] = liar[: rows.shape[1]]
    other = centred_clipping(changed, radius=radius, start=start)
    once = centred_clipping(rows, radius=radius, start=start)
    moved = np.linalg.norm(other.astype(np.float64) - once)
    assert moved <= 2 * radius / len(rows) + 2 * slack


@pytest.mark.claim("C-robust-5")
def test_rounding_adds_some_steps_at_the_end_of_the_grid_and_no_more() -> None:
    rows, radius = np.zeros((10, 2000), dtype=np.int32), 65.536
    rows[3, :673] = 2**29 + 1000
    share, moved = radius / 10, float(np.linalg.norm(centred_clipping(rows, radius=radius)))
    assert share < moved <= share + 2 * math.sqrt(2000)
    # The control: the same by a row that is no farther than its weight can tell.
    rows[3, :673] = 2**20
    assert np.linalg.norm(centred_clipping(rows, radius=radius)) <= share + math.sqrt(2000) / 2


def test_a_huge_sender_beside_honest_ones() -> None:
    rows = np.random.default_rng(9).integers(-100, 100, size=(10, 50), dtype=np.int32)
    rows[4] = HIGHEST
    result = centred_clipping(rows, radius=1000.0)
    others = np.delete(rows, 4, axis=0)
    assert np.linalg.norm(result - others.sum(axis=0) / 10) <= 1000 / 10 + 10
    assert np.linalg.norm(rows.mean(axis=0)) > 1e9


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("d", [3, 9000])
def test_a_row_that_is_not_finite_is_named(bad: float, d: int) -> None:
    rows = np.zeros((5, d))
    rows[3, 1] = bad
    with pytest.raises(ValueRefusedError, match=r"QRES-E501 .*row 3"):
        centred_clipping(rows, radius=1.0)


def test_the_radius_is_in_model_units() -> None:
    updates = make_updates([[90], [120], [150]])
    rule = CentredClipping(f=1, radius=60 / 2**16)
    assert rule.aggregate(updates, make_round_info(1)).tolist() == [60]
    assert rule.aggregate(updates, make_round_info(1, scale=-1)).tolist() == [110]
    assert rule.aggregate(updates, make_round_info(1, scale=1)).tolist() == [30]


# ── history ───────────────────────────────────────────────────────────────────────────────────


def round_of(step: int, *, model: bytes | None = None, dimension: int = 1) -> RoundInfo:
    digest = DIGESTS[step] if model is None else model
    info = make_round_info(dimension, number=step + 1, model_digest=digest)
    return attrs.evolve(info, step=step)


def closed(info: RoundInfo, child: bytes, *, merged: bool = True) -> Outcome:
    senders = tuple(bytes([i]) * 32 for i in range(3))
    return Outcome(info, RoundStatus.CLOSED, child, senders, merged=merged)


def play(rule: CentredClipping, step: int, rows: list[list[int]]) -> int:
    info = round_of(step)
    merged = rule.aggregate(make_updates(rows), info)
    rule.round_closed(closed(info, DIGESTS[step + 1]))
    return int(merged[0])


ROWS = [[90], [120], [150]]


def test_a_round_starts_from_what_made_its_model() -> None:
    rule = CentredClipping(f=1, radius=60 / 2**16)
    assert [play(rule, step, ROWS) for step in range(3)] == [60, 110, 120]
    forgetful = CentredClipping(f=1, radius=60 / 2**16, history=False)
    assert [play(forgetful, step, ROWS) for step in range(3)] == [60, 60, 60]


def test_the_first_round_starts_from_zero_on_every_node() -> None:
    rule = CentredClipping(f=1, radius=60 / 2**16)
    play(rule, 0, ROWS)
    # A round of another swarm, or one begun anew.
    assert rule.aggregate(make_updates(ROWS), round_of(0)).tolist() == [60]


@pytest.mark.parametrize("status", [RoundStatus.ABORTED, RoundStatus.VOID])
def test_a_round_without_a_new_model_changes_nothing(status: RoundStatus) -> None:
    rule = CentredClipping(f=1, radius=60 / 2**16)
    play(rule, 0, ROWS)
    info = round_of(1)
    rule.aggregate(make_updates([[-900], [-900], [-900]]), info)
    rule.round_closed(Outcome(info, status, DIGESTS[1], reason="no agreement"))
    assert play(rule, 1, ROWS) == 110


def test_of_several_calls_in_a_round_the_last_counts() -> None:
    rule = CentredClipping(f=1, radius=60 / 2**16)
    info = round_of(0)
    rule.aggregate(make_updates([[-900], [-900], [-900]]), info)
    assert play(rule, 0, ROWS) == 60
    assert play(rule, 1, ROWS) == 110


@pytest.mark.claim("C-robust-5")
def test_a_model_from_elsewhere_is_refused() -> None:
    rule = CentredClipping(f=1, radius=60 / 2**16)
    play(rule, 0, ROWS)
    with pytest.raises(ValueRefusedError, match=r"QRES-E507 plugins\.centred_clipping\.history"):
        rule.aggregate(make_updates(ROWS), round_of(1, model=bytes(32)))
    fresh = CentredClipping(f=1, radius=60 / 2**16)
    with pytest.raises(ValueRefusedError, match="snapshot"):
        fresh.aggregate(make_updates(ROWS), round_of(1))


def test_a_model_of_others_is_not_taken_for_what_the_rule_returned() -> None:
    rule = CentredClipping(f=1, radius=60 / 2**16)
    info = round_of(0)
    # The node merged a set to judge it, and the others agreed on another.
    rule.aggregate(make_updates(ROWS), info)
    rule.round_closed(closed(info, DIGESTS[1], merged=False))
    with pytest.raises(ValueRefusedError, match="QRES-E507"):
        rule.aggregate(make_updates(ROWS), round_of(1))


def test_a_history_of_another_dimension_is_refused() -> None:
    rule = CentredClipping(f=1, radius=60 / 2**16)
    play(rule, 0, ROWS)
    with pytest.raises(ValueRefusedError, match="QRES-E502"):
        rule.aggregate(make_updates([[1, 2]] * 3), round_of(1, dimension=2))


def test_what_a_caller_does_with_the_result_does_not_change_the_history() -> None:
    rule = CentredClipping(f=1, radius=60 / 2**16)
    info = round_of(0)
    rule.aggregate(make_updates(ROWS), info)[:] = 7
    rule.round_closed(closed(info, DIGESTS[1]))
    assert play(rule, 1, ROWS) == 110


@pytest.fixture(params=["memory", "disk"])
def history(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ClipHistory]:
    folder = None if request.param == "memory" else str(tmp_path / "new" / "folder")
    kept = open_history(make_node_info(data_dir=folder))
    assert isinstance(kept, MemoryHistory) == (folder is None)
    yield kept
    kept.close()


def test_a_history(history: ClipHistory) -> None:
    assert history.made(DIGESTS[1]) is None
    history.became(DIGESTS[0], DIGESTS[1])
    assert history.made(DIGESTS[1]) is None
    history.returned(DIGESTS[0], np.array([LOWEST, HIGHEST], dtype=np.int32))
    assert history.made(DIGESTS[0]) is None
    history.became(DIGESTS[0], DIGESTS[1])
    made = history.made(DIGESTS[1])
    assert made is not None
    assert made.dtype == np.int32
    assert made.tolist() == [LOWEST, HIGHEST]
    assert history.made(DIGESTS[0]) is None
    # Something returned for another model is not what made this one.
    history.returned(DIGESTS[5], made)
    history.became(DIGESTS[1], DIGESTS[2])
    assert history.made(DIGESTS[1]) is None
    assert history.made(DIGESTS[2]) is None


def test_a_simulation_that_goes_on_starts_from_what_made_its_model(tmp_path: Path) -> None:
    rule, again = (CentredClipping(f=1, radius=60 / 2**16) for _ in range(2))
    assert rule.remember() == b""
    play(rule, 0, ROWS)
    again.recall_agreed(rule.remember())
    assert play(again, 1, ROWS) == play(rule, 1, ROWS) == 110
    for bad in (
        b"",
        b"no",
        canonical.dumps([1, bytes(4)]),
        canonical.dumps([DIGESTS[1], bytes(3)]),
    ):
        with pytest.raises((TypeError, ValueError, WireError)):
            again.recall_agreed(bad)
    assert play(again, 2, ROWS) == 120  # as before
    on_disk = CentredClipping(f=1, radius=60 / 2**16)
    on_disk.setup(make_node_info(data_dir=str(tmp_path)))
    play(on_disk, 0, ROWS)
    assert on_disk.remember() == b""  # its folder holds it
    on_disk.teardown()


@pytest.mark.claim("C-robust-5")
def test_the_history_survives_the_process(tmp_path: Path) -> None:
    info = make_node_info(data_dir=str(tmp_path))

    def node() -> CentredClipping:
        rule = CentredClipping(f=1, radius=60 / 2**16)
        rule.setup(info)
        return rule

    rule = node()
    play(rule, 0, ROWS)
    rule.teardown()
    rule = node()
    # Stopped between the result and the news that the round closed: the result is still there.
    second = round_of(1)
    assert rule.aggregate(make_updates(ROWS), second).tolist() == [110]
    rule.teardown()
    rule.teardown()
    rule = node()
    rule.round_closed(closed(second, DIGESTS[2]))
    assert play(rule, 2, ROWS) == 120
    rule.teardown()
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_without_history_nothing_is_written(tmp_path: Path) -> None:
    rule = CentredClipping(f=1, radius=1.0, history=False)
    rule.setup(make_node_info(data_dir=str(tmp_path)))
    play(rule, 0, ROWS)
    rule.teardown()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.claim("C-robust-5")
def test_a_lost_file_means_refusal(tmp_path: Path) -> None:
    info = make_node_info(data_dir=str(tmp_path))
    rule = CentredClipping(f=1, radius=60 / 2**16)
    rule.setup(info)
    play(rule, 0, ROWS)
    rule.teardown()
    (tmp_path / FILE).unlink()
    rule = CentredClipping(f=1, radius=60 / 2**16)
    rule.setup(info)
    with pytest.raises(ValueRefusedError, match="QRES-E507"):
        play(rule, 1, ROWS)
    rule.teardown()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    info = make_node_info(data_dir=str(tmp_path))
    first = open_history(info)
    with pytest.raises(RoundError, match=r"QRES-E602 .*another process"):
        open_history(info)
    first.close()
    open_history(info).close()


def tampered(path: Path, statement: str) -> None:
    database = sqlite3.connect(path)
    database.execute(statement)
    database.commit()
    database.close()


@pytest.mark.claim("C-robust-5")
@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("UPDATE kept SET vector = x'00000000' WHERE name = 'made'", "'made' is damaged"),
        ("UPDATE kept SET model = x'00' WHERE name = 'made'", "'made' is damaged"),
        ("UPDATE kept SET vector = 'text' WHERE name = 'made'", "'made' is damaged"),
        ("UPDATE kept SET digest = x'00' WHERE name = 'owner'", "'owner' is damaged"),
        ("PRAGMA user_version = 9", "version 9"),
        ("PRAGMA application_id = 9", "not a history"),
        ("DROP TABLE kept", "no such table"),
        ("DELETE FROM kept WHERE name = 'owner'", "another swarm or node"),
    ],
)
def test_damage_is_noticed(tmp_path: Path, statement: str, what: str) -> None:
    info = make_node_info(data_dir=str(tmp_path))
    history = open_history(info)
    history.returned(DIGESTS[0], np.array([5], dtype=np.int32))
    history.became(DIGESTS[0], DIGESTS[1])
    history.close()
    tampered(tmp_path / FILE, statement)
    with pytest.raises(RoundError, match=rf"QRES-E602 .*{what}"):  # noqa: PT012 - either may
        damaged = open_history(info)
        try:
            damaged.made(DIGESTS[1])
        finally:
            damaged.close()


def test_a_file_of_nothing_and_of_noise(tmp_path: Path) -> None:
    info = make_node_info(data_dir=str(tmp_path))
    for content in (b"", b"\xff" * 4096):
        (tmp_path / FILE).write_bytes(content)
        with pytest.raises(RoundError, match="QRES-E602"):
            open_history(info)


def test_another_nodes_file(tmp_path: Path) -> None:
    SqliteHistory(tmp_path, make_node_info()).close()
    for other in (make_node_info(index=1), make_node_info(swarm="another")):
        with pytest.raises(RoundError, match=r"QRES-E602 .*another swarm or node"):
            SqliteHistory(tmp_path, other)


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RoundError, match="QRES-E602"):
        open_history(make_node_info(data_dir=str(tmp_path / "file" / "folder")))


# ── refusals and options ──────────────────────────────────────────────────────────────────────


def test_too_few_updates() -> None:
    rows = np.zeros((4, 1), dtype=np.int32)
    rule = CentredClipping(f=2, radius=1.0)
    with pytest.raises(ValueRefusedError, match=r"QRES-E505 .* n = 4 updates, and it needs 5"):
        merged([rule], make_updates(rows), make_round_info(1))
    group = make_updates(rows, visibility=Visibility.SUM)
    with pytest.raises(CompatibilityError, match="QRES-E303"):
        CentredClipping(f=0, radius=1.0).aggregate(group, make_round_info(1))


def test_options() -> None:
    rule = CentredClipping(f=2, radius=1.0)
    assert rule.claims.needs == Needs(visibility=Visibility.GROUP, min_updates=5)
    assert rule.claims.tolerates == 2
    assert rule.kappa_bound(11) == math.inf
    assert "20 updates" in rule.claims.notices[0]
    assert CentredClipping(f=0, radius=1.0).claims.notices == ()
    for bad in (
        {"f": True, "radius": 1.0},
        {"f": 1, "radius": 0.0},
        {"f": 1, "radius": 1.0, "iterations": 0},
    ):
        with pytest.raises(OptionError, match=r"(f|radius|iterations): must be"):
            CentredClipping(**bad)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="history: must be true or false, got 1"):
        CentredClipping(f=1, radius=1.0, history=1)  # type: ignore[arg-type]
    rows = np.zeros((1, 1), dtype=np.int32)
    with pytest.raises(OptionError, match=r"radius: must be"):
        centred_clipping(rows, radius=math.inf)
    with pytest.raises(OptionError, match=r"iterations: must be"):
        centred_clipping(rows, radius=1.0, iterations=0)
    with pytest.raises(ValueRefusedError, match="QRES-E502 start"):
        centred_clipping(rows, radius=1.0, start=np.zeros(2, dtype=np.int32))
    options = [field for field in attrs.fields(CentredClipping) if field.init]
    assert all(field.metadata["help"] for field in options)
    (entry,) = entry_points(group="qres.plugins", name="centred_clipping")
    assert entry.load() is CentredClipping
