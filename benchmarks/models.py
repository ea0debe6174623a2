"""What a round costs in bytes, and what fewer bytes cost in loss.

Run ``python benchmarks/models.py [--quick] [--json]``. It needs no download. Each function of
:data:`PARTS` measures one thing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final
from unittest.mock import patch

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import attrs
from harness import Record, main

from qres_core.kernel.config import parse
from qres_core.lab.scenario import Scenario
from qres_core.lab.simulator import simulate
from qres_core.lab.tasks import TaskConfig
from qres_core.swarm.messages import ContributionBody

NODES: Final = 10
ALL_BITS: Final = 32
TASK: Final = TaskConfig(name="digits", model="mlp", hidden=256, local_epochs=1, learning_rate=0.05)
DIMENSION: Final = 64 * 256 + 256 + 256 * 10 + 10


@attrs.define
class _Sizes:
    """Bytes of the contributions of a simulation."""

    found: list[int] = attrs.field(factory=list[int])

    @contextmanager
    def watched(self) -> Generator[None]:
        encode = ContributionBody.to_bytes

        def measured(body: ContributionBody) -> bytes:
            octets = encode(body)
            self.found.append(len(octets))
            return octets

        with patch.object(ContributionBody, "to_bytes", measured):
            yield

    @property
    def mean(self) -> float:
        return sum(self.found) / len(self.found)


def _learnt(bits: int, rounds: int, seeds: int) -> tuple[float, float]:
    """Bytes of a contribution, and the mean loss on the test examples after so many rounds."""
    plugins: Mapping[str, Any] = {} if bits == ALL_BITS else {"quantize": {"bits": bits}}
    swarm = {"name": "bench", "nodes": NODES, "byzantine": 0, "quorum": NODES, "insecure": True}
    tables: dict[str, Any] = {"memory": {}, **plugins, "mean": {}}
    config = parse({"swarm": swarm, "plugins": tables}, source="benchmark")
    sizes, total = _Sizes(), 0.0
    for seed in range(1, seeds + 1):
        scenario = Scenario(rounds=rounds, seed=seed, engine="vectorised")
        with sizes.watched():
            result = simulate(config, scenario, task=TASK)
        total += float(result.rounds[-1].metrics["loss"])
    return sizes.mean, total / seeds


def bits_on_the_wire(quick: bool) -> Sequence[Record]:  # noqa: FBT001 - as the harness calls it
    """All bits, packed without loss, and 8, 4 and 2 bits with error feedback."""
    rounds, seeds = (15, 1) if quick else (60, 5)
    plain = 4.0 * DIMENSION
    packed, loss = _learnt(ALL_BITS, rounds, seeds)
    records = [
        Record("bytes of an update, four bytes a number", plain, "bytes"),
        Record("bytes of an update, packed without loss", packed, "bytes", plain),
        Record(f"loss after {rounds} rounds, all bits", loss, "nats"),
    ]
    for bits in (8, 4, 2):
        octets, worse = _learnt(bits, rounds, seeds)
        target = {4: 7.0}.get(bits)
        records += [
            Record(f"bytes of an update, {bits} bits", octets, "bytes"),
            Record(
                f"fewer bytes than four a number, {bits} bits",
                plain / octets,
                "x",
                target,
                at_least=True,
            ),
            Record(f"fewer bytes than packed without loss, {bits} bits", packed / octets, "x"),
            Record(
                f"loss over that with all bits, {bits} bits",
                worse / loss,
                "x",
                {8: 1.01, 4: 1.01}.get(bits),
            ),
        ]
    return records


PARTS: Final[Sequence[Callable[[bool], Sequence[Record]]]] = (bits_on_the_wire,)
"""What is measured. Each takes whether it has but seconds, and gives its figures."""


def measure(quick: bool) -> Sequence[Record]:  # noqa: FBT001 - the harness calls it
    """Every part."""
    return [record for part in PARTS for record in part(quick)]


if __name__ == "__main__":
    main(__doc__ or "", measure, dists=("qres-core", "qres-quantize", "numpy"))
