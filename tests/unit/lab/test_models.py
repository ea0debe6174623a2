from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest

from qres_core.training.data import Features, Labels
from qres_core.training.models import MLP, Softmax

MODELS = [
    Softmax(5, 4),
    Softmax(5, 4, l2=0.3),
    MLP(5, 7, 4),
    MLP(5, 7, 4, activation="tanh"),
    MLP(1, 1, 2),
]


def examples(model: Softmax | MLP, n: int = 13) -> tuple[Features, Labels]:
    rng = np.random.default_rng(2)
    return rng.normal(size=(n, model.features)), rng.integers(0, model.classes, n)


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_gradient_is_that_of_the_loss(model: Softmax | MLP) -> None:
    x, y = examples(model)
    w = np.random.default_rng(1).normal(0, 0.7, model.dimension)
    _, gradient = model.loss_and_gradient(w, x, y)
    h = 1e-6
    numeric = [
        (model.loss_and_gradient(w + h * e, x, y)[0] - model.loss_and_gradient(w - h * e, x, y)[0])
        / (2 * h)
        for e in np.eye(model.dimension)
    ]
    np.testing.assert_allclose(gradient, numeric, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_arguments_are_left_alone(model: Softmax | MLP) -> None:
    x, y = examples(model)
    w = model.initial(np.random.default_rng(1))
    for array in (w, x, y):
        array.flags.writeable = False
    model.loss_and_gradient(w, x, y)
    model.predict(w, x)


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_initial_has_the_dimension_and_follows_the_generator(model: Softmax | MLP) -> None:
    first, again, other = (model.initial(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.shape == (model.dimension,)
    assert first.dtype == np.float64
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_loss_of_no_opinion_is_the_logarithm_of_the_classes(model: Softmax | MLP) -> None:
    loss, _ = model.loss_and_gradient(np.zeros(model.dimension), *examples(model))
    assert loss == pytest.approx(math.log(model.classes))


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_prediction_is_the_class_of_least_loss(model: Softmax | MLP) -> None:
    x, _ = examples(model)
    w = np.random.default_rng(4).normal(0, 2, model.dimension)
    losses = [
        [model.loss_and_gradient(w, row[None], np.array([c]))[0] for c in range(model.classes)]
        for row in x
    ]
    np.testing.assert_array_equal(model.predict(w, x), np.argmin(losses, axis=1))


def test_softmax_matches_probabilities_written_out() -> None:
    model = Softmax(2, 3)
    w = np.array([1.0, 0.0, -1.0, 0.5, 0.5, 0.0, 0.1, 0.2, 0.3])
    x, y = np.array([[2.0, 1.0]]), np.array([2])
    logits = [2 * 1.0 + 0.5 + 0.1, 0.5 + 0.2, -2 * 1.0 + 0.3]
    probability = math.exp(logits[2]) / sum(map(math.exp, logits))
    assert model.loss_and_gradient(w, x, y)[0] == pytest.approx(-math.log(probability))


def test_l2_covers_the_matrix_and_not_the_biases() -> None:
    plain, ridge = Softmax(5, 4), Softmax(5, 4, l2=0.3)
    x, y = examples(plain)
    w = np.random.default_rng(1).normal(size=plain.dimension)
    difference = ridge.loss_and_gradient(w, x, y)[0] - plain.loss_and_gradient(w, x, y)[0]
    assert difference == pytest.approx(0.15 * np.sum(w[:20] ** 2))


def test_large_logits_do_not_overflow() -> None:
    model = Softmax(1, 2)
    w = np.array([1e300, -1e300, 0.0, 0.0])
    loss, gradient = model.loss_and_gradient(w, np.array([[1.0]]), np.array([0]))
    assert loss == 0.0
    np.testing.assert_array_equal(gradient, 0.0)


@pytest.mark.parametrize(("activation", "variance"), [("relu", 2 / 400), ("tanh", 2 / 700)])
def test_mlp_starts_with_the_variance_of_its_activation(
    activation: Literal["relu", "tanh"], variance: float
) -> None:
    model = MLP(400, 300, 2, activation=activation)
    w = model.initial(np.random.default_rng(0))
    assert w[: 400 * 300].var() == pytest.approx(variance, rel=0.05)
    np.testing.assert_array_equal(w[400 * 300 : 400 * 300 + 300], 0.0)


def test_unknown_activation_is_refused() -> None:
    with pytest.raises(ValueError, match="activation"):
        MLP(1, 1, 2, activation="sine")  # type: ignore[arg-type]
