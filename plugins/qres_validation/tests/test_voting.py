"""Votes on a merged update, and rounds in which there is nothing to change."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import numpy as np
import pytest
from numpy.typing import NDArray
from qres_lab.testing import make_node_info, make_round_info, make_updates
from qres_validation import ValidatedMean, Validation

from qres_core import ACCEPT, Updates, Vector, Verdict, Visibility
from qres_core.training import HeldOut

Judge = Callable[[list[int]], HeldOut]


def vector(*entries: int) -> NDArray[np.int32]:
    return np.array(entries, dtype=np.int32)


@pytest.mark.claim("C-validation-12")
@pytest.mark.control("C-validation-12")
@pytest.mark.parametrize("plugin", [Validation(tolerance=0.21), ValidatedMean(f=1, tolerance=0.21)])
def test_both_plugins_accept_up_to_the_tolerance_and_nothing_worse(
    plugin: Validation | ValidatedMean, judge: Judge
) -> None:
    examples = judge([100, 100])  # the loss at zero is 100 squared
    endorse: Callable[..., Verdict] = plugin.endorse
    assert endorse(vector(50, 50), examples) == ACCEPT
    assert endorse(vector(-10, -10), examples) == ACCEPT  # 110 squared: 21 % more
    worse = endorse(vector(-11, -10), examples)
    assert worse != ACCEPT
    assert "worse-on-held-out-examples" in str(worse)


@pytest.mark.claim("C-validation-12")
@pytest.mark.parametrize("loss", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_no_number_is_never_accepted(loss: float) -> None:
    examples = HeldOut(vector(0), lambda _model: loss)
    assert Validation().endorse(vector(1), examples) != ACCEPT
    overflown = HeldOut(vector(0), lambda model: loss if model[0] else 1.0)
    assert Validation().endorse(vector(1), overflown) != ACCEPT


def test_a_loss_below_zero_may_rise_by_its_share_like_any_other() -> None:
    """The negative logarithm of a density may be below 0."""
    examples = HeldOut(vector(0), lambda model: -100.0 + float(model[0]))
    assert Validation(tolerance=0.1).endorse(vector(10), examples) == ACCEPT
    assert Validation(tolerance=0.1).endorse(vector(11), examples) != ACCEPT
    # Nor is an honest update that helps a little a fault that reputation counts.
    info = attrs.evolve(make_round_info(1, nodes=4, byzantine=1), quorum=3)
    alike = make_updates([[-1], [-1], [-1], [-1]])
    assert not Validation().screen(alike, examples, info).against


def test_updates_of_one_size_and_weight_go_to_the_rule_as_they_are() -> None:
    seen: list[Updates] = []

    def rule(updates: Updates) -> Vector:
        seen.append(updates)
        return vector(1, 2)

    updates = make_updates([[3, 4], [4, 3], [5, 0]])
    assert Validation().wrap_aggregate(rule, updates, make_round_info(2)).tolist() == [1, 2]
    assert seen == [updates]
    assert seen[0] is updates


def test_the_rule_gets_the_shortened_updates() -> None:
    seen: list[Updates] = []

    def rule(updates: Updates) -> Vector:
        seen.append(updates)
        return updates.vectors[0]

    far = make_updates([[3, 4], [4, 3], [5, 0], [30_000, 40_000]])
    Validation(norm_factor=2.0).wrap_aggregate(rule, far, make_round_info(2))
    assert seen[0].vectors.tolist() == [[3, 4], [4, 3], [5, 0], [5, 7]]


def test_a_trainer_that_makes_references_is_enough() -> None:
    ValidatedMean(f=2).setup(attrs.evolve(make_node_info(), references=True))


def test_the_rule_claims_single_updates_and_the_gate_measures_groups_too() -> None:
    rule, gate = ValidatedMean(f=2).claims, Validation().claims
    assert rule.tolerates == 2
    assert (rule.needs.visibility, rule.needs.min_updates) == (Visibility.INDIVIDUAL, 5)
    assert gate.tolerates is None
    assert (gate.needs.visibility, gate.needs.min_updates) == (Visibility.GROUP, 1)


@pytest.mark.parametrize(
    ("pooled", "noised", "tolerance", "most"),
    [
        (True, False, None, 2.0),
        (False, False, None, 10.0),
        (True, True, None, 10.0),
        (True, False, 0.1, 10.0),
        (False, False, 0.02, 2.0),
    ],
)
def test_by_default_pooled_examples_judge_more_strictly(
    *, pooled: bool, noised: bool, tolerance: float | None, most: float
) -> None:
    """Each case is the control of another: the same rise passes with other examples."""
    rule = ValidatedMean(f=1, tolerance=tolerance)
    told = {"references": True, "pooled": pooled, "noised": noised}
    rule.setup(attrs.evolve(make_node_info(), **told))

    def rising(percent: float) -> HeldOut:
        # A reference of nothing judges nothing: the loss alone decides.
        return HeldOut(
            vector(0), lambda model: 1.0 + percent / 100 * bool(model[0]), lambda: vector(0)
        )

    assert rule.endorse(vector(1), rising(most - 0.1)) == ACCEPT
    assert rule.endorse(vector(1), rising(most + 0.1)) != ACCEPT
