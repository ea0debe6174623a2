"""Classifiers as flat vectors, with their loss and gradient written out in numpy.

Both minimise the mean cross-entropy of a softmax. Arrays: ``w`` float64 of shape ``(d,)``, ``x``
float64 of shape ``(n, features)``, ``y`` int64 of shape ``(n,)`` with values in ``0..classes-1``.
"""

from __future__ import annotations

from typing import Literal, Protocol

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_core.training.data import Features, Labels

Weights = NDArray[np.float64]


class Model(Protocol):
    """A differentiable model with one flat parameter vector."""

    @property
    def dimension(self) -> int:
        """Number of parameters ``d``."""
        ...

    def initial(self, rng: np.random.Generator) -> Weights:
        """Parameters to start from, float64, shape ``(d,)``."""
        ...

    def loss_and_gradient(self, w: Weights, x: Features, y: Labels) -> tuple[float, Weights]:
        """Mean loss over the examples and its gradient, float64, shape ``(d,)``."""
        ...

    def predict(self, w: Weights, x: Features) -> Labels:
        """The most likely class of each example, int64, shape ``(n,)``."""
        ...


def _cross_entropy(logits: NDArray[np.float64], y: Labels) -> tuple[float, NDArray[np.float64]]:
    """Mean cross-entropy and its gradient by the logits, shape ``(n, classes)``."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    total = exponentials.sum(axis=1, keepdims=True)
    rows = np.arange(len(y))
    loss = float((np.log(total[:, 0]) - shifted[rows, y]).mean())
    gradient = exponentials / total
    gradient[rows, y] -= 1.0
    return loss, gradient / len(y)


@attrs.frozen
class Softmax:
    """Multinomial logistic regression: ``x @ W + b``.

    The vector is ``W`` (features x classes, row by row) and then ``b`` (classes).

    Attributes:
        features: inputs.
        classes: outputs.
        l2: the loss gets ``l2 / 2 * ||W||**2``; the biases are free.

    Reference:
        C. M. Bishop, Pattern Recognition and Machine Learning, 2006, section 4.3.4.
    """

    features: int
    classes: int
    l2: float = 0.0

    @property
    def dimension(self) -> int:
        """``(features + 1) * classes``."""
        return (self.features + 1) * self.classes

    def initial(self, rng: np.random.Generator) -> Weights:
        """Normal with standard deviation 0.01; the loss is convex, so the start matters little."""
        return rng.normal(0.0, 0.01, self.dimension)

    def loss_and_gradient(self, w: Weights, x: Features, y: Labels) -> tuple[float, Weights]:
        """Mean cross-entropy plus the L2 term, and its gradient. O(n d)."""
        flat, matrix, bias = self._parts(w)
        loss, error = _cross_entropy(x @ matrix + bias, y)
        gradient = np.empty_like(w)
        gradient[: flat.size] = (x.T @ error).ravel()
        gradient[flat.size :] = error.sum(axis=0)
        if self.l2:
            loss += self.l2 / 2 * float(flat @ flat)
            gradient[: flat.size] += self.l2 * flat
        return loss, gradient

    def predict(self, w: Weights, x: Features) -> Labels:
        """Class with the largest logit; the lowest class among equals."""
        _, matrix, bias = self._parts(w)
        logits: Weights = x @ matrix + bias
        labels: Labels = logits.argmax(axis=1).astype(np.int64)
        return labels

    def _parts(self, w: Weights) -> tuple[Weights, Weights, Weights]:
        flat = w[: self.features * self.classes]
        return flat, flat.reshape(self.features, self.classes), w[flat.size :]


@attrs.frozen
class MLP:
    """One hidden layer: ``activation(x @ W1 + b1) @ W2 + b2``.

    The vector is ``W1`` (features x hidden), ``b1``, ``W2`` (hidden x classes), ``b2``.

    Attributes:
        features: inputs.
        hidden: units of the hidden layer.
        classes: outputs.
        activation: ``"relu"`` or ``"tanh"``.

    Reference:
        back-propagation as in C. M. Bishop, Pattern Recognition and Machine Learning, 2006,
        section 5.3.
    """

    features: int
    hidden: int
    classes: int
    activation: Literal["relu", "tanh"] = attrs.field(
        default="relu", validator=attrs.validators.in_(("relu", "tanh"))
    )

    @property
    def dimension(self) -> int:
        """``(features + 1) * hidden + (hidden + 1) * classes``."""
        return (self.features + 1) * self.hidden + (self.hidden + 1) * self.classes

    def initial(self, rng: np.random.Generator) -> Weights:
        """Normal weights and zero biases.

        Variance ``2 / inputs`` for ReLU (He, Zhang, Ren, Sun, ICCV 2015, equation 10) and
        ``2 / (inputs + outputs)`` for tanh (Glorot, Bengio, AISTATS 2010, equation 12).
        """
        w = np.zeros(self.dimension)
        first, _, second, _ = self._parts(w)
        for matrix in (first, second):
            inputs, outputs = matrix.shape
            fan = inputs if self.activation == "relu" else inputs + outputs
            matrix[:] = rng.normal(0.0, np.sqrt(2.0 / fan), matrix.shape)
        return w

    def loss_and_gradient(self, w: Weights, x: Features, y: Labels) -> tuple[float, Weights]:
        """Mean cross-entropy and its gradient. O(n d)."""
        first, bias1, second, bias2 = self._parts(w)
        hidden = self._activate(x @ first + bias1)
        loss, error = _cross_entropy(hidden @ second + bias2, y)
        slope = hidden > 0 if self.activation == "relu" else 1.0 - hidden * hidden
        back = (error @ second.T) * slope
        gradient = np.empty_like(w)
        g_first, g_bias1, g_second, g_bias2 = self._parts(gradient)
        np.matmul(x.T, back, out=g_first)
        np.sum(back, axis=0, out=g_bias1)
        np.matmul(hidden.T, error, out=g_second)
        np.sum(error, axis=0, out=g_bias2)
        return loss, gradient

    def predict(self, w: Weights, x: Features) -> Labels:
        """Class with the largest logit; the lowest class among equals."""
        first, bias1, second, bias2 = self._parts(w)
        hidden = self._activate(x @ first + bias1)
        logits: Weights = hidden @ second + bias2
        labels: Labels = logits.argmax(axis=1).astype(np.int64)
        return labels

    def _activate(self, values: Weights) -> Weights:
        return np.maximum(values, 0.0) if self.activation == "relu" else np.tanh(values)

    def _parts(self, w: Weights) -> tuple[Weights, Weights, Weights, Weights]:
        """Views of the four blocks of ``w``."""
        a = self.features * self.hidden
        b = a + self.hidden
        c = b + self.hidden * self.classes
        return (
            w[:a].reshape(self.features, self.hidden),
            w[a:b],
            w[b:c].reshape(self.hidden, self.classes),
            w[c:],
        )
