"""Pace of a swarm beside f members that are silent, dead, slow or lying: a table.

    PYTHONPATH=scripts python -P scripts/pace.py --nodes 4 13
    PYTHONPATH=scripts python -P scripts/pace.py --nodes 13 --faults silent late --seconds 300
    PYTHONPATH=scripts python -P scripts/pace.py --speeds 1 2 4 8

The swarm simulation plays real machines on a virtual clock. Training takes about a second, links
10 ms, ``deadline`` is 10 s and ``vote_timeout`` 2 s. ``pace``: heights a minute from the ninth
height on, as a part of what the same swarm makes without faults. ``in sets``: part of the decided
sets that a faulty member was in, on average. Figures are virtual, so they do not depend on the
machine.

Exit code 0: each pace is at least ``--least``, if that is given. 1: one is not.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Final

import attrs
from swarm_simulation.nodes import Node
from swarm_simulation.setting import Setting, draw
from swarm_simulation.stack import installed
from swarm_simulation.world import DELAY, World

from qres_core import Envelope
from qres_core.lab.clock import EPOCH
from qres_core.swarm.context.effects import RoundEnded, Train
from qres_core.swarm.runtime.driver import Told

BEGINS: Final = 3.0
"""Seconds after which members become faulty."""
SETTLED: Final = 9
"""Heights that do not count."""
FAR: Final = 1e9
SEED: Final = 4
PROPOSAL: Final = "choice/proposal"
COLUMNS: Final = ("nodes", "f", "fault", "heights a minute", "pace", "in sets", "aborted")


@attrs.frozen
class Fault:
    """Conduct of the faulty members."""

    loses: Callable[[Envelope], bool] = lambda _envelope: False  # of what they send
    late: float = 0.0  # seconds, their contributions
    line: float = 0.0  # seconds more each way
    away: float = 0.0  # seconds, after each death
    every: float = FAR  # seconds from death to death
    training: float = 1.0  # times as long as the others


FAULTS: Final[Mapping[str, Fault]] = {
    "silent": Fault(loses=lambda _envelope: True),
    "dead": Fault(away=FAR),
    "no contributions": Fault(loses=lambda envelope: envelope.kind == "contribution"),
    "no proposals": Fault(loses=lambda envelope: envelope.kind == PROPOSAL),
    "flapping": Fault(away=5.0, every=10.0),
    "restarting": Fault(away=1.0, every=10.0),
    "slow": Fault(line=3.0),
    "last moment": Fault(late=9.5),
    "late": Fault(late=3.0),
}


def setting(nodes: int, byzantine: int) -> Setting:
    """A swarm in which nothing happens by itself."""
    drawn = draw(SEED)
    table = {
        **drawn.swarm,
        "nodes": nodes,
        "byzantine": byzantine,
        "quorum": nodes - byzantine,
        "topology": "gossip",
        "insecure": False,
        "proof_checks": "everyone",
        "deadline": 10.0,
        "vote_timeout": 2.0,
        "interval": 0.0,
    }
    return attrs.evolve(
        drawn,
        nodes=nodes,
        byzantine=byzantine,
        swarm=table,
        plugins={"memory": {}, "tag": {}, "replay": {}, "mean": {"unprotected": True}},
        monna=False,
        training=1.0,
        offsets=(0.0,) * nodes,
        rates=(1.0,) * nodes,
        store="memory",
        loss=0.0,
        duplication=0.0,
        spread=0.01,
        cuts=(),
        ambushes=(),
        kills=(),
        liars={},
        spares=0,
        shifts=(),
        revocations=(),
        heals=FAR,
    )


class Paced(World):
    """A swarm some members of which are faulty."""

    def __init__(self, nodes: int, byzantine: int, fault: Fault, faulty: int) -> None:
        super().__init__(setting(nodes, byzantine), installed())
        self.fault, self.faulty = fault, range(1, 1 + faulty)
        self.heights: list[float] = []  # when node 0 ended each, seconds
        self.sets: list[frozenset[int]] = []  # who was in each set, by index

    def carry(
        self, sender: Node, receiver: Node, frame: bytes, envelope: Envelope, late: float = 0.0
    ) -> None:
        """Put a frame on its way, as the fault lets it."""
        ends, fault = {sender.index, receiver.index}, self.fault
        if sender.index in self.faulty and self.seconds > BEGINS:
            if fault.loses(envelope):
                return
            if envelope.kind == "contribution":
                late += fault.late
        if not ends.isdisjoint(self.faulty):
            late += fault.line
        delay = DELAY / 2 + self.rng.expovariate(1 / self.setting.spread)
        self.clock.after(late + delay, partial(self._arrive, sender, receiver, frame))

    def _begin(self, node: Node, wanted: Train) -> None:
        times = self.fault.training if node.index in self.faulty else 1.0
        work = partial(self._train, node, node.life, wanted.round_info)
        self.clock.after(times * self.setting.training * self.rng.uniform(0.8, 1.2), work)

    def _told(self, node: Node, told: Told) -> None:
        super()._told(node, told)
        if node.index == 0 and isinstance(told, RoundEnded) and told.outcome.members:
            self.heights.append(self.seconds)
            self.sets.append(frozenset(self.index_of[who] for who in told.outcome.members))

    def run(self, seconds: float) -> None:
        """Play for so long."""
        for node in self.nodes:
            self.clock.after(self.rng.uniform(0, 0.2), partial(self.born, node))
        if self.fault.away:
            for index in self.faulty:
                at = BEGINS + self.rng.uniform(0, min(3.0, self.fault.every))
                while at < seconds:
                    self.clock.at(EPOCH + at, partial(self._goes, self.nodes[index]))
                    at += self.fault.every
        self._until(EPOCH + seconds, lambda: False)

    def _goes(self, node: Node) -> None:
        if node.machine is not None:
            self.dies(node, self.fault.away)

    @property
    def pace(self) -> float:
        """Heights a minute, from the ninth on."""
        first, last = self.heights[SETTLED], self.heights[-1]
        return 60 * (len(self.heights) - SETTLED - 1) / (last - first)

    def share(self, index: int) -> float:
        """Part of the sets that a node was in, from the ninth on."""
        sets = self.sets[SETTLED:]
        return sum(index in members for members in sets) / len(sets)


def played(nodes: int, fault: Fault, seconds: float, faulty: int | None = None) -> Paced:
    """A swarm with ``f = (n - 1) // 4`` members, or so many, that are faulty."""
    byzantine = max(1, (nodes - 1) // 4)
    world = Paced(nodes, byzantine, fault, byzantine if faulty is None else faulty)
    world.run(seconds)
    return world


def row(cells: Iterable[object]) -> str:
    """A row of a table."""
    return "| " + " | ".join(map(str, cells)) + " |"


def faults(nodes: Sequence[int], names: Sequence[str], seconds: float) -> list[float]:
    """Print the table; returns each pace."""
    print(row(COLUMNS), row("---" for _ in COLUMNS), sep="\n")
    found: list[float] = []
    for count in nodes:
        alone = played(count, Fault(), seconds, faulty=0)
        for name in ("none", *names):
            world = alone if name == "none" else played(count, FAULTS[name], seconds)
            pace = world.pace / alone.pace
            found.append(pace)
            shares = [world.share(index) for index in world.faulty]
            share = f"{sum(shares) / len(shares):.2f}" if shares else ""
            f, aborted = world.setting.byzantine, world.counts["aborted"]
            cells = (count, f, name, f"{world.pace:.1f}", f"{pace:.2f}", share, aborted)
            print(row(cells), flush=True)
    return found


def speeds(nodes: Sequence[int], times: Sequence[float], seconds: float) -> None:
    """Print in how many sets a member is that trains so many times as long as the others."""
    columns = ("nodes", "training takes", "pace", "in sets")
    print(row(columns), row("---" for _ in columns), sep="\n")
    for count in nodes:
        alone = played(count, Fault(), seconds, faulty=0)
        for slow in times:
            world = played(count, Fault(training=slow), seconds, faulty=1)
            cells = (f"{slow:g} times", f"{world.pace / alone.pace:.2f}", f"{world.share(1):.2f}")
            print(row((count, *cells)), flush=True)


def main() -> int:
    """Print the table that is asked for."""
    parser = argparse.ArgumentParser(description="How fast a swarm is beside faulty members.")
    parser.add_argument("--nodes", type=int, nargs="+", default=[4, 13])
    parser.add_argument("--faults", nargs="+", choices=[*FAULTS], default=[*FAULTS])
    parser.add_argument("--seconds", type=float, default=180.0, help="virtual")
    parser.add_argument("--speeds", type=float, nargs="+", help="of training, in place of faults")
    parser.add_argument("--least", type=float, default=0.0, help="pace")
    chosen = parser.parse_args()
    if chosen.speeds:
        speeds(chosen.nodes, chosen.speeds, chosen.seconds)
        return 0
    return int(min(faults(chosen.nodes, chosen.faults, chosen.seconds)) < chosen.least)


if __name__ == "__main__":
    sys.exit(main())
