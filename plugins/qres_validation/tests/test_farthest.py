"""The vote by distance from a node's own reference."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from qres_lab.testing import make_node_info
from qres_validation import ValidatedMean
from qres_validation.endorsement import too_far
from qres_validation.promise import Fit
from qres_validation.validated_mean import FARTHEST, MOST_HALVINGS

from qres_core import ACCEPT, RoundInfo, Update, Vector, reject
from qres_core.attacks.scenario import Scenario
from qres_core.errors import CompatibilityError, OptionError
from qres_core.kernel.config import parse
from qres_core.lab.record import SimulationResult
from qres_core.lab.simulator import simulate
from qres_core.training import HeldOut
from qres_core.training.tasks import Task

GRID = st.integers(-(2**31), 2**31 - 1) | st.integers(-9, 9)
PAIRS = arrays(np.int32, st.tuples(st.just(2), st.integers(1, 5)), elements=GRID)


@pytest.mark.claim("C-validation-13")
@given(pair=PAIRS, most=st.floats(1, 1e6))
def test_it_is_the_exact_comparison_of_two_lengths(pair: NDArray[np.int32], most: float) -> None:
    merged, reference = pair
    length = sum(int(x) ** 2 for x in reference)
    away = sum((int(x) - int(y)) ** 2 for x, y in zip(merged, reference, strict=True))
    assert too_far(merged, reference, most) == (
        length > reference.size and away > Fraction(most) ** 2 * length
    )


@pytest.mark.claim("C-validation-13")
@pytest.mark.control("C-validation-13")
def test_the_edge_is_near_enough_and_one_step_beyond_is_not() -> None:
    """|F - u| = 1.25 |u| where the squares of float64 would round: a step of 2**31 is lost."""
    far = np.array([-(2**28), 0, 0], dtype=np.int32)
    reference = np.array([2**30, 0, 0], dtype=np.int32)
    assert not too_far(far, reference, 1.25)
    beyond = np.array([-(2**28), 1, 0], dtype=np.int32)
    assert too_far(beyond, reference, 1.25)
    # The control: in floating point the step cannot be seen.
    away = np.linalg.norm(beyond.astype(np.float64) - reference)
    assert not away > 1.25 * np.linalg.norm(reference.astype(np.float64))


@given(pair=PAIRS)
def test_a_step_that_is_halved_often_enough_is_near_enough(pair: NDArray[np.int32]) -> None:
    """So that a proposer whose steps are refused comes to one that is not."""
    fitted, reference = pair
    size = math.hypot(*map(float, fitted)) / max(1.0, math.hypot(*map(float, reference)))
    halvings = max(0, math.ceil(math.log2(max(size, 1.0)))) + 3
    short = (fitted / 2.0**halvings).astype(np.int32)
    assert not too_far(short, reference, FARTHEST)
    assert FARTHEST > 1
    assert MOST_HALVINGS >= 8


@pytest.mark.claim("C-validation-18")
@pytest.mark.control("C-validation-18")
def test_a_reference_of_a_step_a_coordinate_says_nothing() -> None:
    far = np.full(4, 10_000, dtype=np.int32)
    assert not too_far(far, np.array([1, -1, 1, 1], dtype=np.int32), 1.25)
    assert too_far(far, np.array([2, -1, 1, 1], dtype=np.int32), 1.25)


# ── which nodes vote by it ────────────────────────────────────────────────────────────────────


def held_out(reference: list[int]) -> HeldOut:
    def train() -> Vector:
        return np.array(reference, dtype=np.int32)

    return HeldOut(np.zeros(len(reference), dtype=np.int32), lambda _model: 1.0, train)


@pytest.mark.control("C-validation-17")
@pytest.mark.parametrize(
    ("pooled", "farthest", "accepted"),
    [
        (True, None, False),
        (True, 1.25, False),
        (True, 50.0, True),
        (True, 0.0, True),
        (False, None, True),
        (False, 0.0, True),
    ],
)
def test_by_default_only_nodes_with_pooled_examples_vote_by_it(
    *, pooled: bool, farthest: float | None, accepted: bool
) -> None:
    rule = ValidatedMean(f=1, farthest=farthest)
    rule.setup(attrs.evolve(make_node_info(), references=True, pooled=pooled))
    aside = np.array([300, 4000], dtype=np.int32)
    verdict = rule.endorse(aside, held_out([300, 400]))
    assert verdict == (ACCEPT if accepted else reject("far-from-reference"))


@pytest.mark.claim("C-validation-17")
def test_where_noise_is_added_nobody_votes_by_it() -> None:
    """Noise is farther from any reference than honest updates are."""
    node = attrs.evolve(make_node_info(), references=True, pooled=True, noised=True)
    rule = ValidatedMean(f=1)
    rule.setup(node)
    aside = np.array([300, 4000], dtype=np.int32)
    assert rule.endorse(aside, held_out([300, 400])) == ACCEPT
    (problem,) = ValidatedMean(f=1, farthest=1.25).preflight(node)
    assert re.match(r"QRES-E311 .*farthest.*noise.*leave it out", str(problem))
    assert not tuple(rule.preflight(node))


@pytest.mark.claim("C-validation-17")
def test_it_is_refused_where_examples_are_of_a_nodes_own_share() -> None:
    node = attrs.evolve(make_node_info(), references=True)
    (problem,) = ValidatedMean(f=1, farthest=1.25).preflight(node)
    assert re.match(r"QRES-E311 .*farthest.*pooled = True", str(problem))
    with pytest.raises(OptionError, match="at least 1 or 0"):
        ValidatedMean(f=1, farthest=0.9)  # a step of no length would be too far


# ── over the real agreement ───────────────────────────────────────────────────────────────────

GOAL = np.array([4000, -8000, 0], dtype=np.int32)


@attrs.frozen(eq=False)
class Narrow:
    """Its examples show two of three coordinates; updates go half of the way."""

    pooled: bool = True
    aside: int = 0  # what its updates add to the third

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update:
        way = self.reference(vector, round_info)
        way[2] += self.aside
        return Update(way)

    def reference(self, vector: Vector, round_info: RoundInfo) -> Vector:
        del round_info
        way: Vector = ((GOAL - vector) // 2).astype(np.int32)
        way[2] = 0
        return way

    def validate(self, vector: Vector) -> float:
        return float(((vector.astype(np.float64) - GOAL)[:2] ** 2).mean())

    def evaluate(self, vector: Vector) -> Mapping[str, float]:
        return {"aside": abs(float(vector[2]))}


def play(table: Mapping[str, Any], *, aside: int = 0, pooled: bool = True) -> SimulationResult:
    """A swarm in which two of seven, the first to propose among them, lean to the side."""
    swarm = {"name": "aside", "nodes": 7, "byzantine": 2, "quorum": 5, "insecure": True}
    plugins = {"memory": {}, "validated_mean": {"f": 2, **table}}
    config = parse({"swarm": swarm, "plugins": plugins}, source="aside")
    leaning = [Narrow(pooled=pooled, aside=aside if node < 2 else 0) for node in range(7)]
    task = Task("aside", np.zeros(3, dtype=np.int32), tuple(leaning))
    return simulate(config, Scenario(rounds=3, engine="events"), task=task)


def test_what_held_out_examples_do_not_see_is_limited_by_the_distance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The proposers here take whatever they are sent: those who vote are what is tested."""
    monkeypatch.setattr("qres_validation.promise.mixing_weights", _alike)
    monkeypatch.setattr("qres_validation.promise.Fit.check", _unchecked)
    lean = 40_000  # two sevenths of it are more than twice as long as what is asked for
    kept = play({}, aside=lean)
    assert len(kept.closed) == 3
    way = 0.5 * math.hypot(4000, 8000)
    reach = FARTHEST * way * sum(0.5**step for step in range(3))
    assert (kept.final("aside") or 0.0) < reach
    # The control: by the loss alone all of the first lie is merged.
    open_to_it = play({"farthest": 0.0}, aside=lean)
    assert (open_to_it.final("aside") or 0.0) > lean * 2 / 7 - 10 > reach


def _unchecked(_fit: Fit, _merged: Vector) -> None:
    """Refuses nothing."""


def _alike(
    rows: NDArray[np.int32], _reference: Vector, most: NDArray[np.float64]
) -> NDArray[np.float64]:
    del rows
    weights: NDArray[np.float64] = most / most.sum()
    return weights


def test_a_trainer_of_its_own_share_starts_without_it_and_not_with_it() -> None:
    assert len(play({}, pooled=False).closed) == 3
    with pytest.raises(CompatibilityError, match="QRES-E311"):
        play({"farthest": 1.25}, pooled=False)
