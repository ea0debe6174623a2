"""Trainers that keep the promise of single examples pass, and those that do not are told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs
import numpy as np
import pytest
from numpy.typing import NDArray
from qres_lab.testing import check_records, make_round_info

from qres_core import RoundInfo, Vector
from qres_core.contract.by_record import by_record
from qres_core.errors import CompatibilityError
from qres_core.training import RecordClip
from qres_core.training.models import Softmax
from qres_core.training.numpy_trainer import NumpyTrainer

Floats = NDArray[np.float64]
COUNT, FEATURES, CLASSES = 30, 4, 3
CLIP = RecordClip(0.02, COUNT)
RAW = np.random.default_rng(1).normal(size=(COUNT, FEATURES))
RAW[3] *= 1000
LABELS = np.arange(COUNT) % CLASSES
MODEL: Vector = np.zeros(Softmax(FEATURES, CLASSES).dimension, dtype=np.int32)


def honest(x: Floats) -> Floats:
    return x / 8


def standardised(x: Floats) -> Floats:
    scaled: Floats = (x - x.mean(axis=0)) / x.std(axis=0)
    return scaled


def made(prepare: Callable[[Floats], Floats]) -> Callable[[Sequence[int]], NumpyTrainer]:
    """QRES's own trainer on examples that are prepared like this."""

    def make(places: Sequence[int]) -> NumpyTrainer:
        x, y = prepare(RAW[places]), LABELS[places]
        return NumpyTrainer(
            model=Softmax(FEATURES, CLASSES),
            x=x,
            y=y,
            test_x=x,
            test_y=y,
            local_epochs=1,
            batch_size=COUNT,
            learning_rate=1.0,
        )

    return make


@attrs.frozen
class Steps:
    """A trainer whose steps are made of all rows at once."""

    rows: Floats
    step: Callable[[Floats], Floats]

    def records(self) -> int:
        return len(self.rows)

    def record_steps(self, vector: Vector, round_info: RoundInfo) -> Iterator[Floats]:
        del vector, round_info
        yield self.step(self.rows)


def of(step: Callable[[Floats], Floats]) -> Callable[[Sequence[int]], Steps]:
    return lambda places: Steps(RAW[places], step)


def test_a_trainer_that_takes_each_example_alone_passes() -> None:
    """The control: what is sent moves, and by no more than the clip."""
    assert 0.9 < check_records(made(honest), COUNT, CLIP, MODEL) <= 1.0


@pytest.mark.claim("C-dp-33")
def test_a_trainer_that_standardises_over_all_examples_is_told() -> None:
    with pytest.raises(AssertionError, match="without example 3, 29 other examples have other"):
        check_records(made(standardised), COUNT, CLIP, MODEL)


@pytest.mark.control("C-dp-33")
def test_what_is_told_is_more_than_the_clip_that_is_promised() -> None:
    """Counted without the helper: the large example moves what is sent by several clips."""
    make, info = made(standardised), make_round_info(MODEL.size)
    model = np.random.default_rng(2).integers(-(2**14), 2**14, MODEL.size).astype(np.int32)
    others = [at for at in range(COUNT) if at != 3]
    sent = [by_record(make(at), CLIP).fit(model, info) for at in (range(COUNT), others)]
    assert sent[0] is not None
    assert sent[1] is not None
    apart = np.linalg.norm((sent[0].vector - sent[1].vector).astype(float)) / CLIP.steps(0)
    assert apart > 2


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(lambda rows: rows / len(rows), id="divided by how many there are"),
        pytest.param(lambda rows: rows / np.abs(rows).max(), id="by the largest of them"),
        pytest.param(lambda rows: rows * np.arange(1, len(rows) + 1)[:, None], id="by its place"),
        pytest.param(lambda rows: rows + 1e-12 * rows.sum(), id="by the last bits alone"),
    ],
)
def test_a_step_that_follows_from_other_examples_is_told(step: Callable[[Floats], Floats]) -> None:
    model = MODEL[:FEATURES]
    assert check_records(of(lambda rows: 0.1 * rows), COUNT, CLIP, model) <= 1  # the control
    with pytest.raises(AssertionError, match="other examples have other steps"):
        check_records(of(step), COUNT, CLIP, model)


def test_steps_that_are_drawn_are_told() -> None:
    generator = np.random.default_rng(1)
    with pytest.raises(AssertionError, match="a second trainer of the same examples"):
        check_records(of(lambda rows: rows * generator.normal()), COUNT, CLIP, MODEL[:FEATURES])


def test_examples_without_a_step_are_told() -> None:
    with pytest.raises(AssertionError, match="30 examples have 29 steps"):
        check_records(of(lambda rows: rows[1:]), COUNT, CLIP, MODEL[:FEATURES])


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_examples_are_no_pass(count: int) -> None:
    with pytest.raises(AssertionError, match="at least 2 examples"):
        check_records(made(honest), count, CLIP, MODEL)


def test_a_trainer_of_which_nothing_is_seen_is_no_pass() -> None:
    with pytest.raises(AssertionError, match="no example moves what is sent"):
        check_records(of(lambda rows: 0.0 * rows), COUNT, CLIP, MODEL[:FEATURES])


def test_what_a_start_refuses_is_refused() -> None:
    with pytest.raises(CompatibilityError, match="QRES-E318"):
        check_records(made(honest), COUNT, RecordClip(0.02, COUNT - 1), MODEL)
    nothing: Any = object()
    with pytest.raises(CompatibilityError, match="QRES-E318"):
        check_records(lambda _places: nothing, COUNT, CLIP, MODEL)
