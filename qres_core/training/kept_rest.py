"""A trainer that goes on from what it learned, where rounds cover fragments of the model.

A round takes one fragment of a node's update. The rest is what the node learned about the other
fragments, and each of these is due some rounds later. The node keeps the rest, trains on top of it,
and sends of each fragment all that it learned since that fragment was merged last. Once a fragment
was due, it is the swarm's: whatever the node had learned about it is dropped, merged or not.

Source:
    A. Douillard et al., "Streaming DiLoCo with overlapping communication", 2025, section 2.1: a
    replica trains on, and of one fragment after the other its own change is sent and replaced by
    the common one.
"""

from __future__ import annotations

from typing import Any, NoReturn

import attrs
import numpy as np

from qres_core.contract import canonical, fixed
from qres_core.contract.errors import LabError, ModelError, QresError
from qres_core.contract.fragments import Fragment
from qres_core.contract.rounds import RoundInfo
from qres_core.contract.trainer import Trainer
from qres_core.contract.trainer_abilities import TrainerAbilities, Wrapper, abilities_of
from qres_core.contract.types import Update, Vector


def keeping_rest(trainer: Trainer) -> Trainer:
    """The trainer, going on from what it learned about the fragments that are not due.

    It judges models where the trainer does, and as the trainer does: that is about the round's
    model alone.
    """
    return RestKeeper(trainer)


@attrs.define(eq=False)
class KeptRest:
    """Rest of updates: learned about fragments that are not due, for one model after the other.

    A model may be trained on several times: a round is aborted, or training began ahead. All begin
    with the same rest, and what was made last counts. After a height without a model nothing is
    kept: a plugin may have refused what it led to, and would refuse it again.
    """

    _before: Vector | None = attrs.field(default=None, init=False)  # at the model of `_step`
    _after: Vector | None = attrs.field(default=None, init=False)  # with what was made of it
    _step: int = attrs.field(default=-1, init=False)
    _voids: int = attrs.field(default=0, init=False)  # heights without a model so far

    def at(self, info: RoundInfo, fragment: Fragment) -> Vector | None:
        """Rest that is kept at a round's model, int32, shape ``(d,)``; ``None`` for none."""
        voids = info.height - info.step
        if voids != self._voids or info.step < self._step:
            self._after, self._step, self._voids = None, -1, voids
        if info.step != self._step:
            # Also where nothing is made of this model: what was due before must not come again.
            self._before = self._after = self._without(fragment, range(self._step, info.step))
            self._step = info.step
        return self._before

    def _without(self, fragment: Fragment, steps: range) -> Vector | None:
        """Update, except the fragments that were due at these steps."""
        if self._after is None or len(steps) >= fragment.count:
            return None
        left = self._after.copy()
        for step in steps:
            start, stop = attrs.evolve(fragment, index=step % fragment.count).bounds
            left[start:stop] = 0
        return left

    def made(self, vector: Vector) -> None:
        """Keep what was learned in all since the fragments were due, int32, shape ``(d,)``."""
        self._after = vector

    def raw(self) -> list[Any]:
        """All that is known, as plain values."""
        arrays = (self._before, self._after)
        octets = [b"" if each is None else each.astype("<i4").tobytes() for each in arrays]
        return [*octets, self._step, self._voids]

    def set_raw(self, value: Any) -> None:
        """Become what :meth:`raw` told. Raises ValueError or TypeError for anything else."""
        before, after, step, voids = value
        if type(step) is not int or type(voids) is not int:
            raise TypeError("expected whole numbers")
        arrays = [np.frombuffer(each, dtype="<i4") if each else None for each in (before, after)]
        self._before, self._after = [None if a is None else a.astype(np.int32) for a in arrays]
        self._step, self._voids = step, voids


@attrs.define(eq=False)
class RestKeeper(Wrapper):
    """A trainer that keeps the rest. A checkpoint holds it, and a node keeps it in its folder."""

    _rest: KeptRest = attrs.field(factory=KeptRest, init=False)

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update | None:
        """Train on the model with the rest on it; returns the update and the rest.

        ``vector``: the round's model, int32, shape ``(d,)``. ``None`` where the trainer has nothing
        new.
        """
        fragment = round_info.fragment
        rest = None if fragment is None else self._rest.at(round_info, fragment)
        start = vector if rest is None else fixed.add_saturating(vector, rest).vector
        made: Update | None = self.inner.fit(start, round_info)
        if not isinstance(made, Update) or fragment is None or made.vector.size != vector.size:
            return made
        if rest is not None:
            made = attrs.evolve(made, vector=fixed.add_saturating(made.vector, rest).vector)
        self._rest.made(made.vector)
        return made

    def can(self, inner: TrainerAbilities) -> TrainerAbilities:
        """It keeps the rest, and refuses to clip single examples."""
        return attrs.evolve(inner, memory=self, records=self)

    def remember(self) -> bytes:
        """The rest, and what the trainer keeps."""
        keeper = abilities_of(self.inner).memory
        inner = b"" if keeper is None else keeper.remember()
        return canonical.dumps([self._rest.raw(), inner])

    def recall(self, memory: bytes) -> None:
        """Go on with what :meth:`remember` gave. Raises ModelError: QRES-E605."""
        try:
            rest, inner = canonical.loads(memory, max_bytes=len(memory), max_items=8)
            self._rest.set_raw(rest)
        except (QresError, ValueError, TypeError) as error:
            what = "is not what a trainer that keeps the rest of its updates kept"
            raise ModelError.of("QRES-E605", "trainer.keep_rest", what, "begin anew") from error
        keeper = abilities_of(self.inner).memory
        if inner and keeper is not None:
            keeper.recall(inner)

    def records(self) -> NoReturn:
        """Refuse: an example would move the updates of later rounds.

        Raises LabError: QRES-E105.
        """
        what = "is true, and where single examples are clipped an update is of one round"
        raise LabError.of("QRES-E105", "trainer.keep_rest", what, "keep_rest = false")

    def record_steps(self, vector: Vector, round_info: RoundInfo) -> NoReturn:
        """As :meth:`records`."""
        del vector, round_info
        self.records()
