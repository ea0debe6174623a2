"""A node's trainer among the threads that call it."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import attrs

from qres_core.contract.rounds import RoundInfo
from qres_core.contract.trainer import Trainer
from qres_core.contract.trainer_abilities import Wrapper, abilities_of
from qres_core.contract.types import Update, Vector


@attrs.define(eq=False)
class _Guarded(Wrapper):
    """A trainer whose ``fit`` and ``evaluate`` wait for each other.

    It judges models not in turn: a vote must not wait for an epoch. It is asked once at a time.
    """

    turn: threading.Lock = attrs.field(factory=threading.Lock, init=False)

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update | None:
        """Train, in turn."""
        with self.turn:
            update: Update | None = self.inner.fit(vector, round_info)
        return update

    def evaluate(self, vector: Vector, round_info: RoundInfo) -> Mapping[str, float]:
        """Measure, in turn."""
        with self.turn:
            return super().evaluate(vector, round_info)


def guarded(trainer: Trainer) -> Trainer:
    """The trainer, with ``fit`` and ``evaluate`` never at the same time, whatever threads call.

    One that clips single examples takes turns by itself.
    """
    return trainer if abilities_of(trainer).clip is not None else _Guarded(trainer)
