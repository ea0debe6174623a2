from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import pytest

from qres_core import RoundInfo, Update, Vector, fixed
from qres_core.contract.training import (
    MAX_ERROR,
    TrainerError,
    evaluated,
    finer_grid,
    fitted,
    with_round,
)


def info(scale: int = 0) -> RoundInfo:
    return RoundInfo("s", 1, bytes(32), 4, scale, (bytes(32),), 1)


def alone(vector: Vector) -> tuple[Any, ...]:
    return (vector,)


def both(vector: Vector, round_info: RoundInfo) -> tuple[Any, ...]:
    return vector, round_info


def otherwise_named(vector: Vector, info: RoundInfo) -> tuple[Any, ...]:
    return vector, info


def optional(vector: Vector, round_info: RoundInfo | None = None) -> tuple[Any, ...]:
    return (vector,) if round_info is None else (vector, round_info)


def with_an_option(vector: Vector, loud: str = "") -> tuple[Any, ...]:
    return (vector, loud) if loud else (vector,)


def anything(*everything: object) -> tuple[Any, ...]:
    return everything


@pytest.mark.parametrize(
    ("method", "given"),
    [
        (alone, 1),
        (both, 2),
        (otherwise_named, 2),
        (optional, 2),
        (with_an_option, 1),
        (anything, 2),
    ],
)
def test_a_method_is_given_the_round_if_it_asks(
    method: Callable[..., tuple[Any, ...]], given: int
) -> None:
    vector, about = np.zeros(4, dtype=np.int32), info()
    assert len(with_round(method)(vector, about)) == given


@pytest.mark.parametrize("size", [1e-6, 3e-6, 1e-7])
def test_the_scale_that_is_proposed_keeps_the_values_and_the_weights(size: float) -> None:
    step = size * np.array([1.0, -0.5, 2.0, 0.0])
    model = np.array([1.0, -3.0, 0.0, 0.1])
    update = Update.of(fixed.encode(step))
    fix = finer_grid(update, fixed.encode(model).vector, info())
    assert fix is not None
    scale = int(fix.partition("= ")[2].partition(",")[0])
    again = fixed.encode(step, scale=scale)
    assert np.count_nonzero(again.vector) == 3
    assert fixed.encode(4 * model, scale=scale).saturated == 0
    assert (
        finer_grid(Update.of(again), fixed.encode(model, scale=scale).vector, info(scale)) is None
    )


def test_no_scale_is_proposed_that_the_weights_do_not_fit() -> None:
    update = Update.of(fixed.encode([1e-8, 1e-8, 1e-8, 1e-8]))
    model = fixed.encode([8000.0, 0.0, 0.0, 0.0]).vector
    assert "no grid holds" in (finer_grid(update, model, info()) or "")


@pytest.mark.parametrize("large", [0.5, 5.0, 10.0, 1000.0, 30000.0])
@pytest.mark.parametrize("small", [1e-6, 1e-7, 1e-9, 1e-14, 1e-17, 1e-300])
def test_a_scale_that_is_proposed_saturates_nothing_and_is_fine_enough(
    large: float, small: float
) -> None:
    """Also where one step is large beside the many that vanish, as steps of gradients are."""
    step = np.array([small, -small, small, small, large])
    update = Update.of(fixed.encode(step))
    fix = finer_grid(update, np.zeros(5, dtype=np.int32), info())
    assert fix is not None
    if "no grid holds" in fix:
        assert large / small > 2**24
        return
    scale = int(fix.partition("= ")[2].partition(",")[0])
    again = fixed.encode(step, scale=scale)
    assert again.saturated == 0
    assert np.count_nonzero(again.vector) == 5


def test_what_moves_or_cannot_be_told_is_not_counted() -> None:
    model = np.zeros(4, dtype=np.int32)
    assert finer_grid(Update.of(fixed.encode([1.0, 1e-9, 0.0, 0.0])), model, info()) is None
    assert finer_grid(Update.of(fixed.encode([0.0] * 4)), model, info()) is None  # did not move
    assert finer_grid(Update(model), model, info()) is None


def by_name_only(vector: Vector, *, round_info: RoundInfo) -> tuple[Any, ...]:
    return vector, round_info


