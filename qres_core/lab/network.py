"""The simulated network: messages come late, twice or not at all, and nodes fall silent."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, Protocol

import attrs
import numpy as np

from qres_core.lab.clock import Clock, Event
from qres_core.lab.frames import size
from qres_core.lab.nodes import SimulatedNode
from qres_core.lab.scenario import Scenario

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
        for _copy in range(copies):
            delay = scenario.delay + scenario.jitter * float(self.rng.standard_exponential())
            self.clock.after(delay, arrive)

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
