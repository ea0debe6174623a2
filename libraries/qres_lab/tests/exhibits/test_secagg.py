"""The exhibits of the attack gallery: each attack succeeds where nothing defends, and why."""

from __future__ import annotations

import functools
import operator

import numpy as np
import pytest
from qres_lab import AttackFamily, GalleryOutcome, GallerySetting
from qres_lab.exhibits.secagg.dealers import DEALERS
from qres_lab.exhibits.secagg.entries import ENTRIES
from qres_lab.exhibits.secagg.groups import GROUPS
from qres_lab.exhibits.secagg.heights import HEIGHTS
from qres_lab.exhibits.secagg.left_out import LEFT_OUT
from qres_lab.exhibits.secagg.reading import Spoils, unmasked
from qres_lab.exhibits.secagg.swarm import ExhibitSwarm, cosine, session_of, updates

BY_NAME = {entry.name: entry for entry in ENTRIES}


@functools.cache
def played(attack: str, defence: str) -> GalleryOutcome:
    return BY_NAME[attack].plays[defence](GallerySetting(seed=5, quick=True))


def test_all_attacks_but_one_are_on_privacy_and_begin_with_no_defence() -> None:
    families = {name: entry.family for name, entry in BY_NAME.items()}
    assert families.pop("withholding") is AttackFamily.PROTOCOL
    assert set(families.values()) == {AttackFamily.PRIVACY}
    for entry in ENTRIES:
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


# ── those of the review ───────────────────────────────────────────────────────────────────────

GUARDED = [
    (entry.name, defence)
    for entry in (HEIGHTS, LEFT_OUT, *DEALERS, *GROUPS)
    for defence in entry.plays
    if defence != "nothing"
]


@pytest.mark.parametrize("attack", dict(GUARDED))
def test_without_its_guard_the_attack_succeeds(attack: str) -> None:
    outcome = played(attack, "nothing")
    assert outcome.control
    assert outcome.fate.name == "FAILED"


@pytest.mark.parametrize(("attack", "defence"), GUARDED)
def test_with_its_guard_it_does_not(attack: str, defence: str) -> None:
    outcome = played(attack, defence)
    assert not outcome.control
    assert outcome.fate.name == "HELD"
    assert outcome.value == 0.0


def test_the_update_of_a_node_whose_neighbours_are_left_out_is_read_exactly() -> None:
    outcome = played("left_out", "nothing")
    assert outcome.value == 1.0
    assert "the 28 nodes that the victim masks against" in outcome.reason


def test_who_is_told_apart_from_the_others_is_told_by_them() -> None:
    """The leader can follow its own list, and eight of the nine honest nodes cannot."""
    assert played("withholding", "nothing").value == round(8 / 9, 6)


def test_a_dealer_of_garbage_is_left_out_with_evidence_and_the_others_have_their_sum() -> None:
    assert played("bad_dealer", "nothing").reason.startswith("10 of 10 masked; no honest node")
    outcome = played("bad_dealer", "secure aggregation")
    assert outcome.reason == "9 of 10 masked; all of them can open the sum"
    assert outcome.detected == ("dealt-shares-do-not-fit (every node)",)


def test_sums_of_two_more_than_collude_leave_no_update_alone() -> None:
    assert played("colluders_in_a_group", "nothing").reason.endswith(
        "hold 1 or 2 or 3 inputs of others"
    )
    outcome = played("colluders_in_a_group", "secure aggregation, groups")
    assert outcome.reason.endswith("hold 2 or 3 inputs of others")


def test_groups_of_four_are_refused_with_the_numbers() -> None:
    outcome = played("colluders_in_a_group", "secure aggregation, groups of four")
    assert outcome.detected == ("refused before it starts: QRES-E314",)
    assert "a sum of 3 may hold fewer than two of others" in outcome.reason


def test_another_draw_each_round_meets_everybody_and_one_draw_meets_few() -> None:
    assert played("redraws", "nothing").value == 1.0
    outcome = played("redraws", "secure aggregation, groups")
    assert outcome.limit == 3 / 38
    assert outcome.value <= outcome.limit


def test_after_a_sum_that_made_no_model_the_victim_alone_cannot_be_left_out() -> None:
    assert played("abort_after_opening", "nothing").value == 3.0
    outcome = played("abort_after_opening", "secure aggregation")
    assert outcome.reason.endswith("each leaves out fewer than 4 members of it")


def test_spoils_take_off_the_masks_they_give_and_no_others() -> None:
    """Of one input, with its seed alone; with both secrets nothing is left."""
    swarm = ExhibitSwarm(session_of(6))
    spoils: dict[int, Spoils] = {}
    vectors = updates(1, 6)
    swarm.until_listed()
    for rank, client in swarm.clients.items():
        assert client._mask is not None
        spoils[rank] = Spoils({rank: client._seed}, {rank: client._mask})
        swarm.masked[rank] = client.mask(vectors[rank])
    board, mine = swarm.boards[3], swarm.rings([2])
    assert np.array_equal(unmasked(board, mine, spoils[2]), vectors[2])
    others = functools.reduce(operator.or_, (spoils[rank] for rank in (0, 1, 3, 4, 5)))
    with_seed = Spoils(spoils[2].seeds) | Spoils(keys=others.keys)
    assert np.array_equal(unmasked(board, mine, with_seed), vectors[2])
    for too_few in (Spoils(), Spoils(spoils[2].seeds), Spoils(keys=spoils[2].keys), others):
        assert abs(cosine(unmasked(board, mine, too_few), vectors[2])) < 0.4
