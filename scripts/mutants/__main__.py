"""Take out or weaken every security check, one at a time: does a test find it?

python -P -m mutants [--only WORD] [--tests PATH …] [--left] [--seconds S] [--guesses FILE]
                     [--list] [--count] [--sample N]

Known tests are tried first, and the other cases of their functions; what they miss meets every test
that comes past it. With `--seconds` quick tests alone are asked, of all files at once, and those
first that come past the fewest checks: that finds most at the least cost. Which test found what is
written to `found.tsv`. Exit status 1 if a mutant lives that `equivalent.toml` does not explain, or
if that file explains one that is not there.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import random
import subprocess
import sys
import time
import tomllib
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from mutants.places import PLACES, Place
from mutants.playing import Installed, Player, play

HERE: Final = Path(__file__).parent
FOUND: Final = HERE / "found.tsv"
EQUIVALENT: Final = HERE / "equivalent.toml"


def read_found() -> dict[str, str]:
    """The test that found a mutant, by its name."""
    lines = FOUND.read_text("utf-8").splitlines() if FOUND.exists() else []
    pairs = (line.partition("\t") for line in lines)
    return {name: test for name, _tab, test in pairs}


def read_equivalent() -> dict[str, str]:
    """Why a mutant changes nothing that is promised, by its name."""
    tables = tomllib.loads(EQUIVALENT.read_text("utf-8"))["equivalent"]
    return {name: table["why"] for table in tables for name in table["mutants"]}


def _read_guesses(file: Path) -> dict[str, list[str]]:
    """Parts of names of tests by the name of a mutant: a line has a mutant, a tab and one part."""
    guesses: dict[str, list[str]] = {}
    for line in file.read_text("utf-8").splitlines():
        name, _tab, part = line.partition("\t")
        guesses.setdefault(name, []).append(part)
    return guesses


def _write_found(found: Mapping[str, str]) -> None:
    FOUND.write_text("".join(f"{name}\t{found[name]}\n" for name in sorted(found)), "utf-8")


def _keep(place: Place, installed: Installed, player: Player) -> None:
    """Keep what is known of a place, without those that are gone."""
    made = set(map(installed.name, range(len(installed.mutants))))
    with HERE.joinpath("__init__.py").open() as lock:  # places may be played side by side
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = read_found()
        found = {name: test for name, test in known.items() if name in made or name not in place}
        for index, outcome in player.outcomes.items():
            if outcome.how:
                found[installed.name(index)] = outcome.test
        _write_found(found)


def _play(name: str, options: argparse.Namespace) -> int:
    """Play the mutants of a place, and print what lives."""
    start, place = time.monotonic(), PLACES[name]
    installed, explained = Installed(place.modules()), read_equivalent()
    known = {} if options.again else read_found()
    made = [installed.name(index) for index in range(1, len(installed.mutants))]
    chosen = [
        index
        for index, mutant in enumerate(made, 1)
        if options.only in mutant
        and (options.again or mutant not in explained)
        and not (options.left and mutant in known)
    ]
    keep = partial(_keep, place, installed)
    with os.fdopen(os.dup(2), "w", buffering=1) as out:  # pytest takes the others
        say = partial(print, "   ", file=out)
        player = Player(
            installed,
            chosen,
            known,
            say,
            keep,
            jobs=options.jobs,
            guesses=_read_guesses(options.guesses) if options.guesses else None,
            seconds=options.seconds,
        )
        play(installed, player, options.tests or place.tests)
    keep(player)
    lives = {
        installed.name(index): outcome.reached
        for index, outcome in player.outcomes.items()
        if not outcome.how
    }
    found = read_found()
    wrong = [f"lives, {lives[m]} tests come past: {m}" for m in lives if m not in explained]
    wrong += [f"explained, and found by {found[m]}: {m}" for m in explained if m in found]
    wrong += [f"explained, and gone: {m}" for m in explained if m in place and m not in made]
    for line in wrong:
        print(line)
    unasked = sum(outcome.how in {"hung", "died"} for outcome in player.outcomes.values())
    print(
        f"{name:12}{len(made):6} made{sum(m in found for m in made):6} found"
        f" ({unasked} hung or died){sum(m in explained for m in made):5} equivalent"
        f"{len(wrong):5} wrong{(time.monotonic() - start) / 60:8.1f} minutes",
        flush=True,
    )
    return 1 if wrong else 0


def _sample(size: int, seed: int, jobs: int) -> int:
    """Play some of the mutants that are known to be found, each with the test that found it."""
    modules = {name: file for place in PLACES.values() for name, file in place.modules().items()}
    installed, known = Installed(modules), read_found()
    there = [i for i in range(1, len(installed.mutants)) if installed.name(i) in known]
    chosen = random.Random(seed).sample(there, min(size, len(there)))  # noqa: S311 - which are played, no secret
    tests = sorted({known[installed.name(index)].partition("::")[0] for index in chosen})
    with os.fdopen(os.dup(2), "w", buffering=1) as out:
        say = partial(print, "   ", file=out)
        player = Player(installed, chosen, known, say, lambda _player: None, jobs=jobs, quick=True)
        play(installed, player, tests)
    missed = [installed.name(i) for i, outcome in player.outcomes.items() if not outcome.how]
    for name in missed:
        print(f"lives, and {known[name]} found it before: {name}")
    print(f"{len(chosen) - len(missed)} of {len(chosen)} found")
    return 1 if missed else 0


def _list(places: Collection[str], only: str, *, left: bool) -> int:
    resolved = {*read_found(), *read_equivalent()} if left else set[str]()
    for place in places:
        for mutant in Installed(PLACES[place].modules()).mutants:
            if mutant is not None and only in mutant.name and mutant.name not in resolved:
                print(f"{mutant.line:5} {mutant.name}")
    return 0


def counts(place: Place) -> tuple[int, int, int]:
    """How many mutants of a place are made, are found by a test on record, and are explained."""
    names = [mutant.name for mutant in Installed(place.modules()).mutants if mutant is not None]
    found, explained = read_found(), read_equivalent()
    return len(names), sum(map(found.__contains__, names)), sum(map(explained.__contains__, names))


def _count(places: Collection[str]) -> int:
    rows = {place: counts(PLACES[place]) for place in places}
    rows["all"] = tuple(map(sum, zip(*rows.values(), strict=True)))  # type: ignore[assignment]
    print(f"{'place':12}{'made':>6}{'found':>7}{'explained':>11}{'left':>6}")
    for place, (made, found, explained) in rows.items():
        print(f"{place:12}{made:6}{found:7}{explained:11}{made - found - explained:6}")
    return 0


def main(arguments: Sequence[str]) -> int:
    """Play, and print what lives."""
    parser = argparse.ArgumentParser(prog="mutants", description=__doc__)
    parser.add_argument("--place", choices=PLACES, help="one place, in this process")
    parser.add_argument("--only", default="", help="a place, or a part of a mutant's name")
    parser.add_argument("--tests", nargs="*", help="paths, in place of all tests of a place")
    parser.add_argument("--again", action="store_true", help="forget which test found what")
    parser.add_argument("--left", action="store_true", help="those that no test is known to find")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seconds", type=float, help="quick tests alone: of work for one")
    parser.add_argument("--guesses", type=Path, help="a file like found.tsv, with parts of names")
    parser.add_argument("--list", action="store_true", help="name the mutants and play nothing")
    parser.add_argument(
        "--count", action="store_true", help="how many have a test, and play nothing"
    )
    parser.add_argument("--sample", type=int, help="so many, with the tests that are known")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    options = parser.parse_args(arguments)
    if options.sample:
        return _sample(options.sample, options.seed, options.jobs)
    if options.only in PLACES:
        options.place, options.only = options.only, ""
    places = [options.place] if options.place else list(PLACES)
    if options.count:
        return _count(places)
    if options.list:
        return _list(places, options.only, left=options.left)
    if options.place:
        return _play(options.place, options)
    start, status = time.monotonic(), 0
    for place in places:  # each in a process of its own, without the others' plugins
        names = Installed(PLACES[place].modules()).mutants
        if any(mutant is not None and options.only in mutant.name for mutant in names):
            command = (sys.executable, "-P", "-m", "mutants", "--place", place, *arguments)
            status |= subprocess.run(command, check=False).returncode
    print(f"{(time.monotonic() - start) / 60:.1f} minutes")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
