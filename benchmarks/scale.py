"""What a round costs a node of a large swarm, in sharded rounds and where everyone takes in all.

Run ``python benchmarks/scale.py [--quick] [--json] [--plot FILE]``. The median of random updates,
which do not pack, signed with Ed25519. One node is real, and the messages of the others are made by
rule (``one_node.py``). "Times less" is against the same votes and all contributions whole. Without
``--quick`` it also measures 1,000 members with a million parameters, which takes minutes.

``--whole N`` measures something else: a round of N nodes, all of which the simulator plays, f = 10
and a million parameters. A thousand of them take most of an hour. What all nodes find alike is
found once: whether a signature is right, and what a shard merges to.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

import attrs
import numpy as np
from harness import Record, main, plot_option, whole_option
from one_node import OneNode, Path, config

from qres_core import RoundInfo, Update, Vector
from qres_core.attacks.scenario import Scenario
from qres_core.kernel.discovery import scan
from qres_core.lab.events import EventEngine
from qres_core.lab.experiment import Experiment
from qres_core.reporting import Axis, Chart, Line, svg_file
from qres_core.training.tasks import Task

CASES = ((20, 2), (100, 5), (1000, 10))
BY_CHANCE = 1000, 100, 91
"""Members, f, and members of committees that are drawn (``swarm.shard_committee``)."""
TARGETS = {20: 4.0, 100: 11.0, 1000: 60.0}
SHORT = {(1000, 100_000): 45.0}
"""There the messages beside the vectors are two fifths of all bytes, so that 60 is not reached."""
BITS, SHARE = 8, 0.8
"""Bits that updates are rounded to, and what they must save of the product."""
ANY, LEARNED = 2**31 - 1, 2**12 - 1
"""The largest number of updates that do not pack, and of updates of 13 bits, as learned ones are.
The merged update is not rounded, so that the product is missed by more where it has more bits."""
CURVE = (10, 20, 50, 100, 200)
PLOT, WHOLE = plot_option(), whole_option()
ONCE = "ed25519.authenticate", "median.aggregate"
GIGABYTES = 24.0
"""Of memory that a thousand nodes may take at most. Their updates are 4 GB."""


def _played(n: int, f: int, d: int, largest: int = ANY, **swarm: Any) -> Path:
    """The round of a node that serves a shard first: up to f of a swarm serve none.

    ``largest``: of the numbers of updates.
    """
    nodes = (OneNode(config(n, f, **swarm), d, seed, largest) for seed in count())
    return next(node for node in nodes if node.serves).play()


def _records(n: int, f: int, d: int, path: Path) -> list[Record]:
    name = f"n = {n}, f = {f}, d = {d:,}"
    target, merging = SHORT.get((n, d), TARGETS[n]), path.whole / path.merging
    beside = path.total - path.received["shards"] - path.received["pulls"]
    return [
        Record(f"{name}: received", path.total / 1e6, "MB"),
        Record(f"{name}: of that beside vectors", beside / 1e6, "MB"),
        Record(f"{name}: bytes", path.unsharded / path.total, "times less", target, at_least=True),
        Record(f"{name}: merging", merging, "times less", TARGETS[n], at_least=True),
        Record(f"{name}: the node's processor, all in all", path.seconds, "s"),
    ]


def _together(n: int, f: int) -> list[Record]:
    """Committees and rounding: what each saves, and both."""
    d, name = 1_000_000, f"n = {n}, f = {f}, d = 1,000,000"
    plain, bits = _played(n, f, d, LEARNED), _played(n, f, d, LEARNED, bits=BITS)
    alone = {
        "sharded": plain.unsharded / plain.total,
        f"{BITS} bits": plain.unsharded / bits.unsharded,
    }
    together = plain.unsharded / bits.total
    share = together / math.prod(alone.values())
    records = [Record(f"{name}: {way}", times, "times less") for way, times in alone.items()]
    return [
        *records,
        Record(f"{name}: both", together, "times less"),
        Record(f"{name}: of their product", share, "", SHARE, at_least=True),
    ]


@attrs.frozen
class _Slice:
    """Trains nothing: its update begins at another place of the same random numbers."""

    numbers: Vector
    index: int

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update:
        """As many of the numbers as the model has coordinates."""
        del round_info
        return Update(self.numbers[self.index : self.index + vector.size])

    def evaluate(self, vector: Vector, round_info: RoundInfo) -> Mapping[str, float]:
        """Nothing."""
        del vector, round_info
        return {}


def _whole(n: int, f: int = 10, d: int = 1_000_000) -> list[Record]:
    """A round of which every node and message is played."""
    began = time.process_time()
    rng = np.random.default_rng(n)
    numbers = rng.integers(-ANY, ANY, d + n, dtype=np.int32, endpoint=True)
    numbers.flags.writeable = False
    initial = np.zeros(d, dtype=np.int32)
    task = Task("slices", initial, tuple(_Slice(numbers, index) for index in range(n)))
    patient: dict[str, Any] = {"quorum": n, "deadline": 600.0, "vote_timeout": 300.0}
    swarm = config(n, f, aggregation="sharded", **patient)
    engine = EventEngine(Experiment(swarm, Scenario(rounds=1, once=ONCE), task, scan()))
    engine.run()
    seconds = time.process_time() - began
    (record,) = engine.recorder.records
    rows = np.stack([numbers[index : index + 1000] for index in range(n)])
    right = np.sort(rows, axis=0)[(n - 1) // 2 : n // 2 + 1]
    low, high = right.min(axis=0), right.max(axis=0)
    model = engine.observer.machine.model[:1000]
    if not record.closed or record.accepted != n or np.any((model < low) | (model > high)):
        raise RuntimeError(f"the round went wrong: {record}")
    name, received = f"n = {n}, f = {f}, d = {d:,}, all nodes", sum(record.received.values())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return [
        Record(f"{name}: received by a node", received / 1e6, "MB"),
        Record(f"{name}: by the node with the most", record.received_most / 1e6, "MB"),
        Record(f"{name}: messages", engine.network.messages / 1e6, "million"),
        Record(f"{name}: processor", seconds, "s"),
        Record(f"{name}: of that for each node", seconds / n, "s"),
        Record(f"{name}: most memory", peak, "GB", GIGABYTES),
    ]


def measure(quick: bool) -> Sequence[Record]:  # noqa: FBT001 - the harness calls it
    """Bytes and processor time of one node and round, or of all nodes of one round."""
    if WHOLE:
        return _whole(WHOLE)
    records: list[Record] = []
    largest: Path | None = None
    for n, f in CASES:
        for d in (100_000, 1_000_000):
            if quick and n * d > 10**8:
                continue
            largest = _played(n, f, d)
            records += _records(n, f, d, largest)
    n, f, size = BY_CHANCE
    d = 100_000 if quick else 1_000_000
    path = _played(n, f, d, shard_committee=size)
    name = f"n = {n}, f = {f}, committees of {size}, d = {d:,}: bytes"
    times, target = path.unsharded / path.total, 25.0 if quick else 30.0
    records.append(Record(name, times, "times less", target, at_least=True))
    for n, f in CASES[: 1 if quick else 2]:
        records += _together(n, f)
    if PLOT is not None:
        PLOT.write_text(_picture({} if quick or largest is None else {1000: largest}))
    return records


def _picture(more: dict[int, Path]) -> str:
    """Bytes of a node against the number of members, a million parameters."""
    d = 1_000_000
    two = {n: _played(n, 2, d) for n in CURVE}
    ten = {n: _played(n, 10, d) for n in CURVE if n > 30} | more
    everyone = {n: path.unsharded for n, path in {**ten, **two}.items()}
    lines = (("everyone", everyone), ("sharded, f = 10", _totals(ten)), ("f = 2", _totals(two)))
    chart = Chart(
        [Line([(n, octets / 1e6) for n, octets in sorted(of.items())], name) for name, of in lines],
        title="MB that a node receives in a round",
        across=Axis("members", logarithmic=True),
        up=Axis("MB, a million parameters", logarithmic=True),
        width=560,
    )
    return svg_file([chart])


def _totals(paths: dict[int, Path]) -> dict[int, int]:
    return {n: path.total for n, path in paths.items()}


if __name__ == "__main__":
    main(__doc__ or "", measure, dists=("qres-core", "numpy", "qres-robust-stats", "qres-quantize"))
