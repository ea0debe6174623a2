"""A quadratic world: the loss of a model is its squared distance from a target."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qres_core import Vector
from qres_core.training import HeldOut

sys.path.append(str(Path(__file__).parent))  # test files cannot import their neighbours


@pytest.fixture(scope="session")
def judge() -> Callable[..., HeldOut]:
    """Held-out examples that want the model at ``target``; it is at zero now."""

    def make(target: list[int]) -> HeldOut:
        goal = np.array(target, dtype=np.float64)

        def validate(model: Vector) -> float:
            return float(np.mean((model - goal) ** 2))

        return HeldOut(np.zeros(len(target), dtype=np.int32), validate)

    return make
