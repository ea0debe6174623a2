"""Accuracy with a server optimiser and without, at equal rounds, under attack and not.

Run ``python benchmarks/server_optimisers.py [--quick] [--json]``. Fourteen nodes learn the digits
with small steps, and their data differ. Under attack four of them lie. The optimisers have the same
options in every cell. They make longer steps than the plain rule, so another plain rule stands
beside it, whose nodes train at ten times the rate.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import attrs
from harness import Record, main

from qres_core.attacks.scenario import Scenario
from qres_core.kernel.config import parse
from qres_core.lab.simulator import simulate
from qres_core.training.tasks import TaskConfig

LIARS = 4
FASTER = "plain at ten times the rate"
OPTIMISERS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    FASTER: {},
    "fedavgm": {"fedavgm": {"momentum": 0.9}},
    "fedadam": {"fedadam": {"learning_rate": 0.05}},
    "fedyogi": {"fedyogi": {"learning_rate": 0.05}},
}
TASK = TaskConfig(
    name="digits", partition="similarity", gamma=0.33, local_epochs=1, learning_rate=0.02
)


def accuracy(
    plugins: Mapping[str, Any], task: TaskConfig, attack: str, rounds: int, seeds: int, f: int
) -> float:
    """Mean accuracy of fourteen nodes after so many rounds, in percent; four lie under attack."""
    swarm = {"name": "bench", "nodes": 14, "byzantine": f, "quorum": 14, "insecure": True}
    config = parse({"swarm": swarm, "plugins": {"memory": {}, **plugins}}, source="benchmark")
    total = 0.0
    for seed in range(1, seeds + 1):
        liars = LIARS if attack else 0
        scenario = Scenario(
            rounds=rounds, seed=seed, attack=attack, attackers=liars, engine="vectorised"
        )
        total += simulate(config, scenario, task=task).rounds[-1].metrics["accuracy"]
    return 100 * total / seeds


def _accuracy(optimiser: str, rule: str, attack: str, rounds: int, seeds: int) -> float:
    rate = TASK.learning_rate * (10 if optimiser == FASTER else 1)
    plugins = {**OPTIMISERS[optimiser], rule: {"f": LIARS}}
    task = attrs.evolve(TASK, learning_rate=rate)
    return accuracy(plugins, task, attack, rounds, seeds, LIARS)


def measure(quick: bool) -> Sequence[Record]:  # noqa: FBT001 - the harness calls it
    """Every optimiser around two rules."""
    rounds, seeds = (5, 1) if quick else (30, 3)
    return [
        Record(
            f"accuracy after {rounds} rounds, {rule}, {attack or 'no attack'}, {optimiser}",
            _accuracy(optimiser, rule, attack, rounds, seeds),
            "%",
        )
        for rule in ("median", "krum")
        for attack in ("", "sign_flip", "alie")
        for optimiser in OPTIMISERS
    ]


if __name__ == "__main__":
    main(__doc__ or "", measure, dists=("qres-core", "qres-server-optimiser", "numpy"))
