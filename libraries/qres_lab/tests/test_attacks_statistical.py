"""Attacks that hide among the honest: each against its formula in slow Python."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from qres_lab.attacks.moments import BLOCK
from qres_lab.attacks.statistical import supporters_quantile

from qres_core import RoundInfo, Update
from qres_core.attacks import AttackContext, make_attack
from qres_core.contract.fixed import LIMIT

Rows = NDArray[np.int32]


def sent(name: str, rows: Rows, attackers: int = 2, strength: float | None = None) -> list[int]:
    own = rows[0]
    context = AttackContext(
        RoundInfo("a", 1, b"m" * 32, own.size, 0, (b"s" * 32,), 1),
        own,
        Update(own),
        rows,
        attackers,
        0,
        np.random.default_rng(0),
    )
    (forged,) = make_attack(name, strength).forge(context)
    row: list[int] = np.frombuffer(forged.octets, dtype="<i4").tolist()
    return row


def columns(rows: Rows) -> list[list[int]]:
    return [list(column) for column in zip(*rows.tolist(), strict=True)]


def held(value: float) -> int:
    return max(-LIMIT, min(LIMIT, round(value)))


def matrices(low: int = -(2**20), high: int = 2**20) -> st.SearchStrategy[Rows]:
    def build(shape: tuple[int, int]) -> st.SearchStrategy[Rows]:
        row = st.lists(st.integers(low, high), min_size=shape[1], max_size=shape[1])
        many = st.lists(row, min_size=shape[0], max_size=shape[0])
        return many.map(lambda values: np.array(values, dtype=np.int32))

    return st.tuples(st.integers(2, 6), st.integers(1, 5)).flatmap(build)


@pytest.mark.claim("C-attack-1")
@given(matrices(), st.sampled_from([("ipm", None, 2.0), ("foe", None, 10.0), ("ipm", 0.5, 0.5)]))
def test_inner_product_manipulation(rows: Rows, case: tuple[str, float | None, float]) -> None:
    name, strength, factor = case
    expected = [held(-factor * statistics.fmean(column)) for column in columns(rows)]
    assert np.abs(np.subtract(sent(name, rows, strength=strength), expected)).max() <= 1


@pytest.mark.claim("C-attack-1")
@given(matrices(), st.floats(0.0, 5.0))
def test_a_little_is_enough(rows: Rows, z: float) -> None:
    expected = [
        held(statistics.fmean(column) - z * statistics.pstdev(column)) for column in columns(rows)
    ]
    assert np.abs(np.subtract(sent("alie", rows, strength=z), expected)).max() <= 1


@pytest.mark.claim("C-attack-1")
def test_the_papers_z_by_the_normal_distribution() -> None:
    """The paper's own example: 50 workers of which 24 are corrupt need 2 supporters; z is 1.43."""
    assert supporters_quantile(26, 24) == pytest.approx(1.43, abs=0.01)
    for honest, attackers in [(10, 4), (26, 24), (8, 6)]:
        n = honest + attackers
        needed = math.floor(n / 2 + 1) - attackers
        z = supporters_quantile(honest, attackers)
        phi = (1 + math.erf(z / math.sqrt(2))) / 2
        assert phi == pytest.approx((n - attackers - needed) / (n - attackers))
    assert supporters_quantile(10, 1) == 0.0  # one of eleven cannot hide on one side
    assert math.isfinite(supporters_quantile(3, 9))
    assert supporters_quantile(0, 4) == 0.0


def test_without_a_strength_the_papers_z_is_used() -> None:
    rows = np.random.default_rng(1).integers(-(2**16), 2**16, (26, 7), dtype=np.int32)
    assert sent("alie", rows, 24) == sent("alie", rows, 24, supporters_quantile(26, 24))


def test_blocks_of_columns_make_no_difference() -> None:
    rows = np.random.default_rng(2).integers(-(2**20), 2**20, (5, BLOCK + 3), dtype=np.int32)
    for name in ("alie", "ipm"):
        whole = sent(name, rows, strength=1.0)
        parts = [sent(name, rows[:, cut], strength=1.0) for cut in (slice(9), slice(9, None))]
        assert whole == parts[0] + parts[1]


# ── min-max and min-sum ───────────────────────────────────────────────────────────────────────────


def directed(kind: str, rows: Rows) -> list[float]:
    means = [statistics.fmean(column) for column in columns(rows)]
    if kind == "sign":
        return [-math.copysign(1.0, mean) if mean else 0.0 for mean in means]
    if kind == "unit":
        size = math.sqrt(math.fsum(mean**2 for mean in means))
        return [-mean / size if size else 0.0 for mean in means]
    return [-statistics.pstdev(column) for column in columns(rows)]


def squares(rows: Rows, row: Sequence[float]) -> list[float]:
    return [
        math.fsum((a - b) ** 2 for a, b in zip(item, row, strict=True)) for item in rows.tolist()
    ]


def largest(distances: list[float]) -> float:
    return max(distances)


