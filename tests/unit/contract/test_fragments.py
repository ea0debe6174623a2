"""A fragment is a range of coordinates; together they are the model, and models take turns."""

from __future__ import annotations

from collections import Counter

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qres_lab.testing import make_round_info

from qres_core import RoundInfo, Update, Vector
from qres_core.contract.training import evaluated, fitted
from qres_core.errors import ValueRefusedError
from qres_core.training import Fragment, HeldOut

SIZES = st.integers(1, 40).flatmap(lambda whole: st.tuples(st.integers(1, whole), st.just(whole)))


def parts(count: int, whole: int) -> list[Fragment]:
    return [Fragment(index, count, whole) for index in range(count)]


@given(SIZES)
def test_fragments_are_the_model_cut_into_ranges_of_nearly_one_length(
    size: tuple[int, int],
) -> None:
    count, whole = size
    everything = np.arange(whole, dtype=np.int32)
    cut = [part.cut(everything) for part in parts(count, whole)]
    assert np.array_equal(np.concatenate(cut), everything)
    lengths = {part.dimension for part in parts(count, whole)}
    assert lengths <= {whole // count, -(-whole // count)}
    assert [part.dimension for part in parts(count, whole)] == [each.size for each in cut]


@given(SIZES, st.integers(0, 2**32 - 1))
def test_what_is_placed_is_cut_again_and_changes_nothing_else(
    size: tuple[int, int], seed: int
) -> None:
    count, whole = size
    rng = np.random.default_rng(seed)
    before = rng.integers(-99, 99, whole, dtype=np.int32)
    kept = before.copy()
    for part in parts(count, whole):
        new = rng.integers(-99, 99, part.dimension, dtype=np.int32)
        placed = part.placed(new, before)
        assert np.array_equal(part.cut(placed), new)
        start, stop = part.bounds
        assert np.array_equal(
            np.delete(placed, range(start, stop)), np.delete(kept, range(start, stop))
        )
        alone = part.placed(new)
        assert np.array_equal(part.cut(alone), new)
        assert not np.delete(alone, range(start, stop)).any()
        assert not placed.flags.writeable
        assert placed.dtype == alone.dtype == np.int32
    assert np.array_equal(before, kept)


def test_a_part_does_not_keep_the_whole_alive() -> None:
    """An update of a fragment is held by every node: a view would hold the model with it."""
    whole = np.arange(100, dtype=np.int32)
    part = Fragment(1, 4, 100).cut(whole)
    assert part.base is None
    assert not part.flags.writeable


@given(st.integers(1, 9), st.integers(0, 50))
def test_models_take_turns(count: int, first: int) -> None:
    found = [Fragment.of_step(step, count, 60) for step in range(first, first + 3 * count)]
    if count == 1:
        assert found == [None] * 3
    else:
        turns = Counter(None if item is None else item.index for item in found)
        assert turns == dict.fromkeys(range(count), 3)


def info_of(step: int = 1, count: int = 3, whole: int = 10) -> RoundInfo:
    part = Fragment.of_step(step, count, whole)
    dimension = whole if part is None else part.dimension
    return attrs.evolve(make_round_info(dimension), step=step, fragment=part)


def test_a_round_of_everything_cuts_and_places_nothing() -> None:
    info, vector = make_round_info(3), np.int32([1, 2, 3])
    assert info.cut(vector) is vector
    assert info.placed(vector) is vector
    assert info.of_model is info


@attrs.define
class Told:
    """A trainer of the whole model that notes what it is told."""

    length: int = 10
    seen: list[tuple[str, int, int]] = attrs.field(factory=list[tuple[str, int, int]])

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update | None:
        self.seen.append(("fit", vector.size, round_info.dimension))
        return Update(np.arange(self.length, dtype=np.int32), weight=7, metrics={"loss": 0.5})

    def evaluate(self, vector: Vector, round_info: RoundInfo) -> dict[str, float]:
        self.seen.append(("evaluate", vector.size, round_info.dimension))
        return {"sum": float(vector.sum())}

    def validate(self, vector: Vector, round_info: RoundInfo) -> float:
        self.seen.append(("validate", vector.size, round_info.dimension))
        return float(np.abs(vector.astype(np.int64)).sum())

    def reference(self, vector: Vector, round_info: RoundInfo) -> Vector:
        self.seen.append(("reference", vector.size, round_info.dimension))
        return np.arange(self.length, dtype=np.int32) * 10


def test_a_trainer_knows_of_whole_models_alone() -> None:
    """It is given the whole model and the round as one of it; of its update a part is kept."""
    told, info, model = Told(), info_of(), np.full(10, 5, dtype=np.int32)
    update = fitted(told, model, info)
    assert update is not None
    assert update.vector.tolist() == [3, 4, 5]
    assert (update.weight, dict(update.metrics)) == (7, {"loss": 0.5})
    assert evaluated(told.evaluate, model, info) == {"sum": 50.0}
    held_out = HeldOut.of(told, model, info)
    assert held_out is not None
    assert held_out.model.tolist() == [5, 5, 5]
    assert held_out.loss() == 50.0
    assert held_out.loss_with(np.int32([1, 2, -5])) == 48.0  # the merged part, in the whole model
    assert held_out.reference().tolist() == [30, 40, 50]
    assert {(size, dimension) for _method, size, dimension in told.seen} == {(10, 10)}


def test_an_update_of_another_length_than_the_model_is_refused_in_every_round() -> None:
    told, info, model = Told(length=3), info_of(), np.zeros(10, dtype=np.int32)
    with pytest.raises(ValueRefusedError, match="returned 3 coordinates, and the model has 10"):
        fitted(told, model, info)
    held_out = HeldOut.of(told, model, info)
    assert held_out is not None
    with pytest.raises(ValueRefusedError, match="expected 10 coordinates, got 3"):
        held_out.reference()
