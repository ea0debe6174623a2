"""A node's own held-out examples, as the plugins that validate see them."""

from __future__ import annotations

import math
from collections.abc import Callable

import attrs

from qres_core.contract.fixed import add_saturating
from qres_core.contract.types import Vector


def _unknown() -> float | None:
    return None


@attrs.define(eq=False)
class HeldOut:
    """What a model would score on examples this node keeps for itself and does not train on.

    Nodes hold different examples, so two nodes may judge alike models differently. What they
    conclude may therefore decide how a node votes, and never what it merges.

    Attributes:
        model: the round's model, int32, shape ``(d,)``.
        validate: mean loss of a model on the held-out examples, the trainer's ``validate``.
        calls: how often ``validate`` was called through this object.
    """

    model: Vector
    validate: Callable[[Vector], float]
    calls: int = attrs.field(default=0, init=False)
    _now: float | None = attrs.field(factory=_unknown, init=False)

    def loss(self) -> float:
        """Loss of the round's model itself; computed once."""
        if self._now is None:
            self._now = self._score(self.model)
        return self._now

    def loss_with(self, update: Vector) -> float:
        """Loss of the round's model plus ``update``.

        Args:
            update: int32, shape ``(d,)``; the sum is held within the grid's range.

        Returns:
            the loss, infinite where it is not a number.

        Raises:
            ValueRefusedError: QRES-E502 or QRES-E503 for another vector.
        """
        return self._score(add_saturating(self.model, update).vector)

    def _score(self, model: Vector) -> float:
        self.calls += 1
        loss = float(self.validate(model))
        return math.inf if math.isnan(loss) else loss
