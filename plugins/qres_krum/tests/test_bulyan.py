"""Bulyan against the definition in the paper, and the plugin's option and refusals."""

from __future__ import annotations

import tracemalloc
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qres_arithmetic import using_threads
from qres_krum import Bulyan, bulyan
from qres_krum.bulyan import Selected
from qres_krum.iterated import iterated_krum
from qres_lab.testing import make_round_info, merged

from qres_core import Needs, Updates, Visibility
from qres_core.errors import CompatibilityError, OptionError, ValueRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

Rows = list[list[int]]
LOWEST, HIGHEST = -(2**31), 2**31 - 1
FULL_RANGE = st.integers(LOWEST, HIGHEST) | st.sampled_from([LOWEST, HIGHEST, 0])
FEW_VALUES = st.integers(-1, 1)


@st.composite
def rounds(draw: st.DrawFn, coordinate: st.SearchStrategy[int]) -> tuple[Rows, int]:
    f = draw(st.integers(0, 3))
    n = draw(st.integers(4 * f + 3, 4 * f + 6))
    d = draw(st.integers(1, 4))
    row = st.lists(coordinate, min_size=d, max_size=d)
    rows = draw(st.lists(row, min_size=n, max_size=n))
    for to, source in enumerate(draw(st.lists(st.integers(0, n - 1), max_size=n // 2))):
        rows[to] = rows[source]
    return rows, f


@st.composite
def seeded(draw: st.DrawFn) -> tuple[Rows, int]:
    """Longer rows, of all magnitudes or of few values, some of them copies."""
    f = draw(st.integers(0, 3))
    n = draw(st.integers(4 * f + 3, 4 * f + 6))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    reach = draw(st.sampled_from([1, 30, 2**16, 2**30, HIGHEST]))
    rows = generator.integers(-reach, reach, size=(n, draw(st.integers(1, 80))), endpoint=True)
    if draw(st.booleans()):
        rows = rows[generator.integers(n, size=n)]
    return rows.tolist(), f


CASES = rounds(FULL_RANGE) | rounds(FEW_VALUES) | seeded()


# Seven vectors on a line, f = 1, so five picks with 4, 3, 2, 1 and 1 neighbours:
#   8: 16 + 25 + 36 + 49 = 126;  4 without 8: 1 + 4 + 121 = 126;  3 without 4: 1 + 144 = 145;
#   15 and 18 are both 9 from each other, and all distances are 9 + 169 + 5625 = 5803 for 15 and
#   9 + 256 + 5184 = 5449 for 18, which goes first;  2 and 15 are both 169 from each other, and
#   with 90 they are 7913 and 5794 from both.
# The median of 8, 4, 3, 18 and 15 is 8, and the three nearest to it are 3, 4 and 8.
LINE: Rows = [[2], [3], [4], [8], [15], [18], [90]]


@pytest.mark.claim("C-krum-5")
def test_the_papers_selection_by_hand(
    stack: Callable[..., Updates],
    paper_selection: Callable[[Rows, int], list[int]],
    paper_bulyan: Callable[[Rows, int], list[int]],
) -> None:
    points = np.array([row[0] for row in LINE])
    assert iterated_krum((points[:, None] - points) ** 2, 1) == [3, 2, 1, 5, 4]
    assert paper_selection(LINE, 1) == [3, 2, 1, 5, 4]
    assert Bulyan(f=1).aggregate(stack(LINE)).tolist() == [5]
    assert paper_bulyan(LINE, 1) == [5]


@pytest.mark.control("C-krum-5")
def test_selecting_all_at_once_would_choose_others(
    paper_scores: Callable[[Rows, int], list[int]],
) -> None:
    # What is called Bulyan elsewhere takes the n - 2 f best of one scoring: 2 and not 18. The
    # median is then 4, and the mean of 2, 3 and 4 is 3.
    scores = paper_scores(LINE, 1)
    assert sorted(range(7), key=scores.__getitem__)[:5] == [3, 2, 1, 0, 4]


@pytest.mark.parametrize("f", [1, 2])
def test_who_sends_a_vector_does_not_matter(f: int, stack: Callable[..., Updates]) -> None:
    # The last picks have one neighbour, and there two rows always have the same score.
    generator = np.random.default_rng(f)
    for _ in range(50):
        rows = generator.integers(-1000, 1000, size=(4 * f + 3, 5))
        moved = generator.permutation(rows)
        equal = Bulyan(f=f).aggregate(stack(rows.tolist())).tolist()
        assert Bulyan(f=f).aggregate(stack(moved.tolist())).tolist() == equal
        assert (bulyan(moved.astype(float), f) == bulyan(rows.astype(float), f)).all()


@pytest.mark.claim("C-krum-5")
@given(case=CASES)
@settings(deadline=None, max_examples=1000)
def test_equals_the_definition(
    case: tuple[Rows, int],
    stack: Callable[..., Updates],
    paper_bulyan: Callable[[Rows, int], list[int]],
    backends: list[Callable[[], AbstractContextManager[None]]],
) -> None:
    rows, f = case
    updates = stack(rows)
    expected = paper_bulyan(rows, f)
    for backend in backends:
        with backend():
            assert bulyan(updates.vectors, f).tolist() == expected
            assert Bulyan(f=f).aggregate(updates).tolist() == expected


@pytest.mark.long
@given(case=CASES)
@settings(deadline=None, max_examples=1000)
def test_picks_equal_the_definition_for_every_kind_of_number(
    case: tuple[Rows, int], paper_selection: Callable[[Rows, int], list[int]]
) -> None:
    rows, f = case
    if f == 0:
        return  # nothing to select
    wide = np.array(rows, dtype=object)
    distances = ((wide[:, None] - wide[None]) ** 2).sum(axis=2)
    expected = paper_selection(rows, f)
    before = distances.copy()
    assert iterated_krum(distances, f) == expected
    assert np.array_equal(distances, before)
    if distances.max() < 2**63:
        assert iterated_krum(distances.astype(np.int64), f) == expected
    if distances.max() < 2**45:
        # Every sum is an integer below 2**53 and thus exact in float64.
        assert iterated_krum(distances.astype(np.float64), f) == expected


@pytest.mark.parametrize("n", [50, 90])
@pytest.mark.parametrize("f", [1, 5, 11])
@pytest.mark.parametrize("scale", [1, 2**22])
def test_many_rows(
    n: int, f: int, scale: int, paper_selection: Callable[[Rows, int], list[int]]
) -> None:
    # With scale 2**22 distances fit int64 and their sums do not.
    generator = np.random.default_rng(n + f)
    points = generator.integers(-100, 100, size=(n, 2))
    distances = ((points[:, None] - points) ** 2).sum(axis=2)
    expected = paper_selection(points.tolist(), f)
    assert iterated_krum(distances * scale**2, f) == expected
    assert iterated_krum(distances * float(scale) ** 2, f) == expected


def test_distances_that_fit_where_their_sums_do_not(
    paper_selection: Callable[[Rows, int], list[int]],
) -> None:
    far = 1518500249
    rows = [[far], [far - 1], [far - 2], [-far], [-far], [-far + 1], [-far + 3], [0]]
    points = np.array([row[0] for row in rows], dtype=np.int64)
    distances = (points[:, None] - points) ** 2
    assert distances.max() == 4 * far**2 > 2**63 - 2**34
    assert iterated_krum(distances, 1) == paper_selection(rows, 1)


def test_float_sums_do_not_lose_the_near_rows_to_the_far_ones() -> None:
    """A row a distance ``2**60`` away leaves the sums while those of the near rows are about 1.

    Subtracting it from a float sum would leave nothing of them, and every score would be 0.
    """
    generator = np.random.default_rng(5)
    near = generator.permutation(40)
    points = np.concatenate([near, 2**30 + 1000 * np.arange(27)])
    distances = (points[:, None] - points) ** 2
    exact = iterated_krum(distances, 16)
    assert iterated_krum(distances.astype(object), 16) == exact
    assert iterated_krum(distances / 3.0, 16) == iterated_krum(distances.astype(float), 16) == exact


@pytest.mark.parametrize("f", [1, 2, 3])
def test_the_order_of_float_rows_leaves_no_trace(f: int) -> None:
    # A sum that was subtracted from would differ in its last bit from the one it ties with.
    generator = np.random.default_rng(f)
    for _ in range(50):
        upper = np.triu(generator.random((4 * f + 4, 4 * f + 4)), 1)
        distances = upper + upper.T
        order = generator.permutation(len(distances))
        moved = iterated_krum(distances[np.ix_(order, order)], f)
        assert order[moved].tolist() == iterated_krum(distances, f)


def test_infinite_float_distances_are_never_near() -> None:
    points = np.random.default_rng(8).standard_normal(15)
    far = points.copy()
    far[6] = 1e9
    distances = (points[:, None] - points) ** 2
    distances[6] = distances[:, 6] = np.inf
    distances[6, 6] = 0
    picked = iterated_krum(distances, 3)
    assert 6 not in picked
    assert picked == iterated_krum((far[:, None] - far) ** 2, 3)


@pytest.mark.parametrize("d", [1, 3, 9000, pytest.param(20_000, marks=pytest.mark.long)])
@pytest.mark.parametrize("largest", [40, 2**20, 2**31 - 1])
def test_long_rows(
    d: int,
    largest: int,
    paper_bulyan: Callable[[Rows, int], list[int]],
    backends: list[Callable[[], AbstractContextManager[None]]],
) -> None:
    generator = np.random.default_rng(d)
    vectors = generator.integers(-largest, largest, size=(11, d), endpoint=True, dtype=np.int32)
    vectors[10] = vectors[3]
    expected = paper_bulyan(vectors.tolist(), 2)
    for backend in backends:
        with backend():
            assert bulyan(vectors, 2).tolist() == expected


def test_no_liars_is_the_mean(stack: Callable[..., Updates]) -> None:
    assert Bulyan(f=0).aggregate(stack([[0], [1], [4], [9]])).tolist() == [4]  # 3.5, to even


def test_selected_rows_are_copied_by_blocks() -> None:
    rows = np.arange(12, dtype=np.int32).reshape(4, 3)
    selected = Selected(rows, [3, 1])
    assert selected.shape == (2, 3)
    assert selected.dtype == np.int32
    assert selected.block(1, 3).tolist() == [[10, 11], [4, 5]]


@pytest.mark.parametrize("f", [0, 1])
def test_inputs_stay_as_they_were_and_share_no_memory(
    f: int, stack: Callable[..., Updates]
) -> None:
    updates = stack([[LOWEST, 5], [HIGHEST, 4], [3, 3], [2, 2], [1, 1], [0, 0], [9, 9]])
    before = updates.vectors.tobytes()
    result = Bulyan(f=f).aggregate(updates)
    assert updates.vectors.tobytes() == before
    assert not np.shares_memory(result, updates.vectors)
    assert result.dtype == np.int32
    assert result.shape == (2,)


@pytest.mark.claim("C-krum-5")
def test_reported_weights_have_no_effect(stack: Callable[..., Updates]) -> None:
    rows = [[0], [10], [20], [31], [43], [50], [60]]
    equal = Bulyan(f=1).aggregate(stack(rows)).tolist()
    for greedy in range(7):
        weights = [2**30 if i == greedy else 1 for i in range(7)]
        assert Bulyan(f=1).aggregate(stack(rows, weights)).tolist() == equal


@pytest.mark.claim("C-krum-10")
@pytest.mark.parametrize("f", [0, 1, 2, 5])
def test_one_update_too_few_is_refused(f: int, stack: Callable[..., Updates]) -> None:
    rows = [[i] for i in range(4 * f + 3)]
    info = make_round_info(1)
    merged([Bulyan(f=f)], stack(rows), info)
    with pytest.raises(ValueRefusedError) as refusal:
        merged([Bulyan(f=f)], stack(rows[:-1]), info)
    (problem,) = refusal.value.problems
    assert problem.code == "QRES-E505"
    assert problem.what == f"n = {4 * f + 2} updates, and it needs {4 * f + 3} or more"
    assert f"raise swarm.quorum to {4 * f + 3}" in problem.fix
    with pytest.raises(ValueRefusedError, match="QRES-E505 vectors"):
        bulyan(stack(rows[:-1]).vectors, f)


@pytest.mark.claim("C-secagg-25")
def test_sums_and_groups_are_refused(stack: Callable[..., Updates]) -> None:
    updates = attrs.evolve(stack(LINE), visibility=Visibility.SUM)
    with pytest.raises(CompatibilityError, match=r"QRES-E303 updates\.visibility: bulyan .* sum"):
        Bulyan(f=1).aggregate(updates)


@pytest.mark.parametrize(("f", "fewest"), [(0, 3), (1, 7), (10, 43)])
def test_needs(f: int, fewest: int) -> None:
    assert Bulyan(f=f).claims.needs == Needs(visibility=Visibility.GROUP, min_updates=fewest)
    assert Bulyan(f=f).claims.tolerates == f


@pytest.mark.parametrize("value", [-1, True, 1.0, "1", None])
def test_a_bad_option_is_refused_by_name(value: object, stack: Callable[..., Updates]) -> None:
    with pytest.raises(OptionError, match=r"f: must be an integer of at least 0, got"):
        Bulyan(f=value)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=r"f: must be an integer of at least 0, got"):
        bulyan(stack(LINE).vectors, value)  # type: ignore[arg-type]


def test_the_option_explains_itself() -> None:
    options = {field.name: field for field in attrs.fields(Bulyan)}
    assert list(options) == ["f"]
    assert options["f"].metadata["help"]


def test_the_entry_point_leads_here() -> None:
    (entry,) = entry_points(group="qres.plugins", name="bulyan")
    assert entry.load() is Bulyan


@pytest.mark.claim("C-krum-12")
def test_peak_memory_beside_the_input_is_within_a_twentieth_of_it() -> None:
    rows = np.random.default_rng(1).standard_normal((50, 200_000), dtype=np.float32)
    with using_threads(1):
        bulyan(rows[:, :50_000], 11)
        tracemalloc.start()
        try:
            bulyan(rows, 11)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak <= rows.nbytes / 20


@pytest.mark.control("C-krum-12")
def test_control_one_copy_of_the_input_is_seen() -> None:
    rows = np.ones((50, 200_000), dtype=np.float32)
    tracemalloc.start()
    try:
        assert rows.copy().nbytes == rows.nbytes
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak > rows.nbytes / 20
