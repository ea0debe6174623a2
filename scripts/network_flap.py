"""Flap: every link between three nodes is cut again and again, and all must meet again each time.

    PYTHONPATH=scripts python -P scripts/network_flap.py --cuts 500

Three real nodes, each in a network namespace of its own, learn a small task. In every turn each of
their three links is cut once, for a time and at a moment that the seed decides. No packet passes a
cut link, and nobody is told. Long cuts outlast the pings, so that connections end; short ones leave
TCP to mend what was lost. After each turn all must be connected within ten seconds.

Exit code 0: they were, and all agree. 1: not so. 2: no namespaces here.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import attrs
from trials.processes import end_in_order
from trials.routed import Routed
from trials.routed_swarm import RoutedSwarm

NODES: Final = 3
PAIRS: Final = tuple(itertools.combinations(range(NODES), 2))
UP_SECONDS: Final = 10.0
START_SECONDS: Final = 600.0
LATEST: Final = 1.0
"""Seconds into a turn at which a cut begins, at most."""
CUTS: Final = (0.1, 4.0)
"""Seconds that a cut lasts, at least and at most."""
POLL: Final = 0.25


def tables() -> dict[str, Any]:
    """The configuration of the nodes: pings that notice a long cut."""
    return {
        "swarm": {
            "name": "flap",
            "nodes": NODES,
            "byzantine": 0,
            "quorum": 2,
            "deadline": 5.0,
            "vote_timeout": 3.0,
            "interval": 1.0,
        },
        "plugins": {
            "libp2p": {"reconnect_seconds": 0.5, "ping_seconds": 1.0},
            **{name: {} for name in ("ed25519", "replay", "reputation", "mean")},
        },
        "simulation": {"seed": 1},
        "trainer": {"task": {"name": "quadratic", "dimension": 16, "learning_rate": 0.002}},
    }


def turn(chance: random.Random) -> Iterator[tuple[float, tuple[int, int], bool]]:
    """What happens to the links in a turn: seconds since its begin, the pair, and whether cut."""
    happens: list[tuple[float, tuple[int, int], bool]] = []
    for pair in PAIRS:
        begins = chance.uniform(0.0, LATEST)
        happens += [(begins, pair, True), (begins + chance.uniform(*CUTS), pair, False)]
    yield from sorted(happens)


@attrs.define
class Flapped:
    """What came of it.

    Attributes:
        cuts: of each link, after which all were connected again.
        late: those after which that took more than ``UP_SECONDS``.
        median: seconds from the end of a turn until all were connected.
        slowest: likewise, at most.
        lost: connections that ended and dials that failed, as the nodes counted them.
        cut_packets: packets that a cut stopped.
        agreed: whether all made a model after the last cut, and have the same models.
        models: the newest of all.
        load: of the machine, at the end.
    """

    cuts: int = 0
    late: int = 0
    median: float = 0.0
    slowest: float = 0.0
    lost: int = 0
    cut_packets: int = 0
    agreed: bool = False
    models: int = 0
    load: float = 0.0


def flap(swarm: RoutedSwarm, cuts: int, seed: int) -> Flapped:
    """Cut each link so many times, or until they do not meet again at all."""
    times: list[float] = []
    found, chance = Flapped(), random.Random(seed)  # noqa: S311 - weather
    if not swarm.until(lambda: swarm.all_up() and min(swarm.steps()) >= 1, START_SECONDS):
        return found
    for number in range(cuts):
        began = time.monotonic()
        for at, pair, cut in turn(chance):
            time.sleep(max(0.0, began + at - time.monotonic()))
            swarm.network.shape([pair], cut=cut)
        mended = time.monotonic()
        if not swarm.until(swarm.all_up, START_SECONDS, POLL):
            break
        times.append(time.monotonic() - mended)
        found.late += times[-1] > UP_SECONDS
        found.cuts, found.slowest, found.median = number + 1, max(times), statistics.median(times)
        if not found.cuts % 25:
            print(f"{found.cuts} cuts, models {swarm.steps()}, {found.slowest:.1f} s", flush=True)
    goal = max(swarm.steps()) + 1
    met = swarm.until(lambda: min(swarm.steps()) >= goal, START_SECONDS)
    found.agreed = met and swarm.agreement().agreed
    found.models = min(swarm.steps())
    found.load = os.getloadavg()[0]
    found.cut_packets = swarm.network.counts().total("cut")
    found.lost = sum(link["count"] for report in swarm.reports.values() for link in report["links"])
    return found


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cuts", type=int, default=500, help="of each link")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the report here")
    chosen = parser.parse_args()
    home, fine = Path(tempfile.mkdtemp(prefix="qres-flap-")), False
    try:
        with Routed(NODES) as network, RoutedSwarm.of(tables(), network, home / "box") as swarm:
            found = flap(swarm, chosen.cuts, chosen.seed)
        fine = found.cuts == chosen.cuts and not found.late and found.agreed
        print(f"{'fine' if fine else 'NOT SO'}; {attrs.asdict(found)}")
        if chosen.json:
            chosen.json.write_text(json.dumps(attrs.asdict(found)) + "\n", encoding="utf-8")
    except OSError as error:
        print(f"cannot be tried: {error}", file=sys.stderr)
        return 2
    finally:
        if fine:
            shutil.rmtree(home, ignore_errors=True)
        else:
            print(f"data and logs are in {home}", file=sys.stderr)
    return 0 if fine else 1


if __name__ == "__main__":
    end_in_order()
    sys.exit(main())
