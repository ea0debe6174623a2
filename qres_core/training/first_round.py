"""Trial of a trainer by `qres check` before a swarm depends on it: its first round."""

from __future__ import annotations

from typing import Final

import numpy as np

from qres_core.contract.rounds import RoundInfo
from qres_core.contract.trainer import Trainer
from qres_core.contract.trainer_abilities import abilities_of
from qres_core.contract.training import TrainerError, fitted, raised
from qres_core.contract.types import Vector, vector_digest

FAR: Final = 2.0
"""Lengths of a reference from which a training is called long beside it."""


def reach(trainer: Trainer, initial: Vector, scale: int) -> float | None:
    """Length of a round's training, in lengths of the reference made of held-out examples.

    ``None`` for a trainer that makes none, or that does not say that it is ``pooled``, and for a
    reference of zeros: no plugin holds others to these.

    Args:
        trainer: a node's own; it trains once, and makes a reference once.
        initial: the first model, int32, shape ``(d,)``.
        scale: exponent of the grid.

    Raises TrainerError: QRES-E512 for a ``fit`` or a ``reference`` that raises.

    Example:
        >>> import numpy as np
        >>> from qres_core import Update
        >>> class Clinic:
        ...     pooled = True
        ...     def fit(self, vector, round_info): return Update(np.array([3, 4], dtype=np.int32))
        ...     def evaluate(self, vector): return {}
        ...     def reference(self, vector, round_info): return np.array([0, 2], dtype=np.int32)
        >>> reach(Clinic(), np.zeros(2, dtype=np.int32), 0)
        2.5
    """
    able = abilities_of(trainer)
    if able.reference is None or not able.pooled:
        return None
    info = RoundInfo("check", 1, vector_digest(initial), int(initial.size), scale, (), 1)
    update = fitted(trainer, initial, info)
    if update is None:
        return None
    try:
        reference = able.reference(initial, info)
    except Exception as error:
        raise TrainerError.about(raised("reference", info.number, error), "") from error
    own, length = (
        float(np.linalg.norm(each.astype(np.float64))) for each in (update.vector, reference)
    )
    return own / length if length else None
