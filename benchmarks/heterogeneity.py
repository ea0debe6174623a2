"""Accuracy where nodes differ: FedAvg, FedProx and FedCM at equal rounds, attacked and not.

Run ``python benchmarks/heterogeneity.py [--quick] [--json]``. Fourteen nodes learn the digits, each
with about one class of them, in many local steps a round. Under attack four of them lie.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import attrs
from harness import Record, main
from server_optimisers import LIARS, accuracy

from qres_core.training.tasks import TaskConfig

METHODS: Mapping[str, Mapping[str, Any]] = {
    "FedAvg": {},
    "FedProx, mu 0.1": {"proximal": 0.1},
    "FedCM, momentum 0.5": {"global_momentum": 0.5},
    "FedCM, momentum 0.9": {"global_momentum": 0.9},
}
TASK = TaskConfig(
    name="digits",
    model="mlp",
    partition="similarity",
    gamma=0.0,
    local_epochs=5,
    learning_rate=0.1,
)


def _accuracy(method: str, rule: str, attack: str, rounds: int, seeds: int) -> float:
    f = 0 if rule == "mean" else LIARS
    task = attrs.evolve(TASK, **METHODS[method])
    return accuracy({rule: {"f": f} if f else {}}, task, attack, rounds, seeds, f)


def measure(quick: bool) -> Sequence[Record]:  # noqa: FBT001 - the harness calls it
    """Every method under a rule that suits the case."""
    rounds, seeds = (5, 1) if quick else (30, 3)
    return [
        Record(
            f"accuracy after {rounds} rounds, {rule}, {attack or 'no attack'}, {method}",
            _accuracy(method, rule, attack, rounds, seeds),
            "%",
        )
        for rule, attack in (("mean", ""), ("geometric_median", ""), ("geometric_median", "alie"))
        for method in METHODS
    ]


if __name__ == "__main__":
    main(__doc__ or "", measure, dists=("qres-core", "numpy"))
