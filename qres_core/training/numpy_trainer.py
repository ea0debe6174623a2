"""Trainers that need numpy alone: mini-batch SGD, and a quadratic with a closed form.

Both offer FedProx: the local objective is ``F(w) + mu/2 * ||w - w_t||**2`` with ``w_t`` the round's
model (Li et al., Federated Optimization in Heterogeneous Networks, MLSys 2020, equation 2).
``mu = 0`` is FedAvg (McMahan et al., AISTATS 2017). The proximal term is taken implicitly,
``w <- (w - lr * grad F(w) + lr * mu * w_t) / (1 + lr * mu)``: the same stationary points as a
gradient step, and stable for every ``mu``, where a gradient step diverges from ``lr * mu > 2``.

SGD also offers FedCM, which keeps nothing of a node's own from round to round, as SCAFFOLD does
(Xu, Wang, Wang, Yao, arXiv 2106.10874, algorithm 1): with ``b = global_momentum`` each of a round's
``k`` steps is ``w <- w - lr (1 - b) grad F(w) + b (w_t - w_(t-1)) / k``, so that unlike nodes go
partly the way that the swarm went last. What the swarm did is taken from its agreed models.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Final

import attrs
import numpy as np

from qres_core.contract import fixed
from qres_core.contract.errors import LabError, ValueRefusedError
from qres_core.contract.last_step import LastStep
from qres_core.contract.rounds import RoundInfo
from qres_core.contract.types import Update, Vector, check_vector
from qres_core.training.data import Features, Labels, Purpose, stream
from qres_core.training.models import Model, Weights

_AT_ONCE: Final = 64  # examples whose steps are handed on together


def check_grid(vector: Vector, round_info: RoundInfo, *, dimension: int, scale: int) -> Vector:
    """Refuse a round that is not on the trainer's own grid.

    Returns the vector, int32, shape ``(dimension,)``. Raises ValueRefusedError: QRES-E502 or
    QRES-E503 for the vector, QRES-E504 for another scale.
    """
    if round_info.scale != scale:
        raise ValueRefusedError.of(
            "QRES-E504",
            "round_info.scale",
            f"the round has scale {round_info.scale}, the trainer {scale}",
            "give the trainer the scale of the swarm",
        )
    return check_vector(vector, "vector", dimension=dimension)


def check_single_step(*, local_epochs: int, proximal: float, global_momentum: float) -> None:
    """Refuse options of training that has no place where single examples are clipped.

    Raises LabError: QRES-E105.
    """
    if local_epochs != 1:
        what = f"is {local_epochs}, and where single examples are clipped a round is one step"
        raise LabError.of("QRES-E105", "trainer.task.local_epochs", what, "local_epochs = 1")
    if proximal:
        what = f"is {proximal:g}, and a single step from the round's model is not pulled back to it"
        raise LabError.of("QRES-E105", "trainer.task.proximal", what, "proximal = 0")
    if global_momentum:
        what = f"is {global_momentum:g}, and where single examples are clipped a round is their sum"
        raise LabError.of("QRES-E105", "trainer.task.global_momentum", what, "global_momentum = 0")


@attrs.frozen(eq=False, kw_only=True)
class NumpyTrainer:
    """Mini-batch SGD on one node's examples."""

    model: Model  # loss and gradient
    x: Features  # this node's examples, float64, shape ``(n, features)``
    y: Labels  # their classes, int64, shape ``(n,)``
    test_x: Features  # held-out examples, float64, shape ``(m, features)``
    test_y: Labels  # their classes, int64, shape ``(m,)``
    # passes over the examples in a round
    local_epochs: int = attrs.field(default=5, validator=attrs.validators.ge(1))
    # examples in a step; the last batch of a pass may be smaller
    batch_size: int = attrs.field(default=16, validator=attrs.validators.ge(1))
    learning_rate: float = attrs.field(default=0.5, validator=attrs.validators.gt(0))  # step size
    # FedProx's ``mu``, 0 or more
    proximal: float = attrs.field(default=0.0, validator=attrs.validators.ge(0))
    # FedCM's ``1 - alpha``: share of the swarm's last step in each step; from 0, below 1
    global_momentum: float = attrs.field(
        default=0.0, validator=[attrs.validators.ge(0), attrs.validators.lt(1)]
    )
    seed: int = 0  # with ``node`` and the round's number decides the order of the examples
    node: int = 0  # index of the node
    scale: int = 0  # power-of-two exponent of the grid
    # whether the examples were scaled by figures of other nodes' examples, or of each other
    fitted: bool = False
    last: LastStep = attrs.field(factory=LastStep, repr=False)  # that of the swarm

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update:
        """Train from the round's model.

        Args:
            vector: the round's model, int32, shape ``(d,)``.
            round_info: the round.

        Returns:
            the encoded difference, weighted by the number of examples; ``metrics["loss"]`` is the
            mean loss over the last pass, without the proximal term.

        Raises:
            ValueRefusedError: QRES-E501 when training diverged, QRES-E502 or QRES-E503 for another
                vector, QRES-E504 for another scale.

        Complexity: O(local_epochs * n * d).
        """
        check_grid(vector, round_info, dimension=self.model.dimension, scale=self.scale)
        start = fixed.decode(vector, scale=self.scale)
        rng = stream(self.seed, Purpose.SHUFFLE, self.node, round_info.number)
        way = self.last.until(vector, round_info) if self.global_momentum else None
        # A diverging run overflows on its way to NaN; the encoder refuses the result by name.
        with np.errstate(over="ignore", invalid="ignore"):
            trained, loss = self._descend(start, rng, way)
            encoded = fixed.encode(trained - start, scale=self.scale)
        return Update.of(encoded, weight=len(self.y), metrics={"loss": loss})

    def remember(self) -> bytes:
        """The swarm's last step, where each step takes a share of it; else nothing."""
        return self.last.remember() if self.global_momentum else b""

    def recall(self, memory: bytes) -> None:
        """Go on with what :meth:`remember` gave. Raises ModelError: QRES-E605."""
        if memory or self.global_momentum:
            self.last.recall(memory)

    def _descend(
        self, start: Weights, rng: np.random.Generator, way: Weights | None
    ) -> tuple[Weights, float]:
        w = start.copy()
        pull = self.learning_rate * self.proximal
        rate, carried = self.learning_rate, None
        if way is not None:
            steps = self.local_epochs * math.ceil(len(self.y) / self.batch_size)
            rate, carried = (1 - self.global_momentum) * rate, self.global_momentum / steps * way
        total = 0.0
        for _ in range(self.local_epochs):
            total = 0.0
            order = rng.permutation(len(self.y))
            for first in range(0, len(order), self.batch_size):
                batch = order[first : first + self.batch_size]
                loss, gradient = self.model.loss_and_gradient(w, self.x[batch], self.y[batch])
                w -= rate * gradient
                if carried is not None:
                    w += carried
                if pull:
                    w += pull * start
                    w /= 1.0 + pull
                total += loss * len(batch)
        return w, total / len(self.y)

    def records(self) -> int:
        """Number of examples.

        Raises LabError: QRES-E105 for examples that carry each other, and for options that make
        several steps of a round, or pull at the model: a sum of single examples' steps is one step.
        """
        if self.fitted:
            what = (
                "its examples are scaled by figures of all of them, so that each would move the "
                "steps of the others, and the unit of privacy is a record"
            )
            fix = 'name = "digits" or "breast_cancer", which are scaled by constants'
            raise LabError.of("QRES-E105", "trainer.task.name", what, fix)
        check_single_step(
            local_epochs=self.local_epochs,
            proximal=self.proximal,
            global_momentum=self.global_momentum,
        )
        return len(self.y)

    def record_steps(self, vector: Vector, round_info: RoundInfo) -> Iterator[Weights]:
        """The gradient step of each example, divided by ``batch_size``, a public number.

        So a sum over ``batch_size`` examples is a step of ``learning_rate`` along their mean
        gradient. Every example is computed alone, as an array of its own: matrix products of
        several round differently than those of one, and those of a view by how many examples lie
        around it. Yields float64, shape ``(k, d)``. Raises ValueRefusedError: QRES-E502 or
        QRES-E503 for another vector, QRES-E504 for another scale.
        """
        check_grid(vector, round_info, dimension=self.model.dimension, scale=self.scale)
        w = fixed.decode(vector, scale=self.scale)
        share = -self.learning_rate / self.batch_size
        for first in range(0, len(self.y), _AT_ONCE):
            examples = range(first, min(first + _AT_ONCE, len(self.y)))
            with np.errstate(over="ignore", invalid="ignore"):  # what is not finite counts as zeros
                yield np.stack([share * self._gradient(w, slice(i, i + 1)) for i in examples])

    def _gradient(self, w: Weights, examples: slice) -> Weights:
        return self.model.loss_and_gradient(w, self.x[examples].copy(), self.y[examples])[1]

    def evaluate(self, vector: Vector) -> Mapping[str, float]:
        """Accuracy (0..1) and mean loss on the held-out examples.

        ``vector``: a model, int32, shape ``(d,)``. Raises ValueRefusedError: QRES-E502 or QRES-E503
        for another vector.
        """
        check_vector(vector, "vector", dimension=self.model.dimension)
        w = fixed.decode(vector, scale=self.scale)
        loss, _ = self.model.loss_and_gradient(w, self.test_x, self.test_y)
        right = int(np.count_nonzero(self.model.predict(w, self.test_x) == self.test_y))
        return {"accuracy": right / len(self.test_y), "loss": loss}


