"""Dialogues: how a plugin talks to its peers in a round without touching the network.

A plugin that needs messages of its own (secure aggregation's shares, a challenge, an audit) returns
a Dialogue from ``round_opened``. It is sans-I/O: what it wants sent it returns, what arrives it is
handed. The round machine carries its messages as envelopes of kind ``dialogue/<plugin>/<n>``, so
they are signed, authenticated, replay-checked, size-capped and bound to the round like all others.

Delivery is reliable. The machine keeps what was said in a round, and nodes that lack a message get
it from any node that holds it, under its author's signature: also when the author is gone or sent
it to some nodes only. So a dialogue says each message once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import attrs

from qres_core.contract.errors import ValueRefusedError
from qres_core.contract.evidence import Accusation
from qres_core.contract.rounds import RoundInfo
from qres_core.contract.types import Contribution, NodeId
from qres_core.contract.wire import Envelope

MAX_STEP = 99


def _check_step(_instance: object, _attribute: object, value: Any) -> None:
    if type(value) is not int or not 0 <= value <= MAX_STEP:
        raise ValueRefusedError.of("QRES-E404", "send.step", f"{value!r} is not in 0..{MAX_STEP}")


@attrs.frozen
class Send:
    """A message a dialogue wants sent.

    A node says at most 64 messages to everybody and 64 to each node in a round, in all at most
    1 MiB and 256 bytes for each node of the roster. What goes beyond is not sent, and others refuse
    it. The same message once more is sent again, and counts and arrives once.

    Attributes:
        body: the content; the plugin's own encoding.
        step: which of the plugin's message kinds it is, 0..99.
        to: recipient, or ``None`` for everybody in the roster.
    """

    body: bytes
    step: int = attrs.field(default=0, validator=_check_step)
    to: NodeId | None = None


def _not_carried(_octets: bytes) -> DialogueMessage | None:
    return None


@attrs.frozen
class DialogueMessage:
    """A message of a dialogue as it arrived, authenticated. Each arrives once.

    Attributes:
        sender: who signed it.
        step: which of the plugin's message kinds it is.
        body: the content, not yet trusted.
        to: whom the sender addressed, or ``None`` for everybody.
        round: the round it was said in. Lower than the dialogue's own only after ``decided`` named
            that round.
    """

    sender: NodeId
    step: int
    body: bytes
    to: NodeId | None = None
    round: int = 0
    _envelope: Envelope | None = attrs.field(default=None, eq=False, repr=False)
    _open: Callable[[bytes], DialogueMessage | None] = attrs.field(
        default=_not_carried, alias="opened", eq=False, repr=False
    )

    @property
    def quote(self) -> bytes:
        """The message as its sender signed it, empty for one made by hand.

        It may be put into the body of another message, whose receivers open it with
        :meth:`quoted`.
        """
        return b"" if self._envelope is None else self._envelope.to_bytes()

    def quoted(self, octets: bytes) -> DialogueMessage | None:
        """The message that this one quotes.

        Args:
            octets: part of ``body``, not trusted: the ``quote`` of a message, or anything else.

        Returns:
            the message; ``None`` unless its author signed it, for the same plugin, swarm, model and
            round as this message.
        """
        return self._open(octets)


@runtime_checkable
class Dialogue(Protocol):
    """A plugin's side of a conversation in one round. All methods are plain functions.

    Life: ``start`` once; ``receive`` once for each message; ``tick`` as the clock moves;
    ``decided`` once, when the set of contributions is agreed and all of them are here.
    ``privatize`` runs when every dialogue is ``ready``; ``reveal`` and ``aggregate`` run when every
    dialogue is ``finished``. One that is not by the round's deadlines aborts the round.
    """

    @property
    def ready(self) -> bool:
        """True when ``privatize`` may run."""
        ...

    @property
    def finished(self) -> bool:
        """True when ``reveal`` may run."""
        ...

    def start(self) -> Sequence[Send | Accusation]:
        """First messages to send."""
        ...

    def receive(self, message: DialogueMessage) -> Sequence[Send | Accusation]:
        """Take a message; never raises for what a peer sent."""
        ...

    def tick(self, now: float) -> Sequence[Send | Accusation]:
        """The clock is at ``now`` seconds."""
        ...

    def decided(
        self,
        members: tuple[NodeId, ...],
        contributions: tuple[Contribution, ...],
        round_info: RoundInfo,
    ) -> Sequence[Send | Accusation]:
        """The set of contributions is agreed.

        These are the same on every node that decides: what a sender of two contributions told whom,
        and what came late, makes no difference. They need not be those ``verify`` saw, which is not
        asked about what a quorum has agreed on.

        Args:
            members: who is in the set, ascending.
            contributions: theirs as they were sent, one for each of ``members`` and in that order;
                authentic, and of the model's dimension, and else not to be trusted.
            round_info: the round they were made in. Its ``number`` is below that of the round this
                dialogue belongs to where a set that an earlier round locked was agreed at last.

        Returns: messages to send, and accusations.
        Raises: any error is noted, and the dialogue counts as one that said nothing.
        """
        ...


@attrs.frozen(eq=False)
class HostedMemory:
    """Memory of a dialogue at a client of another framework, from one message to the next.

    Attributes:
        secret: 32 bytes of this client and round alone; nothing else is drawn from it.
        first: from a key and a value: the value that was kept under the key first, which is on the
            disk when the call returns. It outlasts the round.
    """

    secret: bytes = attrs.field(repr=False)
    first: Callable[[bytes, bytes], bytes]


@runtime_checkable
class HostedDialogue(Dialogue, Protocol):
    """A dialogue inside another framework, where a client is a process for each message.

    What a client was told in a round is played again to each new process: by the same memory and
    the same calls it must come to the same state and say the same. ``tick`` counts the turns, from
    0: in each the coordinator hands all that it was told to all clients. The coordinator has a
    dialogue too, which says nothing (``NodeInfo.observer``).
    """

    def resume(self, memory: HostedMemory) -> None:
        """At a client, before ``start``: what it draws and remembers from now on."""
        ...

    @property
    def given(self) -> bytes:
        """Names what ``privatize`` made at a client; empty before."""
        ...

    def gave(self, name: bytes) -> None:
        """Played again, at a client: ``privatize`` made what has this name."""
        ...

    def concerns(self, message: DialogueMessage) -> bool:
        """At the coordinator: whether a message is of this dialogue, and worth handing on."""
        ...

    def summary(self) -> bytes:
        """At the coordinator, after ``decided``: what clients must know of the set."""
        ...

    def concluded(self, summary: bytes) -> Sequence[Send | Accusation]:
        """At a client, in place of ``decided``; never raises for what it is told.

        Args:
            summary: what the coordinator says, which may tell others something else.
        """
        ...

    @property
    def over(self) -> bool:
        """True if a client has nothing to say any more, and its secret may be forgotten."""
        ...
