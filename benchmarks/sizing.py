"""How many bytes and how much memory a swarm needs: the figures of docs/how-to/sizing.md.

python benchmarks/sizing.py [--quick] [--json] [--huge]

Bytes are counted by the transport of real processes; memory is the largest process's peak. A
node's processor time includes a share of its start. With ``--huge`` ten processes merge 10,000,000
parameters within a budget, which takes 12 GB and minutes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from harness import Record, main

SWARM = """
[swarm]
name = "sizing"
nodes = {nodes}
byzantine = 1
quorum = {quorum}
deadline = {deadline}
{budget}
[plugins.memory]

[plugins.ed25519]

[plugins.replay]
window = 2048

[plugins.median]
f = 1

[simulation]
rounds = {rounds}

[trainer.task]
name = "quadratic"
dimension = {dimension}
"""
HUGE: Final = "--huge" in sys.argv


def _qres(
    *arguments: str, nodes: int, dimension: int, rounds: int, budget: int = 0
) -> tuple[str, float, float]:
    """What it printed, its processor seconds, and MB of the largest process at its peak."""
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder, "sizing.toml"), Path(folder, "out")
        values: dict[str, Any] = {
            "nodes": nodes,
            "quorum": nodes - 1,
            "dimension": dimension,
            "rounds": rounds,
        }
        values |= {"deadline": 600.0 if budget else 120.0}
        values |= {"budget": f"memory = {budget}\n" if budget else ""}
        file.write_text(SWARM.format(**values), encoding="utf-8")
        command = [str(Path(sys.executable).with_name("qres")), *arguments, str(file), "--json"]
        with out.open("wb") as stream:
            process = subprocess.Popen(command, stdout=stream)  # noqa: S603 - our own program
            _pid, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
        seconds = usage.ru_utime + usage.ru_stime
        return out.read_text(encoding="utf-8"), seconds, usage.ru_maxrss / 1024


def _simulated(nodes: int, dimension: int) -> list[Record]:
    short = _qres("simulate", nodes=nodes, dimension=dimension, rounds=1)
    long = _qres("simulate", nodes=nodes, dimension=dimension, rounds=4)
    what = f"simulate, {nodes} nodes, {dimension:,} parameters"
    return [
        Record(f"{what}: peak memory", long[2], "MB"),
        Record(f"{what}: processor time a round", (long[1] - short[1]) / 3, "s"),
    ]


def _processes(nodes: int, dimension: int, budget: int = 0) -> list[Record]:
    rounds = 4
    size = {"nodes": nodes, "dimension": dimension, "rounds": rounds, "budget": budget}
    printed, seconds, peak = _qres("swarm", "up", "--rounds", str(rounds), **size)
    carried = [each["status"]["transport"] for each in json.loads(printed)["nodes"]]
    received = sum(each["bytes_received"] for each in carried) / len(carried) / rounds
    what = f"swarm up, {nodes} nodes, {dimension:,} parameters"
    return [
        Record(f"{what}: a node receives, a round", received / 1e6, "MB"),
        Record(f"{what}: peak memory of a process", peak, "MB"),
        Record(f"{what}: processor time of a node, a round", seconds / nodes / rounds, "s"),
    ]


def measure(quick: bool) -> Sequence[Record]:  # noqa: FBT001 - the harness calls it
    """Every figure of the page."""
    records: list[Record] = []
    for nodes, dimension in [(10, 10**5)] if quick else [(10, 10**5), (100, 10**5), (10, 10**6)]:
        records += _simulated(nodes, dimension)
    for nodes, dimension in (
        [(4, 10**5)] if quick else [(4, 10**5), (10, 10**5), (4, 10**6), (10, 10**6)]
    ):
        records += _processes(nodes, dimension)
    if HUGE:
        records += _processes(10, 10**7, budget=300_000_000)
    return records


if __name__ == "__main__":
    sys.argv = [each for each in sys.argv if each != "--huge"]
    main(__doc__ or "", measure, dists=("qres-core", "numpy"))