@attrs.frozen(eq=False, kw_only=True)
class ValidatingTrainer(NumpyTrainer):
    """A trainer that keeps examples to judge other nodes' updates by, and never trains on them."""

    held_x: Features  # those examples, float64, shape ``(k, features)``
    held_y: Labels  # their classes, int64, shape ``(k,)``
    pooled: bool = False  # whether they come from a pool of all classes
    # the swarm's last step, as the references tell it: training may be ahead of them
    last_judged: LastStep = attrs.field(factory=LastStep, repr=False)

    def validate(self, vector: Vector) -> float:
        """Mean loss on the examples kept for it.

        Args:
            vector: a model, int32, shape ``(d,)``.

        Raises:
            ValueRefusedError: QRES-E502 or QRES-E503 for another vector.

        Complexity: O(k d).
        """
        check_vector(vector, "vector", dimension=self.model.dimension)
        w = fixed.decode(vector, scale=self.scale)
        with np.errstate(over="ignore", invalid="ignore"):  # a liar's model may overflow
            loss, _ = self.model.loss_and_gradient(w, self.held_x, self.held_y)
        return float(loss)

    def reference(self, vector: Vector, round_info: RoundInfo) -> Vector:
        """The update that training on the kept examples would make.

        ``vector``: the round's model, int32, shape ``(d,)``. Returns int32, shape ``(d,)``, made as
        :meth:`fit` makes the update of the node's own examples. Raises ValueRefusedError: as
        :meth:`fit`.
        """
        kept = attrs.evolve(self, x=self.held_x, y=self.held_y, last=self.last_judged)
        return kept.fit(vector, round_info).vector


