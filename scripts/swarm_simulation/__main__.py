"""Play swarms in trouble, each as its seed decides; a failure is a seed, and replays exactly.

PYTHONPATH=scripts python -P -m swarm_simulation --seeds 0:500 [-j 2] [--lies 'old links,late']
PYTHONPATH=scripts python -P -m swarm_simulation --seed 17 --verbose
PYTHONPATH=scripts python -P -m swarm_simulation --seeds 0:2000 --sharded

Exit code 0: no seed failed. 1: some did.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial

import attrs

from swarm_simulation.setting import KEPT_WORDS, LIES, SHARD_LIES, Setting, draw, sharded
from swarm_simulation.stack import installed
from swarm_simulation.world import ViolationError, World


@attrs.frozen
class Played:
    """How the swarm of a seed fared."""

    seed: int
    failure: str  # empty if all held
    virtual: float  # seconds
    real: float  # seconds
    counts: dict[str, int]


_installed = cache(installed)


Draw = Callable[[int, tuple[str, ...]], Setting]


def play(seed: int, lies: tuple[str, ...] = (), drawn: Draw = draw) -> Played:
    """Play a seed; some nodes tell the ``lies`` beside others."""
    began = time.perf_counter()
    failure, virtual, counts = "", 0.0, dict[str, int]()
    try:
        world = World(drawn(seed, lies), _installed())
        try:
            world.play()
        finally:
            virtual, counts = world.seconds, dict(world.counts)
    except ViolationError as error:
        failure = str(error)
    except Exception as error:  # noqa: BLE001 - of the simulation itself; the other seeds go on
        failure = f"the simulation raised {type(error).__name__}: {error}"
    return Played(seed, failure, virtual, time.perf_counter() - began, counts)


def _seeds(text: str) -> range:
    first, colon, end = text.partition(":")
    return range(int(first), int(end)) if colon else range(int(first), int(first) + 1)


def _all(seeds: range, jobs: int, lies: tuple[str, ...], drawn: Draw) -> Iterator[Played]:
    if jobs == 1:
        yield from map(partial(play, lies=lies, drawn=drawn), seeds)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(partial(play, lies=lies, drawn=drawn), seeds, chunksize=8)


def _lies(text: str) -> tuple[str, ...]:
    told = tuple(lie for lie in text.split(",") if lie)
    known = (*LIES, *SHARD_LIES, KEPT_WORDS)
    unknown = [lie for lie in told if lie not in known]
    if unknown:
        what = f"{', '.join(unknown)}: expected some of {', '.join(known)}"
        raise argparse.ArgumentTypeError(what)
    return told


def _tell(seed: int, lies: tuple[str, ...], drawn: Draw, *, verbose: bool) -> int:
    setting = drawn(seed, lies)
    sys.stdout.write(f"seed {seed}: {setting.summary}\n")
    story = partial(print, file=sys.stdout) if verbose else None
    world = World(setting, _installed(), story)
    try:
        world.play()
    except ViolationError as error:
        sys.stdout.write(f"seed {seed} fails after {world.seconds:.2f} s: {error}\n")
        return 1
    sys.stdout.write(f"seed {seed} holds: {dict(world.counts)}\n")
    return 0


def main() -> int:
    """Play, print what fails, and return 1 if anything does."""
    parser = argparse.ArgumentParser(prog="swarm_simulation", description=__doc__)
    parser.add_argument("--seeds", type=_seeds, default=range(500), help="FIRST:END")
    parser.add_argument("--seed", type=int, help="play one, and tell of it")
    parser.add_argument("--verbose", action="store_true", help="with --seed: everything")
    parser.add_argument("--lies", type=_lies, default=(), help="that liars tell in every seed")
    parser.add_argument("--sharded", action="store_true", help="sharded rounds in every seed")
    parser.add_argument("-j", "--jobs", type=int, default=2, help="processes")
    options = parser.parse_args()
    os.environ.setdefault("QRES_NUMBA", "0")  # to compile takes longer than so few numbers do
    drawn: Draw = sharded if options.sharded else draw
    if options.seed is not None:
        return _tell(options.seed, options.lies, drawn, verbose=options.verbose)
    began, failed = time.perf_counter(), 0
    total: Counter[str] = Counter()
    virtual = real = 0.0
    for number, played in enumerate(_all(options.seeds, options.jobs, options.lies, drawn), 1):
        if number % 500 == 0:
            took = time.perf_counter() - began
            sys.stderr.write(f"{number} seeds in {took:.0f} s, {failed} failed\n")
        total.update(played.counts)
        virtual, real = virtual + played.virtual, real + played.real
        if played.failure:
            failed += 1
            sys.stdout.write(f"seed {played.seed}: {played.failure}\n")
            sys.stdout.flush()
    took = time.perf_counter() - began
    each, counted = real / len(options.seeds), dict(sorted(total.items()))
    sys.stdout.write(
        f"{len(options.seeds)} seeds, {failed} failed; {took:.0f} s, {each:.2f} s of a processor "
        f"each; {virtual / 3600:.1f} virtual hours; {counted}\n"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
