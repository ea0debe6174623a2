"""The simulated network: messages come late, twice or not at all, and nodes fall silent.

With ``simulation.bandwidth`` each node has a link of so many bits a second in either direction. A
link carries one message after the other, in the order in which they come to it, and the end of a
message follows its beginning: two idle links take no longer than one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, Protocol

import attrs
import numpy as np

from qres_core.attacks.carried import size
from qres_core.attacks.scenario import Scenario
from qres_core.lab.clock import Clock, Event
from qres_core.lab.nodes import SimulatedNode

DROPOUT_SECONDS: Final = 0.6
"""From a round's opening on: a node that drops out does so before it contributes, or after."""


class Deliver(Protocol):
    """Takes a frame that arrived; ``hostile`` where an attacker injected it."""

    def __call__(
        self, sender: SimulatedNode, receiver: SimulatedNode, frame: bytes, *, hostile: bool
    ) -> None:
        """A frame has arrived."""
        ...


@attrs.define(eq=False)
class SimulatedNetwork:
    """Carries frames between nodes."""

    scenario: Scenario
    clock: Clock
    rng: np.random.Generator
    # takes what arrives: sender, receiver, frame, and ``hostile`` if it was injected
    deliver: Deliver
    patience: float  # seconds after which a node that is away is tried again
    messages: int = 0  # frames delivered
    octets: int = 0  # bytes that nodes put into the network
    # when the links to and from nodes are free, seconds since 1970, by the nodes' ``id``
    _up: dict[int, float] = attrs.field(factory=dict[int, float], init=False)
    _down: dict[int, float] = attrs.field(factory=dict[int, float], init=False)

    def carry(
        self, sender: SimulatedNode, receiver: SimulatedNode, frame: bytes, *, hostile: bool = False
    ) -> None:
        """Put a frame on its way, or lose it."""
        scenario = self.scenario
        self.octets += size(frame)
        if scenario.loss and self.rng.random() < scenario.loss:
            return
        copies = 1
        if scenario.duplication and self.rng.random() < scenario.duplication:
            copies = 2
        arrive = partial(self._arrive, sender, receiver, frame, hostile=hostile)
        if scenario.bandwidth:
            arrive = partial(self._download, receiver, size(frame), arrive)
        for _copy in range(copies):
            free = self._begins(self._up, sender, size(frame))
            delay = scenario.delay + scenario.jitter * float(self.rng.standard_exponential())
            self.clock.at(free + delay, arrive)

    def _begins(self, links: dict[int, float], node: SimulatedNode, octets: int) -> float:
        """Time at which a link begins to carry a message of so many bytes."""
        bandwidth = self.scenario.bandwidth
        if not bandwidth:
            return self.clock.now
        begins = max(self.clock.now, links.get(id(node), 0.0))
        links[id(node)] = begins + self._takes(octets)
        return begins

    def _takes(self, octets: int) -> float:
        """Seconds in which a link carries so many bytes."""
        return 8 * octets / (self.scenario.bandwidth * 1e6)

    def _download(self, receiver: SimulatedNode, octets: int, arrive: Event) -> None:
        """The beginning of a message is there, and the rest follows."""
        self.clock.at(self._begins(self._down, receiver, octets) + self._takes(octets), arrive)

    def _arrive(
        self, sender: SimulatedNode, receiver: SimulatedNode, frame: bytes, *, hostile: bool
    ) -> None:
        if receiver.online:
            self.messages += 1
            self.deliver(sender, receiver, frame, hostile=hostile)

    def act(self, node: SimulatedNode, event: Event) -> None:
        """Have a node do something, as soon as it is there."""
        if node.online:
            event()
        else:
            self.clock.after(self.patience, partial(self.act, node, event))

    def churn(self, nodes: Iterable[SimulatedNode]) -> None:
        """Choose anew which nodes are away."""
        for node in nodes:
            node.online = bool(self.rng.random() >= self.scenario.churn)

    def may_drop(self, node: SimulatedNode, is_over: Callable[[], bool]) -> None:
        """Have a node fall silent in a moment, or not.

        ``is_over``: whether the round is over in which it would fall silent: then it stays.
        """
        falls, when = self.rng.random(2)
        if falls < self.scenario.dropout:
            self.clock.after(DROPOUT_SECONDS * float(when), partial(self._drop, node, is_over))

    def _drop(self, node: SimulatedNode, is_over: Callable[[], bool]) -> None:
        node.online = node.online and is_over()
