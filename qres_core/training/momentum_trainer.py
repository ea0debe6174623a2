"""Distributed SGD with momentum at the nodes: one step on one batch in every round."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np

from qres_core.contract import canonical, fixed
from qres_core.contract.errors import ModelError, QresError
from qres_core.contract.rounds import RoundInfo
from qres_core.contract.types import Update, Vector, check_vector
from qres_core.training.data import Features, Labels, Purpose, stream
from qres_core.training.models import Model, Weights
from qres_core.training.numpy_trainer import check_grid


def _no_vector() -> Weights | None:
    return None


@attrs.define(eq=False)
class _Momentum:
    """An average of gradients that fades, at most one step a round."""

    beta: float
    _value: Weights | None = attrs.field(factory=_no_vector, init=False)
    _before: Weights | None = attrs.field(factory=_no_vector, init=False)
    _round: int = attrs.field(default=0, init=False)

    def after(self, number: int, gradient: Weights) -> Weights:
        """``beta m + g`` with the ``m`` of earlier rounds, however often a round is asked about."""
        if number != self._round:
            self._before, self._round = self._value, number
        self._value = gradient if self._before is None else self.beta * self._before + gradient
        return self._value

    def raw(self) -> list[Any]:
        """All that it is, but for ``beta``, as plain values."""
        arrays = (self._before, self._value)
        octets = [b"" if each is None else each.astype("<f8").tobytes() for each in arrays]
        return [*octets, self._round]

    def set_raw(self, value: Any) -> None:
        """Become what :meth:`raw` told. Raises ValueError or TypeError for anything else."""
        before, after, number = value
        if type(number) is not int:
            raise TypeError("expected the number of a round")
        arrays = [np.frombuffer(each, dtype="<f8") if each else None for each in (before, after)]
        self._before, self._value = arrays
        self._round = number


@attrs.define(eq=False, kw_only=True)
class MomentumTrainer:
    """A node that sends its momentum: the setting in which robust rules are compared.

    Each round it takes the gradient of one batch, adds it to its fading momentum and sends
    ``-learning_rate`` times that. Averaging over time is what lets a robust rule tell honest nodes
    from liars: it shrinks what honest gradients differ by for no reason but chance.

    Attributes:
        model: loss and gradient.
        x: this node's examples, float64, shape ``(n, features)``.
        y: their classes, int64, shape ``(n,)``.
        test_x: examples to measure accuracy on, float64, shape ``(m, features)``.
        test_y: their classes, int64, shape ``(m,)``.
        held_x: examples to judge other nodes' updates by, float64, shape ``(k, features)``; a node
            without any has ``k = 0`` and judges nothing.
        held_y: their classes, int64, shape ``(k,)``.
        pooled: whether these come from a pool that stands for the whole task.
        batch_size: examples in a batch, drawn without replacement.
        learning_rate: step size.
        beta: what is left of the momentum after a round.
        weight_decay: pull towards zero, added to the gradient.
        seed: with ``node`` and the round's number decides the batch.
        node: index of the node.
        scale: power-of-two exponent of the grid.

    Source:
        S. P. Karimireddy, L. He, M. Jaggi, "Learning from History for Byzantine Robust
        Optimization", ICML 2021, section 5: momentum at the nodes.
    """

    model: Model
    x: Features
    y: Labels
    test_x: Features
    test_y: Labels
    held_x: Features
    held_y: Labels
    batch_size: int = 25
    learning_rate: float = 0.1
    beta: float = 0.9
    weight_decay: float = 0.0
    seed: int = 0
    node: int = 0
    scale: int = 0
    pooled: bool = False
    _own: _Momentum = attrs.field(init=False)
    _trusted: _Momentum = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._own, self._trusted = _Momentum(self.beta), _Momentum(self.beta)

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update:
        """One step on one batch.

        ``vector``: the round's model, int32, shape ``(d,)``. Raises ValueRefusedError: QRES-E501
        when training diverged, QRES-E502 or QRES-E503 for another vector, QRES-E504 for another
        scale.
        """
        rng = stream(self.seed, Purpose.SHUFFLE, self.node, round_info.number)
        batch = rng.permutation(len(self.y))[: self.batch_size]
        step, loss = self._step(self._own, vector, round_info, self.x[batch], self.y[batch])
        return Update.of(step, metrics={"loss": loss})

    def reference(self, vector: Vector, round_info: RoundInfo) -> Vector:
        """The same step on all held-out examples, with a momentum of its own."""
        return self._step(self._trusted, vector, round_info, self.held_x, self.held_y)[0].vector

    def _step(
        self, momentum: _Momentum, vector: Vector, info: RoundInfo, x: Features, y: Labels
    ) -> tuple[fixed.Encoded, float]:
        check_grid(vector, info, dimension=self.model.dimension, scale=self.scale)
        w = fixed.decode(vector, scale=self.scale)
        with np.errstate(over="ignore", invalid="ignore"):  # the encoder refuses what diverged
            loss, gradient = self.model.loss_and_gradient(w, x, y)
            moved = momentum.after(info.number, gradient + self.weight_decay * w)
            return fixed.encode(-self.learning_rate * moved, scale=self.scale), float(loss)

    def remember(self) -> bytes:
        """Both momenta."""
        return canonical.dumps([self._own.raw(), self._trusted.raw()])

    def recall(self, memory: bytes) -> None:
        """Go on with what :meth:`remember` gave. Raises ModelError: QRES-E605."""
        try:
            own, trusted = canonical.loads(memory, max_bytes=len(memory), max_items=16)
            self._own.set_raw(own)
            self._trusted.set_raw(trusted)
        except (QresError, ValueError, TypeError) as error:
            what = "is not what a trainer with momentum kept"
            raise ModelError.of("QRES-E605", "trainer", what, "begin anew") from error

    def validate(self, vector: Vector) -> float:
        """Mean loss of a model on the held-out examples."""
        check_vector(vector, "vector", dimension=self.model.dimension)
        w = fixed.decode(vector, scale=self.scale)
        with np.errstate(over="ignore", invalid="ignore"):
            return float(self.model.loss_and_gradient(w, self.held_x, self.held_y)[0])

    def evaluate(self, vector: Vector) -> dict[str, float]:
        """Accuracy (0..1) and mean loss on the test examples."""
        check_vector(vector, "vector", dimension=self.model.dimension)
        w = fixed.decode(vector, scale=self.scale)
        with np.errstate(over="ignore", invalid="ignore"):
            loss, _ = self.model.loss_and_gradient(w, self.test_x, self.test_y)
        right = int(np.count_nonzero(self.model.predict(w, self.test_x) == self.test_y))
        return {"accuracy": right / len(self.test_y), "loss": float(loss)}