STEALTHY = [
    (bound + suffix, kind, spent)
    for bound, spent in (("min_max", largest), ("min_sum", math.fsum))
    for suffix, kind in (("", "std"), ("_unit", "unit"), ("_sign", "sign"))
]
"""Name, direction, and what of the squared distances the bound limits to the worst honest row's."""


@pytest.mark.claim("C-attack-1")
@pytest.mark.parametrize(("name", "kind", "spent"), STEALTHY)
@settings(max_examples=60)
@given(rows=matrices())
def test_the_bound_holds_for_what_is_sent(
    name: str, kind: str, spent: Callable[[list[float]], float], rows: Rows
) -> None:
    del kind
    budget = max(spent(squares(rows, item)) for item in rows.tolist())
    row = sent(name, rows)
    mean = [held(statistics.fmean(column)) for column in columns(rows)]
    # Where the honest updates are within a grid step of each other, their mean itself may break
    # the bound by its rounding.
    assert spent(squares(rows, row)) <= budget or row == mean


@pytest.mark.control("C-attack-1")
@pytest.mark.parametrize(("name", "kind", "spent"), STEALTHY)
@settings(max_examples=60)
@given(rows=matrices())
def test_the_bound_is_tight_the_bisection_of_the_paper_finds_the_same(
    name: str, kind: str, spent: Callable[[list[float]], float], rows: Rows
) -> None:
    budget = max(spent(squares(rows, item)) for item in rows.tolist())
    mean = [statistics.fmean(column) for column in columns(rows)]
    way = directed(kind, rows)
    size = math.sqrt(math.fsum(item**2 for item in way))

    def at(gamma: float) -> list[float]:
        return [m + gamma * w for m, w in zip(mean, way, strict=True)]

    low, high = 0.0, 1.0
    if size:
        while spent(squares(rows, at(high))) <= budget:
            high *= 2.0
    for _ in range(60):
        middle = (low + high) / 2.0
        if spent(squares(rows, at(middle))) <= budget:
            low = middle
        else:
            high = middle
    row = sent(name, rows)
    off = math.sqrt(math.fsum((a - b) ** 2 for a, b in zip(row, at(low), strict=True)))
    # Rounding moves a row by at most half a step a coordinate; giving way to it takes a few times
    # that, more where the direction runs along the bound.
    spread = math.sqrt(max(budget, 1.0))
    assert off <= 8.0 * math.sqrt(len(mean)) + 1e-6 * spread


def test_equal_honest_updates_leave_nothing_but_their_value() -> None:
    rows = np.tile(np.array([5, -7, 0], dtype=np.int32), (4, 1))
    for name, _, _ in STEALTHY:
        assert sent(name, rows) == [5, -7, 0]


# ── mimic ─────────────────────────────────────────────────────────────────────────────────────────


def mimicked(rounds: Sequence[Rows], strength: float) -> list[int]:
    """Which honest node each round's attackers copied."""
    attack = make_attack("mimic", strength)
    rng = np.random.default_rng(3)
    chosen: list[int] = []
    for number, rows in enumerate(rounds, start=1):
        board: dict[str, object] = {}
        copies: list[bytes] = []
        for index in range(2):
            context = AttackContext(
                RoundInfo("a", number, b"m" * 32, rows.shape[1], 0, (b"s" * 32,), 1),
                rows[0],
                Update(rows[0]),
                rows,
                2,
                index,
                rng,
                board=board,
            )
            copies += [item.octets for item in attack.forge(context)]
        assert copies[0] == copies[1]
        row = np.frombuffer(copies[0], dtype="<i4")
        (found,) = np.flatnonzero((rows == row).all(axis=1))
        chosen.append(int(found))
    return chosen


def drawn(seed: int) -> list[Rows]:
    """Ten nodes that differ a little in 30 directions and much along one, node 7 the most."""
    rng = np.random.default_rng(seed)
    axis = rng.normal(size=30)
    axis /= np.linalg.norm(axis)
    place = np.array([0.2, -0.5, 0.4, 0.1, -0.3, 0.6, -0.2, 3.0, -0.4, 0.3])
    return [
        np.rint(1e5 * (np.outer(place, axis) + 0.05 * rng.normal(size=(10, 30)))).astype(np.int32)
        for _ in range(12)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_mimic_settles_on_the_node_farthest_along_the_direction_of_most_variance(seed: int) -> None:
    rounds = drawn(seed)
    stacked = np.concatenate([rows - rows.mean(axis=0) for rows in rounds[:6]])
    leading = np.linalg.eigh(stacked.T @ stacked)[1][:, -1]
    along = sum(np.abs((rows - rows.mean(axis=0)) @ leading) for rows in rounds[:6])
    assert mimicked(rounds, 6.0)[5:] == [int(np.argmax(along))] * 7 == [7] * 7


def test_mimic_keeps_its_choice_when_learning_is_over() -> None:
    rounds = drawn(0)
    moved = [np.roll(rows, 1, axis=0) for rows in rounds[6:]]  # now node 8 is farthest
    assert mimicked([*rounds[:6], *moved], 6.0)[6:] == [7] * 6
    assert mimicked([*rounds[:2], *moved, *moved], 14.0)[-1] == 8
