"""Chaos: real nodes are killed, frozen, parted and delayed, and must stay of one mind.

    PYTHONPATH=scripts python -P scripts/chaos.py --seeds 1 2 3 --seconds 120

Six processes with signatures, replay protection, reputation and Krum learn a small task over
libp2p. One of them is hostile: it says again whatever it hears, and late in the run it sends
garbage until it is banned. Faults follow from the seed. A witness around every node writes down
what it accepts, applies and holds; in the end, and when a node does not come back, the invariants
are checked.

Exit code 0: no violations. 1: some. 2: it could not be tried.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import attrs
from trials import invariants
from trials.invariants import Violation
from trials.networks import Relays, networks
from trials.processes import Place, Swarm, end_in_order, prepare, until
from trials.routed import Routed
from trials.trouble import Fault, describe, plan, strike
from trials.witness import REPLAYER

START_SECONDS: Final = 600.0
"""For the first model of all nodes, and for a node that is started again to begin its rounds."""
AROUND: Final = 60.0
"""Seconds of a seed's share that are kept for its start, its last recovery and its end."""
UNMASK: Final = 0.6
"""Share of the time after which the hostile node sends garbage."""


@attrs.frozen
class Trial:
    """What is tried.

    Attributes:
        seed: decides the faults.
        nodes: how many, the hostile one included.
        seconds: how long faults are done.
        rule: the aggregation, a plugin.
        patience: seconds for a new model of all honest nodes, after a fault is over.
        forget: what killed nodes forget; for controls.
    """

    seed: int
    nodes: int
    seconds: float
    rule: str
    patience: float
    forget: str = ""

    @property
    def tables(self) -> dict[str, Any]:
        """The configuration."""
        return {
            "swarm": {
                "name": f"chaos-{self.seed}",
                "nodes": self.nodes,
                "byzantine": 1,
                # One honest node may be down and the others go on.
                "quorum": self.nodes - 1,
                "deadline": 2.0,
                "vote_timeout": 1.5,
            },
            "plugins": {
                "libp2p": {"reconnect_seconds": 0.5},
                "ed25519": {},
                "replay": {"window": 4096},
                # For ever, so that a ban that is gone was lost.
                "reputation": {"ban_rounds": 0, "punish": 0.3},
                self.rule: {"f": 1},
            },
            "simulation": {"seed": self.seed},
            "trainer": {"task": {"name": "quadratic", "dimension": 32, "learning_rate": 0.01}},
        }


def run(trial: Trial, kind: type[Routed | Relays], folder: Path) -> dict[str, Any]:
    """One seed; its report."""
    network = kind(trial.nodes)
    try:
        seats = prepare(trial.tables, network, folder / "box")
        liar, unmask, witnesses = trial.nodes - 1, folder / "unmask", folder / "witnesses"
        witnesses.mkdir()
        places = [
            Place(seat, network, witnesses, environment=_role(seat.index == liar, unmask))
            for seat in seats
        ]
        swarm = Swarm(places, frozenset({liar}))
        with swarm:
            done, found = _trouble(trial, swarm, unmask, weathers=network.weathers)
        found += _ends(swarm)
    finally:
        network.close()
    testimony = {honest_node.seat.node_id: honest_node.testimony() for honest_node in swarm.honest}
    found += invariants.check(testimony, [seats[liar].node_id])
    lines = [line for node in testimony.values() for line in node]
    return {
        "seed": trial.seed,
        "network": network.name,
        "weather": network.weathers,
        "weather_by": network.means,
        "faults": done,
        "kinds": Counter(fault["kind"] for fault in done),
        "kills": sum(place.starts - 1 for place in places),
        "rounds": max((line["step"] for line in lines if line["kind"] == "model"), default=0),
        "accepted": sum(line["kind"] == "took" for line in lines),
        "refused": Counter(line["reason"] for line in lines if line["kind"] == "refused"),
        "bans": sum(seats[liar].node_id in _last_bans(node) for node in testimony.values()),
        "violations": [attrs.asdict(item) for item in found],
    }


def _role(hostile: bool, unmask: Path) -> dict[str, str]:  # noqa: FBT001
    return {REPLAYER: str(unmask)} if hostile else {}


def _last_bans(lines: list[invariants.Line]) -> list[str]:
    last: list[str] = []
    for line in lines:
        last = line["banned"] if line["kind"] == "bans" else last
    return last


