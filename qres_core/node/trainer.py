"""A node's trainer among the threads that call it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import attrs

from qres_core.contract.by_record import ByRecord
from qres_core.contract.rounds import RoundInfo
from qres_core.contract.trainer import Reference, Trainer, Validator
from qres_core.contract.training import with_round
from qres_core.contract.types import Update, Vector


@attrs.frozen(eq=False)
class _Guarded:
    """A trainer whose ``fit`` and ``evaluate`` wait for each other."""

    inner: Any
    turn: threading.Lock = attrs.field(factory=threading.Lock, init=False)

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update | None:
        """Train, in turn."""
        with self.turn:
            update: Update | None = self.inner.fit(vector, round_info)
        return update

    def evaluate(self, vector: Vector, round_info: RoundInfo) -> Mapping[str, float]:
        """Measure, in turn."""
        with self.turn:
            figures: Mapping[str, float] = with_round(self.inner.evaluate)(vector, round_info)
        return figures


@attrs.frozen(eq=False)
class _GuardedValidator(_Guarded):
    def validate(self, vector: Vector, round_info: RoundInfo) -> float:
        """Not in turn: a vote must not wait for an epoch. It is called once at a time."""
        loss: float = with_round(self.inner.validate)(vector, round_info)
        return loss


@attrs.frozen(eq=False)
class _GuardedReference(_GuardedValidator):
    def reference(self, vector: Vector, round_info: RoundInfo) -> Vector:
        """As ``validate``."""
        update: Vector = self.inner.reference(vector, round_info)
        return update


def guarded(trainer: Trainer) -> Trainer:
    """The trainer, with ``fit`` and ``evaluate`` never at the same time, whatever threads call.

    It has ``validate`` and ``reference`` where the trainer has them. One that clips single examples
    takes turns by itself.
    """
    if isinstance(trainer, ByRecord):
        return trainer
    if isinstance(trainer, Reference) and isinstance(trainer, Validator):
        return _GuardedReference(trainer)
    return _GuardedValidator(trainer) if isinstance(trainer, Validator) else _Guarded(trainer)
