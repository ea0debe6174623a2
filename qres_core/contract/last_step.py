"""Last change by the swarm, for trainers that go partly the same way."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_core.contract import canonical, fixed
from qres_core.contract.errors import ModelError, QresError
from qres_core.contract.rounds import RoundInfo
from qres_core.contract.types import Vector


@attrs.define(eq=False)
class LastStep:
    """The swarm's last step, from the models that a node trained on.

    A model may be trained on several times, and training may begin ahead on one that is not decided
    then: of several at a step the last counts. After a height without a model nothing is known: a
    plugin may have refused what it led to, and would refuse it again.
    """

    _step: int = attrs.field(default=-1, init=False)
    _voids: int = attrs.field(default=0, init=False)  # heights without a model so far
    _model: Vector | None = attrs.field(default=None, init=False)
    _before: Vector | None = attrs.field(default=None, init=False)

    def until(self, vector: Vector, round_info: RoundInfo) -> NDArray[np.float64] | None:
        """The way from the model before to a round's model, float64, shape ``(d,)``.

        ``None`` in a node's first round, in the first after steps that it did not train at, and
        after a height without a model until there is another.
        """
        voids = round_info.height - round_info.step
        if voids != self._voids:
            self._model, self._step, self._voids = None, -1, voids
        if round_info.step != self._step:
            self._before = self._model if round_info.step == self._step + 1 else None
            self._step = round_info.step
        self._model = vector.copy()
        if self._before is None:
            return None
        here = fixed.decode(vector, scale=round_info.scale)
        return here - fixed.decode(self._before, scale=round_info.scale)

    def remember(self) -> bytes:
        """All that is known, for a trainer's ``remember``."""
        return canonical.dumps(self.raw())

    def recall(self, memory: bytes) -> None:
        """Go on with what :meth:`remember` gave. Raises ModelError: QRES-E605."""
        try:
            self.set_raw(canonical.loads(memory, max_bytes=len(memory), max_items=8))
        except (QresError, ValueError, TypeError) as error:
            what = "is not what a trainer with global momentum kept"
            raise ModelError.of("QRES-E605", "trainer", what, "begin anew") from error

    def raw(self) -> list[Any]:
        """All that is known, as plain values, for a trainer that remembers."""
        arrays = (self._before, self._model)
        octets = [b"" if each is None else each.astype("<i4").tobytes() for each in arrays]
        return [*octets, self._step, self._voids]

    def set_raw(self, value: Any) -> None:
        """Become what :meth:`raw` told. Raises ValueError or TypeError for anything else."""
        before, model, step, voids = value
        if type(step) is not int or type(voids) is not int:
            raise TypeError("expected whole numbers")
        arrays = [np.frombuffer(each, dtype="<i4") if each else None for each in (before, model)]
        self._before, self._model = arrays
        self._step, self._voids = step, voids
