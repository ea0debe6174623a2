"""Memory of a node that takes in and merges a round's contributions, with and without a budget.

python benchmarks/memory_budget.py [--quick] [--json]
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
from typing import Any, Final

import numpy as np
from harness import Record, main
from qres_lab.testing import make_round_info

from qres_core import Contribution, fixed, vector_digest
from qres_core.contract.wire import Envelope
from qres_core.kernel.config import parse
from qres_core.kernel.kernel import Kernel
from qres_core.swarm.contributions.merge import Merger
from qres_core.swarm.ledger.messages import (
    CONTRIBUTION,
    ContributionBody,
    Member,
    contribution_digest,
)
from qres_core.swarm.storage.kept_contributions import Gathering, Held
from qres_core.swarm.storage.shelf import Shelf

NODES: Final = 20
SPREAD: Final = 3000.0
"""Grid steps: a number takes about 14 of its 32 bits on the wire."""


def _round(dimension: int, budget: int, folder: Path) -> dict[str, Any]:
    """One round of the median at one node, from the frames to the new model."""
    swarm = {"name": "budget", "nodes": NODES, "byzantine": 6, "quorum": 13, "insecure": True}
    most = 5 * dimension + 2**20
    raw = {
        "swarm": {**swarm, "memory": budget, "max_message_bytes": most},
        "plugins": {"memory": {}, "median": {"f": 6}},
    }
    kernel = Kernel.from_config(parse(raw, source="benchmark"))
    info = make_round_info(dimension, nodes=NODES)
    gathering, members = Gathering(), list[Member]()
    shelf = Shelf.open(folder, budget)
    rng, taken = np.random.default_rng(1), 0.0
    for sender in info.roster:
        vector = np.rint(rng.standard_normal(dimension, dtype=np.float32) * SPREAD)
        payload = ContributionBody(1, vector.astype(np.int32)).to_bytes()
        del vector
        sent = Envelope(info.swarm, CONTRIBUTION, 1, info.head, sender, 0, 0, payload)
        frame = sent.to_bytes()
        del payload, sent
        start = time.monotonic()
        got = Envelope.from_bytes(frame, max_bytes=most)
        del frame
        body = ContributionBody.from_bytes(got.payload, dimension)
        digest = contribution_digest(got)
        made = Contribution(sender, digest, body.vector, 1)
        gathering.add(shelf.lay(Held(made, got), gathering.octets))
        members.append(Member(sender, digest))
        del got, body, made
        taken += time.monotonic() - start
    start = time.monotonic()
    merged = Merger(kernel, gathering, info).merge(tuple(members))
    model = fixed.add_saturating(np.zeros(dimension, dtype=np.int32), merged).vector
    return {
        "take": taken,
        "merge": time.monotonic() - start,
        "digest": vector_digest(model).hex(),
    }


def _measured(dimension: int, budget: int) -> tuple[dict[str, Any], float]:
    """The same in a process of its own, with the bytes that it took at its peak."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--round", str(dimension), str(budget), folder]
        process = subprocess.Popen(command, stdout=out)  # noqa: S603 - this script
        _pid, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"a round ended with {process.returncode}")
        out.seek(0)
        return json.loads(out.read()), usage.ru_maxrss * 1024.0


def measure(quick: bool) -> Sequence[Record]:  # noqa: FBT001 - as the harness calls it
    """Peak above that of a model of one number, and seconds."""
    dimension = 200_000 if quick else 2_000_000
    vector = 4 * dimension
    _told, idle = _measured(1, 0)
    whole, most = _measured(dimension, 0)
    records = [
        Record(
            f"{NODES} contributions of {dimension:,} numbers, no budget: peak", most / 1e6, "MB"
        ),
        Record("above that of an idle process, in vectors", (most - idle) / vector, ""),
        Record("taking in", whole["take"], "s"),
        Record("merging", whole["merge"], "s"),
    ]
    for vectors in (4, 10):
        budget = vectors * vector
        told, peak = _measured(dimension, budget)
        if told["digest"] != whole["digest"]:
            raise SystemExit("another model with a budget")
        what = f"budget of {vectors} vectors"
        above = (peak - idle) / vector
        aim = None if quick else vectors + 8.0  # it works on a megabyte or two at once
        records += [
            Record(f"{what}: peak", peak / 1e6, "MB"),
            Record(f"{what}: above an idle process, in vectors", above, "", aim),
            Record(f"{what}: taking in", told["take"], "s"),
            Record(f"{what}: merging", told["merge"], "s"),
        ]
    return records


if __name__ == "__main__":
    if "--round" in sys.argv:  # the process that is measured
        numbers, bytes_, place = sys.argv[2:]
        print(json.dumps(_round(int(numbers), int(bytes_), Path(place))))
        sys.exit()
    main(__doc__ or "", measure, dists=("qres-core", "qres-robust-stats", "numpy"))
