"""The border to the user's model: everything inside QRES is a flat vector."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from qres_core.contract.rounds import RoundInfo
from qres_core.contract.types import Update, Vector


@runtime_checkable
class Trainer(Protocol):
    """Turns a user's model and data into updates.

    Example::

        class Ridge:
            def fit(self, vector, round_info):
                weights = fixed.decode(vector, scale=round_info.scale)
                step = self.gradient_step(weights) - weights
                encoded = fixed.encode(step, scale=round_info.scale)
                return Update.of(encoded, weight=len(self.y))

            def evaluate(self, vector, round_info):
                return {"mse": self.mse(fixed.decode(vector, scale=round_info.scale))}
    """

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update | None:
        """Train from the round's model and return the difference.

        ``None`` says that there is nothing new to train on: the node contributes nothing to this
        round, and votes and takes the new model as ever. The others wait for it until the deadline.

        Args:
            vector: the round's model, int32, shape ``(d,)``, read-only.
            round_info: the round; ``round_info.scale`` is the grid's scale.
        """
        ...

    @property
    def evaluate(self) -> Callable[..., Mapping[str, float]]:
        """A method ``evaluate(vector, round_info)``, or ``evaluate(vector)``.

        It returns figures for a model on this node's held-out data, for example
        ``{"accuracy": 0.9}``. ``vector`` is a model, int32, shape ``(d,)``, read-only, and
        ``round_info`` the round that made it; ``round_info.scale`` is the grid's scale.
        """
        ...


@runtime_checkable
class Validator(Protocol):
    """Extension of a :class:`Trainer`, if plugins are to validate updates with its examples.

    Example::

        class Ridge:
            def validate(self, vector, round_info):
                weights = fixed.decode(vector, scale=round_info.scale)
                return self.loss(weights, self.held_out_x, self.held_out_y)
    """

    @property
    def validate(self) -> Callable[..., float]:
        """A method ``validate(vector, round_info)``, or ``validate(vector)``.

        It returns the mean loss of a model on examples this node keeps for this and never trains
        on. ``vector`` is a model, int32, shape ``(d,)``, read-only.

        A node calls it in a thread, and may train in another at the same time. It judges one model
        at a time and goes on meanwhile. It waits for at most eight vote timeouts; then it does not
        vote for the set.
        """
        ...


@runtime_checkable
class Reference(Protocol):
    """Extension of a :class:`Validator`, for plugins that compare updates with a trusted one.

    Example::

        class Ridge:
            def reference(self, vector, round_info):
                weights = fixed.decode(vector, scale=round_info.scale)
                step = -self.rate * self.gradient(weights, self.held_out)
                return fixed.encode(step, scale=round_info.scale).vector

    It may say ``pooled = True``: the examples come from a pool that stands for the whole task, and
    not from the node's own share of it. Plugins may then hold others to the reference.
    """

    def reference(self, vector: Vector, round_info: RoundInfo) -> Vector:
        """The update that training on the held-out examples would make. It is never sent.

        Args:
            vector: the round's model, int32, shape ``(d,)``, read-only.
            round_info: the round.

        Returns:
            int32, shape ``(d,)``.
        """
        ...


@runtime_checkable
class RememberingTrainer(Protocol):
    """Extension of a :class:`Trainer` that keeps something from round to round.

    A simulation that goes on after a break (``qres simulate --resume``), and a node that was killed
    and started again, then give it back what it had: the state of an optimiser, running means, a
    mean of updates. Where ``fit`` is called again with the same ``round_info.number`` it must begin
    from what there was before that round: it may have trained in it before the break.

    Example::

        class Averaging:
            def remember(self):
                return canonical.dumps([self.round, self.before, self.after])

            def recall(self, memory):
                whole = canonical.loads(memory, max_bytes=len(memory))
                self.round, self.before, self.after = whole
    """

    def remember(self) -> bytes:
        """Return the trainer's memory; empty where there is none."""
        ...

    def recall(self, memory: bytes) -> None:
        """Go on with what :meth:`remember` gave.

        Raises:
            QresError: the bytes are of another trainer, or damaged.
        """
        ...


@runtime_checkable
class BasedTrainer(Protocol):
    """Extension of a :class:`Trainer` that trains on top of something that does not travel.

    Such are frozen weights, below a head or adapters. All nodes must hold the same ones, or their
    updates are of different models. The digest is among the swarm's shared settings, as
    ``trainer.base``: a node with another one is told apart by name, and a node that starts again
    with another one is refused.

    Example::

        class Head:
            def base_digest(self):
                return hashlib.sha256(self.features.tobytes()).digest()
    """

    def base_digest(self) -> bytes:
        """SHA-256 of what does not travel and must be the same; empty where that is nothing."""
        ...


@runtime_checkable
class RecordTrainer(Protocol):
    """Extension of a :class:`Trainer`, if the unit of privacy is to be a single example.

    QRES then clips the step of each example and sends the sum, instead of what ``fit`` returns. It
    promises that one example moves the update by at most the clip. That rests on one thing, which
    only the trainer can promise: **the step of an example is a function of that example, the
    round's model and public numbers, to the bit.** It must not depend on other examples: not by a
    mean over them, batch normalisation, weights of classes, or a normalisation that was fitted to
    the node's data. It must not depend on how many there are either: divide by a public number.

    Example::

        class Ridge:
            def records(self):
                return len(self.y)

            def record_steps(self, vector, round_info):
                weights = fixed.decode(vector, scale=round_info.scale)
                for x, y in zip(self.x.copy(), self.y):
                    step = -self.rate / self.usual_size * (x @ weights - y) * x
                    yield step[None]

    A product with all examples at once, ``self.x @ weights``, would break the promise: libraries
    compute the last rows of a matrix in another order, and which rows are last depends on how many
    there are.
    """

    def records(self) -> int:
        """Number of examples that the node trains on. It is asked once, before the start."""
        ...

    def record_steps(
        self, vector: Vector, round_info: RoundInfo
    ) -> Iterable[NDArray[np.floating[Any]]]:
        """The step that each example asks for, in parts of any size.

        Args:
            vector: the round's model, int32, shape ``(d,)``, read-only.
            round_info: the round; ``round_info.scale`` is the grid's scale.

        Returns:
            float32 or float64, shape ``(k, d)`` each, in the model's units, one row an example.
        """
        ...