def _trouble(
    trial: Trial, swarm: Swarm, unmask: Path, *, weathers: bool
) -> tuple[list[dict[str, Any]], list[Violation]]:
    """Fault after fault until the time is over; what was done, and what did not come back."""
    done: list[dict[str, Any]] = []
    if not until(lambda: min(swarm.steps()) >= 1, START_SECONDS):
        words = [honest_node.last_words() for honest_node in swarm.honest if not honest_node.step()]
        return done, [Violation("did not start", "", "; ".join(words))]
    started = time.monotonic()
    honest = [honest_node.seat.index for honest_node in swarm.honest]
    for fault in plan(trial.seed, honest, trial.nodes, weathers=weathers):
        past = time.monotonic() - started
        if past > trial.seconds:
            break
        if past > UNMASK * trial.seconds:
            unmask.touch()
        done.append(describe(fault, past))
        strike(swarm, fault, trial.forget)
        if lost := _come_back(swarm, fault, trial.patience):
            return done, lost
    return done, []


def _come_back(swarm: Swarm, fault: Fault, patience: float) -> list[Violation]:
    """All honest nodes must make a model that none of them had; what hinders them."""
    # A loaded machine takes its time to start a process: that is no fault of the node.
    until(lambda: all(node.up or not node.alive for node in swarm.honest), START_SECONDS)
    goal = max(swarm.steps()) + 1
    back = until(
        lambda: (
            min(swarm.steps()) >= goal or not all(honest_node.alive for honest_node in swarm.honest)
        ),
        patience,
    )
    gone = [honest_node for honest_node in swarm.honest if not honest_node.alive]
    if gone:
        return [Violation("ended", item.seat.node_id, item.last_words()) for item in gone]
    if back:
        return []
    what = f"models {swarm.steps()} of the honest nodes {patience:.0f} s after {fault.kind}"
    return [Violation("did not converge", "", what)]


def _ends(swarm: Swarm) -> list[Violation]:
    return [
        Violation(
            "did not stop in order", honest_node.seat.node_id, f"{code}: {honest_node.last_words()}"
        )
        for honest_node in swarm.honest
        if (code := swarm.codes[honest_node.seat.index])
    ]


def tell(report: dict[str, Any]) -> None:
    """Print the report of a seed."""
    kinds = ", ".join(f"{count} x {kind}" for kind, count in sorted(report["kinds"].items()))
    print(f"seed {report['seed']}, {report['network']}: {len(report['faults'])} faults ({kinds})")
    print(f"  delay and loss by: {report['weather_by']}")
    print(
        f"  {report['rounds']} rounds, {report['kills']} restarts, {report['accepted']} messages "
        f"accepted, {report['refused']['replayed']} refused as replayed, the liar is banned by "
        f"{report['bans']} nodes in the end"
    )
    for violation in report["violations"]:
        print(f"  VIOLATION {violation['kind']}  {violation['node'][:16]}  {violation['what']}")
    print(f"  {len(report['violations'])} violations", flush=True)


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--seconds", type=float, default=110.0, help="of faults, for each seed")
    parser.add_argument("--budget", type=float, default=560.0, help="seconds for all seeds")
    parser.add_argument("--network", choices=("auto", "namespaces", "relays"), default="auto")
    parser.add_argument("--nodes", type=int, default=6)
    parser.add_argument("--rule", default="krum", help="plugin that aggregates")
    parser.add_argument("--patience", type=float, default=60.0, help="to recover from a fault")
    parser.add_argument(
        "--forget",
        choices=("journal", "replay", "reputation"),
        default="",
        help="control: what killed nodes forget",
    )
    parser.add_argument("--json", type=Path, help="write the reports here")
    parser.add_argument("--keep", type=Path, help="an empty folder for data, logs and witnesses")
    chosen = parser.parse_args()
    home = (chosen.keep or Path(tempfile.mkdtemp(prefix="qres-chaos-"))).resolve()
    reports: list[dict[str, Any]] = []
    ends = time.monotonic() + chosen.budget
    try:
        kinds = networks(chosen.network, chosen.nodes)
        for turn, seed in enumerate(chosen.seeds):
            folder = home / f"seed-{seed}"
            folder.mkdir(parents=True)
            share = (ends - time.monotonic()) / (len(chosen.seeds) - turn)
            trial = Trial(
                seed,
                chosen.nodes,
                min(chosen.seconds, max(1.0, share - AROUND)),
                chosen.rule,
                chosen.patience,
                chosen.forget,
            )
            reports.append(run(trial, kinds[turn % len(kinds)], folder))
            tell(reports[-1])
    except OSError as error:
        print(f"cannot be tried: {error}", file=sys.stderr)
        return 2
    finally:
        if chosen.json:
            chosen.json.write_text(json.dumps(reports, indent=2) + "\n", encoding="utf-8")
        if not chosen.keep and not any(report["violations"] for report in reports):
            shutil.rmtree(home, ignore_errors=True)
    violations = sum(len(report["violations"]) for report in reports)
    if violations and not chosen.keep:
        print(f"logs and witnesses are in {home}", file=sys.stderr)
    return 1 if violations else 0


if __name__ == "__main__":
    end_in_order()
    sys.exit(main())
