"""Soak: many rounds of real nodes, whose memory and file descriptors must stay flat.

    PYTHONPATH=scripts python -P scripts/soak.py --rounds 1000

Five processes learn a tiny task over libp2p with signatures, replay protection, reputation and
Krum. From a fifth of the rounds on, when it has warmed up, the memory of a node may grow by a tenth
or by 10 MiB, whichever is more, and its number of file descriptors by 2: those of a connection that
is being made anew at the moment.

Exit code 0: flat, and all nodes agree. 1: not so, or not through in time.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import attrs
from qres_lab.box.fleet import Fleet, NodeProcess
from qres_lab.box.nodes import prepare
from trials.processes import end_in_order
from trials.usage import MIB, Usage, usage

EVERY: Final = 2.0
"""Seconds between two samples."""
WARM: Final = 0.2
"""Share of the rounds before memory is compared."""
GROWTH: Final = 0.1
ROOM: Final = 10 * MIB
SPARE: Final = 2


@attrs.frozen
class Sample:
    """A node at one moment."""

    at: float
    step: int
    usage: Usage


def tables(nodes: int, seed: int) -> dict[str, Any]:
    """The configuration."""
    return {
        "swarm": {
            "name": "soak",
            "nodes": nodes,
            "byzantine": 1,
            "quorum": nodes,
            "deadline": 5.0,
            "vote_timeout": 3.0,
        },
        "plugins": {
            "libp2p": {},
            "ed25519": {},
            "replay": {"window": 4096},
            "reputation": {},
            "krum": {"f": 1},
        },
        "simulation": {"seed": seed},
        "trainer": {"task": {"name": "quadratic", "dimension": 16, "learning_rate": 0.002}},
    }


@attrs.frozen
class Trend:
    """How a node's use went from the end of the warm-up to the end of the run.

    Attributes:
        memory: bytes, the medians of the first and of the last tenth of what came after it.
        descriptors: likewise.
        threads: likewise.
        most: the greatest resident memory of all, bytes.
    """

    memory: tuple[int, int]
    descriptors: tuple[int, int]
    threads: tuple[int, int]
    most: int

    @classmethod
    def of(cls, samples: Sequence[Sample], rounds: int) -> Trend | None:
        """Of a node's samples; ``None`` where there are too few."""
        warm = [sample.usage for sample in samples if WARM * rounds <= sample.step < rounds]
        if len(warm) < 2:
            return None
        tenth = max(1, len(warm) // 10)
        ends = warm[:tenth], warm[-tenth:]
        memory = [int(statistics.median(item.memory for item in end)) for end in ends]
        files = [int(statistics.median(item.descriptors for item in end)) for end in ends]
        threads = [int(statistics.median(item.threads for item in end)) for end in ends]
        most = max(sample.usage.memory for sample in samples)
        return cls((memory[0], memory[1]), (files[0], files[1]), (threads[0], threads[1]), most)

    @property
    def flat(self) -> bool:
        """Whether it is within the bounds."""
        before, after = self.memory
        grown = after - before
        more = self.descriptors[1] - self.descriptors[0]
        return grown <= max(GROWTH * before, ROOM) and more <= SPARE


def watch(fleet: Fleet, rounds: int, seconds: float) -> tuple[list[list[Sample]], float]:
    """Sample until all rounds are made, the time is over or a node is gone.

    Returns:
        the samples of every node, and how many seconds it took.
    """
    samples: list[list[Sample]] = [[] for _ in fleet.members]
    started = shown = time.monotonic()
    while fleet.step < rounds and time.monotonic() - started < seconds and not fleet.dead:
        time.sleep(EVERY)
        fleet.poll()
        now = time.monotonic()
        for member, mine in zip(fleet.members, samples, strict=True):
            found = usage(member.process.pid)
            if found is not None:
                mine.append(Sample(now - started, member.step, found))
        if now - shown >= 30.0:
            shown = now
            print(f"{now - started:5.0f} s  {_state(fleet.members[0], samples[0])}", flush=True)
    return samples, time.monotonic() - started


def _state(member: NodeProcess, samples: Sequence[Sample]) -> str:
    if not samples:
        return "starting"
    last = samples[-1].usage
    return (
        f"model {member.step:5d}  {last.memory / MIB:6.1f} MiB  {last.descriptors} descriptors  "
        f"{last.threads} threads"
    )


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--nodes", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3600.0, help="give up after so many")
    parser.add_argument("--json", type=Path, help="write the report here")
    chosen = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="qres-soak-"))
    fine = False
    try:
        _config, seats = prepare(tables(chosen.nodes, 1), "soak", home / "box")
        with Fleet(seats, chosen.rounds, restart=False) as fleet:
            samples, took = watch(fleet, chosen.rounds, chosen.seconds)
        verdict = fleet.verdict()
        trends = [Trend.of(mine, chosen.rounds) for mine in samples]
        fine = verdict.agreed and all(trend is not None and trend.flat for trend in trends)
        for member, trend in zip(fleet.members, trends, strict=True):
            print(f"{member.seat.name}  {_told(trend)}")
        rate = verdict.step / took
        print(f"{verdict.step} rounds in {took:.0f} s, {rate:.2f} a second; ", end="")
        print(f"{'all nodes agree' if verdict.agreed else 'the nodes do not agree'}")
        if chosen.json:
            report = {
                "rounds": verdict.step,
                "seconds": took,
                "agreed": verdict.agreed,
                "flat": fine,
                "trends": [None if trend is None else attrs.asdict(trend) for trend in trends],
                "samples": [[attrs.asdict(sample) for sample in mine] for mine in samples],
            }
            chosen.json.write_text(json.dumps(report) + "\n", encoding="utf-8")
    finally:
        if fine:
            shutil.rmtree(home, ignore_errors=True)
        else:
            print(f"data and logs are in {home}", file=sys.stderr)
    return 0 if fine else 1


def _told(trend: Trend | None) -> str:
    if trend is None:
        return "too few samples"
    before, after = trend.memory
    return (
        f"{before / MIB:.1f} -> {after / MIB:.1f} MiB ({100 * (after - before) / before:+.1f} %), "
        f"descriptors {trend.descriptors[0]} -> {trend.descriptors[1]}, "
        f"threads {trend.threads[0]} -> {trend.threads[1]}, at most {trend.most / MIB:.1f} MiB"
        f"{'' if trend.flat else '  NOT FLAT'}"
    )


if __name__ == "__main__":
    end_in_order()
    sys.exit(main())
