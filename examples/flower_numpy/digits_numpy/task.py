"""The model and the data: softmax regression on the handwritten digits of scikit-learn."""

import numpy as np
from sklearn.datasets import load_digits

CLASSES, PIXELS, BATCH = 10, 64, 32
Model = dict[str, np.ndarray]


def first_model() -> Model:
    """The arrays of the model, before any training."""
    return {
        "weight": np.zeros((PIXELS, CLASSES), dtype=np.float32),
        "bias": np.zeros(CLASSES, dtype=np.float32),
    }


def load_data(partition_id: int, num_partitions: int) -> tuple[np.ndarray, ...]:
    """One node's examples: ``x_train, y_train, x_test, y_test``."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    mine = order[partition_id::num_partitions]
    held_out = len(mine) // 5
    test, train = mine[:held_out], mine[held_out:]
    x = (x / 16).astype(np.float32)
    return x[train], y[train], x[test], y[test]


def probabilities(model: Model, x: np.ndarray) -> np.ndarray:
    """What the model says of examples, shape ``(examples, classes)``."""
    scores = x @ model["weight"] + model["bias"]
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def train(model: Model, x: np.ndarray, y: np.ndarray, epochs: int, rate: float) -> float:
    """Train in place, and return the mean loss."""
    losses = []
    for _ in range(epochs):
        order = np.random.permutation(len(y))  # noqa: NPY002 - as most apps draw
        for start in range(0, len(y), BATCH):
            rows = order[start : start + BATCH]
            found = probabilities(model, x[rows])
            right = found[np.arange(len(rows)), y[rows]]
            losses.append(float(-np.log(right + 1e-9).mean()))
            found[np.arange(len(rows)), y[rows]] -= 1
            model["weight"] -= rate * (x[rows].T @ found) / len(rows)
            model["bias"] -= rate * found.mean(axis=0)
    return float(np.mean(losses))


def test(model: Model, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Mean loss and accuracy."""
    found = probabilities(model, x)
    right = found[np.arange(len(y)), y]
    return float(-np.log(right + 1e-9).mean()), float((found.argmax(axis=1) == y).mean())
