"""A model of one's own: seven clinics learn to tell malignant tumours, and show no patient.

Logistic regression in numpy on scikit-learn's breast cancer data (`pip install scikit-learn`):

    qres check examples/cancer.toml
    qres simulate examples/cancer.toml
    qres swarm up examples/cancer.toml --rounds 12
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer

from qres_core import RoundInfo, Update, Vector, fixed

Floats = NDArray[np.float64]


# What each measure is like, in public. These are constants: figures of all clinics' patients would
# carry each patient into what the other clinics send.
MEAN = np.fromstring(
    """
    14.1 19.3 92 655 0.0964 0.104 0.0888 0.0489 0.181 0.0628
    0.405 1.22 2.87 40.3 0.00704 0.0255 0.0319 0.0118 0.0205 0.00379
    16.3 25.7 107 881 0.132 0.254 0.272 0.115 0.29 0.0839
    """,
    sep=" ",
)
DEVIATION = np.fromstring(
    """
    3.52 4.3 24.3 352 0.0141 0.0528 0.0796 0.0388 0.0274 0.00705
    0.277 0.551 2.02 45.5 0.003 0.0179 0.0302 0.00616 0.00826 0.00264
    4.83 6.14 33.6 569 0.0228 0.157 0.208 0.0657 0.0618 0.018
    """,
    sep=" ",
)


@dataclass
class Logistic:
    """What one clinic trains: its own patients, and the patients that all test on."""

    x: Floats
    y: Floats
    test_x: Floats
    test_y: Floats
    rate: float

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update:
        """Ten steps of gradient descent from the round's model; the difference is the update."""
        start = fixed.decode(vector, scale=round_info.scale)
        weights = start.copy()
        for _ in range(10):
            wrong = 1 / (1 + np.exp(-self.x @ weights)) - self.y
            weights -= self.rate * self.x.T @ wrong / len(self.y)
        encoded = fixed.encode(weights - start, scale=round_info.scale)
        return Update.of(encoded, weight=len(self.y))

    def evaluate(self, vector: Vector, round_info: RoundInfo) -> dict[str, float]:
        """Figures of a model on patients that no clinic trains on."""
        scores = self.test_x @ fixed.decode(vector, scale=round_info.scale)
        right = (scores > 0) == self.test_y
        loss = np.logaddexp(0, scores) - self.test_y * scores
        return {"accuracy": float(right.mean()), "loss": float(loss.mean())}


def make(index: int, nodes: int, seed: int, rate: float = 0.1) -> tuple[Logistic, Vector]:
    """The trainer of node ``index``, and the first model, which is the same for every node."""
    x, y = load_breast_cancer(return_X_y=True)
    x = (x - MEAN) / DEVIATION
    x = np.hstack([x, np.ones((len(x), 1))])  # the last weight is the bias
    order = np.random.default_rng(seed).permutation(len(y))
    test, mine = order[:114], order[114:][index::nodes]  # a fifth to test; the rest is dealt out
    first = fixed.encode(np.zeros(x.shape[1])).vector
    return Logistic(x[mine], y[mine], x[test], y[test], rate), first
