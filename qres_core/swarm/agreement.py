"""Agreement on one set of contributions, in the manner of Tendermint.

Source: Buchman, Kwon, Milosevic 2018, "The latest gossip on BFT consensus", algorithm 1, with the
threshold ``⌊(n + f) / 2⌋ + 1``, so that any two quorums share an honest node. One attempt is one
round; a set stands for the value, the model a round starts from for the height. Two steps of voting
and a lock are what makes it safe to abort: with a single vote, a node that saw the deciding votes
and nodes that gave up on them would go on from different models.
"""

from __future__ import annotations

import enum

import attrs

from qres_core.contract.types import NodeId
from qres_core.contract.wire import Envelope
from qres_core.swarm.messages import CandidateSet


def vote_threshold(nodes: int, byzantine: int) -> int:
    """Votes that decide: ``⌊(n + f) / 2⌋ + 1``; two such quorums share an honest node."""
    return (nodes + byzantine) // 2 + 1


class NoQuorum(enum.Enum):
    """Distinguishes "no quorum yet" from a quorum for ``None`` (no set)."""

    NO_QUORUM = "no quorum"


NO_QUORUM = NoQuorum.NO_QUORUM


class VoteSet:
    """The votes of one kind in one round, first vote of each sender only."""

    def __init__(self, threshold: int) -> None:
        self._threshold = threshold
        self._votes: dict[NodeId, tuple[bytes | None, Envelope]] = {}
        self._counts: dict[bytes | None, int] = {}
        self._winner: bytes | NoQuorum | None = NO_QUORUM

    def __len__(self) -> int:
        return len(self._votes)

    def add(self, choice: bytes | None, envelope: Envelope) -> bool:
        """Count a vote. False if the sender voted otherwise before (equivocation)."""
        earlier = self._votes.get(envelope.sender)
        if earlier is not None:
            return earlier[0] == choice
        self._votes[envelope.sender] = (choice, envelope)
        self._counts[choice] = self._counts.get(choice, 0) + 1
        if self._counts[choice] >= self._threshold:
            self._winner = choice
        return True

    def winner(self) -> bytes | NoQuorum | None:
        """The choice a quorum voted for (``None`` is one), or :data:`NO_QUORUM`.

        There is at most one: two quorums would share a sender, whose first vote alone counts.
        """
        return self._winner

    def messages(self, choice: bytes | None) -> tuple[Envelope, ...]:
        """The votes for a choice, by sender: the material of a proof."""
        return tuple(
            envelope for _sender, (vote, envelope) in sorted(self._votes.items()) if vote == choice
        )


@attrs.frozen
class Lock:
    """A set that a quorum prevoted for, with the proof.

    Attributes:
        candidate: the set.
        digest: its digest.
        round: round of the prevotes.
        prevotes: the quorum's messages.
    """

    candidate: CandidateSet
    digest: bytes
    round: int
    prevotes: tuple[Envelope, ...]


def may_prevote(lock: Lock | None, digest: bytes, proven_round: int) -> bool:
    """Whether a node may prevote for a set (algorithm 1, lines 22 to 33).

    Args:
        lock: what the node is locked on.
        digest: the proposed set.
        proven_round: round of the proposal's quorum of prevotes, 0 for a fresh set.
    """
    return lock is None or lock.digest == digest or lock.round <= proven_round


def is_quorum(
    votes: tuple[Envelope, ...], threshold: int, *, kind: str, round_number: int, model: bytes
) -> bool:
    """Whether the messages are of one kind, round and model and of enough distinct senders.

    Authenticity and what they vote for are the caller's to check.
    """
    senders = {vote.sender for vote in votes}
    return (
        len(senders) == len(votes)
        and len(votes) >= threshold
        and all(
            vote.kind == kind and vote.round == round_number and vote.model_digest == model
            for vote in votes
        )
    )
