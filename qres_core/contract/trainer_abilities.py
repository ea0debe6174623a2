"""Abilities of a trainer besides ``fit`` and ``evaluate``, asked in one place.

Something around a trainer can what the trainer can, but for what it changes. So it is a
:class:`Wrapper`, and says what that is. A further ability is a further field here, and passes
through every wrapper.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from qres_core.contract.errors import ConfigError
from qres_core.contract.record_clip import RecordClip
from qres_core.contract.rounds import RoundInfo
from qres_core.contract.trainer import (
    BasedTrainer,
    RecordTrainer,
    Reference,
    RememberingTrainer,
    Validator,
)
from qres_core.contract.training import with_round
from qres_core.contract.types import Vector


@attrs.frozen(eq=False)
class TrainerAbilities:
    """Abilities of a trainer; ``None`` and ``False`` for what it cannot.

    Attributes:
        validate: the method of a :class:`~qres_core.training.Validator`.
        reference: the method of a :class:`~qres_core.training.Reference`.
        pooled: whether its held-out examples stand for the whole task.
        memory: what says what is kept from round to round.
        base: what says which weights are trained on top of.
        records: what says which step each example asks for.
        clip: what each example may add to an update, where they are clipped.
    """

    validate: Callable[..., float] | None = None
    reference: Callable[[Vector, RoundInfo], Vector] | None = None
    pooled: bool = False
    memory: RememberingTrainer | None = None
    base: BasedTrainer | None = None
    records: RecordTrainer | None = None
    clip: RecordClip | None = None


@attrs.define(eq=False)
class Wrapper:
    """A trainer around another, its ``inner``. It says in :meth:`can` what it changes."""

    inner: Any  # a :class:`~qres_core.training.Trainer`

    def evaluate(self, vector: Vector, round_info: RoundInfo) -> Mapping[str, float]:
        """The trainer's figures."""
        figures: Mapping[str, float] = with_round(self.inner.evaluate)(vector, round_info)
        return figures

    def can(self, inner: TrainerAbilities) -> TrainerAbilities:
        """Abilities of it, where the trainer inside can ``inner``.

        It does not clip single examples unless it says so: their steps do not pass through ``fit``.
        """
        return attrs.evolve(inner, records=None)


def abilities_of(trainer: object) -> TrainerAbilities:
    """Ask a trainer for its abilities.

    What a trainer of the user's own does not say itself, where it is around another one, its
    ``inner``: whether examples are pooled, what is kept, and what is trained on top of.

    Example:
        >>> class Clinic:
        ...     pooled = True
        ...     def validate(self, vector, round_info): return 0.0
        >>> able = abilities_of(Clinic())
        >>> able.validate is None, able.reference is None, able.pooled
        (False, True, True)
    """
    if isinstance(trainer, TrainerAbilities):
        return trainer
    untyped: Any = trainer
    inner: object = getattr(untyped, "inner", None)
    within = TrainerAbilities() if inner is None else abilities_of(inner)
    if isinstance(trainer, Wrapper):
        return trainer.can(within)
    said: object = getattr(untyped, "pooled", within.pooled)
    return TrainerAbilities(
        validate=trainer.validate if isinstance(trainer, Validator) else None,
        reference=trainer.reference if isinstance(trainer, Reference) else None,
        pooled=said is True,
        memory=trainer if isinstance(trainer, RememberingTrainer) else within.memory,
        base=trainer if isinstance(trainer, BasedTrainer) else within.base,
        records=trainer if isinstance(trainer, RecordTrainer) else None,
    )


def base_of(trainer: object) -> bytes:
    """The digest of what a trainer, or the one that it is around, trains on top of.

    Returns 32 bytes, or none. Raises ConfigError: QRES-E104 for another value.
    """
    based = abilities_of(trainer).base
    found: object = b"" if based is None else based.base_digest()
    if type(found) is not bytes or len(found) not in {0, 32}:
        what = f"base_digest returned {found!r:.60}"
        raise ConfigError.of("QRES-E104", "trainer", what, "return 32 bytes, or none")
    return found