def test_a_method_may_take_the_round_by_name_only() -> None:
    assert by_name_only(np.zeros(4, dtype=np.int32), round_info=info())[1] == info()
    assert len(with_round(by_name_only)(np.zeros(4, dtype=np.int32), info())) == 2


class Mute(Exception):  # noqa: N818 - as a user may name it
    def __str__(self) -> str:
        raise OSError

    __repr__ = __str__


@attrs.frozen
class Raises:
    error: BaseException

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update:
        del vector, round_info
        raise self.error

    def evaluate(self, vector: Vector) -> dict[str, float]:
        del vector
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        Mute(),
        ValueError("x" * 10**6),
        SystemExit(3),
        CancelledError(),
        BaseExceptionGroup("several", [SystemExit(1), ValueError("x")]),
        MemoryError(),
        StopIteration(1),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_trainer_raises_is_told_in_few_words(error: BaseException) -> None:
    """Not one of them ends the thread that trains, or fills a log."""
    model = np.zeros(4, dtype=np.int32)
    with pytest.raises(TrainerError) as fit:
        fitted(Raises(error), model, info())
    with pytest.raises(TrainerError) as evaluate:
        evaluated(Raises(error).evaluate, model, info())
    for caught in (fit, evaluate):
        assert type(error).__name__ in caught.value.failure.error
        assert len(caught.value.failure.error) <= MAX_ERROR + 100


def test_ctrl_c_in_a_trainer_is_no_fault_of_it() -> None:
    with pytest.raises(KeyboardInterrupt):
        fitted(Raises(KeyboardInterrupt()), np.zeros(4, dtype=np.int32), info())


@pytest.mark.parametrize("value", [10**400, Mute(), [1, 2]], ids=["huge", "mute", "list"])
def test_whatever_a_trainer_returns_is_told(value: Any) -> None:
    model = np.zeros(4, dtype=np.int32)
    assert evaluated(lambda vector: {"seen": vector.size}, model, info()) == {"seen": 4.0}
    for figures in ({"loss": value}, value):
        with pytest.raises(TrainerError, match="returned"):
            evaluated(lambda _vector, said=figures: said, model, info())


@attrs.frozen
class Returns:
    value: Any

    def fit(self, vector: Vector, round_info: RoundInfo) -> Any:
        del vector, round_info
        return self.value


@pytest.mark.parametrize(
    ("value", "said", "fix"),
    [
        (np.zeros(4), "returned an array of float64, shape (4,), and not an Update", "Update.of("),
        ({"loss": 1}, "returned dict {'loss': 1}, and not an Update", "Update.of("),
        (Update(np.zeros(3, np.int32)), "returned 3 coordinates, and the model has 4", "correct"),
    ],
)
def test_what_is_no_update_of_the_model_is_refused_with_what_to_return(
    value: Any, said: str, fix: str
) -> None:
    with pytest.raises(TrainerError) as caught:
        fitted(Returns(value), np.zeros(4, dtype=np.int32), info(), node="node-2")
    assert caught.value.code == "QRES-E512"
    assert said in str(caught.value)
    assert fix in str(caught.value)
    assert "node-2 trainer.fit" in str(caught.value)
    failure = caught.value.failure
    assert failure.summary == f"trainer failed in fit: {said}"
    assert failure.to_json() == {
        "method": "fit", "round": 1, "error": said, "file": "", "line": 0,
    }  # fmt: skip


def test_nothing_new_and_an_update_that_fits_are_passed_on() -> None:
    model = np.zeros(4, dtype=np.int32)
    update = Update(np.ones(4, np.int32))
    assert fitted(Returns(None), model, info()) is None
    assert fitted(Returns(update), model, info()) is update


def test_ctrl_c_in_an_evaluation_is_no_fault_of_the_trainer() -> None:
    with pytest.raises(KeyboardInterrupt):
        evaluated(Raises(KeyboardInterrupt()).evaluate, np.zeros(4, dtype=np.int32), info())


def test_a_method_whose_arguments_python_cannot_tell_is_given_the_model_alone() -> None:
    class Opaque:
        __signature__ = "none"

        def __call__(self, *arguments: Any) -> tuple[Any, ...]:
            return arguments

    model = np.zeros(4, dtype=np.int32)
    assert with_round(Opaque())(model, info()) == (model,)
