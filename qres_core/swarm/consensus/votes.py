"""Inputs and answers of one instance of consensus: steps, locks, actions, and votes counted.

Plain values; the rules are in :mod:`qres_core.swarm.consensus.engine`, and its comments name the
paper.
"""

from __future__ import annotations

import enum
from collections.abc import Hashable
from typing import Generic, TypeAlias, TypeVar

import attrs

Value: TypeAlias = bytes
"""What is decided: a digest."""
Voter = TypeVar("Voter", bound=Hashable)


class Step(enum.IntEnum):
    """Step of a round that a node is in. The last two name votes, too."""

    PROPOSE = 0
    PREVOTE = 1
    PRECOMMIT = 2


@attrs.frozen
class Lock:
    """A value for which a quorum prevoted in a round."""

    value: Value
    round: int


@attrs.frozen
class Proposed:
    """Proposal that a round's proposer made."""

    value: Value
    valid_round: int  # the round of the quorum of prevotes that it names; 0 for a fresh value


@attrs.frozen
class Enter:
    """The node is in a round; :data:`Step.PROPOSE` times out from now."""

    round: int


@attrs.frozen
class Propose:
    """The node is the proposer: it says ``again``, or a fresh value if that is ``None``."""

    round: int
    again: Lock | None


@attrs.frozen
class Vote:
    """The node votes; what is locked now was written down before."""

    step: Step
    round: int
    value: Value | None


@attrs.frozen
class Wait:
    """A step times out from now: the votes of a quorum are there, for whatever."""

    step: Step
    round: int


@attrs.frozen
class Refuse:
    """The node prevoted nil for a proposal because of its lock."""

    round: int
    lock: Lock


@attrs.frozen
class Show:
    """The round may fail, and others may not know of this lock: they need its quorum of prevotes.

    It takes the place of the paper's gossip, and termination rests on it (lemma 6): the votes that
    made a lock reach everybody before the next round begins. Said once a round, to all.
    """

    round: int
    lock: Lock


@attrs.frozen
class Decide:
    """A quorum decided."""

    round: int
    value: Value


Action: TypeAlias = Enter | Propose | Vote | Wait | Refuse | Show | Decide


class VoteSet(Generic[Voter]):
    """The votes of one step of one round; the first of each voter counts."""

    def __init__(self, threshold: int) -> None:
        self._threshold = threshold
        self.votes: dict[Voter, Value | None] = {}
        self._counts: dict[Value | None, int] = {}
        self._won: set[Value | None] = set()

    def add(self, voter: Voter, value: Value | None) -> bool:
        """Count a vote. False if the voter voted otherwise before."""
        if voter in self.votes:
            return self.votes[voter] == value
        self.votes[voter] = value
        self._counts[value] = self._counts.get(value, 0) + 1
        if self._counts[value] >= self._threshold:
            self._won.add(value)
        return True

    def prove(self, value: Value) -> None:
        """A quorum voted for the value, as was shown elsewhere."""
        self._won.add(value)

    def has_quorum(self, value: Value | None) -> bool:
        """True if a quorum voted for the value; ``None`` is a value, too."""
        return value in self._won

    @property
    def winners(self) -> frozenset[Value | None]:
        """Values with a quorum of votes: one at most, unless more than ``f`` lie."""
        return frozenset(self._won)

    def __len__(self) -> int:
        return len(self.votes)

    def counts(self) -> dict[Value | None, int]:
        """Votes by value."""
        return dict(self._counts)
