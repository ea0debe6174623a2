"""What a node asks of its own held-out examples, and what a proposer concludes."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import numpy as np
import pytest

from qres_core import Accusation, RoundInfo, Vector
from qres_core.contract.training import TrainerError
from qres_core.contract.types import FULL_STANDING
from qres_core.errors import ValueRefusedError
from qres_core.training import HeldOut, Screening

MODEL: Vector = np.array([10, -20, 2**31 - 1], dtype=np.int32)
INFO = RoundInfo("s", 1, bytes(32), 3, 0, (b"a" * 32,), 1)


class Validates:
    """A trainer with held-out examples: the loss is the first coordinate."""

    def fit(self, vector: Vector, round_info: RoundInfo) -> None:
        del vector, round_info

    def validate(self, vector: Vector) -> float:
        return float(vector[0])


class Trains(Validates):
    """It can train on them, too; how often it did."""

    trained = 0

    def reference(self, vector: Vector, round_info: RoundInfo) -> Any:
        assert round_info is INFO
        self.trained += 1
        return np.zeros_like(vector)


def of(trainer: object) -> HeldOut:
    found = HeldOut.of(trainer, MODEL, INFO)
    assert found is not None
    return found


def test_the_loss_of_the_model_is_computed_once_and_that_of_each_update_anew() -> None:
    held = of(Validates())
    assert [held.loss(), held.loss(), held.calls] == [10.0, 10.0, 1]
    update = np.array([5, 0, 5], dtype=np.int32)
    assert held.loss_with(update) == 15.0
    assert held.calls == 2


def test_an_update_is_added_within_the_grid() -> None:
    seen: list[int] = []
    held = HeldOut(MODEL, lambda vector: float(seen.append(int(vector[2])) or 0.0))
    held.loss_with(np.array([0, 0, 100], dtype=np.int32))
    assert seen == [2**31 - 1]


def test_a_loss_that_is_no_number_is_the_worst_there_is() -> None:
    assert HeldOut(MODEL, lambda _vector: math.nan).loss() == math.inf


def test_the_reference_is_trained_once() -> None:
    trainer = Trains()
    held = of(trainer)
    assert held.reference() is held.reference()
    assert trainer.trained == 1


def test_without_a_reference_it_says_what_the_trainer_lacks() -> None:
    with pytest.raises(ValueRefusedError, match=r"QRES-E507 trainer\.reference.*no reference"):
        of(Validates()).reference()


@pytest.mark.parametrize(
    "vector", [np.zeros(2, np.int32), np.zeros(3), [0, 0, 0]], ids=["short", "floats", "list"]
)
def test_a_reference_of_another_kind_is_refused(vector: Any) -> None:
    with pytest.raises(ValueRefusedError, match=r"QRES-E50[23] trainer\.reference"):
        HeldOut(MODEL, lambda _vector: 0.0, lambda: vector).reference()


class Ends(Validates):
    """Whatever it is asked, it raises this."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def validate(self, vector: Vector) -> float:
        del vector
        raise self._error

    def reference(self, vector: Vector, round_info: RoundInfo) -> Any:
        del vector, round_info
        raise self._error


@pytest.mark.parametrize("method", ["loss", "reference"])
@pytest.mark.parametrize(
    ("error", "becomes"),
    [
        (SystemExit(3), "QRES-E512"),
        (asyncio.CancelledError(), "QRES-E512"),
        (GeneratorExit(), "QRES-E512"),
        (BaseExceptionGroup("several", [SystemExit(1)]), "QRES-E512"),
        (MemoryError(), None),
        (ZeroDivisionError(), None),
        (KeyboardInterrupt(), None),
    ],
)
def test_what_would_end_the_node_is_an_error_of_the_trainer(
    error: BaseException, becomes: str | None, method: str
) -> None:
    held = of(Ends(error))
    if becomes is None:
        with pytest.raises(type(error)):
            getattr(held, method)()
    else:
        with pytest.raises(TrainerError, match=becomes) as caught:
            getattr(held, method)()
        name = "validate" if method == "loss" else method
        assert (caught.value.failure.method, caught.value.failure.round) == (name, 1)
        assert caught.value.__cause__ is error


def test_a_trainer_without_held_out_examples_offers_nothing() -> None:
    assert HeldOut.of(object(), MODEL, INFO) is None


@pytest.mark.parametrize("share", [-1, FULL_STANDING + 1, 0.5, True])
def test_a_share_out_of_range_is_refused(share: Any) -> None:
    with pytest.raises(ValueRefusedError, match=r"QRES-E506.*screening\.shares"):
        Screening(shares={b"a" * 32: share})


def test_who_is_spoken_against_has_no_share_and_who_is_not_named_has_all() -> None:
    spoken = Accusation(b"a" * 32, "lied")
    screening = Screening((spoken,), {b"b" * 32: 7, b"a" * 32: 9})
    shares = [screening.of(letter * 32) for letter in (b"a", b"b", b"c")]
    assert shares == [0, 7, FULL_STANDING]