@attrs.frozen(eq=False, kw_only=True)
class QuadraticTrainer:
    """Gradient descent on ``1/2 * ||w - optimum||**2``; for simulations with many nodes.

    ``k`` steps of size ``lr`` from ``w_t`` end at
    ``w_t + (1 - a**k) / (1 + mu) * (optimum - w_t)`` with ``a = (1 - lr) / (1 + lr * mu)``.
    """

    optimum: Vector  # this node's best model, int32 on the grid, shape ``(d,)``
    # gradient steps in a round
    local_epochs: int = attrs.field(default=1, validator=attrs.validators.ge(1))
    # step size; converges below 2
    learning_rate: float = attrs.field(default=0.1, validator=attrs.validators.gt(0))
    # FedProx's ``mu``, 0 or more
    proximal: float = attrs.field(default=0.0, validator=attrs.validators.ge(0))
    scale: int = 0  # power-of-two exponent of the grid

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update:
        """Step towards the optimum.

        Args:
            vector: the round's model, int32, shape ``(d,)``.
            round_info: the round.

        Returns:
            the encoded difference, of weight 1; ``metrics["loss"]`` is the mean squared distance
            per coordinate before the step.

        Raises:
            ValueRefusedError: QRES-E501 when the steps diverged, QRES-E502 or QRES-E503 for another
                vector, QRES-E504 for another scale.

        Complexity: O(d), whatever ``local_epochs`` is.
        """
        check_grid(vector, round_info, dimension=self.optimum.size, scale=self.scale)
        way = self._way(vector)
        a = (1.0 - self.learning_rate) / (1.0 + self.learning_rate * self.proximal)
        with np.errstate(over="ignore", invalid="ignore"):
            share = (1.0 - np.float64(a) ** self.local_epochs) / (1.0 + self.proximal)
            encoded = fixed.encode(share * way, scale=self.scale)
        return Update.of(encoded, metrics={"loss": float(way @ way) / way.size})

    def evaluate(self, vector: Vector) -> Mapping[str, float]:
        """``loss``, the mean squared distance per coordinate, and ``distance``, the norm.

        ``vector``: a model, int32, shape ``(d,)``. Raises ValueRefusedError: QRES-E502 or QRES-E503
        for another vector.
        """
        check_vector(vector, "vector", dimension=self.optimum.size)
        way = self._way(vector)
        squared = float(way @ way)
        return {"loss": squared / way.size, "distance": math.sqrt(squared)}

    def _way(self, vector: Vector) -> Weights:
        # Exact: the difference of two int32 fits a float64.
        return fixed.decode(self.optimum, scale=self.scale) - fixed.decode(vector, scale=self.scale)
