"""Play swarms with an adversary; it isolates two honest inputs at least, in every one of them.

PYTHONPATH=scripts python -P -m isolation --seeds 0:2000 [-j 2] [--nodes 8:200]
PYTHONPATH=scripts python -P -m isolation --seed 17 [--off NAME]
PYTHONPATH=scripts python -P -m isolation --controls
PYTHONPATH=scripts python -P -m isolation --sharded --seeds 0:100

A failure is a seed, which replays exactly: all but keys and masks follow from it. The controls take
out one guard after the other, and look for a seed with which a single input is isolated. With
--sharded whole nodes are played, with agreement and heights, in sharded rounds; some seconds each.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from functools import partial
from typing import Final

import attrs

from isolation.nodes import play_nodes
from isolation.setting import Setting, draw
from isolation.switches import ALL
from isolation.world import play

LEAST: Final = 2
TRIED: Final = 400
"""Seeds that a control may take to isolate a single input."""


@attrs.frozen
class Played:
    """How a seed fared."""

    seed: int
    summary: str
    least: int  # honest inputs that stay together; 0: nothing was opened
    parity: int  # the same modulo 2
    sums: int  # independent ones
    seconds: float  # of a processor
    exact: bool = True
    error: str = ""

    @property
    def failure(self) -> str:
        """What is wrong; empty if nothing."""
        return self.error or (f"isolates {self.least}" if 0 < self.least < LEAST else "")


def one_seed(seed: int, nodes: tuple[int, int] = (8, 200), off: str = "") -> Played:
    """Play a seed; with ``off``, the control without the guard of that name."""
    began = time.process_time()
    with ALL[off].off() if off else nullcontext():
        setting = _drawn(seed, nodes, off)
        try:
            found = play(setting)
        except Exception as error:  # noqa: BLE001 - the other seeds go on
            what = f"raised {type(error).__name__}: {error}"
            took = time.process_time() - began
            return Played(seed, setting.summary, 0, 0, 0, took, error=what)
    return Played(
        seed=seed,
        summary=setting.summary,
        least=found.least,
        exact=found.isolated is None or found.isolated.exact,
        parity=0 if found.parity is None else found.parity.size,
        sums=found.sums,
        seconds=time.process_time() - began,
    )


def _drawn(seed: int, nodes: tuple[int, int], off: str) -> Setting:
    return ALL[off].drawn(seed) if off else draw(seed, fewest=nodes[0], most=nodes[1])


def _all(seeds: range, jobs: int, nodes: tuple[int, int]) -> Iterator[Played]:
    each = partial(one_seed, nodes=nodes)
    if jobs == 1:
        yield from map(each, seeds)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(each, seeds, chunksize=4)


def one_sharded(seed: int) -> Played:
    """Play a swarm of whole nodes in sharded rounds."""
    began = time.process_time()
    try:
        found = play_nodes(seed, "sharded")
    except Exception as error:  # noqa: BLE001 - the other seeds go on
        what = f"raised {type(error).__name__}: {error}"
        return Played(seed, "sharded", 0, 0, 0, time.process_time() - began, error=what)
    exact = found.isolated is None or found.isolated.exact
    took = time.process_time() - began
    return Played(seed, "sharded", found.least, 0, found.sums, took, exact)


def _sharded(seeds: range, jobs: int) -> int:
    """Whole nodes in sharded rounds, and the control without the record of opened sums."""
    with ProcessPoolExecutor(jobs) as pool:
        failed = _reported(seeds, pool.map(one_sharded, seeds))
    with ALL["record"].off():
        alone = next((seed for seed in range(TRIED) if one_sharded(seed).least == 1), None)
    print(f"without record: seed {alone} isolates one")
    return int(bool(failed) or alone is None)


def _range(text: str) -> range:
    first, colon, end = text.partition(":")
    return range(int(first), int(end) if colon else int(first) + 1)


def _pair(text: str) -> tuple[int, int]:
    found = _range(text)
    return found.start, max(found.start, found.stop)


def _tell(seed: int, nodes: tuple[int, int], off: str) -> int:
    with ALL[off].off() if off else nullcontext():
        setting = _drawn(seed, nodes, off)
        print(f"seed {seed}: {setting.summary}")
        found = play(setting, print)
    print(f"{found.sessions} sessions, {found.sums} independent sums; {found.told}")
    return int(0 < found.least < LEAST)


def _runs(seeds: range, jobs: int, nodes: tuple[int, int]) -> int:
    return _reported(seeds, _all(seeds, jobs, nodes))


def _reported(seeds: range, runs: Iterator[Played]) -> int:
    """Print how runs fared; how many failed."""
    began, failed, seconds = time.perf_counter(), 0, 0.0
    least: Counter[int] = Counter()
    bounds = parities = several = 0
    for number, played in enumerate(runs, 1):
        least[played.least] += 1
        seconds += played.seconds
        bounds += not played.exact
        several += played.sums > 1
        parities += played.parity == 1 and played.least > 1
        if played.failure:
            failed += 1
            print(f"seed {played.seed} {played.failure}: {played.summary}", flush=True)
        if number % 100 == 0:
            took = time.perf_counter() - began
            print(f"{number} runs in {took:.0f} s, {failed} failed", file=sys.stderr, flush=True)
    opened = sum(least.values()) - least[0]
    smallest = min((size for size in least if size), default=0)
    print(
        f"{len(seeds)} runs, {opened} with open sums, {several} of them with several; "
        f"{failed} failed; "
        f"isolated at least {smallest} honest inputs; "
        f"{sum(least[size] for size in range(2, 5))} runs at two to four; "
        f"a bound and not the exact number in {bounds}; a parity in {parities}; "
        f"{seconds / len(seeds):.2f} s of a processor each"
    )
    return failed


def first_isolated(off: str, seeds: range = range(TRIED)) -> Played | None:
    """The first seed with which a single input is isolated without a guard."""
    played = (one_seed(seed, off=off) for seed in seeds)
    return next((item for item in played if item.least == 1), None)


def _controls() -> int:
    failed = 0
    for name, switch in ALL.items():
        found = first_isolated(name)
        failed += found is None
        if found is None:
            print(f"without {name} ({switch.name}): no single input in {TRIED} seeds")
            continue
        print(f"without {name} ({switch.name}): seed {found.seed} isolates one: {found.summary}")
        print(f"    --seed {found.seed} --off {name}", flush=True)
    return failed


def main() -> int:
    """Play, print what fails, and return 1 if anything does."""
    parser = argparse.ArgumentParser(prog="isolation", description=__doc__)
    parser.add_argument("--seeds", type=_range, default=range(2000), help="FIRST:END")
    parser.add_argument("--seed", type=int, help="play one, and tell of it")
    parser.add_argument("--nodes", type=_pair, default=(8, 200), help="FEWEST:MOST")
    parser.add_argument("--off", default="", choices=list(ALL), help="a guard, with --seed")
    parser.add_argument("--controls", action="store_true", help="the controls alone")
    parser.add_argument("-j", "--jobs", type=int, default=2, help="processes")
    parser.add_argument("--sharded", action="store_true", help="whole nodes in sharded rounds")
    options = parser.parse_args()
    if options.sharded:
        return _sharded(options.seeds, options.jobs)
    if options.seed is not None:
        return _tell(options.seed, options.nodes, options.off)
    failed = 0 if options.controls else _runs(options.seeds, options.jobs, options.nodes)
    return int(bool(failed + _controls()))


if __name__ == "__main__":
    sys.exit(main())
