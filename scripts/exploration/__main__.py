"""Explore the engine of agreement, then take out its guards one by one: half an hour on one core.

PYTHONPATH=scripts python -P -m exploration [--quick] [--three]
"""

from __future__ import annotations

import argparse
import sys

import attrs

from exploration.guards import (
    AT_ONCE,
    BAD,
    CLAIMS,
    HONEST_FIRST,
    HONEST_LAST,
    LIARS,
    SAFETY,
    SPARE,
    without,
)
from exploration.nodes import LIAR, Instance, Node
from exploration.progress import Swarm, from_state, secretly_locked
from exploration.search import Explorer, Found
from qres_core.swarm.consensus.engine import Consensus

ALL = (
    LIARS,
    BAD,
    HONEST_FIRST,
    HONEST_LAST,
    Instance("choice, two honest proposers", (0, 1)),
    CLAIMS,
)
QUICK = (
    LIARS,
    BAD,
    Instance("choice, an honest proposer", (0,)),
    Instance("outcome, one attempt", (LIAR,), claims=True),
)
THREE = Instance("choice, three attempts of a liar", (LIAR, LIAR, LIAR))


def _row(found: Found) -> str:
    verdict = found.broken or ("no violation" if found.complete else "no violation so far")
    return (
        f"{found.instance.name:45} {verdict:20} {found.states:>10,} states "
        f"{found.steps:>11,} steps {found.locals:>5} of a node, "
        f"{found.depth:>2} deep, {found.seconds:7.1f} s"
    )


def _guards(*, quick: bool) -> int:
    failed = 0
    print(f"\n{'guard taken out':65} {'broken':45} length")
    for guard in SAFETY + SPARE:
        if quick and guard in SPARE:
            continue
        instance = attrs.evolve(guard.instance, engine=without(guard))
        found = Explorer(instance, strict=False).run()
        failed += (not found.broken) != (guard in SPARE)
        length = str(len(found.way)) if found.broken else "-"
        print(f"{guard.name:65} {found.broken or 'nothing':45} {length:>6}", flush=True)
        for number, step in enumerate(found.way, 1):
            print(f"    {number:2} {step}")
    return failed


def _progress(*, quick: bool) -> int:
    """From every state, in a good network; and against a liar that locks one node an attempt."""
    failed, most = 0, 8
    print()
    for instance in QUICK[2:] if quick else (LIARS, QUICK[-1]):
        explorer, node = Explorer(instance), Node(instance)
        explorer.run()
        took = [
            from_state(node, [explorer.locals[of] for of in explorer.triple(whole)], most)
            for whole in explorer.came
        ]
        print(
            f"{instance.name:45} decides from {len(took):,} states in {max(took)} attempts at most"
        )
        failed += max(took) > most
    attempts = 60
    for name, swarm, stops in (
        ("as it is", Swarm(secretly_locked(Consensus), splits=True), False),
        (f"without: {AT_ONCE.name}", Swarm(secretly_locked(without(AT_ONCE)), splits=True), True),
        (
            "without the showing of locks",
            Swarm(secretly_locked(Consensus), splits=True, shows=False),
            True,
        ),
    ):
        needed = swarm.decides(attempts)
        without_it = f"not in {attempts} attempts" if needed > attempts else f"{needed} attempts"
        print(f"a liar locks one node an attempt, {name:50} {without_it}")
        failed += (needed > attempts) != stops
    return failed


def main() -> int:
    """Explore and print tables; 1 if the engine fails, or a guard is not missed."""
    parser = argparse.ArgumentParser(prog="exploration", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small instances only")
    parser.add_argument("--three", action="store_true", help="three attempts as well: long")
    parser.add_argument("--guards", action="store_true", help="the guards alone")
    options = parser.parse_args()
    failed = 0
    instances = QUICK if options.quick else ALL
    instances = (*instances, *((THREE,) if options.three else ()))
    for instance in () if options.guards else instances:
        found = Explorer(instance).run()
        print(_row(found), flush=True)
        for number, step in enumerate(found.way, 1):
            print(f"    {number:2} {step}")
        failed += bool(found.broken)
    failed += _progress(quick=options.quick)
    failed += _guards(quick=options.quick)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
