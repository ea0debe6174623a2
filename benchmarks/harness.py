"""What every benchmark shares: options, records, and a line about the machine."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

import attrs


@attrs.frozen
class Record:
    """One figure.

    Attributes:
        name: what was measured.
        value: the figure.
        unit: its unit.
        target: what it must not exceed, or ``None`` for a figure without a target.
        at_least: whether the target is what it must reach instead.
    """

    name: str
    value: float
    unit: str
    target: float | None = None
    at_least: bool = False

    @property
    def holds(self) -> bool:
        """Whether the target holds."""
        if self.target is None:
            return True
        return self.value >= self.target if self.at_least else self.value <= self.target


def cpu_seconds(run: Callable[[], object], *, repeats: int) -> float:
    """Median process time of a call, after one that is not counted."""
    run()
    times: list[float] = []
    for _repeat in range(repeats):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return statistics.median(times)


def child_cpu_seconds(command: Sequence[str], *, repeats: int) -> float:
    """Median user and system time of a whole process, after one run that is not counted."""
    times: list[float] = []
    for repeat in range(repeats + 1):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - our own
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if repeat:
            times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(times)


def _version(dist: str) -> str:
    try:
        return metadata.version(dist)
    except metadata.PackageNotFoundError:
        return "absent"


def machine(*dists: str) -> str:
    """The processor, the interpreter and the versions a figure depends on."""
    model = platform.processor() or platform.machine()
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if "model name" in line]
        model = names[0] if names else model
    except OSError:
        pass
    versions = ", ".join(f"{dist} {_version(dist)}" for dist in dists)
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}"


def plot_option() -> Path | None:
    """Take ``--plot FILE`` from the command line, and leave the rest to :func:`main`."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--plot", type=Path)
    mine, sys.argv[1:] = parser.parse_known_args()
    found: Path | None = mine.plot
    return found


def whole_option() -> int:
    """Take ``--whole N`` from the command line, as :func:`plot_option`; 0 if it is not there."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--whole", type=int, default=0)
    mine, sys.argv[1:] = parser.parse_known_args()
    found: int = mine.whole
    return found


def main(
    description: str, measure: Callable[[bool], Sequence[Record]], *, dists: Sequence[str]
) -> None:
    """Run a benchmark from the command line; exit 1 if a target does not hold."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="at most a minute")
    parser.add_argument("--json", action="store_true", help="print a list of records")
    options = parser.parse_args()
    records = measure(options.quick)
    if options.json:
        print(
            json.dumps(
                [{**attrs.asdict(record), "holds": record.holds} for record in records], indent=2
            )
        )
    else:
        print(machine(*dists))
        for record in records:
            sign = ">=" if record.at_least else "<="
            target = (
                "" if record.target is None else f"  target {sign} {record.target:g} {record.unit}"
            )
            mark = "" if record.target is None else "  holds" if record.holds else "  DOES NOT HOLD"
            print(f"{record.name:58} {record.value:10.3f} {record.unit}{target}{mark}")
    sys.exit(not all(record.holds for record in records))
