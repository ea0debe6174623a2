"""The dialogues of a round without a network: every message at once, the observer's first.

For the vectorised engine, which follows one observer. All nodes play their side of each plugin's
dialogue; what they say passes the observer's checks as any message does, once, and is then handed
to everybody. Once the observer can go on, what the others would still say to each other is left
out: nobody would look at it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Final

import attrs

from qres_core.contract.dialogue import Dialogue, DialogueMessage, Send
from qres_core.contract.evidence import Accusation
from qres_core.contract.rounds import RoundInfo
from qres_core.contract.types import Contribution, NodeId
from qres_core.contract.verdict import Blame
from qres_core.contract.wire import Envelope
from qres_core.kernel.kernel import Kernel
from qres_core.swarm.storage.dialogue_log import Said, dialogue_kind

TICK: Final = 0.5
"""Seconds on the dialogues' clock between two looks."""
TICKS: Final = 60
"""After so many, what is not ready will not be."""

Carry = Callable[[NodeId, str, bytes], Envelope | None]
"""Sends a message as a node would; what the observer takes in, or ``None`` where it refuses."""


@attrs.define(eq=False)
class Conversation:
    """All dialogues of a round."""

    kernels: Mapping[NodeId, Kernel]  # of the nodes, the observer's first, by identity
    carry: Carry  # signs and checks a message
    # nodes that dropped out; they neither speak nor hear
    silent: set[NodeId] = attrs.field(factory=set[NodeId])
    delivered: int = 0  # messages handed to nodes
    _dialogues: dict[NodeId, dict[str, Dialogue]] = attrs.field(
        init=False, factory=dict[NodeId, dict[str, Dialogue]]
    )
    _waiting: dict[NodeId, deque[tuple[str, DialogueMessage]]] = attrs.field(
        init=False, factory=dict[NodeId, deque[tuple[str, DialogueMessage]]]
    )
    _now: float = attrs.field(init=False, default=0.0)

    def open(self, info: RoundInfo, now: float) -> None:
        """Open the round at every node, and carry what is said until all are ready."""
        self._now = now
        for node, kernel in self.kernels.items():
            self._dialogues[node] = kernel.round_opened(info)
            self._waiting[node] = deque()
        for node, dialogues in self._dialogues.items():
            for name, dialogue in dialogues.items():
                self._post(node, name, dialogue.start())
        self._until(lambda: all(self.ready(node) for node in self._there()))

    def ready(self, node: NodeId) -> bool:
        """True if a node may contribute."""
        return all(dialogue.ready for dialogue in self._dialogues[node].values())

    def decide(self, contributions: tuple[Contribution, ...], info: RoundInfo) -> bool:
        """Tell every node the agreed set; whether the observer could then go on."""
        members = tuple(contribution.sender for contribution in contributions)
        observer = next(iter(self.kernels))
        for node in self._there():
            for name, dialogue in self._dialogues[node].items():
                self._post(node, name, dialogue.decided(members, contributions, info))
        return self._until(lambda: self._finished(observer))

    def _finished(self, node: NodeId) -> bool:
        return all(dialogue.finished for dialogue in self._dialogues[node].values())

    def _there(self) -> list[NodeId]:
        return [node for node in self.kernels if node not in self.silent]

    def _until(self, reached: Callable[[], bool]) -> bool:
        for _tick in range(TICKS):
            if self._deliver(reached) or reached():
                return True
            self._now += TICK
            for node in self._there():
                for name, dialogue in self._dialogues[node].items():
                    self._post(node, name, dialogue.tick(self._now))
        return reached()

    def _deliver(self, reached: Callable[[], bool]) -> bool:
        """Hand over what waits, one node after the other and the observer first."""
        observer = next(iter(self.kernels))
        while any(self._waiting[node] for node in self._there()):
            for node in self._there():
                self._drain(node)
                if node != observer:
                    self._drain(observer)
                    if self._finished(observer):
                        return reached()
        return False

    def _drain(self, node: NodeId) -> None:
        waiting = self._waiting[node]
        while waiting:
            name, message = waiting.popleft()
            dialogue = self._dialogues[node].get(name)
            if dialogue is not None:
                self.delivered += 1
                self._post(node, name, dialogue.receive(message))

    def _post(self, node: NodeId, name: str, sends: Sequence[Send | Accusation]) -> None:
        kernel = self.kernels[node]
        for send in sends:
            if isinstance(send, Accusation):
                if send.subject in self.kernels and send.subject != node:
                    kernel.refuse(send.fact, Blame.SENDER, send.subject, name, 0)
                continue
            rank = None if send.to is None else self._roster.index(send.to)
            envelope = self.carry(node, dialogue_kind(name, send.step, rank), send.body)
            said = None if envelope is None else Said.read(envelope, self._roster)
            if said is None:
                continue
            message = said.arrived(self._roster, partial(kernel.authentic, now=self._now))
            for other in self._receivers(node, send.to):
                self._waiting[other].append((name, message))

    @property
    def _roster(self) -> tuple[NodeId, ...]:
        return tuple(sorted(self.kernels))

    def _receivers(self, sender: NodeId, to: NodeId | None) -> Collection[NodeId]:
        there = self._there() if to is None else [node for node in self._there() if node == to]
        return [node for node in there if node != sender]
