"""Krum against the definition in the paper, and the plugin's options and refusals."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING

import attrs
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from qres_krum import Krum, krum
from qres_krum.scores import krum_scores, sums_of_nearest
from qres_lab.testing import make_round_info, merged

from qres_core import Needs, Updates, Visibility
from qres_core.errors import CompatibilityError, OptionError, ValueRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

Rows = list[list[int]]
LOWEST, HIGHEST = -(2**31), 2**31 - 1
FULL_RANGE = st.integers(LOWEST, HIGHEST) | st.sampled_from([LOWEST, HIGHEST, 0])
FEW_VALUES = st.integers(-1, 1)


@st.composite
def rounds(draw: st.DrawFn, coordinate: st.SearchStrategy[int]) -> tuple[Rows, int]:
    f = draw(st.integers(0, 3))
    n = draw(st.integers(2 * f + 3, 2 * f + 6))
    d = draw(st.integers(1, 4))
    row = st.lists(coordinate, min_size=d, max_size=d)
    rows = draw(st.lists(row, min_size=n, max_size=n))
    copied = draw(st.lists(st.integers(0, n - 1), max_size=n // 2))
    for to, source in enumerate(copied):
        rows[to] = rows[source]
    return rows, f


@st.composite
def seeded(draw: st.DrawFn) -> tuple[Rows, int]:
    """Longer rows, of all magnitudes or of few values, some of them copies."""
    f = draw(st.integers(0, 3))
    n = draw(st.integers(2 * f + 3, 2 * f + 6))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    reach = draw(st.sampled_from([1, 30, 2**16, 2**30, HIGHEST]))
    rows = generator.integers(-reach, reach, size=(n, draw(st.integers(1, 80))), endpoint=True)
    if draw(st.booleans()):
        rows = rows[generator.integers(n, size=n)]
    return rows.tolist(), f


# Five vectors on a line, f = 1, so n - f - 2 = 2 neighbours. The paper's scores are
#   0: 1 + 36 = 37    1: 1 + 25 = 26    6: 9 + 25 = 34    9: 9 + 16 = 25    13: 16 + 49 = 65.
# Three neighbours (n - f - 1) would choose 6, with 9 + 25 + 36 = 70; distances not squared would
# choose 1, with 1 + 5 = 6; a vector counted as its own neighbour would choose 0, with 0 + 1.
LINE: Rows = [[0], [1], [6], [9], [13]]


@pytest.mark.claim("C-krum-1")
def test_the_papers_score_by_hand(stack: Callable[..., Updates]) -> None:
    assert krum_scores(stack(LINE).vectors, 1) == [37, 26, 34, 25, 65]
    assert Krum(f=1).aggregate(stack(LINE)).tolist() == [9]


@pytest.mark.control("C-krum-1")
@pytest.mark.parametrize(
    ("neighbours", "power", "with_self", "choice"),
    [(2, 2, False, 9), (3, 2, False, 6), (2, 1, False, 1), (2, 2, True, 0)],
)
def test_the_hand_example_tells_the_variants_apart(
    neighbours: int, power: int, choice: int, *, with_self: bool
) -> None:
    points = [row[0] for row in LINE]
    scores = [
        sum(
            sorted(abs(x - y) ** power for j, y in enumerate(points) if with_self or j != i)[
                :neighbours
            ]
        )
        for i, x in enumerate(points)
    ]
    assert points[scores.index(min(scores))] == choice


@pytest.mark.claim("C-krum-1")
@given(case=rounds(FULL_RANGE) | rounds(FEW_VALUES) | seeded())
@settings(deadline=None, max_examples=1000)
def test_scores_and_choice_equal_python_integers(
    case: tuple[Rows, int],
    stack: Callable[..., Updates],
    paper_scores: Callable[[Sequence[Sequence[int]], int], list[int]],
    backends: list[Callable[[], AbstractContextManager[None]]],
) -> None:
    rows, f = case
    updates = stack(rows)
    expected = paper_scores(rows, f)
    choice = rows[expected.index(min(expected))]
    for backend in backends:
        with backend():
            assert krum_scores(updates.vectors, f) == expected
            assert krum(updates.vectors, f).tolist() == choice
            assert Krum(f=f).aggregate(updates).tolist() == choice


def test_sums_of_some_rows_of_the_table() -> None:
    distances = np.array([[1, 0, 4, 9], [5, 6, 0, 1]])
    assert sums_of_nearest(distances, [1, 2], 2) == [5, 6]
    assert sums_of_nearest(distances.astype(object), [1, 2], 2) == [5, 6]
    assert sums_of_nearest(distances.astype(float), [1, 2], 2) == [5.0, 6.0]


def test_score_sums_beyond_int64_of_distances_within_it(
    stack: Callable[..., Updates],
    paper_scores: Callable[[Sequence[Sequence[int]], int], list[int]],
) -> None:
    far = 1518500249
    rows = [[far], [far - 1], [far - 2], [-far], [-far], [-far + 1], [-far + 3]]
    expected = paper_scores(rows, 0)
    assert min(expected) > 2**63
    assert krum_scores(stack(rows).vectors, 0) == expected
    assert Krum(f=0).aggregate(stack(rows)).tolist() == rows[expected.index(min(expected))]


@pytest.mark.claim("C-krum-9")
@given(case=rounds(st.integers(-1000, 1000)), data=st.data())
@settings(deadline=None)
def test_who_sends_a_vector_does_not_matter(
    case: tuple[Rows, int], data: st.DataObject, stack: Callable[..., Updates]
) -> None:
    rows, f = case
    assume(len({tuple(row) for row in rows}) == len(rows))
    scores = krum_scores(stack(rows).vectors, f)
    order = data.draw(st.permutations(range(len(rows))))
    moved = stack([rows[i] for i in order])
    assert krum_scores(moved.vectors, f) == [scores[i] for i in order]
    # Distinct vectors may still tie; then, and only then, the sender decides.
    tied = [rows[i] for i, score in enumerate(scores) if score == min(scores)]
    choice = Krum(f=f).aggregate(moved).tolist()
    assert choice == next(rows[i] for i in order if rows[i] in tied)
    if len(tied) == 1:
        assert choice == Krum(f=f).aggregate(stack(rows)).tolist()


@given(case=rounds(st.integers(-1000, 1000)), shift=st.integers(LOWEST + 1000, HIGHEST - 1000))
@settings(deadline=None)
def test_a_common_offset_moves_the_choice_along(
    case: tuple[Rows, int], shift: int, stack: Callable[..., Updates]
) -> None:
    rows, f = case
    moved = [[x + shift for x in row] for row in rows]
    expected = [x + shift for x in Krum(f=f).aggregate(stack(rows)).tolist()]
    assert Krum(f=f).aggregate(stack(moved)).tolist() == expected


@pytest.mark.claim("C-krum-9")
def test_ties_go_to_the_lowest_sender(stack: Callable[..., Updates]) -> None:
    # 1 and 3 are mirror images and both have the least score, 1 + 4 = 5.
    assert krum_scores(stack([[3], [0], [1], [4], [90]]).vectors, 1)[:4] == [5, 10, 5, 10]
    assert Krum(f=1).aggregate(stack([[3], [0], [1], [4], [90]])).tolist() == [3]
    assert Krum(f=1).aggregate(stack([[1], [0], [3], [4], [90]])).tolist() == [1]


@given(
    row=st.lists(FULL_RANGE, min_size=1, max_size=5),
    f=st.integers(0, 3),
    select=st.integers(1, 3),
)
@settings(deadline=None)
def test_identical_inputs_are_returned_exactly(
    row: list[int], f: int, select: int, stack: Callable[..., Updates]
) -> None:
    updates = stack([row] * (2 * f + 3))
    assert Krum(f=f, select=select).aggregate(updates).tolist() == row


@pytest.mark.parametrize("select", [1, 3])
def test_inputs_stay_as_they_were_and_share_no_memory(
    select: int, stack: Callable[..., Updates]
) -> None:
    updates = stack([[LOWEST, 5], [HIGHEST, 4], [3, 3], [2, 2], [1, 1]])
    before = updates.vectors.tobytes()
    result = Krum(f=1, select=select).aggregate(updates)
    assert updates.vectors.tobytes() == before
    assert not np.shares_memory(result, updates.vectors)
    assert result.dtype == np.int32
    assert result.shape == (2,)


@pytest.mark.claim("C-krum-10")
@pytest.mark.parametrize("f", [0, 1, 2, 5])
def test_one_update_too_few_is_refused(f: int, stack: Callable[..., Updates]) -> None:
    rows = [[i] for i in range(2 * f + 3)]
    info = make_round_info(1)
    merged([Krum(f=f)], stack(rows), info)
    with pytest.raises(ValueRefusedError) as refusal:
        merged([Krum(f=f)], stack(rows[:-1]), info)
    (problem,) = refusal.value.problems
    assert problem.code == "QRES-E505"
    assert problem.what == f"n = {2 * f + 2} updates, and it needs {2 * f + 3} or more"
    assert f"raise swarm.quorum to {2 * f + 3}" in problem.fix
    with pytest.raises(ValueRefusedError, match="QRES-E505 vectors"):
        krum(stack(rows[:-1]).vectors, f)


@pytest.mark.claim("C-secagg-25")
def test_sums_and_groups_are_refused(stack: Callable[..., Updates]) -> None:
    updates = attrs.evolve(stack(LINE), visibility=Visibility.SUM)
    with pytest.raises(CompatibilityError, match=r"QRES-E303 .* got only their sum"):
        Krum(f=1).aggregate(updates)


@pytest.mark.parametrize(
    ("f", "select", "fewest"), [(0, 1, 3), (2, 1, 7), (2, 5, 7), (2, 6, 8), (1, 100, 101)]
)
def test_needs(f: int, select: int, fewest: int) -> None:
    assert Krum(f=f, select=select).claims.needs == Needs(
        visibility=Visibility.GROUP, min_updates=fewest
    )
    assert Krum(f=f, select=select).claims.tolerates == f


@pytest.mark.parametrize("value", [-1, True, 1.0, "1", None])
def test_a_bad_option_is_refused_by_name(value: object) -> None:
    with pytest.raises(OptionError, match=r"f: must be an integer of at least 0, got"):
        Krum(f=value)  # type: ignore[arg-type]
    with pytest.raises(
        OptionError, match=r"QRES-E105 select: must be an integer of at least 1, got"
    ):
        Krum(f=1, select=value)  # type: ignore[arg-type]


def test_select_zero_is_refused() -> None:
    with pytest.raises(
        OptionError, match=r"QRES-E105 select: must be an integer of at least 1, got 0"
    ):
        Krum(f=1, select=0)


def test_every_option_explains_itself() -> None:
    options = {field.name: field for field in attrs.fields(Krum)}
    assert list(options) == ["f", "select"]
    assert all(field.metadata["help"] for field in options.values())
    with pytest.raises(TypeError, match="'f'"):
        Krum()  # type: ignore[call-arg]


def test_the_entry_point_leads_here() -> None:
    (entry,) = entry_points(group="qres.plugins", name="krum")
    assert entry.load() is Krum
