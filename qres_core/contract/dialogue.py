"""Dialogues: how a plugin talks to its peers in a round without touching the network.

A plugin that needs messages of its own (secure aggregation's shares, a challenge, an audit) returns
a Dialogue from ``round_opened``. It is sans-I/O: what it wants sent it returns, what arrives it is
handed. The round machine carries its messages as envelopes of kind ``dialogue/<plugin>/<n>``, so
they are signed, authenticated, replay-checked, size-capped and bound to the round like all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import attrs

from qres_core.contract.errors import ValueRefusedError
from qres_core.contract.types import NodeId

MAX_STEP = 99


def _check_step(_instance: object, _attribute: object, value: Any) -> None:
    if type(value) is not int or not 0 <= value <= MAX_STEP:
        raise ValueRefusedError.of("QRES-E404", "send.step", f"{value!r} is not in 0..{MAX_STEP}")


@attrs.frozen
class Send:
    """A message a dialogue wants sent.

    Attributes:
        body: the content; the plugin's own encoding.
        step: which of the plugin's message kinds it is, 0..99.
        to: recipient, or ``None`` for everybody in the roster.
    """

    body: bytes
    step: int = attrs.field(default=0, validator=_check_step)
    to: NodeId | None = None


@attrs.frozen
class DialogueMessage:
    """A message of a dialogue as it arrived, authenticated and checked for replay.

    Attributes:
        sender: who signed it.
        step: which of the plugin's message kinds it is.
        body: the content, not yet trusted.
    """

    sender: NodeId
    step: int
    body: bytes


@runtime_checkable
class Dialogue(Protocol):
    """A plugin's side of a conversation in one round. All methods are plain functions.

    Life: ``start`` once; ``receive`` for each message; ``tick`` as the clock moves; ``decided``
    once, when the set of contributions is agreed. ``privatize`` runs when every dialogue is
    ``ready``; ``reveal`` and ``aggregate`` run when every dialogue is ``finished``. One that is not
    by the round's deadlines aborts the round.
    """

    @property
    def ready(self) -> bool:
        """True when ``privatize`` may run."""
        ...

    @property
    def finished(self) -> bool:
        """True when ``reveal`` may run."""
        ...

    def start(self) -> Sequence[Send]:
        """First messages to send."""
        ...

    def receive(self, message: DialogueMessage) -> Sequence[Send]:
        """Take a message; never raises for what a peer sent."""
        ...

    def tick(self, now: float) -> Sequence[Send]:
        """The clock is at ``now`` seconds."""
        ...

    def decided(self, members: tuple[NodeId, ...]) -> Sequence[Send]:
        """The contributions of ``members`` are the agreed set."""
        ...
