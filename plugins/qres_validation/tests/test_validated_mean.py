"""The mean whose weights come from held-out examples."""

from __future__ import annotations

from fractions import Fraction

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from qres_validation import ValidatedMean
from qres_validation.capped_mean import capped_mean, held
from qres_validation.mixing import mixing_weights, shares

from qres_core import CompatibilityError, HeldOut, ValueRefusedError
from qres_core.testing import make_node_info, make_round_info, make_updates

WEIGHTS = st.lists(st.integers(1, 2**30), min_size=1, max_size=8)


@given(weights=WEIGHTS, data=st.data())
def test_no_weight_is_more_than_its_part(weights: list[int], data: st.DataObject) -> None:
    fewest = data.draw(st.integers(1, len(weights)))
    lowered = held(weights, fewest)
    assert all(1 <= after <= before for after, before in zip(lowered, weights, strict=True))
    assert max(lowered) == 1 or fewest * max(lowered) <= sum(lowered)
    # Nothing is lowered that need not be: one step more for the greatest would be too much.
    cap = max(lowered)
    raised = [min(weight, cap + 1) for weight in weights]
    assert raised == lowered or fewest * (cap + 1) > sum(raised)


def slow(rows: NDArray[np.int32], weights: list[int], fewest: int) -> list[int]:
    """The docstring of :func:`capped_mean` in Fractions, one coordinate at a time."""
    counts = held(weights, fewest)
    coefficients = [2**30 * count // sum(counts) for count in counts]
    coefficients[coefficients.index(max(coefficients))] += 2**30 - sum(coefficients)
    return [
        round(Fraction(sum(c * int(x) for c, x in zip(coefficients, column, strict=True)), 2**30))
        for column in rows.T
    ]


@settings(max_examples=1000)
@given(
    rows=arrays(
        np.int32,
        st.tuples(st.integers(1, 6), st.integers(1, 4)),
        elements=st.integers(-(2**31), 2**31 - 1) | st.integers(-5, 5),
    ),
    data=st.data(),
)
def test_the_mean_is_the_specified_one(rows: NDArray[np.int32], data: st.DataObject) -> None:
    n = len(rows)
    weights = data.draw(st.lists(st.integers(1, 2**16), min_size=n, max_size=n))
    fewest = data.draw(st.integers(1, n))
    before = rows.copy()
    result = capped_mean(rows, np.array(weights, dtype=np.int64), fewest)
    assert result.tolist() == slow(rows, weights, fewest)
    assert np.array_equal(rows, before)


@given(
    rows=arrays(np.float64, (6, 3), elements=st.floats(-100, 100)),
    reference=arrays(np.float64, 3, elements=st.floats(-100, 100)),
    fewest=st.integers(1, 6),
)
def test_the_weights_are_the_best_on_the_capped_simplex(
    rows: NDArray[np.float64], reference: NDArray[np.float64], fewest: int
) -> None:
    weights = mixing_weights(rows, reference, fewest)
    assert weights.sum() == pytest.approx(1.0)
    assert weights.min() >= -1e-12
    assert weights.max() <= 1 / fewest + 1e-9
    given_shares = shares(weights, np.ones(len(weights), dtype=np.int64), fewest)
    assert sum(given_share > 0 for given_share in given_shares) >= fewest or min(weights) < 1e-4

    def miss(candidate: NDArray[np.float64]) -> float:
        return float(np.sum((candidate @ rows - reference) ** 2))

    best = miss(weights)
    chance = np.random.default_rng(0)
    for _try in range(50):  # a convex problem: what is better nowhere nearby is best
        away = chance.dirichlet(np.full(6, 0.3))
        other = np.minimum(away, 1 / fewest)
        other /= other.sum()
        if other.max() <= 1 / fewest + 1e-9:
            mixed = 0.9 * weights + 0.1 * other
            assert best <= miss(mixed) + 1e-4 * (1.0 + float((rows**2).sum(axis=1).max()))


@given(
    honest=arrays(np.float64, (5, 3), elements=st.floats(-100, 100)),
    lies=arrays(np.float64, (2, 3), elements=st.floats(-1e6, 1e6)),
    reference=arrays(np.float64, 3, elements=st.floats(-100, 100)),
)
def test_no_lie_takes_the_mean_farther_from_the_reference_than_the_honest_one(
    honest: NDArray[np.float64], lies: NDArray[np.float64], reference: NDArray[np.float64]
) -> None:
    rows = np.vstack([honest, lies])
    merged = mixing_weights(rows, reference, 5) @ rows
    centre = honest.mean(axis=0)
    reach = float(np.linalg.norm(centre - reference))
    slack = 1e-3 * (1.0 + float(np.abs(rows).max()))
    assert np.linalg.norm(merged - reference) <= reach + slack
    assert np.linalg.norm(merged - centre) <= 2 * reach + slack


def test_updates_of_next_to_nothing_are_mixed_without_an_overflow() -> None:
    rows = np.full((7, 3), 2.22507386e-311)
    rows[5:] = [[1.0, 0.0, 0.0], [-2.0, 0.0, 0.0]]
    weights = mixing_weights(rows, np.zeros(3), 5)
    assert weights.sum() == pytest.approx(1.0)
    assert np.linalg.norm(weights @ rows) <= 1e-3


def test_the_plain_mean_is_taken_anywhere() -> None:
    """The control: without the fit a lie of any size moves the mean by its part of it."""
    rows = np.vstack([np.zeros((5, 3)), np.full((2, 3), 7e6)])
    assert rows.mean(axis=0).tolist() == [2e6, 2e6, 2e6]
    assert np.abs(mixing_weights(rows, np.zeros(3), 5) @ rows).max() < 1e-3


def far_apart() -> NDArray[np.int32]:
    """Three honest nodes with data of one kind each, and a pair that pulls back together."""
    honest = np.diag([900, 900, 900]).astype(np.int32)
    return np.vstack([honest, np.full((2, 3), -400, dtype=np.int32)])


def held_out(reference: list[int]) -> HeldOut:
    model = np.zeros(3, dtype=np.int32)
    return HeldOut(model, lambda _model: 1.0, lambda: np.array(reference, dtype=np.int32))


def test_what_points_away_from_the_reference_loses_its_weight() -> None:
    info = attrs.evolve(make_round_info(3, nodes=5, byzantine=2), quorum=3)
    updates = make_updates(far_apart())
    found = ValidatedMean(f=2).screen(updates, held_out([300, 300, 300]), info)
    assert [found.of(sender) for sender in updates.senders] == [65536, 65536, 65536, 0, 0]
    # Geometry sees it the other way round: the liars are the only ones that agree.
    chosen = [row for row, sender in enumerate(updates.senders) if found.of(sender)]
    merged = ValidatedMean(f=1).aggregate(updates.take(np.array(chosen)), info)
    assert merged.tolist() == [300, 300, 300]


def test_a_proposers_weights_cannot_pass_the_cap() -> None:
    info = attrs.evolve(make_round_info(3, nodes=5, byzantine=2), quorum=3)
    updates = make_updates(far_apart(), [1, 1, 1, 65536, 65536])
    merged = ValidatedMean(f=2).aggregate(updates, info)
    # Two of five rows hold at most a third each; the three others share what is left.
    assert merged.min() >= -400 * 2 // 3 - 1


def test_too_few_and_a_trainer_without_examples_are_refused() -> None:
    with pytest.raises(ValueRefusedError, match="QRES-E505"):
        ValidatedMean(f=2).aggregate(make_updates(far_apart()[:4]), make_round_info(3))
    with pytest.raises(CompatibilityError, match=r"QRES-E311 plugins\.validated_mean"):
        ValidatedMean(f=2).setup(make_node_info())
    with pytest.raises(ValueRefusedError, match="QRES-E507"):
        HeldOut(np.zeros(3, dtype=np.int32), lambda _model: 1.0).reference()


@given(
    fitted=st.lists(st.integers(0, 1000), min_size=5, max_size=9).filter(
        lambda item: sum(item) > 0
    ),
    data=st.data(),
)
def test_claims_do_not_change_what_was_fitted(fitted: list[int], data: st.DataObject) -> None:
    n = len(fitted)
    claims = np.array(data.draw(st.lists(st.integers(50, 100), min_size=n, max_size=n)))
    weights = np.array(fitted) / max(fitted) / n
    usual = sorted(claims.tolist())[(n - 1) // 2]
    found = np.array(shares(weights, claims, n)) * claims / usual
    able = np.minimum(65536, 65536 * claims / usual)  # no more than the sender has
    assert np.allclose(found, np.minimum(weights * n * 65536, able), atol=3.0)


def test_a_minority_with_huge_or_tiny_claims_leaves_the_others_shares_alone() -> None:
    fitted = np.full(5, 0.2)
    for lie in (1, 2**30):
        claims = np.array([1000, 1000, 1000, lie, lie])
        assert shares(fitted, claims, 5)[:3] == [65536] * 3
    assert shares(fitted, np.array([1, 1, 1, 2**30, 2**30]), 5) == [65536] * 3 + [1, 1]
    assert shares(np.array([0.5, 0.5, 0.0]), np.ones(3, dtype=np.int64), 2) == [65536, 65536, 0]
