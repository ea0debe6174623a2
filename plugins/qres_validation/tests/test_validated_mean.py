"""The mean whose weights come from held-out examples."""

from __future__ import annotations

from fractions import Fraction

import attrs
import numpy as np
import pytest
from bound_cases import Case, excess, grid, holds, means, merged, merged_as_before, play
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from qres_lab import testing
from qres_lab.testing import make_node_info, make_round_info, make_updates
from qres_validation import ValidatedMean, promise
from qres_validation.capped_mean import (
    capped_mean,
    cut_to_length,
    held,
    longest,
    usual_rank,
)
from qres_validation.mixing import mixing_weights, whole_parts
from qres_validation.promise import Fit
from qres_validation.validated_mean import CALM

from qres_core import ACCEPT, Outcome, RoundStatus, Surroundings
from qres_core.errors import ValueRefusedError
from qres_core.training import HeldOut

WEIGHTS = st.lists(st.integers(1, 2**30), min_size=1, max_size=8)


@pytest.mark.claim("C-validation-16")
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


@given(weights=st.lists(st.integers(2**27, 2**30), min_size=6, max_size=40), data=st.data())
def test_halving_lifts_no_part_by_more_than_the_number_of_rows_over_the_sum(
    weights: list[int], data: st.DataObject
) -> None:
    fewest = data.draw(st.integers(len(weights) // 2 + 1, len(weights)))
    counts = held(weights, fewest)
    while sum(counts) >= 2**32:
        counts = [count >> 1 for count in counts]
    excess = fewest * max(counts) - sum(counts)
    assert excess < len(weights)
    assert excess <= 0 or excess / sum(counts) < len(weights) / 2**30


def slow(rows: NDArray[np.int32], weights: list[int], fewest: int) -> list[int]:
    """The docstring of :func:`capped_mean` in Fractions, one coordinate at a time."""
    counts = held(weights, fewest)
    while sum(counts) >= 2**32:
        counts = [count // 2 for count in counts]
    return [
        round(Fraction(sum(c * int(x) for c, x in zip(counts, column, strict=True)), sum(counts)))
        for column in rows.T
    ]


@settings(max_examples=300)
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
    greatest = data.draw(st.sampled_from([1, 2**16, 2**30]))
    weights = data.draw(st.lists(st.integers(1, greatest), min_size=n, max_size=n))
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
    weights = mixing_weights(rows, reference, np.full(6, 1 / fewest))
    assert weights.sum() == pytest.approx(1.0)
    assert weights.min() >= -1e-12
    assert weights.max() <= 1 / fewest + 1e-9
    parts = whole_parts(weights, 1000 * fewest, [1000] * 6)
    assert sum(parts) == 1000 * fewest
    assert np.allclose(parts, weights * 1000 * fewest, atol=1.0 + 1e-6)
    assert sum(part > 0 for part in parts) >= fewest

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


@pytest.mark.claim("C-validation-5")
def test_the_merged_vector_is_as_near_to_the_reference_as_any_honest_mean() -> None:
    """Exact, whatever liars send; ``bound_cases.py`` plays more."""
    counts, worst = play(60, 2)
    assert counts["broken"] == 0
    assert worst <= 1.0
    assert counts["means"] > 80
    assert counts["refused"] <= 5
    # The control: the same with shares that are cut off, and rows of any length.
    assert counts["broken as before"] >= 2


@pytest.mark.claim("C-validation-8")
@pytest.mark.parametrize("exact", [True, False])
def test_honest_proposers_propose_however_long_the_updates_are(
    monkeypatch: pytest.MonkeyPatch, *, exact: bool
) -> None:
    """Coordinates of 2**26 steps or more; the oracle of the bound is exact integers.

    In the control the proof is made along the weights as they are sent, as it once was: with such
    rows it proves too little, and nothing is proposed.
    """
    if not exact:
        way = promise._way
        monkeypatch.setattr(
            promise, "_way", lambda rows, u, weights: way(rows, u, np.rint(weights * 2**31) / 2**31)
        )
    rng, refused, held = np.random.default_rng(5), 0, 0
    for _case in range(40):
        honest = 2.0 ** rng.uniform(26, 30) * rng.standard_normal((8, 24)).clip(-2, 2)
        lies = honest[:2] * rng.choice([-1.0, 3.0], (2, 1))
        # Near a mean that is within the caps, but not so near that rounding explains the rest.
        near = honest.mean(axis=0) + np.vstack([honest[2:], lies]).mean(axis=0)
        reference = near / 2 + 2.0 ** rng.uniform(6, 14) * rng.standard_normal(24)
        made = Case(grid(honest), grid(lies), grid(reference), 8)
        try:
            found = merged(made)
        except ValueRefusedError:
            refused += 1
            continue
        assert all(holds(made, found, chosen) for chosen in means(made, rng))
        held += 1
    assert (refused, held) == (0, 40) if exact else refused > 10


@pytest.mark.control("C-validation-5", "C-validation-8")
def test_rows_that_cancel_at_exact_weights_alone_once_broke_the_bound() -> None:
    rng = np.random.default_rng(8)
    honest = rng.normal(0, 1000, (8, 40)).round().astype(np.int32)
    way = (2**31 - 1) * rng.choice([-1, 1], 40)
    lies = np.array([way, -0.38 * way]).astype(np.int32)
    made = Case(honest, lies, honest.mean(axis=0).astype(np.int32), 8)
    everyone = list(range(8))
    # How far depends on the order in which a machine sums: 163 on one, over 1000 on another.
    assert excess(made, merged_as_before(made), everyone) > 50.0
    assert excess(made, merged(made), everyone) < 1.0


@pytest.mark.claim("C-validation-8")
@pytest.mark.control("C-validation-10")
def test_what_is_merged_otherwise_than_fitted_is_not_proposed() -> None:
    info = attrs.evolve(make_round_info(3, nodes=5, byzantine=2), quorum=3)
    updates = make_updates(far_apart())
    found = ValidatedMean(f=2).screen(updates, held_out([300, 300, 300]), info)
    assert found.check is not None
    found.check(np.array([300, 300, 300], dtype=np.int32))
    found.check(np.array([301, 300, 299], dtype=np.int32))  # a step in each coordinate is nothing
    with pytest.raises(ValueRefusedError, match=r"QRES-E514 plugins\.validated_mean"):
        found.check(np.array([303, 300, 300], dtype=np.int32))


@given(
    rows=arrays(np.int32, (7, 2), elements=st.integers(-(2**31), 2**31 - 1) | st.integers(-9, 9)),
    data=st.data(),
)
def test_what_is_short_enough_among_many_is_short_enough_among_some(
    rows: NDArray[np.int32], data: st.DataObject
) -> None:
    quorum = data.draw(st.integers(3, 5))
    rank = usual_rank(2, quorum)
    squares, most = longest(rows, 2, quorum)
    short = [row for row in range(7) if squares[row] <= most]
    some = data.draw(st.lists(st.sampled_from(short), min_size=1, unique=True))
    if len(some) >= rank and sorted(squares)[rank - 1]:
        assert np.array_equal(cut_to_length(rows[some], 2, quorum), rows[some])
    # Exact, and no longer than allowed: ten times the length of that rank.
    cut = cut_to_length(rows, 2, quorum)
    assert all(sum(int(x) ** 2 for x in row) <= most for row in cut)
    assert np.array_equal(cut[short], rows[short])


@pytest.mark.claim("C-validation-15")
def test_a_minority_cannot_move_the_usual_length_out_of_the_honest_range() -> None:
    honest = np.array([[10, 0], [20, 0], [30, 0], [40, 0], [50, 0]], dtype=np.int32)
    for lie in (0, 2**31 - 1):
        rows = np.vstack([honest, np.full((2, 2), lie, dtype=np.int32)])
        assert 10**2 * 10**2 <= longest(rows, 2, 5)[1] <= 10**2 * 50**2


@pytest.mark.claim("C-validation-15")
@given(
    honest=arrays(np.int32, (7, 2), elements=st.integers(-9, 9) | st.just(0)),
    lies=arrays(np.int32, (3, 2), elements=st.integers(-(2**31), 2**31 - 1) | st.just(0)),
)
def test_nothing_is_longer_than_ten_times_the_longest_honest_row_even_beside_zeros(
    honest: NDArray[np.int32], lies: NDArray[np.int32]
) -> None:
    most = max(int(x) ** 2 + int(y) ** 2 for x, y in honest)
    cut = cut_to_length(np.vstack([honest, lies]), 3, 7)
    assert all(int(x) ** 2 + int(y) ** 2 <= 100 * most for x, y in cut)


@pytest.mark.control("C-validation-15")
def test_control_among_zeros_a_liar_too_many_moves_the_usual_length() -> None:
    rows = np.array([[0], [0], [0], [50], [60], [70], [80], [0], [0], [2**31 - 1]], dtype=np.int32)
    assert cut_to_length(rows, 3, 7).max() == 599  # four honest nodes have something to say
    more = np.concatenate([rows[:7], np.full((4, 1), 2**31 - 1, dtype=np.int32)])
    assert cut_to_length(more, 3, 7).max() == 499
    more[:4] = 0
    assert cut_to_length(more, 3, 7).max() == 2**31 - 1  # four where three were promised
    alone = np.array([[0, 0], [0, 0], [0, 0], [5, 5]], dtype=np.int32)
    assert not cut_to_length(alone, 1, 3).any()  # it may be the liar
    assert cut_to_length(alone, 0, 3) is alone


def test_if_too_few_are_short_the_rule_shortens_what_is_taken_all_the_same() -> None:
    rows = np.diag([10, 20, 30, 40, 5000, 2**30]).astype(np.int32)
    info = attrs.evolve(make_round_info(6, nodes=6, byzantine=1), quorum=5)
    updates = make_updates(rows)
    model = np.zeros(6, dtype=np.int32)
    judge = HeldOut(model, lambda _model: 1.0, lambda: model)
    found = ValidatedMean(f=1).screen(updates, judge, info)
    assert [found.of(sender) for sender in updates.senders] == [2**32] * 5 + [0]
    agreed = updates.take(np.arange(5))
    merged_rows = ValidatedMean(f=1).aggregate(agreed, info)
    assert merged_rows.max() == 80  # a fifth of ten times the fourth shortest length
    assert found.check is not None
    found.check(merged_rows)


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
    assert [found.of(sender) for sender in updates.senders] == [2**32, 2**32, 2**32, 0, 0]
    # Geometry sees it the other way round: the liars are the only ones that agree.
    chosen = [row for row, sender in enumerate(updates.senders) if found.of(sender)]
    merged = ValidatedMean(f=1).aggregate(updates.take(np.array(chosen)), info)
    assert merged.tolist() == [300, 300, 300]


@pytest.mark.claim("C-validation-5")
def test_a_proposers_weights_cannot_pass_the_cap() -> None:
    info = attrs.evolve(make_round_info(3, nodes=5, byzantine=2), quorum=3)
    updates = make_updates(far_apart(), [1, 1, 1, 2**30, 2**30])
    merged = ValidatedMean(f=2).aggregate(updates, info)
    # Two of five rows hold at most a third each; the three others share what is left.
    assert merged.min() >= -400 * 2 // 3 - 1


@pytest.mark.claim("C-validation-11")
def test_too_few_and_a_trainer_without_examples_are_refused() -> None:
    with pytest.raises(ValueRefusedError, match="QRES-E505"):
        testing.merged([ValidatedMean(f=2)], make_updates(far_apart()[:4]), make_round_info(3))
    (problem,) = ValidatedMean(f=2).preflight(make_node_info())
    assert str(problem).startswith("QRES-E311 plugins.validated_mean")
    with pytest.raises(ValueRefusedError, match="QRES-E507"):
        HeldOut(np.zeros(3, dtype=np.int32), lambda _model: 1.0).reference()


@given(standings=st.lists(st.integers(2**12, 2**32), min_size=5, max_size=8), data=st.data())
def test_shares_give_every_sender_just_the_part_that_was_fitted(
    standings: list[int], data: st.DataObject
) -> None:
    standings[0] = 2**32
    standings[1] = 2**32 - 1  # else all weights are 1
    n = len(standings)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    rows = rng.integers(-100, 100, (n, 3)).astype(np.int32)
    reference = rng.integers(-100, 100, 3).astype(np.int32)
    updates = make_updates(rows, [standing >> 2 for standing in standings])
    fit = Fit.of(updates, reference, 1, n - 2)
    made = [
        standing * fit.shares[sender] // 2**32 >> 2
        for standing, sender in zip(standings, updates.senders, strict=True)
    ]
    kept = [part for part in made if part]
    coarse = 1  # for 4 to 7 units of 2**30: the parts sum to less than 2**32
    assert made == [part << coarse for part in fit.parts]
    assert sum(fit.parts) == fit.total
    assert len(kept) >= n - 1 or fit.total == sum(fit.limits)
    assert all(4 * part <= standing for part, standing in zip(made, standings, strict=True))
    # Nothing is above the cap: nodes merge just these parts.
    assert held(kept, n - 1) == kept or fit.total == sum(fit.limits)


def aborted(number: int) -> Outcome:
    info = attrs.evolve(make_round_info(3), number=number)
    return Outcome(info, RoundStatus.ABORTED, info.model_digest)


def test_a_step_that_others_refuse_is_halved_until_they_take_it_and_grows_again() -> None:
    info = attrs.evolve(make_round_info(3, nodes=5, byzantine=2), quorum=3)
    updates, rule = make_updates(far_apart()), ValidatedMean(f=2)
    steps = []
    for number in range(1, 4):
        found = rule.screen(updates, held_out([300, 300, 300]), attrs.evolve(info, number=number))
        shares = np.array([found.of(sender) for sender in updates.senders])
        kept = np.flatnonzero(shares)
        weights = np.ones(3, dtype=np.int64) if (shares[kept] == 2**32).all() else shares[kept] >> 2
        agreed = attrs.evolve(updates.take(kept), weights=weights)
        merged_rows = ValidatedMean(f=1).aggregate(agreed, info)
        assert found.check is not None
        found.check(merged_rows)
        steps.append(merged_rows.tolist())
        rule.round_closed(aborted(number))
    assert steps == [[300] * 3, [150] * 3, [75] * 3]
    rule.round_closed(aborted(7))  # another node's set
    assert rule._step.halvings == 3
    for _round in range(3 * CALM - 1):
        rule.round_closed(attrs.evolve(aborted(9), status=RoundStatus.CLOSED))
        rule.round_closed(attrs.evolve(aborted(3), status=RoundStatus.CLOSED))  # its own
    assert rule._step.halvings == 1


def test_only_a_refused_set_of_its_own_makes_a_node_take_shorter_steps() -> None:
    info = attrs.evolve(make_round_info(3, nodes=5, byzantine=2), quorum=3)
    updates, rule, fitted = make_updates(far_apart()), ValidatedMean(f=2), np.full(3, 300)
    assert rule.endorse(fitted.astype(np.int32), held_out([300, 300, 300])) is ACCEPT
    rule.round_closed(aborted(info.number))  # a liar showed it to too few
    found = rule.screen(updates, held_out([300, 300, 300]), attrs.evolve(info, number=2))
    rule.round_closed(aborted(2))  # it was not proposed
    assert rule._step.halvings == 0
    assert found.check is not None
    for status, halvings in ((RoundStatus.VOID, 0), (RoundStatus.ABORTED, 1)):
        found.check(fitted.astype(np.int32))
        rule.round_closed(attrs.evolve(aborted(2), status=status))
        assert rule._step.halvings == halvings


@pytest.mark.claim("C-validation-10")
def test_it_is_refused_beside_what_would_change_what_was_fitted() -> None:
    around = Surroundings(nodes=4, byzantine=1, quorum=3)
    assert list(ValidatedMean(f=1).check(around)) == []
    (problem,) = ValidatedMean(f=1).check(attrs.evolve(around, altered_by=("nnm",)))
    assert problem.code == "QRES-E303"
    assert "nnm" in problem.what
    assert ValidatedMean(f=1).claims.needs.equal_weights


@pytest.mark.claim("C-validation-16")
def test_members_of_low_standing_would_void_the_promise() -> None:
    """Why unequal weights are refused: half of full standing is a step that is halved."""
    info = attrs.evolve(make_round_info(3, nodes=5, byzantine=2), quorum=3)
    found = []
    for standing in (2**32, 2**31):
        updates = make_updates(far_apart(), [standing >> 2] * 5)
        screening = ValidatedMean(f=2).screen(updates, held_out([300, 300, 300]), info)
        shares = [standing * screening.of(sender) >> 34 for sender in updates.senders]
        kept = np.flatnonzero(shares)
        agreed = attrs.evolve(updates.take(kept), weights=np.array(shares)[kept])
        found.append(ValidatedMean(f=1).aggregate(agreed, info).tolist())
    assert found == [[300] * 3, [150] * 3]


@pytest.mark.control("C-validation-16")
def test_a_minority_with_huge_or_tiny_weights_leaves_the_others_equal() -> None:
    rows = np.diag([9, 9, 9, 9, 9]).astype(np.int32)
    for lie in (1, 2**30):
        updates = make_updates(rows, [1000, 1000, 1000, lie, lie])
        fit = Fit.of(updates, np.array([3, 3, 3, 0, 0], dtype=np.int32), 2, 3)
        assert len({fit.shares[sender] for sender in updates.senders[:3]}) == 1
        assert [fit.shares[sender] for sender in updates.senders[3:]] == [0, 0]
