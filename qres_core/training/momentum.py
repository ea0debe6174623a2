"""Momentum at the node: a trainer of any kind that sends a fading mean of its updates.

Honest updates differ by chance, and a lie within that spread passes for honest. A mean over the
rounds shrinks what is chance, and a lie that stays the same stands out.

Source:
    S. P. Karimireddy, L. He, M. Jaggi, "Learning from History for Byzantine Robust Optimization",
    ICML 2021, algorithm 2: ``m = (1 - beta) g + beta m``, and ``m = g`` in the first round. The
    size of an update stays as it is; the sum ``beta m + g`` is the same at ``1 - beta`` times the
    learning rate.
"""

from __future__ import annotations

from typing import Any, NoReturn

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_core.contract import canonical, fixed
from qres_core.contract.errors import LabError, ModelError, QresError
from qres_core.contract.rounds import RoundInfo
from qres_core.contract.trainer import Trainer
from qres_core.contract.trainer_abilities import TrainerAbilities, Wrapper, abilities_of
from qres_core.contract.types import Update, Vector


def with_momentum(trainer: Trainer, beta: float) -> Trainer:
    """The trainer, sending a fading mean of its updates.

    It judges models where the trainer does; a reference is such a mean too.

    Args:
        trainer: of any kind.
        beta: share of the mean that stays, from 0, below 1; 0 for the trainer as it is.
    """
    return FadingTrainer(trainer, beta) if beta else trainer


@attrs.define(eq=False)
class FadingMean:
    """A mean of vectors that counts each step of the model once.

    A model may be trained on several times: a round is aborted, or training began ahead. What was
    made for a step last takes the place of what was before. At steps that nothing was made for the
    mean fades too, and what is made next counts in their place.

    After a height without a model it begins anew: training may have been ahead of that height, and
    a mean that a plugin refused would be refused for ever. It does so in another swarm, too.
    """

    beta: float
    _before: NDArray[np.float64] | None = attrs.field(default=None, init=False)
    _value: NDArray[np.float64] | None = attrs.field(default=None, init=False)
    _kept: float = attrs.field(default=0.0, init=False)  # share of what was before
    _step: int = attrs.field(default=-1, init=False)
    _voids: int = attrs.field(default=0, init=False)  # heights without a model so far

    def after(self, info: RoundInfo, vector: NDArray[np.float64]) -> NDArray[np.float64]:
        """The mean after a step; ``vector``: what was made for it, float64, shape ``(d,)``."""
        voids, step = info.height - info.step, info.step
        if voids != self._voids or step < self._step:
            self._value, self._step, self._voids = None, -1, voids
        if step != self._step:
            self._before, self._kept = self._value, self.beta ** (step - self._step)
            self._step = step
        if self._before is None:
            self._value = vector
        else:
            self._value = (1.0 - self._kept) * vector + self._kept * self._before
        return self._value

    def raw(self) -> list[Any]:
        """All that the mean is, but for ``beta``, as plain values."""
        arrays = (self._before, self._value)
        octets = [b"" if each is None else each.astype("<f8").tobytes() for each in arrays]
        return [*octets, self._kept.hex(), self._step, self._voids]

    def set_raw(self, value: Any) -> None:
        """Become what :meth:`raw` told. Raises ValueError or TypeError for anything else."""
        before, after, kept, step, voids = value
        if type(step) is not int or type(voids) is not int:
            raise TypeError("expected whole numbers")
        arrays = [np.frombuffer(each, dtype="<f8") if each else None for each in (before, after)]
        self._before, self._value = arrays
        self._kept, self._step, self._voids = float.fromhex(kept), step, voids


@attrs.define(eq=False)
class FadingTrainer(Wrapper):
    """A trainer that sends a fading mean of its updates.

    A simulation's checkpoint holds the mean, and a node keeps it in its folder.
    """

    beta: float  # share of the mean that stays
    _own: FadingMean = attrs.field(init=False)
    _trusted: FadingMean = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._own, self._trusted = FadingMean(self.beta), FadingMean(self.beta)

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update | None:
        """The mean with the trainer's new update, of its weight and figures.

        ``vector``: the round's model, int32, shape ``(d,)``. ``None`` where the trainer has nothing
        new.
        """
        made: Update | None = self.inner.fit(vector, round_info)
        if not isinstance(made, Update):
            return made
        return attrs.evolve(made, vector=_faded(self._own, made.vector, round_info))

    def can(self, inner: TrainerAbilities) -> TrainerAbilities:
        """It refers by a mean, keeps the means, and refuses to clip single examples."""
        reference = None if inner.reference is None else self._refer
        return attrs.evolve(inner, reference=reference, memory=self, records=self)

    def _refer(self, vector: Vector, round_info: RoundInfo) -> Vector:
        """A mean of the trainer's references, apart from that of its updates."""
        return _faded(self._trusted, self.inner.reference(vector, round_info), round_info)

    def remember(self) -> bytes:
        """The means, and what the trainer keeps."""
        keeper = abilities_of(self.inner).memory
        inner = b"" if keeper is None else keeper.remember()
        return canonical.dumps([self._own.raw(), self._trusted.raw(), inner])

    def recall(self, memory: bytes) -> None:
        """Go on with what :meth:`remember` gave. Raises ModelError: QRES-E605."""
        try:
            own, trusted, inner = canonical.loads(memory, max_bytes=len(memory), max_items=16)
            self._own.set_raw(own)
            self._trusted.set_raw(trusted)
        except (QresError, ValueError, TypeError) as error:
            what = "is not what a trainer with momentum kept"
            raise ModelError.of("QRES-E605", "trainer.momentum", what, "begin anew") from error
        keeper = abilities_of(self.inner).memory
        if inner and keeper is not None:
            keeper.recall(inner)

    def records(self) -> NoReturn:
        """Refuse: an example would move the updates of all later rounds.

        Raises LabError: QRES-E105.
        """
        what = f"is {self.beta:g}, and where single examples are clipped an update is of one round"
        raise LabError.of("QRES-E105", "trainer.momentum", what, "momentum = 0")

    def record_steps(self, vector: Vector, round_info: RoundInfo) -> NoReturn:
        """As :meth:`records`."""
        del vector, round_info
        self.records()


def _faded(mean: FadingMean, made: Vector, round_info: RoundInfo) -> Vector:
    """The mean with what was just made, on the grid; int32, shape ``(d,)``."""
    real = mean.after(round_info, made.astype(np.float64))
    return np.clip(np.rint(real), -fixed.LIMIT, fixed.LIMIT).astype(np.int32)
