"""Trainers: what counts as one, and the way to the vector and back."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from qres_core import RoundInfo, fixed
from qres_core.training import Trainer


def test_a_class_with_both_methods_is_a_trainer(third_party: ModuleType) -> None:
    assert isinstance(third_party.Mean(np.zeros(2)), Trainer)


@pytest.mark.parametrize("only", ["fit", "evaluate"])
def test_a_class_with_one_method_is_none(only: str) -> None:
    partial: Any = type("Partial", (), {only: print})
    assert not isinstance(partial(), Trainer)


@pytest.mark.parametrize("other", [None, object(), [], lambda: None])
def test_other_objects_are_no_trainers(other: object) -> None:
    assert not isinstance(other, Trainer)


def test_a_trainer_halves_its_distance_on_the_grid(third_party: ModuleType) -> None:
    trainer: Trainer = third_party.Mean(np.array([8.0, -4.0]))
    model = fixed.encode([0.0, 0.0]).vector
    round_info = RoundInfo("s", 1, b"\0" * 32, 2, 0, (b"\1" * 32,), quorum=1)
    for distance in (80.0, 20.0, 5.0, 1.25):
        assert trainer.evaluate(model)["distance"] ** 2 == pytest.approx(distance)
        update = trainer.fit(model, round_info)
        assert (update.weight, update.saturated) == (2, 0)
        model = fixed.add_saturating(model, update.vector).vector
