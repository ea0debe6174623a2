"""What large models cost: bytes of a round, what fewer bytes cost in loss, memory, processors.

Run ``python benchmarks/models.py [--quick] [--json]``. It needs no download. Each function of
:data:`PARTS` measures one thing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
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


SIMULATION = """
[swarm]
name = "models"
nodes = {nodes}
byzantine = 1
quorum = {quorum}
insecure = true

[plugins.memory]

[plugins.median]
f = 1

[simulation]
rounds = 2
engine = "{engine}"

[trainer]
entry = "cheap:make"
options = {{ dimension = {dimension} }}
"""
"""In the second round, contributions of two rounds are about."""

TRAINER = """
import numpy as np
from qres_core import Update


class Cheap:
    \"\"\"Goes a step of its own, and holds nothing.\"\"\"

    def __init__(self, index):
        self.index = index

    def fit(self, vector, round_info):
        rng = np.random.default_rng((self.index, round_info.step))
        return Update(rng.integers(-1000, 1000, vector.size, dtype=np.int32))

    def evaluate(self, vector):
        return {"first": float(vector[0])}


def make(dimension, index):
    return Cheap(index), np.zeros(dimension, dtype=np.int32)
"""


def _simulated(nodes: int, dimension: int, engine: str) -> float:
    """Bytes of a simulation's process at its peak."""
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder, "models.toml"), Path(folder, "out")
        values = {"nodes": nodes, "quorum": nodes - 1, "dimension": dimension, "engine": engine}
        file.write_text(SIMULATION.format(**values), encoding="utf-8")
        Path(folder, "cheap.py").write_text(TRAINER, encoding="utf-8")
        qres = str(Path(sys.executable).with_name("qres"))
        with out.open("wb") as stream:
            command = [qres, "simulate", str(file), "--json"]
            process = subprocess.Popen(command, stdout=stream)  # noqa: S603 - our own program
            _pid, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode or not json.loads(out.read_text(encoding="utf-8"))["unanimous"]:
            raise SystemExit(f"a simulation of {nodes} nodes ended with {process.returncode}")
        return usage.ru_maxrss * 1024


def memory(quick: bool) -> Sequence[Record]:  # noqa: FBT001 - as the harness calls `measure`
    """Memory of simulations: the aim is 1.3 * n * d * 4 bytes and a gigabyte."""
    sizes = [(20, 200_000)] if quick else [(20, 10**6), (100, 10**6)]
    records: list[Record] = []
    for nodes, dimension in sizes:
        vectors = 4 * nodes * dimension
        for engine in ("events", "vectorised"):
            peak = _simulated(nodes, dimension, engine)
            what = f"simulate, {engine}, {nodes} nodes, {dimension:,} numbers"
            aim = 1.3 * vectors + 1e9
            records.append(Record(f"{what}: peak memory", peak / 1e9, "GB", aim / 1e9))
    return records


WORKING = """
[swarm]
name = "workers"
nodes = 8
byzantine = 1
quorum = 7
insecure = true

[plugins.memory]

[plugins.median]
f = 1

[simulation]
rounds = {rounds}

[trainer]
entry = "busy:make"
"""

BUSY = """
import numpy as np
from qres_core import Update


class Busy:
    \"\"\"Works for a while in one thread, as training does.\"\"\"

    def __init__(self, index):
        self.index = index

    def fit(self, vector, round_info):
        state = self.index + 1
        for _ in range(300_000):
            state = state * 48271 % 2147483647
        return Update(np.full(vector.size, state % 1000, dtype=np.int32))

    def evaluate(self, vector):
        return {"first": float(vector[0])}


def make(index):
    return Busy(index), np.zeros(1000, dtype=np.int32)
"""


def _trained(folder: Path, rounds: int, workers: int) -> tuple[float, list[str]]:
    """Seconds of a simulation, and its models."""
    file = folder / "workers.toml"
    file.write_text(WORKING.format(rounds=rounds), encoding="utf-8")
    (folder / "busy.py").write_text(BUSY, encoding="utf-8")
    qres = str(Path(sys.executable).with_name("qres"))
    command = [qres, "simulate", str(file), "--json", "--set", f"simulation.workers={workers}"]
    start = time.monotonic()
    done = subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - our own program
    told = json.loads(done.stdout)
    return time.monotonic() - start, [record["model_digest"] for record in told["rounds"]]


def workers(quick: bool) -> Sequence[Record]:  # noqa: FBT001 - as the harness calls `measure`
    """How much faster two workers are than one, where training takes nearly all the time."""
    rounds, seconds = (2, 8) if quick else (4, 40), dict[int, float]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for count in (1, 2):
            first, models = _trained(folder, rounds[0], count)
            last, more = _trained(folder, rounds[1], count)
            if more[: len(models)] != models:
                raise SystemExit("two simulations of one seed differ")
            seconds[count] = last - first  # without the start
    ratio = seconds[1] / seconds[2]
    return [Record("simulate, workers = 2 against 1: times faster", ratio, "", 1.7, at_least=True)]


PARTS: Final[Sequence[Callable[[bool], Sequence[Record]]]] = (bits_on_the_wire, memory, workers)
"""What is measured. Each takes whether it has but seconds, and gives its figures."""


def measure(quick: bool) -> Sequence[Record]:  # noqa: FBT001 - the harness calls it
    """Every part."""
    return [record for part in PARTS for record in part(quick)]


if __name__ == "__main__":
    main(__doc__ or "", measure, dists=("qres-core", "qres-quantize", "numpy"))
