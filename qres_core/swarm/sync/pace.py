"""The rounds that the other nodes have reached, and messages of rounds to come."""

from __future__ import annotations

from typing import Final

from qres_core.contract.types import NodeId
from qres_core.contract.wire import Envelope
from qres_core.swarm.context.position import NodeContext
from qres_core.swarm.ledger.chain import Link
from qres_core.swarm.ledger.messages import (
    ATTESTATION,
    CONTRIBUTION,
    DIALOGUE,
    OUTCOME,
    PRECOMMIT,
    PREVOTE,
    PROPOSAL,
)

MAX_EARLY: Final = 16
"""Messages of a sender that are kept because they are of a round this node has not reached."""
_OF_A_ROUND: Final = frozenset({CONTRIBUTION, ATTESTATION, PROPOSAL, PREVOTE, PRECOMMIT})
"""What only a node says that has begun the round; it asks and answers before, too."""


class Pace:
    """The rounds of the other nodes."""

    def __init__(self) -> None:
        self._highest: dict[NodeId, tuple[int, bytes]] = {}  # round, and the head it is about
        self._begun: dict[NodeId, tuple[int, bytes]] = {}
        self.early: dict[NodeId, list[Envelope]] = {}

    def heard(self, envelope: Envelope) -> None:
        """Note which round its sender has reached, and at which head."""
        if envelope.kind.startswith(OUTCOME):
            return  # its round counts attempts at the outcome
        if envelope.round > self._highest.get(envelope.sender, (0, b""))[0]:
            self._highest[envelope.sender] = envelope.round, envelope.head
        if envelope.kind in _OF_A_ROUND or envelope.kind.startswith(DIALOGUE):
            said = envelope.round, envelope.head
            if said[0] > self._begun.get(envelope.sender, (0, b""))[0]:
                self._begun[envelope.sender] = said

    def begun(self, number: int, head: bytes) -> int:
        """Number of others that have begun a round, or one past it, at this head."""
        return sum(
            1 for highest, held in self._begun.values() if highest >= number and held == head
        )

    def past(self, number: int, head: bytes) -> set[NodeId]:
        """Members that began a round after one of this head, or the same round at another head.

        Nobody contributes twice under one number, or to a round that is over for it.
        """
        said = self._begun.items()
        return {peer for peer, (at, of) in said if at > number or (at == number and of != head)}

    def went_on(self, number: int, last: Link) -> int:
        """Number of others that began a round after that in which a height ended for some.

        Or, at the head that follows, one later than the next.
        """
        here, after = last.head.digest, last.next.digest
        began = self._begun.values()
        return sum(at > number + (of == after) for at, of in began if of in {here, after})

    def are_few_behind(self, number: int, context: NodeContext) -> bool:
        """True if those that are not known to be in a round of its head cannot decide alone."""
        there = sum(at >= number for at in self.at(context.head.digest).values())
        return len(context.roster) - 1 - there < context.threshold

    def lets_begin(self, number: int, context: NodeContext, *, holds: bool) -> bool:
        """True if the others let a round begin that waits: more than ``f`` of them have begun it.

        One of them is honest, so that the swarm's interval is over by an honest clock. Nodes whose
        clocks differ, or that came late, thus begin together. A node that ``holds``, because it is
        ahead, begins too once those behind it are too few to decide.
        """
        begun = self.begun(number, context.head.digest) > context.byzantine
        return begun or (holds and self.are_few_behind(number, context))

    def at(self, head: bytes) -> dict[NodeId, int]:
        """The highest round of each of those that speak of this head."""
        return {peer: highest for peer, (highest, of) in self._highest.items() if of == head}

    def keep(self, envelope: Envelope, dimension: int) -> None:
        """Keep a message until a round opens.

        Bounded in number and size: a sender far ahead cannot make this node hold more than a few
        updates of ``dimension`` coordinates.
        """
        kept = self.early.setdefault(envelope.sender, [])
        if len(kept) < MAX_EARLY and len(envelope.payload) <= 8 * dimension + 2**20:
            kept.append(envelope)

    def take(self) -> list[Envelope]:
        """The messages kept, in their order for each sender; none is left."""
        early, self.early = self.early, {}
        return [envelope for messages in early.values() for envelope in messages]
