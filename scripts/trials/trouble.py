"""Faults: drawn from a seed, done to a swarm, and undone."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from typing import Any, Final

import attrs

from qres_core.swarm.storage.model_file import KEPT

from .processes import Place, Swarm

KILLED, CUT, FROZEN, ALONE, HALVES, WEATHER = (
    "kill -9 and restart",
    "kill -9 of all honest nodes and restart",
    "SIGSTOP and SIGCONT",
    "partition of one node and heal",
    "partition in halves and heal",
    "100 ms delay and 5 % loss",
)
KINDS: Final = (KILLED, KILLED, KILLED, CUT, FROZEN, FROZEN, ALONE, ALONE, HALVES, WEATHER)
"""Every block of faults holds these, in an order that the seed decides."""


@attrs.frozen
class Fault:
    """One fault.

    Attributes:
        kind: which.
        who: indices of the nodes it strikes.
        seconds: how long it lasts.
        pause: seconds of peace before it.
        killed: a node that is killed in the middle of it as well, or ``None``.
    """

    kind: str
    who: tuple[int, ...]
    seconds: float
    pause: float
    killed: int | None = None


def plan(seed: int, honest: list[int], nodes: int, *, weathers: bool) -> Iterator[Fault]:
    """Faults without end; the same for the same arguments.

    Args:
        seed: decides everything.
        honest: indices of honest nodes, the only ones that are killed or frozen.
        nodes: how many there are in all.
        weathers: whether the network can have bad weather.
    """
    chance = random.Random(seed)  # noqa: S311 - faults are to be repeatable
    while True:
        kinds = [kind for kind in KINDS if weathers or kind != WEATHER]
        chance.shuffle(kinds)
        for kind in kinds:
            # Every fault takes the same number of draws, so that they do not shift each other.
            item, two = chance.sample(honest, 2)
            half = tuple(sorted(chance.sample(range(nodes), nodes // 2)))
            short, long, pause = chance.uniform(0, 4), chance.uniform(4, 12), chance.uniform(0.5, 3)
            both, twice = chance.random() < 0.25, chance.random() < 0.4
            # Two pings are missed after ten seconds or so: both sides of that are tried.
            frozen = chance.choice((chance.uniform(0.5, 4), chance.uniform(10, 16)))
            victim = two if twice else None
            yield {
                KILLED: Fault(kind, (item, two) if both else (item,), short, pause),
                CUT: Fault(kind, tuple(honest), short / 2, pause),
                FROZEN: Fault(kind, (item,), frozen, pause),
                ALONE: Fault(kind, (item,), long, pause, victim),
                HALVES: Fault(kind, half, long, pause, victim),
                WEATHER: Fault(kind, (), long, pause, victim),
            }[kind]


def sabotage(place: Place, what: str) -> None:
    """Have a node that does not run forget something: a control for those who look for faults.

    Args:
        place: the node.
        what: ``journal``, ``replay`` or ``reputation``: whose files are removed. Without a journal
            a node refuses to begin beside a model that it kept, so that goes too.
    """
    for path in place.data.glob(f"{what}*"):
        path.unlink()
    if what == "journal":
        (place.data / KEPT).unlink(missing_ok=True)


def strike(swarm: Swarm, fault: Fault, forget: str = "") -> None:
    """Do a fault, last it out and undo it.

    Args:
        swarm: all nodes.
        fault: the fault.
        forget: what a node that is killed forgets, as :func:`sabotage`; for controls.
    """
    places = [swarm.places[index] for index in fault.who]
    network = swarm.places[0].network
    time.sleep(fault.pause)
    if fault.kind in {KILLED, CUT}:
        _kill(places, fault.seconds, forget)
        return
    if fault.kind == FROZEN:
        for place in places:
            place.send(signal.SIGSTOP)
    elif fault.kind == WEATHER:
        network.weather(bad=True)
    else:
        network.part(fault.who)
    if fault.killed is None:
        time.sleep(fault.seconds)
    else:
        time.sleep(fault.seconds / 3)
        _kill([swarm.places[fault.killed]], fault.seconds / 3, forget)
        time.sleep(fault.seconds / 3)
    for place in places if fault.kind == FROZEN else ():
        place.send(signal.SIGCONT)
    network.weather(bad=False)
    network.heal()


def _kill(places: list[Place], seconds: float, forget: str) -> None:
    for place in places:
        place.kill()
    if forget:
        for place in places:
            sabotage(place, forget)
    time.sleep(seconds)
    for place in places:
        place.start()


def describe(fault: Fault, at: float) -> dict[str, Any]:
    """For a report."""
    return {"at": round(at, 1), **attrs.asdict(fault)}
