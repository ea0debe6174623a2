"""Attacks on the protocol: what a liar injects into the network beside its contribution.

An attack of :mod:`qres_core.attacks` lies in what it contributes; one of these replays, forges,
impersonates, equivocates or floods. The simulator counts how many of the injected messages honest
nodes admitted and why the others were refused, so that a run without a plugin and one with it show
what the plugin does. An attack may also keep messages back, see :class:`Withholder`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final, Protocol, TypeVar, runtime_checkable

import attrs
import numpy as np

from qres_core.contract import packing
from qres_core.contract.fixed import LIMIT
from qres_core.contract.rounds import RoundInfo
from qres_core.contract.types import NodeId, Update, Updates, Vector
from qres_core.contract.wire import Envelope
from qres_core.swarm.ledger.chain import Head
from qres_core.swarm.ledger.messages import (
    DIALOGUE,
    PRECOMMIT,
    PREVOTE,
    RELAYED,
    encode_contribution,
)

MAX_HEARD: Final = 2048
"""Frames an attacker remembers."""


@attrs.frozen(eq=False)
class SabotageContext:
    """Means of a saboteur at the opening of a round."""

    round_info: RoundInfo  # the round
    head: Head  # of its height
    node_id: NodeId  # its own identity
    own: Update  # what honest training on its data gives
    victims: Sequence[NodeId]  # identities of the honest nodes
    heard: Sequence[bytes]  # frames of others that reached it, oldest first
    now: float  # its clock, seconds
    # signs an envelope with its own keys, whoever the envelope names
    sign: Callable[[Envelope], Envelope]
    sequence: Callable[[], int]  # the next free sequence number for messages of its own
    rng: np.random.Generator  # its randomness

    def envelope(self, sender: NodeId, kind: str, payload: bytes) -> Envelope:
        """A message of this round in somebody's name, not yet signed."""
        info = self.round_info
        return Envelope(
            info.swarm,
            kind,
            info.number,
            info.head,
            sender,
            self.sequence(),
            int(self.now * 1000),
            payload,
        )

    def poison(self, factor: float) -> bytes:
        """A well-formed contribution that pulls the model ``factor`` times its own update."""
        return encode_contribution(1, packing.pack(self.pulled(factor)), {})

    def pulled(self, factor: float) -> Vector:
        """Its own update ``factor`` times, int32, shape ``(d,)``."""
        longer = np.rint(factor * self.own.vector.astype(np.float64))
        return np.clip(longer, -LIMIT, LIMIT).astype(np.int32)


@attrs.frozen
class Injection:
    """A frame put into the network."""

    frame: bytes  # the bytes
    to: NodeId | None = None  # who gets it, or ``None`` for everybody


class Saboteur(Protocol):
    """Injects frames at the opening of each round."""

    @property
    def contributes(self) -> bool:
        """True if the attacker also sends its honest contribution."""
        ...

    @property
    def credentials(self) -> bool:
        """True if the attacker runs the plugins that show credentials."""
        ...

    def act(self, context: SabotageContext) -> Sequence[Injection]:
        """The frames to inject."""
        ...


@attrs.frozen
class Outgoing:
    """A message that an attacker is about to send to one node."""

    kind: str  # of the message
    round: int  # its number
    nodes: int  # members of the swarm
    place: int  # of the receiver among the members, by ascending identity, from 0
    accomplice_proposes: bool = False  # whether an attacker is the one who may propose in the round

    @property
    def to_proposer(self) -> bool:
        """True if the receiver is the first that may propose in the round."""
        return self.place == self.round % self.nodes

    @property
    def votes_on_set(self) -> bool:
        """True if it is a vote on which contributions are merged."""
        return self.kind in {PREVOTE, PRECOMMIT}

    @property
    def of_dialogue(self) -> bool:
        """True if it is what a plugin of some node says in a dialogue, first-hand or relayed."""
        return self.kind.startswith(DIALOGUE) or self.kind == RELAYED


@runtime_checkable
class Withholder(Protocol):
    """A saboteur that sends some of its own messages to some nodes only."""

    def withholds(self, message: Outgoing) -> bool:
        """True if the receiver is not to get a message."""
        ...


@runtime_checkable
class Chooser(Protocol):
    """A saboteur that decides what attackers propose."""

    def chosen(
        self, updates: Updates, accomplices: Collection[NodeId], quorum: int
    ) -> frozenset[NodeId]:
        """The senders of those updates that are proposed, ``quorum`` at least.

        ``updates``: all that could be proposed; ``accomplices``: identities of all attackers.
        """
        ...


@attrs.frozen
class RegisteredSabotage:
    """A sabotage in the registry: name, one line, and how to make it."""

    name: str
    summary: str
    make: Callable[[], Saboteur]


SABOTAGE: Final[dict[str, RegisteredSabotage]] = {}
S = TypeVar("S", bound=type[Saboteur])


def register(name: str, summary: str) -> Callable[[S], S]:
    """Class decorator: add a sabotage whose constructor takes no arguments."""

    def add(kind: S) -> S:
        SABOTAGE[name] = RegisteredSabotage(name, summary, kind)
        return kind

    return add
