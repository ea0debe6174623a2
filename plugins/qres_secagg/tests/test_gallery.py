"""The exhibits of the attack gallery: each attack succeeds where nothing defends, and why."""

from __future__ import annotations

import pytest
from qres_secagg.gallery import ENTRIES

from qres_core import AttackFamily, GalleryOutcome, GallerySetting

BY_NAME = {entry.name: entry for entry in ENTRIES}


def played(attack: str, defence: str) -> GalleryOutcome:
    return BY_NAME[attack].plays[defence](GallerySetting(seed=5, quick=True))


def test_both_attacks_are_on_privacy_and_begin_with_no_defence() -> None:
    assert [entry.name for entry in ENTRIES] == ["two_rounds", "aggregator_equivocation"]
    for entry in ENTRIES:
        assert entry.family is AttackFamily.PRIVACY
        assert next(iter(entry.plays)) == "nothing"


@pytest.mark.parametrize(
    ("attack", "defence"),
    [
        ("two_rounds", "nothing"),
        ("two_rounds", "secure aggregation without a record"),
        ("aggregator_equivocation", "nothing"),
    ],
)
def test_without_the_defence_the_update_of_the_victim_is_found(attack: str, defence: str) -> None:
    outcome = played(attack, defence)
    assert outcome.control
    assert outcome.fate.name == "FAILED"
    assert outcome.value == pytest.approx(1.0, abs=1e-3)


def test_a_set_without_one_node_of_a_recorded_one_is_refused() -> None:
    outcome = played("two_rounds", "secure aggregation, one model")
    assert outcome.fate.name == "HELD"
    assert outcome.detected == ("sums-on-record-and-this-one-tell-few-members-apart",)
    assert "4 must be gone at once" in outcome.reason


def test_sums_of_two_models_differ_by_the_victim_and_what_the_others_changed() -> None:
    """The limit of what sums hide, shown and not denied."""
    near = played("two_rounds", "secure aggregation, next model, updates that move little")
    far = played("two_rounds", "secure aggregation, next model, updates that move much")
    assert near.fate.name == "FAILED"
    assert not near.control
    assert near.value > 0.85
    assert far.fate.name == "HELD"
    assert abs(far.value) < 0.5


def test_a_threshold_above_half_of_the_shares_keeps_two_sets_from_being_opened() -> None:
    outcome = played("aggregator_equivocation", "threshold alone")
    assert outcome.fate.name == "HELD"
    assert outcome.reason == ("6 and 6 shares of the victim's two secrets were opened, 7 open one")


@pytest.mark.parametrize("defence", ["secure aggregation", "full, one sum"])
def test_without_a_quorum_of_statements_no_share_is_opened(defence: str) -> None:
    outcome = played("aggregator_equivocation", defence)
    assert outcome.fate.name == "HELD"
    assert outcome.detected == ("no quorum of statements for either set",)
    assert outcome.reason.startswith("0 and 0 shares")
