"""The exhibits of the attack gallery: accepted where nothing defends, refused by the proof."""

from __future__ import annotations

import pytest
from qres_lab import AttackFamily, GalleryOutcome, GallerySetting
from qres_lab.exhibits.zk import ENTRIES

BY_NAME = {entry.name: entry for entry in ENTRIES}


def played(attack: str, defence: str) -> GalleryOutcome:
    return BY_NAME[attack].plays[defence](GallerySetting(seed=5, quick=True))


def test_both_attacks_are_on_integrity_and_begin_with_no_defence() -> None:
    assert [entry.name for entry in ENTRIES] == ["bad_proofs", "lying_aggregator"]
    for entry in ENTRIES:
        assert entry.family is AttackFamily.INTEGRITY
        assert list(entry.plays) == ["nothing", "norm proof", "full, one sum"]


@pytest.mark.parametrize(("attack", "lies"), [("bad_proofs", 11), ("lying_aggregator", 5)])
def test_without_proofs_every_lie_is_accepted(attack: str, lies: int) -> None:
    outcome = played(attack, "nothing")
    assert outcome.control
    assert outcome.fate.name == "FAILED"
    assert outcome.value == lies


@pytest.mark.parametrize("defence", ["norm proof", "full, one sum"])
def test_no_false_proof_is_accepted_and_each_is_refused_for_what_it_is(defence: str) -> None:
    outcome = played("bad_proofs", defence)
    assert outcome.fate.name == "HELD"
    assert outcome.reason == "0 of 11"
    assert {
        "refused: bad-proof (5)",
        "refused: malformed-proof (3)",
        "refused: no-blinds (1)",
        "refused: no-proof (1)",
    } < set(outcome.detected)
    # Where only the sum is seen, a boosted vector shows in it and not by itself.
    (other,) = set(outcome.detected) - {
        "refused: bad-proof (5)",
        "refused: malformed-proof (3)",
        "refused: no-blinds (1)",
        "refused: no-proof (1)",
    }
    assert (
        other
        == {
            "norm proof": "refused: another-vector-than-committed (1)",
            "full, one sum": "refused: sum not the one committed to (1)",
        }[defence]
    )


@pytest.mark.parametrize("defence", ["norm proof", "full, one sum"])
def test_no_false_sum_is_accepted_and_the_true_one_is(defence: str) -> None:
    outcome = played("lying_aggregator", defence)
    assert outcome.fate.name == "HELD"
    assert outcome.detected == ("sum not the one committed to (QRES-E508)",)
    assert "the true sum is refused" not in outcome.reason
