"""The sum of commitments against the sum of vectors."""

from __future__ import annotations

import attrs
import numpy as np
import pytest
from qres_zk import aggregate
from qres_zk.aggregate import SumOpening, opening_failures, opens
from qres_zk.group import ORDER, Points, integers
from qres_zk.pedersen import Commitment, commit
from qres_zk.statement import NormStatement


@attrs.frozen(eq=False)
class Swarm:
    statement: NormStatement
    vectors: np.ndarray
    made: list[Commitment]

    @property
    def points(self) -> list[Points]:
        return [item.points for item in self.made]

    @property
    def sums(self) -> np.ndarray:
        return self.vectors.astype(np.int64).sum(axis=0)

    @property
    def blinds(self) -> list[int]:
        columns = zip(*(integers(item.blinds) for item in self.made), strict=True)
        return [sum(column) % ORDER for column in columns]


@pytest.fixture(scope="module")
def swarm() -> Swarm:
    statement = NormStatement(100, 2**20)
    vectors = np.random.default_rng(3).integers(-(2**17), 2**17, (6, 100)).astype(np.int32)
    return Swarm(statement, vectors, [commit(statement, vector) for vector in vectors])


def test_the_true_sum_opens(swarm: Swarm) -> None:
    assert opens(swarm.statement, swarm.points, swarm.sums, swarm.blinds)


@pytest.mark.claim("C-zk-12")
@pytest.mark.parametrize("coordinate", [0, 49, 99])
def test_one_unit_in_one_coordinate_is_seen(swarm: Swarm, coordinate: int) -> None:
    for change in (1, -1, 2**32):
        sums = swarm.sums
        sums[coordinate] += change
        assert not opens(swarm.statement, swarm.points, sums, swarm.blinds)


@pytest.mark.claim("C-zk-12")
def test_moving_value_between_rows_or_coordinates_is_seen(swarm: Swarm) -> None:
    columns = swarm.statement.columns
    for other in (1, columns, columns + 1):
        sums = swarm.sums
        sums[0] += 1
        sums[other] -= 1
        assert not opens(swarm.statement, swarm.points, sums, swarm.blinds)


@pytest.mark.control("C-zk-12")
def test_equal_random_factors_would_miss_a_move_between_rows(
    swarm: Swarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    sums = swarm.sums
    sums[0] += 1
    sums[swarm.statement.columns] -= 1
    monkeypatch.setattr(aggregate.secrets, "randbits", lambda _bits: 1)
    assert opens(swarm.statement, swarm.points, sums, swarm.blinds)


def test_another_vector_than_the_committed_one_is_seen(swarm: Swarm) -> None:
    vectors = swarm.vectors.copy()
    vectors[2] = 7
    sums = vectors.astype(np.int64).sum(axis=0)
    assert not opens(swarm.statement, swarm.points, sums, swarm.blinds)


@pytest.mark.claim("C-zk-12")
def test_a_member_left_out_or_counted_twice_is_seen(swarm: Swarm) -> None:
    assert not opens(swarm.statement, swarm.points[:-1], swarm.sums, swarm.blinds)
    twice = [*swarm.points, swarm.points[0]]
    assert not opens(swarm.statement, twice, swarm.sums, swarm.blinds)


@pytest.mark.claim("C-zk-12")
def test_wrong_blinds_are_seen(swarm: Swarm) -> None:
    blinds = swarm.blinds
    blinds[1] = (blinds[1] + 1) % ORDER
    assert not opens(swarm.statement, swarm.points, swarm.sums, blinds)
    assert not opens(swarm.statement, swarm.points, swarm.sums, swarm.blinds[:-1])
    assert not opens(swarm.statement, swarm.points, swarm.sums, [])


def test_weights(swarm: Swarm) -> None:
    weights = [1, 2, 3, 1000, 5, 2**30]
    sums = (swarm.vectors.astype(np.int64) * np.array(weights)[:, None]).sum(axis=0)
    columns = zip(*(integers(item.blinds) for item in swarm.made), strict=True)
    blinds = [
        sum(w * r for w, r in zip(weights, column, strict=True)) % ORDER for column in columns
    ]
    assert opens(swarm.statement, swarm.points, sums, blinds, weights)
    assert not opens(swarm.statement, swarm.points, sums, blinds)
    assert not opens(swarm.statement, swarm.points, sums, blinds, weights[:-1])


# ── many sums together ────────────────────────────────────────────────────────────────────────


def halves(swarm: Swarm, *changes: int) -> list[SumOpening]:
    """The sums of the first three and of the last three, each changed in a coordinate."""
    found: list[SumOpening] = []
    for part, change in zip((slice(0, 3), slice(3, 6)), changes, strict=True):
        half = Swarm(swarm.statement, swarm.vectors[part], swarm.made[part])
        sums = half.sums
        sums[0] += change
        found.append(SumOpening(half.points, sums, half.blinds))
    return found


@pytest.mark.parametrize(
    ("changes", "failing"), [((0, 0), ()), ((1, 0), (0,)), ((0, 5), (1,)), ((1, -1), (0, 1))]
)
def test_of_many_sums_the_false_ones_are_named(
    swarm: Swarm, changes: tuple[int, int], failing: tuple[int, ...]
) -> None:
    assert opening_failures(swarm.statement, halves(swarm, *changes)) == failing


def test_equal_random_factors_would_let_errors_of_two_sums_cancel(
    swarm: Swarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aggregate.secrets, "randbits", lambda _bits: 1)
    assert opening_failures(swarm.statement, halves(swarm, 1, -1)) == ()


def test_a_sum_without_its_blinds_or_its_members_takes_no_other_with_it(swarm: Swarm) -> None:
    first, second = halves(swarm, 0, 0)
    for broken in (
        attrs.evolve(first, blinds=()),
        attrs.evolve(first, commitments=[]),
        attrs.evolve(first, weights=[1]),
    ):
        assert opening_failures(swarm.statement, [broken, second]) == (0,)
        assert opening_failures(swarm.statement, [broken]) == (0,)
    zeros = np.zeros(swarm.statement.dimension, dtype=np.int64)
    nothing_of_nobody = SumOpening([], zeros, [0] * swarm.statement.rows)
    assert opening_failures(swarm.statement, [nothing_of_nobody]) == (0,)
    assert opening_failures(swarm.statement, []) == ()


def test_weighted_and_plain_sums_together(swarm: Swarm) -> None:
    plain = halves(swarm, 0, 0)[0]
    weights = [1, 2, 3, 1000, 5, 2**30]
    sums = (swarm.vectors.astype(np.int64) * np.array(weights)[:, None]).sum(axis=0)
    columns = zip(*(integers(item.blinds) for item in swarm.made), strict=True)
    blinds = [
        sum(w * r for w, r in zip(weights, column, strict=True)) % ORDER for column in columns
    ]
    weighted = SumOpening(swarm.points, sums, blinds, weights)
    assert opening_failures(swarm.statement, [plain, weighted]) == ()
    assert opening_failures(swarm.statement, [plain, attrs.evolve(weighted, weights=None)]) == (1,)
