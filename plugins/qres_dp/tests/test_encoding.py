"""Encoded updates: what a row moves and what decoding gives back, exact in integers."""

from __future__ import annotations

import itertools
import math
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from qres_arithmetic import squared_norm
from qres_dp.clip import clip
from qres_dp.correlated import (
    EncodingMemory,
    EncodingShape,
    Factor,
    ModelChange,
    Participation,
    decode,
    encode,
    grain_of,
    longest_reach,
    reach,
)
from qres_dp.correlated.factor import ONE
from qres_dp.correlated.memory import FILE

from qres_core import Vector, fixed
from qres_core.errors import RoundError

SHAPE = EncodingShape("lab", 4, 1000, 0, 5)
SEEDS = st.integers(0, 2**32 - 1)


def updates_of(
    rng: np.random.Generator, steps: Sequence[int], bound: int, size: int
) -> dict[int, Vector]:
    """Updates within the bound; some as long as it, some all of one direction, some short."""
    line, found = rng.normal(size=size), {}
    for step in steps:
        direction = line if rng.random() < 0.5 else rng.normal(size=size)
        length = bound if rng.random() < 0.7 else rng.integers(bound + 1)
        scaled = 1.1 * length * direction / np.linalg.norm(direction)
        found[step] = clip(np.rint(scaled).astype(np.int32), max(1, int(length))).vector
    return found


def sum_of(factor: Factor, vectors: dict[int, Vector], step: int) -> list[int]:
    """The combination of a step in units of 2**-16, in Python's integers."""
    size = next(iter(vectors.values())).size
    pairs = [
        (factor.coefficients[step - item], vector)
        for item, vector in vectors.items()
        if 0 <= step - item < factor.band
    ]
    return [sum(c * int(vector[j]) for c, vector in pairs) for j in range(size)]


