"""Wishes of a machine, handed to what carries them out: in a node, in a simulation, in a test."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import attrs

from qres_core.contract.rounds import RoundInfo
from qres_core.contract.types import NodeId, Update
from qres_core.swarm.context.effects import (
    Agreed,
    AskTrainer,
    Broadcast,
    Diverged,
    Effect,
    Refused,
    Removed,
    RoundEnded,
    SatOut,
    SendTo,
    Train,
    Vouched,
)
from qres_core.swarm.machine.rounds import RoundMachine

Told: TypeAlias = RoundEnded | Agreed | Vouched | Refused | SatOut | Diverged | Removed
"""What a machine reports, beside what it wants done."""


def _nothing(_what: object) -> None:
    """Do nothing."""


@attrs.frozen(eq=False, kw_only=True)
class Ports:
    """Surroundings of a machine.

    Attributes:
        broadcast: sends a frame to every other node.
        send: sends a frame to one node.
        train: has the trainer make an update; its result goes to :meth:`Driver.trained`.
        ask: has the trainer judge; the question goes to the machine's ``answered`` then.
        tell: takes what the machine reports.
        wake: has :meth:`Driver.tick` called at a time of the node's clock. It may be called again
            with an earlier time, and the later one still stands.
    """

    broadcast: Callable[[bytes], None]
    send: Callable[[NodeId, bytes], None]
    train: Callable[[Train], None] = _nothing
    ask: Callable[[AskTrainer], None] = _nothing
    tell: Callable[[Told], None] = _nothing
    wake: Callable[[float], None] = _nothing


@attrs.define(eq=False)
class Driver:
    """Drives a machine. All times are of the node's clock, in seconds."""

    machine: RoundMachine
    ports: Ports
    due: float = attrs.field(default=math.inf, init=False)  # when the machine is to look at it

    def start(self, now: float) -> None:
        """Have the machine begin."""
        self.carry_out(self.machine.start(now))

    def receive(self, frame: bytes, source: NodeId, now: float, waited: float = 0.0) -> None:
        """Have the machine take a frame; arguments as its ``receive``."""
        self.carry_out(self.machine.receive(frame, source, now, waited))

    def tick(self, now: float) -> None:
        """Have the machine look at the clock, if it is time."""
        if now >= self.due:
            self.due = math.inf
            self.carry_out(self.machine.tick(now))

    def trained(self, info: RoundInfo, made: Update | str, now: float) -> None:
        """Give the machine what came of training, or the reason why the node sits the round out."""
        if isinstance(made, str):
            self.carry_out(self.machine.sit_out(made, info.number, info.head, now))
        else:
            self.carry_out(self.machine.trained(made, info.number, info.head, now))

    def carry_out(self, effects: Sequence[Effect]) -> None:
        """Hand to the ports what the machine wants done, in order."""
        ports = self.ports
        for effect in effects:
            match effect:
                case Broadcast(frame):
                    ports.broadcast(frame)
                case SendTo(to, frame):
                    ports.send(to, frame)
                case Train():
                    ports.train(effect)
                case AskTrainer():
                    ports.ask(effect)
                case _:
                    ports.tell(effect)
        due = self.machine.next_tick
        if due < self.due:  # never true of a stopped node, whose next tick is never
            self.due = due
            ports.wake(due)
