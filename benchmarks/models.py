"""What large models cost: memory of simulations, and what a second worker saves.

python benchmarks/models.py [--quick] [--json]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from harness import Record, main

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


def measure(quick: bool) -> Sequence[Record]:  # noqa: FBT001 - the harness calls it
    """Every figure."""
    return [*memory(quick), *workers(quick)]


if __name__ == "__main__":
    main(__doc__ or "", measure, dists=("qres-core", "numpy"))
