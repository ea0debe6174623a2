"""What large models cost: bytes, memory of simulations, a second worker, one node's vectors.

python benchmarks/models.py [--quick] [--json] [--huge]

With ``--quick`` it prints ratios of what one run measured, each with a target.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import anyio
import attrs
import numpy as np
from harness import Record, main
from qres_lab.testing import make_round_info, make_updates

from qres_core import Contribution, RoundInfo, Update, Vector, fixed
from qres_core.attacks.scenario import Scenario
from qres_core.builtin.memory import MemoryTransport
from qres_core.contract.transport import TransportLimits
from qres_core.contract.wire import Envelope
from qres_core.kernel.config import parse
from qres_core.kernel.kernel import Kernel
from qres_core.lab.simulator import simulate
from qres_core.swarm.contributions.merge import Merger
from qres_core.swarm.ledger.messages import (
    CONTRIBUTION,
    ContributionBody,
    Member,
    contribution_digest,
)
from qres_core.swarm.storage.kept_contributions import Gathering, Held
from qres_core.training.tasks import Task, TaskConfig

NODES: Final = 10
ALL_BITS: Final = 32
TASK: Final = TaskConfig(name="digits", model="mlp", hidden=256, local_epochs=1, learning_rate=0.05)
DIMENSION: Final = 64 * 256 + 256 + 256 * 10 + 10
AIMED: Final = 10**7
LARGE = 0
"""Numbers of the vectors that one node handles; 10**8 with ``--huge``, which takes gigabytes."""

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
    sizes = [(10, 200_000)] if quick else [(20, 10**6), (100, 10**6)]
    records: list[Record] = []
    for nodes, dimension in sizes:
        vectors = 4 * nodes * dimension
        for engine in ("events",) if quick else ("events", "vectorised"):
            peak = _simulated(nodes, dimension, engine)
            what = f"simulate, {engine}, {nodes} nodes, {dimension:,} numbers"
            aim = 1.3 * vectors + 1e9
            records += [
                Record(f"{what}: peak memory", peak / 1e9, "GB"),
                Record(f"{what}: peak memory, against the aim", peak / aim, "x", 1.0),
            ]
    return records


@attrs.frozen
class Busy:
    """Works for a while in one thread, as training does."""

    index: int

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update:
        """A step that took its time."""
        state = self.index + round_info.step + 1
        for _ in range(500_000):
            state = state * 48271 % 2147483647
        return Update(np.full(vector.size, state % 1000, dtype=np.int32))

    def evaluate(self, vector: Vector) -> dict[str, float]:
        """The first number."""
        return {"first": float(vector[0])}


def _trained(rounds: int, count: int) -> tuple[float, list[str]]:
    """Seconds from the first model to the last, and the models."""
    swarm = {"name": "busy", "nodes": 8, "byzantine": 1, "quorum": 7, "insecure": True}
    plugins = {"memory": {}, "median": {"f": 1}}
    config = parse({"swarm": swarm, "plugins": plugins}, source="")
    task = Task("busy", np.zeros(100, dtype=np.int32), tuple(Busy(index) for index in range(8)))
    ended: list[float] = []
    result = simulate(
        config,
        Scenario(rounds=rounds, workers=count),
        task=task,
        progress=lambda _record: ended.append(time.monotonic()),
    )
    return ended[-1] - ended[0], [record.model_digest for record in result.rounds]


def workers(quick: bool) -> Sequence[Record]:  # noqa: FBT001 - as the harness calls `measure`
    """How much faster two workers are than one, where training takes nearly all the time."""
    rounds = 6 if quick else 50
    (alone, models), (together, same) = (_trained(rounds, count) for count in (1, 2))
    if models != same:
        raise SystemExit("two simulations of one seed differ")
    what = "simulate, workers = 2 against 1: times faster"
    return [Record(what, alone / together, "", 1.7, at_least=True)]


async def _one_path(dimension: int) -> dict[str, float]:
    """Processor seconds of what a node does with a vector, by part; three of them are merged."""
    most = 4 * dimension + 2**20
    swarm = {"name": "path", "nodes": 3, "byzantine": 0, "quorum": 3, "insecure": True}
    plugins = {"memory": {}, "median": {"f": 1}}
    config = parse({"swarm": {**swarm, "max_message_bytes": most}, "plugins": plugins}, source="")
    kernel = Kernel.from_config(config)
    limits = TransportLimits(2**20, 2**20, most)
    info = make_round_info(dimension, nodes=3, byzantine=0)
    seconds = defaultdict[str, float](float)

    @contextmanager
    def timed(part: str) -> Generator[None]:
        start = time.process_time()  # other programs on the machine do not count
        yield
        seconds[part] += time.process_time() - start

    few = make_updates(np.zeros((3, 8), dtype=np.int32))
    kernel.aggregate(few, attrs.evolve(info, dimension=8))  # compiled kernels are loaded
    gathering, members, rng = Gathering(), list[Member](), np.random.default_rng(1)
    giver, taker = (MemoryTransport(bytes([n]) * 32, "path", 8, limits=limits) for n in (8, 9))
    for transport in (giver, taker):
        await transport.start()
    for sender in info.roster:
        values = rng.normal(0.0, 0.01, 2**20).astype(np.float32)
        values = np.resize(values, dimension)
        with timed("encode"):
            update = Update.of(fixed.encode(values))
        del values
        with timed("pack"):
            payload = ContributionBody(1, update.vector).to_bytes()
            head, number = info.head, info.number
            sent = Envelope(info.swarm, CONTRIBUTION, number, head, sender, 0, 0, payload)
            frame = sent.to_bytes()
        del update, payload, sent
        with timed("blob"):
            ref = await giver.publish_blob(frame)
            del frame
            frame = await taker.fetch_blob(ref, [giver.node_id], 3600.0)
        with timed("decode"):
            got = Envelope.from_bytes(frame, max_bytes=most)
            del frame
            body = ContributionBody.from_bytes(got.payload, dimension)
            digest = contribution_digest(got)
            gathering.add(Held(Contribution(sender, digest, body.vector, 1), got))
            members.append(Member(sender, digest))
    for transport in (giver, taker):
        await transport.aclose()
    model = np.zeros(dimension, dtype=np.int32)  # nothing of it is in memory
    with timed("merge"):
        merged = Merger(kernel, gathering, info).merge(tuple(members))
        fixed.add_saturating(model, merged)
    return dict(seconds)


def _walked(dimension: int) -> tuple[dict[str, float], float]:
    """The same in a process of its own, with the bytes that it took at its peak."""
    command = [sys.executable, __file__, "--path", str(dimension)]
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(command, stdout=out)  # noqa: S603 - this script
        _pid, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"the path of a vector ended with {process.returncode}")
        out.seek(0)
        return json.loads(out.read()), usage.ru_maxrss * 1024.0


def path(dimension: int) -> Sequence[Record]:
    """What three vectors of so many numbers cost at one node: seconds by part, peak memory.

    The aim is the three contributions, each a vector and its packed bytes, and two vectors more.
    Of small vectors some megabytes that a process takes by chance are a part of the figure.
    """
    _walked(4096)  # kernels are compiled once for each environment, and that takes memory
    told, peak = _walked(dimension)
    _nothing, idle = _walked(1)
    what, aim = f"one node, {dimension:,} numbers", 8.0 if dimension >= AIMED else 10.0
    parts = [Record(f"{what}: {part} of 3, processor time", told[part], "s") for part in told]
    rest = told["merge"] / told["encode"]
    above = (peak - idle) / (4 * dimension)
    return [
        *parts,
        Record(f"{what}: merging, against encoding", rest, "x"),
        Record(f"{what}: peak memory above an idle process, in vectors", above, "", aim),
    ]


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
    rounds, seeds = (12, 1) if quick else (60, 5)
    plain = 4.0 * DIMENSION
    packed, loss = _learnt(ALL_BITS, rounds, seeds)
    records = [
        Record("bytes of an update, four bytes a number", plain, "bytes"),
        Record("bytes of an update, packed without loss", packed, "bytes"),
        Record("bytes packed without loss, against four a number", packed / plain, "x", 0.5),
        Record(f"loss after {rounds} rounds, all bits", loss, "nats"),
    ]
    for bits in (8, 4, 2):
        octets, worse = _learnt(bits, rounds, seeds)
        records += [
            Record(f"bytes of an update, {bits} bits", octets, "bytes"),
            Record(
                f"fewer bytes than four a number, {bits} bits",
                plain / octets,
                "x",
                {8: 3.5, 4: 7.0, 2: 13.0}[bits],
                at_least=True,
            ),
            Record(f"fewer bytes than packed without loss, {bits} bits", packed / octets, "x"),
            Record(
                f"loss over that with all bits, {bits} bits",
                worse / loss,
                "x",
                {8: 1.01, 4: 1.01, 2: 1.1}[bits],
            ),
        ]
    return records


def measure(quick: bool) -> Sequence[Record]:  # noqa: FBT001 - the harness calls it
    """Every figure; with ``quick`` the ratios that have a target."""
    large = path(LARGE) if LARGE else path(10**6 if quick else 10**7)
    records = [*bits_on_the_wire(quick), *memory(quick), *workers(quick), *large]
    return [record for record in records if record.target is not None] if quick else records


if __name__ == "__main__":
    if "--path" in sys.argv:  # the process that is measured
        print(json.dumps(anyio.run(_one_path, int(sys.argv[2]))))
        sys.exit()
    if "--huge" in sys.argv:
        sys.argv.remove("--huge")
        LARGE = 10**8
    main(__doc__ or "", measure, dists=("qres-core", "qres-quantize", "numpy"))
