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

from qres_core.contract.errors import RoundError, WireError
from qres_core.contract.faults import Fault
from qres_core.contract.types import FULL_STANDING, NodeId
from qres_core.contract.wire import Envelope
from qres_core.swarm.collecting import Collector
from qres_core.swarm.context import NodeContext, Position
from qres_core.swarm.journal import Journal, JournalEntry
from qres_core.swarm.messages import (
    PRECOMMIT,
    PREVOTE,
    CandidateSet,
    Certificate,
    Proposal,
    decode_vote,
)
from qres_core.swarm.outbox import Speaker


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
    """A set that a quorum prevoted for, with the proof."""

    candidate: CandidateSet  # the set
    digest: bytes  # its digest
    round: int  # round of the prevotes
    prevotes: tuple[Envelope, ...]  # the quorum's messages


def may_prevote(lock: Lock | None, digest: bytes, proven_round: int) -> bool:
    """Whether a node may prevote for a set (algorithm 1, lines 22 to 33).

    ``proven_round``: round of the proposal's quorum of prevotes, 0 for a fresh set.
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
            vote.kind == kind and vote.round == round_number and vote.head == model
            for vote in votes
        )
    )


class Promises:
    """The sets that bind a node while it holds one model."""

    def __init__(self, speaker: Speaker, collector: Collector, journal: Journal) -> None:
        self._context, self._position = speaker.context, speaker.position
        self._collector, self._journal = collector, journal
        # what it precommitted to: it prevotes for no other without proof that a later quorum did
        self.lock: Lock | None = None
        self.valid: Lock | None = None  # the latest that a quorum prevoted for; is proposed again
        self.pending: Certificate | None = None  # decided elsewhere, not all of it is here

    def named(self) -> list[bytes]:
        """Digests of the contributions in these sets: they must not be forgotten."""
        sets = [
            item.candidate for item in (self.lock, self.valid, self.pending) if item is not None
        ]
        return [member.digest for candidate in sets for member in candidate.members]

    def saw_quorum(self, candidate: CandidateSet, digest: bytes, prevotes: VoteSet) -> None:
        """A quorum prevoted for the set of that digest in the current round."""
        number = self._position.number
        if self.valid is None or self.valid.round < number:
            self.valid = Lock(candidate, digest, number, prevotes.messages(digest))

    def must_merge(self, certificate: Certificate) -> None:
        """A quorum decided on a set elsewhere, as is proven."""
        self.pending = certificate

    def keep(self) -> None:
        """Lock on the valid set, and put it in the journal with its contributions."""
        lock = self.lock = self.valid
        if lock is None:
            return
        messages = self._collector.messages(lock.candidate.members)
        proposal = Proposal(lock.candidate, lock.round, lock.prevotes)
        self._journal.record_lock(JournalEntry(proposal.to_bytes(), messages))

    def restore(self, record: JournalEntry) -> None:
        """Take back the lock that the journal kept.

        Raises RoundError: QRES-E602 for a record that cannot be read.
        """
        try:
            proposal = Proposal.from_bytes(record.head, len(self._context.roster))
            self._collector.restore(record.messages)
        except WireError as error:
            what = "the recorded lock cannot be read"
            raise RoundError.of("QRES-E602", "journal.lock", what) from error
        digest = self.digest(proposal.candidate)
        self.lock = Lock(proposal.candidate, digest, proposal.lock_round, proposal.prevotes)
        self.valid = self.lock

    def digest(self, candidate: CandidateSet) -> bytes:
        """Names a set of contributions to the node's model; 32 bytes."""
        return candidate.digest(self._context.swarm.name, self._position.model_digest)

    def void(self) -> None:
        """The node has another model: what it promised for the last one is over."""
        self.lock = self.valid = self.pending = None

    def free(self) -> None:
        """The set cannot be merged: let go of it, in the journal too."""
        self.void()
        self._journal.record_lock(None)


def proposal_flaw(
    context: NodeContext, position: Position, proposal: Proposal, digest: bytes, now: float
) -> Fault | None:
    """Why a proposal for the current round is not taken; ``None`` if it is.

    ``now``: this node's clock, seconds.
    """
    candidate, number = proposal.candidate, position.number
    if len(candidate.members) < context.swarm.quorum:
        return Fault.SET_BELOW_QUORUM
    roster = set(context.roster)
    if any(member.sender not in roster for member in candidate.members):
        return Fault.SET_NAMES_STRANGER
    if proposal.lock_round == 0:
        return (
            standings_flaw(context, candidate)
            if candidate.origin == number
            else Fault.SET_OF_OTHER_ROUND
        )
    if not candidate.origin <= proposal.lock_round < number:
        return Fault.SET_OF_OTHER_ROUND
    votes, lock_round = proposal.prevotes, proposal.lock_round
    proven = _quorum_votes(context, position, votes, PREVOTE, lock_round, digest, now)
    return None if proven else Fault.UNPROVEN_LOCK


def standings_flaw(context: NodeContext, candidate: CandidateSet) -> Fault | None:
    """What is wrong with the standings of a fresh set, as this node sees its members."""
    kernel = context.kernel
    tolerance = int(context.swarm.standing_tolerance * FULL_STANDING)
    exact = not kernel.has("reputation")
    # A proposer that screens may let an update count less, as it may leave it out altogether.
    lower = FULL_STANDING if kernel.has("screen") else 0
    for member in candidate.members:
        own = kernel.standing(member.sender)
        if own.banned:
            return Fault.SET_NAMES_BANNED
        bent = member.standing - own.weight
        least = -max(lower, 0 if exact else tolerance)
        if not least <= bent <= (0 if exact else tolerance):
            return Fault.STANDING_BENT
    return None


def is_decided(
    context: NodeContext, position: Position, certificate: Certificate, digest: bytes, now: float
) -> bool:
    """Whether a quorum precommitted to the set of that digest, for the node's model."""
    votes = certificate.precommits
    return _quorum_votes(context, position, votes, PRECOMMIT, certificate.round, digest, now)


def _quorum_votes(
    context: NodeContext,
    position: Position,
    votes: tuple[Envelope, ...],
    kind: str,
    round_number: int,
    digest: bytes,
    now: float,
) -> bool:
    model = position.model_digest
    return is_quorum(
        votes, context.threshold, kind=kind, round_number=round_number, model=model
    ) and all(_is_for(context, vote, digest, now) for vote in votes)


def _is_for(context: NodeContext, vote: Envelope, digest: bytes, now: float) -> bool:
    try:
        return decode_vote(vote.payload) == digest and context.kernel.authentic(vote, now)
    except WireError:
        return False
