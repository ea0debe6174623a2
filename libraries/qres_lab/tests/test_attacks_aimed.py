"""Attacks on rules that weight and judge by held-out examples, and the search for directions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import pytest
from numpy.typing import NDArray
from qres_lab.attacks.aside import unseen

from qres_core import RoundInfo, Update, Vector
from qres_core.attacks import AttackContext, make_attack

Rows = NDArray[np.int32]
Rule = Callable[[Rows], Vector | None]
LIARS = 4


def honest_rows(seed: int) -> Rows:
    rng = np.random.default_rng(seed)
    common = rng.normal(size=12)
    return np.rint(1e5 * (common + 0.3 * rng.normal(size=(10, 12)))).astype(np.int32)


def context(rows: Rows, rule: Rule, **known: Any) -> AttackContext:
    """Of the first of four liars among fourteen nodes; ten are a quorum."""
    ids = tuple(bytes([index]) * 32 for index in range(14))
    return AttackContext(
        RoundInfo("a", 1, b"m" * 32, rows.shape[1], 0, ids, 10, LIARS, head=b"h" * 32),
        np.full_like(rows[0], 1000),
        Update(rows[0]),
        rows,
        LIARS,
        0,
        np.random.default_rng(0),
        lambda forged: rule(np.concatenate([rows, forged])),
        **known,
    )


def lies(name: str, seen: AttackContext) -> Rows:
    """What the liars send together."""
    attack, rows, board = make_attack(name), list[Vector](), dict[str, Any]()
    for index in range(LIARS):
        (forged,) = attack.forge(attrs.evolve(seen, index=index, board=board))
        rows.append(np.frombuffer(forged.octets, dtype="<i4").astype(np.int32))
    return np.stack(rows)


def mean(rows: Rows) -> Vector:
    return np.rint(rows.mean(axis=0)).astype(np.int32)


def rounded(bits: int) -> Rule:
    """The honest mean, and pairs of liars with weights for which they cancel, but for rounding."""

    def rule(rows: Rows) -> Vector:
        honest, forged = rows[:10].astype(np.float64), rows[10:].astype(np.float64)
        made = honest.sum(axis=0)
        for one_way, back in zip(forged[::2], forged[1::2], strict=True):
            weight = -float(back @ one_way) / float(one_way @ one_way)
            made += np.rint(weight * 2.0**bits) / 2.0**bits * one_way + back
        return np.rint(np.clip(made / 10, -(2**31) + 1, 2**31 - 1)).astype(np.int32)

    return rule


def test_rows_that_cancel_move_a_mean_whose_weights_are_rounded_and_no_exact_mean() -> None:
    rows = honest_rows(0) // 400
    usual = float(np.linalg.norm(rows.mean(axis=0)))
    moved: dict[int, float] = {}
    for bits in (16, 50):
        rule = rounded(bits)
        merged = rule(np.concatenate([rows, lies("cancel", context(rows, rule))]))
        assert merged is not None
        moved[bits] = float(np.linalg.norm(merged - rows.mean(axis=0)))
    assert moved[16] > 2 * usual
    assert moved[50] < 0.5 * usual


def test_rows_that_cancel_are_sent_although_all_would_be_refused() -> None:
    """What nobody would merge may still keep a round from closing."""
    rows = honest_rows(1)
    sent = lies("cancel", context(rows, lambda _rows: None))
    assert np.abs(sent).max() > 1000 * np.abs(rows).max()


@pytest.mark.parametrize("knows", ["nothing", "reference"])
def test_the_mirror_turns_a_mean_into_what_the_held_out_examples_give(knows: str) -> None:
    """With weights of at most a tenth the four liars have four tenths of the mean."""
    rows, aim = honest_rows(2), np.arange(12, dtype=np.int32) * 1000
    known = {"reference": lambda: aim} if knows == "reference" else {}
    sent = lies("mirror", context(rows, mean, **known))
    merged = 0.6 * rows.mean(axis=0) + 0.4 * sent.mean(axis=0)
    assert merged == pytest.approx(aim if known else np.zeros(12), abs=1.0)


def test_the_drift_goes_as_far_as_the_vote_lets_it_and_no_farther() -> None:
    rows = honest_rows(3)
    centre = rows.mean(axis=0)

    def loss(merged: Vector) -> float:
        return float(np.linalg.norm(merged - 5 * centre))

    allowed = 1.1 * loss(np.zeros(12, dtype=np.int32))

    def voted(all_rows: Rows) -> Vector | None:
        merged = mean(all_rows)
        return merged if loss(merged) <= allowed else None

    seen = context(rows, voted, loss=loss)
    drifted, doubled = voted(np.concatenate([rows, lies("drift", seen)])), lies("ipm", seen)
    assert drifted is not None
    assert 0.99 * allowed < loss(drifted) <= allowed
    # Without the vote it goes on, and a fixed strength is too much for it or less than it lets by.
    fixed = voted(np.concatenate([rows, doubled]))
    assert fixed is None or loss(fixed) < loss(drifted)
    free = mean(
        np.concatenate(
            [
                rows,
                lies(
                    "drift",
                    attrs.evolve(seen, probe=lambda forged: mean(np.concatenate([rows, forged]))),
                ),
            ]
        )
    )
    assert loss(free) > 10 * allowed


def test_the_search_finds_the_direction_that_a_rule_is_blind_in() -> None:
    """A rule that lets nobody turn its mean back still follows the direction of most variance."""
    rng = np.random.default_rng(4)
    axis = np.zeros(12)
    axis[3] = 4e5
    rows = (honest_rows(4) + np.rint(np.outer(rng.normal(size=10), axis))).astype(np.int32)
    centre = rows.mean(axis=0)

    def loss(merged: Vector) -> float:
        return float(np.linalg.norm(merged - centre))

    def blind(all_rows: Rows) -> Vector | None:
        """Refuses every row that is far from the others but along the fourth coordinate."""
        away = np.delete(all_rows - np.median(all_rows, axis=0), 3, axis=1)
        return None if np.linalg.norm(away, axis=1).max() > 3e5 else mean(all_rows)

    seen = context(rows, blind, loss=loss)
    found = {
        name: 0.0
        if (merged := blind(np.concatenate([rows, lies(name, seen)]))) is None
        else loss(merged)
        for name in ("searched", "optimised_ipm", "optimised_alie")
    }
    assert found["searched"] > 1.5 * max(found["optimised_ipm"], found["optimised_alie"])


def test_a_search_that_is_refused_everything_still_sends_something() -> None:
    rows = honest_rows(5)
    for name in ("searched", "drift"):
        assert lies(name, context(rows, lambda _rows: None)).shape == (LIARS, 12)


# ── where held-out examples do not look ───────────────────────────────────────────────────────


def nearest(aim: Vector) -> Rule:
    """The means of the honest, and with four tenths of the liars: whichever is nearer to an aim."""

    def rule(rows: Rows) -> Vector:
        plain = rows[:10].mean(axis=0)
        other = 0.6 * plain + 0.4 * rows[10:].mean(axis=0)
        near = min((plain, other), key=lambda made: float(np.linalg.norm(made - aim)))
        return np.rint(near).astype(np.int32)

    return rule


def test_what_is_left_of_a_direction_is_at_right_angles_to_all_others() -> None:
    rng = np.random.default_rng(6)
    way, first, second = rng.normal(size=(3, 9))
    left = unseen(way, first, second, first + 2 * second, np.zeros(9))
    assert abs(left @ first) + abs(left @ second) < 1e-12
    # Nothing else is taken away.
    basis = np.linalg.lstsq(np.stack([first, second]).T, way - left, rcond=None)
    assert basis[1] < 1e-20
    assert not unseen(3 * first + second, first, second).any()


@pytest.mark.parametrize("name", ["aside", "backdoor_aside"])
def test_a_rule_that_wants_the_nearest_mean_takes_one_that_is_as_far_off_as_its_bound(
    name: str,
) -> None:
    rows = honest_rows(7)
    centre = rows.mean(axis=0)
    aim = np.rint(0.5 * centre + 2e4 * np.arange(-6, 6)).astype(np.int32)
    wanted = unseen(np.eye(12)[0], centre, aim)
    rule = nearest(aim)

    def loss(merged: Vector) -> float:
        return float(merged @ wanted)

    poisoned = Update(np.rint(centre + 1e5 * wanted).astype(np.int32))
    seen = attrs.evolve(context(rows, rule, loss=loss, reference=lambda: aim), own=poisoned)
    sent = lies(name, seen)
    merged = rule(np.concatenate([rows, sent]))
    bound = float(np.linalg.norm(centre - aim))
    assert 0.4 * bound < np.linalg.norm(merged - aim) <= bound + 12
    assert float(merged @ wanted) > 0.2 * bound * float(np.linalg.norm(wanted))
    # It is aside of what the examples ask for, and not less of it.
    moved = merged - aim.astype(np.float64)
    assert abs(moved @ aim) < 1e-3 * np.linalg.norm(moved) * np.linalg.norm(aim)
    # The control: a row that only goes that way is not taken at all.
    plain = np.tile(np.rint(centre + bound * wanted), (LIARS, 1)).astype(np.int32)
    assert np.array_equal(rule(np.concatenate([rows, plain])), np.rint(centre))


def test_without_a_reference_or_a_direction_the_mean_is_to_stand_still() -> None:
    rows = honest_rows(8)
    still = attrs.evolve(
        context(rows, mean), own=Update(np.rint(rows.mean(axis=0)).astype(np.int32))
    )
    for name in ("aside", "backdoor_aside"):
        sent = lies(name, attrs.evolve(still, probe=lambda _rows: None))
        merged = 0.6 * rows.mean(axis=0) + 0.4 * sent.mean(axis=0)
        assert np.linalg.norm(merged) < 2 * np.linalg.norm(rows.mean(axis=0))
