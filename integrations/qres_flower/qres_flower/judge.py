"""Public examples of the server, as the plugins that validate ask for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
import numpy as np

from qres_core import RoundInfo, Vector, fixed
from qres_flower.layout import difference, moved
from qres_flower.shapes import ArrayShapes

Validate = Callable[[Any], float]
"""Mean loss of a model, an ArrayRecord, on the server's examples."""
Train = Callable[[Any], Any]
"""The ArrayRecord that training on the server's examples leads to."""


@attrs.define(eq=False)
class PublicJudge:
    """Verdicts of ``validate`` on the models that plugins ask about.

    Plugins see differences from the round's model; these are turned into arrays again.
    """

    loss: Validate
    shapes: ArrayShapes | None = attrs.field(default=None, init=False)
    model: Mapping[str, Any] = attrs.field(factory=dict[str, Any], init=False)

    pooled = True  # the operator gives them to stand for the task

    def begin(self, shapes: ArrayShapes, model: Mapping[str, Any]) -> None:
        """A round from this model."""
        self.shapes, self.model = shapes, model

    def validate(self, vector: Vector, round_info: RoundInfo) -> float:
        """Mean loss of the round's model with a difference, int32, shape ``(d,)``."""
        assert self.shapes is not None  # noqa: S101 - asked within a round alone
        real = fixed.decode(vector, scale=round_info.scale)
        return float(self.loss(moved(self.shapes, self.model, real)))


@attrs.define(eq=False)
class TrainingJudge(PublicJudge):
    """One that can train on the examples too, for plugins that compare updates with its own."""

    train: Train = attrs.field(kw_only=True)

    def reference(self, vector: Vector, round_info: RoundInfo) -> Vector:
        """The difference that training on the server's examples makes; ``vector`` is zeros."""
        del vector
        assert self.shapes is not None  # noqa: S101 - asked within a round alone
        after = self.train(moved(self.shapes, self.model, np.zeros(self.shapes.size)))
        changed = difference(self.shapes, dict(after), self.model)
        return fixed.encode(changed, scale=round_info.scale).vector


def judge_of(validate: Validate | None, reference: Train | None) -> PublicJudge | None:
    """Judge made of the given functions; ``None`` without any."""
    if validate is None:
        return None
    return PublicJudge(validate) if reference is None else TrainingJudge(validate, train=reference)
