"""The exhibit of the attack gallery: a member is guessed, unless noise hides it."""

from __future__ import annotations

import pytest
from qres_lab import AttackFamily, GalleryOutcome, GallerySetting
from qres_lab.exhibits.dp import ENTRIES

(MEMBERSHIP,) = ENTRIES

pytestmark = pytest.mark.usefixtures("same_noise")


def played(defence: str) -> GalleryOutcome:
    return MEMBERSHIP.plays[defence](GallerySetting(seed=5, quick=True))


def test_the_attack_is_on_privacy_and_begins_with_no_defence() -> None:
    assert MEMBERSHIP.name == "membership"
    assert MEMBERSHIP.family is AttackFamily.PRIVACY
    assert next(iter(MEMBERSHIP.plays)) == "nothing"


@pytest.mark.parametrize(("defence", "control"), [("nothing", True), ("secure aggregation", False)])
def test_a_sum_without_noise_tells_every_member(defence: str, control: bool) -> None:  # noqa: FBT001 - a row of the table
    outcome = played(defence)
    assert outcome.value == 1.0
    assert outcome.fate.name == "FAILED"
    assert outcome.control is control


@pytest.mark.parametrize("defence", ["dp, epsilon 8", "dp, epsilon 1", "full, one sum, dp"])
def test_noise_holds_the_guess_to_its_budget(defence: str) -> None:
    outcome = played(defence)
    assert outcome.fate.name == "HELD"
    assert not outcome.control
    assert outcome.detected == ()
    assert "where chance gives 50" in outcome.reason


def test_a_smaller_budget_leaves_less_to_guess() -> None:
    assert played("dp, epsilon 1").value < played("dp, epsilon 8").value


def test_half_the_noise_is_a_control_that_the_audit_finds_where_it_exceeds_the_budget() -> None:
    outcome = played("dp with a fault: half the noise")
    assert outcome.control
    assert outcome.value > played("dp, epsilon 8").value
    assert outcome.detected == (("the audit",) if outcome.fate.name == "FAILED" else ())
