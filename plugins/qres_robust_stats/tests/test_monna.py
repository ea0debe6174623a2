"""MoNNA against its definition, its bound, and the trust it asks for."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from qres_arithmetic import mean_of
from qres_lab.testing import AggregatorContract, make_round_info, make_updates, merged
from qres_robust_stats import Monna, monna

from qres_core import Needs, Surroundings, Visibility
from qres_core.errors import CompatibilityError, OptionError, ValueRefusedError

Everywhere = Callable[[Callable[[], NDArray[Any]]], NDArray[Any]]
LOWEST, HIGHEST = -(2**31), 2**31 - 1
COORDINATE = st.integers(LOWEST, HIGHEST) | st.sampled_from([LOWEST, HIGHEST])
FIRST = hashlib.sha256(b"node 0").hexdigest()
"""The one identity that is among every number of made-up senders."""


class TestMonna(AggregatorContract):
    anonymous = False

    def make(self) -> object:
        return Monna(f=2, pivot=FIRST)

    def _liars_or_skip(self, plugin: object) -> int:
        pytest.skip(f"{plugin} promises nothing where the pivot lies; see the tests below")

    test_agg_10_weight_is_a_claim = None
    test_agg_11_liars_are_withstood = None


@st.composite
def rounds(draw: st.DrawFn) -> tuple[NDArray[np.int32], int, int]:
    f = draw(st.integers(0, 4))
    n, d = draw(st.integers(2 * f + 1, 2 * f + 4)), draw(st.integers(1, 3))
    coordinate = draw(st.sampled_from([COORDINATE, st.integers(-2, 2)]))
    rows = draw(arrays(np.int32, (n, d), elements=coordinate))
    return rows, f, draw(st.integers(0, n - 1))


@given(case=rounds())
@settings(max_examples=1000, deadline=None)
def test_equals_the_definition(
    case: tuple[NDArray[np.int32], int, int], everywhere: Everywhere
) -> None:
    rows, f, pivot = case
    wide = rows.astype(object)
    squares = ((wide - wide[pivot]) ** 2).sum(axis=1).tolist()
    order = sorted(range(len(rows)), key=lambda row: (row != pivot, squares[row], row))
    expected = mean_of(rows, order[: len(rows) - f])
    assert everywhere(lambda: monna(rows, f, pivot)).tolist() == expected.tolist()


@pytest.mark.claim("C-robust-7")
@given(case=rounds())
@settings(max_examples=300, deadline=None)
def test_the_bound_holds_for_every_honest_set_with_the_pivot(
    case: tuple[NDArray[np.int32], int, int],
) -> None:
    rows, f, pivot = case
    n = len(rows)
    wide = rows.astype(np.float64)
    result = monna(rows, f, pivot).astype(np.float64)
    for honest in itertools.combinations(range(n), n - f):
        if pivot in honest:
            chosen = wide[list(honest)]
            reach = np.linalg.norm(chosen - wide[pivot], axis=1).max()
            allowed = 2 * f / (n - f) * reach * (1 + 1e-12) + 0.5 * np.sqrt(rows.shape[1])
            assert np.linalg.norm(result - chosen.mean(axis=0)) <= allowed


@pytest.mark.parametrize("real", [np.float32, np.float64])
@pytest.mark.parametrize("d", [40, 9000])
def test_floats(real: type[np.floating[Any]], d: int, everywhere: Everywhere) -> None:
    rows = np.random.default_rng(3).standard_normal((11, d)).astype(real)
    rows[-3:] += 9
    result = everywhere(lambda: monna(rows, 3, 4))
    assert result.dtype == real
    assert np.allclose(result, rows[:-3].astype(np.float64).mean(axis=0), atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("pivot", [0, 3])
def test_a_row_that_is_not_finite_is_named(bad: float, pivot: int) -> None:
    rows = np.zeros((5, 30))
    rows[3, 7] = bad
    with pytest.raises(ValueRefusedError, match=r"QRES-E501 .*row 3"):
        monna(rows, 1, pivot)


@pytest.mark.control("C-robust-7")
def test_far_liars_are_left_out_and_a_lying_pivot_wins() -> None:
    rows = np.array([[1], [2], [3], [HIGHEST], [LOWEST]], dtype=np.int32)
    assert monna(rows, 2, 1).tolist() == [2]
    # Its own and the two nearest, which are honest: it still moves the mean far.
    assert abs(int(monna(rows, 2, 3)[0])) > 2**28


def test_the_pivot_is_found_by_its_identity() -> None:
    rows = np.array([[0], [2], [4], [900], [901], [902]], dtype=np.int32)
    updates = make_updates(rows)
    means = {0: 2, 1: 2, 2: 2, 3: 901, 4: 901, 5: 901}
    for row, mean in means.items():
        rule = Monna(f=2, pivot=updates.senders[row].hex())
        assert rule.aggregate(updates)[0] in {mean, 226, 227, 676, 677, 678}
        assert rule.aggregate(updates).tolist() == monna(rows, 2, row).tolist()
    upper = Monna(f=2, pivot=updates.senders[0].hex().upper())
    assert upper.aggregate(updates).tolist() == monna(rows, 2, 0).tolist()


def test_weights_do_not_count() -> None:
    rows = [[0], [2], [4], [900]]
    plain = Monna(f=1, pivot=FIRST).aggregate(make_updates(rows))
    heavy = Monna(f=1, pivot=FIRST).aggregate(make_updates(rows, [1, 2**30, 7, 2**30]))
    assert heavy.tolist() == plain.tolist()


@pytest.mark.claim("C-robust-7")
def test_a_round_without_the_pivot_is_refused() -> None:
    rule = Monna(f=1, pivot="ab" * 32)
    with pytest.raises(ValueRefusedError, match=r"QRES-E507 plugins\.monna\.pivot: .*abababab"):
        rule.aggregate(make_updates([[1], [2], [3]]))
    assert "abababab" in rule.claims.notices[0]
    assert "alone" in rule.claims.notices[0]


def test_too_few_updates() -> None:
    rows = np.zeros((4, 1), dtype=np.int32)
    with pytest.raises(ValueRefusedError, match=r"QRES-E505 .*2 f \+ 1 = 5"):
        monna(rows, 2, 0)
    with pytest.raises(ValueRefusedError, match=r"QRES-E505 .* n = 4 updates, and it needs 5"):
        merged([Monna(f=2, pivot=FIRST)], make_updates(rows), make_round_info(1))
    group = make_updates(rows, visibility=Visibility.GROUP)
    with pytest.raises(CompatibilityError, match="QRES-E303"):
        Monna(f=0, pivot=FIRST).aggregate(group)


@pytest.mark.parametrize("pivot", ["", "ab", "zz" * 32, "ab" * 31, "ab" * 33, 5, None])
def test_a_pivot_that_is_no_identity(pivot: object) -> None:
    with pytest.raises(OptionError, match=r"pivot: must be a node's identity"):
        Monna(f=1, pivot=pivot)  # type: ignore[arg-type]


def test_a_pivot_that_is_no_node_of_the_swarm_is_refused_before_the_start() -> None:
    around = Surroundings(nodes=5, byzantine=1, quorum=4)
    plugin = Monna(f=1, pivot=FIRST.upper())
    assert list(plugin.check(around)) == []  # the roster is not known yet
    assert list(plugin.check(attrs.evolve(around, roster=("00" * 32, FIRST)))) == []
    (problem,) = plugin.check(attrs.evolve(around, roster=("00" * 32,)))
    assert problem.code == "QRES-E304"
    assert problem.where == "plugins.monna.pivot"
    assert FIRST[:16] in problem.what


def test_options() -> None:
    expected = Needs(visibility=Visibility.INDIVIDUAL, min_updates=5)
    assert Monna(f=2, pivot=FIRST).claims.needs == expected
    assert Monna(f=2, pivot=FIRST).claims.tolerates == 2
    with pytest.raises(OptionError, match=r"f: must be an integer"):
        Monna(f=True, pivot=FIRST)
    rows = np.zeros((3, 1), dtype=np.int32)
    for pivot in (-1, 3, True):
        with pytest.raises(OptionError, match=r"pivot: must be"):
            monna(rows, 1, pivot)
    assert all(field.metadata["help"] for field in attrs.fields(Monna))
    (entry,) = entry_points(group="qres.plugins", name="monna")
    assert entry.load() is Monna
