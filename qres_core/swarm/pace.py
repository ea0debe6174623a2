"""How far the others are, and what they said of rounds this node has not reached."""

from __future__ import annotations

from typing import Final

from qres_core.contract.types import NodeId
from qres_core.contract.wire import Envelope
from qres_core.swarm.messages import (
    ATTESTATION,
    CONTRIBUTION,
    DIALOGUE,
    PRECOMMIT,
    PREVOTE,
    PROPOSAL,
)

MAX_EARLY: Final = 8
"""Messages of a sender that are kept because they are of a round this node has not reached."""
_OF_A_ROUND: Final = frozenset({CONTRIBUTION, ATTESTATION, PROPOSAL, PREVOTE, PRECOMMIT})
"""What only a node says that has begun the round; it asks and answers before, too."""


class Pace:
    """The rounds of the other nodes."""

    def __init__(self) -> None:
        self._highest: dict[NodeId, tuple[int, bytes]] = {}  # round, and the model it is about
        self._ahead: dict[bytes, list[int]] = {}  # of those that hold a model, descending; a cache
        self._begun: dict[NodeId, tuple[int, bytes]] = {}
        self.early: dict[NodeId, list[Envelope]] = {}

    def heard(self, envelope: Envelope) -> None:
        """Note which round its sender has reached, and from which model."""
        if envelope.round > self._highest.get(envelope.sender, (0, b""))[0]:
            self._highest[envelope.sender] = envelope.round, envelope.model_digest
            self._ahead.clear()
        if envelope.kind in _OF_A_ROUND or envelope.kind.startswith(DIALOGUE):
            said = envelope.round, envelope.model_digest
            if said[0] > self._begun.get(envelope.sender, (0, b""))[0]:
                self._begun[envelope.sender] = said

    def begun(self, number: int, model: bytes) -> int:
        """How many others have begun a round, or one past it, from this model."""
        return sum(
            1 for highest, held in self._begun.values() if highest >= number and held == model
        )

    def others_in(self, number: int) -> int:
        """How many others are known to be in a round or past it, with whatever model."""
        return sum(1 for highest, _model in self._highest.values() if highest >= number)

    def reached_by_more_than(self, few: int, model: bytes) -> int:
        """The highest round that more than so many others have reached; 0 if there is none.

        Only of those that hold this model: nodes that went on to another one are not overtaken by
        going on to their round, but by taking their model.
        """
        if model not in self._ahead:
            rounds = (highest for highest, held in self._highest.values() if held == model)
            self._ahead = {model: sorted(rounds, reverse=True)}
        ahead = self._ahead[model]
        return ahead[few] if len(ahead) > few else 0

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