# ── what a row moves ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.claim("C-dp-19")
@settings(max_examples=150)
@given(SEEDS, st.integers(1, 64), st.sampled_from([3, 50, 1000, 2**20, 2**27]))
def test_no_row_is_longer_than_its_reach_whatever_was_sent_before(
    seed: int, band: int, bound: int
) -> None:
    rng, factor = np.random.default_rng(seed), Factor(band)
    taken = sorted(set(rng.integers(0, 80, rng.integers(1, 40)).tolist()))
    own, step = updates_of(rng, taken, bound, 40), 79
    row, moved = encode(factor, own, step, own[min(own)].size), reach(factor, taken, step)
    assert ONE**2 * squared_norm(row) <= (moved * bound) ** 2
    assert moved <= longest_reach(factor, 1)
    # The same row in Python's integers.
    assert row.tolist() == [
        int(v / abs(v)) * (abs(v) // ONE) if v else 0 for v in sum_of(factor, own, step)
    ]


def test_a_row_of_equal_updates_is_as_long_as_its_reach() -> None:
    factor, bound = Factor(16), 10**6
    own = {step: np.array([-bound, 0], dtype=np.int32) for step in range(0, 16, 2)}
    moved = reach(factor, own, 15)
    assert encode(factor, own, 15, 2).tolist() == [-(moved * bound // ONE), 0]
    assert reach(factor, own, 14) == longest_reach(factor, 2)


@pytest.mark.control("C-dp-19")
def test_rounding_to_the_nearest_would_move_more_than_is_charged() -> None:
    """The control: in many coordinates the halves that are rounded up add up."""
    factor, size = Factor(2), 400
    short = np.ones(size, dtype=np.int32)
    own = {0: short}
    bound = 20  # the norm of the update
    assert squared_norm(short) == bound**2
    total = np.array(sum_of(factor, own, 1))
    nearest = (total + ONE // 2) >> 16
    charged = (reach(factor, own, 1) * bound) ** 2
    assert ONE**2 * squared_norm(nearest) > charged
    assert ONE**2 * squared_norm(encode(factor, own, 1, size)) <= charged


@settings(max_examples=100)
@given(SEEDS, st.integers(1, 16), st.sampled_from([1, 7, 100, 900]))
def test_a_record_moves_a_row_by_no_more_than_its_reach_and_the_grain(
    seed: int, band: int, size: int
) -> None:
    """The others' records are in both rows, and both rows are rounded."""
    rng, factor = np.random.default_rng(seed), Factor(band)
    taken = sorted(set(rng.integers(0, band, rng.integers(1, 9)).tolist()))
    bound = 2 * math.isqrt(size) + int(rng.integers(1, 50))
    record = updates_of(rng, taken, bound, size)
    others = {step: rng.integers(-99, 99, size).astype(np.int32) for step in taken}
    both = {step: others[step] + record[step] for step in taken}
    step = band - 1
    moved = encode(factor, both, step, size) - encode(factor, others, step, size)
    charged = reach(factor, taken, step) + grain_of(bound, size)
    assert ONE**2 * squared_norm(moved) <= (charged * bound) ** 2


def test_without_the_grain_a_record_could_move_a_row_farther() -> None:
    """The control: each half that tips over is a whole step."""
    factor, size = Factor(2), 900
    ones = np.ones(size, dtype=np.int32)
    with_record = encode(factor, {0: 2 * ones}, 1, size)
    moved = with_record - encode(factor, {0: ones}, 1, size)
    bound = 30  # of the record, which is one step in each coordinate and counts half here
    reached = reach(factor, [0], 1)
    assert ONE**2 * squared_norm(moved) > (reached * bound) ** 2
    assert ONE**2 * squared_norm(moved) <= ((reached + grain_of(bound, size)) * bound) ** 2


def test_no_grid_that_is_accepted_has_a_grain_of_one() -> None:
    for size in (1, 2, 650, 10**6, 2**31 - 1):
        assert grain_of(math.isqrt(4 * size - 1) + 1, size) < ONE
        assert grain_of(1, size) == ONE


@settings(max_examples=100)
@given(SEEDS, st.integers(1, 20), st.integers(1, 8), st.integers(1, 60))
def test_the_rows_of_a_stream_move_no_more_than_its_sensitivity(
    seed: int, band: int, separation: int, steps: int
) -> None:
    """Whichever rows are sent, and whichever updates are in them."""
    rng, factor = np.random.default_rng(seed), Factor(band)
    taken, at = list[int](), int(rng.integers(separation))
    while at < steps:
        if rng.random() < 0.9:
            taken.append(at)
        at += separation + int(rng.integers(3))
    rule = Participation(-(-steps // separation), separation)
    sent = [step for step in range(steps) if rng.random() < 0.9]
    squares = [reach(factor, taken, step) ** 2 for step in sent]
    assert sum(squares) <= factor.squared_sensitivity(steps, rule)
    earliest = range(0, steps, separation)
    all_rows = [reach(factor, earliest, step) ** 2 for step in range(steps)]
    assert sum(all_rows) == factor.squared_sensitivity(steps, rule)
    assert max(reach(factor, earliest, step) for step in range(steps)) <= longest_reach(
        factor, separation
    )


# ── what decoding gives back ──────────────────────────────────────────────────────────────────────


def decoded(factor: Factor, means: Sequence[Vector]) -> list[Vector]:
    changes: list[Vector] = []
    for mean in means:
        changes.append(decode(factor, mean, changes[::-1][: factor.band - 1]))
    return changes


@settings(max_examples=60)
@given(SEEDS, st.integers(1, 64))
def test_what_is_decoded_is_what_was_encoded_up_to_rounding(seed: int, band: int) -> None:
    rng, factor, steps = np.random.default_rng(seed), Factor(band), 70
    own = updates_of(rng, range(steps), 2**24, 6)
    rows = [encode(factor, own, step, own[min(own)].size).astype(np.int32) for step in range(steps)]
    found = decoded(factor, rows)
    # Each step rounds by less than one and a half, and C⁻¹ carries that on.
    spread = 1.5 * float(np.abs(factor.inverse(steps)).sum())
    for step in range(steps):
        assert np.abs(found[step].astype(np.int64) - own[step]).max() <= spread


@settings(max_examples=60)
@given(SEEDS, st.integers(2, 64))
def test_decoding_is_the_same_in_pythons_integers(seed: int, band: int) -> None:
    rng, factor = np.random.default_rng(seed), Factor(band)
    ends = [-fixed.LIMIT, fixed.LIMIT]
    vectors = [
        np.where(rng.random(9) < 0.3, rng.choice(ends, 9), rng.integers(-(2**30), 2**30, 9)).astype(
            np.int32
        )
        for _ in range(rng.integers(1, band + 1))
    ]
    mean, past = vectors[0], vectors[1:]
    expected = []
    for j in range(9):
        total = sum(
            factor.coefficients[lag] * int(vector[j]) for lag, vector in enumerate(past, start=1)
        )
        value = int(mean[j]) - ((total + ONE // 2) // ONE)
        expected.append(max(-fixed.LIMIT, min(fixed.LIMIT, value)))
    assert decode(factor, mean, past).tolist() == expected


@pytest.mark.parametrize("band", range(2, 65))
def test_of_a_row_that_a_liar_made_up_at_most_three_quarters_stay(band: int) -> None:
    factor, steps = Factor(band), 200
    size = 10**6
    means = [vector(size if step == 0 else 0) for step in range(steps)]
    moved = np.cumsum([int(change[0]) for change in decoded(factor, means)])
    assert moved[0] == size
    assert np.abs(moved[1:]).max() <= 0.75 * size + steps


@pytest.mark.parametrize("away", [0.0, 0.1, 0.2])
def test_absent_nodes_shorten_equal_updates_as_the_page_says(away: float) -> None:
    rng, factor, steps, size = np.random.default_rng(2), Factor(16), 240, 10**6
    here = (rng.random((steps, 400)) >= away).astype(np.int64)
    means: list[Vector] = []
    for step in range(steps):
        past = range(max(0, step - 15), step + 1)
        held = sum(factor.coefficients[step - item] * here[item] for item in past) * size // ONE
        means.append(vector(round(int(held @ here[step]) / int(here[step].sum()))))
    moved = np.array([int(change[0]) for change in decoded(factor, means)])
    k = sum(factor.coefficients[1:]) / ONE
    expected = (1 + (1 - away) * k) / (1 + k)
    assert float(np.mean(moved[120:])) / size == pytest.approx(expected, rel=0.01)


def test_noise_that_is_decoded_has_the_variance_of_the_inverse() -> None:
    rng, factor, steps, size = np.random.default_rng(1), Factor(16), 40, 4000
    white: NDArray[np.float64] = rng.normal(0, 1000, (steps, size))
    found = decoded(factor, [np.rint(row).astype(np.int32) for row in white])
    sums = np.cumsum(np.stack(found).astype(np.float64), axis=0)
    measured = float(np.sqrt(np.mean(sums**2)))
    assert measured / 1000 == pytest.approx(factor.prefix_error(steps), rel=0.02)
    # The control: without decoding, the noise of rounds adds up.
    plain = float(np.sqrt(np.mean(np.cumsum(white, axis=0) ** 2)))
    assert plain > 1.8 * measured


# ── what a node remembers ─────────────────────────────────────────────────────────────────────────


def vector(*values: int) -> Vector:
    return np.array(values, dtype=np.int32)


FIRST, SECOND = vector(1, -2, 3, 4, 5), vector(-9, 8, 7, 6, 5)


def digest(number: int) -> bytes:
    return bytes([number]) * 32


def noted(memory: EncodingMemory, step: int, change: Vector = FIRST) -> None:
    memory.note(step, ModelChange(digest(step), digest(step + 1), change))


def test_it_is_the_same_after_a_restart_and_for_its_owner_alone(tmp_path: Path) -> None:
    memory = EncodingMemory(tmp_path, SHAPE)
    memory.keep(0, FIRST)
    memory.keep(2, SECOND)
    noted(memory, 0)
    noted(memory, 1, SECOND)
    memory.close()
    again = EncodingMemory(tmp_path, SHAPE)
    assert {step: kept.tolist() for step, kept in again.own.items()} == {
        0: FIRST.tolist(),
        2: SECOND.tolist(),
    }
    assert [held.tolist() for held in again.changes(2, digest(2))] == [
        SECOND.tolist(),
        FIRST.tolist(),
    ]
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    again.close()


def test_only_updates_that_later_rows_hold_are_kept() -> None:
    memory = EncodingMemory(None, SHAPE)
    for step in range(7):
        memory.keep(step, FIRST if step != 5 else None)
    assert sorted(memory.own) == [3, 4, 6]
    memory.keep(6, SECOND)  # the row is sent again, with what was trained since
    assert memory.own[6].tolist() == SECOND.tolist()
    memory.keep(6, None)
    assert sorted(memory.own) == [3, 4]
    memory.keep(1, FIRST)  # the swarm began again: what is to come is not
    assert sorted(memory.own) == [1]


def test_changes_are_those_of_this_history_alone() -> None:
    memory = EncodingMemory(None, SHAPE)
    assert memory.changes(0, digest(0)) == []
    for step in range(6):
        noted(memory, step)
        assert len(memory.changes(step + 1, digest(step + 1))) == min(step + 1, 3)
    with pytest.raises(RoundError, match=r"QRES-E608 .* 3 changes of the model and has 0"):
        memory.changes(6, digest(99))  # another model of that step
    with pytest.raises(RoundError, match=r"QRES-E608 .* has 0"):
        memory.changes(7, digest(7))
    memory.note(7, ModelChange(digest(7), digest(8), SECOND))  # it missed a step
    with pytest.raises(RoundError, match=r"QRES-E608 .* has 1.* after 2 more rounds"):
        memory.changes(8, digest(8))
    noted(memory, 8)
    noted(memory, 9)
    assert len(memory.changes(10, digest(10))) == 3
    memory.note(10, ModelChange(digest(50), digest(11), SECOND))  # of another model before
    with pytest.raises(RoundError, match=r"QRES-E608 .* has 1"):
        memory.changes(11, digest(11))


@pytest.mark.parametrize(
    "other",
    [{"swarm": "other"}, {"band": 5}, {"bound": 999}, {"scale": 1}, {"dimension": 6}],
    ids=str,
)
def test_a_file_of_another_swarm_or_other_settings_is_refused(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    EncodingMemory(tmp_path, SHAPE).close()
    with pytest.raises(RoundError, match=r"QRES-E602 .* another swarm, clip, unit, band"):
        EncodingMemory(tmp_path, attrs.evolve(SHAPE, **other))


def _longer(memory: EncodingMemory) -> None:
    body = vector(1001, 0, 0, 0, 0).astype("<i4").tobytes()
    memory._facts.write("own 1", body)


def _shorter(memory: EncodingMemory) -> None:
    memory._facts.write("own 1", b"\x01\x02\x03\x04")


def _no_change(memory: EncodingMemory) -> None:
    memory._facts.write("change 1", [digest(1), b"short", bytes(20)])


def _flipped(memory: EncodingMemory) -> None:
    memory._db.execute("UPDATE fact SET value = ? WHERE name = 'own 0'", (b"\x41\x00",))


def _renamed(memory: EncodingMemory) -> None:
    memory._facts.write("own -1", FIRST.astype("<i4").tobytes())


def _huge(memory: EncodingMemory) -> None:
    memory._facts.write("own " + "9" * 5000, FIRST.astype("<i4").tobytes())


@pytest.mark.parametrize("spoil", [_longer, _shorter, _no_change, _flipped, _renamed, _huge])
def test_a_damaged_file_is_refused(tmp_path: Path, spoil: object) -> None:
    memory = EncodingMemory(tmp_path, SHAPE)
    memory.keep(0, FIRST)
    assert callable(spoil)
    spoil(memory)
    memory.close()
    with pytest.raises(RoundError, match="QRES-E602"):
        EncodingMemory(tmp_path, SHAPE)


def test_pairs_of_steps_have_one_row_each() -> None:
    """Every pair of updates in a row of two, by hand: 1 x_t + 1/2 x_(t-1)."""
    factor = Factor(2)
    for a, b in itertools.product((-3, -2, -1, 0, 1, 2, 3), repeat=2):
        row = encode(factor, {0: vector(b), 1: vector(a)}, 1, 1)
        assert row.tolist() == [int(a + b / 2)]
