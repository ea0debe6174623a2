"""The nodes of a simulated swarm, their clocks, and what one of them can know of the swarm."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Protocol

import attrs

from qres_core import Envelope, NodeId, Vector
from qres_core.kernel.config import Config
from qres_core.kernel.kernel import Kernel
from qres_core.lab.clock import EPOCH, Clock
from qres_core.swarm.machine.rounds import RoundMachine
from qres_core.swarm.members.pending_changes import PendingChanges
from qres_core.swarm.runtime.driver import Driver
from swarm_simulation.journals import Fuse
from swarm_simulation.setting import Setting


@attrs.define(eq=False)
class Timeline(Clock):
    """A clock that can be asked what it would play next."""

    @property
    def next_at(self) -> float:
        """When the next event happens; never, if none waits."""
        return self._waiting[0][0] if self._waiting else math.inf


@attrs.define(eq=False)
class Node:
    """A node, dead or alive."""

    index: int
    node_id: NodeId
    key: bytes  # what its identity comes from
    journal: Fuse
    offset: float
    rate: float
    lies: bool = False  # whether a liar sits in it
    driver: Driver | None = None  # of a node that lives
    changes: PendingChanges | None = None  # what its operator handed over; outlives the machine
    removed: bool = False
    returns: bool = False  # operators want it back
    is_told: bool = False  # an honest node told it that it was removed
    was_back: bool = False  # it was a member again when it heard of its removal
    hears: bool = False  # it has heard of it, and has not stopped
    seat_of_liar: bool = False  # it took over a liar's seat, and the bans go with the seat
    checked: int = -1  # the last height at which its model was compared with its head
    kernel: Kernel | None = None
    life: int = 0

    @property
    def machine(self) -> RoundMachine | None:
        """Its machine, if it lives."""
        return None if self.driver is None else self.driver.machine

    @property
    def where(self) -> str:
        """Its height and round, for people."""
        machine = self.machine
        return "dead" if machine is None else f"{machine.head.height} in {machine.number}"

    def clock(self, now: float) -> float:
        """What its clock shows."""
        return EPOCH + self.offset + self.rate * (now - EPOCH)

    def when(self, shown: float) -> float:
        """When its clock shows that."""
        return EPOCH + (shown - EPOCH - self.offset) / self.rate


class Swarm(Protocol):
    """What is around a liar. He may look at his own node, and at what any operator could see."""

    setting: Setting
    config: Config
    clock: Timeline
    initial: Vector  # the first model, int32, shape ``(d,)``
    nodes: Sequence[Node]
    honest: Sequence[Node]
    index_of: Mapping[NodeId, int]
    healed: bool
    told_removed: Mapping[int, deque[tuple[Envelope, bytes]]]  # by node: what told it that

    @property
    def seconds(self) -> float:
        """Virtual seconds since the beginning."""
        ...

    def is_back(self, index: int) -> bool:
        """Whether an honest node that may have been removed runs, and is a member in truth."""
        ...

    def carry(
        self, sender: Node, receiver: Node, frame: bytes, envelope: Envelope, late: float = 0.0
    ) -> None:
        """Put a frame on its way, or lose it."""
        ...

    def tell(self, line: str) -> None:
        """Tell a line of the story."""
        ...
