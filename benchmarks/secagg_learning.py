"""What secure aggregation does to learning: digits in the simulator, every message of it.

Run ``python benchmarks/secagg_learning.py [--quick] [--json]``. Accuracies are in points (per cent
of the test digits), means over seeds. Nodes are away at random, each a tenth of the time.

- *sums*: the mean with secagg and without; the same arithmetic, so all that differs is who is away
  when;
- *with noise*: the same sums with dp in mode distributed beside them;
- *groups*: the median of group means with as many liars as the configuration promises to withstand,
  against the same swarm without liars. *Masked* liars follow the protocol and boost what they
  mask; *raw* ones send a boosted vector without masks, which makes their group's mean noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np
from harness import Record, main

from qres_core import RoundInfo, Update, Vector
from qres_core.attacks.scenario import Scenario
from qres_core.kernel.config import parse
from qres_core.lab.simulator import simulate
from qres_core.training import Trainer
from qres_core.training.tasks import TaskConfig, make_task

Tables = Mapping[str, Mapping[str, Any]]
TRUST: Tables = {"memory": {}, "ed25519": {}, "replay": {}}
BOUND = 8.0
BOOST = -20


@attrs.frozen
class Lying:
    """A trainer whose update points the other way, as far as the bound lets it."""

    honest: Trainer

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update:
        """The honest update times ``BOOST``."""
        update = self.honest.fit(vector, round_info)
        limit = int(BOUND * 2**16)
        pulled = np.clip(update.vector.astype(np.int64) * BOOST, -limit, limit)
        return attrs.evolve(update, vector=pulled.astype(np.int32))

    def evaluate(self, vector: Vector) -> Mapping[str, float]:
        """What the honest one says."""
        return self.honest.evaluate(vector)


def accuracy(  # noqa: PLR0913 - a scenario
    nodes: int,
    byzantine: int,
    quorum: int,
    plugins: Tables,
    *,
    rounds: int,
    seed: int,
    churn: float = 0.0,
    liars: int = 0,
    raw: bool = False,
) -> float:
    """Points of the last model."""
    swarm = {
        "name": "digits",
        "nodes": nodes,
        "byzantine": byzantine,
        "quorum": quorum,
        "deadline": 4.0,
        "vote_timeout": 1.0,
    }
    config = parse({"swarm": swarm, "plugins": {**TRUST, **plugins}}, source="benchmark")
    scenario = Scenario(rounds=rounds, seed=seed, churn=churn)
    if raw and liars:
        scenario = attrs.evolve(scenario, attack="scaled", attackers=liars)
    task = make_task(TaskConfig(), nodes=nodes, seed=seed)
    if liars and not raw:
        honest = task.trainers[: nodes - liars]
        task = attrs.evolve(
            task,
            trainers=honest + tuple(Lying(trainer) for trainer in task.trainers[nodes - liars :]),
        )
    result = simulate(config, scenario, task=task)
    last = [
        record.metrics["accuracy"] for record in result.rounds if record.closed and record.metrics
    ]
    return 100 * last[-1]


def mean(seeds: range, *arguments: Any, **options: Any) -> float:
    """Mean accuracy over seeds."""
    return float(np.mean([accuracy(*arguments, seed=seed, **options) for seed in seeds]))


def groups(size: int, f: int) -> Tables:
    """A median over the means of groups."""
    secagg = {"patience": 0.5, "bound": BOUND, "group_size": size, "min_size": f + 2}
    return {"secagg": {**secagg, "corrupt": 0.05}, "median": {"f": f}}


def measure(quick: bool) -> list[Record]:  # noqa: FBT001 - what `main` calls
    """All comparisons."""
    seeds = range(1 if quick else 2)
    rounds = 4 if quick else 10
    secagg = {"secagg": {"patience": 0.5, "bound": BOUND, "min_size": 14, "noise_room": 40.0}}
    rule: Tables = {"mean": {}}
    swarm = (20, 0, 14)
    plain = mean(seeds, *swarm, rule, rounds=rounds, churn=0.1)
    masked = mean(seeds, *swarm, {**secagg, **rule}, rounds=rounds, churn=0.1)
    records = [
        Record("mean, a tenth away, without secagg", plain, "points"),
        Record("mean, a tenth away, with secagg", masked, "points"),
        Record("points below without secagg", plain - masked, "points", 1.0),
    ]
    noise = {"clip": 2.0, "delta": 1e-5, "noise_multiplier": 0.4, "rounds": 60}
    shared = {"dp": {**noise, "mode": "distributed", "honest": 12}}
    hidden = mean(seeds, *swarm, {**shared, **secagg, **rule}, rounds=rounds, churn=0.1)
    records += [
        Record("dp distributed, a tenth away, with secagg", hidden, "points"),
        Record("points below without noise", masked - hidden, "points"),
    ]
    nodes, size, f = (15, 5, 1) if quick else (40, 8, 2)
    rounds = 4 if quick else 6
    masking = groups(size, f)
    clean = accuracy(nodes, f, nodes, masking, rounds=rounds, seed=0)
    lied = accuracy(nodes, f, nodes, masking, rounds=rounds, seed=0, liars=f)
    # Who sends no masks cannot open the sum and is late for the next round: a quorum without it.
    few = (24, 1, 21, groups(7, 1))
    still = accuracy(*few, rounds=rounds, seed=0)
    noisy = accuracy(*few, rounds=rounds, seed=0, liars=1, raw=True)
    what = f"groups of {size}, {nodes} nodes, median"
    return [
        *records,
        Record(f"{what}, no liar", clean, "points"),
        Record(f"{what}, {f} masked liars", lied, "points"),
        Record("points below clean, masked liars", clean - lied, "points", 5.0),
        Record("groups of 7, 24 nodes, median, no liar", still, "points"),
        Record("groups of 7, 24 nodes, median, 1 raw liar", noisy, "points"),
        Record("points below clean, raw liar", still - noisy, "points", 5.0),
    ]


if __name__ == "__main__":
    main(__doc__ or "", measure, dists=["qres-secagg", "qres-dp", "numpy"])
